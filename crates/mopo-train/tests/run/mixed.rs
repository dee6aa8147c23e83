//! Policies with adapters of their own, and those that are taken over from other runs: Rewarded Soups and
//! multi-objective decoding.

use std::path::{Path, PathBuf};

use mopo_core::divergence::Divergence;
use mopo_lm::{GenerationConfig, HeadChoice};
use mopo_testkit::TestBackend;
use mopo_train::{RunConfig, RunDir, Sampler, Silent};
use serde_json::Value;

use super::{
    Notes, assert_resumable, finished, finished_with, go_on, message, metric, new_run, tiny,
    tiny_method,
};

/// DPO runs on each of two objectives, on the same base; the second with another rank.
fn single_objective_runs() -> [(tempfile::TempDir, PathBuf); 2] {
    let dpo = |objective: &str, more: &[&str]| {
        let objective = format!("dpo.objective={objective}");
        finished_with(&tiny_method("dpo", &[&[objective.as_str()], more].concat()))
    };
    [dpo("helpful", &[]), dpo("harmless", &["lora.rank=3"])]
}

fn taking_over(kind: &str, runs: &[(&str, &Path)], more: &[&str]) -> RunConfig {
    let runs: Vec<_> =
        runs.iter().map(|(name, run)| format!("{name}=\"{}\"", run.display())).collect();
    let runs = format!("{kind}.runs={{{}}}", runs.join(", "));
    tiny_method(kind, &[&[runs.as_str()], more].concat())
}

fn answers(run: &Path, head: HeadChoice, divergence: Option<Divergence>) -> Vec<String> {
    let (dir, config, _) = RunDir::open(run).unwrap();
    let sampler = Sampler::<TestBackend>::load(&dir, &config, &Default::default()).unwrap();
    let prompts: Vec<String> =
        (0..6).map(|i| format!("\n\nHuman: What about {i}?\n\nAssistant:")).collect();
    let settings = GenerationConfig { max_new_tokens: 8, temperature: 0.0, ..Default::default() };
    let decoding = sampler.decoding(head, divergence).unwrap();
    sampler.answer(decoding, &prompts, &settings, &mut Silent).unwrap()
}

