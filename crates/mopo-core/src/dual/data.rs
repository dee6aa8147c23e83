//! The dual on a whole data set (docs/math.md, section 11): with fixed ratios it has one unknown
//! per secondary objective, and responses with equal labels can be merged.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::equilibrium::equilibrium;
use super::newton::{KktResidual, Local, minimise};
use crate::log_space::log_sum_exp;
use crate::lower_bound::solve as worst_mean;
use crate::{Error, Result};

/// The responses of a data set, those with equal labels merged: with labels 0, 1 and missing there
/// are at most 3^K groups, whatever the number of responses.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseGroups {
    n_objectives: usize,
    n_responses: usize,
    /// a_g: the groups' shares of Σ r, summing to 1.
    mass: Vec<f64>,
    /// `[n_groups × n_objectives]`; NaN where the label is missing.
    labels: Vec<f64>,
}

/// The multipliers for one policy on a data set, with the resulting estimates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExactDual {
    /// λ_k per objective; 0 for the primary and where the data have no label.
    pub lambda: Vec<f64>,
    /// χ_k per objective; 0 and infinity are the lower bound's limits. `None`: no label.
    pub chi: Vec<Option<f64>>,
    /// v_k per objective.
    pub plain: Vec<Option<f64>>,
    /// q̲_k per objective.
    pub lower_bound: Vec<Option<f64>>,
    /// q̲_k − b_k; `None` for the primary and without a label.
    pub slack: Vec<Option<f64>>,
    /// Whether λ_k is at the cap and the constraint violated, so that the threshold is
    /// unattainable.
    pub saturated: Vec<bool>,
    /// How exactly the conditions hold. Check it before using λ: if the path was not followed to
    /// its end, λ is where the search stopped, and the residual says how far off it is
    /// ([`ExactDual::is_solved`]).
    pub kkt: KktResidual,
    /// Newton steps.
    pub iterations: usize,
}

impl ExactDual {
    /// The largest residual of a solution, in the units of indicators.
    pub const TOLERANCE: f64 = 1e-6;

    /// Whether the conditions hold to [`TOLERANCE`](Self::TOLERANCE).
    pub fn is_solved(&self) -> bool {
        self.kkt.stationarity <= Self::TOLERANCE
    }
}

/// A problem for [`ResponseGroups::solve`].
#[derive(Debug, Clone, Copy)]
pub struct DualProblem<'a> {
    /// Index of the primary objective.
    pub primary: usize,
    /// τ > 0.
    pub tau: f64,
    /// b_k per objective; the primary's is ignored.
    pub thresholds: &'a [f64],
    /// ε_k per objective, in nats; 0: the plain estimate.
    pub radius: &'a [f64],
    /// Cap of λ.
    pub lambda_max: f64,
}

impl ResponseGroups {
    /// Groups responses. Each has one indicator per objective (`None`: missing) and log π_ref − log
    /// π_0,
    /// which is clipped at ±`ratio_clip`.
    ///
    /// Groups are ordered by first appearance. Complexity: O(n K).
    ///
    /// # Errors
    /// [`Error::InvalidIndicator`], [`Error::NonFinite`] for a ratio that is NaN, and
    /// [`Error::InvalidParameter`] if rows differ in length or there are none.
    pub fn new<'t>(
        responses: impl IntoIterator<Item = (&'t [Option<f32>], f32)>,
        ratio_clip: f64,
    ) -> Result<Self> {
        let mut index: HashMap<Vec<u32>, usize> = HashMap::new();
        let (mut labels, mut mass, mut n_responses) = (Vec::new(), Vec::<f64>::new(), 0);
        let mut n_objectives = None;
        let mut key = Vec::new();
        for (row, log_ratio) in responses {
            if *n_objectives.get_or_insert(row.len()) != row.len() || row.is_empty() {
                return Err(Error::InvalidParameter {
                    field: "responses",
                    value: format!("{} indicators (response {n_responses})", row.len()),
                    expected: "every response needs one per objective".into(),
                });
            }
            if log_ratio.is_nan() {
                return Err(Error::NonFinite(format!("the log-ratio of response {n_responses}")));
            }
            key.clear();
            for label in row {
                if let Some(i) = label
                    && !(0.0..=1.0).contains(i)
                {
                    return Err(Error::InvalidIndicator(f64::from(*i)));
                }
                // −0 and 0 are the same label.
                key.push(label.map_or(u32::MAX, |i| (i + 0.0).to_bits()));
            }
            let ratio = f64::from(log_ratio).clamp(-ratio_clip, ratio_clip).exp();
            n_responses += 1;
            match index.get(key.as_slice()) {
                Some(&g) => mass[g] += ratio,
                None => {
                    index.insert(key.clone(), mass.len());
                    mass.push(ratio);
                    labels.extend(row.iter().map(|l| l.map_or(f64::NAN, f64::from)));
                }
            }
        }
        let Some(n_objectives) = n_objectives else {
            return Err(Error::InvalidParameter {
                field: "responses",
                value: "none".into(),
                expected: "there must be at least one".into(),
            });
        };
        let mass = super::normalised("responses", &mass)?;
        Ok(Self { n_objectives, n_responses, mass, labels })
    }

