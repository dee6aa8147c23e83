//! A problem with two objectives whose true values are known, and what can be solved on it in closed form.

use crate::bandit::comparisons::MergedPairs;
use crate::bandit::{Comparisons, Labels, Structure, ToySet};
use crate::divergence::{Divergence, mix, optimal_policy};
use crate::dual::Context;
use crate::{Error, Result, TabularProblem};

/// Where a problem comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Structure(Structure),
    Toy(ToySet),
}

/// Contexts are equally frequent, and the reference is uniform. Tables are `[n_cells]`, context by context.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) origin: Origin,
    pub(super) name: &'static str,
    pub(super) n_contexts: usize,
    pub(super) n_actions: usize,
    /// r_k; a structure has none, and its preferences stand for them.
    pub(super) rewards: [Vec<f64>; 2],
    /// P(y ≻ μ).
    pub(super) preference: [Vec<f64>; 2],
}

/// A policy of a front with one threshold.
pub(super) struct Constrained {
    pub(super) primary: usize,
    pub(super) threshold: f64,
    pub(super) lambda: f64,
    pub(super) policy: Vec<f64>,
}

impl Problem {
    pub(super) fn of_structure(structure: Structure) -> Self {
        let data = structure.comparisons();
        let preference = [0, 1].map(|k| data.preference()[k].clone());
        Self {
            origin: Origin::Structure(structure),
            name: structure.name(),
            n_contexts: data.n_contexts(),
            n_actions: data.n_actions(),
            rewards: preference.clone(),
            preference,
        }
    }

    pub(super) fn of_toy(set: ToySet) -> Self {
        Self {
            origin: Origin::Toy(set),
            name: set.name(),
            n_contexts: ToySet::N_CONTEXTS,
            n_actions: ToySet::N_ACTIONS,
            rewards: set.rewards(),
            preference: set.preference(),
        }
    }

    pub(super) fn n_cells(&self) -> usize {
        self.n_contexts * self.n_actions
    }

    /// The comparisons that everything learns from; a structure's are always the same.
    pub(super) fn data(&self, n_pairs: usize, labels: Labels, seed: u64) -> Result<Comparisons> {
        match self.origin {
            Origin::Structure(structure) => Ok(structure.comparisons()),
            Origin::Toy(set) => set.sample(n_pairs, labels, &[1.0, 0.0], seed),
        }
    }

    /// E\[values\] under a policy.
    pub(super) fn mean(&self, values: &[f64], policy: &[f64]) -> f64 {
        values.iter().zip(policy).map(|(v, p)| v * p).sum::<f64>() / self.n_contexts as f64
    }

    /// KL(π ‖ uniform) in nats, mean over contexts.
    pub(super) fn kl(&self, policy: &[f64]) -> f64 {
        let n = self.n_actions as f64;
        let terms = policy.iter().filter(|p| **p > 0.0).map(|p| p * (p * n).ln());
        terms.sum::<f64>() / self.n_contexts as f64
    }

    pub(super) fn uniform(&self) -> Vec<f64> {
        vec![1.0 / self.n_actions as f64; self.n_cells()]
    }

    /// max E\[values of the primary\] − τ KL with a threshold on the other, or none, contexts with these shares.
    pub(super) fn constrained(
        &self,
        values: &[Vec<f64>],
        shares: &[f64],
        (primary, tau): (usize, f64),
        threshold: Option<f64>,
    ) -> Result<Constrained> {
        let context = |(x, weight): (usize, &f64)| {
            let cells = x * self.n_actions..(x + 1) * self.n_actions;
            Context {
                weight: *weight,
                reference: vec![1.0; self.n_actions],
                preference: values.iter().map(|q| q[cells.clone()].to_vec()).collect(),
            }
        };
        let mut thresholds = vec![None; 2];
        thresholds[1 - primary] = threshold;
        let contexts = shares.iter().enumerate().map(context).collect();
        let solution = TabularProblem { contexts, primary, tau, thresholds }.solve()?;
        Ok(Constrained {
            primary,
            threshold: threshold.unwrap_or(f64::NAN),
            lambda: solution.lambda[1 - primary],
            policy: solution.policy.concat(),
        })
    }

