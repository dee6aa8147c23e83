//! Progress reporting: a bar on a terminal, an occasional line elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::output::errln;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use mopo_train::{Progress, Unit};

/// Draws to standard error; results go to standard output.
pub(crate) struct Bars {
    bar: Option<ProgressBar>,
    is_terminal: bool,
    phase: String,
    unit: Unit,
    done: u64,
    total: u64,
    printed: Instant,
    started: Instant,
}

/// Time between two lines without a terminal.
const QUIET: Duration = Duration::from_secs(15);

impl Bars {
    pub(crate) fn new() -> Self {
        Self {
            bar: None,
            is_terminal: std::io::stderr().is_terminal(),
            phase: String::new(),
            unit: Unit::Steps,
            done: 0,
            total: 0,
            printed: Instant::now(),
            started: Instant::now(),
        }
    }
}

impl Progress for Bars {
    fn begin(&mut self, phase: &str, done: u64, total: u64, unit: Unit) {
        if unit == Unit::Steps {
            crate::memory::give_back();
        }
        let phase = match unit {
            // The name that its files have.
            Unit::Steps if phase == "warm_start" => "SFT".into(),
            Unit::Steps => phase.replace('_', " "),
            Unit::Bytes => phase.to_owned(),
        };
        // A download that was interrupted goes on without another line.
        let is_new = self.phase != phase || unit == Unit::Steps;
        (self.phase, self.unit, self.done, self.total) = (phase, unit, done, total);
        if !self.is_terminal {
            if is_new {
                (self.started, self.printed) = (Instant::now(), Instant::now());
                match unit {
                    Unit::Steps => errln!("{}: {done} of {total} steps done", self.phase),
                    Unit::Bytes => errln!("fetching {} ({})", self.phase, HumanBytes(total)),
                }
            }
            return;
        }
        if let Some(bar) = self.bar.as_ref().filter(|_| !is_new) {
            bar.set_position(done);
            return;
        }
        let style = match unit {
            Unit::Steps => "{prefix:<18} {bar:28} {pos}/{len}  {elapsed}<{eta}  {msg}",
            Unit::Bytes => "{prefix:<28} {bar:28} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}",
        };
        let bar = ProgressBar::new(total).with_position(done);
        bar.set_style(ProgressStyle::with_template(style).expect("a constant template"));
        bar.set_prefix(self.phase.clone());
        self.bar = Some(bar);
    }

    fn advance(&mut self, n: u64, message: &str) {
        self.done += n;
        if let Some(bar) = &self.bar {
            if !message.is_empty() {
                bar.set_message(message.to_string());
            }
            bar.inc(n);
        } else if self.printed.elapsed() > QUIET {
            self.printed = Instant::now();
            let Self { phase, done, total, .. } = self;
            match self.unit {
                Unit::Steps => errln!("{phase}: {done}/{total}  {message}"),
                Unit::Bytes => {
                    errln!("{phase}: {} of {}", HumanBytes(*done), HumanBytes(*total))
                }
            }
        }
    }

    fn end(&mut self, message: &str) {
        let phase = std::mem::take(&mut self.phase);
        if let Some(bar) = self.bar.take() {
            bar.finish_with_message(message.to_string());
        } else if self.unit == Unit::Steps {
            let seconds = self.started.elapsed().as_secs_f64();
            errln!("{phase}: done in {seconds:.0} s  {message}");
        }
    }

    fn note(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => errln!("{}", text.trim_end()),
        }
    }
}
