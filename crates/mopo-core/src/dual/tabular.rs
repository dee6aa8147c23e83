//! The constrained problem (COP) on a table of probabilities, solved exactly (docs/math.md, section
//! 2): the reference for everything that is learned.

use super::newton::{KktResidual, Local, Minimum, minimise, minimise_inside};
use super::normalised;
use crate::log_space::log_sum_exp;
use crate::{Error, Result};

/// One context (prompt) of a [`TabularProblem`].
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// Its share among the contexts; any non-negative numbers, which are normalised.
    pub weight: f64,
    /// π_ref(y|x), `[n_actions]`; normalised if needed. Actions of probability 0 keep it.
    pub reference: Vec<f64>,
    /// P(y ≻ μ|x) per objective, `[n_objectives][n_actions]`.
    pub preference: Vec<Vec<f64>>,
}

/// max E\[p\] − τ KL(π ‖ π_ref) such that E\[q_k\] ≥ b_k for every secondary objective that has a
/// threshold, expectations over contexts and the policy's actions.
#[derive(Debug, Clone, PartialEq)]
pub struct TabularProblem {
    /// At least one; they may have different numbers of actions.
    pub contexts: Vec<Context>,
    /// Index of the primary objective.
    pub primary: usize,
    /// τ > 0.
    pub tau: f64,
    /// b_k per objective; `None`: no threshold. The primary's must be `None`.
    pub thresholds: Vec<Option<f64>>,
}

/// The optimum.
#[derive(Debug, Clone, PartialEq)]
pub struct CopSolution {
    /// π(y|x) per context, `[n_contexts][n_actions]`.
    pub policy: Vec<Vec<f64>>,
    /// λ_k per objective; 0 for the primary and where there is no threshold.
    pub lambda: Vec<f64>,
    /// E\[q_k\] under the policy, per objective, the primary included.
    pub attained: Vec<f64>,
    /// D(λ), equal to the primal optimum.
    pub dual_value: f64,
    /// How exactly the conditions of optimality hold.
    pub kkt: KktResidual,
    /// Newton steps, including those at larger τ.
    pub iterations: usize,
}

/// The logarithms of the weights w = exp(s/τ)/E_ref\[exp(s/τ)\], for which E_ref\[w\] = 1.
///
/// `reference` and `score` are `[n_actions]`; the reference is taken as normalised. The paper's
/// proposition 3.1 has w = exp(s/τ − 1), without the condition on the mean; normalised under the
/// reference, that is the same.
pub fn log_weights(reference: &[f64], score: &[f64], tau: f64) -> Vec<f64> {
    let tilted = reference.iter().zip(score).map(|(r, s)| r.ln() + s / tau);
    let log_z = log_sum_exp(tilted);
    score.iter().map(|s| s / tau - log_z).collect()
}

/// Violations below this are attributed to rounding.
const FEASIBLE: f64 = 1e-12;
/// Required accuracy of a solution.
const ACCEPTED: f64 = 1e-7;

impl TabularProblem {
    /// Solves with thresholds on the average over the contexts: one multiplier per objective.
    ///
    /// Projected Newton on the dual, in log space, lowering τ step by step from the size of the
    /// preferences (at small τ the dual is nearly piecewise linear).
    ///
    /// # Errors
    /// [`Error::Infeasible`] if no policy meets the thresholds; [`Error::InvalidParameter`] and
    /// [`Error::NonFinite`] for an invalid problem; [`Error::NotConverged`] if the conditions
    /// of optimality are not met to 1e-7.
    pub fn solve(&self) -> Result<CopSolution> {
        let table = Table::new(self)?;
        table.solve(self.primary, &self.thresholds, self.tau)
    }

    /// The largest E\[q_k\] that a policy on the reference's support can have if the thresholds of
    /// the objectives in `given` are met (exact for an empty list, else to about 1e-6).
    ///
    /// # Errors
    /// Those of [`solve`](Self::solve).
    pub fn best_attainable(&self, objective_idx: usize, given: &[usize]) -> Result<f64> {
        let table = Table::new(self)?;
        if objective_idx >= self.thresholds.len() {
            return Err(Error::InvalidParameter {
                field: "objective_idx",
                value: objective_idx.to_string(),
                expected: format!("the problem has {} objectives", self.thresholds.len()),
            });
        }
        table.best(objective_idx, given, &self.thresholds)
    }
}

