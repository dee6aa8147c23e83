//! A language model as a judge of pairs of answers, behind an OpenAI-compatible chat endpoint.
//!
//! Each pair is shown in both orders ([`Judge::compare`]); answers are kept in an [`AnswerCache`], from which an interrupted
//! comparison resumes. Judges favour positions and lengths, and often themselves: Zheng et al., *Judging
//! LLM-as-a-Judge with MT-Bench and Chatbot Arena*, 2023.

mod cache;
mod client;
mod prompt;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use mopo_hub::{Progress, Unit};
use mopo_report::{JudgeRecord, JudgedWinRate, Judgement, Matchups, Verdict};

pub use cache::AnswerCache;
pub use prompt::{JudgePrompt, Question, read_verdict};

use crate::{Error, Result};
use client::{Client, Reply};

/// Longest pause between two attempts, unless the server asks for more.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How often a pause looks whether another request has failed for good.
const TICK: Duration = Duration::from_millis(50);

/// A judge and how it is asked.
#[derive(Clone)]
pub struct JudgeSettings {
    /// Address of the interface, such as `http://127.0.0.1:8000/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// Sent as `Authorization: Bearer …`, and never shown.
    pub token: Option<String>,
    /// What it is asked.
    pub prompt: JudgePrompt,
    /// Maximum number of tokens of an answer.
    pub max_tokens: usize,
    /// Maximum number of requests of one call, repeated ones included; `None` for as many as are needed.
    pub max_requests: Option<usize>,
    /// Number of requests at a time.
    pub n_parallel: usize,
    /// Number of attempts after statuses 429 and 5xx and lost connections.
    pub n_attempts: u32,
    /// Pause before the second attempt; it doubles each time, up to half a minute.
    pub pause: Duration,
}

impl JudgeSettings {
    /// The defaults: no token, 512 tokens per answer, any number of requests, one at a time, six attempts from one
    /// second on.
    pub fn new(url: impl Into<String>, model: impl Into<String>, prompt: JudgePrompt) -> Self {
        Self {
            url: url.into(),
            model: model.into(),
            token: None,
            prompt,
            max_tokens: 512,
            max_requests: None,
            n_parallel: 1,
            n_attempts: 6,
            pause: Duration::from_secs(1),
        }
    }
}

/// Asks a language model which of two answers is better.
pub struct Judge {
    settings: JudgeSettings,
    client: Client,
}

/// What a judge said.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// `[n_pairs][n_prompts]`.
    pub judgements: Vec<Vec<Judgement>>,
    /// Number of requests sent.
    pub n_requests: usize,
    /// Number of answers that were in the cache before.
    pub n_cached: usize,
}

impl Judged {
    /// `[n_pairs]`.
    pub fn win_rates(&self) -> Vec<JudgedWinRate> {
        self.judgements.iter().map(|pair| JudgedWinRate::of(pair)).collect()
    }
}

/// A question that has no answer yet.
struct Open<'a> {
    key: String,
    question: Question<'a>,
}

/// What all requests of a call share.
struct Shared {
    n_requests: AtomicUsize,
    next: AtomicUsize,
    stop: AtomicBool,
    /// Why the last request had no answer, if none is left to repeat it.
    unanswered: Mutex<Option<String>>,
}

