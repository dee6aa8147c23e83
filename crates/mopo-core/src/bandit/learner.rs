//! Softmax policies over tables, many at once, trained with [`importance_weights`],
//! [`cloning_loss`] and [`DualState`] like a language model's heads: one row of every tensor is one
//! run.

mod contrast;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use burn::tensor::activation::log_softmax;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Int, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Comparisons;
use crate::lower_bound::solve as worst_mean;
use crate::mopo::{
    BatchStatistics, ContrastLoss, Extraction, IndicatorEstimator, MopoConfig, PolicyDual, Prompts,
    ResponseLabels, cloning_loss, importance_weights,
};
use crate::{DualMethod, DualState, Error, Result, ThresholdRule};

/// The data of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// This many pairs, drawn with replacement.
    Pairs(usize),
    /// All pairs. Responses of one cell are merged, which changes nothing under the `action`
    /// estimator, the only one allowed here.
    All,
}

/// Settings of the loop.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnerConfig {
    /// Optimiser steps.
    pub steps: usize,
    /// The data of a step.
    pub batch: Batch,
    /// Adam's learning rate; it and λ's fall to 0 over the last quarter of the steps.
    pub learning_rate: f64,
}

impl Default for LearnerConfig {
    /// The paper's settings: 20,000 steps of 12 pairs, Adam at 0.015.
    fn default() -> Self {
        Self { steps: 20_000, batch: Batch::Pairs(12), learning_rate: 0.015 }
    }
}

/// One policy to train.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Index of its data set.
    pub data: usize,
    /// Index of its primary objective.
    pub primary: usize,
    /// b per objective at the start (the primary's is ignored).
    pub thresholds: Vec<f64>,
    /// The method. The reference is refreshed every `reference_lag` steps: a value beyond the
    /// number of steps keeps it at the uniform distribution. Not read: `weight_normalization` (always by
    /// context), `dual` (always joint), `ratio_clip`, `ratio_smoothing`, `prune_below` and `initial_threshold`.
    pub mopo: MopoConfig,
    /// Seed of its mini-batches.
    pub seed: u64,
}

/// A trained policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned {
    /// π(y|x) per cell, each context summing to 1.
    pub policy: Vec<f64>,
    /// The final multipliers and thresholds.
    pub dual: DualState,
    /// Largest λ during training, per objective.
    pub largest_lambda: Vec<f64>,
    /// Policy at every refresh of the reference, the initial one first.
    pub references: Vec<Vec<f64>>,
}

