//! Models of published sizes with random weights, which are made where they are needed: they are too large to be carried.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::random::Random;

/// A size of model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) name: &'static str,
    family: Family,
    vocabulary: usize,
    width: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    keys: usize,
    /// Whether weights are written in bfloat16, or in f32.
    is_half: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Phi,
    Llama,
}

/// Small ones of both forms of blocks, to compare devices with.
pub(super) const TINY: [Size; 2] = [
    Size {
        name: "tiny-llama",
        family: Family::Llama,
        vocabulary: 320,
        width: 64,
        inner: 160,
        layers: 2,
        heads: 4,
        keys: 2,
        is_half: false,
    },
    Size {
        name: "tiny-phi",
        family: Family::Phi,
        vocabulary: 320,
        width: 64,
        inner: 160,
        layers: 2,
        heads: 4,
        keys: 4,
        is_half: false,
    },
];

/// SmolLM2-135M's size.
pub(super) const SMOLLM2: Size = Size {
    name: "smollm2-135m",
    family: Family::Llama,
    vocabulary: 49_152,
    width: 576,
    inner: 1536,
    layers: 30,
    heads: 9,
    keys: 3,
    is_half: true,
};

/// phi-1.5's size.
pub(super) const PHI: Size = Size {
    name: "phi-1.5",
    family: Family::Phi,
    vocabulary: 51_200,
    width: 2048,
    inner: 8192,
    layers: 24,
    heads: 32,
    keys: 32,
    is_half: true,
};

impl Size {
    /// Writes the model with a tokenizer of bytes into a directory.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let put = |name: &str, value: &Value| {
            let path = dir.join(name);
            fs::write(&path, value.to_string()).with_context(|| path.display().to_string())
        };
        put("tokenizer.json", &tokenizer())?;
        let path = dir.join("model.safetensors");
        self.write_tensors(&path).with_context(|| path.display().to_string())?;
        put("config.json", &self.config())
    }

    fn config(&self) -> Value {
        let mut config = json!({
            "vocab_size": self.vocabulary, "hidden_size": self.width, "intermediate_size": self.inner,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.keys, "max_position_embeddings": 2048,
            "bos_token_id": END, "eos_token_id": END,
            "torch_dtype": if self.is_half { "bfloat16" } else { "float32" },
        });
        let own = match self.family {
            Family::Phi => json!({
                "model_type": "phi", "architectures": ["PhiForCausalLM"], "partial_rotary_factor": 0.5,
                "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "tie_word_embeddings": false,
                "rope_theta": 10000.0,
            }),
            Family::Llama => json!({
                "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
                "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "rope_theta": 100_000.0,
            }),
        };
        for (key, value) in own.as_object().expect("a table") {
            config[key] = value.clone();
        }
        config
    }

    /// Names and shapes.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (d, f) = (self.width, self.inner);
        let kv = d / self.heads * self.keys;
        let mut all = vec![("model.embed_tokens.weight".to_string(), vec![self.vocabulary, d])];
        let mut linear = |name: String, [outputs, inputs]: [usize; 2], has_bias: bool| {
            if has_bias {
                all.push((format!("{name}.bias"), vec![outputs]));
            }
            all.push((format!("{name}.weight"), vec![outputs, inputs]));
        };
        let is_phi = self.family == Family::Phi;
        let names: &[(&str, [usize; 2])] = match self.family {
            Family::Phi => &[
                ("self_attn.q_proj", [d, d]),
                ("self_attn.k_proj", [kv, d]),
                ("self_attn.v_proj", [kv, d]),
                ("self_attn.dense", [d, d]),
                ("mlp.fc1", [f, d]),
                ("mlp.fc2", [d, f]),
            ],
            Family::Llama => &[
                ("self_attn.q_proj", [d, d]),
                ("self_attn.k_proj", [kv, d]),
                ("self_attn.v_proj", [kv, d]),
                ("self_attn.o_proj", [d, d]),
                ("mlp.gate_proj", [f, d]),
                ("mlp.up_proj", [f, d]),
                ("mlp.down_proj", [d, f]),
            ],
        };
        for i in 0..self.layers {
            for (name, shape) in names {
                linear(format!("model.layers.{i}.{name}"), *shape, is_phi);
            }
        }
        if is_phi {
            linear("lm_head".into(), [self.vocabulary, d], true);
        }
        let of_block: &[&str] = match self.family {
            Family::Phi => &["input_layernorm"],
            Family::Llama => &["input_layernorm", "post_attention_layernorm"],
        };
        let norms = (0..self.layers)
            .flat_map(|i| of_block.iter().map(move |name| format!("model.layers.{i}.{name}")));
        let last = if is_phi { "model.final_layernorm" } else { "model.norm" };
        for name in norms.chain([last.to_string()]) {
            all.push((format!("{name}.weight"), vec![d]));
            if is_phi {
                all.push((format!("{name}.bias"), vec![d]));
            }
        }
        all
    }

    fn write_tensors(&self, path: &Path) -> Result<()> {
        let (size, dtype) = if self.is_half { (2, "BF16") } else { (4, "F32") };
        let tensors = self.tensors();
        let (mut header, mut end) = (Map::new(), 0);
        for (name, shape) in &tensors {
            let begin = end;
            end += size * shape.iter().product::<usize>();
            let about = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
            header.insert(name.clone(), about);
        }
        let mut header = Value::from(header).to_string();
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        let mut random = Random::of_trial(0, self.name, 0);
        for (name, shape) in &tensors {
            let is_norm = name.contains("norm");
            // Of a width that keeps the states' size from block to block.
            let width = match shape[..] {
                [_, inputs] => 0.5 / (inputs as f32).sqrt(),
                _ => 0.02,
            };
            let n = shape.iter().product::<usize>();
            // Generation stops at the last id, which must not be chosen.
            let is_last = |i: usize| shape[0] == self.vocabulary && i >= n - n / shape[0];
            for i in 0..n {
                let mut x = width * (2.0 * random.unit() as f32 - 1.0);
                if is_last(i) {
                    x = 0.0;
                }
                if is_norm && name.ends_with(".weight") {
                    x += 1.0;
                }
                let bytes = x.to_le_bytes();
                out.write_all(if self.is_half { &bytes[2..] } else { &bytes })?;
            }
        }
        out.flush()?;
        Ok(())
    }
}

