//! Every method at one budget: `cargo xtask study`. Each run is one of `mopo`; this module knows which there are, in
//! which order, and which hyper-parameters were best on validation prompts.

mod budget;
mod changes;
mod compare;
mod places;
mod plan;
mod runs;
mod sensitivity;
mod shared;
mod tries;
mod work;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use mopo_hub::ShardChoice;
use serde_json::{Value, json};

use crate::args::absolute;
use crate::files::write_whole;
use crate::machine::ensure_committed;
use crate::{cargo, program};
use budget::Budget;
use places::{Places, Stopped, all_or_failure};
use plan::{Filled, Method, Plan};
use runs::Run;
use work::{Program, cost, prompts, write_prompts};

/// As a preset: the configuration and the labels of a directory of `cargo xtask real-line`.
const REAL_LINE: &str = "real-line";

/// The studies of this project.
const STUDIES: [(&str, &str); 3] = [
    ("demo", include_str!("demo.toml")),
    ("smollm2", include_str!("smollm2.toml")),
    ("smollm2-long", include_str!("smollm2-long.toml")),
];

/// Trains every method of a study from one SFT model, on the same pairs, for as many steps and with the same adapters;
/// chooses the hyper-parameters of each on validation prompts, by the same number of tries; lets all policies answer test
/// prompts; and compares the fronts, with intervals over seeds and prompts.
///
/// A study that was interrupted goes on where it was when it is called again. With --shard its methods are divided among
/// several machines that share the directory, or whose directories are put together; a last call with --merge writes the
/// page.
///
/// What is there is compared with what the study asks for now, run by run. One that was made otherwise is refused, or made
/// again with --redo.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// demo, smollm2, smollm2-long, or a TOML file
    #[arg(value_name = "STUDY")]
    study: String,
    /// Input data, where the study's configuration needs some; of smollm2, the directory of a finished `cargo xtask
    /// real-line`
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    data: Option<PathBuf>,
    /// Pretrained model that SFT starts from, instead of the configuration's
    #[arg(long, value_name = "NAME|DIR|FILE", value_parser = absolute)]
    model: Option<PathBuf>,
    /// Output directory [default: runs/study-NAME, or runs/study-NAME-quick]
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    out: Option<PathBuf>,
    /// Less of everything, to look at it
    #[arg(long)]
    quick: bool,
    /// Only these methods, by name, and those whose runs they need
    #[arg(long, value_name = "LIST")]
    only: Vec<String>,
    /// Only part I of N of the methods, counted from 1, e.g. 1/3. `auto` or `auto/N`: the part that the environment of
    /// Slurm, Kubernetes or mpirun names
    #[arg(long, value_name = "I/N|auto[/N]", conflicts_with = "merge")]
    shard: Option<ShardChoice>,
    /// Train nothing: write the page from what all shards have done, or say what is missing
    #[arg(long)]
    merge: bool,
    /// Make runs again that were made with other settings than the study has now, and what depends on them
    #[arg(long)]
    redo: bool,
    /// Runs at the same time; each gets its share of the cores
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// Device: flex (the CPU), ndarray, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, value_name = "NAME", default_value = "flex")]
    device: String,
    /// An override of every run's configuration, as of `mopo train`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Use this mopo program instead of building one
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    mopo: Option<PathBuf>,
    /// Also write the page for docs/results, with its figure beside it
    #[arg(long, value_name = "FILE", value_parser = absolute, conflicts_with = "shard")]
    page: Option<PathBuf>,
}

/// A study at work.
struct Study {
    plan: Plan,
    program: Program,
    out: PathBuf,
    data: Option<PathBuf>,
    model: Option<PathBuf>,
    device: String,
    jobs: usize,
    cores: usize,
    places: Places,
    /// The first run that was trained, which others are compared with.
    first: Mutex<Option<Budget>>,
    /// Whether runs that were made with other settings are made again.
    redo: bool,
}

/// Which prompts a run is evaluated on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    Validation,
    Test,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Reads and checks a study, and fills in the overrides of all its runs.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(text: &str) -> Result<()> {
    let plan = Plan::parse(text, "the study")?;
    for plan in [plan.clone(), plan.quickly()] {
        for method in &plan.methods {
            for part in plan.parts(method) {
                let runs = |_: &str| Ok(BTreeMap::from([(part.label.clone(), "run".to_owned())]));
                let filled = Filled { objectives: &plan.objectives, part: &part, runs: &runs };
                let tries = method.tried(plan.size.n_tries);
                for set in method.set.iter().chain(tries.iter().flatten()) {
                    filled.fill(set)?;
                }
            }
        }
        for parameter in &plan.sensitivity {
            parameter.of(&plan.size);
        }
        plan.listed(&plan.reference);
    }
    Ok(())
}