/// Trains all `runs`, on all of the machine's threads; `progress` receives the number of finished
/// steps. The result does not depend on the number of threads.
///
/// The behaviour policy is the data's own share of each action, and the initial reference is
/// uniform,
/// so r = π_ref/μ̂ corrects for actions that are compared more often than others. A cell in no pair
/// occurs once in every step, with the preference that [`Comparisons::new`] was given for it.
///
/// With pairwise extraction the steps are those of the regression on pairs, whose labels are always their own, with
/// multipliers on the policy's exact means; an action in no pair keeps its share of the reference then.
///
/// # Errors
/// [`Error::InvalidParameter`] if data sets differ in shape, a run's data set does not exist, or
/// `Batch::All` is used with the `pair` estimator; and those of [`MopoConfig::check`].
pub fn learn<B: AutodiffBackend>(
    data: &[Comparisons],
    runs: &[Run],
    config: &LearnerConfig,
    device: &B::Device,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Learned>> {
    check(data, runs, config)?;
    // All runs of a tensor need the same number of responses: group them by the number of
    // unobserved cells. Pairwise extraction and a contrast have other steps, and its losses are two.
    let gaps = |run: &Run| {
        let unobserved = data[run.data].counts().iter().filter(|c| **c == 0).count();
        let is_pairwise = run.mopo.extraction == Extraction::Pairwise;
        let is_logistic = run.mopo.contrast_loss == ContrastLoss::Logistic;
        (is_pairwise, run.mopo.contrast_weight > 0.0, is_logistic, unobserved)
    };
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_key(|&r| gaps(&runs[r]));
    let groups: Vec<Vec<&Run>> = order
        .chunk_by(|&a, &b| gaps(&runs[a]) == gaps(&runs[b]))
        // A fixed size, so that nothing depends on the number of threads; its tensors fit into a
        // cache.
        .flat_map(|same| same.chunks(GROUP))
        .map(|group| group.iter().map(|&r| &runs[r]).collect())
        .collect();
    let next = AtomicUsize::new(0);
    let (tell, told) = mpsc::channel();
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from).min(groups.len());
    let mut learned: Vec<Option<Vec<Learned>>> = vec![None; groups.len()];
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..n_threads)
            .map(|_| {
                let (tell, next, groups) = (tell.clone(), &next, &groups);
                scope.spawn(move || {
                    let mut done = Vec::new();
                    loop {
                        let g = next.fetch_add(1, Ordering::Relaxed);
                        let Some(group) = groups.get(g) else { return done };
                        // Sending fails only while everything is being torn down.
                        let mut step = || {
                            let _ = tell.send(());
                        };
                        let learner = Learner::<B>::new(data, group, config, device);
                        let learned = match group[0].mopo.extraction {
                            Extraction::Cloning => learner.run(&mut step),
                            Extraction::Pairwise => learner.run_pairwise(&mut step),
                        };
                        done.push((g, learned));
                    }
                })
            })
            .collect();
        drop(tell);
        for (steps, ()) in told.iter().enumerate() {
            progress((steps + 1) / groups.len());
        }
        for worker in workers {
            match worker.join() {
                Ok(done) => done.into_iter().for_each(|(g, l)| learned[g] = Some(l)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let mut out: Vec<Option<Learned>> = vec![None; runs.len()];
    for (r, learned) in order.into_iter().zip(learned.into_iter().flatten().flatten()) {
        out[r] = Some(learned);
    }
    Ok(out.into_iter().map(|l| l.expect("every run is in one group")).collect())
}

/// Number of runs per tensor.
const GROUP: usize = 48;

fn check(data: &[Comparisons], runs: &[Run], config: &LearnerConfig) -> Result<()> {
    let invalid = |field, value: String, expected: &str| {
        Err(Error::InvalidParameter { field, value, expected: expected.into() })
    };
    let shape = |d: &Comparisons| (d.n_contexts(), d.n_actions(), d.n_objectives());
    if let Some(other) = data.iter().find(|d| shape(d) != shape(&data[0])) {
        let found = format!("{:?} and {:?}", shape(other), shape(&data[0]));
        return invalid("data", found, "all sets need the same contexts, actions and objectives");
    }
    if config.batch == Batch::Pairs(0) {
        return invalid("batch", "0 pairs".into(), "a step needs at least one");
    }
    if !(config.learning_rate.is_finite() && config.learning_rate > 0.0) {
        return invalid("learning_rate", config.learning_rate.to_string(), "must be a number > 0");
    }
    for run in runs {
        run.mopo.check()?;
        let Some(of) = data.get(run.data) else {
            return invalid("data", run.data.to_string(), "there is no such data set");
        };
        let k = of.n_objectives();
        if run.primary >= k || run.thresholds.len() != k {
            return invalid("run", format!("{run:?}"), "it does not fit the data's objectives");
        }
        if run.mopo.dual == DualMethod::Exact {
            return invalid(
                "dual",
                "exact".into(),
                "tables are learned with the joint steps; solve \
                exactly with TabularProblem or ResponseGroups",
            );
        }
        if run.mopo.contrast_weight > 0.0 && config.batch != Batch::All {
            return invalid(
                "contrast_weight",
                run.mopo.contrast_weight.to_string(),
                "tables are learned with a contrast from all pairs at once: use Batch::All",
            );
        }
        let clones = run.mopo.extraction == Extraction::Cloning;
        if clones
            && config.batch == Batch::All
            && run.mopo.indicator_estimator == IndicatorEstimator::Pair
        {
            return invalid(
                "indicator_estimator",
                "pair".into(),
                "with Batch::All it must be `action`",
            );
        }
    }
    Ok(())
}

struct Learner<'a, B: AutodiffBackend> {
    data: &'a [Comparisons],
    runs: &'a [&'a Run],
    config: &'a LearnerConfig,
    device: &'a B::Device,
    n_cells: usize,
    n_actions: usize,
    duals: Vec<DualState>,
    /// ε per run and objective.
    radius: Vec<Vec<f64>>,
    /// log π_ref per cell, run by run.
    log_reference: Vec<f32>,
    /// log μ̂ per cell of each data set, or log of context shares for merged responses.
    log_behaviour: Vec<Vec<f32>>,
    rngs: Vec<ChaCha8Rng>,
}

