//! A reward that an HTTP endpoint computes.

use std::time::Duration;

use mopo_hub::Endpoint;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Reward;
use crate::{Error, Result};

/// Longest timeout, in seconds: a day.
const MAX_TIMEOUT: f64 = 86_400.0;
/// Most retries: with pauses of half a minute they take a day.
const MAX_RETRIES: u32 = 3000;

/// An endpoint as a configuration describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSpec {
    /// The address, with `http://` or `https://`.
    pub url: String,
    /// The name to show, which is also sent; `http` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Most texts of a request; 32 by default.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// How long an answer may take, in seconds; 60 by default.
    #[serde(default = "default_timeout")]
    pub timeout: f64,
    /// How often a request is repeated after a lost connection, a timeout or a status 429 or 5xx; 4 by default.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// The environment variable with a token for the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// The header whose value is the token; by default it is sent as `Authorization: Bearer <token>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_header: Option<String>,
}

/// Checks how long something may take and how often it is tried again, at most `most` times.
///
/// # Errors
/// The invalid field.
pub(super) fn check_limits(timeout: f64, retries: u32, most: u32) -> Result<()> {
    if !(timeout > 0.0 && timeout <= MAX_TIMEOUT) {
        let expected = format!("it must be a number of seconds above 0, up to {MAX_TIMEOUT}");
        return Err(Error::invalid("timeout", timeout, expected));
    }
    if retries > most {
        return Err(Error::invalid("retries", retries, format!("it must be at most {most}")));
    }
    Ok(())
}

fn default_batch_size() -> usize {
    32
}

fn default_timeout() -> f64 {
    60.0
}

fn default_retries() -> u32 {
    4
}

impl HttpSpec {
    /// An endpoint with default settings.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            name: None,
            batch_size: default_batch_size(),
            timeout: default_timeout(),
            retries: default_retries(),
            token_env: None,
            token_header: None,
        }
    }

    /// The name to show and to send.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("http")
    }

    /// The same endpoint and name, with defaults for how it is asked, which no score depends on.
    pub(super) fn identity(&self) -> Self {
        Self { name: self.name.clone(), ..Self::new(self.url.clone()) }
    }

    /// Checks everything except for the token's variable.
    ///
    /// # Errors
    /// The invalid field.
    pub fn check(&self) -> Result<()> {
        self.endpoint(self.token_env.as_ref().map(|_| String::new())).map(drop)
    }

    /// The token in the environment.
    fn token(&self) -> Result<Option<String>> {
        let Some(name) = &self.token_env else { return Ok(None) };
        let found = match std::env::var(name) {
            Ok(token) => Some(token.trim().to_owned()).filter(|token| !token.is_empty()),
            Err(_) => None,
        };
        if found.is_none() {
            let expected = "this environment variable is not set, or empty or not text: export it with the token";
            return Err(Error::invalid("token_env", format!("`{name}`"), expected));
        }
        Ok(found)
    }

    fn endpoint(&self, token: Option<String>) -> Result<Endpoint> {
        if self.batch_size == 0 {
            return Err(Error::invalid("batch_size", 0, "it must be at least 1"));
        }
        check_limits(self.timeout, self.retries, MAX_RETRIES)?;
        if let Some(name) = &self.token_env
            && (name.is_empty() || name.contains(['=', '\0']))
        {
            let expected = "it must be the name of an environment variable, not the token itself";
            return Err(Error::invalid("token_env", format!("`{name}`"), expected));
        }
        let timeout = Duration::from_secs_f64(self.timeout);
        let endpoint = Endpoint::new(&self.url, timeout, self.retries)
            .map_err(|why| Error::invalid("url", format!("`{}`", self.url), format!("it {why}")))?;
        match (token, &self.token_header) {
            (Some(token), header) => {
                endpoint.with_token(header.as_deref(), &token).map_err(|why| {
                    let field = if header.is_some() { "token_header" } else { "token_env" };
                    let value = header.as_ref().or(self.token_env.as_ref());
                    let value = value.map_or_else(String::new, |value| format!("`{value}`"));
                    Error::invalid(field, value, why)
                })
            }
            (None, Some(header)) => {
                let expected = "`token_env` is missing: name the environment variable of the token";
                Err(Error::invalid("token_header", format!("`{header}`"), expected))
            }
            (None, None) => Ok(endpoint),
        }
    }
}

/// An endpoint that scores texts. It gets `{"name": …, "prompts": […], "responses": […]}` by `POST` and
/// answers `{"scores": […]}`, one finite number per text; larger is better.
///
/// Batches are sent one after the other. [`Endpoint`] says what is retried.
#[derive(Debug)]
pub struct HttpReward {
    name: String,
    endpoint: Endpoint,
    batch_size: usize,
}

/// What an endpoint answers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    scores: Vec<f32>,
}

