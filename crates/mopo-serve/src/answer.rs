//! Answers of `/v1/chat/completions` and `/v1/completions`: whole, or streamed as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use mopo_lm::HeadChoice;
use serde_json::{Value, json};

use crate::app::App;
use crate::engine::{Prompt, TextEvent};
use crate::error::{ApiError, json_response};
use crate::feed::{Feed, Finished, collect};
use crate::fields::Fields;
use crate::request::Job;
use crate::scorer::ScoreItem;
use crate::{chat, completions};

/// How often a stream without news sends a comment, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Which of the two endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Completion,
}

/// What all parts of a response share.
struct Head {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
    with_log_probs: bool,
}

/// Tokens of a request so far.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    prompt: usize,
    cached: usize,
    completion: usize,
}

impl Usage {
    fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": { "cached_tokens": self.cached },
        })
    }
}

impl Head {
    fn json(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": null,
            "choices": choices,
        })
    }
}

/// Answers a request's body.
pub(crate) async fn answer(app: &Arc<App>, kind: Kind, body: &[u8]) -> Result<Response, ApiError> {
    let mut fields = Fields::parse(body)?;
    let job = parse(app, kind, &mut fields)?;
    fields.finish()?;
    if job.best_of > job.n && app.scorer.is_none() {
        let message = "'best_of' chooses by the rewards of a run, and this model has none";
        return Err(ApiError::invalid("best_of", message).code("unsupported_parameter"));
    }
    let requests = job.requests();
    let n = requests.len();
    let (id, created) = app.next_id(match kind {
        Kind::Chat => "chatcmpl",
        Kind::Completion => "cmpl",
    });
    let head = Head {
        kind,
        id,
        created,
        model: job.choice.model.clone(),
        with_log_probs: job.settings.log_probs.is_some(),
    };
    let answers = app.engine.submit(requests)?;
    let options = &app.options;
    let mut feed = Feed::new(
        answers,
        n,
        Arc::clone(&app.metrics),
        options.queue_timeout,
        options.request_timeout,
    );
    let mut response = match job.stream {
        true => {
            // Before the status is sent: most errors come instead of the first text.
            let mut first = vec![];
            while let Some(event) = feed.next().await? {
                let is_text = !matches!(event.1, TextEvent::Started(_));
                first.push(event);
                if is_text {
                    break;
                }
            }
            stream(feed, head, &job, first)
        }
        false => {
            let finished = collect(&mut feed, n).await?;
            let whole = whole(app, &head, &job, finished).await?;
            json_response(StatusCode::OK, &whole)
        }
    };
    response.headers_mut().insert("x-mopo-seed", HeaderValue::from(job.seed));
    Ok(response)
}

/// Takes all fields of a request.
pub(crate) fn parse(app: &App, kind: Kind, fields: &mut Fields) -> Result<Job, ApiError> {
    let (prompts, log_probs) = match kind {
        Kind::Chat => {
            let (prompt, log_probs) = chat::prompt(fields)?;
            (vec![prompt], log_probs)
        }
        Kind::Completion => completions::prompts(fields)?,
    };
    Job::parse(fields, &app.models, &app.options, prompts, log_probs, || app.next_seed())
}