/// The responses of a step, `[n_runs × n_responses]`.
struct Responses {
    cells: Vec<i32>,
    labels: Vec<Option<f32>>,
    log_ratio: Vec<f32>,
    contexts: Vec<usize>,
}

impl Responses {
    fn with_capacity(n_responses: usize, n_objectives: usize) -> Self {
        Self {
            cells: Vec::with_capacity(n_responses),
            labels: Vec::with_capacity(n_responses * n_objectives),
            log_ratio: Vec::with_capacity(n_responses),
            contexts: Vec::with_capacity(n_responses),
        }
    }
}

impl<'a, B: AutodiffBackend> Learner<'a, B> {
    fn new(
        data: &'a [Comparisons],
        runs: &'a [&'a Run],
        config: &'a LearnerConfig,
        device: &'a B::Device,
    ) -> Self {
        let first = &data[runs[0].data];
        let (n_actions, k) = (first.n_actions(), first.n_objectives());
        let n_cells = first.n_contexts() * n_actions;
        let mut learner = Self {
            data,
            runs,
            config,
            device,
            n_cells,
            n_actions,
            duals: runs
                .iter()
                .map(|r| DualState::new(&r.mopo, r.primary, k).with_thresholds(&r.thresholds))
                .collect(),
            radius: runs
                .iter()
                .map(|r| vec![r.mopo.ball.radius(2 * data[r.data].pairs().len()); k])
                .collect(),
            log_reference: vec![-(n_actions as f32).ln(); runs.len() * n_cells],
            log_behaviour: data.iter().map(|d| log_behaviour(d, config.batch)).collect(),
            rngs: runs.iter().map(|r| ChaCha8Rng::seed_from_u64(r.seed)).collect(),
        };
        let uniform = vec![1.0 / n_actions as f64; n_cells];
        for r in 0..runs.len() {
            learner.follow(r, &uniform);
        }
        learner
    }

    /// Thresholds at a reference, π(y|x) per cell, for a run that asks for them.
    fn follow(&mut self, r: usize, reference: &[f64]) {
        let mopo = &self.runs[r].mopo;
        if mopo.thresholds == ThresholdRule::Reference {
            let levels = self.levels(r, reference, &self.radius[r]);
            self.duals[r].follow(mopo, &levels);
        }
    }

    /// The worst mean of each p̂_k around a policy, π(y|x) per cell, on the run's data.
    fn levels(&self, r: usize, policy: &[f64], radius: &[f64]) -> Vec<Option<f64>> {
        let data = &self.data[self.runs[r].data];
        let shares = data.context_shares();
        let cells = policy.iter().enumerate();
        let mass: Vec<f64> = cells.map(|(cell, p)| p * shares[cell / self.n_actions]).collect();
        let level = |(q, epsilon): (&Vec<f64>, &f64)| Some(worst_mean(&mass, q, *epsilon).value);
        data.preference().iter().zip(radius).map(level).collect()
    }

    fn run(mut self, tell: &mut dyn FnMut()) -> Vec<Learned> {
        let (p, c, a) = (self.runs.len(), self.n_cells, self.n_actions);
        let mut adam = Adam::<B::InnerBackend>::new([p, c], self.device);
        let mut logits = Tensor::<B::InnerBackend, 2>::zeros([p, c], self.device);
        let mut largest: Vec<Vec<f64>> = self.duals.iter().map(|d| d.lambda.clone()).collect();
        let mut references: Vec<Vec<Vec<f64>>> = vec![vec![vec![1.0 / a as f64; c]]; p];
        // The whole data set has the same responses at every step.
        let mut whole = None;
        // A contrast is only there with all pairs, and then all runs here have one.
        let contrast = (self.runs[0].mopo.contrast_weight > 0.0).then(|| self.all_pairs());
        for step in 0..self.config.steps {
            self.refresh(step, &logits, &mut references);
            let (labels, cells, log_ratio) = match (self.config.batch, &whole) {
                (Batch::Pairs(n), _) => {
                    let responses = self.draw(n);
                    let labels = self.labels(&responses);
                    let labels = match c > a {
                        true => labels.with_prompts(&responses.contexts, self.device),
                        false => labels,
                    };
                    (labels, self.cells(responses.cells), responses.log_ratio)
                }
                (Batch::All, Some((labels, cells))) => {
                    (ResponseLabels::clone(labels), Tensor::clone(cells), self.log_ratios())
                }
                (Batch::All, None) => {
                    let responses = self.all();
                    let mut labels = self.labels(&responses);
                    if c > a {
                        labels.prompts = Prompts::Blocks(c / a);
                    }
                    let cells = self.cells(responses.cells);
                    whole = Some((labels.clone(), cells.clone()));
                    (labels, cells, responses.log_ratio)
                }
            };
            let [_, n] = cells.dims();
            let log_ratio = TensorData::new(log_ratio, [p, n]);
            let policies: Vec<PolicyDual<'_>> = (0..p)
                .map(|r| PolicyDual {
                    tau: self.runs[r].mopo.tau,
                    dual: &self.duals[r],
                    radius: &self.radius[r],
                    chi: self.runs[r].mopo.chi,
                })
                .collect();
            // Ratios of tables are exact: clip only against overflow.
            let (weights, statistics) = importance_weights(
                &policies,
                &labels,
                Tensor::from_data(log_ratio, self.device),
                60.0,
            );
            // Of the multipliers before they move, like the weights.
            let targets = contrast.as_ref().map(|pairs| self.targets(pairs));
            let fall = fall(step, self.config.steps);
            for (r, statistics) in statistics.iter().enumerate() {
                self.move_dual(r, statistics, fall, &mut largest[r]);
            }
            let leaf = Tensor::<B, 2>::from_inner(logits.clone()).require_grad();
            let log_policy = by_context(leaf.clone(), a);
            let mut loss =
                cloning_loss(Tensor::from_inner(weights), log_policy.clone().gather(1, cells));
            if let (Some(pairs), Some(targets)) = (&contrast, targets) {
                let factor = |r: usize| self.runs[r].mopo.contrast_weight;
                loss = loss + self.pair_loss(pairs, &targets, log_policy, factor);
            }
            let gradients = loss.backward();
            let gradient = leaf.grad(&gradients).expect("the logits are in the loss");
            logits = adam.step(logits, gradient, self.config.learning_rate * fall);
            tell();
        }
        self.learned(logits, largest, references)
    }

    fn learned(
        self,
        logits: Tensor<B::InnerBackend, 2>,
        largest: Vec<Vec<f64>>,
        references: Vec<Vec<Vec<f64>>>,
    ) -> Vec<Learned> {
        let policies = host(by_context(logits, self.n_actions).exp());
        let last = self.duals.into_iter().zip(largest).zip(references);
        policies
            .chunks(self.n_cells)
            .zip(last)
            .map(|(policy, ((dual, largest_lambda), references))| Learned {
                policy: policy.to_vec(),
                dual,
                largest_lambda,
                references,
            })
            .collect()
    }

    /// One step of a run's multipliers, λ's slowed by `fall`.
    fn move_dual(&mut self, r: usize, statistics: &BatchStatistics, fall: f64, most: &mut [f64]) {
        let mopo = &self.runs[r].mopo;
        let slowed = MopoConfig { lambda_lr: mopo.lambda_lr * fall, ..mopo.clone() };
        self.duals[r].step(&slowed, statistics);
        for (most, l) in most.iter_mut().zip(&self.duals[r].lambda) {
            *most = most.max(*l);
        }
    }

    /// The reference of runs whose lag has passed becomes their policy.
    fn refresh(
        &mut self,
        step: usize,
        logits: &Tensor<B::InnerBackend, 2>,
        references: &mut [Vec<Vec<f64>>],
    ) {
        let due = |r: usize| step > 0 && step.is_multiple_of(self.runs[r].mopo.reference_lag);
        if !(0..self.runs.len()).any(due) {
            return;
        }
        let log_policy = host(by_context(logits.clone(), self.n_actions));
        for r in (0..self.runs.len()).filter(|&r| due(r)) {
            let own = r * self.n_cells..(r + 1) * self.n_cells;
            let policy = &log_policy[own.clone()];
            for (reference, log_p) in self.log_reference[own].iter_mut().zip(policy) {
                *reference = *log_p as f32;
            }
            let policy: Vec<f64> = policy.iter().map(|l| l.exp()).collect();
            self.duals[r].refresh(&self.runs[r].mopo);
            self.follow(r, &policy);
            references[r].push(policy);
        }
    }

    fn draw(&mut self, n_pairs: usize) -> Responses {
        let data = &self.data[self.runs[0].data];
        let n_gaps = data.counts().iter().filter(|c| **c == 0).count();
        let size = self.runs.len() * (2 * n_pairs + n_gaps);
        let k = data.n_objectives();
        let mut responses = Responses::with_capacity(size, k);
        for (r, run) in self.runs.iter().enumerate() {
            let data = &self.data[run.data];
            let log_ratio = |cell: usize| {
                self.log_reference[r * self.n_cells + cell] - self.log_behaviour[run.data][cell]
            };
            for _ in 0..n_pairs {
                let pair = &data.pairs()[self.rngs[r].random_range(0..data.pairs().len())];
                for (in_pair, action) in [pair.first, pair.second].into_iter().enumerate() {
                    let cell = pair.context * self.n_actions + action;
                    for (j, &i) in pair.indicators.iter().enumerate() {
                        responses.labels.push(Some(match run.mopo.indicator_estimator {
                            IndicatorEstimator::Action => data.preference()[j][cell] as f32,
                            IndicatorEstimator::Pair if in_pair == 0 => i,
                            IndicatorEstimator::Pair => 1.0 - i,
                        }));
                    }
                    responses.cells.push(cell as i32);
                    responses.log_ratio.push(log_ratio(cell));
                    responses.contexts.push(pair.context);
                }
            }
            for cell in (0..self.n_cells).filter(|&c| data.counts()[c] == 0) {
                let label = |j: usize| Some(data.preference()[j][cell] as f32);
                responses.labels.extend((0..k).map(label));
                responses.cells.push(cell as i32);
                responses.log_ratio.push(log_ratio(cell));
                responses.contexts.push(cell / self.n_actions);
            }
        }
        responses
    }

    /// Every cell once, with the mass of all its occurrences.
    fn all(&self) -> Responses {
        let k = self.duals[0].lambda.len();
        let mut responses = Responses::with_capacity(self.runs.len() * self.n_cells, k);
        for run in self.runs {
            let data = &self.data[run.data];
            for cell in 0..self.n_cells {
                responses.labels.extend((0..k).map(|j| Some(data.preference()[j][cell] as f32)));
                responses.cells.push(cell as i32);
                responses.contexts.push(cell / self.n_actions);
            }
        }
        responses.log_ratio = self.log_ratios();
        responses
    }

    /// log of the ratio of every cell, run by run: the only part of [`Self::all`] that changes.
    fn log_ratios(&self) -> Vec<f32> {
        let of_run = |(run, reference): (&&Run, &[f32])| {
            let behaviour = &self.log_behaviour[run.data];
            reference.iter().zip(behaviour).map(|(r, b)| r - b).collect::<Vec<f32>>()
        };
        self.runs.iter().zip(self.log_reference.chunks(self.n_cells)).flat_map(of_run).collect()
    }

    fn labels(&self, responses: &Responses) -> ResponseLabels<B::InnerBackend> {
        let (p, k) = (self.runs.len(), self.duals[0].lambda.len());
        ResponseLabels::from_flat(&responses.labels, [p, responses.cells.len() / p, k], self.device)
    }

    /// `[n_runs, n_responses]`.
    fn cells(&self, cells: Vec<i32>) -> Tensor<B, 2, Int> {
        let shape = [self.runs.len(), cells.len() / self.runs.len()];
        Tensor::from_data(TensorData::new(cells, shape), self.device)
    }
}

