//! Answers to prompts as token ids and text: for evaluation, and for methods that learn from the policy's own answers.

use mopo_data::{ChatTemplate, Tokenizer};
use mopo_lm::{
    CausalLm, Decoding, GenerationConfig, HeadChoice, PolicyParams, Sampled, generate_with_ends,
};
use mopo_ops::FusedBackend;
use serde::{Deserialize, Serialize};

use crate::communicator::Communicator;
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
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AnswerText {
    /// What was drawn.
    pub(crate) sampled: Sampled,
    /// Its text, cut at the next turn if the template has no end-of-turn token.
    pub(crate) text: String,
}

impl<B: FusedBackend> Answerer<'_, B> {
    /// One answer per prompt, in order, each of which advances the progress; `row_ids` as for [`generate_with_ends`]. Ids without a token are never
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
        let params = self.params.filter(|_| decoding.head != HeadChoice::Base);
        let generation = bounded(self.tokenizer, generation.clone());
        let sampled = generate_with_ends(
            self.base,
            params,
            decoding,
            prompts,
            row_ids,
            self.tokenizer.end_of_text(),
            &generation,
            self.device,
            &mut || progress.advance(1, ""),
        )?;
        let text_of = |sampled: Sampled| {
            let text = self.tokenizer.decode(&sampled.ids)?;
            let text = self.template.map_or(&*text, |t| t.answer(&text)).to_string();
            Ok(AnswerText { sampled, text })
        };
        sampled.into_iter().map(text_of).collect()
    }

    /// The same, dealt out over the ranks; every rank gets all answers.
    ///
    /// # Errors
    /// Those of [`answer`](Self::answer).
    pub(crate) fn answer_together(
        &self,
        decoding: &Decoding,
        prompts: &[Vec<u32>],
        row_ids: Option<&[u64]>,
        generation: &GenerationConfig,
        communicator: &dyn Communicator,
        progress: &mut dyn Progress,
    ) -> Result<Vec<AnswerText>> {
        let own = || (communicator.rank()..prompts.len()).step_by(communicator.world());
        let prompts_of: Vec<Vec<u32>> = own().map(|i| prompts[i].clone()).collect();
        let ids: Option<Vec<u64>> = row_ids.map(|ids| own().map(|i| ids[i]).collect());
        let found = match prompts_of.is_empty() {
            true => Vec::new(),
            false => self.answer(decoding, &prompts_of, ids.as_deref(), generation, progress)?,
        };
        communicator.interleaved(prompts.len(), found)
    }
}

/// The settings with the tokenizer's limits: its ids, and its tokens that end a response.
pub(super) fn bounded(tokenizer: &Tokenizer, mut generation: GenerationConfig) -> GenerationConfig {
    let known = tokenizer.vocab_size();
    generation.n_tokens = Some(generation.n_tokens.map_or(known, |n| n.min(known)));
    generation.stop.extend(tokenizer.stops());
    generation
}
