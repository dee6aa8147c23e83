//! `mopo bench score`: scores texts with a reward model.

use std::time::Instant;

use anyhow::{Result, bail};
use mopo_eval::reward::{ModelReward, ModelSpec};
use mopo_eval::score::TextFile;
use mopo_ops::FusedBackend;
use mopo_train::config::BaseFormat;
use serde::Serialize;

use super::{Program, after_the_first, median, peak_rss_mib};
use crate::args::{BenchCommon, BenchScoreArgs};
use crate::commands::models::resolve;
use crate::device::{Job, dispatch};

pub(super) fn run(args: BenchScoreArgs) -> Result<()> {
    let common = BenchCommon {
        threads: args.threads,
        device: args.device,
        base: BaseFormat::F32,
        precision: args.precision.clone(),
    };
    super::begin(&common)?;
    dispatch(args.device, Score { args, common })
}

struct Score {
    args: BenchScoreArgs,
    common: BenchCommon,
}

/// The measurement.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    program: Program,
    texts: usize,
    tokens: usize,
    /// Median after the first, from texts to scores.
    seconds_per_call: f64,
    texts_per_second: f64,
    tokens_per_second: f64,
    peak_rss_mib: Option<u64>,
    /// Every call.
    seconds: Vec<f64>,
    scores: Vec<f32>,
}

impl Job for Score {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let Self { args, common } = self;
        let Some(path) = args.model.to_str() else {
            bail!("--model {}: the path is not UTF-8; rename it", args.model.display())
        };
        let spec = ModelSpec { path: Some(path.into()), ..ModelSpec::default() };
        let reward = ModelReward::<B>::load(&spec, &resolve, &device)?;
        let folder = std::env::temp_dir();
        let texts = TextFile::open(&args.texts, &folder)?;
        let (mut tokens, mut i) = (0, 0);
        texts.for_each(&mut |prompt, response| {
            let refused = |why| mopo_eval::Error::Text { reward: "bench".into(), index: i, why };
            tokens += reward.tokens(prompt, response).map_err(refused)?.ids.len();
            i += 1;
            Ok(())
        })?;
        let (mut seconds, mut scores) = (vec![], vec![]);
        for _ in 0..args.repeats {
            let clock = Instant::now();
            let found = texts.score(&[&reward], &folder, &mut |_| ())?;
            seconds.push(clock.elapsed().as_secs_f64());
            scores = found[0].0.scores()?.collect::<mopo_eval::Result<_>>()?;
        }
        let seconds_per_call = median(after_the_first(&seconds))?;
        super::print(&Line {
            program: Program::new(&common),
            texts: texts.len(),
            tokens,
            seconds_per_call,
            texts_per_second: texts.len() as f64 / seconds_per_call,
            tokens_per_second: tokens as f64 / seconds_per_call,
            peak_rss_mib: peak_rss_mib(),
            seconds,
            scores,
        })
    }
}
