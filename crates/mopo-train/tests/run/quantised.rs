//! Runs on a base in 4 or 8 bits.

use mopo_lm::Architecture;
use mopo_train::config::{BaseFormat, ModelSource};
use mopo_train::load_base;

use super::*;

/// MOPO on the SFT model of another run, in this format.
fn on_base_of(other: &Path, format: &str) -> RunConfig {
    let base = format!("model.base={format}");
    let mut config = tiny(&["sft.steps=0", &base]);
    config.model.source = ModelSource::Hub(other.join("warm_start"));
    config
}

#[test]
fn a_run_trains_on_a_quantised_base_and_twice_to_the_same() {
    let (_tmp, first) = finished(&["training.steps=1"]);
    for format in ["int8", "int8-output", "nf4-double"] {
        let (_one, run) = finished_with(&on_base_of(&first, format));
        let rows = metrics(&run);
        assert!(rows.iter().all(|row| row["loss"].as_f64().is_some_and(f64::is_finite)));
        let (dir, config, _) = RunDir::open(&run).unwrap();
        let device = Default::default();
        let base = load_base::<TestAutodiffBackend>(&dir, config.model.base, &device).unwrap();
        let Architecture::Phi(base) = base.architecture else { panic!("a phi") };
        let linear = &base.layers[0].mlp.fc1;
        assert!(matches!(linear.weight, mopo_lm::Weight::Quantised(_)));
        let of_output = matches!(base.lm_head.weight, mopo_lm::Weight::Quantised(_));
        assert_eq!(of_output, format == "int8-output");
        // The file keeps the weights unchanged: they are quantised on loading.
        let files = ["warm_start/model.safetensors"];
        let same = |name: &&str| {
            std::fs::read(first.join(name)).unwrap() == std::fs::read(run.join(name)).unwrap()
        };
        assert!(files.iter().all(same));
        let (_two, again) = finished_with(&on_base_of(&first, format));
        assert_eq!(metrics(&again), rows);
        let (_three, dense) = finished_with(&on_base_of(&first, "checkpoint"));
        assert_ne!(metrics(&dense), rows, "{format}");
    }
}

#[test]
fn a_configuration_from_before_there_was_a_choice_still_runs() {
    let text = preset_text("demo").unwrap();
    let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("base =")).collect();
    assert!(without.len() < text.lines().count());
    let config = RunConfig::parse(&without.join("\n"), "old.toml").unwrap();
    assert_eq!(config.model.base, BaseFormat::Checkpoint);
    assert_eq!(config, RunConfig::preset("demo").unwrap());
}

#[test]
fn sft_of_a_quantised_base_is_an_error_with_a_remedy() {
    let set = ["model.base=nf4".to_string()];
    let text = preset_text("demo").unwrap();
    let error = RunConfig::parse_with(text, "demo", &set).unwrap_err().to_string();
    for part in ["model.base", "nf4", "sft.lora=true", "sft.steps=0", "model.hub"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    RunConfig::parse_with(text, "demo", &["model.base=f32".into()]).unwrap();
}
