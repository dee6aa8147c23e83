//! The steps: a rollout whenever the last one has served, then passes over parts of it.

use std::time::Instant;

use burn::module::AutodiffModule;
use burn::tensor::{ElementConversion, Tensor};
use mopo_core::policy_gradient::is_clipped;
use mopo_lm::{CausalLm, Decoder, PolicyParams, response_states, token_log_probs_at};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::params::RolloutParams;
use super::sampling::{RolloutSampler, pack};
use super::{Answer, LossPart, RolloutLoss, RolloutSettings, TokenValues};
use crate::batches::{BatchOrder, pass_seed, step_seed};
use crate::checkpoint::{Checkpoint, Parts};
use crate::config::PhaseConfig;
use crate::fit::{Method, PolicyMethod};
use crate::log_probs::to_tensor;
use crate::methods::{RunSteps, TrainContext};
use crate::optim::Trainer;
use crate::{Error, Progress, Result};

/// Share of the tokens whose ratio is cut off.
const CLIP_FRACTION: Quantity = Quantity::new("clip_fraction");
/// Entropy per token, estimated on the policy's own answers.
const ENTROPY: Quantity = Quantity::new("entropy");
/// Tokens of the policy's own answers.
const ANSWER_LENGTH: Quantity = Quantity::new("answer_length");
/// Share of the policy's own answers that the limit of tokens cut off.
const UNFINISHED_ANSWERS: Quantity = Quantity::new("unfinished_answers");

/// The part of a checkpoint with the rollout.
const ROLLOUT: &str = "rollout.json";

/// What a method on rollouts needs besides its loss.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RolloutTraining<'a> {
    /// The method's phase.
    pub(crate) phase: &'static str,
    /// How answers are sampled and used.
    pub(crate) settings: RolloutSettings<'a>,
}

impl RolloutTraining<'_> {
    /// Trains the policy to the end.
    ///
    /// # Errors
    /// Those of sampling, of steps and of `fit`.
    pub(crate) fn run<B: FusedAutodiffBackend>(
        self,
        loss: impl RolloutLoss,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let (data, base) = (context.data, context.base);
        let inputs = context.rollouts.expect("loaded for methods that have rollouts");
        let hidden_size = loss.has_values().then(|| base.shape().hidden_size);
        let params = RolloutParams::new(context.params, hidden_size, self.settings.train_head);
        let lengths = data.prompt_lengths();
        let order = step_seed(context.seed, self.phase, 0);
        let weights = self.settings.target.weights();
        let mut method = RolloutMethod {
            loss,
            name: self.phase,
            policy: &context.policies[0],
            rewards: weights.iter().map(|(name, _)| (*name).to_string()).collect(),
            weights: weights.iter().map(|(_, weight)| *weight).collect(),
            base,
            sampler: RolloutSampler {
                base: base.valid(),
                settings: self.settings,
                inputs,
                data,
                device: context.device.clone(),
            },
            trainer: Trainer::new(params, context.communicator),
            order: BatchOrder::of_prompts(data, lengths, context.phase.batch_size, order),
            phase: context.phase,
            rollout: None,
            seed: context.seed,
            device: context.device.clone(),
        };
        fit(&mut method, progress)?;
        Ok(method.trainer.module().policy.policy(method.base))
    }
}

/// The state of a training.
struct RolloutMethod<'a, B: FusedAutodiffBackend, L> {
    loss: L,
    /// The phase's name.
    name: &'static str,
    /// The policy's name.
    policy: &'a str,
    /// The rewards' names, and their weights.
    rewards: Vec<String>,
    weights: Vec<f64>,
    /// The frozen base, on the backend with gradients.
    base: &'a CausalLm<B>,
    sampler: RolloutSampler<'a, B::InnerBackend>,
    trainer: Trainer<'a, B, RolloutParams<B>>,
    /// Batches of prompts.
    order: BatchOrder,
    phase: &'a PhaseConfig,
    /// The rollout in use; `None` where the next step begins with a new one.
    rollout: Option<Vec<Answer>>,
    seed: u64,
    device: B::Device,
}

