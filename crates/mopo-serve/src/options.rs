//! Settings of a server.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::error::{Error, Result};

/// Settings of [`serve`](crate::serve).
#[derive(Clone)]
pub struct ServeOptions {
    /// Address to listen at.
    pub host: IpAddr,
    /// Port; 0 chooses a free one.
    pub port: u16,
    /// The model's name for clients.
    pub name: String,
    /// The bearer token that clients must send; `None`: anyone who reaches the address is served.
    pub api_key: Option<String>,
    /// Allows an address other than loopback without a key.
    pub allow_remote_without_key: bool,
    /// Most bytes of a request's body.
    pub max_body_bytes: usize,
    /// Most tokens of a prompt.
    pub max_prompt_tokens: usize,
    /// Most new tokens of an answer; also the number for requests that ask for none, where the model's own default is larger
    /// or unknown.
    pub max_new_tokens: usize,
    /// Most answers to one request: its prompts times `n`, or `best_of`.
    pub max_answers: usize,
    /// How many answers may wait for the engine.
    pub queue: usize,
    /// How long one may wait.
    pub queue_timeout: Duration,
    /// How long a request may take from beginning to end.
    pub request_timeout: Duration,
    /// How long running requests may take once the server is told to end.
    pub shutdown_timeout: Duration,
    /// Most connections at once; more wait to be accepted.
    pub max_connections: usize,
    /// Seed of the seeds of requests that have none.
    pub seed: u64,
    /// Writes the bodies of requests to the log.
    pub log_requests: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 8000,
            name: "model".into(),
            api_key: None,
            allow_remote_without_key: false,
            max_body_bytes: 1 << 20,
            max_prompt_tokens: 32_768,
            max_new_tokens: 2048,
            max_answers: 16,
            queue: 256,
            queue_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(600),
            shutdown_timeout: Duration::from_secs(30),
            max_connections: 1024,
            seed: 0,
            log_requests: false,
        }
    }
}

impl std::fmt::Debug for ServeOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the key.
        f.debug_struct("ServeOptions")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("name", &self.name)
            .field("has_key", &self.api_key.is_some())
            .finish_non_exhaustive()
    }
}

impl ServeOptions {
    /// Checks what can be checked before anything is loaded.
    ///
    /// # Errors
    /// The flag and what is wrong.
    pub fn check(&self) -> Result<()> {
        let wrong = |flag, message: &str| Err(Error::Setting { flag, message: message.into() });
        if self.name.is_empty() || self.name.chars().any(char::is_control) {
            return wrong("--name", "a model's name is not empty and has no control characters");
        }
        match self.api_key.as_deref() {
            Some(key) if key.trim() != key || key.is_empty() => {
                return wrong("--api-key", "the key is empty, or has white space around it");
            }
            Some(key) if !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return wrong("--api-key", "the key has characters that no HTTP header can carry");
            }
            Some(_) => {}
            None if self.host.is_loopback() || self.allow_remote_without_key => {}
            None => {
                return wrong(
                    "--host",
                    "anyone who reaches that address could use the server: set --api-key or MOPO_API_KEY, or \
                     --allow-remote-without-key if something else keeps strangers out",
                );
            }
        }
        for (flag, value) in [
            ("--max-body-bytes", self.max_body_bytes),
            ("--max-prompt-tokens", self.max_prompt_tokens),
            ("--max-new-tokens", self.max_new_tokens),
            ("--max-answers", self.max_answers),
            ("--queue", self.queue),
            ("--max-connections", self.max_connections),
        ] {
            if value == 0 {
                return wrong(flag, "it must be at least 1");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_address_needs_a_key() {
        let open = ServeOptions { host: Ipv4Addr::UNSPECIFIED.into(), ..Default::default() };
        let e = open.check().unwrap_err().to_string();
        assert!(e.starts_with("--host") && e.contains("--api-key"), "{e}");
        let key = || Some("secret".to_owned());
        ServeOptions { api_key: key(), ..open.clone() }.check().unwrap();
        ServeOptions { allow_remote_without_key: true, ..open }.check().unwrap();
        ServeOptions::default().check().unwrap();
        for key in ["", " a", "a\nb", "ä"] {
            let options = ServeOptions { api_key: Some(key.into()), ..Default::default() };
            assert!(options.check().unwrap_err().to_string().starts_with("--api-key"), "{key}");
        }
        let options = ServeOptions { queue: 0, ..Default::default() };
        assert!(options.check().unwrap_err().to_string().starts_with("--queue"));
        let shown = format!("{:?}", ServeOptions { api_key: key(), ..Default::default() });
        assert!(!shown.contains("secret"), "{shown}");
    }
}
