//! The responses that a window trains on: the data's, or fresh ones that the references gave when it began (docs/math.md,
//! section 4).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use mopo_core::FreshAnswers;
use mopo_core::importance::mixture_log_prob;
use mopo_data::{PairTokens, indicator_of_scores};
use mopo_eval::reward::score_all;
use mopo_lm::{CausalLm, Decoding, GenerationConfig, HeadChoice, PolicyParams};
use mopo_ops::FusedBackend;
use mopo_report::{Metrics, Quantity};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{PHASE, Setup};
use crate::batches::{BatchOrder, step_seed};
use crate::communicator::Communicator;
use crate::log_probs::{LogProbs, all_log_probs};
use crate::rollouts::RolloutInputs;
use crate::sample::Answerer;
use crate::{Error, Pairs, Result, RunData, Silent};

/// How often an objective's reward prefers a policy's fresh answers to the data's responses.
const FRESH_PREFERENCE: Quantity = Quantity::new("fresh_preference");

/// Labelled pairs, and what is known of whoever gave the responses.
pub(super) struct Sample<'a> {
    pub(super) pairs: Cow<'a, Pairs>,
    /// log π_0 of the responses.
    pub(super) initial: Cow<'a, LogProbs>,
    /// log μ of the responses, μ the policy that they are from; `None`: π_0.
    behaviour: Option<LogProbs>,
    /// ε per objective.
    pub(super) radius: Vec<f64>,
    order: BatchOrder,
    /// The step of the first batch.
    first_step: usize,
}

impl<'a> Sample<'a> {
    /// The run's data, from the first step on.
    pub(super) fn of_data(setup: &Setup<'a>) -> Self {
        let (pairs, initial) = (setup.pairs, setup.initial_log_probs);
        Self::new(Cow::Borrowed(pairs), Cow::Borrowed(initial), None, 0, setup)
    }

    fn new(
        pairs: Cow<'a, Pairs>,
        initial: Cow<'a, LogProbs>,
        behaviour: Option<LogProbs>,
        first_step: usize,
        setup: &Setup<'_>,
    ) -> Self {
        let seed = step_seed(setup.seed, PHASE, first_step);
        let radius = |n| setup.config.ball.radius(n);
        Self {
            order: BatchOrder::of_pairs(&pairs, None, setup.phase.batch_size, seed),
            radius: pairs.labelled_responses().into_iter().map(radius).collect(),
            pairs,
            initial,
            behaviour,
            first_step,
        }
    }

    /// log μ of both responses of a pair.
    pub(super) fn behaviour(&self, pair: usize) -> [f32; 2] {
        self.behaviour.as_ref().unwrap_or(&self.initial)[pair]
    }

    /// The micro-batches of a step.
    pub(super) fn batches(&mut self, step: usize, n: usize) -> Vec<Vec<usize>> {
        self.order.step(step - self.first_step, n)
    }

    /// What a checkpoint keeps; `None` for the run's data.
    pub(super) fn saved(&self) -> Option<SavedSample> {
        let behaviour = self.behaviour.clone()?;
        let tokens = self.pairs.tokens.in_memory().expect("made in memory");
        Some(SavedSample {
            first_step: self.first_step,
            tokens: tokens
                .iter()
                .map(|PairTokens { prompt, first, second }| [prompt, first, second].map(Vec::clone))
                .collect(),
            labels: self.pairs.labels.clone(),
            initial: self.initial.to_vec(),
            behaviour,
        })
    }

    /// Its inverse.
    pub(super) fn restored(saved: SavedSample, setup: &Setup<'_>) -> Self {
        let SavedSample { first_step, tokens, labels, initial, behaviour } = saved;
        let tokens =
            tokens.into_iter().map(|[prompt, first, second]| PairTokens { prompt, first, second });
        let pairs = Pairs::without_scores(tokens.collect(), labels);
        Self::new(Cow::Owned(pairs), Cow::Owned(initial), Some(behaviour), first_step, setup)
    }
}

/// A fresh sample as it is in a checkpoint.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedSample {
    first_step: usize,
    tokens: Vec<[Vec<u32>; 3]>,
    labels: Vec<[Vec<Option<f32>>; 2]>,
    initial: LogProbs,
    behaviour: LogProbs,
}

