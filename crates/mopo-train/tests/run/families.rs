//! Runs on other families than phi, and on GGUF files; SFT of an adapter on a frozen base.

use burn::tensor::{Tensor, TensorData};
use mopo_hub::TensorWriter;
use mopo_hub::gguf::{GgufWriter, TensorType};
use mopo_lm::{
    Architecture, CausalLm, Decoder, GenerationConfig, HeadChoice, LoadOptions, Weight, generate,
};
use mopo_testkit::TestBackend;
use mopo_train::config::ModelSource;
use mopo_train::{ExportChoice, ExportSource, load_base};
use serde_json::json;

use super::resume::cut;
use super::*;

const VOCABULARY: usize = 300;
const WIDTH: usize = 32;
const INNER: usize = 64;
const KEYS: usize = 16;

/// The matrices of a Llama with one block, tied, two heads of queries and one of keys: names on Hugging Face and in
/// GGUF files, shapes `[outputs, inputs]`.
const MATRICES: [(&str, &str, [usize; 2]); 8] = [
    ("model.embed_tokens", "token_embd", [VOCABULARY, WIDTH]),
    ("model.layers.0.self_attn.q_proj", "blk.0.attn_q", [WIDTH, WIDTH]),
    ("model.layers.0.self_attn.k_proj", "blk.0.attn_k", [KEYS, WIDTH]),
    ("model.layers.0.self_attn.v_proj", "blk.0.attn_v", [KEYS, WIDTH]),
    ("model.layers.0.self_attn.o_proj", "blk.0.attn_output", [WIDTH, WIDTH]),
    ("model.layers.0.mlp.gate_proj", "blk.0.ffn_gate", [INNER, WIDTH]),
    ("model.layers.0.mlp.up_proj", "blk.0.ffn_up", [INNER, WIDTH]),
    ("model.layers.0.mlp.down_proj", "blk.0.ffn_down", [WIDTH, INNER]),
];
const NORMS: [(&str, &str); 3] = [
    ("model.layers.0.input_layernorm", "blk.0.attn_norm"),
    ("model.layers.0.post_attention_layernorm", "blk.0.ffn_norm"),
    ("model.norm", "output_norm"),
];

/// Numbers that depend on the matrix.
fn values(which: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| 0.4 * ((i * 7 + which * 13) as f32 * 0.37).sin()).collect()
}

pub(super) fn directory(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let mut out = TensorWriter::default();
    for (i, (name, _, [rows, columns])) in MATRICES.into_iter().enumerate() {
        let data = TensorData::new(values(i, rows * columns), [rows, columns]);
        let tensor = Tensor::<TestBackend, 2>::from_data(data, &Default::default());
        out.tensor(&format!("{name}.weight"), tensor);
    }
    for (name, _) in NORMS {
        let ones = Tensor::<TestBackend, 1>::ones([WIDTH], &Default::default());
        out.tensor(&format!("{name}.weight"), ones);
    }
    out.write(&dir.join("model.safetensors")).unwrap();
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY,
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
    });
    mopo_hub::write_json(&dir.join("config.json"), &config).unwrap();
}

fn gguf(path: &Path) {
    let mut out = GgufWriter::default();
    out.value("general.architecture", "llama");
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", WIDTH),
        ("feed_forward_length", INNER),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        out.value(&format!("llama.{key}"), value as u32);
    }
    out.value("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
    for (i, (_, name, [rows, columns])) in MATRICES.into_iter().enumerate() {
        let n = rows * columns;
        out.tensor(&format!("{name}.weight"), &[rows, columns], TensorType::Q8_0, move || {
            values(i, n)
        });
    }
    for (_, name) in NORMS {
        out.tensor(&format!("{name}.weight"), &[WIDTH], TensorType::F32, || vec![1.0; WIDTH]);
    }
    out.write(path).unwrap();
}

fn on(model: &Path, more: &[&str]) -> RunConfig {
    let mut config = tiny(more);
    config.model.source = ModelSource::Hub(model.into());
    config
}

/// Whether the linear layers of a run's base are in blocks or codes.
fn is_quantised(run: &Path) -> bool {
    let (dir, config, _) = RunDir::open(run).unwrap();
    let base = load_base::<TestAutodiffBackend>(&dir, config.model.base, &Default::default());
    let Architecture::Serial(base) = base.unwrap().architecture else { panic!("a llama") };
    matches!(base.layers[0].linears[0].weight, Weight::Quantised(_))
}

