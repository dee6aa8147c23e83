//! Every family against the results of transformers and PEFT (fixtures/, written by make_fixtures.py and
//! make_families.py, which describe them), and the files that this crate writes against the loaders of
//! these libraries.
//!
//! The latter needs Python with the packages of requirements.txt: `MOPO_REFERENCE_PYTHON` names it.
//! `MOPO_REFERENCE_RUN` may name the directory of a finished run, whose files are then checked too.

mod classifiers;
mod exports;
mod gguf;
mod quantised;
mod real;

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::Tensor;
use mopo_lm::{
    CausalLm, Decoder, GenerationConfig, HeadChoice, LoadOptions, LoraAdapter, LoraConfig,
    OutputLayer, PackedBatch, PolicyHeads, PolicyParams, generate, load_adapter,
    sequence_log_probs, token_log_probs,
};
use mopo_testkit::TestBackend;
use safetensors::SafeTensors;
use serde::Deserialize;

type B = TestBackend;

/// Of phi, and of the other families.
const MODELS: [&str; 14] = [
    "half",
    "shards",
    "brain",
    "pytorch",
    "llama2",
    "llama3",
    "llama_yarn",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "starcoder2",
    "phi3",
];

/// transformers' results for a model, or for a model with an adapter.
#[derive(Deserialize)]
struct Told {
    sequences: Vec<Vec<u32>>,
    pairs: Vec<Pair>,
    prompts: Vec<Vec<u32>>,
    /// A token that occurs in no continuation.
    unused: u32,
    continued: Vec<Vec<u32>>,
    /// A token at which some continuations end.
    end: u32,
    stopped: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct Pair {
    prompt: Vec<u32>,
    first: Vec<u32>,
    second: Vec<u32>,
    first_log_probs: Vec<f32>,
    second_log_probs: Vec<f32>,
}

struct Case {
    name: String,
    model: CausalLm<B>,
    lora: Option<(LoraAdapter<B>, LoraConfig)>,
    told: Told,
    /// `[positions * vocab_size]` for each sequence.
    logits: Vec<Vec<f32>>,
}

impl Case {
    fn adapter(&self) -> Option<&LoraAdapter<B>> {
        self.lora.as_ref().map(|(adapter, _)| adapter)
    }

    /// Logits at all positions of the rows, computed together.
    fn logits_together(&self, rows: &[Vec<u32>]) -> Vec<Vec<f32>> {
        logits_of(&self.model, self.adapter(), &self.model.lm_head(), rows)
    }
}

/// Logits at all positions of the rows, computed together.
fn logits_of(
    model: &CausalLm<B>,
    adapter: Option<&LoraAdapter<B>>,
    lm_head: &OutputLayer<B>,
    rows: &[Vec<u32>],
) -> Vec<Vec<f32>> {
    let unread = [0];
    let pairs: Vec<_> =
        rows.iter().map(|row| ([row.as_slice(), &unread, &[]], [true, false])).collect();
    let batch = PackedBatch::pack(&pairs).unwrap();
    let inputs = batch.inputs(&Default::default());
    let all = values(lm_head.logits(model.hidden_states_packed(&inputs, adapter)));
    let vocab = model.shape().vocab_size;
    let rows = batch.rows.rows().iter();
    rows.map(|row| all[row.start * vocab..(row.start + row.prompt) * vocab].to_vec()).collect()
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures")
}

fn cases() -> Vec<Case> {
    let device = Default::default();
    let mut cases = vec![];
    for model in MODELS {
        let dir = fixtures().join(model);
        let base = CausalLm::load(&dir, LoadOptions::f32(), &device).unwrap().no_grad();
        let told = std::fs::read(dir.with_extension("json")).unwrap();
        let mut told: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&told).unwrap();
        let version = told.remove("transformers").unwrap();
        assert_eq!(version, "5.23.0", "the version that the documentation names");
        let tensors = std::fs::read(dir.with_extension("safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&tensors).unwrap();
        for (part, told) in told {
            let told: Told = serde_json::from_value(told).unwrap();
            let logits = |i| {
                let bytes = tensors.tensor(&format!("{part}.{i}")).unwrap().data().to_vec();
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            };
            cases.push(Case {
                name: format!("{model}, {part}"),
                model: base.clone(),
                lora: (part != "base")
                    .then(|| load_adapter(dir.join(&part), &base.shape(), &device).unwrap()),
                logits: (0..told.sequences.len()).map(logits).collect(),
                told,
            });
        }
    }
    assert_eq!(cases.len(), 28);
    cases
}

fn values<const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().to_vec().unwrap()
}

/// The largest |a − b| / |b|, where a |b| below 0.1 counts as 0.1; fails above 1e-4.
fn relative(name: &str, found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "{name}");
    let differences =
        found.iter().zip(expected).map(|(found, b)| (found - b).abs() / b.abs().max(0.1));
    let largest = differences.fold(0.0, |a: f32, b| if b.is_nan() { b } else { a.max(b) });
    assert!(largest <= 1e-4, "{name}: {largest:.1e}");
    largest
}

