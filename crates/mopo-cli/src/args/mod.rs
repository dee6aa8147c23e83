//! The command line. Every flag is defined here, once; `cargo xtask train …` passes its own on.

mod bandit;
mod bench;
mod label;
mod numbers;
mod report;
mod reward;
mod run;
mod score;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use mopo_core::divergence::Divergence;
use mopo_lm::WeightDtype;

use crate::device::Device;

pub(crate) use bandit::*;
pub(crate) use bench::*;
pub(crate) use label::*;
pub(crate) use report::*;
pub(crate) use reward::*;
pub(crate) use run::*;
pub(crate) use score::*;

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
    /// Score texts with reward models and other rewards
    Score(ScoreArgs),
    /// Generate with every policy of a run, score, draw the Pareto front
    Pareto(ParetoArgs),
    /// Put the results of `mopo pareto` on one page: of one run, or of several to compare
    Report(ReportArgs),
    /// Let one policy of a run, an exported model or a hub model answer prompts
    Generate(GenerateArgs),
    /// Write a policy as a plain hub directory, or all policies as one of MOPO's own
    Export(ExportArgs),
    /// Read a source of data, summarise it, and write it as a prepared set
    Prepare(PrepareArgs),
    /// Score both responses of every pair with rewards and write labels
    Label(LabelArgs),
    /// Train a reward model
    Reward(RewardArgs),
    /// Reproduce a synthetic experiment: exact solutions, learned policies, a figure and a table
    Bandit(BanditArgs),
    /// Print a preset, a complete configuration to start from, or the section of a source of data
    Config(ConfigArgs),
    /// Measure training steps, generation or products of matrices on this machine
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Preset: demo, demo-dpo, hh-small, paper-hh or paper-tldr
    #[arg(default_value = "demo", conflicts_with = "config")]
    pub(crate) preset: String,
    /// A complete configuration file instead of a preset
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Base model with its tokenizer, instead of the configuration's: a directory, or a model of the
    /// hub as org/name or org/name@revision
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Branch, tag or commit of --model on the hub
    #[arg(long, requires = "model")]
    pub(crate) revision: Option<String>,
    /// Where log-probs of frozen models are kept for other runs [default: the environment's
    /// MOPO_CACHE, else .cache/log_probs beside the run directory]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    pub(crate) cache: Option<PathBuf>,
    /// Disable the log-prob cache
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Resume a run from its latest checkpoint
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["preset", "config", "set", "data", "out", "model", "seed", "strict"]
    )]
    pub(crate) resume: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ParetoArgs {
    /// Run directory [default: the newest finished one below runs/]
    pub(crate) run: Option<PathBuf>,
    /// Where figure, tables and page go [default: <run>/pareto]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// How many prompts, instead of the configuration's
    #[arg(long, value_name = "N", value_parser = numbers::count, allow_negative_numbers = true)]
    pub(crate) n_prompts: Option<usize>,
    /// Prompts from a file of `mopo prepare --prompts`, instead of the run's held-out ones
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// Sampling temperature, instead of the configuration's (0: greedy)
    #[arg(long, value_parser = numbers::temperature, allow_negative_numbers = true)]
    pub(crate) temperature: Option<f64>,
    /// Steps of the simplex grid of preference weights between heads (0: heads alone)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) mixture_steps: Option<usize>,
    /// Seed of sampling, clusters and bootstrap, instead of the run's
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) protocol: ProtocolArgs,
    /// flex (the CPU), ndarray, cuda or cuda:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Run directory, a directory of `mopo export`, or a phi model as on the hub
    #[arg(required_unless_present = "model")]
    pub(crate) run: Option<PathBuf>,
    /// The same, or a model of the hub as org/name or org/name@revision
    #[arg(long, value_name = "NAME|DIR", conflicts_with = "run")]
    pub(crate) model: Option<PathBuf>,
    /// Branch, tag or commit of --model on the hub
    #[arg(long, requires = "model")]
    pub(crate) revision: Option<String>,
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
    /// Most new tokens
    #[arg(long, value_name = "N", value_parser = numbers::count, allow_negative_numbers = true)]
    pub(crate) max_new_tokens: Option<usize>,
    /// Sampling temperature (0: greedy)
    #[arg(long, value_parser = numbers::temperature, allow_negative_numbers = true)]
    pub(crate) temperature: Option<f64>,
    /// Sample from the K most likely tokens (0: from all)
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub(crate) top_k: Option<usize>,
    /// Sample from the most likely tokens that together have this probability
    #[arg(long, value_name = "P", value_parser = numbers::top_p, allow_negative_numbers = true)]
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
    #[arg(required_unless_present = "model")]
    pub(crate) source: Option<PathBuf>,
    /// The same, or such a directory on the hub as org/name or org/name@revision
    #[arg(long, value_name = "NAME|DIR", conflicts_with = "source")]
    pub(crate) model: Option<PathBuf>,
    /// Branch, tag or commit of --model on the hub
    #[arg(long, requires = "model")]
    pub(crate) revision: Option<String>,
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
#[command(after_help = "\
Sources: hh, tldr, tldr-axes, summeval-op, trl, safe-rlhf, beavertails, ultrafeedback, helpsteer.
`mopo config SOURCE` prints the [data] section of one, with the keys that --set takes:

    mopo prepare summeval-op --data summeval-op.jsonl --set data.tie_threshold=0.5 --out pairs.jsonl

docs/data.md has the columns of each, and how labels come about.")]
pub(crate) struct PrepareArgs {
    /// A source of data, or a preset whose [data] section says what to read: demo or hh-small
    #[arg(value_name = "SOURCE|PRESET", default_value = "demo", conflicts_with = "config")]
    pub(crate) name: String,
    /// Instead of a name: a file with a [data] section, alone or in a whole configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Override one key, e.g. --set data.tie_threshold=0.5 (may be repeated)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// The data: a file or a folder
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,
    /// The prepared set to write; without it the data is only summarised
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Take the distinct prompts without their pairs; with tldr also of files of posts alone
    #[arg(long)]
    pub(crate) prompts: bool,
    /// Sample at most N of the prompts, by the seed
    #[arg(long, value_name = "N", requires = "prompts")]
    pub(crate) n_prompts: Option<usize>,
    /// Seed of the order of responses, and of what is drawn
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Make malformed data lines fatal
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Preset: demo, demo-dpo, hh-small, paper-hh or paper-tldr; or a source of data, of which the
    /// [data] section is printed: `mopo prepare --help` has their names
    #[arg(value_name = "PRESET|SOURCE", default_value = "demo")]
    pub(crate) name: String,
}
