//! Requests to a chat endpoint in the form of OpenAI's.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use ureq::Agent;

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(30);
/// How long it may take for a whole answer, which begins when the model is done.
const ANSWER: Duration = Duration::from_secs(600);
/// Maximum size of an answer.
const MAX_ANSWER: u64 = 16 << 20;
/// The longest wait that a server may ask for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// An endpoint.
pub(super) struct Client {
    agent: Agent,
    url: String,
    token: Option<String>,
}

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The model's answer.
    Answer(String),
    /// A retry may succeed, after this time if the server says so.
    Later(String, Option<Duration>),
    /// It would not.
    Refused(String),
}

impl Client {
    /// Posts to `chat/completions` below `url`, or to `url` if it ends so.
    pub(super) fn new(url: &str, token: Option<String>) -> Self {
        let agent = Agent::config_builder()
            .user_agent(concat!("mopo/", env!("CARGO_PKG_VERSION")))
            // The body of an error says what is wrong.
            .http_status_as_error(false)
            // Neither token nor texts go to another server.
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(ANSWER))
            .build();
        let url = url.trim_end_matches('/');
        let url = match url.ends_with("/chat/completions") {
            true => url.to_owned(),
            false => format!("{url}/chat/completions"),
        };
        Self { agent: agent.into(), url, token }
    }

    /// The address of requests.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// One request: `text` as the only message, at temperature 0.
    pub(super) fn ask(&self, model: &str, max_tokens: usize, text: &str) -> Reply {
        let body = json!({
            "model": model,
            "messages": [{ "role": "user", "content": text }],
            "temperature": 0,
            "max_tokens": max_tokens,
        });
        let mut request = self.agent.post(&self.url).content_type("application/json");
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut response = match request.send(body.to_string()) {
            Ok(response) => response,
            Err(error) => return failed(&error),
        };
        let status = response.status();
        let header =
            |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let wait = header("retry-after").and_then(|seconds| seconds.trim().parse().ok());
        let wait = wait.map(|seconds| Duration::from_secs(seconds).min(MAX_WAIT));
        let location = header("location").map(short);
        let text = match response.body_mut().with_config().limit(MAX_ANSWER).read_to_string() {
            Ok(text) => text,
            Err(error) => return failed(&error),
        };
        if status.is_success() {
            return answer(&text);
        }
        if status.is_redirection() {
            let target = location.unwrap_or_else(|| "elsewhere".into());
            return Reply::Refused(format!("it redirects to {target}; give the address itself"));
        }
        let why = format!("{status}: {}", complaint(&text));
        match status.as_u16() {
            429 | 500.. => Reply::Later(why, wait),
            _ => Reply::Refused(why),
        }
    }
}

fn failed(error: &ureq::Error) -> Reply {
    match error {
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Protocol(_) => Reply::Later(error.to_string(), None),
        _ => Reply::Refused(error.to_string()),
    }
}

/// The text of the first choice. A model that ran out of tokens before it said anything has none.
fn answer(body: &str) -> Reply {
    #[derive(Deserialize)]
    struct Completion {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        message: Message,
    }
    #[derive(Deserialize)]
    struct Message {
        #[serde(default)]
        content: Option<String>,
    }
    match serde_json::from_str::<Completion>(body) {
        Ok(Completion { choices }) if !choices.is_empty() => {
            let first = choices.into_iter().next();
            Reply::Answer(first.and_then(|choice| choice.message.content).unwrap_or_default())
        }
        _ => Reply::Refused(format!(
            "its answer is not a chat completion: {}; give the address of an OpenAI-compatible interface, such as \
             http://127.0.0.1:8000/v1",
            short(body)
        )),
    }
}

/// What a server says of an error.
fn complaint(body: &str) -> String {
    #[derive(Deserialize)]
    struct Complaint {
        error: Message,
    }
    #[derive(Deserialize)]
    struct Message {
        message: String,
    }
    match serde_json::from_str::<Complaint>(body) {
        Ok(found) => short(&found.error.message),
        Err(_) => short(body),
    }
}

/// A server's text, shortened for an error message.
fn short(text: &str) -> String {
    let shown: String = text.trim().chars().take(200).collect();
    shown.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_may_be_that_of_the_interface_or_of_its_chat() {
        for url in ["http://x/v1", "http://x/v1/", "http://x/v1/chat/completions"] {
            assert_eq!(Client::new(url, None).url(), "http://x/v1/chat/completions");
        }
    }

    #[test]
    fn completions_are_read_and_anything_else_refused() {
        let said = |content: &str| format!("{{\"choices\":[{{\"message\":{{{content}}}}}]}}");
        for (content, expected) in [
            ("\"content\":\"x\\nA\"", "x\nA"),
            ("\"content\":null", ""),
            ("\"role\":\"assistant\"", ""),
        ] {
            assert_eq!(answer(&said(content)), Reply::Answer(expected.into()));
        }
        for body in ["", "<html>", "{}", "{\"choices\":[]}", "{\"choices\":[{}]}"] {
            assert!(matches!(answer(body), Reply::Refused(_)), "{body}");
        }
    }

    #[test]
    fn complaints_are_short_and_plain() {
        assert_eq!(complaint("{\"error\":{\"message\":\"no\\u001b[2Jmodel\"}}"), "no [2Jmodel");
        assert_eq!(complaint(&"x".repeat(1000)).len(), 200);
    }
}