/// What a checkpoint keeps besides weights and moments.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedRollout<S> {
    state: S,
    answers: Option<Vec<Answer>>,
}

/// Sums over a pass, or the passes of a step.
#[derive(Default, Serialize, Deserialize)]
struct StepSums {
    loss: f64,
    parts: Vec<(Quantity, f64)>,
    n_clipped: usize,
    n_packed: usize,
}

impl StepSums {
    /// Of all passes, in their order.
    fn total(passes: Vec<Self>) -> Self {
        let mut total = Self::default();
        for of in passes {
            total.loss += of.loss;
            for (i, (quantity, value)) in of.parts.into_iter().enumerate() {
                match total.parts.get_mut(i) {
                    Some((_, sum)) => *sum += value,
                    None => total.parts.push((quantity, value)),
                }
            }
            total.n_clipped += of.n_clipped;
            total.n_packed += of.n_packed;
        }
        total
    }
}

/// What passes of a step are made with, besides the parameters.
struct Pass<'a, B: FusedAutodiffBackend, L> {
    loss: &'a L,
    base: &'a CausalLm<B>,
    sampler: &'a RolloutSampler<'a, B::InnerBackend>,
    /// Of the whole step.
    n_tokens: usize,
    n_answers: usize,
    device: &'a B::Device,
}

impl<B: FusedAutodiffBackend, L: RolloutLoss> Pass<'_, B, L> {
    /// The loss of a pass, and what is known of it.
    fn make(
        &self,
        module: &RolloutParams<B>,
        answers: &[&Answer],
    ) -> Result<(Option<Tensor<B, 1>>, StepSums)> {
        let (n_tokens, n_answers) = (self.n_tokens, self.n_answers);
        let mut sums = StepSums::default();
        let batch = pack(self.sampler.data, answers.iter().copied())?;
        sums.n_packed += batch.n_tokens();
        let all: Vec<usize> = (0..answers.len()).collect();
        let head = module.policy.head(self.base);
        let inputs = batch.inputs::<B>(self.device);
        let hidden = self.base.hidden_states_packed(&inputs, Some(&module.policy.adapter));
        let values = module
            .value
            .as_ref()
            .map(|value| value.values(response_states(hidden.clone(), &batch, &all)));
        let temperature = self.sampler.settings.temperature;
        let log_probs = token_log_probs_at(hidden, &head, &batch, &all, temperature);

        let of = |list: fn(&Answer) -> &Vec<f64>| -> Tensor<B, 1> {
            let all: Vec<f32> =
                answers.iter().flat_map(|answer| list(answer).iter().map(|x| *x as f32)).collect();
            to_tensor(&all, self.device)
        };
        let is_per_answer = self.loss.is_per_answer();
        let mass = answers.iter().flat_map(|answer| {
            let n = answer.ids.len();
            let mass = match is_per_answer {
                true => 1.0 / (n_answers * n) as f32,
                false => 1.0 / n_tokens as f32,
            };
            std::iter::repeat_n(mass, n)
        });
        let tokens = TokenValues {
            log_probs: log_probs.clone(),
            old_values: values
                .is_some()
                .then(|| [of(|answer| &answer.values), of(|answer| &answer.returns)]),
            values,
            old: of(|answer| &answer.log_probs),
            reference: of(|answer| &answer.reference),
            advantages: of(|answer| &answer.advantages),
            mass: to_tensor(&mass.collect::<Vec<f32>>(), self.device),
        };
        let mut loss: Option<Tensor<B, 1>> = None;
        for (i, LossPart { quantity, weight, value }) in
            self.loss.loss(tokens).into_iter().enumerate()
        {
            let found = value.clone().into_scalar().elem::<f64>();
            sums.loss += weight * found;
            match sums.parts.get_mut(i) {
                Some((_, sum)) => *sum += found,
                None => sums.parts.push((quantity, found)),
            }
            let part = value.mul_scalar(weight);
            loss = Some(match loss {
                Some(loss) => loss + part,
                None => part,
            });
        }
        let now = log_probs.detach().into_data();
        let old = answers.iter().flat_map(|answer| answer.log_probs.iter().zip(&answer.advantages));
        let clip = self.loss.clip_range();
        sums.n_clipped += now
            .iter::<f64>()
            .zip(old)
            .filter(|(now, (old, advantage))| is_clipped(now - *old, **advantage, clip))
            .count();
        Ok((loss, sums))
    }
}

