//! The command line. Every flag is defined here, once; `cargo xtask train …` passes its own on.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use mopo_core::divergence::Divergence;
use mopo_lm::WeightDtype;

use mopo_train::config::BaseFormat;

use crate::device::Device;

/// Align language models to several human objectives at once.
#[derive(Debug, Parser)]
#[command(name = "mopo", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prepare data, warm-start a model, train the policies of MOPO or DPO
    Train(TrainArgs),
    /// Generate with every policy of a run, score, draw the Pareto front
    Pareto(ParetoArgs),
    /// Let one policy of a run, an exported model or a hub model answer prompts
    Generate(GenerateArgs),
    /// Write a policy as a plain hub directory, or all policies as one of MOPO's own
    Export(ExportArgs),
    /// Read a data source into a prepared set and summarise it
    Prepare(PrepareArgs),
    /// Reproduce a synthetic experiment: exact solutions, learned policies, a figure and a table
    Bandit(BanditArgs),
    /// Print a preset: a complete configuration to start from
    Config(ConfigArgs),
    /// Measure training steps, generation or products of matrices on this machine
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Preset: demo, hh-small, paper or demo-dpo
    #[arg(default_value = "demo", conflicts_with = "config")]
    pub(crate) preset: String,
    /// A complete configuration file instead of a preset
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Override one key, e.g. --set mopo.tau=0.1 (may be repeated)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Data directory (hh) or prepared set (prepared)
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,
    /// Run directory [default: runs/<name>-<date>-<time>]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Seed, instead of the configuration's
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Make malformed data lines fatal
    #[arg(long)]
    pub(crate) strict: bool,
    /// Where log-probs of frozen models are kept for other runs [default: the environment's
    /// MOPO_CACHE, else .cache/log_probs beside the run directory]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    pub(crate) cache: Option<PathBuf>,
    /// Neither look log-probs up nor keep them for other runs
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Go on with a run that was cut off
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["preset", "config", "set", "data", "out", "seed", "strict"]
    )]
    pub(crate) resume: Option<PathBuf>,
    /// flex (the CPU), ndarray, cuda or cuda:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct ParetoArgs {
    /// Run directory [default: the newest finished one below runs/]
    pub(crate) run: Option<PathBuf>,
    /// Where figure, tables and page go [default: <run>/pareto]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Held-out prompts, instead of the configuration's
    #[arg(long, value_name = "N")]
    pub(crate) n_prompts: Option<usize>,
    /// Sampling temperature, instead of the configuration's (0: greedy)
    #[arg(long)]
    pub(crate) temperature: Option<f64>,
    /// Steps of the lattice of preference weights between heads (0: heads alone)
    #[arg(long, value_name = "N")]
    pub(crate) mixture_steps: Option<usize>,
    /// Seed of sampling, clusters and bootstrap, instead of the run's
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// flex (the CPU), ndarray, cuda or cuda:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Run directory, a directory of `mopo export`, or a phi model as on the hub
    pub(crate) run: PathBuf,
    /// Prompt (may be repeated); where there are policies, a plain question is put into the
    /// dialogue's form
    #[arg(long, required = true)]
    pub(crate) prompt: Vec<String>,
    /// An objective's policy, or `warm-start`
    #[arg(long, conflicts_with = "weights")]
    pub(crate) policy: Option<String>,
    /// Preference weights of a mixture of all heads, e.g. 0.5,0.3,0.2
    #[arg(long, value_delimiter = ',')]
    pub(crate) weights: Option<Vec<f32>>,
    /// Divergence under which --weights mixes: reverse_kl, forward_kl, jensen_shannon, alpha:A
    /// (0 < A < 1) or jeffreys; all but the first run the base model too [default: reverse_kl]
    #[arg(
        long,
        requires = "weights",
        conflicts_with = "policy",
        value_parser = crate::commands::generate::mixable
    )]
    pub(crate) divergence: Option<Divergence>,
    /// New tokens at most
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Sampling temperature (0: greedy)
    #[arg(long)]
    pub(crate) temperature: Option<f64>,
    /// Sample from so many of the most likely tokens (0: from all)
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Nucleus
    #[arg(long)]
    pub(crate) top_p: Option<f64>,
    /// Seed of sampling
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// flex (the CPU), ndarray, cuda or cuda:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Run directory, its policy/, or a directory that this command wrote with all policies
    pub(crate) source: PathBuf,
    /// One policy, by its objective or its index from 0, or `warm-start`: a plain hub directory
    #[arg(long, value_name = "NAME|INDEX", conflicts_with = "all")]
    pub(crate) policy: Option<String>,
    /// All policies on their base, in MOPO's own layout; so without --policy too
    #[arg(long)]
    pub(crate) all: bool,
    /// The directory to write
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Data type of the weights: f32, bf16 or f16 [default: the base model's]. With --all only the
    /// base is converted
    #[arg(long)]
    pub(crate) dtype: Option<WeightDtype>,
    /// Replace an earlier export at --out
    #[arg(long)]
    pub(crate) force: bool,
    /// flex (the CPU), ndarray, cuda or cuda:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct PrepareArgs {
    /// Preset whose [data] section says what to read: demo or hh-small
    #[arg(default_value = "demo", conflicts_with = "config")]
    pub(crate) preset: String,
    /// A complete configuration file instead of a preset
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Data directory
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,
    /// The prepared set to write
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Seed
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Make malformed data lines fatal
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Preset: demo, hh-small, paper or demo-dpo
    #[arg(default_value = "demo")]
    pub(crate) preset: String,
}

