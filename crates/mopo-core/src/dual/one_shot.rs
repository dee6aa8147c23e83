//! The dual of constrained alignment on scored responses, solved once before training (Huang et al., 2024,
//! arXiv 2405.19544).

#[cfg(test)]
mod published;

use super::newton::{KktResidual, Local, minimise};
use crate::log_space::log_sum_exp;
use crate::{Error, Result};

/// Responses of prompts with their scores: samples of the initial policy.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredPrompts {
    n_objectives: usize,
    /// `[n_prompts][n_responses × n_objectives]`.
    prompts: Vec<Vec<f64>>,
}

/// The multipliers of [`ScoredPrompts::dual`], and what the closed form at them attains.
#[derive(Debug, Clone, PartialEq)]
pub struct OneShotDual {
    /// λ_k per objective; 0 for those without a threshold.
    pub lambda: Vec<f64>,
    /// E_{π*}\[r_k\] per objective, for the primary too.
    pub level: Vec<f64>,
    /// Whether λ_k is at the cap and its threshold missed.
    pub saturated: Vec<bool>,
    /// How exactly the conditions hold, in the unit of scores.
    pub kkt: KktResidual,
    /// Newton steps.
    pub iterations: usize,
}

/// A problem for [`ScoredPrompts::dual`].
#[derive(Debug, Clone, Copy)]
pub struct OneShotProblem<'a> {
    /// Index of the primary objective.
    pub primary: usize,
    /// b_k per objective, in the unit of its scores; `None`: no constraint. The primary's is ignored.
    pub thresholds: &'a [Option<f64>],
    /// β > 0, weight of the KL term.
    pub beta: f64,
    /// Cap of λ.
    pub lambda_max: f64,
}

impl ScoredPrompts {
    /// From the scores of each prompt's responses, `[n_prompts][n_responses][n_objectives]`. Prompts count
    /// alike, and so do a prompt's responses.
    ///
    /// # Errors
    /// There are no prompts, or one has no responses; responses differ in their number of scores; a score is
    /// not finite.
    pub fn new(prompts: &[Vec<&[f32]>]) -> Result<Self> {
        let refuse = |value: String, expected: &str| {
            Err(Error::InvalidParameter { field: "scores", value, expected: expected.into() })
        };
        let Some(first) = prompts.first().and_then(|responses| responses.first()) else {
            return refuse("empty".into(), "there must be at least one prompt with a response");
        };
        let n_objectives = first.len();
        let mut all = Vec::with_capacity(prompts.len());
        for responses in prompts {
            if responses.is_empty() {
                return refuse("empty for a prompt".into(), "each needs at least one response");
            }
            if let Some(row) = responses.iter().find(|row| row.len() != n_objectives) {
                let expected = "every response needs one for each objective";
                return refuse(format!("{} and {n_objectives} numbers", row.len()), expected);
            }
            let scores: Vec<f64> =
                responses.iter().flat_map(|r| r.iter().map(|s| f64::from(*s))).collect();
            if scores.iter().any(|score| !score.is_finite()) {
                return Err(Error::NonFinite("a score".into()));
            }
            all.push(scores);
        }
        Ok(Self { n_objectives, prompts: all })
    }

    /// E_{π_0}\[r_k\] per objective: the mean over prompts of the mean over responses.
    pub fn means(&self) -> Vec<f64> {
        let mut means = vec![0.0; self.n_objectives];
        for scores in &self.prompts {
            let rows = scores.chunks_exact(self.n_objectives);
            let share = 1.0 / (rows.len() * self.prompts.len()) as f64;
            for row in rows {
                means.iter_mut().zip(row).for_each(|(mean, score)| *mean += share * score);
            }
        }
        means
    }

