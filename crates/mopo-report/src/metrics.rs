//! Metrics of training steps, and `metrics.jsonl`, which has one line per step. Training writes it;
//! results and curves read it, always through these types.

use std::borrow::Cow;
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

/// What a number of a step is. Those here are of several methods, or are drawn; a method names its own beside its code
/// and defines them on its page in docs/methods.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Quantity(Cow<'static, str>);

impl Quantity {
    /// The loss, of all policies or of one.
    pub const LOSS: Self = Self::new("loss");
    /// Norm of the gradient before clipping.
    pub const GRADIENT_NORM: Self = Self::new("gradient_norm");
    /// Learning rate of the step.
    pub const LEARNING_RATE: Self = Self::new("learning_rate");
    /// Tokens of the differentiated pass per second.
    pub const TOKENS_PER_SECOND: Self = Self::new("tokens_per_second");
    /// Tokens of the differentiated passes.
    pub const TRAINED_TOKENS: Self = Self::new("trained_tokens");
    /// Tokens that policies have generated for the step.
    pub const GENERATED_TOKENS: Self = Self::new("generated_tokens");
    /// Tokens of passes without gradients: under a reference, or of own answers.
    pub const SCORED_TOKENS: Self = Self::new("scored_tokens");
    /// Share of the pairs that the objective decides.
    pub const DECIDED_PAIRS: Self = Self::new("decided_pairs");
    /// b_k.
    pub const THRESHOLD: Self = Self::new("threshold");
    /// λ_k.
    pub const LAMBDA: Self = Self::new("lambda");
    /// χ_k.
    pub const CHI: Self = Self::new("chi");
    /// q̲_k − b_k.
    pub const SLACK: Self = Self::new("slack");
    /// 1 where λ_k is at its cap with the constraint violated, else 0.
    pub const LAMBDA_SATURATED: Self = Self::new("lambda_saturated");
    /// Effective sample size of the ratios.
    pub const RATIO_SAMPLE_SIZE: Self = Self::new("ratio_sample_size");
    /// KL from the initial policy, estimated on the batch.
    pub const KL_INITIAL: Self = Self::new("kl_initial");
    /// Share of decided pairs, or examples, that are ordered correctly.
    pub const ACCURACY: Self = Self::new("accuracy");
    /// Chosen minus rejected reward.
    pub const MARGIN: Self = Self::new("margin");
    /// Implicit reward of preferred responses, for DPO β log(π/π_ref).
    pub const CHOSEN_REWARD: Self = Self::new("chosen_reward");
    /// Implicit reward of the others.
    pub const REJECTED_REWARD: Self = Self::new("rejected_reward");
    /// log π of preferred responses, summed over tokens.
    pub const CHOSEN_LOG_PROB: Self = Self::new("chosen_log_prob");
    /// log π of the others.
    pub const REJECTED_LOG_PROB: Self = Self::new("rejected_log_prob");
    /// z-score of the policy's own answers: weighted, or on one objective.
    pub const SCORE: Self = Self::new("score");
    /// Share of decided held-out pairs that log(π/π_0) orders like their labels.
    pub const EVAL_ACCURACY: Self = Self::new("eval_accuracy");
    /// log π of preferred held-out responses, summed over tokens.
    pub const EVAL_CHOSEN_LOG_PROB: Self = Self::new("eval_chosen_log_prob");
    /// log π of the others.
    pub const EVAL_REJECTED_LOG_PROB: Self = Self::new("eval_rejected_log_prob");
    /// Mean score of a policy's answers to a few held-out prompts.
    pub const EVAL_SCORE: Self = Self::new("eval_score");
    /// Hypervolume of these means.
    pub const EVAL_HYPERVOLUME: Self = Self::new("eval_hypervolume");

    /// A quantity by its name in keys: lower-case words joined by underscores.
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// Its name in keys.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl FromStr for Quantity {
    type Err = ();

    /// Fails for what cannot be a name, and for the two keys of a row that are no quantities.
    fn from_str(name: &str) -> std::result::Result<Self, ()> {
        let is_word = |word: &str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        let is_name = name.split('_').all(is_word) && !ROW_KEYS.contains(&name);
        if is_name { Ok(Self(Cow::Owned(name.into()))) } else { Err(()) }
    }
}

/// The keys of a row that are no quantities.
const ROW_KEYS: [&str; 2] = ["phase", "step"];

impl Quantity {
    /// The key of this quantity for one policy or one part of the data.
    pub fn of(&self, scope: &str) -> MetricKey {
        MetricKey { scope: Some(scope.into()), quantity: self.clone(), objective: None }
    }

    /// The key of this quantity for a policy's constraint on another objective.
    pub fn between(&self, policy: &str, objective: &str) -> MetricKey {
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

    /// Fails for what cannot be a key.
    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [name] => Ok(name.parse::<Quantity>()?.into()),
            [scope, name] => Ok(name.parse::<Quantity>()?.of(scope)),
            [policy, name, objective] => Ok(name.parse::<Quantity>()?.between(policy, objective)),
            _ => Err(()),
        }
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
        self.set(Quantity::TRAINED_TOKENS, n_tokens as f64);
        self.set(Quantity::TOKENS_PER_SECOND, n_tokens as f64 / step.as_secs_f64());
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
    /// Anything but the step may be missing; what is neither it nor the phase nor a number of a quantity is ignored.
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
        for q in [Quantity::LOSS, Quantity::GRADIENT_NORM, Quantity::new("a_methods_own_2")] {
            keys.extend([q.clone().into(), q.of("helpful"), q.of("a-b")]);
            keys.push(q.between("helpful", "humor"));
        }
        for key in &keys {
            assert_eq!(key.to_string().parse(), Ok(key.clone()));
        }
        let mut texts: Vec<String> = keys.iter().map(ToString::to_string).collect();
        keys.sort();
        texts.sort();
        assert_eq!(keys.iter().map(ToString::to_string).collect::<Vec<_>>(), texts);
        for unknown in
            ["", "step", "phase", "a/step", "Loss", "loss_", "a b", "a/loss/b/c", "a/B/b"]
        {
            assert_eq!(unknown.parse::<MetricKey>(), Err(()), "{unknown}");
        }
    }

    #[test]
    fn a_row_is_one_flat_object() {
        let mut metrics = Metrics::from([(Quantity::LOSS, 0.1), (Quantity::GRADIENT_NORM, 2.0)]);
        metrics.set(Quantity::LAMBDA.between("helpful", "harmless"), 1e-7);
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
        assert_eq!(log.rows[3].metrics.get(Quantity::LOSS), Some(2.0));
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
        assert_eq!(log.rows[1].metrics.get(Quantity::LOSS), Some(1.5));
        let dir = tempfile::tempdir().unwrap();
        assert!(MetricsLog::read(dir.path()).is_err(), "a folder is no log");
        let error = MetricsLog::read(&dir.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
    }
}