impl<B: FusedAutodiffBackend, L: RolloutLoss> RolloutMethod<'_, B, L> {
    /// Steps that a rollout serves.
    fn steps_per_rollout(&self) -> usize {
        let RolloutSettings { epochs, minibatches, .. } = self.sampler.settings;
        epochs * minibatches
    }

    /// A rollout by its number, with advantages, and how many tokens its log-probs took.
    fn sample(&mut self, number: usize) -> Result<(Vec<Answer>, usize)> {
        let n_batches = self.sampler.settings.minibatches * self.phase.gradient_accumulation_steps;
        let prompts: Vec<usize> =
            (0..n_batches).flat_map(|i| self.order.batch(number * n_batches + i)).collect();
        let module = self.trainer.module();
        let params = module.sampling(&self.sampler.base);
        let value = module.value.as_ref().map(|value| value.valid());
        let seed = step_seed(self.seed, &format!("{} rollout", self.name), number);
        let n_prompts = self.phase.batch_size;
        let (mut answers, n_scored) = self.sampler.sample(
            &params,
            value.as_ref(),
            &prompts,
            seed,
            n_prompts,
            self.trainer.communicator(),
        )?;
        self.loss.set_advantages(&mut answers);
        Ok((answers, n_scored))
    }

    /// The passes of a step, as indices of answers: whole groups, in an order drawn anew for each epoch.
    fn passes(&self, step: usize, n_answers: usize) -> Vec<Vec<usize>> {
        let RolloutSettings { minibatches, group_size, .. } = self.sampler.settings;
        let n_passes = self.phase.gradient_accumulation_steps;
        let (epoch, minibatch) = (step / minibatches, step % minibatches);
        let mut groups: Vec<usize> = (0..n_answers / group_size).collect();
        let seed = step_seed(self.seed, &format!("{} order", self.name), epoch);
        groups.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let n = minibatches * n_passes;
        let part = |i: usize| -> Vec<usize> {
            let own = &groups[i * groups.len() / n..(i + 1) * groups.len() / n];
            own.iter().flat_map(|group| group * group_size..(group + 1) * group_size).collect()
        };
        // No part is empty: a rollout has at least one prompt for each.
        (0..n_passes).map(|j| part(minibatch * n_passes + j)).collect()
    }

    /// Metrics of a rollout.
    fn report(&self, answers: &[Answer], metrics: &mut Metrics) {
        let n = answers.len() as f64;
        let n_tokens = answers.iter().map(|answer| answer.ids.len()).sum::<usize>() as f64;
        let mean = |of: &dyn Fn(&Answer) -> f64| answers.iter().map(of).sum::<f64>() / n;
        let policy = self.policy;
        metrics.set(Quantity::SCORE.of(policy), mean(&|answer| answer.score(&self.weights)));
        for (k, name) in self.rewards.iter().enumerate() {
            metrics.set(Quantity::SCORE.between(policy, name), mean(&|answer| answer.scores[k]));
        }
        let kl = mean(&|answer| answer.log_ratios().iter().sum());
        let log_prob: f64 = answers.iter().flat_map(|answer| &answer.log_probs).sum();
        for (quantity, value) in [
            (Quantity::KL_INITIAL, kl),
            (ENTROPY, -log_prob / n_tokens),
            (ANSWER_LENGTH, n_tokens / n),
            (UNFINISHED_ANSWERS, mean(&|answer| f64::from(!answer.is_finished))),
        ] {
            metrics.set(quantity.of(policy), value);
        }
        self.loss.report(policy, metrics);
    }
}