    /// The λ ≥ 0, up to the cap, that minimise the dual
    ///
    /// D(λ) = E_x β log E_{π_0}\[exp((r_p + Σ_k λ_k (r_k − b_k))/β) | x\],
    ///
    /// which is convex; its gradient is E_{π*}\[r_k\] − b_k at π* ∝ π_0 exp((r_p + Σ λ_k r_k)/β). Each expectation
    /// given a prompt is the mean over its responses.
    ///
    /// Complexity: O(n K²) for each of a few Newton steps.
    ///
    /// # Panics
    /// If thresholds are not one per objective.
    pub fn dual(&self, problem: &OneShotProblem<'_>) -> OneShotDual {
        let k = self.n_objectives;
        assert_eq!(problem.thresholds.len(), k, "one threshold per objective, perhaps None");
        let constrained: Vec<(usize, f64)> = (0..k)
            .filter(|&j| j != problem.primary)
            .filter_map(|j| Some((j, problem.thresholds[j]?)))
            .collect();
        // Slacks below this are rounding.
        let unit =
            self.prompts.iter().flatten().fold(1.0, |most: f64, score| most.max(score.abs()));
        let found = minimise(
            vec![0.0; constrained.len()],
            problem.lambda_max,
            1e-12 * unit,
            500,
            &mut |lambda| self.local(problem, &constrained, lambda),
            &mut |_| false,
        );
        let slack = &found.local.gradient;
        let mut out = OneShotDual {
            lambda: vec![0.0; k],
            level: vec![0.0; k],
            saturated: vec![false; k],
            kkt: KktResidual::new(&found.at, slack, problem.lambda_max),
            iterations: found.iterations,
        };
        for (i, &(j, _)) in constrained.iter().enumerate() {
            out.lambda[j] = found.at[i];
            out.saturated[j] = found.at[i] >= problem.lambda_max && slack[i] < 0.0;
        }
        for scores in &self.prompts {
            let (weights, _) = self.weights(problem, &constrained, &found.at, scores);
            for (row, weight) in scores.chunks_exact(k).zip(weights) {
                let share = weight / self.prompts.len() as f64;
                out.level.iter_mut().zip(row).for_each(|(level, score)| *level += share * score);
            }
        }
        out
    }

    /// π* of a prompt's responses, and log E exp.
    fn weights(
        &self,
        problem: &OneShotProblem<'_>,
        constrained: &[(usize, f64)],
        lambda: &[f64],
        scores: &[f64],
    ) -> (Vec<f64>, f64) {
        let rows = scores.chunks_exact(self.n_objectives);
        let n = rows.len() as f64;
        let exponents: Vec<f64> = rows
            .map(|row| {
                let rest = constrained.iter().zip(lambda).map(|(&(j, b), l)| l * (row[j] - b));
                (row[problem.primary] + rest.sum::<f64>()) / problem.beta
            })
            .collect();
        let log_sum = log_sum_exp(exponents.iter().copied());
        (exponents.into_iter().map(|e| (e - log_sum).exp()).collect(), log_sum - n.ln())
    }

