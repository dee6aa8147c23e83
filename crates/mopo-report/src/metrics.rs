//! Metrics of training steps, and `metrics.jsonl`, which has one line per step. Training writes it;
//! results and curves read it, always through these types.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserializer, Error as _};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

macro_rules! quantities {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// A quantity of a step; docs/math.md defines each one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Quantity {
            $($(#[$doc])+ $variant,)+
        }

        impl Quantity {
            /// All quantities.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name in keys.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

quantities! {
    /// The loss, of all policies or of one.
    Loss = "loss",
    /// Norm of the gradient before clipping.
    GradientNorm = "gradient_norm",
    /// Learning rate of the step.
    LearningRate = "learning_rate",
    /// Tokens of the differentiated pass per second.
    TokensPerSecond = "tokens_per_second",
    /// Tokens of the differentiated passes.
    TrainedTokens = "trained_tokens",
    /// Tokens that policies have generated for the step.
    GeneratedTokens = "generated_tokens",
    /// Tokens of passes without gradients: under a reference, or of own answers.
    ScoredTokens = "scored_tokens",
    /// Share of the responses that any policy needed.
    NeededTerms = "needed_terms",
    /// Share of the pairs that the objective decides.
    DecidedPairs = "decided_pairs",
    /// b_k.
    Threshold = "threshold",
    /// λ_k.
    Lambda = "lambda",
    /// χ_k.
    Chi = "chi",
    /// q_k as the plain mean.
    Plain = "plain",
    /// q̲_k, its lower bound.
    LowerBound = "lower_bound",
    /// q̲_k − b_k.
    Slack = "slack",
    /// 1 where λ_k is at its cap with the constraint violated, else 0.
    LambdaSaturated = "lambda_saturated",
    /// Residual of the exact dual's conditions.
    KktResidual = "kkt_residual",
    /// Effective sample size of the importance weights.
    EffectiveSampleSize = "effective_sample_size",
    /// Effective sample size of the ratios.
    RatioSampleSize = "ratio_sample_size",
    /// k̂ of the ratios π_ref/π_0 of all pairs, where they are smoothed: above 0.7 they are not to be trusted.
    RatioShape = "ratio_shape",
    /// KL from the initial policy, estimated on the batch.
    KlInitial = "kl_initial",
    /// Share of decided pairs, or examples, that are ordered correctly.
    Accuracy = "accuracy",
    /// Chosen minus rejected reward.
    Margin = "margin",
    /// Implicit reward of preferred responses, for DPO β log(π/π_ref).
    ChosenReward = "chosen_reward",
    /// Implicit reward of the others.
    RejectedReward = "rejected_reward",
    /// log π of preferred responses, summed over tokens.
    ChosenLogProb = "chosen_log_prob",
    /// log π of the others.
    RejectedLogProb = "rejected_log_prob",
    /// Share of the responses whose reward had its exponent cut off.
    ClampedResponses = "clamped_responses",
    /// Number of the stage, from 0, of a method that trains on one objective after the other.
    Stage = "stage",
    /// Cosine of an objective's gradient and the weighted sum of all of them; negative: they conflict.
    GradientCosine = "gradient_cosine",
    /// The objective's part in the correction of conflicting gradients, before clipping.
    CorrectionWeight = "correction_weight",
    /// The objective's factor in the step's gradient.
    GradientFactor = "gradient_factor",
    /// z-score of the policy's own answers: weighted, or on one objective.
    Score = "score",
    /// Weight of the KL in the reward.
    KlCoefficient = "kl_coefficient",
    /// The clipped surrogate, negated.
    PolicyLoss = "policy_loss",
    /// The loss of the value head.
    ValueLoss = "value_loss",
    /// The KL term of the loss, before its weight.
    KlPenalty = "kl_penalty",
    /// Share of the tokens whose ratio is cut off.
    ClipFraction = "clip_fraction",
    /// Entropy per token, estimated on the policy's own answers.
    Entropy = "entropy",
    /// Share of the policy's own answers that are learnt.
    KeptAnswers = "kept_answers",
    /// How often an objective's reward prefers a policy's fresh answers to the data's responses.
    FreshPreference = "fresh_preference",
    /// Tokens of the policy's own answers.
    AnswerLength = "answer_length",
    /// Share of the policy's own answers that the limit of tokens cut off.
    UnfinishedAnswers = "unfinished_answers",
    /// Mean reward of a policy for an objective, estimated on the batch.
    MeanReward = "mean_reward",
    /// Hypervolume of the policies' mean rewards.
    Hypervolume = "hypervolume",
    /// 1 where a policy has no share of its own in the hypervolume, else 0.
    Dominated = "dominated",
    /// Share of decided held-out pairs that log(π/π_0) orders like their labels.
    EvalAccuracy = "eval_accuracy",
    /// log π of preferred held-out responses, summed over tokens.
    EvalChosenLogProb = "eval_chosen_log_prob",
    /// log π of the others.
    EvalRejectedLogProb = "eval_rejected_log_prob",
    /// Mean score of a policy's answers to a few held-out prompts.
    EvalScore = "eval_score",
    /// Hypervolume of these means.
    EvalHypervolume = "eval_hypervolume",
}

impl Quantity {
    /// The key of this quantity for one policy or one part of the data.
    pub fn of(self, scope: &str) -> MetricKey {
        MetricKey { scope: Some(scope.into()), quantity: self, objective: None }
    }

    /// The key of this quantity for a policy's constraint on another objective.
    pub fn between(self, policy: &str, objective: &str) -> MetricKey {
        MetricKey { objective: Some(objective.into()), ..self.of(policy) }
    }
}

/// The key of a number in a row: a quantity, perhaps of a policy, perhaps with respect to an
/// objective. Written as `loss`, `helpful/loss` or `helpful/lambda/harmless`, and ordered like
/// these texts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MetricKey {
    /// The policy's primary objective, or `validation`.
    pub scope: Option<String>,
    /// The quantity.
    pub quantity: Quantity,
    /// The secondary objective.
    pub objective: Option<String>,
}

impl From<Quantity> for MetricKey {
    fn from(quantity: Quantity) -> Self {
        Self { scope: None, quantity, objective: None }
    }
}

impl MetricKey {
    /// Its parts in written order.
    fn parts(&self) -> impl Iterator<Item = &str> {
        let scope = self.scope.iter().map(String::as_str);
        scope.chain([self.quantity.name()]).chain(self.objective.as_deref())
    }
}

impl fmt::Display for MetricKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.parts().enumerate() {
            let slash = if i > 0 { "/" } else { "" };
            write!(f, "{slash}{part}")?;
        }
        Ok(())
    }
}

