//! The engine of this workspace's models: a [`Session`], which answers many requests at a time.

use std::collections::HashMap;

use mopo_lm::{EngineConfig, RequestId};
use mopo_ops::FusedBackend;
use mopo_train::{
    Accepted, LikelyToken, Question, Sampler, SamplingOverrides, Session, TextEvent as News,
    TokenText,
};

use crate::engine::{
    Admitted, EndReason, EngineStats, EventSink, ModelInfo, Refusal, RefusalKind, TextEngine,
    TextEvent, TextRequest, Token, TokenLogProb,
};
use crate::error::Result;

/// A [`Session`] as an engine.
#[derive(Debug)]
pub struct SessionEngine<'a, B: FusedBackend> {
    sampler: &'a Sampler<B>,
    limits: EngineConfig,
    session: Session<'a, B>,
    /// Of requests that name no limit.
    max_new_tokens: usize,
    /// The server's numbers of the session's questions.
    numbers: HashMap<RequestId, u64>,
}

impl<'a, B: FusedBackend> SessionEngine<'a, B> {
    /// An engine within these limits. Requests without a limit get the model's own, but at most `max_new_tokens`.
    ///
    /// # Errors
    /// Limits of 0; a cache for which there is no memory.
    pub fn new(
        sampler: &'a Sampler<B>,
        limits: EngineConfig,
        max_new_tokens: usize,
    ) -> Result<Self> {
        let default = sampler.generation(&SamplingOverrides::default(), &[])?.max_new_tokens;
        Ok(Self {
            sampler,
            limits,
            session: sampler.session(limits)?,
            max_new_tokens: default.min(max_new_tokens),
            numbers: HashMap::new(),
        })
    }

    fn question(&self, request: TextRequest) -> mopo_train::Result<Question> {
        Ok(Question {
            prompt: request.prompt,
            decoding: self.sampler.decoding(request.head, request.divergence)?,
            overrides: SamplingOverrides {
                max_new_tokens: Some(
                    request.sampling.max_new_tokens.unwrap_or(self.max_new_tokens),
                ),
                ..request.sampling
            },
            stop: request.stop,
            sample: request.sample,
            log_probs: request.log_probs,
        })
    }
}

impl<B: FusedBackend> TextEngine for SessionEngine<'_, B> {
    fn model(&self) -> ModelInfo {
        ModelInfo {
            policies: self.sampler.policies().to_vec(),
            has_worst_case: self.sampler.head(Some("worst-case"), None).is_ok(),
            context: Some(self.sampler.context()),
        }
    }

    fn room(&self) -> usize {
        self.limits.max_rows.saturating_sub(self.numbers.len())
    }

    fn submit(&mut self, id: u64, request: TextRequest) -> std::result::Result<Admitted, Refusal> {
        let asked = self.question(request).and_then(|question| self.session.ask(question));
        let Accepted { id: number, prompt_tokens } = asked.map_err(|error| refusal(&error))?;
        self.numbers.insert(number, id);
        Ok(Admitted { prompt_tokens })
    }

    fn step(&mut self, sink: &mut dyn EventSink) {
        for news in self.session.step() {
            let (number, event) = match news {
                News::Piece { id, text, tokens } => {
                    let tokens = tokens.into_iter().map(log_prob).collect();
                    (id, TextEvent::Piece { text, tokens })
                }
                News::End { id, is_cut, n_tokens, shared_tokens } => {
                    let reason = if is_cut { EndReason::Length } else { EndReason::Stop };
                    let (completion_tokens, cached_tokens) = (n_tokens, shared_tokens);
                    (id, TextEvent::End { reason, completion_tokens, cached_tokens })
                }
                News::Failed { id, error } => (id, TextEvent::Failed(refusal(&error))),
            };
            let is_last = !matches!(event, TextEvent::Piece { .. });
            let Some(id) = self.numbers.get(&number).copied() else { continue };
            if is_last {
                self.numbers.remove(&number);
            }
            sink.event(id, event);
        }
    }

    fn cancel(&mut self, id: u64) {
        let Some((&number, _)) = self.numbers.iter().find(|(_, known)| **known == id) else {
            return;
        };
        self.session.cancel(number);
        self.numbers.remove(&number);
    }

    fn is_idle(&self) -> bool {
        self.session.is_idle()
    }

    fn reset(&mut self) {
        self.numbers.clear();
        // A panic may have left the cache without a layer: a new session has a new one.
        match self.sampler.session(self.limits) {
            Ok(session) => self.session = session,
            Err(error) => panic!("no new session: {error}"),
        }
    }

    fn stats(&self) -> EngineStats {
        let stats = self.session.stats();
        let bytes = |blocks: usize| Some(blocks as u64 * stats.block_bytes);
        EngineStats {
            cache_bytes: bytes(stats.blocks_in_use),
            cache_limit_bytes: bytes(stats.blocks),
        }
    }
}

fn log_prob(token: TokenText) -> TokenLogProb {
    let named = |LikelyToken { bytes, log_prob }: LikelyToken| Token {
        text: String::from_utf8_lossy(&bytes).into_owned(),
        bytes,
        log_prob,
    };
    TokenLogProb { chosen: named(token.drawn), top: token.top.into_iter().map(named).collect() }
}

/// Whose fault an error is.
fn refusal(error: &mopo_train::Error) -> Refusal {
    use mopo_lm::Error as Lm;
    use mopo_train::Error;
    let kind = match error {
        Error::ConversationTooLong { .. }
        | Error::Lm(Lm::TooLong { .. } | Lm::CacheTooSmall { .. }) => RefusalKind::TooLong,
        Error::Config { .. }
        | Error::Data(_)
        | Error::Core(_)
        | Error::Lm(
            Lm::InvalidParameter { .. }
            | Lm::PreferenceWeights { .. }
            | Lm::PolicyOutOfRange { .. }
            | Lm::EmptyPrompt { .. },
        ) => RefusalKind::Invalid,
        _ => RefusalKind::Internal,
    };
    Refusal { kind, message: error.to_string(), param: None }
}
