//! JSON posted to an HTTP endpoint that a user names, with retries.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use chrono::{DateTime, Utc};
use ureq::Agent;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::{Error, Result};

/// Maximum size of an answer.
const MAX_ANSWER: u64 = 64 << 20;
/// Characters of an answer that an error shows.
const SHOWN: usize = 200;
/// The first pause between attempts; each is twice as long as the one before, up to 64 times this.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest pause that an endpoint may ask for.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// An address to which JSON is posted.
///
/// Lost connections, timeouts and the statuses 429 and 5xx are retried, after the time in the answer's
/// `Retry-After` or else after pauses that double. Redirects are not followed.
#[derive(Debug)]
pub struct Endpoint {
    url: String,
    timeout: Duration,
    retries: u32,
    token: Option<(HeaderName, HeaderValue)>,
    agent: Agent,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRequest {
    /// The answer's status, if there was one.
    pub status: Option<u16>,
    /// What went wrong.
    pub problem: String,
    /// The beginning of the answer's body.
    pub body: Option<String>,
    /// Whether another attempt may succeed.
    pub may_pass: bool,
    /// The pause that the endpoint asks for.
    pub wait: Option<Duration>,
}

impl Endpoint {
    /// An endpoint at `url` that may take `timeout` for each answer and is asked `retries` times more if
    /// that may help. Nothing is sent yet.
    ///
    /// # Errors
    /// What is wrong with `url`, to complete "it …".
    pub fn new(
        url: &str,
        timeout: Duration,
        retries: u32,
    ) -> std::result::Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "is not an address")?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("must begin with http:// or https://");
        }
        let authority = uri.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or("has no host")?;
        if authority.as_str().contains('@') {
            return Err(
                "must not contain a name or password: name the environment variable of a token instead",
            );
        }
        let agent = Agent::config_builder()
            .user_agent(concat!("mopo/", env!("CARGO_PKG_VERSION")))
            .accept("application/json")
            .http_status_as_error(false)
            // Texts and token are for this address only.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(timeout))
            .build()
            .into();
        Ok(Self { url: url.into(), timeout, retries, token: None, agent })
    }

    /// Sends `token` with each request: `Authorization: Bearer <token>`, or as the value of `header`. It is
    /// never part of an error or of debug output.
    ///
    /// # Errors
    /// Which of the two cannot be sent, and why.
    pub fn with_token(
        mut self,
        header: Option<&str>,
        token: &str,
    ) -> std::result::Result<Self, &'static str> {
        let (name, value) = match header {
            Some(name) => (name, token.to_owned()),
            None => ("Authorization", format!("Bearer {token}")),
        };
        let name = HeaderName::try_from(name).map_err(|_| "the header's name is invalid")?;
        let value = HeaderValue::try_from(value);
        let mut value = value.map_err(|_| "the token has characters that a header cannot have")?;
        value.set_sensitive(true);
        self.token = Some((name, value));
        Ok(self)
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Posts `json` and returns the body of the answer, which has the status 200. `expected` says in errors what the
    /// answer should be.
    ///
    /// # Errors
    /// [`Error::Endpoint`]: no connection, another status, or a body that is not text, after all attempts.
    pub fn post(&self, json: &str, expected: &str) -> Result<String> {
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            let failure = match self.once(json) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let wait = failure.wait.unwrap_or(pause);
            let is_last = !failure.may_pass || attempt > self.retries;
            if is_last || wait > MAX_WAIT {
                let mut problem = failure.problem;
                if attempt > 1 {
                    problem += &format!(" ({attempt} attempts)");
                }
                if !is_last {
                    problem += &format!(
                        ", and it asks to wait {} s, more than the maximum of {} s",
                        wait.as_secs(),
                        MAX_WAIT.as_secs()
                    );
                }
                return Err(self.error(failure.status, problem, expected, failure.body));
            }
            std::thread::sleep(wait);
            pause = (2 * pause).min(64 * PAUSE);
            attempt += 1;
        }
    }

    /// The error for the body of an answer with the status 200 that is not what was `expected`.
    pub fn wrong_answer(&self, body: &str, problem: &str, expected: &str) -> Error {
        self.error(
            Some(200),
            format!("status 200, but {problem}"),
            expected,
            Some(beginning_of(body)),
        )
    }

    fn error(
        &self,
        status: Option<u16>,
        problem: String,
        expected: &str,
        body: Option<String>,
    ) -> Error {
        Error::Endpoint { url: self.url.clone(), status, problem, expected: expected.into(), body }
    }

    /// One attempt of [`post`](Self::post).
    ///
    /// # Errors
    /// What went wrong, and whether to try again.
    pub fn once(&self, json: &str) -> std::result::Result<String, FailedRequest> {
        let mut request = self.agent.post(&self.url).header("Content-Type", "application/json");
        if let Some((name, value)) = &self.token {
            request = request.header(name, value);
        }
        let mut response = request.send(json).map_err(|e| self.no_answer(None, &e))?;
        let status = response.status().as_u16();
        let wait = retry_after(response.headers(), Utc::now());
        let mut body = vec![];
        let read = response.body_mut().as_reader().take(MAX_ANSWER + 1).read_to_end(&mut body);
        read.map_err(|e| self.no_answer(Some(status), &e.into()))?;
        let failed = |problem: String, may_pass| {
            let beginning = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN)]);
            FailedRequest {
                status: Some(status),
                problem,
                body: Some(beginning_of(&beginning)),
                may_pass,
                wait,
            }
        };
        if status != 200 {
            let problem = match response.headers().get("location").map(HeaderValue::to_str) {
                Some(Ok(location)) if response.status().is_redirection() => format!(
                    "status {status}, a redirect to {}, which is not followed: give that address",
                    beginning_of(location)
                ),
                _ => format!("status {status}"),
            };
            return Err(failed(problem, status == 429 || status >= 500));
        }
        if body.len() as u64 > MAX_ANSWER {
            return Err(failed(format!("more than {} MiB", MAX_ANSWER >> 20), false));
        }
        match std::str::from_utf8(&body) {
            Ok(text) => Ok(text.into()),
            Err(e) => Err(failed(format!("its answer is not UTF-8 ({e})"), false)),
        }
    }

    /// The failure of a connection.
    fn no_answer(&self, status: Option<u16>, error: &ureq::Error) -> FailedRequest {
        let (problem, may_pass) = match error {
            ureq::Error::Timeout(_) => {
                (format!("no answer within {} s", self.timeout.as_secs_f64()), true)
            }
            // Which is how certificates are refused.
            ureq::Error::Io(e) if e.kind() == ErrorKind::InvalidData => (e.to_string(), false),
            ureq::Error::Io(e) if e.kind() == ErrorKind::ConnectionRefused => {
                (format!("no connection: {e}; start it, or correct the address"), true)
            }
            ureq::Error::Io(e) => (format!("the connection failed: {e}"), true),
            ureq::Error::HostNotFound => ("no connection: there is no such host".into(), true),
            ureq::Error::ConnectionFailed | ureq::Error::ConnectProxyFailed(_) => {
                (format!("no connection: {error}"), true)
            }
            other => (other.to_string(), false),
        };
        FailedRequest { status, problem, body: None, may_pass, wait: None }
    }
}

