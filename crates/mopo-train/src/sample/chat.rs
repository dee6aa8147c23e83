//! Conversations: each answer is generated from all messages so far, and shown while it is made.

use std::ops::ControlFlow;

use mopo_data::{ChatTemplate, Message, PromptForm, note_messages};
use mopo_lm::{Decoder, Decoding, generate_streaming};
use mopo_ops::FusedBackend;

use super::{Resolved, Sampler, SamplingOverrides};
use crate::{Error, Result};

/// An answer in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The text, without white space around it.
    pub text: String,
    /// Whether it ends only because it reached `max_new_tokens`.
    pub is_cut: bool,
}

/// A character whose bytes are not all there yet.
const INCOMPLETE: char = '\u{fffd}';

impl<B: FusedBackend> Sampler<B> {
    /// Answers a conversation, in the template of the model or, if it has none, as a dialogue of HH-RLHF. `on_text`
    /// gets the answer's text piece by piece, whole characters only, and ends it with a
    /// [`Break`](ControlFlow::Break).
    ///
    /// # Errors
    /// A conversation that the template refuses, or that leaves no room for the answer in the model's context;
    /// settings or head out of range.
    pub fn reply(
        &self,
        head: impl Into<Decoding>,
        messages: &[Message],
        overrides: &SamplingOverrides,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Reply> {
        let decoding = head.into();
        let template = self.template.unwrap_or(ChatTemplate::Dialogue);
        let is_ours = self.tokenizer.form() != PromptForm::Model;
        let Resolved { params, decoding, note } = self.resolved(decoding)?;
        let mut messages = messages.to_vec();
        if let Some(note) = note {
            note_messages(&mut messages, &note);
        }
        let prompt = self.tokenizer.encode_conversation(&messages, template)?;
        let config = self.bounded(self.settings(overrides, prompt.len())?);
        let (n_prompt, n_new) = (prompt.len(), config.max_new_tokens);
        let max = self.base.shape().max_position_embeddings;
        if n_prompt.saturating_add(n_new) > max {
            return Err(Error::ConversationTooLong { n_prompt, n_new, max });
        }
        let answer = |text: &'_ str| -> (String, bool) {
            match is_ours {
                true => (template.settled(text).into(), template.answer(text).len() < text.len()),
                false => (text.into(), false),
            }
        };
        let (mut shown, mut failed) = (0, None);
        let mut show = |text: &str, shown: &mut usize| match text.get(*shown..) {
            Some(new) if !new.is_empty() => {
                *shown = text.len();
                on_text(new)
            }
            _ => ControlFlow::Continue(()),
        };
        let ids = generate_streaming(
            &self.base,
            params.as_deref(),
            decoding,
            &prompt,
            self.tokenizer.end_of_text(),
            &config,
            &self.device,
            &mut |ids| {
                let text = match self.tokenizer.decode(ids) {
                    Ok(text) => text,
                    Err(e) => {
                        failed = Some(e);
                        return ControlFlow::Break(());
                    }
                };
                let (settled, ended) = answer(text.trim_start().trim_end_matches(INCOMPLETE));
                show(settled.trim_end(), &mut shown)?;
                if ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        )?;
        if let Some(e) = failed {
            return Err(e.into());
        }
        let text = self.tokenizer.decode(&ids)?;
        let whole = text.trim_start();
        let text = if is_ours { template.answer(whole) } else { whole }.trim_end();
        // What was held back; whoever ended the answer wants no more of it.
        let _ = show(text, &mut shown);
        Ok(Reply { text: text.into(), is_cut: ids.len() == n_new })
    }
}
