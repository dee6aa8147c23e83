//! Rewards for generated text, labels of pairs by rewards, and clusters of prompts.
//!
//! Before training, [`annotate`] labels pairs with rewards.
//!
//! After it, the order of use: a [`RewardSpec`] becomes a [`Reward`]; [`reward::score_all`] scores each
//! policy's responses; [`cluster_prompts`] or [`cluster_embedded`] groups the prompts; an
//! [`Evaluation`] holds it all, and what follows from it is in `mopo-report`, whose types of scores and
//! statistics are exported again here.
//!
//! Tensors are in [`reward`] alone, generic over burn's backend; rewards that are functions of the text
//! need none. Absent on purpose: no language model (responses come in from outside), and no tolerance
//! in dominance. Scores are always *larger is better*.

pub mod annotate;
mod cluster;
mod error;
pub mod experiments;
pub mod reward;
pub mod score;

pub use cluster::{ClusterConfig, PromptEmbedding, cluster_embedded, cluster_prompts};
pub use error::{Error, Result};
pub use mopo_report::{
    Clusters, Evaluation, FrontConfig, FrontReport, PolicyGroup, PolicySamples, ScoreStatistics,
};
pub use reward::{Reward, RewardSpec, cut_at_turn};
