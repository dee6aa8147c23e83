//! Several questions at a time: text in, text out piece by piece, over one generation engine.

use std::collections::HashMap;
use std::sync::Arc;

use mopo_data::{ChatTemplate, Message, PromptForm, Tokenizer, note_messages, with_note};
use mopo_lm::{
    CausalLm, Decoder, Decoding, Engine, EngineConfig, EngineStats, Event, PolicyParams, Request,
    RequestId, TokenLogProbs,
};
use mopo_ops::FusedBackend;

use super::stops::StopScanner;
use super::{Resolved, Sampler, SamplingOverrides};
use crate::{Error, Result};

/// How many averages of policies' parameters are kept for the next question with the same weights.
const AVERAGES: usize = 8;

/// A character whose bytes are not all there yet.
const INCOMPLETE: char = '\u{fffd}';

/// The text to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation, put into the template of the model or, if it has none, of HH-RLHF's dialogues.
    Chat(Vec<Message>),
    /// A text as it is.
    Text(String),
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The text to continue.
    pub prompt: Prompt,
    /// The distribution of the next token.
    pub decoding: Decoding,
    /// Settings, instead of the model's own.
    pub overrides: SamplingOverrides,
    /// Texts that end the answer, and are not part of it.
    pub stop: Vec<String>,
    /// Different numbers have different random streams; 0 is that of [`Sampler::answer`].
    pub sample: u64,
    /// Report each token's log-probability, and so many of the most likely tokens.
    pub log_probs: Option<usize>,
}

/// A question that was taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its number in all events.
    pub id: RequestId,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
}

/// News of a question.
#[derive(Debug)]
pub enum TextEvent {
    /// More text: whole characters only, and nothing that may turn out to be a stop text.
    Piece {
        /// The question.
        id: RequestId,
        /// The text; empty if tokens came that are not shown yet.
        text: String,
        /// The tokens since the last piece, if log-probabilities were asked for.
        tokens: Vec<TokenText>,
    },
    /// The answer is complete.
    End {
        /// The question.
        id: RequestId,
        /// Whether it ends only because it has as many tokens as it may have.
        is_cut: bool,
        /// Tokens of the answer.
        n_tokens: usize,
        /// Tokens of the prompt that were in the cache already.
        shared_tokens: usize,
    },
    /// There will be no answer.
    Failed {
        /// The question.
        id: RequestId,
        /// Why.
        error: Error,
    },
}

/// A token as text, with its log-probability and the most likely ones in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenText {
    /// The token that was drawn.
    pub drawn: LikelyToken,
    /// The most likely ones, in falling order.
    pub top: Vec<LikelyToken>,
}

/// A token and how likely it is.
#[derive(Debug, Clone, PartialEq)]
pub struct LikelyToken {
    /// Its bytes; a token may be a part of a character.
    pub bytes: Vec<u8>,
    /// Its log-probability, in nats.
    pub log_prob: f32,
}

/// Questions that are answered together.
#[derive(Debug)]
pub struct Session<'a, B: FusedBackend> {
    sampler: &'a Sampler<B>,
    engine: Engine<'a, B, CausalLm<B>>,
    answers: HashMap<RequestId, Answer>,
    /// Averages of parameters by the bits of their weights, the latest last.
    averages: Vec<(Vec<u32>, Arc<PolicyParams<B>>)>,
}

/// An answer so far.
#[derive(Debug)]
struct Answer {
    text: TextOf,
    /// The prompt's own form, if the answer is a turn of a conversation.
    turn: Option<Turn>,
    scanner: StopScanner,
    /// What the scanner let through.
    clean: String,
    /// Bytes of `clean` that were shown.
    shown: usize,
    /// Bytes of the answer that the scanner has seen.
    scanned: usize,
    max_new_tokens: usize,
    shared_tokens: usize,
    /// Tokens since the last piece.
    tokens: Vec<TokenText>,
}

/// A turn of a conversation: no white space around it, and it ends before the next one.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// The template, unless the model has its own, with a token that ends a turn.
    template: Option<ChatTemplate>,
}

/// Text of tokens that come one after the other.
#[derive(Debug, Default)]
struct TextOf {
    ids: Vec<u32>,
    /// The tokens from here on are decoded again, those up to `read` only as context.
    context: usize,
    read: usize,
    text: String,
}

impl TextOf {
    /// Adds a token; text grows when its characters are complete.
    fn push(&mut self, id: u32, tokenizer: &Tokenizer) -> Result<()> {
        self.ids.push(id);
        let (known, all) = self.decoded(tokenizer)?;
        if all.len() > known && !all.ends_with(INCOMPLETE) {
            self.text += all.get(known..).unwrap_or_default();
            (self.context, self.read) = (self.read, self.ids.len());
        }
        Ok(())
    }

    /// Adds what is left: characters that will not be completed.
    fn finish(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        let (known, all) = self.decoded(tokenizer)?;
        self.text += all.get(known..).unwrap_or_default();
        self.read = self.ids.len();
        Ok(())
    }

