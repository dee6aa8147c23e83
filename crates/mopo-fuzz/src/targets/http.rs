//! The server's requests: bytes over a connection to a server in this process, whose engine repeats what it is asked.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mopo_serve::{
    Admitted, EndReason, EngineStats, EventSink, Extras, ModelInfo, Prompt, Refusal, ScoreItem,
    ServeOptions, Stop, TextEngine, TextEvent, TextRequest, TextScorer, Token, TokenLogProb, serve,
};

use crate::{Form, Outcome, Place, Runner, SECONDS, Target};

const WORDS: &[&str] = &[
    "model",
    "messages",
    "prompt",
    "input",
    "preference_weights",
    "normalize_weights",
    "divergence",
    "stream",
    "stream_options",
    "include_usage",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "user",
    "tools",
    "tool_choice",
    "response_format",
    "echo",
    "suffix",
    "metadata",
    "role",
    "content",
    "type",
    "text",
    "image_url",
    "system",
    "assistant",
    "tool",
    "run",
    "run:helpful",
    "run:sft",
    "run@helpful=1",
    "run@helpful=nan,harmless=1",
    "run@",
    "run@=",
    "reverse_kl",
    "response",
    "scores",
    "worst_case",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: 5\r\n",
    "Expect: 100-continue\r\n",
    "Connection: close\r\n",
    "Authorization: Bearer x\r\n",
    "Content-Type: text/plain\r\n",
    "HTTP/1.0",
    "HTTP/2.0",
    "GET /metrics HTTP/1.1\r\n",
    "/v1/models/",
    "%00",
    "%2e%2e/",
    "?x=%ff",
    "0\r\n\r\n",
    "\r\n\r\n",
    "OPTIONS",
    "HEAD",
    "DELETE",
];

pub(super) fn targets() -> Vec<Target> {
    vec![Target {
        name: "serve",
        reads: "requests to the server",
        form: Form::Http,
        words: WORDS,
        seeds,
        start,
        rate: 4.0,
    }]
}

fn seeds() -> Vec<Vec<u8>> {
    let post = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    };
    let get = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
    };
    let chat = "/v1/chat/completions";
    vec![
        post(
            chat,
            r#"{"model": "run", "messages": [{"role": "user", "content": "Tea?"}], "max_tokens": 5}"#,
        ),
        post(
            chat,
            r#"{"model": "run@helpful=0.5,harmless=0.5", "messages": [{"role": "system", "content": "s"}, {"role": "user",
                "content": [{"type": "text", "text": "Tea"}]}], "stream": true, "stream_options": {"include_usage": true},
                "logprobs": true, "top_logprobs": 2, "n": 2, "stop": ["x", "y"], "seed": 7}"#,
        ),
        post(
            chat,
            r#"{"messages": [{"role": "user", "content": "a"}], "preference_weights": {"helpful": 0.25, "harmless": 0.75},
                "divergence": "reverse_kl", "temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_completion_tokens": 3}"#,
        ),
        post(
            "/v1/completions",
            r#"{"prompt": ["one", "two"], "max_tokens": 4, "best_of": 2, "n": 1, "echo": false, "logprobs": 1}"#,
        ),
        post("/v1/scores", r#"{"input": [{"prompt": "Tea?", "response": "Yes."}]}"#),
        get("/v1/models"),
        get("/v1/models/run"),
        get("/metrics"),
        get("/"),
        get("/health"),
    ]
}

/// Starts a server, which ends with the process.
fn start(_: &Place) -> Runner {
    let (tell, ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let options =
            ServeOptions { port: 0, name: "run".into(), queue: 4096, ..ServeOptions::default() };
        let extras = Extras { scorer: Some(Arc::new(Letters)), front: None };
        let on_ready = |address| tell.send(address).expect("the target waits for it");
        let mut engine = Parrot::default();
        serve(&mut engine, extras, options, &Stop::default(), false, on_ready).expect("a server");
    });
    let address = ready.recv().expect("the server starts");
    Box::new(move |bytes| match ask(address, bytes) {
        Ok(outcome) => outcome,
        Err(e) => Outcome::Wrong(format!("the server cannot be reached: {e}")),
    })
}

/// Sends the bytes and reads one answer, or the end of the connection.
fn ask(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Outcome> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(SECONDS)))?;
    stream.set_write_timeout(Some(Duration::from_secs(SECONDS)))?;
    // A server may refuse a request that it has not read to its end.
    let _ = stream.write_all(bytes);
    let is_whole = is_whole(bytes);
    if !is_whole {
        // More might come, for all the server knows.
        let _ = stream.shutdown(Shutdown::Write);
    }
    let (mut answer, mut buffer) = (vec![], [0; 8192]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => answer.extend(&buffer[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(Outcome::Wrong(format!("no answer after {:?}", began.elapsed())));
            }
            // Closed before everything was read.
            Err(_) => break,
        }
        if is_answered(&answer) {
            break;
        }
    }
    Ok(judge(&answer, is_whole))
}