    /// Number of responses.
    pub fn n_responses(&self) -> usize {
        self.n_responses
    }

    /// Number of groups.
    pub fn n_groups(&self) -> usize {
        self.mass.len()
    }

    /// The multipliers at which every constraint q̲_k ≥ b_k holds with λ_k = 0 or with equality, or
    /// λ_k is at its cap.
    ///
    /// Without a ball and with all labels this minimises the dual, which is convex. With a lower
    /// bound or missing labels there is no such function: the solution is the equilibrium of
    /// Algorithm 1's
    /// own steps, started at 0 and made infinitely small. It is found by implicit steps along
    /// that path, which become Newton steps at its end. A bound that falls as λ grows ends at the
    /// cap,
    /// as it does in Algorithm 1. About one random problem in 300,000 is not solved: check
    /// [`ExactDual::is_solved`].
    ///
    /// # Panics
    /// If thresholds or radii are not one per objective.
    pub fn solve(&self, problem: &DualProblem<'_>) -> ExactDual {
        let k = self.n_objectives;
        assert_eq!(problem.thresholds.len(), k, "one threshold per objective");
        assert_eq!(problem.radius.len(), k, "one radius per objective");
        let labelled: Vec<bool> =
            (0..k).map(|j| (0..self.mass.len()).any(|g| !self.label(g, j).is_nan())).collect();
        let secondary: Vec<usize> =
            (0..k).filter(|&j| j != problem.primary && labelled[j]).collect();
        let convex = secondary.iter().all(|&j| problem.radius[j] == 0.0)
            && secondary.iter().all(|&j| (0..self.mass.len()).all(|g| !self.label(g, j).is_nan()));
        let start = vec![0.0; secondary.len()];
        let cap = problem.lambda_max;
        let (at, slack, iterations) = if convex {
            let found = minimise(
                start,
                cap,
                1e-12,
                500,
                &mut |lambda| {
                    let (f, j) = self.residual(problem, &secondary, lambda);
                    Local { value: self.dual(problem, &secondary, lambda), gradient: f, hessian: j }
                },
                &mut |_| false,
            );
            (found.at, found.local.gradient, found.iterations)
        } else {
            equilibrium(start, cap, 1e-11, &mut |lambda| self.residual(problem, &secondary, lambda))
        };
        let kkt = KktResidual::new(&at, &slack, cap);
        let mut out = ExactDual {
            lambda: vec![0.0; k],
            chi: vec![None; k],
            plain: vec![None; k],
            lower_bound: vec![None; k],
            slack: vec![None; k],
            saturated: vec![false; k],
            kkt,
            iterations,
        };
        for (i, &j) in secondary.iter().enumerate() {
            out.lambda[j] = at[i];
            out.slack[j] = Some(slack[i]);
            out.saturated[j] = at[i] >= cap && slack[i] < 0.0;
        }
        let log_weights = self.log_weights(problem, &secondary, &at);
        for j in (0..k).filter(|&j| labelled[j]) {
            let view = self.view(&log_weights, j);
            let bound = worst_mean(&view.mass, &view.gain, problem.radius[j]);
            out.plain[j] = Some(view.mass.iter().zip(&view.gain).map(|(a, x)| a * x).sum());
            out.chi[j] = Some(bound.chi);
            out.lower_bound[j] = Some(bound.value);
        }
        out
    }

    /// q̲_k of the reference itself (w = 1), per objective; `None`: no label. With radius 0 the plain mean.
    ///
    /// # Panics
    /// If there is not one radius per objective.
    pub fn reference_levels(&self, radius: &[f64]) -> Vec<Option<f64>> {
        assert_eq!(radius.len(), self.n_objectives, "one radius per objective");
        let ones = vec![0.0; self.mass.len()];
        let level = |j: usize| {
            let view = self.view(&ones, j);
            worst_mean(&view.mass, &view.gain, radius[j]).value
        };
        let labelled = |j: usize| (0..self.mass.len()).any(|g| !self.label(g, j).is_nan());
        (0..self.n_objectives).map(|j| labelled(j).then(|| level(j))).collect()
    }