/// What fresh samples are made with.
pub(super) struct FreshSampler<'a> {
    pub(super) settings: FreshAnswers,
    pub(super) inputs: &'a RolloutInputs,
    pub(super) data: &'a RunData,
    /// For each objective the index of its reward.
    pub(super) rewards: Vec<usize>,
    /// The policies' names.
    pub(super) names: &'a [String],
    /// Scores of the data's responses to prompts that were drawn before, by prompt: `[n_responses][n_rewards]`.
    pub(super) opponents: BTreeMap<usize, Vec<Vec<f32>>>,
}

/// A fresh sample, and log π_ref of its responses under each policy's reference.
pub(super) struct FreshSample {
    pub(super) sample: Sample<'static>,
    pub(super) reference: Vec<LogProbs>,
}

/// Refuses so few prompts that a policy would have no turn: answer j to prompt i is one of policy (i + j) mod K.
pub(super) fn check_turns(n_prompts: usize, n_answers: usize, n_policies: usize) -> Result<()> {
    if n_prompts + n_answers > n_policies {
        return Ok(());
    }
    Err(Error::Config {
        origin: "`[mopo.fresh]`".into(),
        message: format!(
            "{n_policies} policies take turns to answer, and with {n_prompts} prompts and {n_answers} answers to each not \
             all of them have one: set `mopo.fresh.prompts` to {} or more, or `mopo.fresh.answers`, and take data with so \
             many training prompts",
            (n_policies + 1).saturating_sub(n_answers)
        ),
    })
}

