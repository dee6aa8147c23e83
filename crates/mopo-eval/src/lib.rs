//! Rewards for generated text, labels of pairs by rewards, and clusters of prompts.
//!
//! Before training, [`label`] labels pairs with rewards.
//!
//! After it, the order of use: a [`RewardSpec`] becomes a [`Reward`]; [`reward::score_all`] scores each
//! policy's responses; [`cluster_prompts`] or [`cluster_embedded`] groups the prompts; an
//! [`Evaluation`] holds it all, and what follows from it is in `mopo-report`, whose types of scores and
//! statistics are exported again here.
//!
//! Tensors are in [`reward`] alone, generic over burn's backend; rewards that are functions of the text
//! need none. Absent on purpose: no language model (responses come in from outside), and no tolerance
//! in dominance. Scores are always *larger is better*.
#![doc = include_str!("../README.md")]

mod cluster;
mod error;
pub mod experiments;
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

/// The folder of a file that is to be written, which is made if need be: what is kept on disk until the
/// file is whole belongs there, and not into a temporary folder that may be memory.
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
