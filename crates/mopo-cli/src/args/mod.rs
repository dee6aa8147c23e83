//! The command line. Every flag is defined here, once; `cargo xtask train …` forwards its arguments.

// Doc comments are the text of `--help` here: `[data]` and `<run>` are neither links nor tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

mod bandit;
mod bench;
mod generate;
mod label;
mod numbers;
mod report;
mod reward;
mod run;
mod score;
mod serve;
mod shard;
mod win_rate;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use mopo_hub::ShardChoice;
use mopo_hub::gguf::TensorType;
use mopo_lm::WeightDtype;

use crate::device::Device;

pub(crate) use bandit::*;
pub(crate) use bench::*;
pub(crate) use generate::*;
pub(crate) use label::*;
pub(crate) use report::*;
pub(crate) use reward::*;
pub(crate) use run::*;
pub(crate) use score::*;
pub(crate) use serve::*;
pub(crate) use shard::*;
pub(crate) use win_rate::*;

/// Align language models to several human objectives at once.
#[derive(Debug, Parser)]
#[command(name = "mopo", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prepare data, run SFT, train policies with MOPO or any other method
    Train(TrainArgs),
    /// Score texts with reward models and other rewards
    Score(ScoreArgs),
    /// Generate with every policy of a run, score the answers, draw the Pareto front
    Pareto(ParetoArgs),
    /// Write one page with the results of `mopo pareto`, for one run or several
    Report(ReportArgs),
    /// Compare methods, each with several seeds, on one page: what `cargo xtask study` ends with
    Study(StudyArgs),
    /// Count how often the answers of one policy beat another's, by rewards and by a judge
    WinRate(WinRateArgs),
    /// Answer prompts with a policy of a run, an exported model or a Hugging Face model
    Generate(GenerateArgs),
    /// Chat with a policy of a run, a mixture of policies, an exported model, a Hugging Face model or a GGUF file
    Chat(ChatArgs),
    /// Serve a run or a model over HTTP: OpenAI's endpoints with preference weights, and a page with sliders
    Serve(ServeArgs),
    /// Export one policy for transformers or llama.cpp, or all policies in MOPO's own layout
    Export(ExportArgs),
    /// Read a data source, summarise it, and write a prepared data set
    Prepare(PrepareArgs),
    /// Score both responses of every pair and write labels
    Label(LabelArgs),
    /// Train a reward model
    Reward(RewardArgs),
    /// Reproduce a synthetic experiment of the MOPO paper, with a table and a figure
    Bandit(BanditArgs),
    /// Print a preset (a complete configuration), or the [data] section of a source
    Config(ConfigArgs),
    /// Measure training steps, generation, scores or matrix products on this machine
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
    /// Train with this method instead of the configuration's, with the section that `mopo config NAME` prints;
    /// --set changes its keys
    #[arg(long, value_name = "NAME")]
    pub(crate) method: Option<String>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Base model with its tokenizer, instead of the configuration's: a directory, a GGUF file, or org/name or
    /// org/name@revision on Hugging Face
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Branch, tag or commit of --model on Hugging Face
    #[arg(long, requires = "model")]
    pub(crate) revision: Option<String>,
    /// Folder of the log-prob cache, shared between runs [default: $MOPO_CACHE, else
    /// .cache/log_probs beside the run directory]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    pub(crate) cache: Option<PathBuf>,
    /// Disable the log-prob cache
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Train nothing: only check that the run at --out was started with these arguments, and say what differs
    #[arg(long, requires = "out", conflicts_with = "resume")]
    pub(crate) verify: bool,
    /// With several ranks: how long one waits for another before the job ends. Longer than the slowest thing that rank 0
    /// does alone, such as preparing the data
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = numbers::count)]
    pub(crate) rank_timeout: usize,
    /// Resume a run from its latest checkpoint
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = [
            "preset", "config", "method", "set", "data", "out", "model", "seed", "strict"
        ]
    )]
    pub(crate) resume: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ParetoArgs {
    /// Run directory [default: the latest finished run below runs/]
    pub(crate) run: Option<PathBuf>,
    /// Output directory [default: <run>/pareto]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Number of prompts, instead of the configuration's
    #[arg(long, value_name = "N", value_parser = numbers::count, allow_negative_numbers = true)]
    pub(crate) n_prompts: Option<usize>,
    /// Prompts written by `mopo prepare --prompts`, instead of the run's held-out ones
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// Sampling temperature, instead of the configuration's (0: greedy)
    #[arg(long, value_parser = numbers::temperature, allow_negative_numbers = true)]
    pub(crate) temperature: Option<f64>,
    /// Steps of the simplex grid of preference weights (0: no mixtures)
    #[arg(long, value_name = "N", value_parser = numbers::whole, allow_negative_numbers = true)]
    pub(crate) mixture_steps: Option<usize>,
    /// Random seed, instead of the run's
    #[arg(long, value_parser = numbers::seed, allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) protocol: ProtocolArgs,
    /// Only generate and score part I of N of the answers, counted from 1, into shards/ of the output directory. `auto` or
    /// `auto/N`: the part that the environment of Slurm, Kubernetes or mpirun names
    #[arg(long, value_name = "I/N|auto[/N]", conflicts_with = "merge")]
    pub(crate) shard: Option<ShardChoice>,
    /// Take the answers from the files of all shards: those in shards/ of the output directory, or those given here. Pass
    /// what the shards were given, but for --shard
    #[arg(long, value_name = "FILE", num_args = 0..)]
    pub(crate) merge: Option<Vec<PathBuf>>,
    /// Make a shard again where something else is
    #[arg(long, requires = "shard")]
    pub(crate) force: bool,
    /// flex (the CPU), ndarray, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Run directory, its policy/, or a directory written by `mopo export --all`
    #[arg(required_unless_present = "model")]
    pub(crate) source: Option<PathBuf>,
    /// The same, or org/name or org/name@revision on Hugging Face
    #[arg(long, value_name = "NAME|DIR", conflicts_with = "source")]
    pub(crate) model: Option<PathBuf>,
    /// Branch, tag or commit of --model on Hugging Face
    #[arg(long, requires = "model")]
    pub(crate) revision: Option<String>,
    /// Export one policy for transformers or llama.cpp: its objective, its index from 0, or `sft`
    #[arg(long, value_name = "NAME|INDEX", conflicts_with = "all")]
    pub(crate) policy: Option<String>,
    /// Export all policies with their base, in MOPO's own layout [the default without --policy]
    #[arg(long)]
    pub(crate) all: bool,
    /// Output directory, or with --gguf the file
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) out: PathBuf,
    /// Write one policy as a GGUF file for llama.cpp, with its matrices in F32, F16, BF16, Q8_0, Q5_0, Q4_0 or
    /// Q4_K
    #[arg(long, value_name = "TYPE", requires = "policy", conflicts_with = "dtype")]
    pub(crate) gguf: Option<TensorType>,
    /// Data type of the weights: f32, bf16 or f16; with --all only the base is converted [default:
    /// the base model's]
    #[arg(long)]
    pub(crate) dtype: Option<WeightDtype>,
    /// Replace an existing export at --out, or a GGUF file
    #[arg(long)]
    pub(crate) force: bool,
    /// flex (the CPU), ndarray, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Sources: hh, tldr, tldr-axes, summeval-op, trl, safe-rlhf, beavertails, ultrafeedback, helpsteer.
