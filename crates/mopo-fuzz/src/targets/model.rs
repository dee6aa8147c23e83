//! Files of models but for tensors and tokenizers: `config.json`, adapters, policies, settings of generation, GGUF.

use std::path::{Path, PathBuf};

use mopo_hub::gguf::TensorType;
use mopo_lm::{
    CausalLm, Classifier, ClassifierShape, DecoderShape, HubGeneration, LoadDtype, LoadOptions,
    export_gguf, load_adapter, read_policy_meta,
};
use mopo_testkit::TestBackend;

use super::files;
use crate::place::write;
use crate::{Form, Outcome, Place, Runner, Target};

const WORDS: &[&str] = &[
    "model_type",
    "phi",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "starcoder2",
    "gpt2",
    "bart",
    "distilbert",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "vocab_size",
    "head_dim",
    "max_position_embeddings",
    "rope_scaling",
    "rope_parameters",
    "rope_type",
    "yarn",
    "llama3",
    "linear",
    "dynamic",
    "longrope",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "rope_theta",
    "partial_rotary_factor",
    "sliding_window",
    "layer_types",
    "full_attention",
    "sliding_attention",
    "tie_word_embeddings",
    "hidden_act",
    "gelu_new",
    "silu",
    "attention_bias",
    "rms_norm_eps",
    "layer_norm_eps",
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "query_pre_attn_scalar",
    "id2label",
    "label2id",
    "num_labels",
    "n_embd",
    "n_head",
    "n_layer",
    "n_positions",
    "n_inner",
    "d_model",
    "encoder_layers",
    "decoder_layers",
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "torch_dtype",
    "peft_type",
    "LORA",
    "target_modules",
    "all-linear",
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layers_pattern",
    "exclude_modules",
    "modules_to_save",
    "use_dora",
    "use_rslora",
    "lora_dropout",
    "bias",
    "fan_in_fan_out",
    "base_model_name_or_path",
    "q_proj",
    "v_proj",
    "(a+)+$",
    ".*(?<!x)q_proj",
    "(?=(a*)*b)",
    "temperature",
    "top_p",
    "top_k",
    "max_new_tokens",
    "do_sample",
    "repetition_penalty",
    "eos_token",
    "objectives",
    "format",
    "base",
    "lora",
    "mixing",
    "adapters",
];

type TestDevice = <TestBackend as burn::tensor::backend::BackendTypes>::Device;

pub(super) fn targets() -> Vec<Target> {
    let target = super::alike(Form::Text, WORDS);
    vec![
        target("decoder-config", "config.json of decoders", decoder_configs, decoder_config, 10.0),
        target(
            "decoder",
            "models whose config.json was changed, with their weights",
            || files!["mopo-lm/tests/parity/fixtures/brain/config.json"],
            decoder,
            6.1,
        ),
        target(
            "classifier-config",
            "config.json of classifiers",
            || {
                files![
                    "mopo-eval/tests/reward/fixtures/bart/config.json",
                    "mopo-eval/tests/reward/fixtures/distilbert/config.json",
                    "mopo-eval/tests/reward/fixtures/gpt2/config.json",
                    "mopo-lm/tests/parity/fixtures_classifiers/llama/config.json",
                    "mopo-lm/tests/parity/fixtures_classifiers/gemma3/config.json",
                ]
            },
            |place| {
                let dir = place.path().to_path_buf();
                Box::new(move |bytes| {
                    write(&dir.join("config.json"), bytes);
                    ClassifierShape::read(&dir).into()
                })
            },
            10.0,
        ),
        target(
            "classifier",
            "classifiers whose config.json was changed, with their weights",
            || files!["mopo-eval/tests/reward/fixtures/distilbert/config.json"],
            classifier,
            5.9,
        ),
        target(
            "adapter",
            "adapter_config.json, with its tensors",
            || {
                files![
                    "mopo-lm/tests/parity/fixtures/llama3/adapter_regex/adapter_config.json",
                    "mopo-lm/tests/parity/fixtures/llama3/adapter/adapter_config.json",
                    "mopo-lm/tests/parity/fixtures/llama3/adapter_patterns/adapter_config.json",
                ]
            },
            adapter,
            0.4,
        ),
        target("policy", "policy.json", policy_seeds, policy, 10.0),
        target(
            "generation",
            "generation_config.json",
            || {
                vec![
                    b"{\"eos_token_id\": [1, 2], \"bos_token_id\": 0, \"pad_token_id\": 1, \"do_sample\": true, \
                      \"temperature\": 0.7, \"top_p\": 0.9, \"top_k\": 20, \"max_new_tokens\": 64, \
                      \"repetition_penalty\": 1.1, \"transformers_version\": \"5.0\"}"
                        .to_vec(),
                    b"{\"eos_token_id\": 2, \"_from_model_config\": true, \"num_beams\": 1}".to_vec(),
                ]
            },
            |place| {
                let dir = place.path().to_path_buf();
                Box::new(move |bytes| {
                    write(&dir.join("generation_config.json"), bytes);
                    HubGeneration::declared(&dir).into()
                })
            },
            10.0,
        ),
        Target {
            name: "gguf-model",
            reads: "models in GGUF files",
            form: Form::Binary,
            words: GGUF,
            seeds: gguf_seeds,
            start: gguf_model,
            rate: 3.2,
        },
    ]
}

