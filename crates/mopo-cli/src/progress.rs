//! Progress reporting: a bar on a terminal, an occasional line elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use mopo_hub::DownloadProgress;
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

/// Time between two lines without a terminal.
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

/// Progress of a download, drawn like [`Bars`].
#[derive(Default)]
pub(crate) struct DownloadBar {
    bar: Option<ProgressBar>,
    file: String,
    done: u64,
    total: u64,
    printed: Option<Instant>,
}

impl DownloadProgress for DownloadBar {
    fn begin(&mut self, file: &str, n_bytes: u64) {
        let is_new = self.file != file;
        (self.done, self.total) = (0, n_bytes);
        self.file = file.into();
        if std::io::stderr().is_terminal() {
            if let Some(bar) = &self.bar {
                bar.set_position(0);
                return;
            }
            let bar = ProgressBar::new(n_bytes);
            let style = "{prefix:<28} {bar:28} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
            bar.set_style(ProgressStyle::with_template(style).expect("a constant template"));
            bar.set_prefix(file.to_string());
            self.bar = Some(bar);
        } else if is_new {
            self.printed = Some(Instant::now());
            eprintln!("fetching {file} ({})", HumanBytes(n_bytes));
        }
    }

    fn advance(&mut self, n_bytes: u64) {
        self.done += n_bytes;
        if let Some(bar) = &self.bar {
            bar.inc(n_bytes);
        } else if self.printed.is_some_and(|printed| printed.elapsed() > QUIET) {
            self.printed = Some(Instant::now());
            eprintln!("{}: {} of {}", self.file, HumanBytes(self.done), HumanBytes(self.total));
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }

    fn note(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}