/// `cargo xtask study`.
pub(crate) fn run(options: &Options, words: &[String]) -> Result<ExitCode> {
    if options.page.is_some() {
        ensure_committed()?;
    }
    let known = STUDIES.iter().find(|(name, _)| *name == options.study);
    let (name, text) = match known {
        Some((name, text)) => ((*name).to_string(), (*text).to_string()),
        None => {
            let path = Path::new(&options.study);
            let text = fs::read_to_string(path).with_context(|| {
                let names: Vec<&str> = STUDIES.iter().map(|(name, _)| *name).collect();
                format!("{} is neither a study ({}) nor a file", options.study, names.join(", "))
            })?;
            (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), text)
        }
    };
    let mut plan = Plan::parse(&text, &options.study)?;
    if options.quick {
        plan = plan.quickly();
    }
    plan.size.set.extend(options.set.iter().cloned());
    if plan.preset == REAL_LINE {
        let line = options
            .data
            .as_ref()
            .context("--data: name the directory of a finished `cargo xtask real-line`")?;
        for name in ["run.toml", "labelled.jsonl"] {
            ensure!(
                line.join(name).is_file(),
                "--data {}: there is no {name}, so it is not the directory of a finished `cargo xtask real-line`",
                line.display()
            );
        }
    }
    let kind = if options.quick { "-quick" } else { "" };
    let out = options.out.clone();
    let out = out.unwrap_or_else(|| cargo::root().join(format!("runs/study-{name}{kind}")));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = usize::from(options.jobs);
    let study = Study {
        program: Program {
            mopo: program::given(options.mopo.as_deref(), Some(&options.device))?,
            threads: None,
        },
        cores,
        plan,
        out,
        data: options.data.clone(),
        model: options.model.clone(),
        device: options.device.clone(),
        jobs,
        places: Places::new(jobs),
        first: Mutex::new(None),
        redo: options.redo,
    };
    let all: Vec<&Method> = study.plan.methods.iter().collect();
    let mut only: Vec<&str> = vec![];
    for list in &options.only {
        let found = study.plan.listed(list).with_context(|| {
            let names: Vec<_> = all.iter().map(|method| format!("`{}`", method.name)).collect();
            format!("--only {list}: the methods are {}", names.join(", "))
        })?;
        only.extend(found);
    }
    let shard = options.shard.map(ShardChoice::resolve).transpose()?;
    let wanted = |i: usize, method: &Method| {
        // In turns, since those that are alike are neighbours.
        let in_shard = shard.is_none_or(|shard| i % shard.of() == shard.index() - 1);
        in_shard && (only.is_empty() || only.contains(&&*method.name))
    };
    let (mut chosen, mut own): (Vec<&Method>, Vec<&str>) = (vec![], vec![]);
    for (i, method) in all.iter().enumerate() {
        if wanted(i, method) {
            own.push(&method.name);
            study.plan.with_needed(method, &mut chosen);
        }
    }
    study.check_same()?;
    if options.merge {
        study.check_complete(&chosen)?;
    }
    let command = format!("cargo xtask study {}", portable(words).join(" "));
    let mut results = study.methods(&chosen)?;
    if let Some(shard) = shard {
        results.retain(|method| own.iter().any(|name| method["name"] == **name));
        study.sensitivity(&results)?;
        println!("shard {shard} is done; when all are, call it with --merge for the page");
        return Ok(ExitCode::SUCCESS);
    }
    let sensitivity = study.sensitivity(&results)?;
    study.compare(&results, &sensitivity, &command, options)?;
    Ok(ExitCode::SUCCESS)
}

impl Study {
    /// Refuses a directory with the runs of another study, and writes down what this one is.
    fn check_same(&self) -> Result<()> {
        let _lock = self.locked("study")?;
        let path = self.out.join("asked.json");
        let size = &self.plan.size;
        let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let asked = json!({
            "title": self.plan.title,
            "preset": self.plan.preset,
            "sft": size.sft,
            "set": size.set,
            "data": shown(&self.data),
            "model": shown(&self.model),
            "test_prompts": size.test_prompts,
            "validation_prompts": size.validation_prompts,
        });
        if let Ok(text) = fs::read_to_string(&path) {
            let found: Value = serde_json::from_str(&text)
                .with_context(|| format!("{} is damaged", path.display()))?;
            ensure!(
                found == asked,
                "{} has the runs of another study ({found}); this one is {asked}: pass another --out",
                self.out.display()
            );
            return Ok(());
        }
        write_whole(&path, &format!("{asked}\n"))
    }