const GGUF: &[&str] = &[
    "general.architecture",
    "general.alignment",
    "llama",
    "phi2",
    "gemma2",
    "qwen2",
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.attention.head_count",
    "token_embd.weight",
    "output.weight",
    "rope_freqs.weight",
    "blk.0.attn_q.weight",
    "blk.0.attn_norm.weight",
    "tokenizer.ggml.tokens",
];

fn decoder_configs() -> Vec<Vec<u8>> {
    files![
        "mopo-lm/tests/parity/fixtures/brain/config.json",
        "mopo-lm/tests/parity/fixtures/half/config.json",
        "mopo-lm/tests/parity/fixtures/gemma2/config.json",
        "mopo-lm/tests/parity/fixtures/gemma3/config.json",
        "mopo-lm/tests/parity/fixtures/llama3/config.json",
        "mopo-lm/tests/parity/fixtures/llama_yarn/config.json",
        "mopo-lm/tests/parity/fixtures/mistral/config.json",
        "mopo-lm/tests/parity/fixtures/qwen3/config.json",
        "mopo-lm/tests/parity/fixtures/starcoder2/config.json",
    ]
}

fn decoder_config(place: &Place) -> Runner {
    let dir = place.path().to_path_buf();
    Box::new(move |bytes| {
        write(&dir.join("config.json"), bytes);
        DecoderShape::read(&dir).into()
    })
}

fn load(path: &Path) -> mopo_lm::Result<CausalLm<TestBackend>> {
    CausalLm::load(path, LoadOptions::f32(), &TestDevice::default())
}

fn decoder(place: &Place) -> Runner {
    let weights = include_bytes!("../../../mopo-lm/tests/parity/fixtures/brain/model.safetensors");
    place.file("model.safetensors", weights);
    let dir = place.path().to_path_buf();
    Box::new(move |bytes| {
        write(&dir.join("config.json"), bytes);
        load(&dir).into()
    })
}

fn classifier(place: &Place) -> Runner {
    let weights =
        include_bytes!("../../../mopo-eval/tests/reward/fixtures/distilbert/model.safetensors");
    place.file("model.safetensors", weights);
    let dir = place.path().to_path_buf();
    Box::new(move |bytes| {
        write(&dir.join("config.json"), bytes);
        Classifier::<TestBackend>::load(&dir, LoadDtype::F32, &TestDevice::default()).into()
    })
}

/// The adapter of a small Llama: its configuration changes, its tensors do not.
fn adapter(place: &Place) -> Runner {
    let config = include_bytes!("../../../mopo-lm/tests/parity/fixtures/llama3/config.json");
    place.file("config.json", config);
    let shape = DecoderShape::read(place.path()).expect("the configuration of a fixture");
    let with = |name: &str, tensors: &[u8]| -> PathBuf {
        let file = place.file(&format!("{name}/adapter_model.safetensors"), tensors);
        file.parent().expect("a folder").into()
    };
    let dirs = [
        with(
            "regex",
            include_bytes!(
                "../../../mopo-lm/tests/parity/fixtures/llama3/adapter_regex/adapter_model.safetensors"
            ),
        ),
        with(
            "plain",
            include_bytes!(
                "../../../mopo-lm/tests/parity/fixtures/llama3/adapter/adapter_model.safetensors"
            ),
        ),
        with(
            "patterns",
            include_bytes!(
                "../../../mopo-lm/tests/parity/fixtures/llama3/adapter_patterns/adapter_model.safetensors"
            ),
        ),
    ];
    Box::new(move |bytes| {
        let mut outcome = Outcome::Refused;
        for dir in &dirs {
            write(&dir.join("adapter_config.json"), bytes);
            if load_adapter::<TestBackend>(dir, &shape, &TestDevice::default()).is_ok() {
                outcome = Outcome::Accepted;
            }
        }
        outcome
    })
}

fn policy_seeds() -> Vec<Vec<u8>> {
    let lora = mopo_lm::LoraConfig::default();
    let base = mopo_lm::BaseShape { num_hidden_layers: 2, hidden_size: 16, vocab_size: 100 };
    let meta = mopo_lm::PolicyMeta {
        format: 1,
        lora: lora.clone(),
        adapters: vec![],
        mixing: Default::default(),
        objectives: vec!["helpful".into(), "harmless".into()],
        base,
    };
    let own = mopo_lm::PolicyMeta { adapters: vec![lora.clone(), lora], ..meta.clone() };
    [meta, own].map(|meta| serde_json::to_vec_pretty(&meta).expect("a description")).into()
}

fn policy(place: &Place) -> Runner {
    let dir = place.path().to_path_buf();
    Box::new(move |bytes| {
        write(&dir.join("policy.json"), bytes);
        read_policy_meta(&dir).into()
    })
}

/// A small phi and a small classifier's base, exported.
fn gguf_seeds() -> Vec<Vec<u8>> {
    let place = Place::new().expect("a folder");
    place.file(
        "m/config.json",
        include_bytes!("../../../mopo-lm/tests/parity/fixtures/brain/config.json"),
    );
    let weights = include_bytes!("../../../mopo-lm/tests/parity/fixtures/brain/model.safetensors");
    place.file("m/model.safetensors", weights);
    let model = load(&place.path().join("m")).expect("a fixture");
    let file = place.path().join("model.gguf");
    export_gguf(&model, None, TensorType::F16, [], &file).expect("a folder that can be written");
    vec![std::fs::read(file).expect("what was written")]
}

fn gguf_model(place: &Place) -> Runner {
    let path = place.path().join("model.gguf");
    Box::new(move |bytes| {
        write(&path, bytes);
        load(&path).into()
    })
}