/// The pause that the header `Retry-After` asks for: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::parse_from_rfc2822(text).ok()?;
    Some((until.to_utc() - now).to_std().unwrap_or(Duration::ZERO))
}

/// The beginning of a text, for an error.
pub fn beginning_of(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let new = |url| Endpoint::new(url, Duration::from_secs(1), 0).map(|_| ());
        for url in ["http://localhost:8000/score", "https://example.org", "http://[::1]:1/a?b=c"] {
            new(url).unwrap();
        }
        for (url, part) in [
            ("localhost:8000", "http://"),
            ("ftp://example.org/", "http://"),
            ("/score", "http://"),
            ("", "address"),
            ("http://", "address"),
            ("http://a b/", "address"),
            ("http://me:secret@example.org/", "environment variable"),
        ] {
            let problem = new(url).unwrap_err();
            assert!(problem.contains(part), "{url}: {problem}");
        }
    }

    #[test]
    fn tokens_are_sent_and_not_shown() {
        let endpoint = || Endpoint::new("http://localhost/", Duration::from_secs(1), 0).unwrap();
        let with = endpoint().with_token(None, "hunter2").unwrap();
        assert_eq!(with.token.as_ref().unwrap().1, "Bearer hunter2");
        let shown = format!("{with:?}");
        assert!(!shown.contains("hunter2") && shown.contains("Sensitive"), "{shown}");
        let with = endpoint().with_token(Some("X-Api-Key"), "hunter2").unwrap();
        assert_eq!(
            with.token.unwrap(),
            ("x-api-key".try_into().unwrap(), "hunter2".try_into().unwrap())
        );
        assert!(endpoint().with_token(Some("a b"), "x").unwrap_err().contains("name"));
        assert!(endpoint().with_token(None, "a\nb").unwrap_err().contains("token"));
    }

    #[test]
    fn pauses_are_seconds_or_dates() {
        let now = DateTime::parse_from_rfc2822("Sun, 06 Nov 1994 08:49:37 GMT").unwrap().to_utc();
        let wait = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", HeaderValue::from_static(value));
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("7"), Some(7));
        assert_eq!(wait(" 0 "), Some(0));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(wait("Sun, 06 Nov 1994 08:48:37 GMT"), Some(0));
        assert_eq!((wait("soon"), wait("-1"), wait("")), (None, None, None));
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
