//! The events of one HTTP request, with its time-outs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use crate::engine::{Admitted, EndReason, TextEvent, TokenLogProb};
use crate::error::ApiError;
use crate::host::Answers;
use crate::metrics::Metrics;

/// Events of all answers to a request until each has ended. Dropping it cancels them.
pub(crate) struct Feed {
    answers: Answers,
    metrics: Arc<Metrics>,
    /// Answers that have not ended.
    left: usize,
    started: Instant,
    queue_timeout: Duration,
    request_timeout: Duration,
    /// Whether the engine has taken one on.
    is_running: bool,
    /// Of the last text.
    last_text: Option<Instant>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.metrics.request_time.observe(self.started.elapsed().as_secs_f64());
    }
}

impl Feed {
    pub(crate) fn new(
        answers: Answers,
        n: usize,
        metrics: Arc<Metrics>,
        queue_timeout: Duration,
        request_timeout: Duration,
    ) -> Self {
        let started = Instant::now();
        let (is_running, last_text) = (false, None);
        Self {
            answers,
            metrics,
            left: n,
            started,
            queue_timeout,
            request_timeout,
            is_running,
            last_text,
        }
    }

    /// The next event with the index of its answer; `None` after the end of all. Nothing is lost if this is dropped while
    /// it waits.
    ///
    /// # Errors
    /// An answer that fails, a time-out, the end of the server: there are no more events then.
    pub(crate) async fn next(&mut self) -> Result<Option<(usize, TextEvent)>, ApiError> {
        if self.left == 0 {
            return Ok(None);
        }
        let patience = match self.is_running {
            true => self.request_timeout,
            false => self.request_timeout.min(self.queue_timeout),
        };
        let left = patience.saturating_sub(self.started.elapsed());
        let event = match tokio::time::timeout(left, self.answers.events.recv()).await {
            Ok(Some(event)) => event,
            Ok(None) => return Err(ApiError::shutting_down()),
            Err(_) => return Err(self.timed_out(patience)),
        };
        match &event.1 {
            TextEvent::Started(_) => self.is_running = true,
            TextEvent::Piece { text, .. } if !text.is_empty() => self.time(),
            TextEvent::Piece { .. } => {}
            TextEvent::End { .. } => self.left -= 1,
            TextEvent::Failed(refusal) => return Err(refusal.clone().into()),
        }
        Ok(Some(event))
    }

    fn timed_out(&self, patience: Duration) -> ApiError {
        let seconds = patience.as_secs_f64();
        match self.is_running {
            true => ApiError::new(
                StatusCode::GATEWAY_TIMEOUT,
                format!("the answer took longer than the {seconds} s that this server allows"),
            )
            .code("timeout"),
            false => ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the request waited {seconds} s without its turn; try again later"),
            )
            .code("queue_timeout")
            .retry_after(self.queue_timeout.as_secs().max(1)),
        }
    }

    fn time(&mut self) {
        let now = Instant::now();
        match self.last_text.replace(now) {
            None => self.metrics.first_token.observe((now - self.started).as_secs_f64()),
            Some(last) => self.metrics.between_tokens.observe((now - last).as_secs_f64()),
        }
    }
}

/// An answer in full.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenLogProb>,
    pub(crate) admitted: Admitted,
    pub(crate) end: EndReason,
    pub(crate) completion_tokens: usize,
    pub(crate) cached_tokens: usize,
}

/// Waits for all `n` answers.
///
/// # Errors
/// Those of [`Feed::next`].
pub(crate) async fn collect(feed: &mut Feed, n: usize) -> Result<Vec<Finished>, ApiError> {
    let empty = Finished {
        text: String::new(),
        tokens: vec![],
        admitted: Admitted { prompt_tokens: 0 },
        end: EndReason::Stop,
        completion_tokens: 0,
        cached_tokens: 0,
    };
    let mut all = vec![empty; n];
    while let Some((index, event)) = feed.next().await? {
        let one = &mut all[index];
        match event {
            TextEvent::Started(admitted) => one.admitted = admitted,
            TextEvent::Piece { text, tokens } => {
                one.text += &text;
                one.tokens.extend(tokens);
            }
            TextEvent::End { reason, completion_tokens, cached_tokens } => {
                (one.end, one.completion_tokens) = (reason, completion_tokens);
                one.cached_tokens = cached_tokens;
            }
            TextEvent::Failed(_) => unreachable!("an error of the feed"),
        }
    }
    Ok(all)
}