/// The problem without actions that cannot be chosen.
#[derive(Clone)]
struct Table {
    n_objectives: usize,
    contexts: Vec<TableContext>,
}

#[derive(Clone)]
struct TableContext {
    weight: f64,
    n_actions: usize,
    /// Actions of positive probability.
    support: Vec<usize>,
    log_reference: Vec<f64>,
    /// `[n_objectives][support]`.
    preference: Vec<Vec<f64>>,
}

impl Table {
    fn new(problem: &TabularProblem) -> Result<Self> {
        let invalid = |field, value: String, expected: &str| {
            Err(Error::InvalidParameter { field, value, expected: expected.into() })
        };
        let n_objectives = problem.thresholds.len();
        if problem.primary >= n_objectives {
            return invalid(
                "primary",
                problem.primary.to_string(),
                "it must be below the number of objectives (one entry of `thresholds` for each)",
            );
        }
        if problem.thresholds[problem.primary].is_some() {
            return invalid("thresholds", "Some for the primary".into(), "the primary has none");
        }
        if let Some(b) = problem.thresholds.iter().flatten().find(|b| !b.is_finite()) {
            return Err(Error::NonFinite(format!("the threshold {b}")));
        }
        if !(problem.tau.is_finite() && problem.tau > 0.0) {
            return invalid("tau", problem.tau.to_string(), "must be a number > 0");
        }
        let weights: Vec<f64> = problem.contexts.iter().map(|c| c.weight).collect();
        let weights = normalised("weight", &weights)?;
        let mut contexts = Vec::with_capacity(weights.len());
        for (i, (context, weight)) in problem.contexts.iter().zip(weights).enumerate() {
            let reference = normalised("reference", &context.reference)
                .map_err(|e| Error::InContext { context: i, source: Box::new(e) })?;
            let n_actions = reference.len();
            if context.preference.len() != n_objectives
                || context.preference.iter().any(|q| q.len() != n_actions)
            {
                return invalid(
                    "preference",
                    format!("of context {i}"),
                    "it needs one row per objective with one number per action",
                );
            }
            if context.preference.iter().flatten().any(|q| !q.is_finite()) {
                return Err(Error::NonFinite(format!("`preference` of context {i}")));
            }
            let support: Vec<usize> = (0..n_actions).filter(|&y| reference[y] > 0.0).collect();
            contexts.push(TableContext {
                weight,
                n_actions,
                log_reference: support.iter().map(|&y| reference[y].ln()).collect(),
                preference: context
                    .preference
                    .iter()
                    .map(|q| support.iter().map(|&y| q[y]).collect())
                    .collect(),
                support,
            });
        }
        Ok(Self { n_objectives, contexts })
    }

    fn solve(&self, primary: usize, thresholds: &[Option<f64>], tau: f64) -> Result<CopSolution> {
        let (minimum, secondary) = self.minimise(primary, thresholds, tau);
        if minimum.stopped {
            return Err(self.infeasible(thresholds));
        }
        let lambda = self.spread(&secondary, &minimum.at);
        let kkt = KktResidual::new(&minimum.at, &minimum.local.gradient, f64::INFINITY);
        if kkt.stationarity.is_nan() || kkt.stationarity > ACCEPTED {
            return Err(Error::NotConverged {
                what: "the exact dual",
                residual: kkt.stationarity,
                iterations: minimum.iterations,
            });
        }
        let mut policy = Vec::with_capacity(self.contexts.len());
        let mut attained = vec![0.0; self.n_objectives];
        for context in &self.contexts {
            let (_, probabilities) = context.tilt(primary, &lambda, tau);
            for (k, attained) in attained.iter_mut().enumerate() {
                let mean: f64 =
                    probabilities.iter().zip(&context.preference[k]).map(|(p, q)| p * q).sum();
                *attained += context.weight * mean;
            }
            let mut row = vec![0.0; context.n_actions];
            for (&y, p) in context.support.iter().zip(probabilities) {
                row[y] = p;
            }
            policy.push(row);
        }
        Ok(CopSolution {
            policy,
            lambda,
            attained,
            dual_value: minimum.local.value,
            kkt,
            iterations: minimum.iterations,
        })
    }

