//! Rewards for generated text, prompt clusters, Pareto fronts of policies, and the figures and
//! pages that show them.
//!
//! Before training, [`annotate`] labels pairs with rewards.
//!
//! After it, the order of use: a [`RewardSpec`] becomes a [`Reward`]; [`reward::score_all`] scores each
//! policy's responses; [`cluster_prompts`] or [`cluster_embedded`] groups the prompts; an
//! [`Evaluation`] holds it all; [`FrontReport::new`] computes points, what sets of policies are worth,
//! and how sure that is; [`write_report`] writes the figures, the tables and one self-contained page.
//! [`RecordedRun::read`] reads such a result back, and [`combine`] puts several side by side.
//!
//! Tensors are in [`reward`] alone, generic over burn's backend; rewards that are functions of the text
//! need none. Absent on purpose: no language model (responses come in from outside), and no tolerance
//! in dominance. Scores are always *larger is better*.

pub mod annotate;
mod bootstrap;
mod cluster;
mod compare;
mod error;
mod evaluation;
mod front;
pub mod plot;
mod quality;
mod report;
pub mod reward;
pub mod score;
mod statistics;

pub use bootstrap::{Estimate, HypervolumeDifference, Interval};
pub use cluster::{ClusterConfig, Clusters, PromptEmbedding, cluster_embedded, cluster_prompts};
pub use compare::{Combined, RecordedRun, combine};
pub use error::{Error, Result};
pub use evaluation::{Evaluation, PolicyGroup, PolicySamples, PolicySet, SetRef};
pub use front::{FrontConfig, FrontReport, PolicyPoint, SetQuality};
pub use report::{ReportExtras, ReportFiles, RunExtras, write_report};
pub use reward::{Reward, RewardSpec, cut_at_turn};
pub use statistics::{ScoreStatistics, read_statistics, select_statistics, write_statistics};
