//! Pairwise comparisons over a table of contexts and actions.

use std::collections::BTreeMap;

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
    /// [`Error::InvalidParameter`] without pairs, or for a pair that is out of range or has a wrong number of
    /// indicators; [`Error::InvalidIndicator`].
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

/// The comparisons of a data set, those of the same two cells as one: a loss that is linear in labels needs only
/// their number and mean label. Comparisons of an action with itself teach nothing and are left out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MergedPairs {
    /// The cells of each merged pair.
    pub(crate) cells: Vec<[usize; 2]>,
    /// Of each comparison: its merged pair, and whether that has its cells the other way round.
    places: Vec<Option<(usize, bool)>>,
}

impl MergedPairs {
    pub(crate) fn new(data: &Comparisons) -> Self {
        let mut known: BTreeMap<[usize; 2], usize> = BTreeMap::new();
        let cells = |p: &Comparison| [p.first, p.second].map(|y| p.context * data.n_actions + y);
        for [a, b] in data.pairs.iter().map(cells).filter(|[a, b]| a != b) {
            known.insert([a.min(b), a.max(b)], 0);
        }
        for (place, at) in known.values_mut().enumerate() {
            *at = place;
        }
        let place = |[a, b]: [usize; 2]| known.get(&[a.min(b), a.max(b)]).map(|at| (*at, a > b));
        Self {
            places: data.pairs.iter().map(|p| place(cells(p))).collect(),
            cells: known.into_keys().collect(),
        }
    }

    /// Number of labels and their mean per merged pair, 0 and ½ where there are none. `labels`: one per comparison;
    /// `None` leaves it out.
    pub(crate) fn merge(&self, labels: impl Iterator<Item = Option<f64>>) -> (Vec<f64>, Vec<f64>) {
        let (mut counts, mut sums) = (vec![0.0; self.cells.len()], vec![0.0; self.cells.len()]);
        for (place, label) in self.places.iter().zip(labels) {
            if let (Some((at, turned)), Some(label)) = (place, label) {
                counts[*at] += 1.0;
                sums[*at] += if *turned { 1.0 - label } else { label };
            }
        }
        let mean = |(sum, n): (&f64, &f64)| if *n > 0.0 { sum / n } else { 0.5 };
        let means = sums.iter().zip(&counts).map(mean).collect();
        (counts, means)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_of_two_cells_merge_either_way_round() {
        let pair = |context, first, second, label| Comparison {
            context,
            first,
            second,
            indicators: vec![label],
        };
        let pairs = vec![
            pair(0, 0, 1, 1.0),
            pair(0, 1, 0, 1.0),
            pair(0, 1, 0, 0.5),
            pair(1, 0, 1, 0.0),
            pair(1, 2, 2, 1.0),
        ];
        let data = Comparisons::new(2, 3, 1, pairs, 0.0).unwrap();
        let merged = MergedPairs::new(&data);
        assert_eq!(merged.cells, [[0, 1], [3, 4]]);
        let labels = || data.pairs().iter().map(|p| Some(f64::from(p.indicators[0])));
        assert_eq!(merged.merge(labels()), (vec![3.0, 1.0], vec![0.5, 0.0]));
        let decided = labels().map(|l| l.filter(|l| *l != 0.5));
        assert_eq!(merged.merge(decided).0, [2.0, 1.0]);
        assert_eq!(merged.merge([None; 5].into_iter()), (vec![0.0; 2], vec![0.5; 2]));
    }
}