    /// Where the SFT model of a seed is.
    fn base(&self, seed: u64) -> PathBuf {
        self.out.join(format!("seed-{seed}/base"))
    }

    /// Trains the SFT model of a seed, and writes the prompts of both splits beside it, unless they are there; returns its
    /// directory.
    fn begin(&self, program: &Program, seed: u64) -> Result<PathBuf> {
        let _lock = self.locked(&format!("seed {seed}"))?;
        let base = self.base(seed);
        let args = self.base_args(seed);
        self.check_base(seed, &args)?;
        let splits = [Split::Validation, Split::Test];
        if base.join("result.json").exists()
            && splits.iter().all(|split| self.prompts(seed, *split).exists())
        {
            self.check_overrides(&budget::config(&base)?)?;
            return Ok(base);
        }
        eprintln!("== seed {seed}: SFT");
        program.train(&args, &base)?;
        let found = prompts(&base.join("data/heldout.jsonl"))?;
        let size = &self.plan.size;
        for (split, at, most) in
            [(Split::Validation, 0, size.validation_prompts), (Split::Test, 1, size.test_prompts)]
        {
            // In turns, so that both are alike.
            let some: Vec<&String> = found.iter().skip(at).step_by(2).take(most).collect();
            ensure!(!some.is_empty(), "seed {seed} has too few held-out prompts");
            write_prompts(&self.prompts(seed, split), &some)?;
        }
        self.check_overrides(&budget::config(&base)?)?;
        Ok(base)
    }

    /// Arguments of the run with the SFT model of a seed.
    fn base_args(&self, seed: u64) -> Vec<String> {
        let first = &self.plan.objectives[0];
        let mut args = self.common(seed);
        args.extend(["--method".into(), "dpo".into()]);
        if let Some(model) = &self.model {
            args.extend(["--model".into(), model.display().to_string()]);
        }
        let own = ["training.steps=0".to_string(), format!("dpo.objective={first}")];
        args.extend(sets(own.iter().chain(&self.plan.size.sft)));
        args
    }

    fn prompts(&self, seed: u64, split: Split) -> PathBuf {
        self.out.join(format!("seed-{seed}/{}.jsonl", split.name()))
    }

    /// Arguments of every run.
    fn common(&self, seed: u64) -> Vec<String> {
        let mut args = match (&self.data, &*self.plan.preset) {
            (Some(line), REAL_LINE) => {
                let [config, data] = ["run.toml", "labelled.jsonl"]
                    .map(|name| line.join(name).display().to_string());
                vec!["--config".into(), config, "--data".into(), data]
            }
            (data, preset) => {
                let mut args = match Path::new(preset).extension() {
                    Some(_) => vec!["--config".to_string(), preset.to_owned()],
                    None => vec![preset.to_owned()],
                };
                if let Some(data) = data {
                    args.extend(["--data".into(), data.display().to_string()]);
                }
                args
            }
        };
        let cache = self.out.join("cache").display().to_string();
        args.extend(["--seed".into(), seed.to_string(), "--device".into(), self.device.clone()]);
        args.extend(["--cache".into(), cache]);
        args.extend(sets(&self.plan.size.set));
        args
    }

    /// Where a method stands among all.
    fn order(&self, method: &Method) -> usize {
        self.plan.methods.iter().position(|known| known.name == method.name).unwrap_or(0)
    }

    /// Trains and evaluates a method; returns it as the study's file has it.
    fn method(&self, method: &Method) -> Result<Value> {
        let size = &self.plan.size;
        let parts = self.plan.parts(method);
        let tries = method.tried(size.n_tries);
        self.check_tries(method, &parts, &tries)?;
        if self.chosen(method)?.is_none() {
            self.choose(method, &parts, &tries)?;
        }
        let attempt = self.chosen(method)?.context("just written")?;
        let jobs: Vec<Run<'_>> = (size.seeds.iter())
            .flat_map(|&seed| {
                parts.iter().map(move |part| Run { method, seed, attempt, part, more: None })
            })
            .collect();
        let runs = self.tested(&jobs)?;
        let mut known: Value = match method.tries.is_empty() {
            true => json!([]),
            false => serde_json::from_str(&fs::read_to_string(self.choice(method))?)?,
        };
        if tries.len() == 1 {
            // Nothing was compared.
            known = json!([]);
        }
        Ok(json!({ "name": method.name, "tries": known, "runs": runs }))
    }