/// Whether the server need not wait for more of a request.
fn is_whole(request: &[u8]) -> bool {
    let Some(at) = request.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..at]).to_ascii_lowercase();
    if head.contains("transfer-encoding") || head.contains("expect") || head.contains("upgrade") {
        return false;
    }
    let lengths: Vec<&str> =
        head.lines().filter_map(|line| line.strip_prefix("content-length:")).collect();
    match lengths[..] {
        [] => true,
        [one] => one.trim().parse().is_ok_and(|n: usize| n <= request.len() - at - 4),
        _ => false,
    }
}

/// Whether an answer has all the bytes that its head promises.
fn is_answered(answer: &[u8]) -> bool {
    let Some(at) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..at]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    match length.and_then(|n| n.trim().parse::<usize>().ok()) {
        Some(n) => answer.len() >= at + 4 + n,
        None => head.contains("chunked") && answer.ends_with(b"0\r\n\r\n"),
    }
}

fn judge(answer: &[u8], is_whole: bool) -> Outcome {
    let text = String::from_utf8_lossy(answer);
    let status = text
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|code| code.parse::<u16>().ok());
    match status {
        None if answer.is_empty() && !is_whole => Outcome::Refused,
        None if answer.is_empty() => Outcome::Refused,
        None => Outcome::Wrong(format!("no status: {:.200}", text)),
        Some(200..=299) => match body(&text) {
            Some(json) if serde_json::from_str::<serde::de::IgnoredAny>(json).is_err() => {
                Outcome::Wrong(format!("the answer is not JSON: {json:.200}"))
            }
            _ => Outcome::Accepted,
        },
        Some(500) => Outcome::Wrong(format!("an error of the server: {:.400}", text)),
        Some(_) => Outcome::Refused,
    }
}

/// The body of the first answer, if it is JSON and came in one piece.
fn body(answer: &str) -> Option<&str> {
    let (head, rest) = answer.split_once("\r\n\r\n")?;
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let body = rest.get(..length?.trim().parse().ok()?)?;
    (head.contains("content-type: application/json") && !body.is_empty()).then_some(body)
}

/// Repeats what it is asked, word by word.
#[derive(Default)]
struct Parrot(Vec<(u64, TextRequest)>);

impl TextEngine for Parrot {
    fn model(&self) -> ModelInfo {
        let policies = ["helpful", "harmless"].map(str::to_owned).into();
        ModelInfo { policies, has_worst_case: true, context: Some(1000) }
    }

    fn room(&self) -> usize {
        16_usize.saturating_sub(self.0.len())
    }

    fn submit(&mut self, id: u64, request: TextRequest) -> Result<Admitted, Refusal> {
        let text = asked(&request.prompt);
        let prompt_tokens = text.split_whitespace().count();
        if prompt_tokens > 500 {
            return Err(Refusal::invalid("messages", "too long for a parrot"));
        }
        self.0.push((id, request));
        Ok(Admitted { prompt_tokens })
    }

    fn step(&mut self, sink: &mut dyn EventSink) {
        for (id, request) in self.0.drain(..) {
            let most = request.sampling.max_new_tokens.unwrap_or(16).min(32);
            let words: Vec<&str> = asked(&request.prompt).split_inclusive(' ').collect();
            let n = words.len().min(most);
            for word in &words[..n] {
                let tokens = request.log_probs.map(|n| token(word, n)).into_iter().collect();
                sink.event(id, TextEvent::Piece { text: (*word).into(), tokens });
            }
            let reason = if n < words.len() { EndReason::Length } else { EndReason::Stop };
            sink.event(id, TextEvent::End { reason, completion_tokens: n, cached_tokens: 0 });
        }
    }

    fn cancel(&mut self, id: u64) {
        self.0.retain(|(other, _)| *other != id);
    }

    fn is_idle(&self) -> bool {
        self.0.is_empty()
    }

    fn reset(&mut self) {
        self.0.clear();
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}

fn asked(prompt: &Prompt) -> &str {
    match prompt {
        Prompt::Chat(messages) => messages.last().map_or("", |message| &message.content),
        Prompt::Text(text) => text,
    }
}

fn token(word: &str, n: usize) -> TokenLogProb {
    let token = |text: &str, log_prob| Token { text: text.into(), bytes: text.into(), log_prob };
    TokenLogProb {
        chosen: token(word, -0.5),
        top: (0..n.min(20)).map(|i| token("x", -(i as f32))).collect(),
    }
}

/// Scores by length.
struct Letters;

impl TextScorer for Letters {
    fn names(&self) -> Vec<String> {
        vec!["length".into()]
    }

    fn score(&self, items: &[ScoreItem]) -> Result<Vec<Vec<f32>>, Refusal> {
        Ok(items.iter().map(|item| vec![item.response.len() as f32]).collect())
    }
}
