//! Flags of `mopo bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mopo_train::config::BaseFormat;

use super::numbers::count;
use crate::device::Device;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) measurement: Measurement,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Measurement {
    /// Steps of DPO, cloning or MOPO on given pairs
    Train(BenchTrainArgs),
    /// Greedy generation with the key-value cache
    Generate(BenchGenerateArgs),
    /// Scores of texts by a reward model
    Score(BenchScoreArgs),
    /// Products of f32 matrices on the CPU, of the shapes of a step
    Matmul(BenchMatmulArgs),
}

/// What every measurement has.
#[derive(Debug, Args)]
pub(crate) struct BenchCommon {
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count)]
    pub(crate) threads: usize,
    /// flex (the CPU), ndarray, cuda or cuda:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
    /// How the base is held: f32, checkpoint (as the file has it), int8, nf4 or nf4-double
    #[arg(long, value_name = "FORMAT", default_value = "checkpoint")]
    pub(crate) base: BaseFormat,
}

#[derive(Debug, Args)]
pub(crate) struct BenchTrainArgs {
    #[command(flatten)]
    pub(crate) common: BenchCommon,
    /// Model in the hub's layout, with its tokenizer.json, or its name there (org/name@revision)
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) model: PathBuf,
    /// Pairs as JSON lines of prompt, chosen and rejected; taken in order
    #[arg(long, value_name = "FILE")]
    pub(crate) pairs: PathBuf,
    /// Whose step
    #[arg(long, value_enum)]
    pub(crate) method: StepMethod,
    /// Steps; the median leaves out the first
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = count)]
    pub(crate) steps: usize,
    /// Pairs of a step
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count)]
    pub(crate) batch: usize,
    /// Pairs with this many tokens or more in prompt and response are left out
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count)]
    pub(crate) max_len: usize,
    /// DPO: compute the reference's log-probabilities in every step, or before the clock starts
    #[arg(long, value_enum, default_value_t = StepReference::OnTheFly)]
    pub(crate) reference: StepReference,
    /// MOPO: steps before the first refresh of the reference, or after it
    #[arg(long, value_enum, default_value_t = StepWindow::First)]
    pub(crate) window: StepWindow,
    /// Keep the inputs of blocks alone and run blocks again in the backward pass
    #[arg(long)]
    pub(crate) gradient_checkpointing: bool,
}

/// `--method` of `bench train`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StepMethod {
    /// The chosen response against the rejected one; trains a LoRA.
    Dpo,
    /// Cloning of the chosen response; trains a LoRA.
    Clone,
    /// Two policies, τ 0.08, packing and pruned terms; trains a LoRA and two output layers.
    Mopo,
}

/// `--reference` of `bench train`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StepReference {
    /// A pass of every step.
    OnTheFly,
    /// Computed before.
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
    /// Model in the hub's layout, with its tokenizer.json, or its name there (org/name@revision)
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) model: PathBuf,
    /// Pairs as JSON lines; the first ones' prompts are continued
    #[arg(long, value_name = "FILE")]
    pub(crate) pairs: PathBuf,
    /// Prompts at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub(crate) batch: usize,
    /// New tokens of each prompt, none ends earlier
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count)]
    pub(crate) new_tokens: usize,
    /// Pairs with this many tokens or more in prompt and response are left out
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count)]
    pub(crate) max_len: usize,
    /// Times; the median leaves out the first
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count)]
    pub(crate) repeats: usize,
}

#[derive(Debug, Args)]
pub(crate) struct BenchScoreArgs {
    /// Reward model in the hub's layout, with a reward.toml
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Texts as JSON lines of prompt and response
    #[arg(long, value_name = "FILE")]
    pub(crate) texts: PathBuf,
    /// Times; the median leaves out the first
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count)]
    pub(crate) repeats: usize,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count)]
    pub(crate) threads: usize,
    /// flex (the CPU), ndarray, cuda or cuda:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct BenchMatmulArgs {
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count)]
    pub(crate) threads: usize,
    /// Tokens of a step, for the shapes of its layers
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = count)]
    pub(crate) tokens: usize,
    /// Positions at which the output layer is applied
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = count)]
    pub(crate) outputs: usize,
    /// Width of the residual stream
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count)]
    pub(crate) hidden: usize,
    /// Width of the feed-forward layer
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = count)]
    pub(crate) ffn: usize,
    /// Size of the vocabulary
    #[arg(long, value_name = "N", default_value_t = 51_200, value_parser = count)]
    pub(crate) vocab: usize,
}