/// The response with all answers, the best of each prompt if there are more than wanted.
async fn whole(
    app: &Arc<App>,
    head: &Head,
    job: &Job,
    finished: Vec<Finished>,
) -> Result<Value, ApiError> {
    let mut usage = Usage::default();
    for (i, one) in finished.iter().enumerate() {
        usage.completion += one.completion_tokens;
        // Each prompt once.
        if i.is_multiple_of(job.best_of) {
            usage.prompt += one.admitted.prompt_tokens;
            usage.cached += one.cached_tokens;
        }
    }
    let mut choices = Vec::with_capacity(job.prompts.len() * job.n);
    for (prompt, candidates) in job.prompts.iter().zip(finished.chunks(job.best_of)) {
        let (order, scores) = match job.best_of > job.n {
            false => ((0..job.n).collect(), None),
            true => {
                let scores = scores(app, prompt, candidates).await?;
                let rewards = app.rewards();
                let weights = reward_weights(&job.choice.head, &app.models.info.policies, &rewards);
                (best(&scores, &weights), Some((rewards, scores)))
            }
        };
        for &k in order.iter().take(job.n) {
            let Finished { text, tokens, end, .. } = &candidates[k];
            let tokens = head.with_log_probs.then_some(&**tokens);
            let mut choice = match head.kind {
                Kind::Chat => chat::choice(choices.len(), text, tokens, *end),
                Kind::Completion => completions::choice(choices.len(), text, 0, tokens, Some(*end)),
            };
            if let Some((rewards, scores)) = &scores {
                let named = rewards.iter().cloned().zip(scores[k].iter().map(|s| json!(s)));
                choice["scores"] = Value::Object(named.collect());
            }
            choices.push(choice);
        }
    }
    let object = match head.kind {
        Kind::Chat => "chat.completion",
        Kind::Completion => "text_completion",
    };
    let mut whole = head.json(object, choices);
    whole["usage"] = usage.json();
    Ok(whole)
}

async fn scores(
    app: &Arc<App>,
    prompt: &Prompt,
    candidates: &[Finished],
) -> Result<Vec<Vec<f32>>, ApiError> {
    let item = |one: &Finished| ScoreItem { prompt: prompt.clone(), response: one.text.clone() };
    app.score(candidates.iter().map(item).collect()).await
}

/// How much each reward counts: as the preference weights of the objectives of these names. Where a choice has none, or
/// no reward has an objective's name, all count alike.
fn reward_weights(head: &HeadChoice, policies: &[String], rewards: &[String]) -> Vec<f64> {
    let of = |name: &String| {
        let k = policies.iter().position(|policy| policy == name)?;
        match head {
            HeadChoice::Policy(chosen) => Some(f64::from(u8::from(*chosen == k))),
            HeadChoice::Mixture(weights) => Some(f64::from(weights[k])),
            HeadChoice::Base | HeadChoice::WorstCase => None,
        }
    };
    let weights: Vec<f64> = rewards.iter().map(|name| of(name).unwrap_or(0.0)).collect();
    match weights.iter().any(|weight| *weight > 0.0) {
        true => weights,
        false => vec![1.0; rewards.len()],
    }
}

