//! Policies as GGUF files: of every architecture and in every type, read back here and by llama.cpp.
//!
//! The latter needs a Python with the packages of crates/mopo-data/tests/gguf/requirements.txt, which
//! MOPO_LLAMA_PYTHON names.

use std::ffi::OsStr;
use std::process::Command;

use burn::module::Param;
use burn::tensor::{Distribution, Tensor, TensorData};
use mopo_data::{ChatTemplate, Tokenizer};
use mopo_hub::TensorWriter;
use mopo_hub::gguf::{GgufFile, TensorType};
use mopo_lm::{
    AdapterSharing, CausalLm, Decoder, DecoderShape, GenerationConfig, HeadChoice, LoadOptions,
    LoraConfig, Mixing, PackedBatch, PolicyParams, Weight, generate, save_policy,
};
use mopo_testkit::TestBackend as B;
use mopo_train::{ExportChoice, ExportSource, Sampler, check_gguf_place};
use serde_json::{Value, json};

use super::*;

const TEXTS: [&str; 4] = [
    "\n\nHuman: How do I boil the water?\n\nAssistant: Boil it.",
    "Größe, 茶, naïve café 🫖\t\r\n   3.14 it's IT'S",
    "a aa aaa <|endoftext|> [PAD300]",
    "fn main() { println!(\"{}\", 1 + 2); }",
];
const NEW_TOKENS: usize = 32;
const TEMPLATE: &str = "tokenizer.chat_template";
/// Rows of whole blocks of all types.
const WIDTH: usize = 256;
const TYPES: [TensorType; 7] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::Bf16,
    TensorType::Q8_0,
    TensorType::Q5_0,
    TensorType::Q4_0,
    TensorType::Q4K,
];

