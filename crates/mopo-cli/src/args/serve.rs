//! The flags of `serve`.

use std::net::{IpAddr, Ipv4Addr};

use clap::Args;
use mopo_lm::EngineConfig;
use mopo_serve::ServeOptions;
use std::time::Duration;

use super::{ModelArgs, numbers};
use crate::device::Device;

#[derive(Debug, Args)]
#[command(after_help = "\
The page is at the address that the command prints; docs/serve.md describes it and the endpoints. A conversation from a shell:

    curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{
      \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}],
      \"preference_weights\": {\"helpful\": 0.6, \"harmless\": 0.4}}'

SIGTERM and Ctrl-C answer what is running, and then end the server; a second one ends it at once.")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Address to listen at
    #[arg(long, default_value = "127.0.0.1", value_parser = host)]
    pub(crate) host: IpAddr,
    /// Port; 0 chooses a free one
    #[arg(long, default_value_t = 8000)]
    pub(crate) port: u16,
    /// The model's name for clients [default: the name of its directory or file]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Bearer token that clients must send [default: $MOPO_API_KEY, which other users of this machine cannot see]
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// Listen at an address other than loopback without a key
    #[arg(long)]
    pub(crate) allow_remote_without_key: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Random seed of requests that have none
    #[arg(long, default_value_t = 0, value_parser = numbers::seed, allow_negative_numbers = true)]
    pub(crate) seed: u64,
    /// Write the bodies of requests to the log
    #[arg(long)]
    pub(crate) log_requests: bool,
    /// flex (the CPU), ndarray, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// How many answers are generated at a time; the others wait
    #[arg(long, value_name = "N", default_value_t = EngineConfig::default().max_rows, value_parser = numbers::count)]
    pub(crate) max_rows: usize,
    /// Memory for keys and values
    #[arg(long, value_name = "BYTES", default_value_t = EngineConfig::default().cache_bytes, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) cache_bytes: u64,
    /// How many tokens of prompts are read between two tokens of the answers
    #[arg(long, value_name = "N", default_value_t = EngineConfig::default().prefill_tokens, value_parser = numbers::count)]
    pub(crate) prefill_tokens: usize,
    /// Most bytes of a request's body
    #[arg(long, value_name = "N", default_value_t = ServeOptions::default().max_body_bytes, value_parser = numbers::count)]
    pub(crate) max_body_bytes: usize,
    /// Most tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = ServeOptions::default().max_prompt_tokens, value_parser = numbers::count)]
    pub(crate) max_prompt_tokens: usize,
    /// Most new tokens of an answer
    #[arg(long, value_name = "N", default_value_t = ServeOptions::default().max_new_tokens, value_parser = numbers::count)]
    pub(crate) max_new_tokens: usize,
    /// Most answers to one request: its prompts times `n`, or `best_of`
    #[arg(long, value_name = "N", default_value_t = ServeOptions::default().max_answers, value_parser = numbers::count)]
    pub(crate) max_answers: usize,
    /// How many answers may wait; further requests get status 429
    #[arg(long, value_name = "N", default_value_t = ServeOptions::default().queue, value_parser = numbers::count)]
    pub(crate) queue: usize,
    /// Most connections at once
    #[arg(long, value_name = "N", default_value_t = ServeOptions::default().max_connections, value_parser = numbers::at_most::<1_000_000>)]
    pub(crate) max_connections: usize,
    /// How long a request may wait for its turn
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) queue_timeout: Duration,
    /// How long a request may take from beginning to end
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub(crate) request_timeout: Duration,
    /// How long running requests may take after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) shutdown_timeout: Duration,
}

impl LimitArgs {
    /// The limits of the engine.
    pub(crate) fn engine(&self) -> EngineConfig {
        EngineConfig {
            max_rows: self.max_rows,
            cache_bytes: self.cache_bytes,
            prefill_tokens: self.prefill_tokens,
        }
    }
}

impl ServeArgs {
    /// As the library takes them, for a model of this name.
    pub(crate) fn options(&self, name: String) -> ServeOptions {
        let key = || std::env::var("MOPO_API_KEY").ok().filter(|key| !key.is_empty());
        let limits = &self.limits;
        ServeOptions {
            host: self.host,
            port: self.port,
            name: self.name.clone().unwrap_or(name),
            api_key: self.api_key.clone().or_else(key),
            allow_remote_without_key: self.allow_remote_without_key,
            max_body_bytes: limits.max_body_bytes,
            max_prompt_tokens: limits.max_prompt_tokens,
            max_new_tokens: limits.max_new_tokens,
            max_answers: limits.max_answers,
            queue: limits.queue,
            queue_timeout: limits.queue_timeout,
            request_timeout: limits.request_timeout,
            shutdown_timeout: limits.shutdown_timeout,
            max_connections: limits.max_connections,
            seed: self.seed,
            log_requests: self.log_requests,
        }
    }
}

fn host(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        other => other.parse().map_err(|_| {
            "it must be an IP address such as 127.0.0.1, ::1 or 0.0.0.0, or localhost".into()
        }),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let expected = "it must be a number of seconds above 0, at most 1000000";
    numbers::number(text, |x| x > 0.0 && x <= 1e6, expected).map(Duration::from_secs_f64)
}
