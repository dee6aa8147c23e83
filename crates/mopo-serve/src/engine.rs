//! The border between the server and what generates text: text in, events out. Everything about HTTP is on one side,
//! everything about tokens and tensors on the other.

use mopo_core::divergence::Divergence;
use mopo_lm::HeadChoice;
/// The text to continue, and settings of sampling.
pub use mopo_train::{Prompt, SamplingOverrides};

/// A model that answers requests, several at once if it can. The server calls it on one thread of its own
/// ([`serve`](crate::serve)), so it need not be `Send`.
pub trait TextEngine {
    /// What can be asked of it. Constant.
    fn model(&self) -> ModelInfo;

    /// How many more requests can join now. The others wait in the server's queue.
    fn room(&self) -> usize;

    /// Takes a request on. Its events come from [`step`](Self::step) under this `id`, which is unique.
    ///
    /// # Errors
    /// Why it cannot be answered; nothing remains of it then.
    fn submit(&mut self, id: u64, request: TextRequest) -> Result<Admitted, Refusal>;

    /// Advances all requests by a step, and reports what is new. An [`End`](TextEvent::End) or a
    /// [`Failed`](TextEvent::Failed) is the last event of a request. Where a step takes longer than a fraction of a
    /// second, it asks the sink meanwhile whether a request is still wanted.
    fn step(&mut self, sink: &mut dyn EventSink);

    /// Forgets a request; it has no more events. An unknown `id` is no error.
    fn cancel(&mut self, id: u64);

    /// Whether there is nothing to do.
    fn is_idle(&self) -> bool;

    /// Forgets all requests, after a panic in one of the methods above.
    fn reset(&mut self);

    /// Figures for `/metrics`.
    fn stats(&self) -> EngineStats;
}

/// Where the events of a step go.
pub trait EventSink {
    /// Reports an event of a request.
    fn event(&mut self, id: u64, event: TextEvent);

    /// Whether nobody waits for this request any more. A step that is long may then end it without an event.
    fn is_cancelled(&self, id: u64) -> bool;
}

/// What can be asked of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelInfo {
    /// The policies' objectives, in the order of the heads; empty for a plain model.
    pub policies: Vec<String>,
    /// Whether policies can be mixed with the weights that are worst for the mixture.
    pub has_worst_case: bool,
    /// Tokens of prompt and answer together, if known.
    pub context: Option<usize>,
}

/// A request for one answer.
#[derive(Debug, Clone, PartialEq)]
pub struct TextRequest {
    /// The text to continue.
    pub prompt: Prompt,
    /// Which policy, or which mixture. Weights are one per policy, finite, at least 0, and sum to 1.
    pub head: HeadChoice,
    /// The divergence of a mixture.
    pub divergence: Option<Divergence>,
    /// Settings, instead of the model's own.
    pub sampling: SamplingOverrides,
    /// Index among the answers to one prompt: different ones have different random streams.
    pub sample: u64,
    /// Texts that end the answer, and are not part of it.
    pub stop: Vec<String>,
    /// Number of most likely tokens to report beside each chosen one; `None`: no log-probabilities at all.
    pub log_probs: Option<usize>,
}

/// A request that was taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
}

/// News of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum TextEvent {
    /// It was taken on: the first event. The server makes it.
    Started(Admitted),
    /// More text: whole characters only, and nothing that may turn out to be a stop string.
    Piece {
        /// The text, which may be empty.
        text: String,
        /// The tokens behind it if log-probabilities were asked for.
        tokens: Vec<TokenLogProb>,
    },
    /// The answer is complete.
    End {
        /// Why.
        reason: EndReason,
        /// Tokens of the answer.
        completion_tokens: usize,
        /// Tokens of the prompt that were in the cache already.
        cached_tokens: usize,
    },
    /// There will be no answer.
    Failed(Refusal),
}

/// Why an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The model ended it, or a stop string did.
    Stop,
    /// It has the maximum number of tokens.
    Length,
}

/// A token with its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogProb {
    /// The token that was chosen.
    pub chosen: Token,
    /// The most likely ones, in falling order.
    pub top: Vec<Token>,
}

/// A token and how likely it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its text; of bytes that are no text alone, the replacement character.
    pub text: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability.
    pub log_prob: f32,
}

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of error it is.
    pub kind: RefusalKind,
    /// What is wrong and what to do.
    pub message: String,
    /// The field of the request.
    pub param: Option<String>,
}

/// Kinds of [`Refusal`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// A value that this model cannot take.
    Invalid,
    /// A field for something that this engine cannot do.
    Unsupported,
    /// Prompt and answer exceed the model's context.
    TooLong,
    /// An error that is not the request's.
    Internal,
}

impl Refusal {
    /// An invalid value of a field.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Invalid, message: message.into(), param: Some(param.into()) }
    }

    /// An error that is not the request's.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Internal, message: message.into(), param: None }
    }
}

/// Figures of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Bytes of keys and values in use, if it has a cache of bounded size.
    pub cache_bytes: Option<u64>,
    /// That bound.
    pub cache_limit_bytes: Option<u64>,
}