impl FromStr for MetricKey {
    type Err = ();

    /// Fails for unknown quantities.
    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let quantity = |name: &str| Quantity::ALL.iter().copied().find(|q| q.name() == name);
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [name] => quantity(name).map(Self::from),
            [scope, name] => quantity(name).map(|q| q.of(scope)),
            [policy, name, objective] => quantity(name).map(|q| q.between(policy, objective)),
            _ => None,
        }
        .ok_or(())
    }
}

impl Ord for MetricKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let bytes = |key: &Self| key.to_string();
        bytes(self).cmp(&bytes(other))
    }
}

impl PartialOrd for MetricKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The metrics of one step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics(BTreeMap<MetricKey, f64>);

impl Metrics {
    /// Sets a value.
    pub fn set(&mut self, key: impl Into<MetricKey>, value: f64) {
        self.0.insert(key.into(), value);
    }

    /// Sets the number of tokens of a step's differentiated passes, and their rate.
    pub fn set_trained_tokens(&mut self, n_tokens: usize, step: Duration) {
        self.set(Quantity::TrainedTokens, n_tokens as f64);
        self.set(Quantity::TokensPerSecond, n_tokens as f64 / step.as_secs_f64());
    }

    /// A value.
    pub fn get(&self, key: impl Into<MetricKey>) -> Option<f64> {
        self.0.get(&key.into()).copied()
    }

    /// All values in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&MetricKey, f64)> {
        self.0.iter().map(|(key, value)| (key, *value))
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<const N: usize> From<[(Quantity, f64); N]> for Metrics {
    fn from(values: [(Quantity, f64); N]) -> Self {
        Self(values.into_iter().map(|(quantity, value)| (quantity.into(), value)).collect())
    }
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsRow {
    /// Phase of the run.
    pub phase: String,
    /// Step of the phase, from 0.
    pub step: usize,
    /// The metrics.
    pub metrics: Metrics,
}

impl Serialize for MetricsRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("phase", &self.phase)?;
        map.serialize_entry("step", &self.step)?;
        for (key, value) in self.metrics.iter() {
            map.serialize_entry(&key.to_string(), &value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for MetricsRow {
    /// Anything but the step may be missing; values that are not numbers and unknown quantities are
    /// ignored.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let fields = serde_json::Map::<String, Value>::deserialize(deserializer)?;
        let step = fields.get("step").and_then(Value::as_u64);
        let number = |(key, value): (&String, &Value)| Some((key.parse().ok()?, value.as_f64()?));
        Ok(Self {
            phase: fields.get("phase").and_then(Value::as_str).unwrap_or_default().into(),
            step: step.ok_or_else(|| D::Error::missing_field("step"))? as usize,
            metrics: Metrics(fields.iter().filter_map(number).collect()),
        })
    }
}

/// A `metrics.jsonl` as far as it can be read: a damaged log must not prevent anything else.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricsLog {
    /// The rows in the file's order.
    pub rows: Vec<MetricsRow>,
    /// Number of lines that are not rows.
    pub n_unreadable: usize,
}

impl MetricsLog {
    /// Reads a file.
    ///
    /// # Errors
    /// It is missing, is not a regular file, or cannot be read at all.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { action: "read", path: path.into(), source };
        // Reading a pipe would block.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(io(std::io::Error::other("it is not a regular file")));
        }
        Ok(Self::parse(&std::fs::read(path).map_err(io)?))
    }