/// What a cell's ratio is divided by, so that a step has the data's mass per context: the share of
/// its occurrences in an expected batch among those of its context. Merged responses occur once
/// each, which leaves the inverse of the context's share.
fn log_behaviour(data: &Comparisons, batch: Batch) -> Vec<f32> {
    let n_actions = data.n_actions();
    let shares = data.context_shares();
    let Batch::Pairs(n) = batch else {
        return (0..data.counts().len()).map(|c| -(shares[c / n_actions].ln()) as f32).collect();
    };
    // Expected occurrences of a cell in a step; an unobserved cell always occurs once.
    let expected: Vec<f64> = data
        .counts()
        .iter()
        .map(|&c| if c == 0 { 1.0 } else { n as f64 * c as f64 / data.pairs().len() as f64 })
        .collect();
    let totals: Vec<f64> = expected.chunks(n_actions).map(|c| c.iter().sum()).collect();
    expected.iter().enumerate().map(|(c, e)| (e / totals[c / n_actions]).ln() as f32).collect()
}

/// 1, then falling linearly to 0 over the last quarter.
pub(super) fn fall(step: usize, steps: usize) -> f64 {
    let left = (steps - step) as f64;
    (left / (0.25 * steps as f64)).min(1.0)
}

/// log-softmax of logits `[n_runs, n_cells]` within each context.
pub(super) fn by_context<B: Backend>(logits: Tensor<B, 2>, n_actions: usize) -> Tensor<B, 2> {
    let [p, c] = logits.dims();
    log_softmax(logits.reshape([p, c / n_actions, n_actions]), 2).reshape([p, c])
}