impl FreshSampler<'_> {
    /// Answers of the references to training prompts, labelled by how often the rewards prefer each to the data's responses
    /// to its prompt. The references answer in turns, so that the answers are from their mixture.
    ///
    /// # Errors
    /// Those of generation; a reward that refuses an answer.
    #[allow(clippy::too_many_arguments)] // of private plumbing
    pub(super) fn sample<B: FusedBackend>(
        &mut self,
        step: usize,
        setup: &Setup<'_>,
        base: &CausalLm<B>,
        reference: &PolicyParams<B>,
        communicator: &dyn Communicator,
        device: &B::Device,
        metrics: &mut Metrics,
    ) -> Result<FreshSample> {
        let n_policies = setup.primaries.len();
        let seed = step_seed(setup.seed, "mopo fresh answers", step);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let drawn = self.data.draw_prompts(self.settings.prompts, &mut rng);
        let n = drawn.len();
        check_turns(n, self.settings.answers, n_policies)?;

        // Of each row its prompt and its policy; the answers to a prompt next to each other.
        let row = |i: usize, j: usize| (drawn[i], (i + j) % n_policies);
        let rows: Vec<(usize, usize)> =
            (0..n).flat_map(|i| (0..self.settings.answers).map(move |j| row(i, j))).collect();
        let mut answers = vec![None; rows.len()];
        for h in 0..n_policies {
            let own: Vec<usize> = (0..rows.len()).filter(|&r| rows[r].1 == h).collect();
            let prompts = self.data.tokens_of_prompts(own.iter().map(|&r| rows[r].0))?;
            let ids: Vec<u64> = own.iter().map(|&r| r as u64).collect();
            let generation = GenerationConfig {
                max_new_tokens: self.settings.max_new_tokens,
                temperature: 1.0,
                seed,
                ..GenerationConfig::default()
            };
            let answerer = Answerer {
                base,
                params: Some(reference),
                tokenizer: &self.data.tokenizer,
                template: self.inputs.template,
                device,
            };
            let found = answerer.answer_together(
                &Decoding::from(HeadChoice::Policy(h)),
                &prompts,
                Some(&ids),
                &generation,
                communicator,
                &mut Silent,
            )?;
            own.into_iter().zip(found).for_each(|(r, answer)| answers[r] = Some(answer));
        }
        let answers: Vec<_> = answers.into_iter().flatten().collect();
        let n_generated: usize = answers.iter().map(|answer| answer.sampled.drawn().len()).sum();

        let texts = answers.iter().map(|answer| answer.text.clone()).collect();
        let labels = self.labels(&drawn, &rows, texts, communicator)?;
        for (h, policy) in self.names.iter().enumerate() {
            for (k, name) in setup.objectives.names().iter().enumerate() {
                let own = || rows.iter().zip(&labels).filter(|((_, of), _)| *of == h);
                let sum: f64 = own().filter_map(|(_, row)| row[k]).map(f64::from).sum();
                let key = FRESH_PREFERENCE.between(policy, name);
                metrics.set(key, sum / own().count() as f64);
            }
        }

        let mut labels = labels.into_iter();
        let prompts = rows.chunks_exact(2).map(|rows| rows[0].0);
        let (tokens, labels): (Vec<PairTokens>, Vec<_>) = self
            .data
            .tokens_of_prompts(prompts)?
            .into_iter()
            .zip(answers.chunks_exact(2))
            .map(|(prompt, of)| {
                let [first, second] = [0, 1].map(|r| of[r].sampled.drawn());
                let labels = [0, 1].map(|_| labels.next().expect("one for each answer"));
                (PairTokens { prompt, first, second }, labels)
            })
            .unzip();
        let pairs = Pairs::without_scores(tokens, labels);
        let scored = |params| {
            let name = "fresh answers";
            all_log_probs(base, params, &pairs, name, device, communicator, &mut Silent)
        };
        let initial = scored(None)?.swap_remove(0);
        let reference = scored(Some(reference))?;
        metrics.set(Quantity::GENERATED_TOKENS, n_generated as f64);
        let mixed =
            |i: usize| [0, 1].map(|r| mixture_log_prob(reference.iter().map(move |of| of[i][r])));
        let behaviour = (0..pairs.len()).map(mixed).collect();
        let (pairs, initial) = (Cow::Owned(pairs), Cow::Owned(initial));
        let sample = Sample::new(pairs, initial, Some(behaviour), step, setup);
        Ok(FreshSample { sample, reference })
    }

    /// For each answer and objective, how often its reward prefers the answer to the data's responses to the same prompt.
    fn labels(
        &mut self,
        drawn: &[usize],
        rows: &[(usize, usize)],
        texts: Vec<String>,
        communicator: &dyn Communicator,
    ) -> Result<Vec<Vec<Option<f32>>>> {
        let (rewards, data) = (&self.inputs.rewards, self.data);
        let new: BTreeSet<usize> =
            drawn.iter().copied().filter(|prompt| !self.opponents.contains_key(prompt)).collect();
        // Each text once, however many pairs it is in.
        let mut responses: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for &prompt in &new {
            let of = responses.entry(prompt).or_default();
            for &pair in &data.train_prompts[prompt].pairs {
                let record = data.train_record(pair)?.into_owned();
                of.extend([record.first, record.second]);
            }
        }
        let all = || responses.iter().flat_map(|(&prompt, of)| of.iter().map(move |t| (prompt, t)));
        let questions = data.prompt_texts(all().map(|(prompt, _)| prompt))?;
        let texts_of_data: Vec<String> = all().map(|(_, text)| text.clone()).collect();
        let scores =
            communicator.by_first(|| Ok(score_all(rewards, &questions, &texts_of_data)?))?;
        let mut scores = scores.into_iter();
        for (prompt, of) in responses {
            self.opponents.insert(prompt, scores.by_ref().take(of.len()).collect());
        }

        let questions = data.prompt_texts(rows.iter().map(|(prompt, _)| *prompt))?;
        let scores = communicator.by_first(|| Ok(score_all(rewards, &questions, &texts)?))?;
        let label = |((prompt, _), own): (&(usize, usize), Vec<f32>)| {
            let others = &self.opponents[prompt];
            let share = |&reward: &usize| {
                let wins =
                    others.iter().map(|of| indicator_of_scores(own[reward], of[reward], 0.0));
                Some(wins.sum::<f32>() / others.len() as f32)
            };
            self.rewards.iter().map(share).collect()
        };
        Ok(rows.iter().zip(scores).map(label).collect())
    }
}