impl HttpReward {
    /// The reward of an endpoint, which is not asked yet.
    ///
    /// # Errors
    /// The invalid field; a token's variable that is not set.
    pub fn new(spec: &HttpSpec) -> Result<Self> {
        let endpoint = spec.endpoint(spec.token()?)?;
        Ok(Self { name: spec.name().to_owned(), endpoint, batch_size: spec.batch_size })
    }

    /// The scores of one request.
    fn ask(&self, items: &[(&str, &str)]) -> Result<Vec<f32>> {
        let (prompts, responses): (Vec<&str>, Vec<&str>) = items.iter().copied().unzip();
        let asked = json!({ "name": self.name, "prompts": prompts, "responses": responses });
        let expected = match items.len() {
            1 => "status 200 and {\"scores\": [number]}, a finite number for one text".to_owned(),
            n => format!(
                "status 200 and {{\"scores\": [...]}}, a finite number for each of {n} texts"
            ),
        };
        let body = self.endpoint.post(&asked.to_string(), &expected)?;
        let wrong = |problem: String| self.endpoint.wrong_answer(&body, &problem, &expected);
        // What follows would take an array as the fields in order.
        if !body.trim_start().starts_with('{') {
            return Err(wrong("no object".into()).into());
        }
        // Which also refuses numbers that f32 cannot have.
        let Answer { scores } = serde_json::from_str(&body).map_err(|e| wrong(e.to_string()))?;
        if scores.len() != items.len() {
            return Err(wrong(format!("{} scores", scores.len())).into());
        }
        Ok(scores)
    }
}

impl Reward for HttpReward {
    fn name(&self) -> &str {
        &self.name
    }

    // One request at a time: the endpoint decides how many cores that takes.
    fn uses_all_cores(&self) -> bool {
        true
    }

    fn score(&self, prompt: &str, response: &str) -> Result<f32> {
        Ok(self.score_batch(&[(prompt, response)])?[0])
    }

