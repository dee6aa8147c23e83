//! Tables trained on pairs by gradient steps: DPO and its relatives, MODPO and CAN.

use burn::tensor::backend::AutodiffBackend;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::problem::{Constrained, Origin, Problem};
use super::{MethodRow, MethodSettings, newer, weights};
use crate::Result;
use crate::bandit::comparisons::MergedPairs;
use crate::bandit::toy::sigmoid;
use crate::bandit::{Comparison, Comparisons, Labels, PairPolicy, learn_pairs};
use crate::divergence::Divergence;

/// The smallest weight of MODPO's own objective.
const MIN_WEIGHT: f64 = 0.05;

/// Divergences of f-DPO besides reverse KL, which is DPO, and the names of their fronts under f-DPO and MOD.
const DIVERGENCES: [(Divergence, &str, &str); 3] = [
    (Divergence::ForwardKl, "f_dpo_forward_kl", "mod_forward_kl"),
    (Divergence::JensenShannon, "f_dpo_jensen_shannon", "mod_jensen_shannon"),
    (Divergence::Alpha(0.5), "f_dpo_alpha", "mod_alpha"),
];

/// A table to train, and what its row says.
struct Job {
    method: &'static str,
    parameter: f64,
    strength: f64,
    policy: PairPolicy,
}

/// One data set of a problem.
pub(super) struct Sample<'a> {
    pub(super) problem: &'a Problem,
    pub(super) data: &'a Comparisons,
    pub(super) pairs: &'a MergedPairs,
    pub(super) seed: Option<u64>,
    /// KL of the exact COP without a threshold, which all strengths are matched to.
    pub(super) kl: f64,
}

impl Sample<'_> {
    /// A table that is trained on these labels.
    pub(super) fn table(
        &self,
        scale: f64,
        label: impl FnMut(&Comparison) -> Option<f64>,
    ) -> PairPolicy {
        let (mass, indicators) = self.pairs.merge(self.data.pairs().iter().map(label));
        let single = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
        PairPolicy { indicators: single(indicators), mass: single(mass), scale, shift: Vec::new() }
    }

    fn job(
        &self,
        (method, parameter, strength): (&'static str, f64, f64),
        label: impl FnMut(&Comparison) -> Option<f64>,
    ) -> Job {
        Job { method, parameter, strength, policy: self.table(strength, label) }
    }

    fn jobs(&self, settings: &MethodSettings) -> Result<Vec<Job>> {
        let problem = self.problem;
        let beta = problem.matched_strength(Divergence::ReverseKl, self.kl)?;
        let both = |p: &Comparison| [0, 1].map(|k| f64::from(p.indicators[k]));
        let mut jobs = Vec::new();
        jobs.push(self.job(("dpo_agree", f64::NAN, beta), |p| {
            let [a, b] = both(p);
            ((a - 0.5) * (b - 0.5) > 0.0).then_some((a + b) / 2.0)
        }));
        for w in weights(settings.n_points) {
            let mean = move |p: &Comparison| {
                let [a, b] = both(p);
                w * a + (1.0 - w) * b
            };
            jobs.push(self.job(("dpo_weighted_loss", w, beta), |p| Some(mean(p))));
            jobs.push(self.job(("dpo_weighted_labels", w, beta), |p| {
                Some(match mean(p) - 0.5 {
                    d if d.abs() < 1e-9 => 0.5,
                    d if d > 0.0 => 1.0,
                    _ => 0.0,
                })
            }));
            if w >= MIN_WEIGHT {
                let own = self.job(("modpo", w, beta), |p| Some(both(p)[0]));
                let margin = |r: &f64| ((1.0 - w) * r / beta) as f32;
                let shift = problem.rewards[1].iter().map(margin).collect();
                let policy = PairPolicy { scale: beta / w, shift, ..own.policy };
                jobs.push(Job { policy, ..own });
            }
        }
        if let Origin::Toy(set) = problem.origin {
            let inner: Vec<f64> = weights(settings.n_points);
            let all = [&[1.0, 0.0][..], &inner].concat();
            let seed = self.seed.unwrap_or_default();
            let labelled = set.sample(settings.n_pairs, settings.labels, &all, seed)?;
            for (i, &w) in inner.iter().enumerate() {
                let mut of = labelled.pairs().iter().map(|p| f64::from(p.indicators[2 + i]));
                jobs.push(self.job(("dpo_mixed_reward", w, beta), |_| of.next()));
            }
        }
        self.one_shot(settings, beta, &mut jobs)?;
        Ok(jobs)
    }

    /// CAN: λ of the reward-constrained problem from its dual, new labels by r_p + λ r_s, and DPO on them.
    fn one_shot(&self, settings: &MethodSettings, beta: f64, jobs: &mut Vec<Job>) -> Result<()> {
        let problem = self.problem;
        let shares = vec![1.0; problem.n_contexts];
        let rewards = &problem.rewards;
        let front = problem.front(rewards, rewards, &shares, beta, settings.n_points)?;
        for (i, Constrained { primary, threshold, lambda, .. }) in front.into_iter().enumerate() {
            let score = |cell: usize| rewards[primary][cell] + lambda * rewards[1 - primary][cell];
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed.unwrap_or_default());
            rng.set_stream(1000 + i as u64);
            let cell = |p: &Comparison, y: usize| p.context * problem.n_actions + y;
            jobs.push(self.job(("can", threshold, beta), |p| {
                let first = sigmoid(score(cell(p, p.first)) - score(cell(p, p.second)));
                Some(match (settings.labels, self.seed) {
                    (Labels::Sampled, Some(_)) => f64::from(u8::from(rng.random_bool(first))),
                    _ => first,
                })
            }));
        }
        Ok(())
    }
}