#[derive(Debug, Args)]
pub(crate) struct BanditArgs {
    #[command(subcommand)]
    pub(crate) experiment: Experiment,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Experiment {
    /// Five canonical preference structures over a sweep of τ (Figure 4)
    Structures(StructuresArgs),
    /// MOPO, the exact solution and four ways to use DPO on two toy sets (Figures 1 and 7)
    Fronts(FrontsArgs),
    /// The toy fronts of MOPO and the exact solution over a sweep of τ (Figure 8)
    Tau(TauArgs),
    /// Naive against lower-bounded constraints as data grow (Figure 3)
    Constraints(ConstraintsArgs),
    /// Adaptive thresholds over β and the reference's lag (Figure 6)
    Sensitivity(SensitivityArgs),
    /// Thresholds of a start against a known front (A.3, Figures 2 and 9)
    Initialisation(InitialisationArgs),
}

/// What every experiment has.
#[derive(Debug, Args)]
pub(crate) struct BanditCommon {
    /// Where table, figure and record go [default: runs/bandit/<experiment>]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Seed; experiments with several runs count up from it
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// flex (the CPU), ndarray, cuda or cuda:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct StructuresArgs {
    #[command(flatten)]
    pub(crate) common: BanditCommon,
    /// Runs of every setting
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seeds: u64,
    /// Optimiser steps
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = count)]
    pub(crate) steps: usize,
    /// Sweep of τ
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        allow_negative_numbers = true,
        value_parser = positive,
        default_value = "0.02,0.08,0.2,0.5,1,5"
    )]
    pub(crate) taus: Vec<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct ConstraintsArgs {
    #[command(flatten)]
    pub(crate) common: BanditCommon,
    /// Objectives, the primary included
    #[arg(long, value_name = "K", default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=5))]
    pub(crate) objectives: u8,
    /// τ
    #[arg(long, default_value_t = 0.08, allow_negative_numbers = true, value_parser = positive)]
    pub(crate) tau: f64,
    /// Where thresholds lie between the reference's value (0) and the best action's (1)
    #[arg(long, default_value_t = 0.5, allow_negative_numbers = true, value_parser = fraction)]
    pub(crate) fraction: f64,
    /// Numbers of terms, two for each comparison
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = even_count,
        default_value = "50,100,200,500,1000,2000,5000,10000"
    )]
    pub(crate) terms: Vec<usize>,
    /// Bandits, each with data of its own
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = count)]
    pub(crate) repetitions: usize,
}

