//! Prompts and responses in a model's own chat template.
//!
//! A conversation is rendered as text, and the control tokens in that text are ids where the
//! template wrote them, but text in messages: a mark inside their names keeps those apart.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::Value;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, Tokenizer as HfTokenizer};

use super::{PromptForm, Tokenizer, TokenizerSettings, refused};
use crate::template::{Piece, messages_of};
use crate::{ChatTemplate, Error, JinjaTemplate, Message, PairTokens, PreferenceRecord, Result};

/// The time of templates that write today's date: a run must not depend on the day it is resumed.
const TIME: &str = "2024-07-26T12:00:00";

/// A chat template with what is needed to encode its text.
#[derive(Debug)]
pub(super) struct OwnTemplate {
    template: JinjaTemplate,
    text: String,
    /// Names of control tokens.
    control: HashSet<String>,
    /// Their lengths in bytes, the longest first.
    lengths: Vec<usize>,
    /// For a text that continues another: without the space that some tokenizers put first.
    continuing: Option<HfTokenizer>,
}

impl OwnTemplate {
    /// The template of the settings, if they have one that can be rendered here.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) if the library refuses its own parts; [`Error::Thread`].
    pub(super) fn new(settings: &TokenizerSettings, inner: &HfTokenizer) -> Result<Option<Self>> {
        let Some(text) = settings.chat_template_text()? else { return Ok(None) };
        let template = match JinjaTemplate::from_settings(settings, None) {
            Ok(Some(template)) => template,
            Err(e @ Error::Thread { .. }) => return Err(e),
            Ok(None) | Err(_) => return Ok(None),
        };
        let added = inner.get_added_tokens_decoder().into_values();
        let special = added.filter(|token| token.special && !token.content.is_empty());
        let control: HashSet<String> = special.map(|token| token.content).collect();
        let lengths: HashSet<usize> = control.iter().map(String::len).collect();
        let mut lengths: Vec<usize> = lengths.into_iter().collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let (template, text) = (template.with_time(TIME)?, text.to_owned());
        Ok(Some(Self { template, text, control, lengths, continuing: without_prefix(inner)? }))
    }

    /// The template as Jinja.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Text and control tokens.
    fn pieces<'a>(&self, text: &'a str) -> Vec<Piece<'a>> {
        let name_at = |at: usize| {
            let rest = &text[at..];
            let names = self.lengths.iter().filter_map(|n| rest.get(..*n));
            names.into_iter().find(|name| self.control.contains(*name))
        };
        let (mut pieces, mut start, mut at) = (vec![], 0, 0);
        while let Some(next) = text[at..].chars().next() {
            let Some(name) = name_at(at) else {
                at += next.len_utf8();
                continue;
            };
            if start < at {
                pieces.push(Piece::Text(&text[start..at]));
            }
            pieces.push(Piece::Control(name));
            at += name.len();
            start = at;
        }
        if start < text.len() {
            pieces.push(Piece::Text(&text[start..]));
        }
        pieces
    }

    /// A text of a message, whose control tokens are marked.
    fn marked(&self, text: &str, mark: char) -> String {
        let mut marked = String::with_capacity(text.len());
        for piece in self.pieces(text) {
            match piece {
                Piece::Text(text) => marked.push_str(text),
                Piece::Control(name) => {
                    let mut rest = name.chars();
                    marked.extend(rest.next());
                    marked.push(mark);
                    marked.push_str(rest.as_str());
                }
            }
        }
        marked
    }

    fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        mark: char,
    ) -> Result<String> {
        let message = |Message { role, content }: &Message| Message {
            role: self.marked(role, mark),
            content: self.marked(content, mark),
        };
        let messages: Vec<Message> = messages.iter().map(message).collect();
        self.template.render(&messages, add_generation_prompt)
    }
}

/// A character that none of the texts contains.
fn mark<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> char {
    // No text has all of a private-use plane, which would take 256 KiB of it.
    let mut candidates = '\u{f0000}'..='\u{ffffd}';
    candidates.find(|mark| !texts.clone().any(|text| text.contains(*mark))).unwrap_or('\u{f0000}')
}

