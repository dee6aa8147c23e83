//! Flags of `mopo score`.

use std::path::PathBuf;

use clap::Args;

use crate::device::Device;

#[derive(Debug, Args)]
#[command(after_help = "\
A line of TEXTS is an object: {\"prompt\": \"…\", \"response\": \"…\"}; `prompt` may be absent, other keys are
kept. A reward's file holds one reward's keys:

    kind = \"model\"
    path = \"my-model\"          # a directory as on the hub
    text = \"{prompt}{response}\"
    pooling = \"last_token\"
    label = 0
    max_length = 1024
    truncation_side = \"right\"

docs/reward-models.md has every key and the presets.")]
pub(crate) struct ScoreArgs {
    /// Texts as JSON Lines
    pub(crate) texts: PathBuf,
    /// A preset (hh-helpful, hh-harmless, humor, tldr-pref1, tldr-faithful, tldr-less-hallucination)
    /// or a TOML file; may be repeated. Without it, --model says how it is asked in its reward.toml
    #[arg(long = "reward", value_name = "PRESET|FILE", required_unless_present = "model")]
    pub(crate) rewards: Vec<String>,
    /// The model's files, instead of what --reward names: a directory as on the hub, or a
    /// model of the hub as org/name or org/name@revision
    #[arg(long, value_name = "DIR|ORG/NAME")]
    pub(crate) model: Option<String>,
    /// The texts with their scores; what scored them is recorded in <FILE>.record.json
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Replace a file at --out
    #[arg(long)]
    pub(crate) force: bool,
    /// flex (the CPU), ndarray, cuda or cuda:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}