#[derive(Debug, Args)]
pub(crate) struct SensitivityArgs {
    #[command(flatten)]
    pub(crate) common: BanditCommon,
    /// Optimiser steps
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = count)]
    pub(crate) steps: usize,
    /// τ
    #[arg(long, default_value_t = 0.08, allow_negative_numbers = true, value_parser = positive)]
    pub(crate) tau: f64,
    /// Grid of β
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        allow_negative_numbers = true,
        value_parser = relaxation,
        default_value = "0.9,0.99,0.999,0.9995,1"
    )]
    pub(crate) relaxations: Vec<f64>,
    /// Grid of t₀, in steps
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = count, default_value = "50,100,250,500,1000")]
    pub(crate) lags: Vec<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct InitialisationArgs {
    #[command(flatten)]
    pub(crate) common: BanditCommon,
    /// Optimiser steps of the learned policies
    #[arg(long, value_name = "N", default_value_t = 1500, value_parser = count)]
    pub(crate) steps: usize,
    /// τ
    #[arg(long, default_value_t = 0.08, allow_negative_numbers = true, value_parser = positive)]
    pub(crate) tau: f64,
    /// Points each way of the known front with three objectives
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = lattice)]
    pub(crate) lattice: usize,
    /// Random pairs of thresholds
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = count)]
    pub(crate) vectors: usize,
}

#[derive(Debug, Args)]
pub(crate) struct FrontsArgs {
    #[command(flatten)]
    pub(crate) common: BanditCommon,
    #[command(flatten)]
    pub(crate) toy: ToyArgs,
    /// Weight of the KL term
    #[arg(long, default_value_t = 0.08, allow_negative_numbers = true, value_parser = positive)]
    pub(crate) tau: f64,
}

#[derive(Debug, Args)]
pub(crate) struct TauArgs {
    #[command(flatten)]
    pub(crate) common: BanditCommon,
    #[command(flatten)]
    pub(crate) toy: ToyArgs,
    /// Sweep of τ
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        allow_negative_numbers = true,
        value_parser = positive,
        default_value = "0.02,0.05,0.08,0.2,0.5"
    )]
    pub(crate) taus: Vec<f64>,
}

/// What the experiments on the toy sets share.
#[derive(Debug, Args)]
pub(crate) struct ToyArgs {
    /// Triplets (x, y, y')
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = count)]
    pub(crate) n_pairs: usize,
    /// A label: the probability itself, or one draw with it
    #[arg(long, value_enum, default_value_t = LabelKind::Probability)]
    pub(crate) labels: LabelKind,
    /// Thresholds of a sweep; there is one with each objective as the primary
    #[arg(long, value_name = "N", default_value_t = 21, value_parser = clap::value_parser!(u16).range(2..))]
    pub(crate) thresholds: u16,
    /// Optimiser steps of MOPO
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = count)]
    pub(crate) steps: usize,
}

/// `--labels`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LabelKind {
    /// The Bradley–Terry probability.
    Probability,
    /// 0 or 1.
    Sampled,
}

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
    /// Model in the hub's layout, with its tokenizer.json
    #[arg(long, value_name = "DIR")]
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
    /// Model in the hub's layout, with its tokenizer.json
    #[arg(long, value_name = "DIR")]
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

fn number(text: &str, fits: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    text.trim().parse().ok().filter(|x| fits(*x)).ok_or_else(|| expected.to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |x| x.is_finite() && x > 0.0, "it must be a number above 0")
}

fn fraction(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..1.0).contains(&x), "it must lie in [0, 1)")
}

fn relaxation(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "it must lie in (0, 1]")
}

fn integer(text: &str, fits: impl Fn(usize) -> bool, expected: &str) -> Result<usize, String> {
    text.trim().parse().ok().filter(|n| fits(*n)).ok_or_else(|| expected.to_owned())
}

fn count(text: &str) -> Result<usize, String> {
    integer(text, |n| n > 0, "it must be a whole number above 0")
}

fn lattice(text: &str) -> Result<usize, String> {
    integer(text, |n| n > 1, "it must be a whole number above 1")
}

fn even_count(text: &str) -> Result<usize, String> {
    let expected = "it must be an even number above 0: a comparison is two terms";
    integer(text, |n| n > 0 && n % 2 == 0, expected)
}
