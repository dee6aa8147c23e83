//! Flags of `mopo score`.

use std::path::PathBuf;

use clap::Args;

use super::{PrecisionArgs, ShardArgs};
use crate::device::Device;

#[derive(Debug, Args)]
#[command(after_help = "\
Each line of TEXTS is an object: {\"prompt\": \"…\", \"response\": \"…\"}. `prompt` is optional; other keys are
kept. A reward file describes one reward:

    kind = \"model\"
    path = \"my-model\"          # in the layout of Hugging Face
    text = \"{prompt}{response}\"
    pooling = \"last_token\"
    label = 0
    max_length = 1024
    truncation_side = \"right\"

Other kinds: length, word_list, regex; program and http (what a program or an endpoint computes);
ensemble and length_corrected (of other rewards). docs/reward-models.md describes every key and the
presets.")]
pub(crate) struct ScoreArgs {
    /// Texts as JSON Lines
    pub(crate) texts: PathBuf,
    /// Preset (hh-helpful, hh-harmless, humor, tldr-pref1, tldr-faithful, tldr-less-hallucination) or
    /// TOML file (may be repeated). Without it, the reward.toml of --model is used
    #[arg(long = "reward", value_name = "PRESET|FILE", required_unless_present = "model")]
    pub(crate) rewards: Vec<String>,
    /// Model, instead of the one that --reward names: a directory, or org/name or org/name@revision
    /// on Hugging Face
    #[arg(long, value_name = "DIR|ORG/NAME")]
    pub(crate) model: Option<String>,
    /// Output: the texts with their scores. Rewards and versions are recorded in <FILE>.record.json
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) shards: ShardArgs,
    /// Replace an existing file at --out
    #[arg(long)]
    pub(crate) force: bool,
    /// flex (the CPU), ndarray, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
}
