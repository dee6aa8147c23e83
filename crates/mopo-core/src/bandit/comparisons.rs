//! Pairwise comparisons over a table of contexts and actions.

use crate::dual::{Context, TabularProblem};
use crate::{Error, Result};

/// One comparison of two actions of one context.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Index of the context.
    pub context: usize,
    /// The first action.
    pub first: usize,
    /// The second action.
    pub second: usize,
    /// I per objective, in \[0, 1\]: 1 where `first` is preferred.
    pub indicators: Vec<f32>,
}

/// A data set of comparisons, and its statistics for every (context, action), a *cell*: cells are
/// numbered context by context.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparisons {
    n_contexts: usize,
    n_actions: usize,
    n_objectives: usize,
    pairs: Vec<Comparison>,
    /// How often each cell is a response.
    counts: Vec<usize>,
    /// Mean indicator, `[n_objectives][n_cells]`; `unobserved` for cells without a response.
    preference: Vec<Vec<f64>>,
}

impl Comparisons {
    /// Checks the pairs and counts. `unobserved` is the preference for actions in no pair; 0 is
    /// pessimistic.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] without pairs, or for a pair that is out of range or has a wrong
    /// number of
    /// indicators; [`Error::InvalidIndicator`].
    /// indicators, or compares an action with itself; [`Error::InvalidIndicator`].
    pub fn new(
        n_contexts: usize,
        n_actions: usize,
        n_objectives: usize,
        pairs: Vec<Comparison>,
        unobserved: f64,
    ) -> Result<Self> {
        let n_cells = n_contexts * n_actions;
        let mut counts = vec![0; n_cells];
        let mut sums = vec![vec![0.0; n_cells]; n_objectives];
        for (i, pair) in pairs.iter().enumerate() {
            let fits = pair.context < n_contexts
                && pair.first < n_actions
                && pair.second < n_actions
                && pair.indicators.len() == n_objectives;
            if !fits {
                return Err(Error::InvalidParameter {
                    field: "pairs",
                    value: format!("{pair:?} (index {i})"),
                    expected: format!(
                        "there are {n_contexts} contexts, {n_actions} actions and {n_objectives} \
                         objectives"
                    ),
                });
            }
            let base = pair.context * n_actions;
            counts[base + pair.first] += 1;
            counts[base + pair.second] += 1;
            for (k, &indicator) in pair.indicators.iter().enumerate() {
                if !(0.0..=1.0).contains(&indicator) {
                    return Err(Error::InvalidIndicator(f64::from(indicator)));
                }
                sums[k][base + pair.first] += f64::from(indicator);
                sums[k][base + pair.second] += 1.0 - f64::from(indicator);
            }
        }
        if pairs.is_empty() {
            return Err(Error::InvalidParameter {
                field: "pairs",
                value: "none".into(),
                expected: "there must be at least one comparison".into(),
            });
        }
        for row in &mut sums {
            for (sum, &count) in row.iter_mut().zip(&counts) {
                *sum = if count > 0 { *sum / count as f64 } else { unobserved };
            }
        }
        Ok(Self { n_contexts, n_actions, n_objectives, pairs, counts, preference: sums })
    }

    /// Number of contexts.
    pub fn n_contexts(&self) -> usize {
        self.n_contexts
    }

    /// Number of actions per context.
    pub fn n_actions(&self) -> usize {
        self.n_actions
    }

    /// Number of objectives.
    pub fn n_objectives(&self) -> usize {
        self.n_objectives
    }

    /// The comparisons.
    pub fn pairs(&self) -> &[Comparison] {
        &self.pairs
    }

    /// Number of responses per cell.
    pub fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// p̂: mean indicator per objective and cell, `[n_objectives][n_cells]`.
    pub fn preference(&self) -> &[Vec<f64>] {
        &self.preference
    }

    /// Share of each context among all responses.
    pub fn context_shares(&self) -> Vec<f64> {
        let total = 2.0 * self.pairs.len() as f64;
        let of = |c: &[usize]| c.iter().sum::<usize>() as f64 / total;
        self.counts.chunks(self.n_actions).map(of).collect()
    }

    /// The exact problem with p̂ as the preference, the data's contexts, and a uniform reference.
    pub fn problem(
        &self,
        primary: usize,
        tau: f64,
        thresholds: Vec<Option<f64>>,
    ) -> TabularProblem {
        let contexts = self
            .context_shares()
            .into_iter()
            .enumerate()
            .map(|(x, weight)| {
                let cells = x * self.n_actions..(x + 1) * self.n_actions;
                Context {
                    weight,
                    reference: vec![1.0; self.n_actions],
                    preference: self.preference.iter().map(|q| q[cells.clone()].to_vec()).collect(),
                }
            })
            .collect();
        TabularProblem { contexts, primary, tau, thresholds }
    }
}
