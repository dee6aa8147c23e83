//! Whole runs of a tiny model: configuration, interruptions and resuming, the numbers of a step.

mod cache;
mod can;
mod conditioned;
mod config;
mod dpo;
mod evaluation;
mod export;
mod extraction;
mod f_dpo;
mod families;
mod fits;
mod gguf;
mod guard;
mod ham;
mod heads;
mod hub;
mod ipo;
mod kto;
mod many;
mod mixed;
mod modpo;
mod named_keys;
mod on_policy;
mod prompt_states;
mod quantised;
mod raco;
mod resume;
mod reward_config;
mod reward_decoder;
mod sacpo;
mod session;
mod simpo;
mod sources;
mod steps;
mod text;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mopo_testkit::TestAutodiffBackend;
use mopo_train::communicator::Solo;
use mopo_train::config::{MethodConfig, MopoConfig, Replaced, preset_text};
use mopo_train::{
    Error, LogProbCache, Progress, Result, RunConfig, RunDir, RunRecord, Silent, train,
};

/// burn's random state is global to the process: locked by tests that draw from it.
static ALONE: Mutex<()> = Mutex::new(());

/// A model that trains in a second, on forty prompts.
const TINY: &[&str] = &[
    "data.n_prompts=40",
    "data.max_prompt_tokens=24",
    "data.max_response_tokens=16",
    "tokenizer.vocab_size=300",
    "model.scratch.hidden_size=16",
    "model.scratch.intermediate_size=32",
    "model.scratch.num_hidden_layers=1",
    "model.scratch.num_attention_heads=2",
    "model.scratch.max_position_embeddings=48",
    "sft.steps=5",
    "sft.batch_size=4",
    "sft.warmup_steps=1",
    "lora.rank=2",
    "training.steps=8",
    "training.batch_size=4",
    "training.warmup_steps=1",
    "checkpoints.save_steps=2",
    "checkpoints.save_total_limit=2",
    "evaluation.max_new_tokens=8",
];

/// The tiny demo with further overrides.
fn tiny(more: &[&str]) -> RunConfig {
    let mopo = ["mopo.reference_lag=3", "mopo.thresholds=adaptive"];
    tiny_preset("demo", &[&mopo[..], more].concat())
}

/// Another preset, equally tiny.
fn tiny_preset(name: &str, more: &[&str]) -> RunConfig {
    let set: Vec<String> = TINY.iter().chain(more).map(|s| s.to_string()).collect();
    RunConfig::parse_with(preset_text(name).unwrap(), name, &set).unwrap()
}

/// Positions for what a method tells in prompts.
fn room_for_notes(kind: &str) -> &'static [&'static str] {
    match kind {
        "ric" | "dpa" => &["model.scratch.max_position_embeddings=112"],
        _ => &[],
    }
}

/// The tiny demo with another method: all pairs in each of eight steps, large enough that something moves.
fn tiny_method(kind: &str, more: &[&str]) -> RunConfig {
    let fast = ["training.batch_size=10000", "training.learning_rate=2e-3"];
    let set = TINY.iter().chain(&fast).chain(room_for_notes(kind)).chain(more);
    let set: Vec<String> = set.map(|s| s.to_string()).collect();
    let parts = Replaced { method: Some(kind), model: None };
    RunConfig::parse_replaced(preset_text("demo").unwrap(), "demo", &set, parts).unwrap()
}

/// A metric of a phase, step by step.
fn metric(run: &Path, phase: &str, key: &str) -> Vec<f64> {
    let rows = metrics(run).into_iter().filter(|row| row["phase"] == phase);
    rows.map(|row| row[key].as_f64().unwrap_or_else(|| panic!("no {key}"))).collect()
}

/// Asserts that two series of numbers agree but for the order in which they were summed: each method draws its own
/// order of pairs.
fn assert_close(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    assert!(
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5 * (1.0 + b.abs())),
        "{a:?} and {b:?}"
    );
}

