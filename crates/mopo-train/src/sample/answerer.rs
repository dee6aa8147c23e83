//! Answers to prompts as token ids and text: for evaluation, and for methods that learn from the policy's own answers.

use mopo_data::{ChatTemplate, Tokenizer};
use mopo_lm::{
    CausalLm, Decoding, GenerationConfig, HeadChoice, PolicyParams, Sampled, generate_with_ends,
};
use mopo_ops::FusedBackend;

use super::BATCH;
use crate::{Progress, Result};

/// What generates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answerer<'a, B: FusedBackend> {
    pub(crate) base: &'a CausalLm<B>,
    pub(crate) params: Option<&'a PolicyParams<B>>,
    pub(crate) tokenizer: &'a Tokenizer,
    /// The template of the prompts, if known and not the model's own.
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) device: &'a B::Device,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct AnswerText {
    /// What was drawn.
    pub(crate) sampled: Sampled,
    /// Its text, cut at the next turn if the template has no end-of-turn token.
    pub(crate) text: String,
}

impl<B: FusedBackend> Answerer<'_, B> {
    /// Number of batches for this many prompts, each of which advances the progress.
    pub(crate) fn batches(n_prompts: usize) -> usize {
        n_prompts.div_ceil(BATCH)
    }

    /// One answer per prompt, in order; `row_ids` as for [`generate_with_ends`]. Ids without a token are never
    /// chosen; an answer ends at the model's own end tokens and those of `generation`.
    ///
    /// # Errors
    /// Those of [`generate_with_ends`], and ids that the tokenizer refuses.
    pub(crate) fn answer(
        &self,
        decoding: &Decoding,
        prompts: &[Vec<u32>],
        row_ids: Option<&[u64]>,
        generation: &GenerationConfig,
        progress: &mut dyn Progress,
    ) -> Result<Vec<AnswerText>> {
        // Prompts of similar length together: a batch runs until its longest response ends, and its
        // cache has room for its longest prompt. Responses do not depend on the batch.
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&i| (prompts[i].len(), i));
        let params = self.params.filter(|_| decoding.head != HeadChoice::Base);
        let generation = bounded(self.tokenizer, generation.clone());
        let (end, device) = (self.tokenizer.end_of_text(), self.device);
        let mut answers: Vec<Option<AnswerText>> = vec![None; prompts.len()];
        for batch in order.chunks(BATCH) {
            let rows: Vec<Vec<u32>> = batch.iter().map(|&i| prompts[i].clone()).collect();
            let ids: Option<Vec<u64>> =
                row_ids.map(|row_ids| batch.iter().map(|&i| row_ids[i]).collect());
            let out = generate_with_ends(
                self.base,
                params,
                decoding,
                &rows,
                ids.as_deref(),
                end,
                &generation,
                device,
            )?;
            for (&i, sampled) in batch.iter().zip(out) {
                let text = self.tokenizer.decode(&sampled.ids)?;
                let text = self.template.map_or(&*text, |t| t.answer(&text)).to_string();
                answers[i] = Some(AnswerText { sampled, text });
            }
            progress.advance(1, "");
        }
        Ok(answers.into_iter().map(|answer| answer.expect("in one of the batches")).collect())
    }
}

/// The settings with the tokenizer's limits: its ids, and its tokens that end a response.
pub(super) fn bounded(tokenizer: &Tokenizer, mut generation: GenerationConfig) -> GenerationConfig {
    let known = tokenizer.vocab_size();
    generation.n_tokens = Some(generation.n_tokens.map_or(known, |n| n.min(known)));
    generation.stop.extend(tokenizer.stops());
    generation
}