`mopo config SOURCE` prints the [data] section of one, with the keys that --set takes:

    mopo prepare summeval-op --data summeval-op.jsonl --set data.tie_threshold=0.5 --out pairs.jsonl

docs/data.md describes the columns of each source and how labels are made.")]
pub(crate) struct PrepareArgs {
    /// Data source, or a preset whose [data] section names one: demo or hh-small
    #[arg(value_name = "SOURCE|PRESET", default_value = "demo", conflicts_with = "config")]
    pub(crate) name: String,
    /// A file with a [data] section, alone or in a full configuration, instead of a name
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Override one key, e.g. --set data.tie_threshold=0.5 (may be repeated)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Input file or folder
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,
    /// Prepared data set to write; without it, the data is only summarised
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Replace the file of --out even if `mopo prepare` did not write it
    #[arg(long, requires = "out")]
    pub(crate) force: bool,
    /// Write distinct prompts without pairs; tldr also reads files of posts
    #[arg(long)]
    pub(crate) prompts: bool,
    /// Sample at most N prompts
    #[arg(long, value_name = "N", requires = "prompts")]
    pub(crate) n_prompts: Option<usize>,
    /// Random seed of the order of responses and of --n-prompts
    #[arg(long, default_value_t = 0, value_parser = numbers::seed, allow_negative_numbers = true)]
    pub(crate) seed: u64,
    /// Fail on malformed data lines instead of skipping them
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Preset: demo, demo-dpo, hh-small, paper-hh or paper-tldr; or a data source (see `mopo prepare
    /// --help`), to print its [data] section; or a method (mopo, dpo, ipo, …), to print its section
    #[arg(value_name = "PRESET|SOURCE|METHOD", default_value = "demo")]
    pub(crate) name: String,
    /// Print the names instead, one per line after `preset`, `source` or `method`
    #[arg(long, conflicts_with = "name")]
    pub(crate) list: bool,
}