/// A run that is cut off twice ends at the same bits.
fn assert_resumable(config: &RunConfig) {
    let phase = config.method.kind();
    let (_tmp, whole) = finished_with(config);
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, config);
    resume::cut(&run, phase, 3);
    resume::cut(&run, phase, 4);
    go_on(&run, &mut Silent).unwrap();
    assert_same_artefacts(&whole, &run);
}

/// MOPO's section.
fn mopo(method: &MethodConfig) -> &MopoConfig {
    match method {
        MethodConfig::Mopo(mopo) => mopo,
        other => panic!("not MOPO but {}", other.kind()),
    }
}

fn new_run(path: &Path, config: &RunConfig) {
    let mut record = RunRecord::new("test".into(), config.seed, None, false).unwrap();
    RunDir::create(path, config, &mut record).unwrap();
}

/// Trains the remaining phases of the run.
fn go_on(path: &Path, progress: &mut dyn Progress) -> Result<mopo_train::RunResult> {
    go_on_with(path, None, progress)
}

/// The same with a cache of log-probs.
fn go_on_with(
    path: &Path,
    cache: Option<&LogProbCache>,
    progress: &mut dyn Progress,
) -> Result<mopo_train::RunResult> {
    // The CPU backends have one random state per process: concurrent runs would take turns drawing
    // from it. One of the tests panics on purpose, hence a poisoned lock is as good as any.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (run, config, mut record) = RunDir::open(path)?;
    train::<TestAutodiffBackend>(
        &run,
        &config,
        &mut record,
        cache,
        &Solo,
        &Default::default(),
        progress,
    )
}

/// A finished run of the tiny demo.
fn finished(more: &[&str]) -> (tempfile::TempDir, PathBuf) {
    finished_with(&tiny(more))
}

fn finished_with(config: &RunConfig) -> (tempfile::TempDir, PathBuf) {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("run");
    new_run(&path, config);
    go_on(&path, &mut Silent).unwrap();
    (tmp, path)
}

/// Keeps the notes.
#[derive(Default)]
struct Notes(Vec<String>);

impl Progress for Notes {
    fn note(&mut self, text: &str) {
        self.0.push(text.into());
    }
}

/// A copy of a run in another directory.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(std::fs::copy(&path, &target).unwrap()),
        }
    }
}

/// Flips a bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// The metrics without what depends on the clock.
fn metrics(run: &Path) -> Vec<serde_json::Map<String, serde_json::Value>> {
    std::fs::read_to_string(run.join("metrics.jsonl"))
        .unwrap()
        .lines()
        .map(|line| {
            let mut row: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(line).unwrap();
            assert!(row.remove("tokens_per_second").is_some());
            row
        })
        .collect()
}

/// Asserts that two runs left the same artefacts.
fn assert_same_artefacts(a: &Path, b: &Path) {
    let mut files = vec![PathBuf::from("warm_start/model.safetensors")];
    files.extend(policy_files(a).iter().map(|file| file.strip_prefix(a).unwrap().to_path_buf()));
    assert!(files.iter().filter(|f| f.extension().is_some_and(|e| e == "safetensors")).count() > 1);
    for file in files {
        let read = |run: &Path| std::fs::read(run.join(&file)).unwrap();
        assert!(read(a) == read(b), "{} differs", file.display());
    }
    assert_eq!(metrics(a), metrics(b));
}

/// All files of a run's policy, in order.
fn policy_files(run: &Path) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![run.join("policy")], vec![]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

/// Every number of the policy's tensors, by file and name.
fn policy_values(run: &Path) -> Vec<f32> {
    let is_tensors = |p: &PathBuf| p.extension().is_some_and(|e| e == "safetensors");
    let files: Vec<PathBuf> = policy_files(run).into_iter().filter(is_tensors).collect();
    let mut out = Vec::new();
    for file in files {
        let bytes = std::fs::read(file).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors = tensors.tensors();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        for (_, view) in tensors {
            let (values, _) = view.data().as_chunks::<4>();
            out.extend(values.iter().map(|b| f32::from_le_bytes(*b)));
        }
    }
    out
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

fn message(result: Result<mopo_train::RunResult>) -> (Error, String) {
    let error = result.unwrap_err();
    let text = error.to_string();
    (error, text)
}
