//! `cargo xtask campaign`: thousands of kills, faults, changed bytes and odd numbers against the program, from a seed.

mod bench;
mod bytes;
mod compare;
mod faults;
mod finite;
mod fuzz;
mod inputs;
mod jobs;
mod kill;
mod numbers;
mod page;
mod peer;
mod process;
mod sets;
mod shell;
mod trace;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::args::{absolute, minutes};
use crate::cluster_test::has_program;
use crate::files::write_whole;
use crate::measured::About;
use crate::{machine, program};
use bench::{Bench, Trial};

/// Kills the program, takes its disk and memory away, changes bytes of its files and gives it odd numbers, and checks that
/// it continues with the same bits, or says what is wrong.
///
/// All of it is drawn from the seed. Everything happens in a temporary directory; as root also in mount namespaces of
/// single commands. Parts whose programs are missing (strace, faketime, mpirun) are not run, and that is said.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// As many trials as there is time for in this many minutes [default: 1200 kills, 600 faults, 2000 bytes, 1000
    /// configurations and sets, in about half an hour on two cores, and a quarter of an hour of fuzzing]
    #[arg(value_parser = minutes, allow_negative_numbers = true)]
    minutes: Option<f64>,
    /// Only these parts
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    only: Vec<Name>,
    /// Random seed
    #[arg(long, default_value_t = 19)]
    seed: u64,
    /// Trials at a time [default: the number of cores]
    #[arg(long, value_parser = crate::args::positive)]
    jobs: Option<usize>,
    /// Use this mopo program instead of building one
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    mopo: Option<PathBuf>,
    /// Also write a page with the counts and all failures
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Where failures are written, with what repeats them
    #[arg(long, value_name = "FILE", default_value = "target/campaign-failures.json")]
    failures: PathBuf,
    /// Run one trial again, e.g. kill:17, say everything, and keep its directory
    #[arg(long, value_name = "PART:TRIAL", conflicts_with_all = ["minutes", "only", "page"])]
    repeat: Option<String>,
}

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// kill -9 at random moments and system calls
    Kill,
    /// Disk, memory, clock, a lost peer
    Faults,
    /// One changed byte in a file that is read
    Bytes,
    /// Extreme hyper-parameters and degenerate data
    Numbers,
    /// The fuzz targets
    Fuzz,
}

/// A part: how often it is tried, its share of the time, and what is tried.
struct Part {
    name: Name,
    word: &'static str,
    trials: u64,
    share: f64,
    one: fn(&Bench, u64) -> Result<Trial>,
}

const PARTS: [Part; 4] = [
    Part { name: Name::Kill, word: "kill", trials: 1200, share: 0.4, one: kill::one },
    Part { name: Name::Faults, word: "faults", trials: 600, share: 0.2, one: faults::one },
    Part { name: Name::Bytes, word: "bytes", trials: 2000, share: 0.25, one: bytes::one },
    Part { name: Name::Numbers, word: "numbers", trials: 1000, share: 0.15, one: numbers::one },
];
/// Of all time, if there are fuzz targets.
const FUZZ_SHARE: f64 = 0.2;
/// Without a limit of time.
const FUZZ_MINUTES: f64 = 15.0;

/// What became of a part.
struct Done {
    word: &'static str,
    /// By their numbers.
    trials: Vec<(u64, Trial)>,
    seconds: f64,
    /// For the fuzz targets: how many inputs each trial stands for.
    inputs: Vec<u64>,
}

