//! A conversation in parts: what the model is given, and what it should learn to say.

use super::JinjaTemplate;
use crate::{Error, Message, Result};

const SPLIT_REMEDY: &str = "train on the last response alone, or use a template that writes a turn \
                            the same way wherever it is";

/// A part of a rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The text, with the template's control tokens written out.
    pub text: String,
    /// Whether the assistant says it: its message and what ends its turn.
    pub is_response: bool,
}

impl JinjaTemplate {
    /// A whole conversation in parts, whose texts together are [`render`](Self::render) without a
    /// generation prompt. A response begins after the generation prompt and includes what the
    /// template writes at the end of its turn.
    ///
    /// # Errors
    /// Those of [`render`](Self::render), and [`Error::ChatTemplate`] if the beginning of the
    /// conversation is rendered otherwise when there is more: some templates change earlier turns,
    /// such as those that leave out what the assistant thought.
    pub fn segments(&self, messages: &[Message]) -> Result<Vec<Segment>> {
        let whole = self.render(messages, false)?;
        let mut segments = Vec::new();
        let mut done = 0;
        let responses =
            messages.iter().enumerate().filter(|(_, message)| message.role == "assistant");
        for (i, _) in responses {
            let (start, end) = (self.start(messages, i, &whole)?, self.end(messages, i, &whole)?);
            if start < done || end < start {
                return Err(self.not_a_prefix(i));
            }
            segments.push(Segment { text: whole[done..start].into(), is_response: false });
            segments.push(Segment { text: whole[start..end].into(), is_response: true });
            done = end;
        }
        segments.push(Segment { text: whole[done..].into(), is_response: false });
        segments.retain(|segment| !segment.text.is_empty());
        Ok(segments)
    }

    /// A conversation that ends with the assistant's message, as prompt and response. Unlike
    /// [`segments`](Self::segments) it works for templates that change earlier turns.
    ///
    /// # Errors
    /// Those of [`render`](Self::render), and [`Error::ChatTemplate`] if the last message is not
    /// the assistant's or its turn does not begin with the generation prompt.
    pub fn last_response(&self, messages: &[Message]) -> Result<(String, String)> {
        let [before @ .., last] = messages else { return Err(self.no_response()) };
        if last.role != "assistant" {
            return Err(self.no_response());
        }
        let whole = self.render(messages, false)?;
        let at = self.start(messages, before.len(), &whole)?;
        Ok((whole[..at].into(), whole[at..].into()))
    }

    /// The length of the text before response `i`, at the beginning of the whole text.
    fn start(&self, messages: &[Message], i: usize, whole: &str) -> Result<usize> {
        let text = self.render(&messages[..i], true)?;
        if whole.starts_with(&text) {
            return Ok(text.len());
        }
        // Which of the two differs: earlier turns, or how this one begins.
        let before = self.render(&messages[..i], false)?;
        if whole.starts_with(&before) && self.end(messages, i, whole).is_ok() {
            return Err(self.other_prompt(i));
        }
        Err(self.not_a_prefix(i))
    }

    /// The same up to the end of the response.
    fn end(&self, messages: &[Message], i: usize, whole: &str) -> Result<usize> {
        if i + 1 == messages.len() {
            return Ok(whole.len());
        }
        let text = self.render(&messages[..=i], false)?;
        if whole.starts_with(&text) { Ok(text.len()) } else { Err(self.not_a_prefix(i)) }
    }

    fn not_a_prefix(&self, i: usize) -> Error {
        Error::ChatTemplate {
            what: self.what.clone(),
            line: None,
            why: format!(
                "the text up to message {i} (counted from 0), the assistant's, is not the \
                 beginning of the text of the whole conversation"
            ),
            remedy: SPLIT_REMEDY,
        }
    }

    fn other_prompt(&self, i: usize) -> Error {
        Error::ChatTemplate {
            what: self.what.clone(),
            line: None,
            why: format!(
                "message {i} (counted from 0), the assistant's, does not begin with the \
                 generation prompt"
            ),
            remedy: "use a template whose generation prompt begins the turns of the assistant",
        }
    }

    fn no_response(&self) -> Error {
        Error::ChatTemplate {
            what: self.what.clone(),
            line: None,
            why: "the last message is not the assistant's, so there is no response".into(),
            remedy: "end the conversation with a message of the role `assistant`",
        }
    }
}