    /// Extends multipliers of the secondary objectives to a vector over all.
    fn spread(&self, secondary: &[usize], multipliers: &[f64]) -> Vec<f64> {
        let mut lambda = vec![0.0; self.n_objectives];
        for (&k, &l) in secondary.iter().zip(multipliers) {
            lambda[k] = l;
        }
        lambda
    }

    fn minimise(
        &self,
        primary: usize,
        thresholds: &[Option<f64>],
        tau: f64,
    ) -> (Minimum, Vec<usize>) {
        let secondary: Vec<usize> =
            (0..self.n_objectives).filter(|&k| thresholds[k].is_some()).collect();
        // Slacks instead of preferences: for large λ, D is their small difference.
        let mut centred = self.clone();
        for context in &mut centred.contexts {
            for &k in &secondary {
                let b = thresholds[k].expect("secondary objectives have thresholds");
                context.preference[k].iter_mut().for_each(|q| *q -= b);
            }
        }
        let range = self.contexts.iter().flat_map(|c| c.preference.iter().map(|q| spread_of(q)));
        let mut stage = range.fold(tau, f64::max);
        let mut start = vec![0.0; secondary.len()];
        let mut iterations = 0;
        loop {
            stage = stage.max(tau);
            let last = stage <= tau;
            let mut minimum = minimise(
                start,
                f64::INFINITY,
                if last { 1e-13 } else { 1e-6 },
                if last { 500 } else { 60 },
                &mut |lambda| centred.dual(primary, &secondary, lambda, stage),
                &mut |lambda| centred.certifies_infeasible(&secondary, lambda),
            );
            iterations += minimum.iterations;
            minimum.iterations = iterations;
            if last && !minimum.stopped && residual(&minimum) > ACCEPTED {
                let inside = minimise_inside(
                    minimum.at.clone(),
                    &mut |lambda| centred.dual(primary, &secondary, lambda, tau),
                    &mut |lambda| centred.certifies_infeasible(&secondary, lambda),
                );
                iterations += inside.iterations;
                if inside.stopped || residual(&inside) < residual(&minimum) {
                    minimum = Minimum { iterations, ..inside };
                }
            }
            if last || minimum.stopped {
                return (minimum, secondary);
            }
            start = minimum.at;
            stage *= 0.25;
        }
    }

    /// D, its gradient E\[w q\] − b and its Hessian Cov(q)/τ in the secondary multipliers, on a
    /// table of q − b.
    fn dual(&self, primary: usize, secondary: &[usize], lambda: &[f64], tau: f64) -> Local {
        let n = secondary.len();
        let full = self.spread(secondary, lambda);
        let mut value = 0.0;
        let mut gradient = vec![0.0; n];
        let mut hessian = vec![vec![0.0; n]; n];
        for context in self.contexts.iter().filter(|c| c.weight > 0.0) {
            let (log_z, policy) = context.tilt(primary, &full, tau);
            value += context.weight * tau * log_z;
            let mean: Vec<f64> = secondary
                .iter()
                .map(|&k| policy.iter().zip(&context.preference[k]).map(|(p, q)| p * q).sum())
                .collect();
            for i in 0..n {
                gradient[i] += context.weight * mean[i];
                for j in 0..n {
                    let (qi, qj) =
                        (&context.preference[secondary[i]], &context.preference[secondary[j]]);
                    let covariance: f64 = policy
                        .iter()
                        .zip(qi.iter().zip(qj))
                        .map(|(p, (x, y))| p * (x - mean[i]) * (y - mean[j]))
                        .sum();
                    hessian[i][j] += context.weight * covariance / tau;
                }
            }
        }
        Local { value, gradient, hessian }
    }

