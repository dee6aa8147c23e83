//! The engine of this workspace's models: [`Sampler`], one request after the other.

use std::ops::ControlFlow;
use std::path::Path;

use mopo_data::{ChatTemplate, PromptForm, Tokenizer};
use mopo_ops::FusedBackend;
use mopo_train::{RunDir, Sampler, SamplingOverrides, Silent, load_run_tokenizer, load_tokenizer};

use crate::engine::{
    Admitted, EndReason, EngineStats, EventSink, ModelInfo, Prompt, Refusal, RefusalKind,
    TextEngine, TextEvent, TextRequest,
};
use crate::error::Result;
use crate::stops::StopScanner;

/// A [`Sampler`] as an engine. It answers one request at a time, and a step is a whole answer; text of a conversation comes
/// while it is made. Log-probabilities, min-p and penalties are refused. Tokens of answers are counted by encoding
/// their text.
#[derive(Debug)]
pub struct SamplerEngine<B: FusedBackend> {
    sampler: Sampler<B>,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    /// Of requests that name no limit.
    max_new_tokens: usize,
    next: Option<(u64, TextRequest)>,
}

impl<B: FusedBackend> SamplerEngine<B> {
    /// An engine for a sampler of the run, export or model in `path`. Requests without a limit get the model's own, but at
    /// most `max_new_tokens`.
    ///
    /// # Errors
    /// A tokenizer that cannot be read.
    pub fn new(sampler: Sampler<B>, path: &Path, max_new_tokens: usize) -> Result<Self> {
        let (tokenizer, template) = match RunDir::is_run(path) {
            true => {
                let (run, config, _) = RunDir::open(path)?;
                load_run_tokenizer(&run, &config)?
            }
            false => {
                let tokenizer = load_tokenizer(path)?;
                let template = match tokenizer.form() {
                    PromptForm::Template(template) => Some(template),
                    PromptForm::Text | PromptForm::Raw | PromptForm::Model => None,
                };
                (tokenizer, template)
            }
        };
        let default = sampler.generation(&SamplingOverrides::default(), &[])?.max_new_tokens;
        let template = template.unwrap_or(ChatTemplate::Dialogue);
        let max_new_tokens = default.min(max_new_tokens);
        Ok(Self { sampler, tokenizer, template, max_new_tokens, next: None })
    }

    /// The number of tokens of a prompt.
    fn prompt_tokens(&self, prompt: &Prompt) -> std::result::Result<usize, Refusal> {
        let (param, ids) = match prompt {
            Prompt::Chat(messages) => {
                ("messages", self.tokenizer.encode_conversation(messages, self.template))
            }
            Prompt::Text(text) => {
                let ids = self.tokenizer.encode_prompt(text, usize::MAX);
                ("prompt", ids.map(|(ids, _)| ids))
            }
        };
        let ids = ids.map_err(|e| Refusal::invalid(param, e.to_string()))?;
        match ids.is_empty() {
            true => Err(Refusal::invalid(param, "the prompt has no tokens")),
            false => Ok(ids.len()),
        }
    }

    fn overrides(&self, request: &TextRequest) -> SamplingOverrides {
        let seed = match request.sample {
            0 => request.seed,
            sample => {
                let bytes = [request.seed.to_le_bytes(), sample.to_le_bytes()].concat();
                mopo_hub::fnv1a(bytes)
            }
        };
        SamplingOverrides {
            max_new_tokens: Some(request.max_new_tokens.unwrap_or(self.max_new_tokens)),
            temperature: request.temperature,
            top_k: request.top_k,
            top_p: request.top_p,
            seed,
        }
    }

