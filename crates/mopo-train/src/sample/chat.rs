//! A conversation: each answer is generated from all messages so far, and shown while it is made.

use std::ops::ControlFlow;

use mopo_data::Message;
use mopo_lm::Decoding;
use mopo_ops::FusedBackend;

use super::SamplingOverrides;
use super::session::{Prompt, Question, Session, TextEvent};
use crate::Result;

/// An answer in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The text, without white space around it.
    pub text: String,
    /// Whether it ends only because it reached `max_new_tokens`.
    pub is_cut: bool,
}

impl<B: FusedBackend> Session<'_, B> {
    /// Answers a conversation, in the template of the model or, if it has none, as a dialogue of HH-RLHF. `on_text`
    /// gets the answer's text piece by piece, whole characters only, and ends it with a
    /// [`Break`](ControlFlow::Break). Other questions go on meanwhile, but their news are lost.
    ///
    /// # Errors
    /// A conversation that the template refuses, or that leaves no room for the answer in the model's context;
    /// settings or head out of range.
    pub fn reply(
        &mut self,
        head: impl Into<Decoding>,
        messages: &[Message],
        overrides: &SamplingOverrides,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Reply> {
        let question = Question {
            prompt: Prompt::Chat(messages.to_vec()),
            decoding: head.into(),
            overrides: *overrides,
            stop: vec![],
            sample: 0,
            log_probs: None,
        };
        let asked = self.ask(question)?.id;
        let mut text = String::new();
        loop {
            for event in self.step() {
                match event {
                    TextEvent::Piece { id, text: piece, .. } if id == asked => {
                        text += &piece;
                        if on_text(&piece).is_break() {
                            self.cancel(id);
                            return Ok(Reply { text, is_cut: false });
                        }
                    }
                    TextEvent::End { id, is_cut, .. } if id == asked => {
                        return Ok(Reply { text, is_cut });
                    }
                    TextEvent::Failed { id, error } if id == asked => return Err(error),
                    _ => {}
                }
            }
        }
    }
}