/// `config.json` of a tiny model of each architecture, and the norms of its blocks.
fn families(vocab_size: usize) -> Vec<(&'static str, Value, &'static [&'static str])> {
    let family = |model_type: &str, class: &str, more: Value| {
        let mut config = json!({
            "model_type": model_type, "architectures": [class], "vocab_size": vocab_size,
            "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let llama_3 = json!({
        "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    });
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
    const TWO: &[&str] = &["input_layernorm", "post_attention_layernorm"];
    const HEADS: &[&str] =
        &["input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"];
    const GEMMA: &[&str] = &[
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
        "self_attn.q_norm",
        "self_attn.k_norm",
    ];
    vec![
        (
            "llama",
            family(
                "llama",
                "LlamaForCausalLM",
                json!({
                    "num_key_value_heads": 2, "rope_scaling": llama_3, "rope_theta": 500.0,
                    "tie_word_embeddings": true, "attention_bias": true, "mlp_bias": true,
                }),
            ),
            TWO,
        ),
        (
            "mistral",
            family(
                "mistral",
                "MistralForCausalLM",
                json!({"num_key_value_heads": 1, "sliding_window": null}),
            ),
            TWO,
        ),
        (
            "qwen2",
            family(
                "qwen2",
                "Qwen2ForCausalLM",
                json!({"num_key_value_heads": 2, "rope_scaling": yarn}),
            ),
            TWO,
        ),
        (
            "qwen3",
            family("qwen3", "Qwen3ForCausalLM", json!({"num_key_value_heads": 2, "head_dim": 32})),
            HEADS,
        ),
        (
            "gemma3",
            family(
                "gemma3_text",
                "Gemma3ForCausalLM",
                json!({
                    "num_key_value_heads": 1, "head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 8,
                    "num_hidden_layers": 7, "rope_theta": 100_000.0, "rope_local_base_freq": 100.0,
                    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
                }),
            ),
            GEMMA,
        ),
        (
            "phi",
            family("phi", "PhiForCausalLM", json!({"hidden_act": "gelu_new"})),
            &["input_layernorm"],
        ),
    ]
}

/// Numbers of either sign, at most `size`.
fn noise(n: usize, size: f32, seed: &mut u64) -> Vec<f32> {
    let next = || {
        *seed =
            seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        size * ((*seed >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// Writes a random model with this configuration.
fn model(dir: &Path, config: &Value, norms: &[&str]) {
    std::fs::create_dir_all(dir).unwrap();
    mopo_hub::write_json(&dir.join("config.json"), config).unwrap();
    let shape = DecoderShape::read(dir).unwrap();
    let kind = config["model_type"].as_str().unwrap();
    let (is_phi, is_gemma) = (kind == "phi", kind == "gemma3_text");
    let mut out = TensorWriter::default();
    let mut seed = 7;
    let mut add = |name: String, dims: [usize; 2], size: f32, plus: f32| {
        let values: Vec<f32> =
            noise(dims[0] * dims[1], size, &mut seed).into_iter().map(|x| x + plus).collect();
        let device = Default::default();
        match dims {
            [1, n] => {
                out.tensor(&name, Tensor::<B, 1>::from_data(TensorData::new(values, [n]), &device))
            }
            _ => {
                out.tensor(&name, Tensor::<B, 2>::from_data(TensorData::new(values, dims), &device))
            }
        }
    };
    let one = if is_gemma { 0.0 } else { 1.0 };
    let (vocab, d) = (shape.vocab_size, shape.hidden_size);
    add("model.embed_tokens.weight".into(), [vocab, d], if is_gemma { 0.1 } else { 0.6 }, 0.0);
    for i in 0..shape.num_hidden_layers {
        let name = |path: &str| format!("model.layers.{i}.{path}");
        for linear in &shape.linears {
            let [inputs, outputs] = linear.shape;
            let has_bias = is_phi
                || config["attention_bias"] == true
                || kind == "qwen2" && linear.reads_input && linear.path.starts_with("self_attn");
            add(name(&format!("{}.weight", linear.path)), [outputs, inputs], 0.12, 0.0);
            if has_bias {
                add(name(&format!("{}.bias", linear.path)), [1, outputs], 0.2, 0.0);
            }
        }
        for norm in norms {
            let width = match norm.starts_with("self_attn") {
                true => config["head_dim"].as_u64().unwrap() as usize,
                false => d,
            };
            add(name(&format!("{norm}.weight")), [1, width], 0.3, one);
            if is_phi {
                add(name(&format!("{norm}.bias")), [1, width], 0.3, 0.0);
            }
        }
    }
    let last = if is_phi { "model.final_layernorm" } else { "model.norm" };
    add(format!("{last}.weight"), [1, d], 0.3, one);
    if is_phi {
        add(format!("{last}.bias"), [1, d], 0.3, 0.0);
        add("lm_head.bias".into(), [1, vocab], 0.1, 0.0);
    }
    if is_phi || config["tie_word_embeddings"] != true && !is_gemma {
        add("lm_head.weight".into(), [vocab, d], 0.1, 0.0);
    }
    out.write(&dir.join("model.safetensors")).unwrap();
}

/// An export of all policies: a random model, an adapter, and a head that differs from the model's.
fn policies(
    dir: &Path,
    config: &Value,
    norms: &[&str],
    tokenizer: &Tokenizer,
) -> (CausalLm<B>, PolicyParams<B>) {
    model(&dir.join("base"), config, norms);
    let device = Default::default();
    let base = CausalLm::<B>::load(&dir.join("base"), LoadOptions::f32(), &device).unwrap();
    let lora = LoraConfig { rank: 2, ..Default::default() };
    let mut params = PolicyParams::init(&base, &lora, 1, AdapterSharing::Shared, &device);
    for pair in
        params.adapters[0].layers.iter_mut().flat_map(|layer| layer.pairs.iter_mut().flatten())
    {
        let like = pair.b.val();
        pair.b = Param::from_tensor(like.random_like(Distribution::Uniform(-0.05, 0.05)));
    }
    let head = &mut params.heads.heads[0];
    let weight = head.weight.dense();
    let moved = weight.random_like(Distribution::Uniform(-0.02, 0.02)) + weight;
    head.weight = Weight::Dense(Param::from_tensor(moved));
    let (shape, names) = (base.shape(), ["kind".into()]);
    save_policy(&params, &shape, &[lora], &names, Mixing::default(), dir.join("policy")).unwrap();
    tokenizer.save(dir.join("tokenizer.json")).unwrap();
    mopo_hub::write_json(&dir.join("tokenizer_config.json"), &tokenizer.settings()).unwrap();
    (base, params)
}

fn greedy(
    model: &CausalLm<B>,
    params: Option<&PolicyParams<B>>,
    prompts: &[Vec<u32>],
) -> Vec<Vec<u32>> {
    let head = if params.is_some() { HeadChoice::Policy(0) } else { HeadChoice::Base };
    let config =
        GenerationConfig { temperature: 0.0, max_new_tokens: NEW_TOKENS, ..Default::default() };
    generate(model, params, head, prompts, u32::MAX, &config, &Default::default()).unwrap()
}

/// By how much the logit of a continuation's token is below the largest one, at most, as a part of the range of all
/// logits: 0 if the continuation is the greedy one.
fn behind(model: &CausalLm<B>, prompt: &[u32], continued: &[u32]) -> f32 {
    let row = [prompt, continued].concat();
    let pair = ([&row[..], &[0], &[]], [true, false]);
    let inputs = PackedBatch::pack(&[pair]).unwrap().inputs(&Default::default());
    let logits = model.lm_head().logits(model.hidden_states_packed(&inputs, None));
    let vocab = model.shape().vocab_size;
    let all: Vec<f32> = logits.into_data().to_vec().unwrap();
    let positions = all.chunks_exact(vocab).skip(prompt.len() - 1);
    let parts = positions.zip(continued).map(|(logits, token)| {
        let (low, high) =
            logits.iter().fold((f32::MAX, f32::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
        (high - logits[*token as usize]) / (high - low)
    });
    parts.fold(0.0, f32::max)
}

/// The same for several prompts.
fn furthest_behind(model: &CausalLm<B>, prompts: &[Vec<u32>], continued: &[Vec<u32>]) -> f32 {
    let rows = prompts.iter().zip(continued);
    rows.map(|(prompt, row)| behind(model, prompt, row)).fold(0.0, f32::max)
}

/// The largest relative error of a tensor, in the Frobenius norm.
fn worst_matrix(exact: &GgufFile, stored: &GgufFile) -> f64 {
    let square = |values: &[f32]| values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let errors = exact.tensors().iter().map(|tensor| {
        let expected = exact.dequantise(tensor).unwrap();
        let found = stored.tensor(&tensor.name, &tensor.shape).unwrap();
        let found = stored.dequantise(found).unwrap();
        let differences: Vec<f32> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
        (square(&differences) / square(&expected)).sqrt()
    });
    errors.fold(0.0, f64::max)
}

/// What llama.cpp makes of files: their metadata, ids of texts, and greedy continuations of prompts.
fn llama_cpp(python: &OsStr, files: &[PathBuf], prompts: &[Vec<u32>]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run/check_gguf.py");
    let asked = json!({"texts": TEXTS, "prompts": prompts, "new_tokens": NEW_TOKENS});
    let output = Command::new(python).arg(script).arg(asked.to_string()).args(files).output();
    let output = output.expect("the program that MOPO_LLAMA_PYTHON names");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn policies_of_every_architecture_become_files_of_every_type() {
    let python = std::env::var_os("MOPO_LLAMA_PYTHON");
    let tokenizer = Tokenizer::train(TEXTS.into_iter(), 300).unwrap();
    let tokenizer = tokenizer.for_training(ChatTemplate::Dialogue).unwrap();
    let prompts: Vec<Vec<u32>> = TEXTS.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
    let tmp = tempfile::tempdir().unwrap();
    let device = Default::default();
    for (name, config, norms) in families(tokenizer.vocab_size() + 5) {
        let dir = tmp.path().join(name);
        let (base, params) = policies(&dir, &config, norms, &tokenizer);
        let expected = greedy(&base, Some(&params), &prompts);
        let source = ExportSource::open(&dir).unwrap();
        let files = TYPES.map(|kind| dir.join(format!("{kind}.gguf")));
        for (kind, out) in TYPES.into_iter().zip(&files) {
            let choice = ExportChoice::Policy(0);
            let counts = source.export_gguf::<B>(choice, kind, out, false, &device).unwrap();
            assert!(counts[kind.name()] > 8, "{name}: {counts:?}");
            let file = GgufFile::open(out).unwrap();
            let template: &str = file.metadata().get(TEMPLATE).unwrap();
            assert_eq!(template, ChatTemplate::Dialogue.jinja());
            assert_eq!(file.metadata().get::<&str>("general.name").unwrap(), kind.name());
            let read = Tokenizer::load(out).unwrap();
            for text in TEXTS {
                assert_eq!(read.encode(text).unwrap(), tokenizer.encode(text).unwrap());
            }
            assert_eq!(
                (read.form(), read.vocab_size()),
                (tokenizer.form(), tokenizer.vocab_size())
            );
            let model = CausalLm::<B>::load(out, LoadOptions::default(), &device).unwrap();
            if kind == TensorType::F32 {
                assert_eq!(greedy(&model, None, &prompts), expected, "{name}");
            }
            // Few bits change what a random model prefers, but no weight by much.
            let worst = worst_matrix(&GgufFile::open(&files[0]).unwrap(), &file);
            assert!(worst <= 0.1, "{name}, {kind}: {worst}");
            let tolerance = match kind {
                TensorType::F32 => 1e-4,
                TensorType::F16 | TensorType::Bf16 => 0.02,
                TensorType::Q8_0 => 0.05,
                _ => continue,
            };
            let most = furthest_behind(&model, &prompts, &expected);
            assert!(most <= tolerance, "{name}, {kind}: {most}");
        }
        let Some(python) = &python else { continue };
        let told = llama_cpp(python, &files, &prompts);
        assert_eq!(told.len(), files.len());
        for ((kind, out), told) in TYPES.into_iter().zip(&files).zip(told) {
            assert_eq!(told["ids"], json!(prompts), "{name}");
            assert_eq!(told["metadata"][TEMPLATE], ChatTemplate::Dialogue.jinja());
            let continued: Vec<Vec<u32>> =
                serde_json::from_value(told["continued"].clone()).unwrap();
            let model = CausalLm::<B>::load(out, LoadOptions::default(), &device).unwrap();
            let most = furthest_behind(&model, &prompts, &continued);
            println!(
                "{name}, {kind}: llama.cpp's tokens are at most {most:.1e} of the range of logits behind"
            );
            // Products of blocks round the activations to 8 bits there, and those of F16 to 16.
            let tolerance = match kind {
                TensorType::F32 => 1e-3,
                TensorType::F16 | TensorType::Bf16 => 0.02,
                _ => 0.1,
            };
            assert!(most <= tolerance, "{name}, {kind}: {most}");
        }
    }
    if python.is_none() {
        mopo_testkit::skip_rest!(
            "name a Python with crates/mopo-data/tests/gguf/requirements.txt in MOPO_LLAMA_PYTHON"
        );
    }
}

#[test]
fn a_run_becomes_a_file_that_answers_alike_and_replaces_only_such_files() {
    let (tmp, run) = finished(&[]);
    let out = tmp.path().join("new/helpful.gguf");
    let device = Default::default();
    let source = ExportSource::open(&run).unwrap();
    let export = |choice, out: &Path, force| {
        source.export_gguf::<B>(choice, TensorType::F32, out, force, &device)
    };
    export(ExportChoice::Policy(0), &out, false).unwrap();
    let answer = |place: &Path| {
        let sampler = Sampler::<B>::open(place, &device).unwrap();
        let prompt = sampler.prompt("How do I make tea?").unwrap();
        let config =
            GenerationConfig { temperature: 0.0, max_new_tokens: 12, ..Default::default() };
        let head = sampler.head(None, None).unwrap();
        sampler.answer(head, &[prompt], &config, &mut Silent).unwrap()
    };
    assert_eq!(answer(&out), answer(&run));
    let bytes = std::fs::read(&out).unwrap();

    let message = |result: Result<_>| result.map(drop).unwrap_err().to_string();
    let e = message(export(ExportChoice::Sft, &out, false));
    assert!(e.contains("exists") && e.contains("--force"), "{e}");
    assert!(std::fs::read(&out).unwrap() == bytes);
    export(ExportChoice::Sft, &out, true).unwrap();
    assert!(std::fs::read(&out).unwrap() != bytes);
    let e = message(export(ExportChoice::All, &tmp.path().join("all.gguf"), false));
    assert!(e.contains("one policy"), "{e}");

    let other = tmp.path().join("notes.gguf");
    std::fs::write(&other, "mine").unwrap();
    for (place, words) in [
        (&other, "not a GGUF file"),
        (&tmp.path().join("helpful"), "….gguf"),
        (&run.join("warm_start/model.gguf"), "it belongs to"),
        (&other.join("below.gguf"), "is not a directory"),
    ] {
        let e = check_gguf_place(place, true).unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
    }
    assert_eq!(std::fs::read(&other).unwrap(), b"mine");
    let names: Vec<_> = std::fs::read_dir(tmp.path().join("new")).unwrap().collect();
    assert_eq!(names.len(), 1);
}