impl Judge {
    /// Checks the settings; nothing is sent.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names a setting out of range.
    pub fn new(settings: JudgeSettings) -> Result<Self> {
        let JudgeSettings { url, model, token, .. } = &settings;
        if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
            let expected =
                "it must begin with http:// or https://, such as http://127.0.0.1:8000/v1";
            return Err(Error::invalid("url", url, expected));
        }
        if model.trim().is_empty() {
            return Err(Error::invalid("model", "empty", "name one of the endpoint's"));
        }
        if token.as_ref().is_some_and(|t| t.is_empty() || !t.chars().all(|c| c.is_ascii_graphic()))
        {
            let expected = "it must be a word of ASCII characters";
            return Err(Error::invalid("token", "(not shown)", expected));
        }
        for (name, n) in [
            ("max_tokens", settings.max_tokens),
            ("n_parallel", settings.n_parallel),
            ("n_attempts", settings.n_attempts as usize),
        ] {
            if n == 0 {
                return Err(Error::invalid(name, n, "it must be at least 1"));
            }
        }
        let client = Client::new(url, token.as_deref()).map_err(|problem| Error::Judge {
            url: url.clone(),
            message: format!("its address or token {problem}"),
        })?;
        Ok(Self { settings, client })
    }

    /// How the judge was asked, for a report.
    pub fn record(&self, judged: &Judged) -> JudgeRecord {
        JudgeRecord {
            model: self.settings.model.clone(),
            prompt: self.settings.prompt.template().to_owned(),
            max_tokens: self.settings.max_tokens,
            n_requests: judged.n_requests,
        }
    }

    /// Judges all pairs in both orders, prompt by prompt, so that a limited number of requests covers the same prompts for
    /// every pair. Pairs of equal texts are not asked; those beyond the first prompt that is not fully judged are missing
    /// too, since an unfinished comparison would otherwise have more than its share of ties.
    ///
    /// # Errors
    /// [`Error::Judge`] if the endpoint refuses or still fails after all attempts; [`Error::Io`] for the cache. All answers
    /// so far are in the cache.
    pub fn compare(
        &self,
        matchups: &Matchups,
        cache: &mut AnswerCache,
        progress: &mut dyn Progress,
    ) -> Result<Judged> {
        let questions = |i: usize| {
            matchups.pairs().map(move |(mine, theirs)| {
                let prompt = matchups.prompts()[i].as_str();
                let (a, b) = (mine.responses[i].as_str(), theirs.responses[i].as_str());
                [Question { prompt, a, b }, Question { prompt, a: b, b: a }]
            })
        };
        let n_prompts = matchups.prompts().len();
        let (mut open, mut seen) = (vec![], BTreeSet::new());
        for question in (0..n_prompts).flat_map(questions).flatten() {
            let key = self.key(&question);
            if question.a != question.b && seen.insert(key.clone()) && cache.get(&key).is_none() {
                open.push(Open { key, question });
            }
        }
        let n_cached = seen.len() - open.len();
        progress.begin("judge", n_cached as u64, seen.len() as u64, Unit::Steps);
        let n_requests = self.ask_all(open, cache, progress)?;
        progress.end("");
        let verdict = |question: &Question<'_>| cache.get(&self.key(question)).map(read_verdict);
        let judgement = |[first, second]: [Question<'_>; 2]| match first.a == first.b {
            true => Judgement::Same,
            false => match (verdict(&first), verdict(&second)) {
                (Some(policy_first), Some(swapped)) => {
                    Judgement::Asked { policy_first, other_first: swapped }
                }
                _ => Judgement::Missing,
            },
        };
        let mut judgements = vec![Vec::with_capacity(n_prompts); matchups.pairs().len()];
        for i in 0..n_prompts {
            for (pair, questions) in judgements.iter_mut().zip(questions(i)) {
                pair.push(judgement(questions));
            }
        }
        let is_missing = |i: &usize| judgements.iter().any(|pair| pair[*i] == Judgement::Missing);
        let n_whole = (0..n_prompts).find(is_missing).unwrap_or(n_prompts);
        for judgement in judgements.iter_mut().flat_map(|pair| &mut pair[n_whole..]) {
            if *judgement == Judgement::Same {
                *judgement = Judgement::Missing;
            }
        }
        Ok(Judged { judgements, n_requests, n_cached })
    }

    fn key(&self, question: &Question<'_>) -> String {
        let JudgeSettings { model, max_tokens, prompt, .. } = &self.settings;
        cache::key(model, *max_tokens, &prompt.fill(question))
    }

    /// Asks what is open, and returns the number of requests. Answers are written by this thread as they arrive.
    fn ask_all(
        &self,
        open: Vec<Open<'_>>,
        cache: &mut AnswerCache,
        progress: &mut dyn Progress,
    ) -> Result<usize> {
        let shared = Shared {
            n_requests: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            unanswered: Mutex::new(None),
        };
        let (mut failure, mut n_answers) = (None, 0);
        std::thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            for _ in 0..self.settings.n_parallel.min(open.len()) {
                let (send, open, shared) = (send.clone(), &open, &shared);
                scope.spawn(move || {
                    while !shared.stop.load(Ordering::Relaxed) {
                        let i = shared.next.fetch_add(1, Ordering::Relaxed);
                        let Some(Open { question, .. }) = open.get(i) else { break };
                        let Some(answer) = self.ask(question, shared).transpose() else { break };
                        // At once: another request would come before the receiver knows.
                        if answer.is_err() {
                            shared.stop.store(true, Ordering::Relaxed);
                        }
                        send.send((i, answer)).expect("answers are received until all have come");
                    }
                });
            }
            drop(send);
            for (i, answer) in receive {
                let kept = answer.and_then(|answer| {
                    let verdict = read_verdict(&answer);
                    cache.insert(open[i].key.clone(), &self.settings.model, answer)?;
                    Ok(verdict)
                });
                n_answers += usize::from(kept.is_ok());
                match kept {
                    Ok(Verdict::Unreadable) => progress.advance(1, "unreadable"),
                    Ok(_) => progress.advance(1, ""),
                    Err(error) => {
                        shared.stop.store(true, Ordering::Relaxed);
                        failure.get_or_insert(error);
                    }
                }
            }
        });
        let n_requests = shared.n_requests.into_inner();
        let unanswered = shared.unanswered.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (failure, unanswered) {
            (Some(error), _) => Err(error),
            (None, Some(why)) if n_answers == 0 => {
                Err(self.failed(&format!("{why} (none of {n_requests} requests was answered)")))
            }
            _ => Ok(n_requests),
        }
    }

    fn failed(&self, message: &str) -> Error {
        Error::Judge {
            url: self.client.url().into(),
            message: format!("{message}. Answers so far are kept; repeat the command to resume"),
        }
    }

    /// Asks until there is an answer; `None` once the requests are spent or another one has failed for good.
    fn ask(&self, question: &Question<'_>, shared: &Shared) -> Result<Option<String>> {
        let JudgeSettings { model, max_tokens, prompt, max_requests, n_attempts, pause, .. } =
            &self.settings;
        let text = prompt.fill(question);
        let most = max_requests.unwrap_or(usize::MAX);
        let mut pause = *pause;
        for attempt in 1.. {
            let one_more = |n: usize| (n < most).then_some(n + 1);
            let taken =
                shared.n_requests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
            if taken.is_err() {
                break;
            }
            match self.client.ask(model, *max_tokens, &text) {
                Reply::Answer(answer) => return Ok(Some(answer)),
                Reply::Refused(why) => return Err(self.failed(&why)),
                Reply::Later(why, _) if attempt >= *n_attempts => {
                    return Err(self.failed(&format!("{why} (after {attempt} attempts)")));
                }
                // Nothing to wait for.
                Reply::Later(why, _) if shared.n_requests.load(Ordering::Relaxed) >= most => {
                    *shared.unanswered.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                    break;
                }
                Reply::Later(_, wait) => {
                    let until = Instant::now() + wait.unwrap_or(pause).max(pause);
                    pause = (pause * 2).min(MAX_PAUSE);
                    while let Some(rest) = until.checked_duration_since(Instant::now()) {
                        if shared.stop.load(Ordering::Relaxed) {
                            return Ok(None);
                        }
                        std::thread::sleep(rest.min(TICK));
                    }
                }
            }
        }
        Ok(None)
    }
}