/// `cargo xtask campaign`.
pub(crate) fn run(options: &Options, words: &[String]) -> Result<ExitCode> {
    if options.page.is_some() {
        machine::ensure_committed()?;
    }
    let asked = options.repeat.as_deref().map(named).transpose()?;
    let before = machine::machine();
    let mopo = program::given(options.mopo.as_deref(), has_program("mpicc").then_some("mpi"))?;
    let dir = std::env::temp_dir().join(format!("mopo-campaign-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let result = match asked {
        Some(trial) => repeat(&Bench::new(&mopo, &dir, options.seed, true)?, trial),
        None => all(options, words, &mopo, &dir, before),
    };
    match options.repeat {
        Some(_) => eprintln!("everything is kept in {}", dir.display()),
        None => fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?,
    }
    result
}

fn all(
    options: &Options,
    words: &[String],
    mopo: &Path,
    dir: &Path,
    before: String,
) -> Result<ExitCode> {
    let clock = Instant::now();
    // Of what is tried, whatever is changed meanwhile.
    let when = machine::date_and_commit();
    let bench = Bench::new(mopo, dir, options.seed, false)?;
    let is_asked = |name: Name| options.only.is_empty() || options.only.contains(&name);
    let missing = if is_asked(Name::Faults) { faults::missing(&bench) } else { vec![] };
    for why in &missing {
        println!("skipped in part: campaign faults: {why}");
    }
    let parts: Vec<&Part> = PARTS.iter().filter(|part| is_asked(part.name)).collect();
    let shares: f64 = parts.iter().map(|part| part.share).sum();
    let minutes = options
        .minutes
        .map(|m| if is_asked(Name::Fuzz) && has_fuzz() { m * (1.0 - FUZZ_SHARE) } else { m });
    let mut done = vec![];
    let mut share = 0.0;
    for part in &parts {
        share += part.share;
        // What a part does not need is left to the next ones.
        let until = minutes.map(|m| clock + Duration::from_secs_f64(m * 60.0 * share / shares));
        done.push(take(&bench, part, options.jobs, until)?);
        report(done.last().context("no part")?);
    }
    if is_asked(Name::Fuzz) {
        let minutes = options.minutes.map_or(FUZZ_MINUTES, |m| m * FUZZ_SHARE);
        let began = Instant::now();
        let targets = fuzz::run((minutes * 60.0).ceil() as u64, options.seed, dir)?;
        let (trials, inputs) = targets.into_iter().unzip::<_, _, Vec<Trial>, Vec<u64>>();
        let trials = trials.into_iter().enumerate().map(|(i, t)| (i as u64, t)).collect();
        let seconds = began.elapsed().as_secs_f64();
        done.push(Done { word: "fuzz", trials, seconds, inputs });
        report(done.last().context("no part")?);
    }
    write_failures(&options.failures, options.seed, &done)?;
    if let Some(file) = &options.page {
        let command = format!("cargo xtask campaign {}", shown_words(words));
        let about =
            About { command: command.trim().into(), when, machine: [before, machine::machine()] };
        write_whole(file, &page::page(&about, options.seed, &done, &missing))?;
        eprintln!("wrote {}", file.display());
    }
    let failed: usize = done.iter().map(|done| done.failures().count()).sum();
    println!(
        "campaign: {} trials, {failed} failures",
        done.iter().map(|d| d.trials.len()).sum::<usize>()
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn has_fuzz() -> bool {
    crate::cargo::root().join("crates/mopo-fuzz").is_dir()
}

/// The words of the command without places on this machine.
fn shown_words(words: &[String]) -> String {
    let mut shown = vec![];
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--mopo" | "--failures" => {
                words.next();
            }
            "--page" => {
                shown.push(word.clone());
                let file = words.next().map(Path::new).and_then(Path::file_name);
                shown.extend(file.map(|name| format!("docs/results/{}", name.to_string_lossy())));
            }
            _ => shown.push(word.clone()),
        }
    }
    shown.join(" ")
}

