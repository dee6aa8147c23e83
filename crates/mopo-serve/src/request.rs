//! What `/v1/chat/completions` and `/v1/completions` have in common, from the body to requests for the engine.

use mopo_lm::HeadChoice;

use crate::engine::{Prompt, SamplingOverrides, TextRequest};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::models::{Choice, Models};
use crate::options::ServeOptions;

/// OpenAI's limit.
const MAX_STOPS: usize = 4;

/// Fields of OpenAI's that change nothing here.
const IGNORED: [&str; 9] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "verbosity",
];

/// A checked request.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) choice: Choice,
    pub(crate) prompts: Vec<Prompt>,
    /// Answers to each prompt.
    pub(crate) n: usize,
    /// How many are generated for each, of which the best `n` are returned.
    pub(crate) best_of: usize,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) seed: u64,
    /// All but prompt, head, seed and sample.
    pub(crate) settings: TextRequest,
}

/// Whether log-probabilities are wanted, which the two endpoints ask for in different ways.
pub(crate) type LogProbs = Option<usize>;

impl Job {
    /// Takes all fields but those of the prompt and of log-probabilities.
    pub(crate) fn parse(
        fields: &mut Fields,
        models: &Models,
        options: &ServeOptions,
        prompts: Vec<Prompt>,
        log_probs: LogProbs,
        next_seed: impl FnOnce() -> u64,
    ) -> Result<Self, ApiError> {
        let choice = models.choose(fields)?;
        let stream = fields.bool("stream")?.unwrap_or(false);
        let include_usage = match fields.object("stream_options")? {
            None => false,
            Some(_) if !stream => {
                let message = "'stream_options' is only allowed when 'stream' is true";
                return Err(ApiError::invalid("stream_options", message));
            }
            Some(mut inner) => {
                inner.ignore(&["include_obfuscation"]);
                let include_usage = inner.bool("include_usage")?.unwrap_or(false);
                inner.finish()?;
                include_usage
            }
        };
        let most = options.max_answers;
        let n = fields.count("n", 1..=most)?.unwrap_or(1);
        let best_of = fields.count("best_of", 1..=most)?.unwrap_or(n);
        if best_of < n {
            let message = format!("'best_of' is {best_of}, less than 'n', which is {n}");
            return Err(ApiError::invalid("best_of", message));
        }
        if best_of > n && stream {
            let message = "answers cannot be streamed before the best are known: leave out 'stream' or 'best_of'";
            return Err(ApiError::invalid("best_of", message));
        }
        if best_of * prompts.len() > most.min(options.queue) {
            let field = if best_of > 1 { "n" } else { "prompt" };
            let message = format!(
                "{} prompts with {best_of} answers each are more than the {} that this server gives at once",
                prompts.len(),
                most.min(options.queue)
            );
            return Err(ApiError::invalid(field, message));
        }
        let limit = 1..=options.max_new_tokens;
        let old = fields.count("max_tokens", limit.clone())?;
        let max_new_tokens = match (old, fields.count("max_completion_tokens", limit)?) {
            (Some(old), Some(new)) if old != new => {
                let message = "'max_tokens' is the earlier name of 'max_completion_tokens'; give only one of them";
                return Err(ApiError::invalid("max_tokens", message));
            }
            (old, new) => new.or(old),
        };
        let top_p = fields.number("top_p", 0.0..=1.0)?;
        if top_p == Some(0.0) {
            let message = "'top_p' must be above 0; 'temperature': 0 takes the most likely tokens";
            return Err(ApiError::invalid("top_p", message));
        }
        let settings = TextRequest {
            prompt: Prompt::Chat(vec![]),
            head: HeadChoice::Base,
            divergence: choice.divergence,
            sampling: SamplingOverrides {
                max_new_tokens,
                temperature: fields.number("temperature", 0.0..=2.0)?,
                top_k: fields.count("top_k", 0..=1_000_000_000)?,
                top_p,
                min_p: fields.number("min_p", 0.0..=1.0)?,
                repetition_penalty: fields.number("repetition_penalty", 0.01..=10.0)?,
                presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?,
                frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?,
                seed: 0,
            },
            sample: 0,
            stop: fields.strings("stop", MAX_STOPS)?,
            log_probs,
        };
        // Two's complement: every integer is a seed.
        let seed = fields.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64);
        fields.ignore(&IGNORED);
        fields.refuse(&["logit_bias"])?;
        let seed = seed.unwrap_or_else(next_seed);
        Ok(Self { choice, prompts, n, best_of, stream, include_usage, seed, settings })
    }

    /// One request for each answer: those to the first prompt, then those to the second, and so on.
    pub(crate) fn requests(&self) -> Vec<TextRequest> {
        let of = |prompt: &Prompt, sample: usize| TextRequest {
            prompt: prompt.clone(),
            head: self.choice.head.clone(),
            sampling: SamplingOverrides { seed: self.seed, ..self.settings.sampling },
            sample: sample as u64,
            ..self.settings.clone()
        };
        let answers = |prompt| (0..self.best_of).map(move |sample| of(prompt, sample));
        self.prompts.iter().flat_map(answers).collect()
    }
}
