//! Flags of `mopo win-rate`.

use std::path::PathBuf;

use clap::Args;

use super::numbers;

#[derive(Debug, Args)]
#[command(after_help = "\
With --judge every pair of answers is also shown to a language model, in both orders: a policy wins only if both
verdicts agree. Verdicts are kept in judge-cache.jsonl of --out, and an interrupted command resumes from them:

    mopo win-rate runs/demo --judge http://127.0.0.1:8000/v1 --judge-model qwen3-32b \\
        --judge-criterion \"Which answer is more helpful?\"

docs/evaluation.md#win-rates has the definitions.")]
pub(crate) struct WinRateArgs {
    /// A run evaluated by `mopo pareto`, or the directory that it wrote
    pub(crate) results: PathBuf,
    /// Another one with the same prompts, whose policies are compared with [default: the SFT model of RESULTS]
    #[arg(long, value_name = "RESULTS")]
    pub(crate) against: Option<PathBuf>,
    /// Policy of RESULTS, by its label or its name in samples.jsonl (may be repeated) [default: all heads and mixtures]
    #[arg(long = "policy", value_name = "NAME")]
    pub(crate) policies: Vec<String>,
    /// Policy to compare with, of --against or else of RESULTS; `sft` is the SFT model (may be repeated) [default: all
    /// heads and mixtures of --against, or else the SFT model]
    #[arg(long = "baseline", value_name = "NAME")]
    pub(crate) baselines: Vec<String>,
    /// Scores not further apart than this are tied
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = numbers::margin, allow_negative_numbers = true)]
    pub(crate) tie: f64,
    /// Output directory
    #[arg(long, value_name = "DIR", default_value = "runs/win-rate")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) judge: JudgeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct JudgeArgs {
    /// OpenAI-compatible interface of a judge, such as http://127.0.0.1:8000/v1
    #[arg(long = "judge", value_name = "URL", requires = "model")]
    pub(crate) url: Option<String>,
    /// The judge's model, as the interface calls it
    #[arg(id = "model", long = "judge-model", value_name = "NAME", requires = "url")]
    pub(crate) model: Option<String>,
    /// Environment variable with the token of the interface
    #[arg(long = "judge-token-env", value_name = "VAR", requires = "url")]
    pub(crate) token_env: Option<String>,
    /// What the judge compares by
    #[arg(id = "criterion", long = "judge-criterion", value_name = "TEXT", requires = "url")]
    pub(crate) criterion: Option<String>,
    /// File with the judge's prompt: {prompt}, {a} and {b} in place of the texts, {criterion} in place of
    /// --judge-criterion [default: a built-in one]
    #[arg(id = "prompt", long = "judge-prompt", value_name = "FILE", requires = "url")]
    pub(crate) prompt: Option<PathBuf>,
    /// Maximum number of requests of this call, repeated ones included [default: as many as needed]
    #[arg(long = "judge-requests", value_name = "N", requires = "url", value_parser = numbers::whole, allow_negative_numbers = true)]
    pub(crate) requests: Option<usize>,
    /// Number of requests at a time
    #[arg(long = "judge-parallel", value_name = "N", default_value_t = 1, requires = "url", value_parser = numbers::at_most::<256>, allow_negative_numbers = true)]
    pub(crate) parallel: usize,
    /// Maximum number of tokens of a verdict
    #[arg(long = "judge-max-tokens", value_name = "N", default_value_t = 512, requires = "url", value_parser = numbers::count, allow_negative_numbers = true)]
    pub(crate) max_tokens: usize,
}
