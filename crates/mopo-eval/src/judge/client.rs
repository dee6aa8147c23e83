//! Requests to a chat endpoint in the form of OpenAI's.

use std::time::Duration;

use mopo_hub::{Endpoint, FailedRequest};
use serde::Deserialize;
use serde_json::json;

/// How long a whole answer may take, which begins when the model is done.
const ANSWER: Duration = Duration::from_secs(600);
/// The longest wait that a server may ask for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// An endpoint.
pub(super) struct Client {
    endpoint: Endpoint,
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
    ///
    /// # Errors
    /// What is wrong with the address or the token.
    pub(super) fn new(url: &str, token: Option<&str>) -> Result<Self, &'static str> {
        let url = url.trim_end_matches('/');
        let url = match url.ends_with("/chat/completions") {
            true => url.to_owned(),
            false => format!("{url}/chat/completions"),
        };
        // Who asks counts attempts, so it repeats them itself.
        let mut endpoint = Endpoint::new(&url, ANSWER, 0)?;
        if let Some(token) = token {
            endpoint = endpoint.with_token(None, token)?;
        }
        Ok(Self { endpoint })
    }

    /// The address of requests.
    pub(super) fn url(&self) -> &str {
        self.endpoint.url()
    }

    /// One request: `text` as the only message, at temperature 0.
    pub(super) fn ask(&self, model: &str, max_tokens: usize, text: &str) -> Reply {
        let body = json!({
            "model": model,
            "messages": [{ "role": "user", "content": text }],
            "temperature": 0,
            "max_tokens": max_tokens,
        });
        match self.endpoint.once(&body.to_string()) {
            Ok(text) => answer(&text),
            Err(FailedRequest { problem, body, may_pass, wait, .. }) => {
                let why = match body.as_deref().filter(|body| !body.trim().is_empty()) {
                    Some(body) => format!("{problem}: {}", complaint(body)),
                    None => problem,
                };
                match may_pass {
                    true => Reply::Later(why, wait.map(|wait| wait.min(MAX_WAIT))),
                    false => Reply::Refused(why),
                }
            }
        }
    }
}

/// The text of the first choice. A model that ran out of tokens has none, unless a verdict is all it said: a line
/// that was cut off might have gone on otherwise.
fn answer(body: &str) -> Reply {
    #[derive(Deserialize)]
    struct Completion {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        message: Message,
        #[serde(default)]
        finish_reason: Option<String>,
    }
    #[derive(Deserialize)]
    struct Message {
        #[serde(default)]
        content: Option<String>,
    }
    match serde_json::from_str::<Completion>(body) {
        Ok(Completion { choices }) if !choices.is_empty() => {
            let text = choices.into_iter().next().and_then(|choice| {
                let text = choice.message.content?;
                let is_cut = choice.finish_reason.is_some_and(|reason| reason == "length");
                (!is_cut || text.trim().len() <= "TIE".len()).then_some(text)
            });
            Reply::Answer(text.unwrap_or_default())
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
            assert_eq!(Client::new(url, None).unwrap().url(), "http://x/v1/chat/completions");
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
        // Cut off after so many tokens.
        let cut = |content: &str| said(content).replace("}}", "},\"finish_reason\":\"length\"}");
        for (content, expected) in
            [("\"content\":\"I would say\\nA\"", ""), ("\"content\":\" B\"", " B")]
        {
            assert_eq!(answer(&cut(content)), Reply::Answer(expected.into()));
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
