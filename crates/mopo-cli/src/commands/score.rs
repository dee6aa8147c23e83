//! `mopo score`: scores texts with rewards.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use mopo_eval::reward::ModelSpec;
use mopo_eval::score::{
    ScoreRecord, TextFile, merge_scores, record_path, score_job, score_shard, score_texts,
    write_scores,
};
use mopo_eval::{RewardSpec, output_folder};
use mopo_hub::{ShardIndex, check_output_file};
use mopo_ops::FusedBackend;

use super::models::resolve;
use super::shards::{kind_in, locked, say_done, say_written, shard_at};
use crate::args::ScoreArgs;
use crate::device::{self, Job, dispatch};
use crate::output::{errln, outln};
use crate::progress::Bars;

pub(crate) fn run(mut args: ScoreArgs) -> Result<()> {
    device::set_matmul_precision(args.device, args.precision.matmul, device::PRECISION_FLAG)?;
    let (shard, out) = shard_at(args.shards.shard, &args.out)?;
    args.out = out;
    let specs = specs(&args)?;
    check_place(&args, &specs)?;
    let folder = output_folder(&args.out)?.to_owned();
    // The texts are read on all of them.
    device::start_threads()?;
    let texts = TextFile::open(&args.texts, &folder)?;
    dispatch(args.device, Score { args, shard, specs, folder, texts })
}

/// Fails before any work where the scores or their record cannot be written, or must not be.
fn check_place(args: &ScoreArgs, specs: &[RewardSpec]) -> Result<()> {
    let mut inputs: Vec<PathBuf> = args.rewards.iter().map(PathBuf::from).collect();
    inputs.push(args.texts.clone());
    inputs.extend(args.shards.merge.iter().flatten().cloned());
    for spec in specs {
        // A model's files, not its whole directory, in which scores do no harm.
        for model in spec.models() {
            let entries = model.path.as_ref().and_then(|dir| std::fs::read_dir(dir).ok());
            let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
            inputs.extend(paths.filter(|path| path.is_file()));
        }
    }
    let inputs = || inputs.iter().map(PathBuf::as_path);
    check_output_file(&args.out, inputs())?;
    check_output_file(&record_path(&args.out), inputs())?;
    // What is there may be this shard.
    if args.out.exists() && !args.force && args.shards.shard.is_none() {
        bail!("{} exists; replace it with --force", args.out.display());
    }
    Ok(())
}

/// The rewards that the flags describe.
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
            bail!(
                "--model {model}: the reward of --reward is not a model; one that consists of models names \
                 them in its file"
            )
        }
        (Some(model), several) => bail!(
            "--model {model} applies to one reward, but there are {}; set `path` in each reward's file",
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
    shard: Option<ShardIndex>,
    specs: Vec<RewardSpec>,
    folder: PathBuf,
    texts: TextFile,
}

impl Job for Score {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let Self { args, shard, specs, folder, texts } = self;
        let mut bars = Bars::new();
        let kind = kind_in(args.device, args.precision.matmul);
        let job = || score_job(&texts, &specs, &kind, &resolve, shard, &args.out);
        if let Some(shard) = shard {
            let job = job()?;
            if !args.force && job.shard_is_done()? {
                say_done(&job.out);
                return Ok(());
            }
            let _lock = locked(&job)?;
            score_shard::<B>(&job, &texts, &specs, &device, &resolve, &mut bars)?;
            job.remove_saved()?;
            say_written(&job, shard, "texts");
            return Ok(());
        }
        let (scored, columns) = match &args.shards.merge {
            Some(files) => merge_scores(&job()?, files, &specs, &resolve, &folder)?,
            None => score_texts::<B>(&texts, &specs, &device, &resolve, &folder, &mut bars)?,
        };
        for reward in &scored {
            reward.notes.iter().for_each(|note| errln!("note: {note}"));
            let s = &reward.scores;
            outln!(
                "{}: {} scores, mean {:.4}, standard deviation {:.4}, {:.4} to {:.4} ({:.1} texts \
                 per second)",
                reward.name,
                s.n,
                s.mean,
                s.std,
                s.min,
                s.max,
                s.n as f64 / reward.seconds
            );
        }
        let record = ScoreRecord {
            version: env!("CARGO_PKG_VERSION").into(),
            device: format!("{}{}", args.device, args.precision.matmul.note()),
            texts_sha256: texts.sha256().into(),
            n_texts: texts.len(),
            texts: args.texts,
            rewards: scored,
        };
        write_scores(&args.out, &texts, &record, &columns)?;
        outln!("wrote {}", args.out.display());
        Ok(())
    }
}