    /// Trains and tests runs; returns them as the study's file has them.
    fn tested(&self, jobs: &[Run<'_>]) -> Result<Vec<Value>> {
        for run in jobs {
            self.check_run(*run)?;
        }
        let order = jobs.first().map_or(0, |run| self.order(run.method));
        let results =
            self.side_by_side(order, jobs, |program, run| self.one(program, *run, Split::Test))?;
        let as_listed = |(of, results): (&Run<'_>, &PathBuf)| {
            let run = self.place(*of);
            let cost = match of.method.tries.is_empty() {
                true => Value::Null,
                false => cost(&run, of.method)?,
            };
            Ok(json!({
                "seed": of.seed,
                "label": of.part.label,
                "results": results.display().to_string(),
                "cost": cost,
            }))
        };
        jobs.iter().zip(&results).map(as_listed).collect()
    }

    /// Runs jobs, as many at a time as asked for, after those of methods that are before `order`; results in the order of
    /// the jobs. The first failure ends it, once what runs has ended.
    fn side_by_side<J: Sync>(
        &self,
        order: usize,
        jobs: &[J],
        work: impl Fn(&Program, &J) -> Result<PathBuf> + Sync,
    ) -> Result<Vec<PathBuf>> {
        let at_once = self.jobs.min(jobs.len());
        let threads = (self.jobs > 1).then_some((self.cores / self.jobs).max(1));
        let program = &Program { threads, ..self.program.clone() };
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<Option<Result<PathBuf>>>> =
            Mutex::new(jobs.iter().map(|_| None).collect());
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::SeqCst);
                        let Some(job) = jobs.get(at) else { break };
                        let place = self.places.take((order, at));
                        let result = place.and_then(|_place| work(program, job));
                        if result.is_err() {
                            self.places.stop();
                            next.store(jobs.len(), Ordering::SeqCst);
                        }
                        done.lock().expect("no thread panics with it")[at] = Some(result);
                    }
                });
            }
        });
        let done = done.into_inner().map_err(|_| anyhow!("a thread panicked"))?;
        // What was not begun was stopped by a failure, which is among the others or in another method.
        all_or_failure(
            done.into_iter().map(|result| result.unwrap_or(Err(Stopped.into()))).collect(),
        )
    }
}

/// The words of a command that would be the same on another machine: where the program and the output are is left out.
fn portable(words: &[String]) -> Vec<String> {
    let mut kept = vec![];
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--mopo" | "--out" | "--page" => drop(words.next()),
            word if ["--mopo=", "--out=", "--page="].iter().any(|flag| word.starts_with(flag)) => {}
            // As a shell takes it.
            word if word.contains(|c: char| c.is_whitespace() || "()\"'$&|;<>*?".contains(c)) => {
                kept.push(format!("'{}'", word.replace('\'', "'\\''")));
            }
            word => kept.push(word.to_owned()),
        }
    }
    kept
}

/// `--set` for each of these.
fn sets<'a>(all: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    all.into_iter().flat_map(|set| ["--set".to_owned(), set.clone()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_studies_here_are_sound() {
        for (name, text) in STUDIES {
            let plan = Plan::parse(text, name).unwrap();
            assert!(plan.methods.iter().all(|method| !plan.parts(method).is_empty()));
        }
    }

    #[test]
    fn the_quick_demo_refreshes_its_references() {
        let plan = Plan::parse(STUDIES[0].1, "demo").unwrap().quickly();
        let value = |sets: &[String], key: &str| -> Option<u64> {
            sets.iter().rev().find_map(|set| set.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
        };
        let steps = value(&plan.size.set, "training.steps").unwrap();
        let mopo: Vec<_> = plan.methods.iter().filter(|method| method.kind == "mopo").collect();
        assert!(mopo.len() > 3);
        for method in mopo {
            let lag = value(&method.set, "mopo.reference_lag").unwrap();
            assert!(lag <= steps / 2, "{}: {lag} of {steps}", method.name);
        }
    }
}
