//! The flags of `generate` and `chat`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use mopo_core::divergence::Divergence;
use mopo_train::SamplingOverrides;
use mopo_train::config::{BaseFormat, MatmulPrecision};

use super::{ShardArgs, numbers};
use crate::device::Device;

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Prompt (may be repeated). With a run or a chat model, a plain question is formatted with its
    /// chat template
    #[arg(long, required_unless_present = "prompts", conflicts_with = "prompts")]
    pub(crate) prompt: Vec<String>,
    /// Answer the prompts of a file that `mopo prepare --prompts` wrote, into --out
    #[arg(long, value_name = "FILE", requires = "out")]
    pub(crate) prompts: Option<PathBuf>,
    /// Output: a line for each prompt, with `response`, as `mopo score` takes it. Finished answers are kept in
    /// <FILE>.progress/ until all are there
    #[arg(long, value_name = "FILE", requires = "prompts")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) shards: ShardArgs,
    /// Replace an existing file at --out
    #[arg(long, requires = "prompts")]
    pub(crate) force: bool,
    /// A system message before each prompt
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) decoding: DecodingArgs,
    /// Scores to aim at, of a policy trained with `ric`: one for each objective, in standard deviations from the mean of
    /// its training set, e.g. helpful=1.5,harmless=0
    #[arg(long, value_name = "SCORES", conflicts_with_all = ["policy", "weights"], allow_hyphen_values = true)]
    pub(crate) targets: Option<Targets>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// flex (the CPU), ndarray, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each line of standard input is a message. Lines that begin with a slash are commands:

    /reset           forget the conversation, but not the system message
    /system TEXT     begin a new conversation with another system message, or without one
    /policy NAME     answer with one policy, or `sft`
    /weights W       answer with a mixture, e.g. 0.6,0.4 or helpful=0.6,harmless=0.4
    /help            list these commands
    /exit            end, as the end of the input does (Ctrl-D)")]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A system message at the beginning of the conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) decoding: DecodingArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// flex (the CPU), ndarray, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Run directory, a directory written by `mopo export`, a model directory of Hugging Face, or a GGUF file
    #[arg(required_unless_present = "model")]
    pub(crate) run: Option<PathBuf>,
    /// The same, or org/name or org/name@revision on Hugging Face
    #[arg(long, value_name = "NAME|DIR", conflicts_with = "run")]
    pub(crate) model: Option<PathBuf>,
    /// Branch, tag or commit of --model on Hugging Face
    #[arg(long, requires = "model")]
    pub(crate) revision: Option<String>,
    /// Format of the base in memory: f32, bf16, checkpoint (as in the file), int8, int8-output, nf4 or nf4-double [default:
    /// the run's, or checkpoint]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) base: Option<BaseFormat>,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PrecisionArgs {
    /// In what products are computed on flex: f32, or rounded to bf16 or int8 with sums in f32
    #[arg(long = "matmul-precision", value_name = "PRECISION", default_value = "f32")]
    pub(crate) matmul: MatmulPrecision,
}

#[derive(Debug, Args)]
pub(crate) struct DecodingArgs {
    /// Policy of an objective, `sft` for the SFT model, or `worst-case`: the mixture with the weights that are worst for it,
    /// token by token
    #[arg(long, conflicts_with = "weights")]
    pub(crate) policy: Option<String>,
    /// Preference weights of a mixture of all policies in their order, e.g. 0.5,0.3,0.2, or by name, e.g.
    /// helpful=0.6,humor=0.4
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) weights: Option<Weights>,
    /// Divergence of the mixture: reverse_kl, forward_kl, jensen_shannon, alpha:A (0 < A < 1) or
    /// jeffreys; all but reverse_kl also run the base model [default: reverse_kl]
    #[arg(
        long,
        requires = "weights",
        conflicts_with = "policy",
        value_parser = crate::commands::generate::mixable
    )]
    pub(crate) divergence: Option<Divergence>,
}

#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Maximum number of new tokens
    #[arg(long, value_name = "N", value_parser = numbers::count, allow_negative_numbers = true)]
    pub(crate) max_new_tokens: Option<usize>,
    /// Sampling temperature (0: greedy)
    #[arg(long, value_parser = numbers::temperature, allow_negative_numbers = true)]
    pub(crate) temperature: Option<f64>,
    /// Sample from the K most likely tokens (0: all tokens)
    #[arg(long, value_name = "K", value_parser = numbers::whole, allow_negative_numbers = true)]
    pub(crate) top_k: Option<usize>,
    /// Sample from the smallest set of tokens with this total probability
    #[arg(long, value_name = "P", value_parser = numbers::top_p, allow_negative_numbers = true)]
    pub(crate) top_p: Option<f64>,
    /// Sample only from tokens at least this probable, relative to the most likely one
    #[arg(long, value_name = "P", value_parser = numbers::min_p, allow_negative_numbers = true)]
    pub(crate) min_p: Option<f64>,
    /// Divide (if negative, multiply) the logits of tokens of the prompt and the answer (1: no penalty)
    #[arg(long, value_name = "X", value_parser = numbers::above_0, allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f64>,
    /// Subtract this from the logits of tokens that the answer has
    #[arg(long, value_name = "X", value_parser = numbers::finite, allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f64>,
    /// The same for each time that the answer has them
    #[arg(long, value_name = "X", value_parser = numbers::finite, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f64>,
    /// Random seed
    #[arg(long, default_value_t = 0, value_parser = numbers::seed, allow_negative_numbers = true)]
    pub(crate) seed: u64,
}

impl SamplingArgs {
    /// As the library takes them.
    pub(crate) fn overrides(&self) -> SamplingOverrides {
        SamplingOverrides {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
        }
    }
}

/// Weights of a mixture, each with the name of its policy or without.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Weights(pub(crate) Vec<(Option<String>, f32)>);

impl FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let weight = |part: &str| {
            let (name, number) = match part.split_once('=') {
                Some((name, number)) => (Some(name.trim().to_owned()), number),
                None => (None, part),
            };
            let number = number.trim().parse().map_err(|_| {
                format!("`{part}` is not a weight; write 0.6,0.4 or helpful=0.6,harmless=0.4")
            })?;
            Ok((name, number))
        };
        text.split(',').map(weight).collect::<Result<_, String>>().map(Self)
    }
}

/// Scores by objective.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Targets(pub(crate) Vec<(String, f64)>);

impl FromStr for Targets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let target = |part: &str| {
            let (name, number) = part.split_once('=')?;
            Some((name.trim().to_owned(), number.trim().parse().ok()?))
        };
        let wrong = |part| format!("`{part}` is not a score; write helpful=1.5,harmless=0");
        let targets = text.split(',').map(|part| target(part).ok_or_else(|| wrong(part)));
        targets.collect::<Result<_, String>>().map(Self)
    }
}