    /// The length of the context's text, and the text with what is new.
    fn decoded(&self, tokenizer: &Tokenizer) -> Result<(usize, String)> {
        let known = tokenizer.decode(&self.ids[self.context..self.read])?;
        Ok((known.len(), tokenizer.decode(&self.ids[self.context..])?))
    }
}

impl Answer {
    /// Shows the scanner what is certainly part of the answer. Returns whether the answer is complete.
    fn scan(&mut self, is_last: bool) -> bool {
        let text = &self.text.text;
        let (settled, mut is_done) = match self.turn {
            None => (&text[..], false),
            Some(Turn { template }) => {
                let whole = text.trim_start();
                match template {
                    None => (whole, false),
                    Some(template) => {
                        let answer = template.answer(whole);
                        let is_over = answer.len() < whole.len();
                        (if is_last { answer } else { template.settled(whole) }, is_over)
                    }
                }
            }
        };
        if let Some(new) = settled.get(self.scanned..) {
            self.clean += &self.scanner.push(new);
            self.scanned = settled.len();
        }
        is_done |= self.scanner.is_done();
        if is_done || is_last {
            self.clean += &self.scanner.finish();
        }
        is_done
    }

    /// The text that may be shown now and was not.
    fn piece(&mut self) -> String {
        let visible = if self.turn.is_some() { self.clean.trim_end() } else { &self.clean };
        let new = visible.get(self.shown..).unwrap_or_default().to_owned();
        self.shown += new.len();
        new
    }
}

impl<B: FusedBackend> Sampler<B> {
    /// A session within these limits.
    ///
    /// # Errors
    /// Those of [`Engine::new`].
    pub fn session(&self, limits: EngineConfig) -> Result<Session<'_, B>> {
        Ok(Session {
            sampler: self,
            engine: Engine::new(&self.base, self.params.as_ref(), limits, &self.device)?,
            answers: HashMap::new(),
            averages: vec![],
        })
    }

    /// Limits of a session in which `n` questions that fill the context are answered at a time, but at most 1 GiB.
    pub fn limits(&self, n: usize) -> EngineConfig {
        // The base, and each policy if it has an adapter of its own.
        let n_lanes = 1 + self.params.as_ref().map_or(0, |params| params.adapters.len());
        EngineConfig::for_contexts(&self.base.shape(), n, n_lanes)
    }

    /// Tokens of prompt and answer together, at most.
    pub fn context(&self) -> usize {
        self.base.shape().max_position_embeddings
    }
}

