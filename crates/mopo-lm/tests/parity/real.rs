//! The published models that `cargo xtask models` fetches, against transformers on the same dequantised weights.
//!
//! transformers takes minutes: a few tokens per second in f32. `MOPO_REFERENCE_PYTHON` names a Python with the
//! packages of requirements.txt.

use std::path::Path;
use std::process::Command;

use burn::tensor::activation::log_softmax;
use mopo_lm::{CausalLm, Decoder, KvCache, LoadOptions, NewTokens};
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::{B, largest, values};

/// Logits this close together may be in either order.
const TIE: f32 = 1e-5;
const MAX_KL: f64 = 1e-3;

/// What check_real.py writes beside the log-probabilities.
#[derive(Deserialize)]
struct Told {
    prompts: Vec<Vec<u32>>,
    /// Greedy tokens after the first prompts.
    greedy: Vec<Vec<u32>>,
}

/// KL(p ‖ q) of two rows of log-probabilities.
fn kl(p: &[f32], q: &[f32]) -> f64 {
    p.iter().zip(q).map(|(p, q)| f64::from(*p).exp() * (f64::from(*p) - f64::from(*q))).sum()
}

/// Continues a prompt with these tokens, which must be the most likely ones, or nearly tied with them.
fn follow(model: &CausalLm<B>, prompt: &[u32], tokens: &[u32]) {
    let n = prompt.len() + tokens.len();
    let device = Default::default();
    let (mut cache, mut row) = KvCache::for_sequences(&model.shape(), [n], &device);
    let new = NewTokens::of_prompts([(prompt, &mut row[0])], &device);
    let mut hidden = model.next_states(&new, None, &mut cache);
    for (i, token) in tokens.iter().enumerate() {
        let logits = values(model.lm_head().logits(hidden));
        let best = largest(&logits);
        let behind = logits[best as usize] - logits[*token as usize];
        assert!(behind <= TIE, "token {i}: {best} instead of {token}, by {behind:e}");
        let new = NewTokens::of_answers([(&[*token][..], &mut row[0])], &device);
        hidden = model.next_states(&new, None, &mut cache);
    }
}

#[test]
fn published_models_predict_what_transformers_predicts() {
    let models = mopo_testkit::real_models();
    if models.is_empty() {
        mopo_testkit::skip!("fetch the models with `cargo xtask models`");
    }
    let Some(python) = std::env::var_os("MOPO_REFERENCE_PYTHON") else {
        mopo_testkit::skip!(
            "name a Python with tests/parity/requirements.txt in MOPO_REFERENCE_PYTHON"
        );
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/check_real.py");
    for path in models {
        let out = tempfile::tempdir().unwrap();
        let mut command = Command::new(&python);
        let status = command.arg(&script).arg(&path).arg(out.path()).env("HF_HUB_OFFLINE", "1");
        assert!(status.status().expect("the program that MOPO_REFERENCE_PYTHON names").success());
        let told = std::fs::read(out.path().join("told.json")).unwrap();
        let told: Told = serde_json::from_slice(&told).unwrap();
        let bytes = std::fs::read(out.path().join("log_probs.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let model =
            CausalLm::<B>::load(&path, LoadOptions::default(), &Default::default()).unwrap();
        assert_eq!(told.prompts.len(), 50);
        let mut largest_kl = 0.0_f64;
        for (i, prompt) in told.prompts.iter().enumerate() {
            let device = Default::default();
            let (mut cache, mut row) =
                KvCache::for_sequences(&model.shape(), [prompt.len()], &device);
            let new = NewTokens::of_prompts([(&prompt[..], &mut row[0])], &device);
            let hidden = model.next_states(&new, None, &mut cache);
            let found = values(log_softmax(model.lm_head().logits(hidden), 1));
            let expected = tensors.tensor(&i.to_string()).unwrap();
            let (numbers, _) = expected.data().as_chunks();
            let expected: Vec<f32> = numbers.iter().map(|b| f32::from_le_bytes(*b)).collect();
            assert_eq!(found.len(), expected.len());
            let kl = kl(&expected, &found);
            assert!(kl <= MAX_KL, "{}, prompt {i}: KL {kl:.1e}", path.display());
            largest_kl = largest_kl.max(kl);
        }
        for (prompt, tokens) in told.prompts.iter().zip(&told.greedy) {
            assert_eq!(tokens.len(), 64);
            follow(&model, prompt, tokens);
        }
        println!(
            "{}: KL of 50 prompts at most {largest_kl:.1e}; {} greedy continuations of 64 tokens agree",
            path.display(),
            told.greedy.len()
        );
    }
}
