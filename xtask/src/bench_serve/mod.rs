//! Many clients at once against `mopo serve`: latencies, memory, and whether each answer is the right one. `cargo xtask
//! bench serve`.

mod client;
mod peer;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::args::{absolute, positive};
use crate::bench_train::report::{number, shown};
use crate::cargo::target_directory;
use crate::machine::{date_and_commit, ensure_committed, machine};
use crate::measured::{About, append};
use crate::program;
use client::{Outcome, Timed, ask, get};

/// Asked where no file of prompts is given.
const QUESTIONS: [&str; 8] = [
    "How do I bake bread?",
    "Why is the sky blue?",
    "Write two lines about the sea.",
    "What should I pack for a week in the mountains?",
    "How does a bicycle stay upright?",
    "Name three rivers, and say where they end.",
    "My neighbour plays the drums at night. What can I do?",
    "Explain compound interest to a child.",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What is served: a run, an export, a model directory or a GGUF file
    #[arg(long, value_name = "DIR|FILE", value_parser = absolute)]
    model: PathBuf,
    /// Clients at once
    #[arg(long, value_name = "N", default_value = "64", value_parser = positive)]
    clients: usize,
    /// How long they ask
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = positive)]
    seconds: usize,
    /// Most new tokens of an answer
    #[arg(long, value_name = "N", default_value = "64", value_parser = positive)]
    new_tokens: usize,
    /// Questions: JSON Lines with prompt [default: eight of our own]
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    prompts: Option<PathBuf>,
    /// llama.cpp's server program: one client and all of them ask both servers in turns, --seconds each (take 30)
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    llama_server: Option<PathBuf>,
    /// Rounds with --llama-server
    #[arg(long, value_name = "N", default_value = "3", value_parser = positive)]
    rounds: usize,
    /// Use this mopo program instead of building one
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    mopo: Option<PathBuf>,
    /// Also append the tables to this file, e.g. docs/results/serve.md
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    out: Option<PathBuf>,
}

