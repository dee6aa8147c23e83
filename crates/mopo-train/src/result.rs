//! The result of a finished run: held-out preference accuracy per policy and objective, and the
//! state of the constraints.

use std::fmt;

use mopo_core::Objectives;
use mopo_report::{Interval, MetricKey, Metrics, MetricsRow, Quantity};
use serde::{Deserialize, Serialize};

use crate::heldout::HeldoutEstimate;

/// The result's file; a run that has it is finished.
pub(crate) const RESULT: &str = "result.json";

/// A share of held-out pairs, and their number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Share of decided pairs that are ordered like the label; ties of the score count half.
    pub share: f64,
    /// Number of decided pairs (with a label that is not 0.5).
    pub n: usize,
}

/// The best evaluation between steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Number of finished steps.
    pub step: usize,
    /// What evaluations are compared by.
    pub metric: String,
    /// Its value; larger is better.
    pub value: f64,
}

/// What a method's training took in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunTokens {
    /// Of the differentiated passes.
    pub trained: u64,
    /// That policies have generated.
    pub generated: u64,
    /// Of passes without gradients during training: under a lagged reference, or of own answers.
    pub scored: u64,
}

impl RunTokens {
    /// Sums over the rows of a phase; `None` if its rows do not say, or if there are not `n_steps` of them. With
    /// `may_stop` there may be fewer.
    pub(crate) fn of(
        rows: &[MetricsRow],
        phase: &str,
        n_steps: usize,
        may_stop: bool,
    ) -> Option<Self> {
        let rows: Vec<&Metrics> =
            rows.iter().filter(|row| row.phase == phase).map(|row| &row.metrics).collect();
        let is_told = |row: &&Metrics| row.get(Quantity::TRAINED_TOKENS).is_some();
        let is_whole = rows.len() == n_steps || (may_stop && !rows.is_empty());
        if !is_whole || !rows.iter().all(is_told) {
            return None;
        }
        let sum = |quantity: Quantity| {
            let key = MetricKey::from(quantity);
            rows.iter().filter_map(|row| row.get(key.clone())).sum::<f64>() as u64
        };
        Some(Self {
            trained: sum(Quantity::TRAINED_TOKENS),
            generated: sum(Quantity::GENERATED_TOKENS),
            scored: sum(Quantity::SCORED_TOKENS),
        })
    }
}

/// One constraint of one policy at the end of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Constraint {
    /// The policy's primary objective.
    pub policy: String,
    /// The secondary objective.
    pub objective: String,
    /// Mean of b_k over the last steps.
    pub threshold: f64,
    /// Mean of q̲_k − b_k over those steps; negative: violated.
    pub slack: f64,
    /// Mean of λ_k over those steps.
    pub lambda: f64,
    /// Share of those steps with λ at its cap and the constraint violated.
    pub saturated: f64,
    /// The same objective's mean under the policy on held-out pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heldout: Option<HeldoutEstimate>,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Objectives of the data, in order.
    pub objectives: Vec<String>,
    /// The SFT model: how well does log π_0 order held-out pairs, for each objective?
    #[serde(rename = "warm_start")]
    pub sft: Vec<Option<Accuracy>>,
    /// Each policy by name: how well does log(π/π_0) order them? `[n_objectives]`.
    pub policies: Vec<(String, Vec<Option<Accuracy>>)>,
    /// Tokens of the method's training. Results of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<RunTokens>,
    /// The best evaluation between steps, if there were any; with `training.load_best_model_at_end` the policies are those
    /// of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// Number of steps over which the constraints are averaged.
    pub last_steps: usize,
    /// The constraints.
    pub constraints: Vec<Constraint>,
    /// Seconds of training in this process (for a resumed run, since it was resumed).
    pub seconds: f64,
}

/// Accuracy per objective of `score[pair] = [first, second]` on labelled pairs.
pub(crate) fn accuracies(
    labels: &[Vec<Option<f32>>],
    score: impl Fn(usize) -> [f32; 2],
    n_objectives: usize,
) -> Vec<Option<Accuracy>> {
    (0..n_objectives)
        .map(|k| {
            let (mut right, mut n) = (0.0, 0);
            for (i, row) in labels.iter().enumerate() {
                let Some(label) = row[k].filter(|l| *l != 0.5) else { continue };
                let [first, second] = score(i);
                n += 1;
                right += match first.partial_cmp(&second) {
                    Some(std::cmp::Ordering::Equal) | None => 0.5,
                    Some(order) => f64::from(u8::from(order.is_gt() == (label > 0.5))),
                };
            }
            (n > 0).then(|| Accuracy { share: right / n as f64, n })
        })
        .collect()
}