/// The tokenizer without the space that it puts before a text; `None` if it puts none.
fn without_prefix(inner: &HfTokenizer) -> Result<Option<HfTokenizer>> {
    let wrong = |e: serde_json::Error| refused("its parts", e, "check the tokenizer");
    let mut normalizer = serde_json::to_value(inner.get_normalizer()).map_err(wrong)?;
    let mut pre_tokenizer = serde_json::to_value(inner.get_pre_tokenizer()).map_err(wrong)?;
    let mut found = false;
    if let Some(Value::Array(parts)) = normalizer.get_mut("normalizers") {
        let n = parts.len();
        parts.retain(|part| part["type"] != "Prepend");
        found |= parts.len() < n;
    }
    if normalizer["type"] == "Prepend" {
        (normalizer, found) = (Value::Null, true);
    }
    let parts: Vec<&mut Value> = match pre_tokenizer["type"] == "Sequence" {
        true => pre_tokenizer["pretokenizers"].as_array_mut().into_iter().flatten().collect(),
        false => vec![&mut pre_tokenizer],
    };
    for part in parts {
        if part["type"] == "Metaspace" && part["prepend_scheme"] != "never" {
            part["prepend_scheme"] = "never".into();
            found = true;
        } else if part["type"] == "ByteLevel" && part["add_prefix_space"] == true {
            part["add_prefix_space"] = false.into();
            found = true;
        }
    }
    if !found {
        return Ok(None);
    }
    let mut inner = inner.clone();
    let normalizer: Option<NormalizerWrapper> =
        serde_json::from_value(normalizer).map_err(wrong)?;
    let pre_tokenizer: Option<PreTokenizerWrapper> =
        serde_json::from_value(pre_tokenizer).map_err(wrong)?;
    let changed = inner.with_normalizer(normalizer).map(|_| ());
    changed.map_err(|e| refused("its parts", e, "check the tokenizer"))?;
    inner.with_pre_tokenizer(pre_tokenizer);
    Ok(Some(inner))
}

/// The messages of a record's prompt.
fn messages(record: &PreferenceRecord) -> Cow<'_, [Message]> {
    match &record.messages {
        Some(messages) => Cow::Borrowed(messages),
        None => Cow::Owned(messages_of(&record.prompt)),
    }
}

/// A prompt with a note, cut to `most` ids and as many as the note adds, but at most `whole`.
fn within(
    most: usize,
    whole: usize,
    plain: impl Fn() -> Result<Vec<u32>>,
    noted: impl Fn(usize) -> Result<Vec<u32>>,
) -> Result<Vec<u32>> {
    let ids = noted(usize::MAX)?;
    if ids.len() <= most.min(whole) {
        return Ok(ids);
    }
    let note = ids.len().saturating_sub(plain()?.len());
    match most.saturating_add(note).min(whole) {
        most if ids.len() <= most => Ok(ids),
        most => noted(most),
    }
}

impl Tokenizer {
    /// The ids of a record's prompt, like [`encode_prompt`](Self::encode_prompt). In a model's own
    /// template those of its messages; without any, of the turns of a dialogue or of ChatML, or of
    /// the text as the user's.
    ///
    /// # Errors
    /// Those of [`encode_prompt`](Self::encode_prompt); [`Error::ChatTemplate`] if the template
    /// refuses the messages.
    ///
    /// [`Error::ChatTemplate`]: crate::Error::ChatTemplate
    pub fn encode_prompt_of(
        &self,
        record: &PreferenceRecord,
        most: usize,
    ) -> Result<(Vec<u32>, bool)> {
        match self.form {
            PromptForm::Model => self.encode_messages(&messages(record), most),
            _ => self.encode_prompt(&record.prompt, most),
        }
    }

    /// The ids of a record's prompt with a [note](PreferenceRecord::with_note), which has room of its own: of the prompt
    /// itself stays as much as without the note, and of both together at most `whole`.
    ///
    /// # Errors
    /// Those of [`encode_prompt_of`](Self::encode_prompt_of).
    pub fn encode_noted_prompt_of(
        &self,
        record: &PreferenceRecord,
        note: &str,
        most: usize,
        whole: usize,
    ) -> Result<Vec<u32>> {
        let noted = record.with_note(note);
        let encode = |record, most| Ok(self.encode_prompt_of(record, most)?.0);
        within(most, whole, || encode(record, usize::MAX), |most| encode(&noted, most))
    }

    /// The same of a prompt's text ([`with_note`](crate::with_note)).
    ///
    /// # Errors
    /// Those of [`encode_prompt`](Self::encode_prompt).
    pub fn encode_noted_prompt(&self, prompt: &str, note: &str, most: usize) -> Result<Vec<u32>> {
        let noted = crate::with_note(prompt, note);
        let encode = |text: &str, most| Ok(self.encode_prompt(text, most)?.0);
        within(most, usize::MAX, || encode(prompt, usize::MAX), |most| encode(&noted, most))
    }