#[test]
fn an_adapter_is_trained_on_a_llama_a_quantised_one_and_a_gguf_file() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, file) = (tmp.path().join("llama"), tmp.path().join("llama.gguf"));
    directory(&dir);
    gguf(&file);
    let nf4 = "model.base=nf4";
    for (model, more, quantised) in
        [(&dir, None, false), (&dir, Some(nf4), true), (&file, None, true)]
    {
        let more: Vec<&str> = ["sft.lora=true"].into_iter().chain(more).collect();
        let config = on(model, &more);
        let (_whole, whole) = finished_with(&config);
        assert_eq!(is_quantised(&whole), quantised);
        let losses: Vec<f64> =
            metrics(&whole).iter().map(|row| row["loss"].as_f64().unwrap()).collect();
        assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");

        // Killed in SFT and in MOPO, the run ends with the same bytes.
        let other = tempfile::tempdir().unwrap();
        let run = other.path().join("run");
        new_run(&run, &config);
        cut(&run, "warm_start", 4);
        cut(&run, "mopo", 3);
        go_on(&run, &mut Silent).unwrap();
        for name in ["warm_start/adapter_model.safetensors", "policy/adapter_model.safetensors"] {
            let read = |run: &Path| std::fs::read(run.join(name)).unwrap();
            assert!(read(&whole) == read(&run), "{name} differs");
        }
        assert_eq!(metrics(&whole), metrics(&run));

        // The SFT model is an export like any, and has the adapter in its weights.
        let device = Default::default();
        let out = other.path().join("sft");
        let source = ExportSource::open(&whole).unwrap();
        source.export::<TestBackend>(ExportChoice::Sft, None, &out, false, &device).unwrap();
        let exported = CausalLm::<TestBackend>::load(&out, LoadOptions::f32(), &device).unwrap();
        assert!(exported.own_adapter().is_none());
        let (dir, config, _) = RunDir::open(&whole).unwrap();
        let base = load_base::<TestBackend>(&dir, config.model.base, &device).unwrap();
        let settings =
            GenerationConfig { temperature: 0.0, max_new_tokens: 12, ..Default::default() };
        let answer = |model: &CausalLm<TestBackend>| {
            let prompts = [vec![70, 80, 90], vec![65]];
            generate(model, None, HeadChoice::Base, &prompts, 0, &settings, &device).unwrap()
        };
        assert_eq!(answer(&exported), answer(&base));
        assert_ne!(answer(&base), answer(&base.clone().without_adapter()));
    }
}

#[test]
fn policies_start_as_the_sft_model_with_its_adapter() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("llama");
    directory(&dir);
    let (_run, run) = finished_with(&on(&dir, &["sft.lora=true", "training.steps=0"]));
    let read = |folder: &str| std::fs::read(run.join(folder).join("adapter_model.safetensors"));
    assert!(read("warm_start").unwrap() == read("policy").unwrap());

    // Without SFT an adapter beside the weights is gone on with, and one of another size refused.
    let model = run.join("warm_start");
    let again = on(&model, &["sft.steps=0", "training.steps=0"]);
    let (_again, again) = finished_with(&again);
    let policy = std::fs::read(again.join("policy/adapter_model.safetensors")).unwrap();
    assert!(policy == read("policy").unwrap());
    let dropped = on(&model, &["sft.steps=2"]);
    let error = dropped.check_files(&|_| unreachable!("no rewards"), None).unwrap_err().to_string();
    assert!(error.contains("an adapter of its own") && error.contains("sft.steps = 0"), "{error}");
    let other = on(&model, &["sft.steps=0", "training.steps=1", "lora.rank=3"]);
    let out = tempfile::tempdir().unwrap();
    let run = out.path().join("run");
    new_run(&run, &other);
    let (_, error) = message(go_on(&run, &mut Silent));
    assert!(error.contains("`lora`") && error.contains("of rank 2"), "{error}");
}

#[test]
fn only_sft_has_the_choice() {
    let config = tiny(&["training.lora=true"]);
    let error = config.check_files(&|_| unreachable!("no rewards"), None).unwrap_err().to_string();
    assert!(error.contains("training.lora"), "{error}");
}

#[test]
fn the_sft_model_of_a_run_is_the_base_of_another() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, file) = (tmp.path().join("llama"), tmp.path().join("llama.gguf"));
    directory(&dir);
    gguf(&file);
    for (model, lora) in [(None, false), (Some(&dir), true), (Some(&file), true)] {
        let mut config = tiny(&["training.steps=1"]);
        config.sft.lora = lora;
        if let Some(model) = model {
            config.model.source = ModelSource::Hub(model.into());
        }
        let (_first, first) = finished_with(&config);
        // Of the run itself, or of its folder: all of the model, adapter and tokenizer included.
        for given in [first.clone(), first.join("warm_start")] {
            let set: Vec<String> = TINY
                .iter()
                .chain(&["sft.steps=0", "training.steps=1", "model.base=checkpoint"])
                .map(|s| s.to_string())
                .collect();
            let parts = Replaced { model: Some(&given), method: None };
            let text = preset_text("demo").unwrap();
            let config = RunConfig::parse_replaced(text, "demo", &set, parts).unwrap();
            let (_second, second) = finished_with(&config);
            let read = |run: &Path, name: &str| std::fs::read(run.join(name)).unwrap();
            for entry in std::fs::read_dir(first.join("warm_start")).unwrap() {
                let name = format!("warm_start/{}", entry.unwrap().file_name().to_str().unwrap());
                assert!(read(&first, &name) == read(&second, &name), "{name} of {model:?}");
            }
            for name in ["tokenizer.json", "data/heldout.jsonl", "initial_log_probs.safetensors"] {
                assert!(read(&first, name) == read(&second, name), "{name} of {model:?}");
            }
        }
    }
}
