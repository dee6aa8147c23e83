//! Classifiers against transformers' results (fixtures/, written by make_fixtures.py, which
//! describes them), scores in and out of batches, and damaged directories.
//!
//! `MOPO_REFERENCE_PYTHON` may name a Python with the packages of requirements.txt: then models
//! saved
//! here are loaded there, too.

mod damaged;
mod golden;
mod tokenizers;

use std::path::{Path, PathBuf};

use mopo_eval::reward::{ModelReward, ModelSpec, local_directory};
use mopo_testkit::TestBackend;
use serde::Deserialize;

type B = TestBackend;

const MODELS: [&str; 6] =
    ["gpt2", "gpt2-shards", "distilbert-bin", "distilbert", "bart", "bart-bin-shards"];

/// transformers' results for texts with some settings.
#[derive(Deserialize)]
struct Told {
    settings: ModelSpec,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt: String,
    response: String,
    ids: Vec<u32>,
    logits: Vec<f32>,
    /// Logits at the position of each pooling rule, by the rule's name in settings.
    #[serde(default)]
    by_rule: std::collections::BTreeMap<String, Vec<f32>>,
}

fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reward/fixtures").join(model)
}

fn told(model: &str) -> Vec<Told> {
    let told = std::fs::read(fixture(model).join("told.json")).unwrap();
    serde_json::from_slice(&told).unwrap()
}

/// The settings for the model in a directory.
fn spec(settings: &ModelSpec, dir: &Path) -> ModelSpec {
    ModelSpec { path: Some(dir.to_str().unwrap().into()), ..settings.clone() }
}

fn load(settings: &ModelSpec, dir: &Path) -> ModelReward<B> {
    ModelReward::load(&spec(settings, dir), &local_directory, &Default::default()).unwrap()
}

/// The largest |a − b| / |b|, where a |b| below 0.1 counts as 0.1; fails above 1e-4.
fn relative(name: &str, found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "{name}");
    let differences =
        found.iter().zip(expected).map(|(found, b)| (found - b).abs() / b.abs().max(0.1));
    let largest = differences.fold(0.0, |a: f32, b| if b.is_nan() { b } else { a.max(b) });
    assert!(largest <= 1e-4, "{name}: {largest:.1e}: {found:?} and {expected:?}");
    largest
}
