//! HaM: policies on one frozen base that together maximise the hypervolume of their mean reward vectors (Mukherjee et
//! al., 2024, arXiv 2412.05469; docs/methods/ham.md). Little of the method is public: the derivation is ours.

use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use mopo_core::Objectives;
use mopo_core::hypervolume::{
    RatioMeans, RatioNormalization, VolumeGradient, ascent, spread_weights, volume_gradient,
};
use mopo_lm::{CausalLm, Decoder, PolicyParams, sequence_log_probs_by_head};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity, ScoreStatistics};
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::batches::{BatchOrder, pass_seed, step_seed};
use crate::checkpoint::{Checkpoint, Parts};
use crate::config::{PhaseConfig, ranges};
use crate::fit::{Method, PolicyMethod};
use crate::log_probs::{LogProbs, batch_log_probs, to_tensor};
use crate::optim::Trainer;
use crate::{Error, Pairs, Progress, Result};

/// Mean reward of a policy for an objective, estimated on the batch.
const MEAN_REWARD: Quantity = Quantity::new("mean_reward");
/// Hypervolume of the policies' mean rewards.
const HYPERVOLUME: Quantity = Quantity::new("hypervolume");
/// 1 where a policy has no share of its own in the hypervolume, else 0.
const DOMINATED: Quantity = Quantity::new("dominated");

const PHASE: &str = "ham";
/// More random scalarisations than this take longer than the model.
const MAX_DIRECTIONS: usize = 1_000_000;

/// Hypervolume maximisation with one head per policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HamConfig {
    /// z < 0 of every objective, in standard deviations of the training pairs' scores from their mean.
    pub corner: f64,
    /// β ≥ 0 of the penalty β Σ_k mean ½ log(π_k/π_0)².
    pub beta: f64,
    /// Limit of |log(π_k/π_0)| of a response; a ratio beyond it is constant.
    pub ratio_clip: f64,
    /// Over which responses importance ratios are normalised.
    pub normalization: RatioNormalization,
    /// ρ ≥ 0: size of the step of a policy without a gradient, relative to the others'.
    pub dominated_weight: f64,
    /// Random scalarisations of a step; with two objectives the gradient is exact, and there are none.
    pub directions: usize,
}

fn invalid(message: String) -> Error {
    Error::Config { origin: "`[ham]`".into(), message }
}

impl MethodSection for HamConfig {
    const TEXT: &'static str = r#"[method]
kind = "ham"

[ham]
# The corner of the hypervolume, in standard deviations from the mean of the training pairs' scores.
corner = -2.0
# Strength of the penalty on log(π/π_0) squared.
beta = 0.02
# Limit of |log(π/π_0)| of a response.
ratio_clip = 5.0
# pair or batch: over which responses importance ratios are normalised.
normalization = "pair"
# Step of a policy that is dominated, relative to the others'.
dominated_weight = 1.0
# Random scalarisations of a step, for three objectives or more.
directions = 1000
"#;
    const REMEDY: &'static str = ", a larger `ham.beta`";

    fn check_section(&self, _: &[String]) -> Result<()> {
        let corner = match self.corner < 0.0 && self.corner >= -f64::from(f32::MAX) {
            true => Ok(()),
            false => Err(format!(
                "`ham.corner` is {}; it must be a number < 0, so that the SFT model is above it",
                self.corner
            )),
        };
        corner
            .and_then(|()| ranges::not_negative("ham.beta", self.beta))
            .and_then(|()| ranges::positive("ham.ratio_clip", self.ratio_clip))
            .and_then(|()| ranges::not_negative("ham.dominated_weight", self.dominated_weight))
            .and_then(|()| ranges::count("ham.directions", self.directions, 1..=MAX_DIRECTIONS))
            .map_err(invalid)
    }

