//! `mopo bench train`: the time and memory of a training step.

use anyhow::Result;
use burn::backend::Autodiff;
use mopo_lm::Decoder;
use mopo_ops::FusedBackend;
use mopo_train::Pairs;
use mopo_train::bench::{
    BenchMethod, BenchReference, BenchWindow, StepBench, StepMeasurement, bench_objectives,
    bench_steps,
};
use serde::Serialize;

use super::{Program, after_the_first, median, peak_rss_mib, rows};
use crate::args::{BenchTrainArgs, StepMethod, StepReference, StepWindow};
use crate::device::{Job, dispatch};

pub(super) fn run(args: BenchTrainArgs) -> Result<()> {
    super::begin(&args.common)?;
    dispatch(args.common.device, Train(args))
}

struct Train(BenchTrainArgs);

/// The measurement.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    program: Program,
    method: &'static str,
    /// Where the reference's log-probabilities come from (DPO), or the window (MOPO).
    variant: Option<&'static str>,
    /// MOPO.
    policies: Option<usize>,
    /// MOPO, if heads are updates of that rank.
    head_rank: Option<usize>,
    steps: usize,
    batch: usize,
    first_loss: f64,
    /// Median of the steps after the first.
    seconds_per_step: f64,
    pairs_per_second: f64,
    peak_rss_mib: Option<u64>,
    /// Means over the steps after the first.
    tokens_per_step: f64,
    outputs_per_step: f64,
    operations_per_step: f64,
    /// Median of the steps after the first, of needed operations per time.
    gflops_per_second: f64,
    /// Every step.
    seconds: Vec<f64>,
    losses: Vec<f64>,
}

impl Job for Train {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let args = self.0;
        let (base, tokenizer) =
            super::load::<Autodiff<B>>(&args.input.model, args.common.base, &device)?;
        let base = base.with_gradient_checkpointing(args.gradient_checkpointing);
        let tokens =
            rows::read(&args.input.pairs, &tokenizer, args.input.max_len, args.steps * args.batch)?;
        let labels = tokens.iter().map(|pair| bench_objectives(pair, args.policies)).collect();
        let pairs = Pairs::without_scores(tokens, labels);
        let (method, name, variant) = match args.method {
            StepMethod::Dpo => {
                let (reference, variant) = match args.reference {
                    StepReference::OnTheFly => (BenchReference::OnTheFly, "on-the-fly"),
                    StepReference::Cached => (BenchReference::Cached, "cached"),
                };
                (BenchMethod::Dpo(reference), "dpo", Some(variant))
            }
            StepMethod::Clone => (BenchMethod::Clone, "clone", None),
            StepMethod::Mopo => {
                let (window, variant) = match args.window {
                    StepWindow::First => (BenchWindow::First, "first"),
                    StepWindow::Later => (BenchWindow::Later, "later"),
                };
                (BenchMethod::Mopo(window), "mopo", Some(variant))
            }
        };
        let head_rank = args.head_rank;
        let bench =
            StepBench { method, steps: args.steps, batch_size: args.batch, seed: 0, head_rank };
        let measured = bench_steps(&base, &pairs, &bench, &device)?;
        let all = |f: fn(&StepMeasurement) -> f64| measured.iter().map(f).collect::<Vec<f64>>();
        let mean = |values: Vec<f64>| {
            let values = after_the_first(&values);
            values.iter().sum::<f64>() / values.len() as f64
        };
        let seconds = all(|m| m.seconds);
        let losses = all(|m| m.loss);
        let seconds_per_step = median(after_the_first(&seconds))?;
        super::print(&Line {
            program: Program::new(&args.common),
            method: name,
            variant,
            policies: (args.method == StepMethod::Mopo).then_some(args.policies),
            head_rank,
            steps: args.steps,
            batch: args.batch,
            first_loss: losses[0],
            seconds_per_step,
            pairs_per_second: args.batch as f64 / seconds_per_step,
            peak_rss_mib: peak_rss_mib(),
            tokens_per_step: mean(all(|m| m.tokens as f64)),
            outputs_per_step: mean(all(|m| m.outputs as f64)),
            operations_per_step: mean(all(|m| m.operations)),
            gflops_per_second: median(after_the_first(&all(|m| m.operations / m.seconds / 1e9)))?,
            seconds,
            losses,
        })
    }
}