    /// Reads a file's bytes, which need not even be UTF-8.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut log = Self::default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(row) => log.rows.push(row),
                Err(_) => log.n_unreadable += 1,
            }
        }
        log.rows = in_order(log.rows);
        log
    }
}

/// Each step once, as it was written last, and in order within its phase: a file that was pieced
/// together must not count steps twice.
fn in_order(rows: Vec<MetricsRow>) -> Vec<MetricsRow> {
    let is_ordered = rows.windows(2).all(|pair| {
        let [before, after] = pair else { return true };
        before.phase != after.phase || before.step < after.step
    });
    let mut phases: Vec<&str> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        if i == 0 || rows[i - 1].phase != row.phase {
            phases.push(&row.phase);
        }
    }
    let n_phases = phases.len();
    phases.sort_unstable();
    phases.dedup();
    if is_ordered && phases.len() == n_phases {
        return rows;
    }
    let mut found: Vec<(String, BTreeMap<usize, MetricsRow>)> = Vec::new();
    for row in rows {
        match found.iter_mut().find(|(phase, _)| *phase == row.phase) {
            Some((_, steps)) => drop(steps.insert(row.step, row)),
            None => found.push((row.phase.clone(), BTreeMap::from([(row.step, row)]))),
        }
    }
    found.into_iter().flat_map(|(_, steps)| steps.into_values()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written_and_ordered_as_their_text() {
        let mut keys: Vec<MetricKey> = Vec::new();
        for &q in Quantity::ALL {
            keys.extend([q.into(), q.of("helpful"), q.of("a-b"), q.between("helpful", "humor")]);
        }
        for key in &keys {
            assert_eq!(key.to_string().parse(), Ok(key.clone()));
        }
        let mut texts: Vec<String> = keys.iter().map(ToString::to_string).collect();
        keys.sort();
        texts.sort();
        assert_eq!(keys.iter().map(ToString::to_string).collect::<Vec<_>>(), texts);
        for unknown in ["", "step", "losses", "a/b", "a/loss/b/c", "loss/a/b"] {
            assert_eq!(unknown.parse::<MetricKey>(), Err(()), "{unknown}");
        }
    }

    #[test]
    fn a_row_is_one_flat_object() {
        let mut metrics = Metrics::from([(Quantity::Loss, 0.1), (Quantity::GradientNorm, 2.0)]);
        metrics.set(Quantity::Lambda.between("helpful", "harmless"), 1e-7);
        let row = MetricsRow { phase: "mopo".into(), step: 3, metrics };
        let text = serde_json::to_string(&row).unwrap();
        let expected = r#"{"phase":"mopo","step":3,"gradient_norm":2.0,"helpful/lambda/harmless":1e-7,"loss":0.1}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<MetricsRow>(&text).unwrap(), row);
    }

    #[test]
    fn each_step_counts_once_and_in_its_order() {
        let text: String =
            [("sft", 0, 1), ("mopo", 1, 1), ("mopo", 0, 1), ("mopo", 1, 2), ("sft", 1, 1)]
                .map(|(phase, step, loss)| {
                    format!("{{\"phase\":\"{phase}\",\"step\":{step},\"loss\":{loss}}}\n")
                })
                .concat();
        let log = MetricsLog::parse(text.as_bytes());
        let rows: Vec<_> = log.rows.iter().map(|row| (row.phase.as_str(), row.step)).collect();
        assert_eq!(rows, [("sft", 0), ("sft", 1), ("mopo", 0), ("mopo", 1)]);
        assert_eq!(log.rows[3].metrics.get(Quantity::Loss), Some(2.0));
    }

    #[test]
    fn a_damaged_log_is_read_as_far_as_it_goes() {
        let row = |step| format!("{{\"phase\":\"mopo\",\"step\":{step},\"loss\":1.5}}\n");
        let mut bytes = [row(0), row(1), row(2)].concat().into_bytes();
        bytes[row(0).len() + 12] = 0xff;
        bytes.extend(b"{\"phase\":\"mopo\",\"st");
        let log = MetricsLog::parse(&bytes);
        assert_eq!(log.rows.iter().map(|row| row.step).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(log.n_unreadable, 2);
        assert_eq!(log.rows[1].metrics.get(Quantity::Loss), Some(1.5));
        let dir = tempfile::tempdir().unwrap();
        assert!(MetricsLog::read(dir.path()).is_err(), "a folder is no log");
        let error = MetricsLog::read(&dir.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
    }
}
