//! The log-prob cache: hits, damage, other models, and equal bits with and without it.

use std::fs;
use std::path::{Path, PathBuf};

use mopo_train::{LogProbCache, RunConfig};

use super::{Notes, assert_same_artefacts, finished, go_on_with, new_run, tiny, tiny_preset};

/// Runs a configuration. Returns (found, of how many, computed) for the training pairs, and the
/// notes.
fn run(path: &Path, config: &RunConfig, cache: &LogProbCache) -> ([usize; 3], Vec<String>) {
    new_run(path, config);
    let mut notes = Notes::default();
    go_on_with(path, Some(cache), &mut notes).unwrap();
    let note = notes.0.iter().find(|n| n.contains("initial policy")).expect("a note of the cache");
    let dir = cache.dir().display().to_string();
    let numbers: Vec<usize> = note
        .replace(&dir, "")
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .collect();
    (numbers.try_into().unwrap(), notes.0)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => out.extend(files(&path)),
            false => out.push(path),
        }
    }
    out.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    out.sort();
    out
}

#[test]
fn log_probs_are_computed_once_and_runs_end_at_the_same_bits() {
    let (_tmp, without) = finished(&[]);
    let tmp = tempfile::tempdir().unwrap();
    let cache = LogProbCache::new(tmp.path().join("cache"));
    let at = |name: &str| tmp.path().join(name);
    let config = tiny(&[]);
    let ([found, n, computed], _) = run(&at("a"), &config, &cache);
    assert!((found, computed) == (0, n) && n > 20, "{found} {n} {computed}");
    assert_eq!(run(&at("b"), &config, &cache).0, [n, n, 0]);
    assert_same_artefacts(&without, &at("a"));
    assert_same_artefacts(&without, &at("b"));
    let log_probs = |run: &Path| fs::read(run.join("initial_log_probs.safetensors")).unwrap();
    assert!(log_probs(&without) == log_probs(&at("a")));

    // Another method on the same base finds them too: DPO's reference is the same model.
    let dpo = tiny_preset("demo-dpo", &[]);
    assert_eq!(run(&at("dpo"), &dpo, &cache).0, [n, n, 0]);
    // Another base does not, nor do other maximum lengths.
    for (name, set) in [("base", "sft.steps=4"), ("limit", "data.max_response_tokens=15")] {
        assert_eq!(run(&at(name), &tiny(&[set]), &cache).0, [0, n, n], "{set}");
    }

    // Damaged entries are computed again.
    for file in files(cache.dir()) {
        fs::write(file, b"damaged").unwrap();
    }
    let ([found, _, computed], notes) = run(&at("c"), &config, &cache);
    assert_eq!((found, computed), (0, n));
    assert!(notes.iter().any(|n| n.contains("warning") && n.contains("SHA-256")), "{notes:?}");
    assert_same_artefacts(&without, &at("c"));
}
