//! The hyper-parameters of MOPO and their ranges.

use serde::{Deserialize, Serialize};

use crate::{Ball, Error, Result};

/// Which estimate of a secondary preference an adaptive threshold follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdStatistic {
    /// v_k = Σ a w I_k, as in the paper. The constraint uses the smaller lower bound, so such a
    /// threshold can be unattainable; λ then reaches `lambda_max`, which is reported.
    Plain,
    /// The lower bound q̲_k itself.
    LowerBound,
}

/// Meaning of a response's indicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndicatorEstimator {
    /// Equal responses to a prompt share their mean indicator; converges to the exact solution.
    Action,
    /// Every response has the indicator of its own comparison (equation 11 of the paper, read literally).
    Pair,
}

/// Where the thresholds b_k of the secondary objectives come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdRule {
    /// b_k ← β · mean of the statistic over the interval, at every refresh of the reference.
    Adaptive,
    /// b_k keeps its initial value.
    Fixed,
    /// b_k ← β · the constraint's own statistic at the reference (w = 1), on all pairs, at the start and at
    /// every refresh: the reference meets it strictly if β < 1, so that λ stays bounded.
    Reference,
}

/// Over which responses the weights w have mean 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightNormalization {
    /// All responses of the batch. Prompts whose responses score well then have more weight.
    Batch,
    /// The responses of each prompt, as in the closed form: π(·|x) is a distribution for every x.
    /// It needs several responses per prompt in the batch; two give only two-way choices.
    Prompt,
}

/// Whether the ratios π_ref/π_0 are smoothed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RatioSmoothing {
    /// As they are, but for `ratio_clip`.
    #[default]
    None,
    /// The largest become quantiles of a generalised Pareto distribution that is fitted to them
    /// ([`crate::importance`]), over all pairs at every refresh; before `ratio_clip`.
    Pareto,
}

fn is_raw(smoothing: &RatioSmoothing) -> bool {
    *smoothing == RatioSmoothing::None
}

/// How a policy is made of the closed form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extraction {
    /// Cloning of responses weighted by a w (Algorithm 1): the published form.
    #[default]
    Cloning,
    /// Regression of log-ratio differences within pairs on differences of scores
    /// ([`crate::mopo::contrastive_loss`]). It learns from the response that lost too, and single comparisons do
    /// it no harm. Constraints are estimated on the policy's own choices ([`crate::mopo::choice_statistics`]).
    Pairwise,
}

/// How well two responses of a pair are told apart: pairwise extraction's loss, and that beside cloning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContrastLoss {
    /// The square of what is missing of the closed form's difference, as in IPO.
    #[default]
    Squared,
    /// The cross-entropy of labels mixed by the multipliers, as in DPO: with one objective and no constraint it is DPO's,
    /// with β = 4 τ.
    Logistic,
}

fn is_squared(loss: &ContrastLoss) -> bool {
    *loss == ContrastLoss::Squared
}

/// How the multipliers λ are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DualMethod {
    /// Updates λ and χ with every mini-batch (Algorithm 1).
    Joint,
    /// Solves for them on the whole data set at the start and at every refresh of the reference
    /// ([`crate::dual::ResponseGroups`]); they are constant in between. The learning rates and
    /// initial values of λ and χ then have no effect.
    Exact,
}

/// How χ of a mini-batch's lower bound is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChiUpdate {
    /// A step of gradient ascent in log χ with every batch (Algorithm 1): slow where the best χ is far from the
    /// initial one, and until then the bound is too low.
    #[default]
    Step,
    /// The batch's own best χ, by [`crate::lower_bound`]: nothing to tune, and the bound is above the stepped one on
    /// every batch.
    Optimum,
}

fn is_stepped(update: &ChiUpdate) -> bool {
    *update == ChiUpdate::Step
}

/// Answers that the references give themselves at every refresh, which take the data's place until the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreshAnswers {
    /// Training prompts that are answered.
    pub prompts: usize,
    /// Answers to each, an even number: two make a pair.
    pub answers: usize,
    /// Maximum number of tokens per answer.
    pub max_new_tokens: usize,
}

impl FreshAnswers {
    /// More answers to one prompt are a typing error.
    const MAX_ANSWERS: usize = 1000;

    fn check(self) -> Result<()> {
        let at_least_one = |field, n: usize| require(field, n as f64, n > 0, "must be at least 1");
        at_least_one("mopo.fresh.prompts", self.prompts)?;
        at_least_one("mopo.fresh.max_new_tokens", self.max_new_tokens)?;
        require(
            "mopo.fresh.answers",
            self.answers as f64,
            self.answers.is_multiple_of(2) && (2..=Self::MAX_ANSWERS).contains(&self.answers),
            "must be an even number from 2 to 1000: two answers make a pair",
        )
    }
}