fn accuracies(run: &Path, policy: &str) -> Value {
    let text = std::fs::read_to_string(run.join("result.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let policies = json["policies"].as_array().unwrap();
    policies.iter().find(|of| of[0] == policy).unwrap()[1].clone()
}

#[test]
fn policies_with_their_own_adapters_start_alike_and_go_apart() {
    let of = |adapters: &str| {
        let adapters = format!("adapters={adapters}");
        finished(&["policies=[\"helpful\", \"harmless\"]", &adapters, "lora.dropout=0.0"])
    };
    let ((_a, shared), (_b, apart)) = (of("shared"), of("per_policy"));
    for policy in ["helpful", "harmless"] {
        let loss = |run| metric(run, "mopo", &format!("{policy}/loss"));
        let (one, own) = (loss(&shared), loss(&apart));
        assert!((one[0] - own[0]).abs() < 1e-4 * one[0].abs(), "{one:?}, {own:?}");
        assert!(one.iter().zip(&own).any(|(a, b)| (a - b).abs() > 1e-4), "{policy}");
        let own = apart.join("policy/adapters").join(policy);
        assert!(
            own.join("adapter_model.safetensors").exists()
                && own.join("adapter_config.json").exists()
        );
    }
    assert!(!shared.join("policy/adapters").exists());
    let heads = [HeadChoice::Policy(1), HeadChoice::Mixture(vec![0.5, 0.5]), HeadChoice::WorstCase];
    for head in heads {
        assert_eq!(answers(&apart, head, None).len(), 6);
    }
}

#[test]
fn a_run_with_adapters_for_each_policy_resumes() {
    assert_resumable(&tiny(&["policies=[\"helpful\", \"humor\"]", "adapters=per_policy"]));
    let contrast = ["adapters=per_policy", "mopo.extraction=pairwise"];
    assert_resumable(&tiny(&[&["policies=[\"helpful\", \"humor\"]"], &contrast[..]].concat()));
}

#[test]
fn soups_and_mixtures_are_made_of_the_runs_policies() {
    let [(_a, helpful), (_b, harmless)] = single_objective_runs();
    let runs = [("helpful", helpful.as_path()), ("harmless", harmless.as_path())];
    let (_c, soup) = finished_with(&taking_over("rewarded_soups", &runs, &[]));
    let (_d, decoded) = finished_with(&taking_over("multi_objective_decoding", &runs, &[]));
    for (k, (name, run)) in [(1, runs[0]), (0, runs[1])] {
        for made in [&soup, &decoded] {
            let vertex = HeadChoice::Mixture(if k == 0 { vec![1.0, 0.0] } else { vec![0.0, 1.0] });
            let own = answers(run, HeadChoice::Policy(0), None);
            assert_eq!(answers(made, HeadChoice::Policy(k), None), own, "{name}");
            assert_eq!(answers(made, vertex, None), own, "{name}");
            assert_eq!(accuracies(made, name), accuracies(run, name));
        }
    }
    // Another divergence is a matter of decoding, not of parameters.
    let (dir, config, _) = RunDir::open(&soup).unwrap();
    let sampler = Sampler::<TestBackend>::load(&dir, &config, &Default::default()).unwrap();
    let half = HeadChoice::Mixture(vec![0.5, 0.5]);
    let e = sampler.decoding(half.clone(), Some(Divergence::ForwardKl)).unwrap_err();
    assert!(e.to_string().contains("averaging their parameters"), "{e}");
    assert_eq!(answers(&decoded, half, Some(Divergence::ForwardKl)).len(), 6);
}

#[test]
fn runs_are_mixed_for_the_divergence_that_they_were_trained_under() {
    let f_dpo = |objective: &str| {
        let objective = format!("f_dpo.objective={objective}");
        let set = [objective.as_str(), "f_dpo.divergence=forward_kl"];
        finished_with(&tiny_method("f_dpo", &set))
    };
    let [(_a, helpful), (_b, harmless)] = ["helpful", "harmless"].map(f_dpo);
    let runs = [("helpful", helpful.as_path()), ("harmless", harmless.as_path())];
    let forward = "multi_objective_decoding.divergence=forward_kl";
    let (_c, decoded) = finished_with(&taking_over("multi_objective_decoding", &runs, &[forward]));
    let half = HeadChoice::Mixture(vec![0.5, 0.5]);
    let answer = |divergence| answers(&decoded, half.clone(), divergence);
    assert_eq!(answer(None), answer(Some(Divergence::ForwardKl)));
    // Or of DPO, and without saying which: its default is reverse KL.
    let [(_d, dpo), _] = single_objective_runs();
    let tmp = tempfile::tempdir().unwrap();
    for (wrong, runs, set, expected) in [
        ("harmless", runs, &[][..], "set multi_objective_decoding.divergence to \"forward_kl\""),
        ("helpful", [("helpful", &*dpo), runs[1]], &[forward], "to \"reverse_kl\""),
    ] {
        let run = tmp.path().join(wrong);
        new_run(&run, &taking_over("multi_objective_decoding", &runs, set));
        let e = message(go_on(&run, &mut Silent)).1;
        assert!(e.contains(&format!("multi_objective_decoding.runs.{wrong}")), "{e}");
        assert!(e.contains(expected), "{e}");
    }
}

#[test]
fn nothing_is_trained_and_the_run_says_so() {
    let [(_a, helpful), (_b, harmless)] = single_objective_runs();
    let runs = [("helpful", helpful.as_path()), ("harmless", harmless.as_path())];
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &taking_over("rewarded_soups", &runs, &[]));
    let mut notes = Notes::default();
    go_on(&run, &mut notes).unwrap();
    assert!(notes.0.iter().any(|note| note.contains("nothing is trained")), "{:?}", notes.0);
    assert!(!notes.0.iter().any(|note| note.contains("warning")), "{:?}", notes.0);
}

#[test]
fn runs_that_do_not_fit_are_refused_with_the_key() {
    let [(_a, helpful), (_b, harmless)] = single_objective_runs();
    let tmp = tempfile::tempdir().unwrap();
    let refused = |runs: &[(&str, &Path)], more: &[&str]| {
        let run = tmp.path().join("run");
        let _ = std::fs::remove_dir_all(&run);
        new_run(&run, &taking_over("rewarded_soups", runs, more));
        message(go_on(&run, &mut Silent)).1
    };
    let both = [("helpful", helpful.as_path()), ("harmless", harmless.as_path())];
    let e = refused(&both, &["seed=5"]);
    assert!(e.contains("rewarded_soups.runs.harmless") && e.contains("another `seed`"), "{e}");
    let none = tmp.path().join("none");
    let e = refused(&[("helpful", &helpful), ("harmless", &none)], &[]);
    assert!(e.contains("rewarded_soups.runs.harmless") && e.contains("none"), "{e}");
    let (_c, several) = finished(&["training.batch_size=4"]);
    let e = refused(&[("helpful", &several), ("kind", &several)], &[]);
    assert!(e.contains("runs.kind") && e.contains("helpful, "), "{e}");

    let parse = |set: &str| {
        let set: Vec<String> = [set, "policies=[\"a\", \"b\"]"].map(String::from).to_vec();
        let parts = mopo_train::config::Replaced { method: Some("rewarded_soups"), model: None };
        let text = mopo_train::config::preset_text("demo").unwrap();
        RunConfig::parse_replaced(text, "demo", &set, parts).unwrap_err().to_string()
    };
    let e = parse("rewarded_soups.runs={a=\"x\"}");
    assert!(e.contains("at least two runs"), "{e}");
    let e = parse("rewarded_soups.runs={a=\"x\", c=\"y\"}");
    assert!(e.contains("policies = [\"a\", \"c\"]"), "{e}");
}