/// Means of log π over the preferred and the other responses of the pairs that objective `k` decides, if there are any.
pub(crate) fn mean_log_probs(
    labels: &[Vec<Option<f32>>],
    log_probs: &[[f32; 2]],
    k: usize,
) -> Option<[f64; 2]> {
    let (mut sums, mut n) = ([0.0; 2], 0);
    for (row, of) in labels.iter().zip(log_probs) {
        let Some(label) = row[k].filter(|label| *label != 0.5) else { continue };
        let chosen = usize::from(label < 0.5);
        sums[0] += f64::from(of[chosen]);
        sums[1] += f64::from(of[1 - chosen]);
        n += 1;
    }
    (n > 0).then(|| sums.map(|sum| sum / f64::from(n)))
}

/// More steps than these say no more of a constraint's slack.
const MAX_ROWS: usize = 100;

/// Means over the rows of the method's phase since its last refresh, at most [`MAX_ROWS`], and their number. `end`: the
/// number of steps after which the run's policies are, if not after all.
pub(crate) fn constraints(
    rows: &[MetricsRow],
    phase: &str,
    objectives: &Objectives,
    primaries: &[usize],
    reference_lag: usize,
    end: Option<usize>,
) -> (Vec<Constraint>, usize) {
    let is_later = |row: &&MetricsRow| end.is_some_and(|end| row.step >= end);
    let rows = || {
        let own = |row: &&MetricsRow| row.phase == phase;
        rows.iter().rev().take_while(own).skip_while(is_later)
    };
    let first = rows().next().map_or(0, |row| row.step / reference_lag * reference_lag);
    let rows: Vec<&Metrics> =
        rows().take_while(|row| row.step >= first).take(MAX_ROWS).map(|row| &row.metrics).collect();
    let mean = |key: &MetricKey| {
        let values: Vec<f64> = rows.iter().filter_map(|row| row.get(key.clone())).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let mut out = Vec::new();
    for &p in primaries {
        let policy = objectives.name(p);
        for k in (0..objectives.len()).filter(|&k| k != p) {
            let objective = objectives.name(k);
            let of = |quantity: Quantity| mean(&quantity.between(policy, objective));
            if let (Some(threshold), Some(slack), Some(lambda)) =
                (of(Quantity::THRESHOLD), of(Quantity::SLACK), of(Quantity::LAMBDA))
            {
                out.push(Constraint {
                    policy: policy.into(),
                    objective: objective.into(),
                    threshold,
                    slack,
                    lambda,
                    saturated: of(Quantity::LAMBDA_SATURATED).unwrap_or(0.0),
                    heldout: None,
                });
            }
        }
    }
    (out, rows.len())
}

impl fmt::Display for RunResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "held-out preference accuracy (share of decided pairs, and their number)")?;
        write!(f, "  {:<24}", "policy")?;
        for o in &self.objectives {
            write!(f, " {o:>18}")?;
        }
        writeln!(f)?;
        let cell = |a: &Option<Accuracy>| match a {
            Some(a) => format!("{:.1} % of {}", 100.0 * a.share, a.n),
            None => "no labels".into(),
        };
        let sft = ("SFT model, log π₀".to_string(), self.sft.clone());
        let rows = self.policies.iter().map(|(n, a)| (format!("{n}, log π/π₀"), a.clone()));
        for (name, row) in std::iter::once(sft).chain(rows) {
            write!(f, "  {name:<24}")?;
            for a in &row {
                write!(f, " {:>18}", cell(a))?;
            }
            writeln!(f)?;
        }
        if self.constraints.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "constraints on held-out pairs (95 % interval), and slack on the last {} training batches",
            self.last_steps
        )?;
        for c in &self.constraints {
            write!(f, "  {:<10} asks {:<10} ≥ {:.3}: ", c.policy, c.objective, c.threshold)?;
            match &c.heldout {
                None => write!(f, "no held-out labels")?,
                Some(found) => {
                    let Interval { low, high } = found.interval;
                    write!(f, "{:.3} ({low:.3} to {high:.3})  ", found.mean)?;
                    match found.pareto_k {
                        _ if found.is_trusted() => write!(f, "{}", found.verdict(c.threshold))?,
                        Some(k) => write!(f, "undecided: ratios not to be trusted, k̂ {k:.1}")?,
                        None => write!(f, "undecided: too few pairs")?,
                    }
                    if !found.is_trusted() {
                        let Interval { low, high } = found.choice_interval;
                        write!(f, "; its choices {:.3} ({low:.3} to {high:.3})", found.choice)?;
                    }
                }
            }
            let cap =
                if c.saturated > 0.5 { ", at its cap: not attainable at this τ" } else { "" };
            writeln!(f, "; slack {:+.3}, λ {:.2}{cap}", c.slack, c.lambda)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_counts_decided_pairs_and_halves_ties() {
        let labels = vec![
            vec![Some(1.0), None],
            vec![Some(0.0), None],
            vec![Some(0.5), None],
            vec![Some(1.0), None],
        ];
        let scores = [[2.0, 1.0], [2.0, 1.0], [0.0, 9.0], [3.0, 3.0]];
        let a = accuracies(&labels, |i| scores[i], 2);
        assert_eq!(a[0], Some(Accuracy { share: 0.5, n: 3 })); // right, wrong, tie
        assert_eq!(a[1], None);
    }
}
