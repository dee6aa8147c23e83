//! `mopo score`: scores of texts by any rewards.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use mopo_data::write_atomically;
use mopo_eval::annotate::ScoreStatistics;
use mopo_eval::reward::ModelSpec;
use mopo_eval::score::TextFile;
use mopo_eval::{Reward, RewardSpec};
use mopo_ops::FusedBackend;
use mopo_train::Progress as _;
use serde::Serialize;

use super::models::resolve;
use crate::args::ScoreArgs;
use crate::device::{Job, dispatch};
use crate::progress::Bars;

pub(crate) fn run(args: ScoreArgs) -> Result<()> {
    if args.out.exists() && !args.force {
        bail!("{} is there; --force replaces it", args.out.display());
    }
    let specs = specs(&args)?;
    let texts = TextFile::read(&args.texts)?;
    dispatch(args.device, Score { args, specs, texts })
}

/// What the flags mean.
fn specs(args: &ScoreArgs) -> Result<Vec<RewardSpec>> {
    let mut specs = args
        .rewards
        .iter()
        .map(|name| RewardSpec::from_name_or_file(name))
        .collect::<mopo_eval::Result<Vec<_>>>()?;
    match (&args.model, specs.as_mut_slice()) {
        (None, _) => {}
        (Some(model), []) => {
            let spec = ModelSpec { path: Some(model.clone()), ..ModelSpec::default() };
            specs.push(RewardSpec::Model(Box::new(spec)));
        }
        (Some(model), [RewardSpec::Model(spec)]) => spec.path = Some(model.clone()),
        (Some(model), [_]) => {
            bail!("--model {model}: the reward of --reward is a function and has no model")
        }
        (Some(model), several) => bail!(
            "--model {model} is for one reward, and there are {}; give each one's `path` in a file",
            several.len()
        ),
    }
    for (name, spec) in args.rewards.iter().zip(&specs) {
        spec.check().with_context(|| name.clone())?;
    }
    Ok(specs)
}

struct Score {
    args: ScoreArgs,
    specs: Vec<RewardSpec>,
    texts: TextFile,
}

/// `<out>.record.json`.
#[derive(Debug, Serialize)]
struct Record {
    version: &'static str,
    device: String,
    texts: PathBuf,
    texts_sha256: String,
    n_texts: usize,
    rewards: Vec<Scored>,
}

/// One reward of a record.
#[derive(Debug, Serialize)]
struct Scored {
    name: String,
    reward: RewardSpec,
    /// Of a model's files and settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    scores: ScoreStatistics,
    seconds: f64,
    notes: Vec<String>,
}

impl Job for Score {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let Self { args, specs, texts } = self;
        let mut columns: Vec<(String, Vec<f32>)> = vec![];
        let mut scored = vec![];
        for spec in specs {
            // One model in memory at a time.
            let reward = spec.build::<B>(&device, &resolve)?;
            let name = reward.name().to_owned();
            if columns.iter().any(|(other, _)| *other == name) {
                bail!("two rewards are called `{name}`; give one a `name` in a file");
            }
            let (scores, seconds) = score(reward.as_ref(), &texts)?;
            let sha256 = match &spec {
                RewardSpec::Model(spec) => Some(spec.fingerprint(&resolve)?),
                _ => None,
            };
            scored.push(Scored {
                sha256,
                scores: ScoreStatistics::new(scores.iter().copied()),
                notes: reward.notes(),
                name: name.clone(),
                reward: spec,
                seconds,
            });
            columns.push((name, scores));
        }
        for Scored { name, scores: s, seconds, notes, .. } in &scored {
            notes.iter().for_each(|note| eprintln!("note: {note}"));
            println!(
                "{name}: {} scores, mean {:.4}, standard deviation {:.4}, {:.4} to {:.4} ({:.1} \
                 texts per second)",
                s.n,
                s.mean,
                s.standard_deviation,
                s.min,
                s.max,
                s.n as f64 / seconds
            );
        }
        let record = Record {
            version: env!("CARGO_PKG_VERSION"),
            device: args.device.to_string(),
            texts_sha256: texts.sha256().into(),
            n_texts: texts.len(),
            texts: args.texts,
            rewards: scored,
        };
        let mut json = serde_json::to_vec_pretty(&record)?;
        json.push(b'\n');
        let mut beside = args.out.clone().into_os_string();
        beside.push(".record.json");
        let lines = texts.with_scores(&columns)?;
        // With the scores there, the work is done.
        write_atomically(beside.as_ref(), &json)?;
        write_atomically(&args.out, lines.as_bytes())?;
        println!("wrote {}", args.out.display());
        Ok(())
    }
}

/// The scores, and the seconds that they took.
fn score(reward: &dyn Reward, texts: &TextFile) -> Result<(Vec<f32>, f64)> {
    let mut bars = Bars::new();
    bars.begin(reward.name(), 0, texts.len());
    let clock = Instant::now();
    let scores = texts.score(reward, &mut |n| (0..n).for_each(|_| bars.advance("")))?;
    let seconds = clock.elapsed().as_secs_f64();
    bars.end("");
    Ok((scores, seconds))
}
