//! Flags of `mopo bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mopo_train::config::BaseFormat;

use super::PrecisionArgs;
use super::numbers::{at_most, count, policies};
use crate::device::Device;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) measurement: Measurement,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Measurement {
    /// Training steps of DPO, cloning or MOPO
    Train(BenchTrainArgs),
    /// Greedy generation with the key-value cache
    Generate(BenchGenerateArgs),
    /// Scoring with a reward model
    Score(BenchScoreArgs),
    /// Matrix products on the CPU, with the shapes of a training step
    Matmul(BenchMatmulArgs),
    /// Exchanges between the ranks of a job: start it by `mpirun`
    Exchange(BenchExchangeArgs),
    /// Draw curves: a picture of panels of lines
    Curves(BenchCurvesArgs),
}

/// Flags of every measurement.
#[derive(Debug, Args)]
pub(crate) struct BenchCommon {
    /// Number of threads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_most::<1024>)]
    pub(crate) threads: usize,
    /// flex (the CPU), ndarray, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
    /// Format of the base in memory: f32, bf16, checkpoint (as in the file), int8, int8-output, nf4 or nf4-double
    #[arg(long, value_name = "FORMAT", default_value = "checkpoint")]
    pub(crate) base: BaseFormat,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
}

/// A language model, and what it is measured on.
#[derive(Debug, Args)]
pub(crate) struct BenchInput {
    /// Model directory with its tokenizer.json, a GGUF file, or org/name or org/name@revision on Hugging Face
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) model: PathBuf,
    /// Pairs as JSON Lines with prompt, chosen and rejected, taken in order; generation reads the prompts
    #[arg(long, value_name = "FILE")]
    pub(crate) pairs: PathBuf,
    /// Skip pairs whose prompt and response together have this many tokens or more
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count)]
    pub(crate) max_len: usize,
}

#[derive(Debug, Args)]
pub(crate) struct BenchTrainArgs {
    #[command(flatten)]
    pub(crate) common: BenchCommon,
    #[command(flatten)]
    pub(crate) input: BenchInput,
    /// Training method
    #[arg(long, value_enum)]
    pub(crate) method: StepMethod,
    /// Number of steps; the first is excluded from the median
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = count)]
    pub(crate) steps: usize,
    /// Pairs per step
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count)]
    pub(crate) batch: usize,
    /// DPO: compute reference log-probs in every step, or before timing starts
    #[arg(long, value_enum, default_value_t = StepReference::OnTheFly)]
    pub(crate) reference: StepReference,
    /// MOPO: measure steps before or after the first refresh of the reference
    #[arg(long, value_enum, default_value_t = StepWindow::First)]
    pub(crate) window: StepWindow,
    /// MOPO: number of objectives, each with a policy and its output layer
    #[arg(long, value_name = "K", default_value_t = 2, value_parser = policies)]
    pub(crate) policies: usize,
    /// MOPO: train output layers as updates of this rank instead of their whole weights
    #[arg(long, value_name = "RANK", value_parser = count)]
    pub(crate) head_rank: Option<usize>,
    /// Keep only the inputs of blocks and recompute blocks in the backward pass
    #[arg(long)]
    pub(crate) gradient_checkpointing: bool,
}

/// `--method` of `bench train`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StepMethod {
    /// Prefer the chosen response to the rejected one; trains a LoRA adapter.
    Dpo,
    /// Clone the chosen response; trains a LoRA adapter.
    Clone,
    /// Two policies (--policies), τ 0.08, packing and pruned responses; trains a LoRA adapter and their output layers
    /// (--head-rank).
    Mopo,
}

/// `--reference` of `bench train`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StepReference {
    /// One pass per step.
    OnTheFly,
    /// Computed before timing starts.
    Cached,
}

/// `--window` of `bench train`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StepWindow {
    /// The reference is the initial policy.
    First,
    /// The reference is a snapshot.
    Later,
}

#[derive(Debug, Args)]
pub(crate) struct BenchGenerateArgs {
    #[command(flatten)]
    pub(crate) common: BenchCommon,
    #[command(flatten)]
    pub(crate) input: BenchInput,
    /// Batch size
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub(crate) batch: usize,
    /// New tokens per prompt; none stops earlier
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count)]
    pub(crate) new_tokens: usize,
    /// Number of repeats; the first is excluded from the median
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count)]
    pub(crate) repeats: usize,
}

#[derive(Debug, Args)]
pub(crate) struct BenchScoreArgs {
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
    /// Reward model directory with a reward.toml
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Texts as JSON Lines with prompt and response
    #[arg(long, value_name = "FILE")]
    pub(crate) texts: PathBuf,
    /// Number of repeats; the first is excluded from the median
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count)]
    pub(crate) repeats: usize,
    /// Number of threads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_most::<1024>)]
    pub(crate) threads: usize,
    /// flex (the CPU), ndarray, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct BenchExchangeArgs {
    /// Sizes of the gradient, in MiB of f32
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 4, 16, 64, 256],
        value_parser = at_most::<4096>)]
    pub(crate) mebibytes: Vec<usize>,
    /// Exchanges of each size; the first is left out of the median
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = at_most::<1000>)]
    pub(crate) repeats: usize,
}

#[derive(Debug, Args)]
pub(crate) struct BenchMatmulArgs {
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
    /// Number of threads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_most::<1024>)]
    pub(crate) threads: usize,
    /// Tokens per step
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = at_most::<16_777_216>)]
    pub(crate) tokens: usize,
    /// Positions where the output layer is applied
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = at_most::<16_777_216>)]
    pub(crate) outputs: usize,
    /// Width of the residual stream
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_most::<16_777_216>)]
    pub(crate) hidden: usize,
    /// Width of the feed-forward layer
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = at_most::<16_777_216>)]
    pub(crate) ffn: usize,
    /// Size of the vocabulary
    #[arg(long, value_name = "N", default_value_t = 51_200, value_parser = at_most::<16_777_216>)]
    pub(crate) vocab: usize,
}

#[derive(Debug, Args)]
pub(crate) struct BenchCurvesArgs {
    /// Panels as JSON: [{"title", "x_axis", "series": [{"name", "points": [[x, y], …]}, …]}, …]
    #[arg(value_name = "FILE")]
    pub(crate) panels: PathBuf,
    /// The picture, as PNG
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}
