//! Tables learned from the differences between the responses of pairs: pairwise extraction, and the contrast beside
//! cloning (docs/math.md, section 13).

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Int, Tensor, TensorData};
use rand::RngExt;

use super::{Adam, Batch, Learned, Learner, by_context, fall, host};
use crate::bandit::comparisons::MergedPairs;
use crate::mopo::{BatchStatistics, contrastive_loss, logistic_beta};

/// The pairs of a step, `[n_runs × n_pairs]`.
#[derive(Default)]
pub(super) struct Pairs {
    first: Vec<i32>,
    second: Vec<i32>,
    mass: Vec<f32>,
    /// I − ½ per objective, `[n_runs × n_pairs][n_objectives]`.
    leads: Vec<Vec<f64>>,
}

impl Pairs {
    fn push(&mut self, cells: [usize; 2], mass: f64, leads: Vec<f64>) {
        self.first.push(cells[0] as i32);
        self.second.push(cells[1] as i32);
        self.mass.push(mass as f32);
        self.leads.push(leads);
    }
}

impl<B: AutodiffBackend> Learner<'_, B> {
    /// The loop with [`contrastive_loss`]: λ follows the policy's own means, which a table has exactly.
    pub(super) fn run_pairwise(mut self, tell: &mut dyn FnMut()) -> Vec<Learned> {
        let (p, c, a) = (self.runs.len(), self.n_cells, self.n_actions);
        let mut adam = Adam::<B::InnerBackend>::new([p, c], self.device);
        let mut logits = Tensor::<B::InnerBackend, 2>::zeros([p, c], self.device);
        let mut largest: Vec<Vec<f64>> = self.duals.iter().map(|d| d.lambda.clone()).collect();
        let mut references: Vec<Vec<Vec<f64>>> = vec![vec![vec![1.0 / a as f64; c]]; p];
        let mut pairs = Pairs::default();
        for step in 0..self.config.steps {
            self.refresh(step, &logits, &mut references);
            match self.config.batch {
                Batch::Pairs(n) => pairs = self.drawn_pairs(n),
                Batch::All if step == 0 => pairs = self.all_pairs(),
                Batch::All => {}
            }
            let fall = fall(step, self.config.steps);
            let policies = host(by_context(logits.clone(), a).exp());
            for (r, policy) in policies.chunks(c).enumerate() {
                let statistics = BatchStatistics {
                    plain: self.levels(r, policy, &vec![0.0; self.radius[r].len()]),
                    lower_bound: self.levels(r, policy, &self.radius[r]),
                    // The bound is at its best χ already.
                    chi_gradient: vec![Some(0.0); self.radius[r].len()],
                    best_chi: vec![None; self.radius[r].len()],
                    ratio_sample_size: c as f64,
                    effective_sample_size: c as f64,
                };
                self.move_dual(r, &statistics, fall, &mut largest[r]);
            }
            let targets = self.targets(&pairs);
            let leaf = Tensor::<B, 2>::from_inner(logits.clone()).require_grad();
            let loss = self.pair_loss(&pairs, &targets, by_context(leaf.clone(), a), |_| 1.0);
            let gradients = loss.backward();
            let gradient = leaf.grad(&gradients).expect("the logits are in the loss");
            logits = adam.step(logits, gradient, self.config.learning_rate * fall);
            tell();
        }
        self.learned(logits, largest, references)
    }

    /// t/τ and β of each pair, run by run, by the multipliers as they are.
    pub(super) fn targets(&self, pairs: &Pairs) -> [Vec<f32>; 2] {
        let n = pairs.first.len() / self.runs.len();
        let target = |(at, leads): (usize, &Vec<f64>)| -> f32 {
            let (dual, tau) = (&self.duals[at / n], self.runs[at / n].mopo.tau);
            let scale = |k: usize| if k == dual.primary { 1.0 } else { dual.lambda[k] };
            let t: f64 = leads.iter().enumerate().map(|(k, lead)| scale(k) * lead).sum();
            (t / tau) as f32
        };
        let betas = self.runs.iter().zip(&self.duals).flat_map(|(run, dual)| {
            std::iter::repeat_n(logistic_beta(run.mopo.tau, dual) as f32, n)
        });
        [pairs.leads.iter().enumerate().map(target).collect(), betas.collect()]
    }

    /// [`contrastive_loss`] of tables log π, `[n_runs, n_cells]`, each run's times its `factor`. All have the same one.
    pub(super) fn pair_loss(
        &self,
        pairs: &Pairs,
        [targets, betas]: &[Vec<f32>; 2],
        log_policy: Tensor<B, 2>,
        factor: impl Fn(usize) -> f64,
    ) -> Tensor<B, 1> {
        let (p, c) = (self.runs.len(), self.n_cells);
        let n = pairs.first.len() / p;
        let cells = |of: &[i32]| {
            Tensor::<B, 2, Int>::from_data(TensorData::new(of.to_vec(), [p, n]), self.device)
        };
        let reference = TensorData::new(self.log_reference.clone(), [p, c]);
        let log_ratio = log_policy - Tensor::<B, 2>::from_data(reference, self.device);
        let of = |of: &[i32]| log_ratio.clone().gather(1, cells(of)).reshape([p * n]);
        let vector = |x: &[f32]| Tensor::<B, 1>::from_data(x, self.device);
        let mass = pairs.mass.iter().enumerate().map(|(at, mass)| mass * factor(at / n) as f32);
        contrastive_loss(
            self.runs[0].mopo.contrast_loss,
            of(&pairs.first),
            of(&pairs.second),
            vector(targets),
            vector(betas),
            vector(&mass.collect::<Vec<f32>>()),
        )
    }

    /// All pairs of each run's data, those of the same two cells merged; runs with fewer have some of no mass.
    pub(super) fn all_pairs(&self) -> Pairs {
        let merged: Vec<MergedPairs> =
            self.runs.iter().map(|run| MergedPairs::new(&self.data[run.data])).collect();
        let n = merged.iter().map(|of| of.cells.len()).max().unwrap_or(0).max(1);
        let mut pairs = Pairs::default();
        for (run, merged) in self.runs.iter().zip(&merged) {
            let data = &self.data[run.data];
            let of = |k: usize| {
                merged.merge(data.pairs().iter().map(|pair| Some(f64::from(pair.indicators[k]))))
            };
            let objectives: Vec<_> = (0..data.n_objectives()).map(of).collect();
            for i in 0..n {
                match merged.cells.get(i) {
                    Some(cells) => {
                        let leads = objectives.iter().map(|(_, mean)| mean[i] - 0.5).collect();
                        let mass = objectives[0].0[i] / data.pairs().len() as f64;
                        pairs.push(*cells, mass, leads);
                    }
                    None => pairs.push([0, 0], 0.0, vec![0.0; data.n_objectives()]),
                }
            }
        }
        pairs
    }

    /// `n` pairs of each run's data, with replacement.
    fn drawn_pairs(&mut self, n: usize) -> Pairs {
        let mut pairs = Pairs::default();
        for (r, run) in self.runs.iter().enumerate() {
            let data = &self.data[run.data];
            for _ in 0..n {
                let pair = &data.pairs()[self.rngs[r].random_range(0..data.pairs().len())];
                let cells = [pair.first, pair.second].map(|y| pair.context * self.n_actions + y);
                let leads = pair.indicators.iter().map(|i| f64::from(*i) - 0.5).collect();
                pairs.push(cells, 1.0 / n as f64, leads);
            }
        }
        pairs
    }
}