/// The hyper-parameters of MOPO. Defaults are the paper's, or ours if it gives none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MopoConfig {
    /// τ > 0, weight of the KL term (paper: 0.08).
    pub tau: f64,
    /// KL ball of the lower bound (paper: radius 0.15).
    pub ball: Ball,
    /// β in (0, 1], relaxation of adaptive thresholds (paper: 0.9995).
    pub relaxation: f64,
    /// t₀ ≥ 1, optimiser steps between refreshes of the reference (paper: 500).
    pub reference_lag: usize,
    /// Learning rate of the multipliers λ.
    pub lambda_lr: f64,
    /// Whether χ is stepped or solved for; stepped where a configuration does not say it.
    #[serde(default, skip_serializing_if = "is_stepped")]
    pub chi: ChiUpdate,
    /// Learning rate of log χ, if it is stepped.
    pub chi_lr: f64,
    /// Cap of λ; a λ at the cap means that the threshold is unattainable at this τ.
    pub lambda_max: f64,
    /// Initial λ of every secondary objective.
    pub initial_lambda: f64,
    /// Initial χ.
    pub initial_chi: f64,
    /// Limit of |log(π_ref/π_0)| of a response; larger values are clipped.
    pub ratio_clip: f64,
    /// Whether the largest ratios are smoothed; not where a configuration does not say it.
    #[serde(default, skip_serializing_if = "is_raw")]
    pub ratio_smoothing: RatioSmoothing,
    /// Limit of |log(π_ref/π_0)| of each token, before they are added up to that of a response; none where a
    /// configuration does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ratio_clip: Option<f64>,
    /// Answers of the references instead of the data's responses from the first refresh on, where there are rewards to
    /// label them; none where a configuration does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<FreshAnswers>,
    /// Statistic that adaptive thresholds follow.
    pub threshold_statistic: ThresholdStatistic,
    /// Meaning of an indicator.
    pub indicator_estimator: IndicatorEstimator,
    /// Fixed or adaptive thresholds.
    pub thresholds: ThresholdRule,
    /// Over which responses w is normalised.
    pub weight_normalization: WeightNormalization,
    /// Whether multipliers are updated batch by batch or solved for.
    pub dual: DualMethod,
    /// How a policy is made of the closed form; cloning where a configuration does not say it.
    #[serde(default)]
    pub extraction: Extraction,
    /// Weight of the contrastive loss beside cloning ([`crate::mopo::contrastive_loss`]); 0, also where a
    /// configuration does not say it: none. Both have the closed form as their minimiser.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub contrast_weight: f64,
    /// Which loss that is, and that of pairwise extraction; squared where a configuration does not say it.
    #[serde(default, skip_serializing_if = "is_squared")]
    pub contrast_loss: ContrastLoss,
    /// Initial b_k; 0.5 requires as much as the behaviour policy has.
    pub initial_threshold: f64,
    /// Responses with a smaller share of a policy's weight are excluded from the backward pass. 0
    /// keeps every response that has any weight.
    pub prune_below: f64,
}

impl Default for MopoConfig {
    fn default() -> Self {
        Self {
            tau: 0.08,
            ball: Ball::Radius(0.15),
            relaxation: 0.9995,
            reference_lag: 500,
            lambda_lr: 0.05,
            chi: ChiUpdate::Step,
            chi_lr: 0.5,
            lambda_max: 10.0,
            initial_lambda: 0.0,
            initial_chi: 1.0,
            ratio_clip: 5.0,
            ratio_smoothing: RatioSmoothing::None,
            token_ratio_clip: None,
            fresh: None,
            threshold_statistic: ThresholdStatistic::Plain,
            indicator_estimator: IndicatorEstimator::Action,
            thresholds: ThresholdRule::Adaptive,
            weight_normalization: WeightNormalization::Batch,
            dual: DualMethod::Joint,
            extraction: Extraction::Cloning,
            contrast_weight: 0.0,
            contrast_loss: ContrastLoss::Squared,
            initial_threshold: 0.5,
            prune_below: 1e-5,
        }
    }
}