impl<B: FusedAutodiffBackend, L: RolloutLoss> PolicyMethod<B> for RolloutMethod<'_, B, L> {
    fn policies(&self) -> PolicyParams<B::InnerBackend> {
        self.trainer.module().policy.policy(self.base)
    }
}

impl<B: FusedAutodiffBackend, L: RolloutLoss> Method for RolloutMethod<'_, B, L> {
    fn phase(&self) -> &'static str {
        self.name
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let clock = Instant::now();
        let served = self.steps_per_rollout();
        let (answers, n_scored) = match self.rollout.take() {
            Some(answers) => (answers, None),
            None => {
                let (answers, n_scored) = self.sample(step / served)?;
                (answers, Some(n_scored))
            }
        };
        let passes = self.passes(step, answers.len());
        let of_step = || passes.iter().flatten().map(|&i| &answers[i]);
        let n_tokens = of_step().map(|answer| answer.ids.len()).sum::<usize>();
        let n_answers = of_step().count();
        let maker = Pass {
            loss: &self.loss,
            base: self.base,
            sampler: &self.sampler,
            n_tokens,
            n_answers,
            device: &self.device,
        };
        let found = self.trainer.passes(passes.len(), |module, v| {
            B::seed(&self.device, pass_seed(self.seed, self.name, step, v));
            let pass: Vec<&Answer> = passes[v].iter().map(|&i| &answers[i]).collect();
            maker.make(module, &pass)
        })?;
        let sums = StepSums::total(found);
        let norm = self.trainer.step(learning_rate, self.phase.max_grad_norm)?;
        let mut metrics =
            Metrics::from([(Quantity::LOSS, sums.loss), (Quantity::GRADIENT_NORM, norm)]);
        metrics.set_trained_tokens(sums.n_packed, clock.elapsed());
        if let Some(n_scored) = n_scored {
            let n_generated: usize = answers.iter().map(|answer| answer.ids.len()).sum();
            metrics.set(Quantity::GENERATED_TOKENS, n_generated as f64);
            metrics.set(Quantity::SCORED_TOKENS, n_scored as f64);
        }
        for (quantity, value) in sums.parts {
            metrics.set(quantity.of(self.policy), value);
        }
        let clipped = sums.n_clipped as f64 / n_tokens as f64;
        metrics.set(CLIP_FRACTION.of(self.policy), clipped);
        self.report(&answers, &mut metrics);
        self.rollout = (!(step + 1).is_multiple_of(served)).then_some(answers);
        Ok(metrics)
    }

    fn headline(&self, m: &Metrics) -> String {
        let of = |quantity: Quantity| m.get(quantity.of(self.policy)).unwrap_or(f64::NAN);
        format!(
            "score {:+.2}  KL {:.1}  {:.0} tokens/answer  loss {:.4}  {:.0} tokens/s",
            of(Quantity::SCORE),
            of(Quantity::KL_INITIAL),
            of(ANSWER_LENGTH),
            m.get(Quantity::LOSS).unwrap_or(f64::NAN),
            m.get(Quantity::TOKENS_PER_SECOND).unwrap_or(f64::NAN),
        )
    }

    fn non_finite(&self) -> Result<Option<&'static str>> {
        self.trainer.non_finite()
    }

    fn save(&self) -> Result<Parts> {
        let saved = SavedRollout { state: self.loss.state(), answers: self.rollout.clone() };
        let saved = serde_json::to_vec(&saved)
            .map_err(|e| Error::corrupt(ROLLOUT.as_ref(), e.to_string()))?;
        let mut parts = self.trainer.parts()?;
        parts.insert(ROLLOUT.into(), saved);
        Ok(parts)
    }

    fn load(&mut self, c: &Checkpoint) -> Result<()> {
        self.trainer.restore_parts(c, &self.device)?;
        let SavedRollout { state, answers } = serde_json::from_slice(c.part(ROLLOUT)?)
            .map_err(|e| Error::corrupt(&c.path.join(ROLLOUT), e.to_string()))?;
        self.loss.restore(state);
        self.rollout = answers;
        Ok(())
    }
}