    /// Answers a request; `None`: nobody wants it any more.
    fn answer(
        &self,
        id: u64,
        request: &TextRequest,
        sink: &mut dyn EventSink,
    ) -> mopo_train::Result<Option<TextEvent>> {
        let decoding = self.sampler.decoding(request.head.clone(), request.divergence)?;
        let overrides = self.overrides(request);
        let mut scanner = StopScanner::new(request.stop.clone());
        let mut whole = String::new();
        let mut send = |text: String, sink: &mut dyn EventSink| {
            if !text.is_empty() {
                whole += &text;
                sink.event(id, TextEvent::Piece { text, tokens: vec![] });
            }
        };
        let is_cut = match &request.prompt {
            Prompt::Chat(messages) => {
                let on_text = &mut |text: &str| {
                    send(scanner.push(text), sink);
                    match scanner.is_done() || sink.is_cancelled(id) {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                };
                self.sampler.reply(decoding, messages, &overrides, on_text)?.is_cut
            }
            Prompt::Text(prompt) => {
                let prompts = [prompt.clone()];
                let config = self.sampler.generation(&overrides, &prompts)?;
                let answers = self.sampler.answer(decoding, &prompts, &config, &mut Silent)?;
                let text = answers.into_iter().next().unwrap_or_default();
                let n = self.tokenizer.encode(&text)?.len();
                send(scanner.push(&text), sink);
                n >= config.max_new_tokens
            }
        };
        if sink.is_cancelled(id) {
            return Ok(None);
        }
        send(scanner.finish(), sink);
        let reason = match is_cut && !scanner.is_done() {
            true => EndReason::Length,
            false => EndReason::Stop,
        };
        // Its own tokens may have been others.
        let most = overrides.max_new_tokens.unwrap_or(usize::MAX);
        let completion_tokens = self.tokenizer.encode(&whole)?.len().min(most);
        Ok(Some(TextEvent::End { reason, completion_tokens }))
    }
}

impl<B: FusedBackend> TextEngine for SamplerEngine<B> {
    fn model(&self) -> ModelInfo {
        let policies = self.sampler.policies().to_vec();
        let has_worst_case = self.sampler.head(Some("worst-case"), None).is_ok();
        ModelInfo { policies, has_worst_case, context: None }
    }

    fn room(&self) -> usize {
        usize::from(self.next.is_none())
    }

    fn submit(&mut self, id: u64, request: TextRequest) -> std::result::Result<Admitted, Refusal> {
        let asks = [
            ("logprobs", request.log_probs.is_some()),
            ("min_p", request.min_p != 0.0),
            ("repetition_penalty", request.repetition_penalty != 1.0),
            ("presence_penalty", request.presence_penalty != 0.0),
            ("frequency_penalty", request.frequency_penalty != 0.0),
        ];
        if let Some((name, _)) = asks.iter().find(|(_, asked)| *asked) {
            let message = format!("'{name}' is not supported yet; leave it out");
            let kind = RefusalKind::Unsupported;
            return Err(Refusal { kind, message, param: Some((*name).into()) });
        }
        let is_text = matches!(request.prompt, Prompt::Text(_));
        if is_text && self.tokenizer.form() == PromptForm::Model {
            // It would be put into the template as a question.
            let message = "a model with a chat template of its own answers conversations only, for now; use \
                           /v1/chat/completions";
            let (kind, param) = (RefusalKind::Unsupported, Some("prompt".into()));
            return Err(Refusal { kind, message: message.into(), param });
        }
        let prompt_tokens = self.prompt_tokens(&request.prompt)?;
        self.next = Some((id, request));
        Ok(Admitted { prompt_tokens, cached_tokens: 0 })
    }

    fn step(&mut self, sink: &mut dyn EventSink) {
        let Some((id, request)) = self.next.take() else { return };
        match self.answer(id, &request, sink) {
            Ok(Some(end)) => sink.event(id, end),
            Ok(None) => {}
            Err(error) => sink.event(id, TextEvent::Failed(refusal(&error))),
        }
    }

    fn cancel(&mut self, id: u64) {
        self.next.take_if(|(next, _)| *next == id);
    }

    fn is_idle(&self) -> bool {
        self.next.is_none()
    }

    fn reset(&mut self) {
        self.next = None;
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}

/// Whose fault an error is.
fn refusal(error: &mopo_train::Error) -> Refusal {
    use mopo_train::Error;
    let message = error.to_string();
    let kind = match error {
        Error::ConversationTooLong { .. } | Error::Lm(mopo_lm::Error::TooLong { .. }) => {
            RefusalKind::TooLong
        }
        Error::Config { .. } | Error::Data(_) | Error::Core(_) => RefusalKind::Invalid,
        Error::Lm(
            mopo_lm::Error::InvalidParameter { .. }
            | mopo_lm::Error::PreferenceWeights { .. }
            | mopo_lm::Error::PolicyOutOfRange { .. }
            | mopo_lm::Error::EmptyPrompt { .. },
        ) => RefusalKind::Invalid,
        _ => RefusalKind::Internal,
    };
    Refusal { kind, message, param: None }
}