impl MopoConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the field, its value and the accepted values.
    pub fn check(&self) -> Result<()> {
        self.ball.check()?;
        let positive = |field, value: f64| {
            let held = f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX);
            require(field, value, held.contains(&value), "must be a number > 0, up to 3.4e38")
        };
        let not_negative = |field, value: f64| {
            let held = 0.0..=f64::from(f32::MAX);
            require(field, value, held.contains(&value), "must be a number ≥ 0, up to 3.4e38")
        };
        positive("mopo.tau", self.tau)?;
        require(
            "mopo.relaxation",
            self.relaxation,
            self.relaxation > 0.0 && self.relaxation <= 1.0,
            "must lie in (0, 1]",
        )?;
        require(
            "mopo.reference_lag",
            self.reference_lag as f64,
            self.reference_lag > 0,
            "must be at least 1 step",
        )?;
        not_negative("mopo.lambda_lr", self.lambda_lr)?;
        not_negative("mopo.chi_lr", self.chi_lr)?;
        not_negative("mopo.lambda_max", self.lambda_max)?;
        require(
            "mopo.initial_lambda",
            self.initial_lambda,
            (0.0..=self.lambda_max).contains(&self.initial_lambda),
            "must lie in [0, lambda_max]",
        )?;
        positive("mopo.initial_chi", self.initial_chi)?;
        positive("mopo.ratio_clip", self.ratio_clip)?;
        if let Some(clip) = self.token_ratio_clip {
            positive("mopo.token_ratio_clip", clip)?;
        }
        require(
            "mopo.initial_threshold",
            self.initial_threshold,
            (0.0..=1.0).contains(&self.initial_threshold),
            "must lie in [0, 1]",
        )?;
        if self.dual == DualMethod::Exact
            && self.weight_normalization == WeightNormalization::Prompt
        {
            return Err(Error::InvalidParameter {
                field: "mopo.dual",
                value: "\"exact\" with mopo.weight_normalization = \"prompt\"".into(),
                expected: "the exact dual groups responses whatever their prompt is: use weight_normalization = \
                           \"batch\", or dual = \"joint\""
                    .into(),
            });
        }
        if let Some(fresh) = self.fresh {
            fresh.check()?;
            if let Some(clip) = self.token_ratio_clip {
                return Err(Error::InvalidParameter {
                    field: "mopo.token_ratio_clip",
                    value: format!("{clip} with mopo.fresh"),
                    expected: "the ratios of fresh answers are at most the number of policies: leave it out".into(),
                });
            }
        }
        not_negative("mopo.contrast_weight", self.contrast_weight)?;
        if self.extraction == Extraction::Pairwise && self.contrast_weight > 0.0 {
            return Err(Error::InvalidParameter {
                field: "mopo.contrast_weight",
                value: format!("{} with mopo.extraction = \"pairwise\"", self.contrast_weight),
                expected:
                    "there the contrastive loss is the only one: leave it out, or use extraction = \
                           \"cloning\""
                        .into(),
            });
        }
        if self.contrast_loss == ContrastLoss::Logistic
            && self.extraction == Extraction::Cloning
            && self.contrast_weight == 0.0
        {
            return Err(Error::InvalidParameter {
                field: "mopo.contrast_loss",
                value: "\"logistic\" without a contrast".into(),
                expected: "cloning alone has none: set extraction = \"pairwise\" or a contrast_weight, or leave it out"
                    .into(),
            });
        }
        if self.extraction == Extraction::Pairwise
            && self.weight_normalization == WeightNormalization::Prompt
        {
            return Err(Error::InvalidParameter {
                field: "mopo.weight_normalization",
                value: "\"prompt\" with mopo.extraction = \"pairwise\"".into(),
                expected:
                    "pairwise extraction has no normaliser: use weight_normalization = \"batch\""
                        .into(),
            });
        }
        if self.extraction == Extraction::Pairwise && self.ratio_smoothing != RatioSmoothing::None {
            return Err(Error::InvalidParameter {
                field: "mopo.ratio_smoothing",
                value: "\"pareto\" with mopo.extraction = \"pairwise\"".into(),
                expected: "pairwise extraction needs no ratios: use ratio_smoothing = \"none\""
                    .into(),
            });
        }
        if let (Extraction::Pairwise, Some(clip)) = (self.extraction, self.token_ratio_clip) {
            return Err(Error::InvalidParameter {
                field: "mopo.token_ratio_clip",
                value: format!("{clip} with mopo.extraction = \"pairwise\""),
                expected: "pairwise extraction needs no ratios: leave it out".into(),
            });
        }
        require(
            "mopo.prune_below",
            self.prune_below,
            (0.0..0.1).contains(&self.prune_below),
            "must lie in [0, 0.1)",
        )
    }
}

/// A key that is left out of files.
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

fn require(field: &'static str, value: f64, ok: bool, expected: &str) -> Result<()> {
    if ok {
        return Ok(());
    }
    Err(Error::InvalidParameter { field, value: value.to_string(), expected: expected.into() })
}