    fn score_batch(&self, items: &[(&str, &str)]) -> Result<Vec<f32>> {
        let mut scores = Vec::with_capacity(items.len());
        for batch in items.chunks(self.batch_size) {
            scores.extend(self.ask(batch)?);
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mopo_testkit::{EndpointReply, LoopbackEndpoint, PostedRequest};
    use serde_json::Value;

    fn reward(server: &LoopbackEndpoint, batch_size: usize) -> HttpReward {
        let spec = HttpSpec {
            name: Some("brief".into()),
            batch_size,
            retries: 1,
            ..HttpSpec::new(server.url())
        };
        HttpReward::new(&spec).unwrap()
    }

    /// Characters of prompt and response, in tenths of those of the prompt.
    fn lengths(request: &PostedRequest) -> EndpointReply {
        let asked: Value = serde_json::from_str(&request.body).unwrap();
        let length = |key: &str, i: usize| asked[key][i].as_str().unwrap().chars().count() as f64;
        let n = asked["prompts"].as_array().unwrap().len();
        let scores: Vec<f64> =
            (0..n).map(|i| length("responses", i) + 0.1 * length("prompts", i)).collect();
        EndpointReply::new(200, json!({ "scores": scores }).to_string())
    }

    const ITEMS: [(&str, &str); 5] =
        [("a", "bcd"), ("", ""), ("é\n", "\"q\""), ("p", "x"), ("four", "12345")];
    const SCORES: [f32; 5] = [3.1, 0.0, 3.2, 1.1, 5.4];

    #[test]
    fn texts_go_in_batches_and_scores_come_back_in_order() {
        let server = LoopbackEndpoint::start(|_, request| lengths(request));
        for (batch_size, sizes) in [(2, &[2, 2, 1][..]), (5, &[5]), (100, &[5]), (1, &[1; 5])] {
            assert_eq!(reward(&server, batch_size).score_batch(&ITEMS).unwrap(), SCORES);
            let asked = server.take_requests().into_iter();
            let asked: Vec<Value> = asked.map(|r| serde_json::from_str(&r.body).unwrap()).collect();
            let found: Vec<usize> =
                asked.iter().map(|asked| asked["responses"].as_array().unwrap().len()).collect();
            assert_eq!(found, sizes);
            assert!(asked.iter().all(|asked| asked["name"] == "brief"));
        }
        let reward = reward(&server, 3);
        assert_eq!(reward.score("é\n", "\"q\"").unwrap(), 3.2);
        assert_eq!((reward.score_batch(&[]).unwrap().len(), server.take_requests().len()), (0, 1));
    }

    #[test]
    fn a_busy_server_is_asked_again() {
        let server = LoopbackEndpoint::start(|before, request| match before {
            0 => EndpointReply::new(503, "loading").header("Retry-After: 0"),
            2 => EndpointReply::new(0, ""),
            _ => lengths(request),
        });
        assert_eq!(reward(&server, 3).score_batch(&ITEMS).unwrap(), SCORES);
        let bodies: Vec<String> = server.take_requests().into_iter().map(|r| r.body).collect();
        assert_eq!(bodies.len(), 4);
        assert!(bodies[0] == bodies[1] && bodies[2] == bodies[3] && bodies[1] != bodies[2]);
    }

    #[test]
    fn wrong_answers_are_shown_with_what_was_expected() {
        for (status, body, parts) in [
            (200, "{\"scores\": [1, 2]}", &["status 200, but 2 scores", "each of 5 texts"][..]),
            (200, "{\"scores\": [1, 2, 3, 4, 5, 6]}", &["but 6 scores"]),
            (200, "{\"scores\": [1, NaN, 3, 4, 5]}", &["line 1 column", "[1, NaN, 3"]),
            (200, "{\"scores\": [1, null, 3, 4, 5]}", &["null", "a finite number"]),
            (200, "{\"scores\": [1, 2, 1e39, 4, 5]}", &["out of range"]),
            (200, "{\"scores\": [1, 2, 1e999, 4, 5]}", &["out of range"]),
            (200, "{\"scores\": [[1], [2], [3], [4], [5]]}", &["invalid type"]),
            (200, "{\"score\": 1}", &["unknown field `score`"]),
            (200, "[1, 2, 3, 4, 5]", &["[1, 2, 3, 4, 5]"]),
            (200, "", &["but the answer is empty"]),
            (400, "{\"error\": \"too long\"}", &["status 400", "{\"error\": \"too long\"}"]),
        ] {
            let server = LoopbackEndpoint::start(move |_, _| EndpointReply::new(status, body));
            let said = reward(&server, 32).score_batch(&ITEMS).unwrap_err().to_string();
            let always = [server.url(), "expected status 200 and {\"scores\": [...]}"];
            for part in always.iter().chain(parts) {
                assert!(said.contains(part), "{body}: no `{part}` in {said}");
            }
            assert_eq!(server.take_requests().len(), 1, "{said}");
        }
        let url = LoopbackEndpoint::nobody();
        let spec = HttpSpec { retries: 0, ..HttpSpec::new(&url) };
        let said = HttpReward::new(&spec).unwrap().score("", "").unwrap_err().to_string();
        assert!(said.contains(&url) && said.contains("start it"), "{said}");
    }

    #[test]
    fn a_token_comes_from_the_environment() {
        let server = LoopbackEndpoint::start(|_, request| lengths(request));
        // A variable that every process has.
        let spec = |env: &str, header: Option<&str>| HttpSpec {
            token_env: Some(env.into()),
            token_header: header.map(str::to_owned),
            ..HttpSpec::new(server.url())
        };
        let token = std::env::var("PATH").unwrap();
        for (header, sent, value) in
            [(None, "authorization", format!("Bearer {token}")), (Some("X-Key"), "x-key", token)]
        {
            let reward = HttpReward::new(&spec("PATH", header)).unwrap();
            reward.score("", "").unwrap();
            assert_eq!(server.take_requests()[0].headers[sent], value);
        }
        let missing = spec("MOPO_TEST_NO_SUCH_TOKEN", None);
        missing.check().unwrap();
        let said = HttpReward::new(&missing).unwrap_err().to_string();
        assert!(said.contains("`MOPO_TEST_NO_SUCH_TOKEN`") && said.contains("export"), "{said}");
    }

    #[test]
    fn wrong_settings_are_named() {
        let good = HttpSpec::new("http://localhost:1/");
        good.check().unwrap();
        let url = |url: &str| HttpSpec { url: url.into(), ..good.clone() };
        let token = |env: Option<&str>, header: Option<&str>| HttpSpec {
            token_env: env.map(str::to_owned),
            token_header: header.map(str::to_owned),
            ..good.clone()
        };
        for (spec, part) in [
            (url("localhost:1"), "`url` is `localhost:1`, but it must begin with http://"),
            (url("http://me:pass@localhost/"), "`url`"),
            (HttpSpec { batch_size: 0, ..good.clone() }, "`batch_size` is 0"),
            (HttpSpec { timeout: 0.0, ..good.clone() }, "`timeout` is 0"),
            (HttpSpec { timeout: f64::NAN, ..good.clone() }, "`timeout` is NaN"),
            (HttpSpec { timeout: 1e9, ..good.clone() }, "`timeout`"),
            (HttpSpec { retries: 5000, ..good.clone() }, "`retries` is 5000"),
            (token(Some(""), None), "`token_env`"),
            (token(None, Some("X-Key")), "`token_env` is missing"),
            (token(Some("PATH"), Some("X Key")), "`token_header` is `X Key`"),
        ] {
            let said = spec.check().unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
    }
}