    fn label(&self, group: usize, objective: usize) -> f64 {
        self.labels[group * self.n_objectives + objective]
    }

    /// The label in s: a missing one counts as a tie.
    fn scored(&self, group: usize, objective: usize) -> f64 {
        let label = self.label(group, objective);
        if label.is_nan() { 0.5 } else { label }
    }

    /// s_g/τ.
    fn exponent(&self, problem: &DualProblem<'_>, secondary: &[usize], lambda: &[f64]) -> Vec<f64> {
        (0..self.mass.len())
            .map(|g| {
                let rest: f64 =
                    secondary.iter().zip(lambda).map(|(&j, l)| l * self.scored(g, j)).sum();
                (self.scored(g, problem.primary) + rest) / problem.tau
            })
            .collect()
    }

    fn log_weights(
        &self,
        problem: &DualProblem<'_>,
        secondary: &[usize],
        lambda: &[f64],
    ) -> Vec<f64> {
        let exponent = self.exponent(problem, secondary, lambda);
        let log_z = log_sum_exp(self.mass.iter().zip(&exponent).map(|(a, e)| a.ln() + e));
        exponent.into_iter().map(|e| e - log_z).collect()
    }

    /// τ log Σ a exp(s/τ) − λᵀ b.
    fn dual(&self, problem: &DualProblem<'_>, secondary: &[usize], lambda: &[f64]) -> f64 {
        let exponent = self.exponent(problem, secondary, lambda);
        let log_z = log_sum_exp(self.mass.iter().zip(&exponent).map(|(a, e)| a.ln() + e));
        let demand: f64 =
            secondary.iter().zip(lambda).map(|(&j, l)| l * problem.thresholds[j]).sum();
        problem.tau * log_z - demand
    }

    /// The groups that have a label of one objective, with a and w normalised over them.
    fn view(&self, log_weights: &[f64], objective: usize) -> View {
        let groups: Vec<usize> =
            (0..self.mass.len()).filter(|&g| !self.label(g, objective).is_nan()).collect();
        let total: f64 = groups.iter().map(|&g| self.mass[g]).sum();
        let mass: Vec<f64> = groups.iter().map(|&g| self.mass[g] / total).collect();
        let log_z = log_sum_exp(groups.iter().zip(&mass).map(|(&g, a)| a.ln() + log_weights[g]));
        let weights: Vec<f64> = groups.iter().map(|&g| (log_weights[g] - log_z).exp()).collect();
        let gain =
            groups.iter().zip(&weights).map(|(&g, w)| w * self.label(g, objective)).collect();
        View { groups, mass, weights, gain }
    }

    /// F_k = q̲_k − b_k and its Jacobian, row by row.
    fn residual(
        &self,
        problem: &DualProblem<'_>,
        secondary: &[usize],
        lambda: &[f64],
    ) -> (Vec<f64>, Vec<Vec<f64>>) {
        let log_weights = self.log_weights(problem, secondary, lambda);
        let mut f = Vec::with_capacity(secondary.len());
        let mut jacobian = Vec::with_capacity(secondary.len());
        for &k in secondary {
            let view = self.view(&log_weights, k);
            let bound = worst_mean(&view.mass, &view.gain, problem.radius[k]);
            f.push(bound.value - problem.thresholds[k]);
            // The adversary is optimal, so only w moves (envelope): dw/dλ_j = w (I_j − E[w I_j])/τ.
            jacobian.push(
                secondary
                    .iter()
                    .map(|&j| {
                        let (mut mean, mut slope, mut level) = (0.0, 0.0, 0.0);
                        for (i, &g) in view.groups.iter().enumerate() {
                            let label = self.scored(g, j);
                            let share = view.mass[i] * bound.reweighting[i] * view.gain[i];
                            mean += view.mass[i] * view.weights[i] * label;
                            slope += share * label;
                            level += share;
                        }
                        (slope - level * mean) / problem.tau
                    })
                    .collect(),
            );
        }
        (f, jacobian)
    }
}

struct View {
    groups: Vec<usize>,
    mass: Vec<f64>,
    weights: Vec<f64>,
    /// w I.
    gain: Vec<f64>,
}
