//! Makes rollouts: answers of the current policy, their scores, and what is known of their tokens.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mopo_eval::reward::score_all;
use mopo_lm::{
    CausalLm, Decoder, Decoding, GenerationConfig, HeadChoice, PackedBatch, PolicyParams,
    response_states, token_log_probs_at,
};
use mopo_ops::FusedBackend;

use super::params::ValueHead;
use super::{Answer, RolloutInputs, RolloutSettings};
use crate::communicator::Communicator;
use crate::sample::Answerer;
use crate::{Result, RunData, Silent};

/// What samples and scores.
pub(super) struct RolloutSampler<'a, B: FusedBackend> {
    /// The base without gradients.
    pub(super) base: CausalLm<B>,
    pub(super) settings: RolloutSettings<'a>,
    pub(super) inputs: &'a RolloutInputs,
    pub(super) data: &'a RunData,
    pub(super) device: B::Device,
}

impl<B: FusedBackend> RolloutSampler<'_, B> {
    /// Answers to these training prompts, `group_size` to each, one group after the other; without advantages yet.
    /// Also returns the tokens of the passes for their log-probs.
    /// `n_prompts`: prompts per pass for their log-probs; such parts are dealt out over the ranks.
    ///
    /// # Errors
    /// Those of generation; a reward that refuses an answer.
    pub(super) fn sample(
        &self,
        params: &PolicyParams<B>,
        value: Option<&ValueHead<B>>,
        prompts: &[usize],
        seed: u64,
        n_prompts: usize,
        communicator: &dyn Communicator,
    ) -> Result<(Vec<Answer>, usize)> {
        let n_parts = prompts.len().div_ceil(n_prompts);
        let parts = communicator.deal(n_parts, |part| {
            let first = part * n_prompts;
            let prompts = &prompts[first..(first + n_prompts).min(prompts.len())];
            self.sample_part(params, value, prompts, first, seed)
        })?;
        let n_scored = parts.iter().map(|(_, n)| n).sum();
        Ok((parts.into_iter().flat_map(|(answers, _)| answers).collect(), n_scored))
    }

    /// Those to some of the prompts, from number `first` on, which one rank makes.
    fn sample_part(
        &self,
        params: &PolicyParams<B>,
        value: Option<&ValueHead<B>>,
        prompts: &[usize],
        first: usize,
        seed: u64,
    ) -> Result<(Vec<Answer>, usize)> {
        let RolloutSettings { temperature, max_new_tokens, group_size, .. } = self.settings;
        let rows: Vec<usize> =
            prompts.iter().flat_map(|prompt| std::iter::repeat_n(*prompt, group_size)).collect();
        let tokens = self.data.tokens_of_prompts(rows.iter().copied())?;
        let first = (first * group_size) as u64;
        let row_ids: Vec<u64> = (first..first + rows.len() as u64).collect();
        let generation =
            GenerationConfig { max_new_tokens, temperature, seed, ..GenerationConfig::default() };
        let answerer = Answerer {
            base: &self.base,
            params: Some(params),
            tokenizer: &self.data.tokenizer,
            template: self.inputs.template,
            device: &self.device,
        };
        let head = Decoding::from(HeadChoice::Policy(0));
        let found = answerer.answer(&head, &tokens, Some(&row_ids), &generation, &mut Silent)?;

        let questions = self.data.prompt_texts(rows.iter().copied())?;
        let texts: Vec<String> = found.iter().map(|answer| answer.text.clone()).collect();
        let scores = score_all(&self.inputs.rewards, &questions, &texts)?;
        let z_scores = |row: Vec<f32>| -> Vec<f64> {
            let z = row.into_iter().zip(&self.inputs.statistics);
            z.map(|(score, known)| known.z(score.into()).expect("checked when loaded")).collect()
        };
        let answers = rows.iter().zip(found).zip(scores).map(|((prompt, answer), scores)| Answer {
            prompt: *prompt,
            ids: answer.sampled.drawn(),
            is_finished: answer.sampled.end.is_some(),
            scores: z_scores(scores),
            log_probs: Vec::new(),
            reference: Vec::new(),
            values: Vec::new(),
            advantages: Vec::new(),
            returns: Vec::new(),
        });
        let mut answers: Vec<Answer> = answers.collect();
        let n_scored = self.measure(params, value, &mut answers)?;
        Ok((answers, n_scored))
    }

    /// Sets log-probs and values of some answers, in a pass of the policy and one of the base; returns their tokens.
    fn measure(
        &self,
        params: &PolicyParams<B>,
        value: Option<&ValueHead<B>>,
        answers: &mut [Answer],
    ) -> Result<usize> {
        let batch = pack(self.data, answers.iter())?;
        let inputs = batch.inputs::<B>(&self.device);
        let all: Vec<usize> = (0..answers.len()).collect();
        let t = self.settings.temperature;
        let own = self.base.hidden_states_packed(&inputs, Some(params.adapter(0)));
        if let Some(value) = value {
            let values = value.values(response_states(own.clone(), &batch, &all));
            split(values, answers, |answer| &mut answer.values);
        }
        let log_probs = token_log_probs_at(own, &params.heads.heads[0], &batch, &all, t);
        split(log_probs, answers, |answer| &mut answer.log_probs);
        let base = self.base.hidden_states_packed(&inputs, None);
        let log_probs = token_log_probs_at(base, &self.base.lm_head(), &batch, &all, t);
        split(log_probs, answers, |answer| &mut answer.reference);
        Ok(2 * batch.n_tokens())
    }
}

/// Answers as rows, in their order: neighbours with the same prompt share a row, two at a time.
pub(super) fn pack<'a>(
    data: &RunData,
    answers: impl IntoIterator<Item = &'a Answer>,
) -> Result<PackedBatch> {
    let answers: Vec<&Answer> = answers.into_iter().collect();
    let prompts = answers.iter().map(|answer| data.prompt_tokens(answer.prompt));
    let prompts = prompts.collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::with_capacity(answers.len());
    let mut rest = &answers[..];
    while let [first, others @ ..] = rest {
        let prompt = &*prompts[answers.len() - rest.len()];
        match others {
            [second, others @ ..] if second.prompt == first.prompt => {
                rows.push(([prompt, &first.ids[..], &second.ids[..]], [true, true]));
                rest = others;
            }
            _ => {
                rows.push(([prompt, &first.ids[..], &[]], [true, false]));
                rest = others;
            }
        }
    }
    Ok(PackedBatch::pack(&rows)?)
}

/// Distributes a value for each token, answer after answer.
fn split<B: Backend>(
    values: Tensor<B, 1>,
    answers: &mut [Answer],
    field: fn(&mut Answer) -> &mut Vec<f64>,
) {
    let values: Vec<f64> = values.into_data().iter().collect();
    let mut rest = &values[..];
    for answer in answers {
        let (own, others) = rest.split_at(answer.ids.len());
        *field(answer) = own.to_vec();
        rest = others;
    }
    assert!(rest.is_empty(), "a value for each token");
}