    /// Thresholds of the objective that is not `primary`, from none that binds to the best attainable at this τ.
    pub(super) fn sweep(
        &self,
        values: &[Vec<f64>; 2],
        primary: usize,
        tau: f64,
        n: usize,
    ) -> Result<Vec<f64>> {
        let shares = vec![1.0; self.n_contexts];
        let attained = |of: usize| -> Result<f64> {
            let policy = self.constrained(values, &shares, (of, tau), None)?.policy;
            Ok(self.mean(&values[1 - primary], &policy))
        };
        let (free, best) = (attained(primary)?, attained(1 - primary)?);
        let at = |i: usize| free + (best - free) * i as f64 / (n.max(2) - 1) as f64;
        Ok((0..n).map(at).collect())
    }

    /// The constrained optimum at every threshold of both sweeps, which are of `truth`, on `values` as they are known.
    /// Thresholds that are out of reach there are left out.
    pub(super) fn front(
        &self,
        truth: &[Vec<f64>; 2],
        values: &[Vec<f64>],
        shares: &[f64],
        tau: f64,
        n: usize,
    ) -> Result<Vec<Constrained>> {
        let mut front = Vec::new();
        for primary in [0, 1] {
            for b in self.sweep(truth, primary, tau, n)? {
                match self.constrained(values, shares, (primary, tau), Some(b)) {
                    Ok(policy) => front.push(policy),
                    Err(Error::Infeasible { .. }) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(front)
    }

    /// argmax E\[score\] − strength · D(π ‖ uniform), context by context.
    pub(super) fn regularised(
        &self,
        divergence: Divergence,
        score: &[f64],
        strength: f64,
    ) -> Result<Vec<f64>> {
        let log_reference = vec![-(self.n_actions as f64).ln(); self.n_actions];
        let mut policy = Vec::with_capacity(score.len());
        for row in score.chunks(self.n_actions) {
            let log_policy = optimal_policy(divergence, &log_reference, row, strength)?;
            policy.extend(log_policy.into_iter().map(f64::exp));
        }
        Ok(policy)
    }

    /// π ∝ exp((f_p + λ f_k)/τ) with the least λ at which the mean of `values` reaches the threshold: pairwise
    /// extraction, whose constraint is on mean labels while its scores are those of the pairs. `None`: out of reach.
    pub(super) fn tilted(
        &self,
        scores: &[Vec<f64>; 2],
        shares: &[f64],
        (primary, tau): (usize, f64),
        (values, threshold): (&[f64], f64),
    ) -> Result<Option<Vec<f64>>> {
        let at = |lambda: f64| -> Result<(Vec<f64>, bool)> {
            let pairs = scores[primary].iter().zip(&scores[1 - primary]);
            let score: Vec<f64> = pairs.map(|(p, q)| p + lambda * q).collect();
            let policy = self.regularised(Divergence::ReverseKl, &score, tau)?;
            let cells = policy.iter().zip(values).enumerate();
            let share = |cell: usize| shares[cell / self.n_actions];
            let mean: f64 = cells.map(|(cell, (p, v))| share(cell) * p * v).sum();
            Ok((policy, mean >= threshold))
        };
        let (free, is_met) = at(0.0)?;
        if is_met {
            return Ok(Some(free));
        }
        let (mut low, mut high) = (0.0, 1e3);
        let (mut found, is_met) = at(high)?;
        if !is_met {
            return Ok(None);
        }
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            let (policy, is_met) = at(middle)?;
            match is_met {
                true => (high, found) = (middle, policy),
                false => low = middle,
            }
        }
        Ok(Some(found))
    }

    /// The exact mixture of two policies under a divergence, context by context.
    pub(super) fn mixture(
        &self,
        divergence: Divergence,
        policies: [&[f64]; 2],
        weight: f64,
    ) -> Result<Vec<f64>> {
        let log_reference = vec![-(self.n_actions as f64).ln(); self.n_actions];
        // Tables of f32 can have lost an action to underflow.
        let logs = |p: &[f64]| p.iter().map(|p| p.max(1e-300).ln()).collect::<Vec<f64>>();
        let [first, second] = policies.map(|p| p.chunks(self.n_actions).map(logs));
        let mut out = Vec::with_capacity(self.n_cells());
        for (first, second) in first.zip(second) {
            let mixed =
                mix(divergence, &[&first, &second], &log_reference, &[weight, 1.0 - weight])?;
            out.extend(mixed.into_iter().map(f64::exp));
        }
        Ok(out)
    }

    /// The strength at which the optimum for the first reward has this KL from uniform, by bisection in its
    /// logarithm: that KL falls with it.
    pub(super) fn matched_strength(&self, divergence: Divergence, kl: f64) -> Result<f64> {
        let (mut low, mut high) = (1e-4f64.ln(), 1e4f64.ln());
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            let policy = self.regularised(divergence, &self.rewards[0], middle.exp())?;
            match self.kl(&policy) > kl {
                true => low = middle,
                false => high = middle,
            }
        }
        Ok((0.5 * (low + high)).exp())
    }
}

/// α₁ a + (1 − α₁) b.
pub(super) fn blend(weight: f64, [a, b]: [&[f64]; 2]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| weight * a + (1.0 - weight) * b).collect()
}