/// The candidates, the best first: by the weighted sum of scores, each reward's in standard deviations among them.
fn best(scores: &[Vec<f32>], weights: &[f64]) -> Vec<usize> {
    let n = scores.len() as f64;
    let mut totals = vec![0.0; scores.len()];
    for (j, weight) in weights.iter().enumerate() {
        let column = || scores.iter().map(|row| f64::from(row[j]));
        let mean = column().sum::<f64>() / n;
        let std = (column().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
        if std > 0.0 {
            totals.iter_mut().zip(column()).for_each(|(t, x)| *t += weight * (x - mean) / std);
        }
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| totals[b].total_cmp(&totals[a]));
    order
}

/// What a stream has to send.
struct Stream {
    feed: Feed,
    head: Head,
    include_usage: bool,
    /// Answers to each prompt.
    n: usize,
    usage: Usage,
    /// Characters of each answer so far.
    sent: Vec<usize>,
    frames: VecDeque<Bytes>,
    is_over: bool,
}

fn stream(feed: Feed, head: Head, job: &Job, first: Vec<(usize, TextEvent)>) -> Response {
    let mut state = Stream {
        feed,
        head,
        include_usage: job.include_usage,
        n: job.n,
        usage: Usage::default(),
        sent: vec![0; job.n * job.prompts.len()],
        frames: VecDeque::new(),
        is_over: false,
    };
    for (index, event) in first {
        state.take(index, event);
    }
    let frames = futures_util::stream::unfold(state, |mut state| async move {
        let frame = state.next().await?;
        Some((Ok::<_, Infallible>(frame), state))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // nginx would collect the events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Stream {
    /// The next part of the body.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Some(frame);
            }
            if self.is_over {
                return None;
            }
            match tokio::time::timeout(KEEP_ALIVE, self.feed.next()).await {
                Err(_) => return Some(Bytes::from_static(b": waiting\n\n")),
                Ok(Ok(Some((index, event)))) => self.take(index, event),
                Ok(Ok(None)) => self.end(),
                Ok(Err(error)) => {
                    self.push(&error.json());
                    self.is_over = true;
                }
            }
        }
    }

    fn push(&mut self, value: &Value) {
        self.frames.push_back(Bytes::from(format!("data: {value}\n\n")));
    }

    fn chunk(&mut self, choices: Vec<Value>) {
        let object = match self.head.kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Completion => "text_completion",
        };
        let is_usage = choices.is_empty();
        let mut chunk = self.head.json(object, choices);
        if self.include_usage {
            chunk["usage"] = if is_usage { self.usage.json() } else { Value::Null };
        }
        self.push(&chunk);
    }

    fn take(&mut self, index: usize, event: TextEvent) {
        let kind = self.head.kind;
        let choice = match event {
            TextEvent::Started(admitted) => {
                if index.is_multiple_of(self.n) {
                    self.usage.prompt += admitted.prompt_tokens;
                }
                match kind {
                    Kind::Chat => {
                        let first = json!({ "role": "assistant", "content": "", "refusal": null });
                        chat::delta(index, first, None, None)
                    }
                    Kind::Completion => return,
                }
            }
            TextEvent::Piece { text, tokens } => {
                if text.is_empty() && tokens.is_empty() {
                    return;
                }
                let offset = self.sent[index];
                self.sent[index] += text.chars().count();
                let tokens = self.head.with_log_probs.then_some(&*tokens);
                match kind {
                    Kind::Chat => chat::delta(index, json!({ "content": text }), tokens, None),
                    Kind::Completion => completions::choice(index, &text, offset, tokens, None),
                }
            }
            TextEvent::End { reason, completion_tokens, cached_tokens } => {
                self.usage.completion += completion_tokens;
                if index.is_multiple_of(self.n) {
                    self.usage.cached += cached_tokens;
                }
                match kind {
                    Kind::Chat => chat::delta(index, json!({}), None, Some(reason)),
                    Kind::Completion => {
                        completions::choice(index, "", self.sent[index], None, Some(reason))
                    }
                }
            }
            TextEvent::Failed(_) => unreachable!("an error of the feed"),
        };
        self.chunk(vec![choice]);
    }

    fn end(&mut self) {
        if self.include_usage {
            self.chunk(vec![]);
        }
        self.frames.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        self.is_over = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_answers_come_first_whatever_the_scales_of_the_rewards() {
        let scores = [vec![0.1, 100.0], vec![0.3, 300.0], vec![0.2, 900.0]];
        assert_eq!(best(&scores, &[1.0, 0.0]), [1, 2, 0]);
        assert_eq!(best(&scores, &[0.0, 1.0]), [2, 1, 0]);
        // A reward without differences decides nothing.
        assert_eq!(best(&[vec![5.0, 1.0], vec![5.0, 2.0]], &[1.0, 1e-3]), [1, 0]);
    }

    #[test]
    fn rewards_count_as_the_objectives_of_their_names() {
        let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let policies = names(&["helpful", "harmless"]);
        let rewards = names(&["harmless", "length", "helpful"]);
        let of = |head: HeadChoice| reward_weights(&head, &policies, &rewards);
        assert_eq!(of(HeadChoice::Policy(0)), [0.0, 0.0, 1.0]);
        assert_eq!(of(HeadChoice::Mixture(vec![0.25, 0.75])), [0.75, 0.0, 0.25]);
        assert_eq!(of(HeadChoice::Base), [1.0; 3]);
        let others = names(&["length"]);
        assert_eq!(reward_weights(&HeadChoice::Policy(0), &policies, &others), [1.0]);
    }
}