/// The id of the end of a text.
const END: usize = 256;

/// A token for each byte, and one for the end.
fn tokenizer() -> Value {
    let vocabulary: Map<String, Value> =
        bytes().into_iter().enumerate().map(|(id, shown)| (shown.to_string(), json!(id))).collect();
    let level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{
            "id": END, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "normalizer": null, "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary, "merges": [],
        },
    })
}

/// The character that stands for each byte in byte-level tokenizers: itself if it can be printed, or else the next one
/// from U+0100 on.
fn bytes() -> [char; 256] {
    let mut next = 0x100_u32;
    std::array::from_fn(|byte| {
        let is_shown = matches!(byte as u8, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let code = if is_shown { byte as u32 } else { next };
        next += u32::from(!is_shown);
        char::from_u32(code).expect("a character")
    })
}

/// Pairs of several lengths, more than any check takes.
pub(super) fn pairs() -> String {
    let things = ["water", "eggs", "rice", "tea", "milk", "corn", "peas", "beans"];
    let pair = |i: usize| {
        let (thing, other) = (things[i % 8], things[(i / 8 + 3) % 8]);
        let prompt = format!("{i}. How do I boil {thing} without burning it? ");
        let chosen = format!(
            "Put {thing} in a pot with water, wait until it boils, then turn down the heat. "
        );
        let rejected = format!("I do not know, ask about {other}. ");
        let longer = 1 + i % 3;
        json!({ "prompt": prompt, "chosen": chosen.repeat(longer), "rejected": rejected.repeat(longer) })
    };
    (0..64).map(|i| format!("{}\n", pair(i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_follow_each_other_without_gaps() {
        let dir = std::env::temp_dir().join(format!("mopo-models-{}", std::process::id()));
        for size in TINY {
            size.write(&dir).unwrap();
            let bytes = fs::read(dir.join("model.safetensors")).unwrap();
            let (length, rest) = bytes.split_at(8);
            let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            assert!(length.is_multiple_of(8));
            let (header, data) = rest.split_at(length);
            let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
            assert_eq!(header.len(), size.tensors().len());
            let mut offsets: Vec<[usize; 2]> = header
                .values()
                .map(|about| serde_json::from_value(about["data_offsets"].clone()).unwrap())
                .collect();
            offsets.sort_unstable();
            let mut end = 0;
            for [from, to] in offsets {
                assert_eq!(from, end);
                end = to;
            }
            assert_eq!(end, data.len());
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let mut all = bytes();
        assert_eq!((all[b'a' as usize], all[b' ' as usize]), ('a', 'Ġ'));
        all.sort_unstable();
        assert!(all.windows(2).all(|two| two[0] < two[1]));
    }
}
