//! Rewards for generated text, labels of pairs by rewards, and clusters of prompts.
//!
//! Before training, [`label`] labels pairs with rewards.
//!
//! After it, in this order: a [`RewardSpec`] becomes a [`Reward`]; [`reward::score_all`] scores
//! each
//! policy's responses; [`cluster_prompts`] or [`cluster_embedded`] groups the prompts; an
//! [`Evaluation`] has it all, and `mopo-report` evaluates it; its types of scores and
//! statistics are re-exported here. A [`judge`] compares the responses of pairs of policies.
//!
//! Tensors are used only in [`reward`] and [`experiments`], generic over burn's backend; rewards
//! that are functions of the text
//! need none. Absent on purpose: a language model (responses come from outside), and any tolerance
//! in dominance. Scores are always *larger is better*.
#![doc = include_str!("../README.md")]

mod cluster;
mod error;
pub mod experiments;
pub mod judge;
pub mod label;
pub mod reward;
pub mod score;

pub use cluster::{ClusterConfig, PromptEmbedding, cluster_embedded, cluster_prompts};
pub use error::{Error, Result};
pub use mopo_report::{
    Clusters, Evaluation, FirstPass, FrontConfig, FrontReport, ObjectiveStatistics, PolicyGroup,
    PolicySamples, ScoreStatistics, SecondPass,
};
pub use reward::{Reward, RewardSpec};

/// The folder of an output file, created if needed. Data kept on disk until the
/// file is complete belongs there, and not into a temporary folder, which may be in memory.
///
/// # Errors
/// [`Error::Hub`] with the folder.
pub fn output_folder(file: &std::path::Path) -> Result<&std::path::Path> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => std::path::Path::new("."),
    };
    mopo_hub::create_dir(folder)?;
    Ok(folder)
}