/// `--repeat kill:17`.
fn repeat(bench: &Bench, (part, trial): (&Part, u64)) -> Result<ExitCode> {
    let trial = (part.one)(bench, trial)?;
    println!("{}: {}\n{}", trial.job, trial.class, trial.shown);
    println!("{}", trial.failure.as_deref().unwrap_or("nothing is wrong"));
    Ok(if trial.failure.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn named(which: &str) -> Result<(&'static Part, u64)> {
    let Some((word, trial)) = which.split_once(':') else {
        bail!("--repeat {which}: it must be like kill:17")
    };
    let part = PARTS.iter().find(|part| part.word == word);
    let part = part.with_context(|| {
        format!("--repeat {which}: the parts are kill, faults, bytes and numbers")
    })?;
    Ok((part, trial.parse().with_context(|| format!("--repeat {which}: the number of a trial"))?))
}

/// All trials of a part, some at a time, until there is no time left.
fn take(bench: &Bench, part: &Part, jobs: Option<usize>, until: Option<Instant>) -> Result<Done> {
    let began = Instant::now();
    let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (next, trials) = (AtomicU64::new(0), Mutex::new(vec![]));
    let told = Mutex::new(Instant::now());
    let work = || -> Result<()> {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            // With a limit of time, as many as there is time for.
            let is_done = until.map_or(n >= part.trials, |until| Instant::now() >= until);
            if is_done {
                return Ok(());
            }
            let trial = (part.one)(bench, n).unwrap_or_else(|e| Trial {
                job: "the campaign itself".into(),
                class: "not tried".into(),
                failure: Some(format!("{e:#}")),
                shown: String::new(),
            });
            if let Some(failure) = &trial.failure {
                eprintln!(
                    "{}:{n} {} ({}): {failure}\n    {}",
                    part.word, trial.job, trial.class, trial.shown
                );
            }
            trials.lock().unwrap_or_else(PoisonError::into_inner).push((n, trial));
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.elapsed() > Duration::from_secs(30) {
                *told = Instant::now();
                eprintln!("{}: {n} trials after {:.0} s", part.word, began.elapsed().as_secs_f64());
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let mut trials = trials.into_inner().unwrap_or_else(PoisonError::into_inner);
    trials.sort_by_key(|(n, _)| *n);
    ensure!(!trials.is_empty(), "{}: no time for a single trial", part.word);
    Ok(Done { word: part.word, trials, seconds: began.elapsed().as_secs_f64(), inputs: vec![] })
}

impl Done {
    fn failures(&self) -> impl Iterator<Item = &(u64, Trial)> {
        self.trials.iter().filter(|(_, trial)| trial.failure.is_some())
    }
}

fn report(done: &Done) {
    let verdict = if done.failures().next().is_none() { "passed" } else { "FAILED" };
    println!(
        "{}: {verdict}: {} trials in {:.0} s, {} failures",
        done.word,
        done.trials.len(),
        done.seconds,
        done.failures().count()
    );
}

/// Every failure with what repeats it.
fn write_failures(file: &Path, seed: u64, done: &[Done]) -> Result<()> {
    let failures = done.iter().flat_map(|done| {
        done.failures().map(|(n, trial)| {
            json!({
                "repeat": match done.word {
                    "fuzz" => format!(
                        "cargo run --release -p mopo-fuzz -- --repeat {}:SEED:NUMBER, with both from `failure`",
                        trial.job
                    ),
                    word => format!("cargo xtask campaign --seed {seed} --repeat {word}:{n}"),
                },
                "job": trial.job,
                "class": trial.class,
                "failure": trial.failure,
                "shown": trial.shown,
            })
        })
    });
    let all = json!({ "seed": seed, "failures": failures.collect::<Vec<_>>() });
    write_whole(file, &format!("{all:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_named_by_its_part_and_number() {
        let (part, trial) = named("bytes:1999").unwrap();
        assert_eq!((part.word, trial), ("bytes", 1999));
        for (which, word) in [("kill", "kill:17"), ("fuzz:1", "parts are"), ("kill:x", "number")] {
            assert!(format!("{:#}", named(which).err().unwrap()).contains(word), "{which}");
        }
    }

    #[test]
    fn the_whole_campaign_has_the_trials_that_were_asked_for() {
        let trials = |name| PARTS.iter().find(|part| part.name == name).unwrap().trials;
        assert!(trials(Name::Kill) >= 1000 && trials(Name::Bytes) >= 2000);
        let shares: f64 = PARTS.iter().map(|part| part.share).sum();
        assert!((shares - 1.0).abs() < 1e-9);
    }

    #[test]
    fn places_on_this_machine_are_not_shown() {
        let words = ["45", "--mopo", "/x/mopo", "--page", "/tmp/campaign.md", "--seed", "3"]
            .map(String::from);
        assert_eq!(shown_words(&words), "45 --page docs/results/campaign.md --seed 3");
        assert!(minutes("0").is_err() && minutes("nan").is_err() && minutes("1.5") == Ok(1.5));
    }
}