    fn check_labels(
        &self,
        _: &[String],
        objectives: &Objectives,
        _: &[&[Option<f32>]],
    ) -> Result<()> {
        match objectives.len() {
            0 | 1 => Err(invalid(
                "a front has two objectives or more, but the data have one: train DPO instead, or take data with \
                 more objectives"
                    .into(),
            )),
            _ => Ok(()),
        }
    }

    fn needs_scores(&self) -> bool {
        true
    }

    fn trains_heads(&self) -> bool {
        true
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let (pairs, objectives) = (&context.data.train, &context.data.objectives);
        let (rewards, note) = z_scores(pairs, objectives, self.corner)?;
        progress.note(&note);
        let mut method = Ham {
            config: self,
            phase: context.phase,
            objectives,
            policies: context.policies,
            own: own_weights(context.policies, objectives),
            base: context.base,
            trainer: Trainer::new(context.params, context.communicator),
            order: BatchOrder::of_pairs(
                pairs,
                None,
                context.phase.batch_size,
                step_seed(context.seed, PHASE, 0),
            ),
            pairs,
            rewards,
            initial_log_probs: context.initial_log_probs,
            seed: context.seed,
            device: context.device.clone(),
        };
        fit(&mut method, progress)?;
        Ok(method.trainer.module().valid())
    }
}

/// Scores of both responses of each pair as z-scores over all of them, `[n_pairs][2][n_objectives]`, and a note with
/// the corner in the scores' own units.
fn z_scores(
    pairs: &Pairs,
    objectives: &Objectives,
    corner: f64,
) -> Result<(Vec<[Vec<f64>; 2]>, String)> {
    let scores: Vec<&[Vec<f32>; 2]> =
        pairs.scores.iter().map(|of| of.as_ref().expect("checked with the data")).collect();
    let (mut statistics, mut corners) = (Vec::new(), Vec::new());
    for (k, name) in objectives.names().iter().enumerate() {
        let both = scores.iter().flat_map(|of| [of[0][k], of[1][k]]);
        let own = ScoreStatistics::new(both);
        if !(own.std > 0.0 && own.std.is_finite()) {
            return Err(invalid(format!(
                "the scores of `{name}` have the standard deviation {}, so its z-scores are undefined: leave the \
                 objective out of the data, or provide other scores",
                own.std
            )));
        }
        corners.push(format!("{name} {:.4}", own.mean + corner * own.std));
        statistics.push(own);
    }
    let z = |of: &Vec<f32>| -> Vec<f64> {
        of.iter().zip(&statistics).map(|(r, s)| (f64::from(*r) - s.mean) / s.std).collect()
    };
    let rewards = scores.iter().map(|of| [z(&of[0]), z(&of[1])]).collect();
    Ok((rewards, format!("HaM: the corner is at the scores {}", corners.join(", "))))
}

/// What each policy ascends while it has no gradient: its own objective where it is named after one, else the next of
/// the weights that are spread over the simplex.
fn own_weights(policies: &[String], objectives: &Objectives) -> Vec<Vec<f64>> {
    let k = objectives.len();
    let index = |name: &String| objectives.index_of(name).ok();
    let named: Vec<Option<usize>> = policies.iter().map(index).collect();
    let spread = spread_weights(policies.len() + k, k);
    let mut free = spread.iter().enumerate().filter(|(i, _)| !named.contains(&Some(*i)));
    let own = |of: &Option<usize>| match of {
        Some(objective) => spread[*objective].clone(),
        None => free.next().expect("as many as policies and objectives").1.clone(),
    };
    named.iter().map(own).collect()
}

/// The state of a run.
struct Ham<'a, B: FusedAutodiffBackend> {
    config: &'a HamConfig,
    phase: &'a PhaseConfig,
    objectives: &'a Objectives,
    policies: &'a [String],
    /// Preference weights of each policy, `[n_policies][n_objectives]`.
    own: Vec<Vec<f64>>,
    /// The frozen base, on the backend with gradients.
    base: &'a CausalLm<B>,
    trainer: Trainer<'a, B, PolicyParams<B>>,
    order: BatchOrder,
    pairs: &'a Pairs,
    /// z-scores, `[n_pairs][2][n_objectives]`.
    rewards: Vec<[Vec<f64>; 2]>,
    /// log π_0 of every pair.
    initial_log_probs: &'a LogProbs,
    seed: u64,
    device: B::Device,
}

