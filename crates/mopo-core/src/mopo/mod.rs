//! One mini-batch of MOPO: from indicators, ratios and multipliers to the weights of the cloning
//! loss and the statistics that drive the multipliers (Algorithm 1 of the paper).
//!
//! A pair (x, y, y′, I) counts as two *labelled responses*, (x, y, I) and (x, y′, 1 − I), over
//! which the paper's sums run. Everything here is per policy: a policy has one primary objective, the
//! others are its secondaries. The state that lives from batch to batch is in [`crate::dual`].

mod config;
mod contrast;
mod labels;
mod loss;
mod weights;

pub use config::{
    ChiUpdate, ContrastLoss, DualMethod, Extraction, FreshAnswers, IndicatorEstimator, MopoConfig,
    RatioSmoothing, ThresholdRule, ThresholdStatistic, WeightNormalization,
};
pub use contrast::{
    choice_levels, choice_statistics, contrast_targets, contrastive_loss, logistic_beta,
};
pub use labels::{Prompts, ResponseLabels};
pub use loss::{cloning_loss, needed_responses};
pub use weights::{BatchStatistics, PolicyDual, importance_weights};
