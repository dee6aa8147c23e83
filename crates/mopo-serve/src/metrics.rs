//! Figures for Prometheus, in its text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::engine::EngineStats;

/// Upper bounds of the classes of a histogram, in seconds.
const BOUNDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations by class.
#[derive(Debug, Default)]
pub(crate) struct Histogram(Mutex<Classes>);

#[derive(Debug, Default)]
struct Classes {
    /// Of each class alone; the last is beyond all bounds.
    counts: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    pub(crate) fn observe(&self, seconds: f64) {
        let class = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        let mut classes = locked(&self.0);
        classes.counts[class] += 1;
        classes.sum += seconds;
    }
}

/// The content, also after a panic elsewhere: numbers are whole at any time.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// All figures of a server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    started: Started,
    /// By route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// Requests for an answer that the engine has not taken on yet.
    pub(crate) waiting: Arc<AtomicUsize>,
    /// Requests in the engine's batch.
    pub(crate) running: AtomicUsize,
    engine: Mutex<EngineStats>,
    pub(crate) prompt_tokens: Counter,
    pub(crate) cached_tokens: Counter,
    pub(crate) completion_tokens: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) panics: Counter,
    pub(crate) scored: Counter,
    pub(crate) queue_time: Histogram,
    pub(crate) first_token: Histogram,
    pub(crate) between_tokens: Histogram,
    pub(crate) request_time: Histogram,
}

/// When a server started.
#[derive(Debug)]
struct Started(Instant);

impl Default for Started {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Metrics {
    /// Counts an HTTP request.
    pub(crate) fn answered(&self, route: &'static str, status: u16) {
        *locked(&self.requests).entry((route, status)).or_default() += 1;
    }

    /// The engine's figures after a step.
    pub(crate) fn engine(&self, stats: &EngineStats) {
        *locked(&self.engine) = *stats;
    }

    /// Everything in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let mut out = Text(String::new());
        out.head("mopo_requests_total", "counter", "HTTP requests by route and status");
        for ((route, status), n) in locked(&self.requests).iter() {
            out.line(&format!("mopo_requests_total{{route=\"{route}\",status=\"{status}\"}} {n}"));
        }
        let engine = *locked(&self.engine);
        let waiting = self.waiting.load(Ordering::Relaxed);
        out.gauge("mopo_requests_waiting", "Answers that wait for the engine", waiting as f64);
        let running = self.running.load(Ordering::Relaxed);
        out.gauge("mopo_requests_running", "Answers in the engine's batch", running as f64);
        for (name, help, counter) in [
            ("mopo_prompt_tokens_total", "Tokens of prompts", &self.prompt_tokens),
            (
                "mopo_cached_tokens_total",
                "Tokens of prompts found in the cache",
                &self.cached_tokens,
            ),
            ("mopo_completion_tokens_total", "Tokens of complete answers", &self.completion_tokens),
            ("mopo_cancelled_total", "Answers whose client left", &self.cancelled),
            ("mopo_scored_total", "Texts scored by rewards", &self.scored),
            ("mopo_panics_total", "Panics that were caught", &self.panics),
        ] {
            out.head(name, "counter", help);
            out.line(&format!("{name} {}", counter.get()));
        }
        if let Some(bytes) = engine.cache_bytes {
            out.gauge("mopo_cache_bytes", "Bytes of keys and values in use", bytes as f64);
        }
        if let Some(bytes) = engine.cache_limit_bytes {
            out.gauge("mopo_cache_limit_bytes", "Most bytes of keys and values", bytes as f64);
        }
        for (name, help, histogram) in [
            ("mopo_queue_seconds", "Time in the queue", &self.queue_time),
            ("mopo_first_token_seconds", "Time from request to first text", &self.first_token),
            ("mopo_inter_token_seconds", "Time between pieces of text", &self.between_tokens),
            (
                "mopo_request_seconds",
                "Time from request to the end of its answers",
                &self.request_time,
            ),
        ] {
            out.histogram(name, help, &locked(&histogram.0));
        }
        if let Some(bytes) = resident_bytes() {
            out.gauge("process_resident_memory_bytes", "Memory of the process", bytes as f64);
        }
        let uptime = self.started.0.elapsed().as_secs_f64();
        out.gauge("mopo_uptime_seconds", "Time since the server started", uptime);
        out.0
    }
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(&format!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: &str) {
        self.0 += line;
        self.0.push('\n');
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, "gauge", help);
        self.line(&format!("{name} {value}"));
    }

    fn histogram(&mut self, name: &str, help: &str, classes: &Classes) {
        self.head(name, "histogram", help);
        let mut total = 0;
        let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(classes.counts) {
            total += count;
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let _ = writeln!(self.0, "{name}_sum {}\n{name}_count {total}", classes.sum);
    }
}

/// Memory of this process, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative_and_counters_add_up() {
        let metrics = Metrics::default();
        for seconds in [0.0005, 0.02, 0.02, 1000.0] {
            metrics.first_token.observe(seconds);
        }
        metrics.answered("/health", 200);
        metrics.answered("/health", 200);
        metrics.prompt_tokens.add(7);
        let text = metrics.text();
        for line in [
            "mopo_requests_total{route=\"/health\",status=\"200\"} 2",
            "mopo_prompt_tokens_total 7",
            "mopo_first_token_seconds_bucket{le=\"0.001\"} 1",
            "mopo_first_token_seconds_bucket{le=\"0.025\"} 3",
            "mopo_first_token_seconds_bucket{le=\"300\"} 3",
            "mopo_first_token_seconds_bucket{le=\"+Inf\"} 4",
            "mopo_first_token_seconds_count 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("mopo_cache_bytes"));
    }
}