impl<B: FusedBackend> Session<'_, B> {
    /// Takes a question on. It runs as soon as there is a place.
    ///
    /// # Errors
    /// A prompt that is empty, that the template refuses, or that leaves no room for the answer; settings or head out of
    /// range.
    pub fn ask(&mut self, question: Question) -> Result<Accepted> {
        let sampler = self.sampler;
        let Question { prompt, decoding, overrides, stop, sample, log_probs } = question;
        let (policies, decoding, note) = self.resolved(decoding)?;
        let (turn, prompt) = match prompt {
            Prompt::Chat(mut messages) => {
                let template = sampler.template.unwrap_or(ChatTemplate::Dialogue);
                let is_ours = sampler.tokenizer.form() != PromptForm::Model;
                if let Some(note) = note {
                    note_messages(&mut messages, &note);
                }
                let ids = sampler.tokenizer.encode_conversation(&messages, template)?;
                (Some(Turn { template: is_ours.then_some(template) }), ids)
            }
            Prompt::Text(text) => {
                let text = note.map_or(text.clone(), |note| with_note(&text, &note));
                let ids = match sampler.tokenizer.form() {
                    // It would become a question in the model's template.
                    PromptForm::Model => sampler.tokenizer.encode_continued(&text)?,
                    _ => sampler.tokenizer.encode_prompt(&text, usize::MAX)?.0,
                };
                (None, ids)
            }
        };
        let mut generation = sampler.bounded(sampler.settings(&overrides, prompt.len())?);
        generation.log_probs = log_probs;
        let (n_prompt, n_new, max) = (prompt.len(), generation.max_new_tokens, sampler.context());
        if n_prompt.saturating_add(n_new) > max {
            return Err(Error::ConversationTooLong { n_prompt, n_new, max });
        }
        let mut row_id = mopo_lm::prompt_row_id(&prompt);
        if sample > 0 {
            let bytes = [row_id.to_le_bytes(), sample.to_le_bytes()].concat();
            row_id = mopo_hub::fnv1a(bytes);
        }
        let id = self.engine.submit(Request {
            prompt,
            decoding,
            policies,
            generation,
            end_of_text: sampler.tokenizer.end_of_text(),
            row_id,
        })?;
        let answer = Answer {
            text: TextOf::default(),
            turn,
            scanner: StopScanner::new(stop),
            clean: String::new(),
            shown: 0,
            scanned: 0,
            max_new_tokens: n_new,
            shared_tokens: 0,
            tokens: vec![],
        };
        self.answers.insert(id, answer);
        Ok(Accepted { id, prompt_tokens: n_prompt })
    }

    /// What a choice comes to: policies of its own, if parameters are averaged; the distribution; what the prompt says.
    #[allow(clippy::type_complexity)]
    fn resolved(
        &mut self,
        decoding: Decoding,
    ) -> Result<(Option<Arc<PolicyParams<B>>>, Decoding, Option<String>)> {
        let Some(weights) = self.sampler.averaged_weights(&decoding) else {
            let Resolved { decoding, note, .. } = self.sampler.resolved(decoding)?;
            return Ok((None, decoding, note));
        };
        let key: Vec<u32> = weights.iter().map(|weight| weight.to_bits()).collect();
        let known = self.averages.iter().position(|(known, _)| *known == key);
        let (key, policies) = match known {
            Some(i) => self.averages.remove(i),
            None => {
                let Resolved { params, .. } = self.sampler.resolved(decoding.clone())?;
                let params = params.expect("policies are averaged").into_owned();
                (key, Arc::new(params))
            }
        };
        self.averages.push((key, policies.clone()));
        if self.averages.len() > AVERAGES {
            self.averages.remove(0);
        }
        Ok((Some(policies), mopo_lm::HeadChoice::Policy(0).into(), None))
    }

    /// Forgets a question; nothing more is heard of it. An unknown one is ignored.
    pub fn cancel(&mut self, id: RequestId) {
        self.engine.cancel(id);
        self.answers.remove(&id);
    }

    /// Whether no question is open.
    pub fn is_idle(&self) -> bool {
        self.engine.is_idle()
    }

    /// Numbers about the engine.
    pub fn stats(&self) -> EngineStats {
        self.engine.stats()
    }

    /// One step of all answers.
    pub fn step(&mut self) -> Vec<TextEvent> {
        let mut events = vec![];
        for event in self.engine.step() {
            match event {
                Event::PromptRead { id, shared_tokens } => {
                    if let Some(answer) = self.answers.get_mut(&id) {
                        answer.shared_tokens = shared_tokens;
                    }
                }
                Event::Token { id, token, log_probs } => {
                    if let Err(error) = self.token(id, token, log_probs, &mut events) {
                        self.cancel(id);
                        events.push(TextEvent::Failed { id, error });
                    }
                }
                Event::End { id, end } => {
                    if let Some(mut answer) = self.answers.remove(&id)
                        && let Err(error) = self.end(id, &mut answer, end, &mut events)
                    {
                        events.push(TextEvent::Failed { id, error });
                    }
                }
                Event::Failed { id, error } => {
                    self.answers.remove(&id);
                    events.push(TextEvent::Failed { id, error: error.into() });
                }
            }
        }
        events
    }

    /// A token of an answer.
    fn token(
        &mut self,
        id: RequestId,
        token: u32,
        log_probs: Option<TokenLogProbs>,
        events: &mut Vec<TextEvent>,
    ) -> Result<()> {
        let tokenizer = &self.sampler.tokenizer;
        // An answer that a stop text ended in this step is gone already.
        let Some(answer) = self.answers.get_mut(&id) else { return Ok(()) };
        answer.text.push(token, tokenizer)?;
        if let Some(TokenLogProbs { log_prob, top }) = log_probs {
            let likely =
                |id: u32, log_prob: f32| LikelyToken { bytes: tokenizer.token_bytes(id), log_prob };
            let drawn = likely(token, log_prob);
            let top = top.into_iter().map(|(id, log_prob)| likely(id, log_prob)).collect();
            answer.tokens.push(TokenText { drawn, top });
        }
        let is_done = answer.scan(false);
        let text = answer.piece();
        if !text.is_empty() || (is_done && !answer.tokens.is_empty()) {
            let tokens = std::mem::take(&mut answer.tokens);
            events.push(TextEvent::Piece { id, text, tokens });
        }
        if is_done {
            let (n_tokens, shared_tokens) = (answer.text.ids.len(), answer.shared_tokens);
            self.cancel(id);
            events.push(TextEvent::End { id, is_cut: false, n_tokens, shared_tokens });
        }
        Ok(())
    }

    /// The end of an answer by a token, or by their number.
    fn end(
        &self,
        id: RequestId,
        answer: &mut Answer,
        end: Option<u32>,
        events: &mut Vec<TextEvent>,
    ) -> Result<()> {
        answer.text.finish(&self.sampler.tokenizer)?;
        let is_done = answer.scan(true);
        let text = answer.piece();
        let tokens = std::mem::take(&mut answer.tokens);
        if !text.is_empty() || !tokens.is_empty() {
            events.push(TextEvent::Piece { id, text, tokens });
        }
        let n_tokens = answer.text.ids.len();
        let is_cut = end.is_none() && !is_done && n_tokens == answer.max_new_tokens;
        let shared_tokens = answer.shared_tokens;
        events.push(TextEvent::End { id, is_cut, n_tokens, shared_tokens });
        Ok(())
    }
}