/// All of them on one data set, and what follows from the single-objective ones by mixing.
pub(super) fn rows<B: AutodiffBackend>(
    sample: &Sample<'_>,
    settings: &MethodSettings,
    device: &B::Device,
    progress: &mut dyn FnMut(),
) -> Result<Vec<MethodRow>> {
    let problem = sample.problem;
    let config = settings.learner();
    let shape = [problem.n_cells(), problem.n_actions];
    let mut rows = Vec::new();
    let mut train = |jobs: Vec<Job>, divergence: Divergence, rows: &mut Vec<MethodRow>| {
        let policies: Vec<PairPolicy> = jobs.iter().map(|job| job.policy.clone()).collect();
        let cells = &sample.pairs.cells;
        let mut tell = |_| progress();
        let found =
            learn_pairs::<B>(shape, cells, &policies, divergence, &config, device, &mut tell);
        for (job, policy) in jobs.iter().zip(&found) {
            let Job { method, parameter, strength, .. } = *job;
            rows.push(MethodRow::new(problem, method, sample.seed, [parameter, strength], policy));
        }
        found
    };
    let add = |rows: &mut Vec<MethodRow>, method, parameters, policy: &[f64]| {
        rows.push(MethodRow::new(problem, method, sample.seed, parameters, policy));
    };

    let jobs = sample.jobs(settings)?;
    let at = |w: f64| {
        jobs.iter().position(|job| job.method == "dpo_weighted_loss" && job.parameter == w)
    };
    let [first, second] = [1.0, 0.0].map(|w| at(w).expect("the weights include the objectives"));
    let beta = jobs[first].strength;
    let found = train(jobs, Divergence::ReverseKl, &mut rows);
    let singles = [&found[first][..], &found[second]];
    for (k, policy) in singles.into_iter().enumerate() {
        add(&mut rows, "dpo", [1.0 - k as f64, beta], policy);
    }
    for w in weights(settings.n_points) {
        // Logits are parameters: linear in them is geometric in probabilities.
        let mixed = problem.mixture(Divergence::ReverseKl, singles, w)?;
        add(&mut rows, "soups", [w, beta], &mixed);
    }

    for (divergence, f_dpo, decoded) in DIVERGENCES {
        let strength = problem.matched_strength(divergence, sample.kl)?;
        let label = |w: f64| {
            move |p: &Comparison| {
                Some(w * f64::from(p.indicators[0]) + (1.0 - w) * f64::from(p.indicators[1]))
            }
        };
        let jobs: Vec<Job> = weights(settings.n_points)
            .into_iter()
            .map(|w| sample.job((f_dpo, w, strength), label(w)))
            .collect();
        let found = train(jobs, divergence, &mut rows);
        // Weights ascend from the second objective alone to the first alone.
        let singles = [&found[found.len() - 1][..], &found[0]];
        for w in weights(settings.n_points) {
            let mixed = problem.mixture(divergence, singles, w)?;
            add(&mut rows, decoded, [w, strength], &mixed);
        }
    }
    rows.extend(newer::rows::<B>(sample, settings, singles, beta, device, progress)?);
    Ok(rows)
}
