//! Progress for people: a bar on a terminal, a line now and then where there is none.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use mopo_train::Progress;

/// Draws to standard error; results go to standard output.
pub(crate) struct Bars {
    bar: Option<ProgressBar>,
    terminal: bool,
    phase: String,
    done: usize,
    total: usize,
    printed: Instant,
    started: Instant,
}

/// Between two lines where no bar can be drawn.
const QUIET: Duration = Duration::from_secs(15);

impl Bars {
    pub(crate) fn new() -> Self {
        Self {
            bar: None,
            terminal: std::io::stderr().is_terminal(),
            phase: String::new(),
            done: 0,
            total: 0,
            printed: Instant::now(),
            started: Instant::now(),
        }
    }
}

impl Progress for Bars {
    fn begin(&mut self, phase: &str, done: usize, total: usize) {
        (self.phase, self.done, self.total) = (phase.replace('_', " "), done, total);
        self.started = Instant::now();
        self.printed = self.started;
        if self.terminal {
            let bar = ProgressBar::new(total as u64).with_position(done as u64);
            let style = "{prefix:<18} {bar:28} {pos}/{len}  {elapsed}<{eta}  {msg}";
            bar.set_style(ProgressStyle::with_template(style).expect("a constant template"));
            bar.set_prefix(self.phase.clone());
            self.bar = Some(bar);
        } else {
            eprintln!("{}: {done} of {total} steps done", self.phase);
        }
    }

    fn advance(&mut self, message: &str) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_string());
            bar.inc(1);
        } else if self.printed.elapsed() > QUIET {
            self.printed = Instant::now();
            eprintln!("{}: {}/{}  {message}", self.phase, self.done, self.total);
        }
    }

    fn end(&mut self, message: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish_with_message(message.to_string());
        } else {
            let seconds = self.started.elapsed().as_secs_f64();
            eprintln!("{}: done in {seconds:.0} s  {message}", self.phase);
        }
    }

    fn note(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{}", text.trim_end()),
        }
    }
}