/// A step's batch: what is reported, and dL/dlog π.
struct Plan {
    report: PlanReport,
    /// dL/dlog π of each response, `[n_policies][n_responses]`.
    slopes: Vec<Vec<f64>>,
}

/// What is reported of a step's batch.
#[derive(Clone, Serialize, Deserialize)]
struct PlanReport {
    /// In units of the box between corner and mean.
    hypervolume: f64,
    /// By policy.
    is_dominated: Vec<bool>,
    /// By policy and objective.
    means: Vec<Vec<f64>>,
    sample_sizes: Vec<f64>,
    /// Mean of ½ log(π/π_0)² by policy.
    penalties: Vec<f64>,
}

/// What plans are made with.
struct Planner<'a> {
    config: &'a HamConfig,
    objectives: &'a Objectives,
    own: &'a [Vec<f64>],
    rewards: &'a [[Vec<f64>; 2]],
}

impl Planner<'_> {
    /// `seed`: of the random scalarisations. From log π − log π_0 of the step's responses, `[n_policies][n_responses]`, a pair's two next to each other.
    fn plan(&self, indices: &[usize], log_ratios: &[Vec<f64>], seed: u64) -> Plan {
        let config = self.config;
        let rewards: Vec<Vec<f64>> =
            indices.iter().flat_map(|&i| self.rewards[i].iter().cloned()).collect();
        let mean =
            |of: &Vec<f64>| RatioMeans::new(of, &rewards, config.ratio_clip, config.normalization);
        let means: Vec<RatioMeans> = log_ratios.iter().map(mean).collect();
        let points: Vec<Vec<f64>> = means.iter().map(|of| of.mean.clone()).collect();
        let corner = vec![config.corner; self.objectives.len()];
        // In units of the box between corner and mean, so that β means the same for any number of objectives.
        let unit = config.corner.abs().powi(corner.len() as i32);
        let mut volume = volume_gradient(&points, &corner, config.directions, seed);
        volume.value /= unit;
        volume.gradient.iter_mut().flatten().for_each(|g| *g /= unit);
        let ascent = ascent(&points, &corner, &volume, self.own, config.dominated_weight);
        let n = rewards.len() as f64;
        let slopes = |((means, direction), log_ratios): ((&RatioMeans, &Vec<f64>), &Vec<f64>)| {
            let gains = means.slopes(direction, &rewards);
            gains.iter().zip(log_ratios).map(|(gain, d)| config.beta * d / n - gain).collect()
        };
        let VolumeGradient { value, gradient, .. } = volume;
        Plan {
            slopes: means.iter().zip(&ascent).zip(log_ratios).map(slopes).collect(),
            report: PlanReport {
                hypervolume: value,
                is_dominated: gradient.iter().map(|of| of.iter().all(|g| *g == 0.0)).collect(),
                sample_sizes: means.iter().map(|of| of.sample_size).collect(),
                penalties: log_ratios
                    .iter()
                    .map(|of| of.iter().map(|d| 0.5 * d * d).sum::<f64>() / n)
                    .collect(),
                means: points,
            },
        }
    }
}

impl<B: FusedAutodiffBackend> Ham<'_, B> {
    /// log π − log π_0 of the pairs, `[n_policies][n_responses]`, without gradients.
    fn log_ratios(&self, micro: &[Vec<usize>]) -> Result<Vec<Vec<f64>>> {
        let (base, params) = (self.base.valid(), self.trainer.module().valid());
        let found = self.trainer.communicator().deal(micro.len(), |v| {
            batch_log_probs(&base, Some(&params), self.pairs, &micro[v], &self.device)
        })?;
        let mut out = vec![Vec::new(); self.policies.len()];
        for (indices, found) in micro.iter().zip(found) {
            for (out, found) in out.iter_mut().zip(found) {
                for (&i, log_probs) in indices.iter().zip(found) {
                    let initial = self.initial_log_probs[i];
                    out.extend([0, 1].map(|r| f64::from(log_probs[r] - initial[r])));
                }
            }
        }
        Ok(out)
    }
}