    /// D, its gradient and its Hessian E_x Cov_{π*}\[r_j, r_k\]/β.
    fn local(
        &self,
        problem: &OneShotProblem<'_>,
        constrained: &[(usize, f64)],
        lambda: &[f64],
    ) -> Local {
        let n = constrained.len();
        let mut local =
            Local { value: 0.0, gradient: vec![0.0; n], hessian: vec![vec![0.0; n]; n] };
        let share = 1.0 / self.prompts.len() as f64;
        for scores in &self.prompts {
            let (weights, log_mean) = self.weights(problem, constrained, lambda, scores);
            local.value += share * problem.beta * log_mean;
            let rows = || scores.chunks_exact(self.n_objectives).zip(&weights);
            let mean =
                |&(j, b): &(usize, f64)| rows().map(|(row, w)| w * (row[j] - b)).sum::<f64>();
            let means: Vec<f64> = constrained.iter().map(mean).collect();
            for i in 0..n {
                local.gradient[i] += share * means[i];
                for j in 0..n {
                    let apart =
                        |row: &[f64], i: usize| row[constrained[i].0] - constrained[i].1 - means[i];
                    let covariance: f64 =
                        rows().map(|(row, w)| w * apart(row, i) * apart(row, j)).sum();
                    local.hessian[i][j] += share * covariance / problem.beta;
                }
            }
        }
        local
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solve(
        prompts: &[Vec<&[f32]>],
        thresholds: &[Option<f64>],
        beta: f64,
    ) -> (ScoredPrompts, OneShotDual) {
        let scored = ScoredPrompts::new(prompts).unwrap();
        let problem = OneShotProblem { primary: 0, thresholds, beta, lambda_max: 50.0 };
        let dual = scored.dual(&problem);
        (scored, dual)
    }

    #[test]
    fn two_responses_have_a_closed_form() {
        // One response is good at the primary, the other at the constraint: E[r_1] = σ((λ − 1)/β).
        for (beta, b) in [(0.1, 0.3), (0.5, 0.6), (2.0, 0.9)] {
            let prompt = vec![&[1.0_f32, 0.0][..], &[0.0, 1.0]];
            let (scored, dual) = solve(&[prompt.clone(), prompt], &[None, Some(b)], beta);
            let exact = (1.0 + beta * (b / (1.0 - b)).ln()).max(0.0);
            assert!((dual.lambda[1] - exact).abs() < 1e-9, "β {beta}, b {b}: {dual:?}");
            assert!(
                (dual.level[1] - b).abs() < 1e-9
                    && (dual.level[0] + dual.level[1] - 1.0).abs() < 1e-12
            );
            assert_eq!((dual.saturated[1], scored.means()), (false, vec![0.5, 0.5]));
        }
    }

    #[test]
    fn constraints_that_hold_anyway_cost_nothing_and_lost_ones_end_at_the_cap() {
        let prompts = [vec![&[1.0_f32, 0.2][..], &[0.0, 0.6]], vec![&[0.5, 0.1][..], &[0.7, 0.5]]];
        let (_, free) = solve(&prompts, &[None, Some(0.1)], 0.3);
        assert_eq!((free.lambda, free.iterations), (vec![0.0, 0.0], 0));
        // The best that any choice among the responses attains is (0.6 + 0.5)/2.
        let (_, lost) = solve(&prompts, &[None, Some(0.56)], 0.3);
        assert_eq!((lost.lambda[1], lost.saturated[1]), (50.0, true));
        assert!((lost.level[1] - 0.55).abs() < 1e-6);
        let (_, met) = solve(&prompts, &[None, Some(0.54)], 0.3);
        assert!(!met.saturated[1] && (met.level[1] - 0.54).abs() < 1e-9, "{met:?}");
    }

    #[test]
    fn several_constraints_are_solved_for_together() {
        // Deterministic scores of 40 prompts with 2 to 5 responses; three constraints, the last of which is slack.
        let mut state = 7_u32;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        let rows: Vec<Vec<[f32; 4]>> = (0..40)
            .map(|i| (0..2 + i % 4).map(|_| [draw(), draw(), draw(), draw()]).collect())
            .collect();
        let prompts: Vec<Vec<&[f32]>> =
            rows.iter().map(|rows| rows.iter().map(|row| &row[..]).collect()).collect();
        let thresholds = [None, Some(0.6), Some(0.55), Some(0.2)];
        let (scored, dual) = solve(&prompts, &thresholds, 0.2);
        assert!(dual.kkt.stationarity < 1e-10, "{dual:?}");
        assert!(dual.lambda[1] > 0.0 && dual.lambda[2] > 0.0 && dual.lambda[3] == 0.0);
        assert!((dual.level[1] - 0.6).abs() < 1e-9 && (dual.level[2] - 0.55).abs() < 1e-9);
        // Nowhere nearby is the dual smaller.
        let problem =
            OneShotProblem { primary: 0, thresholds: &thresholds, beta: 0.2, lambda_max: 50.0 };
        let constrained = [(1, 0.6), (2, 0.55), (3, 0.2)];
        let at = |lambda: &[f64]| scored.local(&problem, &constrained, lambda).value;
        let best = at(&dual.lambda[1..]);
        for step in [
            [0.01, 0.0, 0.0],
            [-0.01, 0.0, 0.0],
            [0.0, 0.01, 0.0],
            [0.0, -0.01, 0.0],
            [0.0, 0.0, 0.01],
        ] {
            let moved: Vec<f64> = dual.lambda[1..].iter().zip(step).map(|(l, d)| l + d).collect();
            assert!(at(&moved) > best, "{step:?}");
        }
    }

    #[test]
    fn scores_that_say_nothing_are_refused() {
        assert!(ScoredPrompts::new(&[]).is_err() && ScoredPrompts::new(&[vec![]]).is_err());
        let e = ScoredPrompts::new(&[vec![&[0.0, 1.0][..], &[0.0]]]).unwrap_err().to_string();
        assert!(e.contains("1 and 2 numbers"), "{e}");
        assert!(ScoredPrompts::new(&[vec![&[f32::NAN][..]]]).is_err());
    }
}