    /// The ids of a pair, and whether its prompt was cut to `most` ids. Each response ends with the
    /// token that ends a turn. In a model's own template a response is what follows the prompt, up
    /// to that token, where the assistant's message is added; if the template then changes the
    /// prompt too, it is the message alone.
    ///
    /// # Errors
    /// Those of [`encode_prompt_of`](Self::encode_prompt_of).
    pub fn encode_pair(
        &self,
        record: &PreferenceRecord,
        most: usize,
    ) -> Result<(PairTokens, bool)> {
        let Some(own) = self.own.as_ref().filter(|_| self.form == PromptForm::Model) else {
            let (prompt, was_cut) = self.encode_prompt(&record.prompt, most)?;
            let response = |text: &str| -> Result<Vec<u32>> {
                let mut ids = self.encode(text)?;
                ids.push(self.end_of_text);
                Ok(ids)
            };
            let (first, second) = (response(&record.first)?, response(&record.second)?);
            return Ok((PairTokens { prompt, first, second }, was_cut));
        };
        let messages = messages(record);
        let texts = [record.first.as_str(), &record.second].into_iter();
        let mark = mark(texts.chain(messages.iter().flat_map(|m| [m.role.as_str(), &m.content])));
        let before = own.render(&messages, true, mark)?;
        let (prompt, was_cut) = self.cut(self.encode_marked(own, &before, mark, false)?, most);
        let response = |text: &str| -> Result<Vec<u32>> {
            // The space after the colon of a dialogue is no part of the message.
            let content = text.strip_prefix(' ').unwrap_or(text);
            let last = Message { role: "assistant".into(), content: content.into() };
            let all: Vec<Message> = messages.iter().cloned().chain([last]).collect();
            let whole = own.render(&all, false, mark)?;
            let ids = match whole.strip_prefix(&before) {
                Some(rest) => self.encode_marked(own, rest, mark, true)?,
                None => self.encode_marked(own, &own.marked(content, mark), mark, true)?,
            };
            let end = ids.iter().position(|id| *id == self.end_of_text).unwrap_or(ids.len());
            Ok([&ids[..end], &[self.end_of_text]].concat())
        };
        let (first, second) = (response(&record.first)?, response(&record.second)?);
        Ok((PairTokens { prompt, first, second }, was_cut))
    }

    /// The ids that ask for an answer to a conversation: in the model's own chat template if the tokenizer has that
    /// form, else in `template`.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] or [`Error::Tokenizer`] if the template cannot express the messages, or the library
    /// refuses the text.
    pub fn encode_conversation(
        &self,
        messages: &[Message],
        template: ChatTemplate,
    ) -> Result<Vec<u32>> {
        if self.form == PromptForm::Model {
            return Ok(self.encode_messages(messages, usize::MAX)?.0);
        }
        let prompt = template.prompt(messages).map_err(|why| Error::Tokenizer {
            what: format!("the conversation in the chat template `{}`", template.name()),
            why,
            remedy: "change or remove that message",
        })?;
        Ok(self.encode_prompt(&prompt, usize::MAX)?.0)
    }

    /// The prompt that asks for an answer to messages, in the model's own template.
    pub(super) fn encode_messages(
        &self,
        messages: &[Message],
        most: usize,
    ) -> Result<(Vec<u32>, bool)> {
        let own = self.own.as_ref().expect("there with the form");
        let mark = mark(messages.iter().flat_map(|m| [m.role.as_str(), &m.content]));
        let text = own.render(messages, true, mark)?;
        Ok(self.cut(self.encode_marked(own, &text, mark, false)?, most))
    }

    /// The ids of a rendered text; `continues`: of one that follows another text.
    fn encode_marked(
        &self,
        own: &OwnTemplate,
        text: &str,
        mark: char,
        continues: bool,
    ) -> Result<Vec<u32>> {
        let pieces = own.pieces(text);
        let texts: Vec<String> = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.replace(mark, ""),
                Piece::Control(_) => String::new(),
            })
            .collect();
        let clean: Vec<Piece<'_>> = pieces
            .iter()
            .zip(&texts)
            .map(|(piece, text)| match piece {
                Piece::Text(_) => Piece::Text(text),
                Piece::Control(name) => Piece::Control(name),
            })
            .collect();
        let first = own.continuing.as_ref().filter(|_| continues).unwrap_or(&self.inner);
        self.encode_pieces(&clean, first)
    }

    /// The last `most` ids; the token that begins a text stays.
    fn cut(&self, ids: Vec<u32>, most: usize) -> (Vec<u32>, bool) {
        if ids.len() <= most {
            return (ids, false);
        }
        let begins = most > 1 && ids.first().copied() == self.role_id("bos_token");
        let n_first = usize::from(begins);
        let skip = ids.len() - (most - n_first);
        ([&ids[..n_first], &ids[skip..]].concat(), true)
    }

    /// The control token that the model's own template writes after a response.
    pub(super) fn end_of_turn(&self) -> Option<u32> {
        const RESPONSE: &str = "Yes, of course.";
        let own = self.own.as_ref()?;
        let turns = [("user", "Is there tea?"), ("assistant", RESPONSE)];
        let turns =
            turns.map(|(role, content)| Message { role: role.into(), content: content.into() });
        let text = own.template.render(&turns, false).ok()?;
        let after = &text[text.rfind(RESPONSE)? + RESPONSE.len()..];
        own.pieces(after).into_iter().find_map(|piece| match piece {
            Piece::Control(name) => self.inner.token_to_id(name),
            Piece::Text(_) => None,
        })
    }
}

#[cfg(test)]
mod tests;