impl<B: FusedAutodiffBackend> PolicyMethod<B> for Ham<'_, B> {
    fn policies(&self) -> PolicyParams<B::InnerBackend> {
        self.trainer.module().valid()
    }
}

impl<B: FusedAutodiffBackend> Method for Ham<'_, B> {
    fn phase(&self) -> &'static str {
        PHASE
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let clock = std::time::Instant::now();
        let n_micro = self.phase.gradient_accumulation_steps;
        let micro = self.order.step(step, n_micro);
        let planner = Planner {
            config: self.config,
            objectives: self.objectives,
            own: &self.own,
            rewards: &self.rewards,
        };
        let directions = step_seed(self.seed, "ham directions", step);
        // Means are over the whole step. Of a single batch they come from the pass that is differentiated.
        let whole = match n_micro {
            1 => None,
            _ => Some(planner.plan(&micro.concat(), &self.log_ratios(&micro)?, directions)),
        };
        let starts: Vec<usize> =
            (0..n_micro).map(|v| 2 * micro[..v].iter().map(Vec::len).sum::<usize>()).collect();
        let found = self.trainer.passes(n_micro, |params, v| {
            B::seed(&self.device, pass_seed(self.seed, PHASE, step, v));
            let (indices, start) = (&micro[v], starts[v]);
            let n = indices.len();
            let batch = self.pairs.pack(indices, &vec![[true, true]; n])?;
            // A pair's two responses next to each other.
            let (first, second) = (batch.responses_at(0), batch.responses_at(1));
            let order: Vec<usize> =
                first.into_iter().zip(second).flat_map(|(a, b)| [a, b]).collect();
            let inputs = batch.inputs::<B>(&self.device);
            let mut log_probs = Vec::new();
            for (adapter, served) in params.by_adapter() {
                let hidden = self.base.hidden_states_packed(&inputs, Some(adapter));
                let heads = &params.heads.heads[served];
                let all = vec![order.clone(); heads.len()];
                let by_head = sequence_log_probs_by_head(hidden, heads, &batch, &all);
                log_probs.extend(by_head.into_iter().flatten());
            }
            let of_pass = match &whole {
                Some(_) => None,
                None => {
                    let initial: Vec<f64> = indices
                        .iter()
                        .flat_map(|&i| self.initial_log_probs[i].map(f64::from))
                        .collect();
                    let log_ratio = |of: &Tensor<B, 1>| -> Vec<f64> {
                        let host = of.clone().detach().into_data();
                        host.iter::<f64>().zip(&initial).map(|(l, initial)| l - initial).collect()
                    };
                    let log_ratios: Vec<Vec<f64>> = log_probs.iter().map(log_ratio).collect();
                    Some(planner.plan(indices, &log_ratios, directions))
                }
            };
            let plan = of_pass.as_ref().or(whole.as_ref()).expect("made before, or just now");
            // Its gradient is that of the loss, whatever its value.
            let surrogate = log_probs
                .into_iter()
                .zip(&plan.slopes)
                .map(|(log_probs, slopes)| {
                    let own: Vec<f32> =
                        slopes[start..start + 2 * n].iter().map(|s| *s as f32).collect();
                    (log_probs * to_tensor::<B>(&own, &self.device)).sum()
                })
                .reduce(|a, b| a + b);
            Ok((surrogate, (batch.n_tokens(), plan.report.clone())))
        })?;
        let norm = self.trainer.step(learning_rate, self.phase.max_grad_norm)?;

        let n_tokens: usize = found.iter().map(|(n, _)| n).sum();
        let (_, report) = found.into_iter().next().expect("a step has a batch");
        let PlanReport { hypervolume, is_dominated, means, sample_sizes, penalties } = report;
        let penalty: f64 = penalties.iter().sum();
        let mut metrics = Metrics::from([
            (Quantity::LOSS, self.config.beta * penalty - hypervolume),
            (HYPERVOLUME, hypervolume),
            (Quantity::GRADIENT_NORM, norm),
        ]);
        // Each adapter has a pass of its own.
        let n_passes = self.trainer.module().adapters.len();
        metrics.set_trained_tokens(n_passes * n_tokens, clock.elapsed());
        for (k, name) in self.policies.iter().enumerate() {
            metrics.set(Quantity::KL_INITIAL.of(name), penalties[k]);
            metrics.set(Quantity::RATIO_SAMPLE_SIZE.of(name), sample_sizes[k]);
            metrics.set(DOMINATED.of(name), f64::from(u8::from(is_dominated[k])));
            for (objective, mean) in self.objectives.names().iter().zip(&means[k]) {
                metrics.set(MEAN_REWARD.between(name, objective), *mean);
            }
        }
        Ok(metrics)
    }

    fn headline(&self, m: &Metrics) -> String {
        let of = |quantity: Quantity| m.get(quantity).unwrap_or(f64::NAN);
        let dominated = self.policies.iter().filter_map(|name| m.get(DOMINATED.of(name)));
        format!(
            "hypervolume {:.3}  dominated {:.0}  |grad| {:.2}  {:.0} tokens/s",
            of(HYPERVOLUME),
            dominated.sum::<f64>(),
            of(Quantity::GRADIENT_NORM),
            of(Quantity::TOKENS_PER_SECOND),
        )
    }

    fn non_finite(&self) -> Result<Option<&'static str>> {
        self.trainer.non_finite()
    }

    fn save(&self) -> Result<Parts> {
        self.trainer.parts()
    }

    fn load(&mut self, c: &Checkpoint) -> Result<()> {
        self.trainer.restore_parts(c, &self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_start_from_their_own_objectives_and_others_between() {
        let objectives = Objectives::new(["a", "b"].map(String::from)).unwrap();
        let of = |names: &[&str]| {
            own_weights(&names.iter().map(ToString::to_string).collect::<Vec<_>>(), &objectives)
        };
        assert_eq!(of(&["b", "middle", "a"]), [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]);
        assert_eq!(of(&["1", "2", "3"]), [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]);
        assert_eq!(of(&["1", "a"]), [[0.0, 1.0], [1.0, 0.0]]);
    }

    #[test]
    fn scores_become_z_scores_and_constant_ones_are_refused() {
        let objectives = Objectives::new(["a", "b"].map(String::from)).unwrap();
        let pairs = |b: f32| Pairs {
            tokens: Vec::new().into(),
            mixture: None,
            labels: Vec::new(),
            scores: vec![
                Some([vec![1.0, b], vec![3.0, 0.0]]),
                Some([vec![2.0, 0.0], vec![2.0, 0.0]]),
            ],
        };
        let (rewards, note) = z_scores(&pairs(4.0), &objectives, -2.0).unwrap();
        // Means 2 and 1, squares 2/3 and (9 + 3)/3.
        let std = (2f64 / 3.0).sqrt();
        assert!((rewards[0][0][0] + 1.0 / std).abs() < 1e-12 && rewards[1][0][0] == 0.0);
        assert_eq!((rewards[0][0][1], rewards[1][1][1]), (1.5, -0.5));
        assert!(note.contains("b -3.0000"), "{note}");
        let e = z_scores(&pairs(0.0), &objectives, -2.0).unwrap_err().to_string();
        assert!(e.contains("[ham]") && e.contains("`b`") && e.contains("z-scores"), "{e}");
    }
}