/// The f of least Σ over pairs (f(y) − f(y′) − (I − ½))², of mean 0 over what pairs connect: P(y ≻ μ) − ½ for μ uniform
/// there, from single comparisons. By conjugate gradients on the normal equations.
pub(super) fn projected(
    pairs: &MergedPairs,
    labels: &(Vec<f64>, Vec<f64>),
    n_cells: usize,
) -> Vec<f64> {
    let edges = || pairs.cells.iter().zip(&labels.0).filter(|(_, n)| **n > 0.0);
    let apply = |f: &[f64]| {
        let mut out = vec![0.0; n_cells];
        for ([a, b], n) in edges() {
            let flow = n * (f[*a] - f[*b]);
            out[*a] += flow;
            out[*b] -= flow;
        }
        out
    };
    let mut residual = vec![0.0; n_cells];
    for (([a, b], n), mean) in pairs.cells.iter().zip(&labels.0).zip(&labels.1) {
        residual[*a] += n * (mean - 0.5);
        residual[*b] -= n * (mean - 0.5);
    }
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let (mut f, mut direction) = (vec![0.0; n_cells], residual.clone());
    let (first, mut square) = (dot(&residual, &residual), dot(&residual, &residual));
    for _ in 0..10 * n_cells {
        if square <= 1e-24 * first || square == 0.0 {
            break;
        }
        let image = apply(&direction);
        let step = square / dot(&direction, &image);
        for i in 0..n_cells {
            f[i] += step * direction[i];
            residual[i] -= step * image[i];
        }
        let next = dot(&residual, &residual);
        for (d, r) in direction.iter_mut().zip(&residual) {
            *d = r + next / square * *d;
        }
        square = next;
    }
    f
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bandit::Comparison;

    #[test]
    fn the_projection_of_complete_comparisons_is_the_mean_preference() {
        // Four labels of each pair of three actions; with ties against itself, P(y ≻ μ) = ½ + f(y).
        let wins = [(0, 1, 3), (0, 2, 4), (2, 1, 2)];
        let pairs = wins.iter().flat_map(|&(first, second, won)| {
            (0..4).map(move |i| Comparison {
                context: 0,
                first,
                second,
                indicators: vec![if i < won { 1.0 } else { 0.0 }],
            })
        });
        let data = Comparisons::new(1, 3, 1, pairs.collect(), 0.0).unwrap();
        let merged = MergedPairs::new(&data);
        let labels = data.pairs().iter().map(|p| Some(f64::from(p.indicators[0])));
        let f = projected(&merged, &merged.merge(labels), 3);
        let mean = [0.75, 1.25 / 3.0, 1.0 / 3.0];
        for (f, mean) in f.iter().zip(mean) {
            assert!((f + 0.5 - mean).abs() < 1e-10, "{f} {mean}");
        }
    }

    #[test]
    fn matched_strengths_spend_the_same_divergence() {
        let problem = Problem::of_toy(ToySet::A);
        for divergence in [Divergence::ReverseKl, Divergence::ForwardKl, Divergence::Alpha(0.5)] {
            let strength = problem.matched_strength(divergence, 0.5).unwrap();
            let policy = problem.regularised(divergence, &problem.rewards[0], strength).unwrap();
            assert!((problem.kl(&policy) - 0.5).abs() < 1e-6, "{divergence}");
        }
    }
}