pub(super) fn host<B: Backend>(x: Tensor<B, 2>) -> Vec<f64> {
    x.into_data().iter().collect()
}

/// Adam (0.9, 0.999) on one tensor with independent rows.
pub(super) struct Adam<B: Backend> {
    mean: Tensor<B, 2>,
    square: Tensor<B, 2>,
    step: i32,
}

impl<B: Backend> Adam<B> {
    pub(super) fn new(shape: [usize; 2], device: &B::Device) -> Self {
        Self { mean: Tensor::zeros(shape, device), square: Tensor::zeros(shape, device), step: 0 }
    }

    pub(super) fn step(
        &mut self,
        x: Tensor<B, 2>,
        gradient: Tensor<B, 2>,
        rate: f64,
    ) -> Tensor<B, 2> {
        self.step += 1;
        self.mean = self.mean.clone().mul_scalar(0.9) + gradient.clone().mul_scalar(0.1);
        self.square =
            self.square.clone().mul_scalar(0.999) + gradient.clone().mul(gradient).mul_scalar(1e-3);
        let (fix_mean, fix_square) = (1.0 - 0.9f64.powi(self.step), 1.0 - 0.999f64.powi(self.step));
        let scale = self.square.clone().div_scalar(fix_square).sqrt().add_scalar(1e-8);
        x - self.mean.clone().div_scalar(fix_mean).mul_scalar(rate) / scale
    }
}
