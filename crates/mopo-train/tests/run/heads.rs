//! Heads that are trained as low-rank updates, or not at all.

use std::fs;
use std::path::Path;

use mopo_train::RunConfig;
use mopo_train::config::{Replaced, preset_text};
use safetensors::SafeTensors;

use super::{TINY, assert_resumable, finished_with, message, metric, new_run, tiny, tiny_method};
use crate::go_on;

/// A tensor's values, and the length of its rows.
fn tensor(file: &Path, name: &str) -> (Vec<f64>, usize) {
    let bytes = fs::read(file).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let view = all.tensor(name).unwrap_or_else(|e| panic!("{e}: {:?}", all.names()));
    let (values, _) = view.data().as_chunks::<4>();
    (values.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(), view.shape()[1])
}

/// Rank by Gram-Schmidt over the rows, up to a thousandth of the longest.
fn rank(matrix: &[f64], width: usize) -> usize {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let longest = matrix.chunks(width).map(|row| dot(row, row).sqrt()).fold(0.0, f64::max);
    let mut basis: Vec<Vec<f64>> = vec![];
    for row in matrix.chunks(width) {
        let mut rest = row.to_vec();
        for direction in &basis {
            let along = dot(&rest, direction);
            rest.iter_mut().zip(direction).for_each(|(x, d)| *x -= along * d);
        }
        let length = dot(&rest, &rest).sqrt();
        if length > 1e-3 * longest {
            basis.push(rest.into_iter().map(|x| x / length).collect());
        }
    }
    basis.len()
}

#[test]
fn heads_differ_from_the_base_by_an_update_of_that_rank() {
    let set = ["head_rank=3", "training.learning_rate=1e-2"];
    let (_tmp, run) = finished_with(&tiny(&set));
    let (base, width) = tensor(&run.join("warm_start/model.safetensors"), "lm_head.weight");
    for policy in 0..3 {
        let name = format!("heads.{policy}.weight");
        let (head, _) = tensor(&run.join("policy/heads.safetensors"), &name);
        let change: Vec<f64> = head.iter().zip(&base).map(|(a, b)| a - b).collect();
        assert_eq!(rank(&change, width), 3, "{policy}");
    }
    let losses = metric(&run, "mopo", "loss");
    assert!(losses.iter().all(|loss| loss.is_finite()));
    // With all of the weights it is not so.
    let (_tmp, run) = finished_with(&tiny(&set[1..]));
    let (head, _) = tensor(&run.join("policy/heads.safetensors"), "heads.0.weight");
    let change: Vec<f64> = head.iter().zip(&base).map(|(a, b)| a - b).collect();
    assert!(rank(&change, width) > 3);
}

#[test]
fn runs_with_them_that_are_cut_off_end_bit_for_bit_the_same() {
    let evaluated = ["training.eval_steps=2", "training.load_best_model_at_end=true"];
    assert_resumable(&tiny(&[&["head_rank=2"][..], &evaluated].concat()));
    assert_resumable(&tiny_method("ham", &["head_rank=2"]));
    // The output layer of a base in fewer bits is the one that the resumed run takes as well.
    assert_resumable(&tiny(&["head_rank=2", "model.base=bf16"]));
    assert_resumable(&tiny(&["head_rank=2", "model.base=nf4", "sft.lora=true"]));
}

#[test]
fn ranks_that_are_none_or_full_are_refused() {
    let parse = |set: &str| {
        let set: Vec<String> = TINY.iter().chain(&[set]).map(ToString::to_string).collect();
        RunConfig::parse_with(preset_text("demo").unwrap(), "demo", &set)
    };
    let e = parse("head_rank=0").unwrap_err().to_string();
    assert!(e.contains("head_rank"), "{e}");
    let config = parse("head_rank=10000").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    new_run(&run, &config);
    let (_, e) = message(go_on(&run, &mut mopo_train::Silent));
    assert!(e.contains("`head_rank` is 10000") && e.contains("smaller rank"), "{e}");
}

/// What leaves policies without heads of their own.
const NO_HEADS: [&str; 2] = ["train_heads=false", "adapters=per_policy"];

#[test]
fn policies_without_heads_keep_the_base_s_and_differ_in_their_adapters() {
    let (_tmp, run) = finished_with(&tiny(&NO_HEADS));
    let (base, _) = tensor(&run.join("warm_start/model.safetensors"), "lm_head.weight");
    for policy in 0..3 {
        let name = format!("heads.{policy}.weight");
        let (head, _) = tensor(&run.join("policy/heads.safetensors"), &name);
        assert_eq!(head, base, "{policy}");
    }
    let adapter = |policy: &str| {
        fs::read(run.join("policy/adapters").join(policy).join("adapter_model.safetensors"))
            .unwrap()
    };
    assert_ne!(adapter("helpful"), adapter("harmless"));
    let whole = metric(&finished_with(&tiny(&NO_HEADS[1..])).1, "mopo", "loss");
    let losses = metric(&run, "mopo", "loss");
    // The first step is of the same policies.
    assert_eq!(losses[0], whole[0]);
    assert_ne!(losses.last(), whole.last());
}

#[test]
fn runs_without_heads_that_are_cut_off_end_bit_for_bit_the_same() {
    let evaluated = ["training.eval_steps=2", "training.load_best_model_at_end=true"];
    assert_resumable(&tiny(&[&NO_HEADS[..], &evaluated].concat()));
    assert_resumable(&tiny_method("ham", &NO_HEADS));
    assert_resumable(&tiny(&[&NO_HEADS[..], &["model.base=nf4", "sft.lora=true"]].concat()));
}

#[test]
fn policies_without_heads_that_could_not_differ_are_refused() {
    let refused = |kind: &str, set: &[&str], words: &str| {
        let set: Vec<String> = TINY.iter().chain(set).map(ToString::to_string).collect();
        let parts = Replaced { method: Some(kind), model: None };
        let e = RunConfig::parse_replaced(preset_text("demo").unwrap(), "demo", &set, parts);
        let e = e.unwrap_err().to_string();
        assert!(e.contains("`train_heads` is false") && e.contains(words), "{e}");
    };
    refused("mopo", &NO_HEADS[..1], "per_policy");
    refused("mopo", &[&NO_HEADS[..], &["head_rank=2"]].concat(), "remove one of the two");
    refused("dpo", &NO_HEADS, "trained head, `dpo.train_head`");
}
