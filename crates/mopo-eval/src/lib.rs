//! Rewards for generated text, prompt clusters, Pareto fronts of policies, and the figures and
//! pages that show them.
//!
//! Before training, [`annotate`] labels pairs with rewards. After it, the order of use: a [`RewardSpec`] becomes a [`Reward`]; [`reward::score_all`] scores each
//! policy's responses; [`cluster_prompts`] groups the prompts; an [`Evaluation`] holds it all;
//! [`FrontReport::new`] computes points, hypervolumes and their uncertainty; [`write_report`]
//! writes the figure, the tables and one self-contained page.
//!
//! Absent on purpose: no language model and no tensor (text and numbers come in from outside), and
//! no tolerance in dominance. Scores are always *larger is better*.

pub mod annotate;
mod bootstrap;
mod cluster;
mod error;
mod front;
pub mod plot;
mod report;
pub mod reward;

pub use bootstrap::{HypervolumeDifference, Interval};
pub use cluster::{ClusterConfig, Clusters, cluster_prompts};
pub use error::{Error, Result};
pub use front::{
    Evaluation, FrontConfig, FrontReport, GroupHypervolume, PolicyGroup, PolicyPoint,
    PolicySamples, PolicySet,
};
pub use report::{ReportExtras, ReportFiles, write_report};
pub use reward::{Reward, RewardSpec, cut_at_turn};