fn largest(token_logits: &[f32]) -> u32 {
    (0..token_logits.len()).max_by(|a, b| token_logits[*a].total_cmp(&token_logits[*b])).unwrap()
        as u32
}

#[test]
fn logits_agree_alone_and_packed() {
    for case in cases() {
        let sequences = &case.told.sequences;
        let alone = sequences.iter().map(|ids| case.logits_together(std::slice::from_ref(ids)));
        let alone: Vec<f32> = alone.flatten().flatten().collect();
        let expected = case.logits.concat();
        let alone = relative(&case.name, &alone, &expected);
        let together = relative(&case.name, &case.logits_together(sequences).concat(), &expected);
        println!("{}: logits differ by {alone:.1e}, packed by {together:.1e}", case.name);
    }
}

#[test]
fn log_probabilities_of_packed_pairs_agree_with_those_of_separate_rows() {
    for case in cases() {
        let told = &case.told;
        let pairs: Vec<_> =
            told.pairs.iter().map(|p| ([&p.prompt[..], &p.first, &p.second], [true; 2])).collect();
        let batch = PackedBatch::pack(&pairs).unwrap();
        let responses: Vec<usize> = (0..batch.responses.len()).collect();
        let inputs = batch.inputs(&Default::default());
        let hidden = case.model.hidden_states_packed(&inputs, case.adapter());
        let head = &case.model.lm_head();
        let of_tokens = values(token_log_probs(hidden.clone(), head, &batch, &responses));
        let of_sequences = values(sequence_log_probs(hidden, head, &batch, &responses));
        let expected: Vec<&Vec<f32>> =
            told.pairs.iter().flat_map(|p| [&p.first_log_probs, &p.second_log_probs]).collect();
        let sums: Vec<f32> = expected.iter().map(|one| one.iter().sum()).collect();
        let expected: Vec<f32> = expected.into_iter().flatten().copied().collect();
        let of_tokens = relative(&case.name, &of_tokens, &expected);
        let of_sequences = relative(&case.name, &of_sequences, &sums);
        println!("{}: tokens differ by {of_tokens:.1e}, sums by {of_sequences:.1e}", case.name);
    }
}

#[test]
fn greedy_continuations_are_equal_with_and_without_the_cache() {
    for case in cases() {
        let (told, name) = (&case.told, &case.name);
        let params = case.adapter().map(|adapter| PolicyParams {
            adapters: vec![adapter.clone()],
            heads: PolicyHeads::from_base(&case.model.lm_head(), 1),
        });
        let head = if params.is_some() { HeadChoice::Policy(0) } else { HeadChoice::Base };
        let config = GenerationConfig { temperature: 0.0, ..Default::default() };
        let with_cache = |end| {
            let (params, head, device) = (params.as_ref(), head.clone(), Default::default());
            generate(&case.model, params, head, &told.prompts, end, &config, &device).unwrap()
        };
        assert_eq!(with_cache(told.unused), told.continued, "{name}");
        assert_eq!(with_cache(told.end), told.stopped, "{name}");
        assert!(told.continued.iter().all(|row| row.len() == 64), "{name}");

        let mut rows = told.prompts.clone();
        for _ in 0..64 {
            let logits = case.logits_together(&rows);
            for (row, logits) in rows.iter_mut().zip(logits) {
                row.push(largest(&logits[logits.len() - case.model.shape().vocab_size..]));
            }
        }
        let new = rows.iter().zip(&told.prompts).map(|(row, prompt)| row[prompt.len()..].to_vec());
        assert_eq!(new.collect::<Vec<_>>(), told.continued, "{name}");
    }
}