/// `cargo xtask bench serve …`.
pub(crate) fn run(options: &Options, args: &[String]) -> Result<ExitCode> {
    if options.out.is_some() {
        ensure_committed()?;
    }
    ensure!(options.model.exists(), "--model {}: there is nothing", options.model.display());
    let when = date_and_commit();
    let questions = questions(options.prompts.as_deref())?;
    let mopo = program::given(options.mopo.as_deref(), None)?;
    let folder = target_directory()?.join("serve-bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;

    let before = machine();
    println!("{before}");
    let mut server = Server::start(&mopo, options, &folder.join("server.log"))?;
    let requests = requests(&server.address, &questions, options.new_tokens)?;
    if let Some(program) = &options.llama_server {
        let theirs = peer::start(program, options, &folder.join("llama-server.log"))?;
        let turns = peer::turns(&server, &theirs, &requests, options)?;
        let command = format!("cargo xtask bench serve {}", shown(args));
        let about = About { command, when, machine: [before, machine()] };
        let page = about.head("Beside llama.cpp's server") + &peer::table(&turns, options);
        println!("\n{page}");
        if let Some(out) = &options.out {
            append(out, "Serving many clients", &page)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{} different requests, each alone first", requests.len());
    let alone = alone(&server.address, &requests)?;
    let idle = server.memory("VmRSS:");
    eprintln!("{} clients for {} s", options.clients, options.seconds);
    let load = load(&server.address, &requests, Some(&alone), options.clients, options.seconds);
    let peak = server.memory("VmHWM:");
    let end = server.end()?;

    let command = format!("cargo xtask bench serve {}", shown(args));
    let about = About { command, when, machine: [before, machine()] };
    let page = page(&about, options, &alone, &load, [idle, peak], &end);
    println!("\n{page}");
    for why in load.failures.iter().take(20) {
        eprintln!("FAILED: {why}");
    }
    if let Some(out) = &options.out {
        append(out, "Serving many clients", &page)?;
    }
    let is_fine = load.failures.is_empty() && load.wrong == 0 && end == "0";
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn questions(file: Option<&Path>) -> Result<Vec<String>> {
    let Some(file) = file else { return Ok(QUESTIONS.map(str::to_owned).to_vec()) };
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let prompt = |(i, line): (usize, &str)| -> Result<String> {
        let place = || format!("{}, line {}", file.display(), i + 1);
        let line: Value = serde_json::from_str(line).with_context(place)?;
        Ok(line["prompt"]
            .as_str()
            .with_context(|| format!("{}: no text `prompt`", place()))?
            .to_owned())
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let questions = lines.map(prompt).collect::<Result<Vec<_>>>()?;
    ensure!(!questions.is_empty(), "{}: it has no lines", file.display());
    Ok(questions)
}

/// A running server.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(mopo: &Path, options: &Options, log: &Path) -> Result<Self> {
        let errors = fs::File::create(log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(mopo);
        command.arg("serve").arg(&options.model).args(["--port", "0", "--name", "bench"]);
        command.args(["--queue", &options.clients.max(8).to_string()]);
        command.args(["--queue-timeout", "600", "--request-timeout", "800"]);
        command.args(["--max-new-tokens", &options.new_tokens.to_string()]);
        command.env("MOPO_LOG", "warn").env_remove("MOPO_API_KEY");
        let mut process =
            command.stdout(Stdio::piped()).stderr(errors).spawn().context("mopo serve")?;
        let mut line = String::new();
        let out = process.stdout.take().context("no pipe from the server")?;
        BufReader::new(out).read_line(&mut line)?;
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let address =
            address.with_context(|| format!("the server does not start: see {}", log.display()));
        match address {
            Ok(address) => Ok(Self { process, address: address.to_owned() }),
            Err(e) => {
                let _ = process.wait();
                Err(e)
            }
        }
    }

    /// A figure of its memory in MiB, where the system tells.
    fn memory(&self, key: &str) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
    }

    /// Ends it by SIGTERM; its exit code in words.
    fn end(&mut self) -> Result<String> {
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().context("kill")?;
        let status = self.process.wait()?;
        Ok(status.code().map_or_else(|| status.to_string(), |code| code.to_string()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Every question with every choice: each objective's policy, an equal mixture, and the SFT model; greedy.
fn requests(address: &str, questions: &[String], new_tokens: usize) -> Result<Vec<Value>> {
    let info = get(address, "/api/info")?;
    let objectives: Vec<&str> =
        info["objectives"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut choices = vec![json!({ "model": "bench" })];
    if !objectives.is_empty() {
        let weights: BTreeMap<&str, f64> = objectives.iter().map(|name| (*name, 1.0)).collect();
        choices = vec![
            json!({ "model": "bench:sft" }),
            json!({ "preference_weights": weights, "normalize_weights": true }),
        ];
        choices.extend(objectives.iter().map(|name| json!({ "model": format!("bench:{name}") })));
    }
    let mut requests = vec![];
    for question in questions {
        for choice in &choices {
            let mut body = choice.clone();
            body["messages"] = json!([{ "role": "user", "content": question }]);
            body["temperature"] = json!(0);
            body["max_tokens"] = json!(new_tokens);
            body["stream"] = json!(true);
            requests.push(body);
        }
    }
    Ok(requests)
}

/// Each request's answer when there is no other.
fn alone(address: &str, requests: &[Value]) -> Result<Vec<Timed>> {
    let one = |request: &Value| match ask(address, request)? {
        Outcome::Answered(timed) => Ok(timed),
        Outcome::Busy(_) => anyhow::bail!("the queue of an idle server is full"),
    };
    requests.iter().map(one).collect()
}

/// What came of all requests together.
#[derive(Debug, Default)]
struct Load {
    answers: Vec<Timed>,
    /// Answers that differ from those to the same request alone.
    wrong: usize,
    /// Requests without an answer.
    failures: Vec<String>,
    /// Refusals of a full queue, after which clients come back.
    busy: usize,
    seconds: f64,
}

/// `alone`: the answers to expect, if they are known.
fn load(
    address: &str,
    requests: &[Value],
    alone: Option<&[Timed]>,
    clients: usize,
    seconds: usize,
) -> Load {
    let (began, patience) = (Instant::now(), Duration::from_secs(seconds as u64));
    let (next, shared) = (AtomicUsize::new(0), Mutex::new(Load::default()));
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                while began.elapsed() < patience {
                    let i = next.fetch_add(1, Ordering::Relaxed) % requests.len();
                    let outcome = ask(address, &requests[i]);
                    let wait = {
                        let mut load = shared.lock().expect("no client panics with it");
                        load.take(outcome, alone.map(|alone| &*alone[i].text))
                    };
                    std::thread::sleep(wait);
                }
            });
        }
    });
    let mut load = shared.into_inner().expect("no client panics with it");
    load.seconds = began.elapsed().as_secs_f64();
    load
}

impl Load {
    /// Pieces of text of all answers.
    fn pieces(&self) -> usize {
        self.answers.iter().map(|answer| answer.between.len() + 1).sum()
    }

    /// Counts an outcome; how long its client waits.
    fn take(&mut self, outcome: Result<Outcome>, expected: Option<&str>) -> Duration {
        match outcome {
            Ok(Outcome::Answered(timed)) => {
                self.wrong += usize::from(expected.is_some_and(|expected| timed.text != expected));
                self.answers.push(timed);
            }
            Ok(Outcome::Busy(seconds)) => {
                self.busy += 1;
                return Duration::from_secs(seconds);
            }
            Err(why) => self.failures.push(format!("{why:#}")),
        }
        Duration::ZERO
    }
}

/// The value below which this share of values lies, by rank.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    values.sort_by(f64::total_cmp);
    let rank = (share * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

fn page(
    about: &About,
    options: &Options,
    alone: &[Timed],
    load: &Load,
    [idle, peak]: [Option<f64>; 2],
    end: &str,
) -> String {
    let title = format!("{} clients for {} s", options.clients, options.seconds);
    let mut page = about.head(&title);
    let pieces = load.pieces();
    let mib = |x: Option<f64>| x.map_or("unknown".into(), |x| format!("{} MiB", number(x)));
    page += &format!(
        "\nEach request is greedy, with at most {} new tokens, and streamed; there are {} different ones.\n\n\
         | | |\n|---|---|\n| answers | {} |\n| of them other than alone | {} |\n| requests without an answer | {} |\n\
         | refused by a full queue, and repeated | {} |\n| pieces of text per second | {} |\n\
         | memory before, and at its peak | {}, {} |\n| exit code after SIGTERM | {end} |\n\n",
        options.new_tokens,
        alone.len(),
        load.answers.len(),
        load.wrong,
        load.failures.len(),
        load.busy,
        number(pieces as f64 / load.seconds),
        mib(idle),
        mib(peak),
    );
    page += "| milliseconds | median | 99 % | alone, median |\n|---|---|---|---|\n";
    type Part = fn(&Timed) -> Vec<f64>;
    let parts: [(&str, Part); 3] = [
        ("to the first text", |t| vec![t.first]),
        ("between texts", |t| t.between.clone()),
        ("to the end", |t| vec![t.whole]),
    ];
    for (name, part) in parts {
        let mut loaded: Vec<f64> = load.answers.iter().flat_map(part).collect();
        let mut single: Vec<f64> = alone.iter().flat_map(part).collect();
        let ms = |values: &mut [f64], share| match quantile(values, share) {
            x if x.is_nan() => "–".into(),
            x => number(x * 1e3),
        };
        let (median, high) = (ms(&mut loaded, 0.5), ms(&mut loaded, 0.99));
        page += &format!("| {name} | {median} | {high} | {} |\n", ms(&mut single, 0.5));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{BenchCommand, bench};

    #[test]
    fn quantiles_are_by_rank() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((quantile(&mut values, 0.5), quantile(&mut values, 0.99)), (50.0, 99.0));
        assert_eq!((quantile(&mut [7.0], 0.99), quantile(&mut [1.0, 2.0], 0.5)), (7.0, 1.0));
        assert!(quantile(&mut [], 0.5).is_nan());
    }

    #[test]
    fn wrong_and_lost_answers_are_counted() {
        let timed =
            |text: &str| Timed { text: text.into(), first: 0.1, between: vec![0.2], whole: 0.3 };
        let mut load = Load { seconds: 2.0, ..Load::default() };
        load.take(Ok(Outcome::Answered(timed("a"))), Some("a"));
        load.take(Ok(Outcome::Answered(timed("b"))), Some("a"));
        load.take(Err(anyhow::anyhow!("gone")), Some("a"));
        assert_eq!(load.take(Ok(Outcome::Busy(3)), Some("a")), Duration::from_secs(3));
        assert_eq!((load.wrong, load.failures.len(), load.busy), (1, 1, 1));
        let Ok(BenchCommand::Serve(options)) = bench("serve", &["--model", "/m"]) else { panic!() };
        assert_eq!((options.clients, options.seconds), (64, 600));
        let about =
            About { command: "c".into(), when: "w".into(), machine: ["a".into(), "b".into()] };
        let page = page(&about, &options, &[timed("a")], &load, [Some(1.0), None], "0");
        for line in [
            "| answers | 2 |",
            "| of them other than alone | 1 |",
            "| between texts | 200 | 200 | 200 |",
            "| pieces of text per second | 2.00 |",
        ] {
            assert!(page.contains(line), "{page}");
        }
    }

    #[test]
    fn questions_are_read_with_the_line_of_what_is_wrong() {
        let dir = std::env::temp_dir().join(format!("mopo-questions-{}", std::process::id()));
        fs::write(&dir, "{\"prompt\": \"a\"}\n\n{\"prompt\": 3}\n").unwrap();
        let e = questions(Some(&dir)).unwrap_err().to_string();
        assert!(e.contains("line 3"), "{e}");
        fs::write(&dir, "{\"prompt\": \"a\"}\n").unwrap();
        assert_eq!(questions(Some(&dir)).unwrap(), ["a"]);
        fs::remove_file(&dir).unwrap();
        assert_eq!(questions(None).unwrap().len(), 8);
    }
}