    /// Whether λ proves that no policy meets the thresholds: E\[max over y of λᵀ(q − b)\] < 0, so
    /// every policy violates the combination of constraints with weights λ. On a table of q − b.
    fn certifies_infeasible(&self, secondary: &[usize], lambda: &[f64]) -> bool {
        let total: f64 = lambda.iter().sum();
        if total == 0.0 {
            return false;
        }
        let best: f64 = self
            .contexts
            .iter()
            .map(|c| {
                let of = |y: usize| -> f64 {
                    secondary.iter().zip(lambda).map(|(&k, l)| l * c.preference[k][y]).sum()
                };
                c.weight * (0..c.support.len()).map(of).fold(f64::NEG_INFINITY, f64::max)
            })
            .sum();
        best < -FEASIBLE * total
    }

    /// Names the first threshold that cannot be met together with those before it.
    fn infeasible(&self, thresholds: &[Option<f64>]) -> Error {
        let mut given = Vec::new();
        let mut closest = None;
        // First thresholds that are unattainable on their own, for a clearer message.
        for alone in [true, false] {
            given.clear();
            for k in 0..self.n_objectives {
                let Some(threshold) = thresholds[k] else { continue };
                let before: &[usize] = if alone { &[] } else { &given };
                if let Ok(attainable) = self.best(k, before, thresholds) {
                    let error = Error::Infeasible {
                        objective_idx: k,
                        threshold,
                        attainable,
                        given: before.to_vec(),
                    };
                    let slack = attainable - threshold;
                    // The result for given thresholds is accurate only to 1e-6.
                    if slack < if alone { -FEASIBLE } else { -2e-6 } {
                        return error;
                    }
                    if !alone && closest.as_ref().is_none_or(|(least, _)| slack <= *least) {
                        closest = Some((slack, error));
                    }
                }
                given.push(k);
            }
        }
        closest.map(|c| c.1).expect("only thresholds can be infeasible")
    }

    fn best(&self, k: usize, given: &[usize], thresholds: &[Option<f64>]) -> Result<f64> {
        let given: Vec<Option<f64>> = (0..self.n_objectives)
            .map(|j| if j != k && given.contains(&j) { thresholds[j] } else { None })
            .collect();
        if given.iter().all(Option::is_none) {
            let best = |c: &TableContext| c.preference[k].iter().cloned().fold(f64::MIN, f64::max);
            return Ok(self.contexts.iter().map(|c| c.weight * best(c)).sum());
        }
        // The regularised optimum is below the best by at most τ log(1/π_ref).
        let least = self.contexts.iter().flat_map(|c| &c.log_reference).cloned();
        let tau = 1e-6 / (1.0 - least.fold(0.0, f64::min));
        Ok(self.solve(k, &given, tau)?.attained[k])
    }
}

impl TableContext {
    /// log E_ref\[exp(s/τ)\] and the policy on the support.
    fn tilt(&self, primary: usize, lambda: &[f64], tau: f64) -> (f64, Vec<f64>) {
        let mut exponent: Vec<f64> = self.preference[primary].iter().map(|p| p / tau).collect();
        for (k, &l) in lambda.iter().enumerate() {
            if l != 0.0 && k != primary {
                for (e, q) in exponent.iter_mut().zip(&self.preference[k]) {
                    *e += l * q / tau;
                }
            }
        }
        for (e, r) in exponent.iter_mut().zip(&self.log_reference) {
            *e += r;
        }
        let log_z = log_sum_exp(exponent.iter().cloned());
        (log_z, exponent.into_iter().map(|e| (e - log_z).exp()).collect())
    }
}

fn residual(minimum: &Minimum) -> f64 {
    KktResidual::new(&minimum.at, &minimum.local.gradient, f64::INFINITY).stationarity
}

fn spread_of(values: &[f64]) -> f64 {
    let low = values.iter().cloned().fold(f64::INFINITY, f64::min);
    let high = values.iter().cloned().fold(f64::NEG_INFINITY, f64::max);
    (high - low).max(0.0)
}
