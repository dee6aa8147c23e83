//! BART sequence classification, from top to bottom: an encoder over the text, a decoder over the
//! same
//! text shifted by one token, and a head of two layers on the decoder's state at the last
//! end-of-sequence token.
//!
//! As in transformers' `BartForSequenceClassification`. Encoder and decoder share one embedding;
//! positions have an offset of two rows. There is no dropout.

use std::path::Path;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};
use mopo_hub::{TensorWriter, WEIGHTS};
use mopo_ops::{FusedBackend, Gelu, PackedRows};
use serde_json::json;

use super::ClassifierShape;
use super::labels::{check_layers, label_keys, labels, unnamed_labels};
use super::rows::{Batch, TokenRow};
use crate::Result;
use crate::hub_config::{HubConfig, MAX_LAYERS, MAX_POSITIONS, MAX_VOCABULARY, MAX_WIDTH};
use crate::layers::Norm;
use crate::layers::dense::{Activation, Attention, Dense, embed, layer_norm, normal};
use crate::weights::{LoadDtype::F32, Source};

/// Added to the variance in LayerNorm: fixed in this architecture.
const EPSILON: f64 = 1e-5;
/// Unused rows at the start of the position tables.
const OFFSET: usize = 2;

/// The shape of a BART classifier; names as in Hugging Face's `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct BartConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Maximum length of a text, in tokens.
    pub max_position_embeddings: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks of the encoder and of the decoder.
    pub layers: [usize; 2],
    /// Number of attention heads of the encoder and of the decoder; divides `d_model`.
    pub attention_heads: [usize; 2],
    /// Width of the feed-forward blocks of the encoder and of the decoder.
    pub ffn_dim: [usize; 2],
    /// Activation of the feed-forward blocks.
    pub activation_function: Activation,
    /// Multiply embeddings by √`d_model`.
    pub scale_embedding: bool,
    /// Standard deviation of fresh weights.
    pub init_std: f64,
    /// The first token of the decoder's input.
    pub decoder_start_token_id: u32,
    /// The end-of-sequence token.
    pub eos_token_id: u32,
    /// The padding token.
    pub pad_token_id: Option<u32>,
    /// Names of the labels, in the order of the logits.
    pub labels: Vec<String>,
}

impl BartConfig {
    /// A model of this size, the same for encoder and decoder; other settings are BART's.
    pub fn new(
        vocab_size: usize,
        d_model: usize,
        n_layers: usize,
        n_heads: usize,
        n_labels: usize,
    ) -> Self {
        Self {
            vocab_size,
            max_position_embeddings: 1024,
            d_model,
            layers: [n_layers; 2],
            attention_heads: [n_heads; 2],
            ffn_dim: [4 * d_model; 2],
            activation_function: Activation::Gelu(Gelu::Erf),
            scale_embedding: false,
            init_std: 0.02,
            decoder_start_token_id: 2,
            eos_token_id: 2,
            pad_token_id: Some(1),
            labels: unnamed_labels(n_labels),
        }
    }

    /// Reads `config.json` of a directory.
    ///
    /// # Errors
    /// The file, and the key that is missing, out of range, or asks for an unsupported feature.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        Self::from_hub(&super::read_config(dir.as_ref())?)
    }

    pub(crate) fn from_hub(hub: &HubConfig) -> Result<Self> {
        hub.check_model_type("bart")?;
        for (key, value, why) in [
            ("tie_word_embeddings", true, "separate embeddings are not supported"),
            ("normalize_before", false, "LayerNorm before a block is not supported"),
            ("normalize_embedding", true, "embeddings without LayerNorm are not supported"),
            ("add_final_layer_norm", false, "a LayerNorm after all blocks is not supported"),
            ("static_position_embeddings", false, "fixed positions are not supported"),
        ] {
            hub.only(key, &[value.into()], why)?;
        }
        hub.only("extra_pos_embeddings", &[OFFSET.into()], "it is 2 in every BART")?;
        let d_model = hub.count(hub.first(&["d_model", "hidden_size"]), None, MAX_WIDTH)?;
        let sides = |[encoder, decoder]: [&'static str; 2], most| -> Result<[usize; 2]> {
            Ok([hub.count(encoder, None, most)?, hub.count(decoder, None, most)?])
        };
        const HEADS: [&str; 2] = ["encoder_attention_heads", "decoder_attention_heads"];
        let attention_heads = sides(HEADS, MAX_WIDTH)?;
        for (key, heads) in HEADS.into_iter().zip(attention_heads) {
            hub.check_divides(key, heads, d_model)?;
        }
        let positions = hub.count("max_position_embeddings", Some(1024), MAX_POSITIONS)?;
        Ok(Self {
            vocab_size: hub.count("vocab_size", None, MAX_VOCABULARY)?,
            max_position_embeddings: positions,
            d_model,
            layers: sides(["encoder_layers", "decoder_layers"], MAX_LAYERS)?,
            attention_heads,
            ffn_dim: sides(["encoder_ffn_dim", "decoder_ffn_dim"], MAX_WIDTH)?,
            activation_function: Activation::read(hub, "activation_function", "gelu")?,
            scale_embedding: hub.flag("scale_embedding", false)?,
            init_std: hub.number("init_std", 0.02)?,
            decoder_start_token_id: hub.token("decoder_start_token_id")?.unwrap_or(2),
            eos_token_id: hub.token("eos_token_id")?.unwrap_or(2),
            pad_token_id: hub.token("pad_token_id")?.or(Some(1)),
            labels: labels(hub, 3)?,
        })
    }

    pub(super) fn shape(&self) -> ClassifierShape {
        ClassifierShape {
            architecture: "bart",
            labels: self.labels.clone(),
            max_tokens: self.max_position_embeddings,
            vocab_size: self.vocab_size,
        }
    }

    fn to_hub(&self) -> serde_json::Value {
        let mut json = json!({
            "architectures": ["BartForSequenceClassification"],
            "model_type": "bart",
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "d_model": self.d_model,
            "encoder_layers": self.layers[0],
            "decoder_layers": self.layers[1],
            "encoder_attention_heads": self.attention_heads[0],
            "decoder_attention_heads": self.attention_heads[1],
            "encoder_ffn_dim": self.ffn_dim[0],
            "decoder_ffn_dim": self.ffn_dim[1],
            "activation_function": self.activation_function.hub_name(),
            "scale_embedding": self.scale_embedding,
            "init_std": self.init_std,
            "decoder_start_token_id": self.decoder_start_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "is_encoder_decoder": true,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
            "classifier_dropout": 0.0,
            "torch_dtype": "float32",
        });
        for (key, value) in label_keys(&self.labels) {
            json[key] = value;
        }
        json
    }

    /// A fresh model: weights from N(0, `init_std`²), biases 0. Deterministic after `B::seed`.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Bart<B> {
        let (d, std) = (self.d_model, self.init_std);
        let block = |side: usize| BartBlock {
            self_attn: Attention::init(d, std, device),
            self_attn_layer_norm: Norm::init(d, EPSILON, device),
            cross: (side == DECODER).then(|| BartCross {
                encoder_attn: Attention::init(d, std, device),
                encoder_attn_layer_norm: Norm::init(d, EPSILON, device),
            }),
            fc1: Dense::init([d, self.ffn_dim[side]], std, device),
            fc2: Dense::init([self.ffn_dim[side], d], std, device),
            final_layer_norm: Norm::init(d, EPSILON, device),
        };
        let stack = |side: usize| BartStack {
            embed_positions: normal([self.max_position_embeddings + OFFSET, d], std, device),
            layernorm_embedding: Norm::init(d, EPSILON, device),
            layers: (0..self.layers[side]).map(|_| block(side)).collect(),
        };
        Bart {
            shared: normal([self.vocab_size, d], std, device),
            encoder: stack(ENCODER),
            decoder: stack(DECODER),
            dense: Dense::init([d, d], std, device),
            out_proj: Dense::init([d, self.labels.len()], std, device),
            config: self.clone(),
        }
    }
}

const ENCODER: usize = 0;
const DECODER: usize = 1;
const SIDES: [&str; 2] = ["encoder", "decoder"];

/// A BART classifier. Every parameter is trainable.
#[derive(Module, Debug)]
pub struct Bart<B: Backend> {
    /// Embedding of tokens, `[vocab_size, d_model]`, shared by encoder and decoder.
    pub shared: Param<Tensor<B, 2>>,
    /// Sees the whole text.
    pub encoder: BartStack<B>,
    /// Sees the text up to each token, and the encoder's states.
    pub decoder: BartStack<B>,
    /// The head's first layer, `[d_model, d_model]`, before tanh.
    pub dense: Dense<B>,
    /// The head's second layer, `[d_model, n_labels]`.
    pub out_proj: Dense<B>,
    #[module(skip)]
    config: BartConfig,
}

/// Encoder or decoder.
#[derive(Module, Debug)]
pub struct BartStack<B: Backend> {
    /// `[max_position_embeddings + 2, d_model]`.
    pub embed_positions: Param<Tensor<B, 2>>,
    /// LayerNorm of the sum of both embeddings.
    pub layernorm_embedding: Norm<B>,
    /// The blocks.
    pub layers: Vec<BartBlock<B>>,
}

/// One block: attention, in the decoder also attention to the encoder, feed-forward; each added to
/// its input, followed by a LayerNorm.
#[derive(Module, Debug)]
pub struct BartBlock<B: Backend> {
    /// Attention within encoder or decoder.
    pub self_attn: Attention<B>,
    /// The LayerNorm after it.
    pub self_attn_layer_norm: Norm<B>,
    /// Attention to the encoder, in the decoder.
    pub cross: Option<BartCross<B>>,
    /// The feed-forward's first layer, `[d_model, ffn_dim]`.
    pub fc1: Dense<B>,
    /// The feed-forward's second layer, `[ffn_dim, d_model]`.
    pub fc2: Dense<B>,
    /// The LayerNorm after it.
    pub final_layer_norm: Norm<B>,
}

/// Attention to the encoder's states.
#[derive(Module, Debug)]
pub struct BartCross<B: Backend> {
    /// Queries of the decoder, keys and values of the encoder.
    pub encoder_attn: Attention<B>,
    /// The LayerNorm after it.
    pub encoder_attn_layer_norm: Norm<B>,
}

/// Which tokens see each other, in encoder or decoder.
struct Sees<B: Backend> {
    own: Arc<PackedRows>,
    encoder: Option<(Tensor<B, 2>, Arc<PackedRows>)>,
    heads: usize,
}

impl<B: FusedBackend> Bart<B> {
    /// Logits of texts, `[n_rows, n_labels]`. Panics for an id beyond the vocabulary, and for a
    /// text without tokens or longer than `max_position_embeddings`: see
    /// [`Classifier::check`](super::Classifier::check).
    pub fn forward(&self, rows: &[TokenRow]) -> Tensor<B, 2> {
        let config = &self.config;
        let device = self.shared.device();
        let batch = Batch::<B>::new(rows, &device);
        // The decoder's input is shifted: each token follows the one from which it is predicted.
        let start = config.decoder_start_token_id;
        let moved: Vec<i32> = rows
            .iter()
            .flat_map(|row| std::iter::once(&start).chain(&row.ids[..row.ids.len() - 1]))
            .map(|id| *id as i32)
            .collect();
        let moved = Tensor::<B, 1, Int>::from_data(moved.as_slice(), &device);
        let (whole, causal) = (batch.bidirectional(), batch.causal());

        let own =
            Sees { own: whole.clone(), encoder: None, heads: config.attention_heads[ENCODER] };
        let states = self.side(&self.encoder, batch.ids, batch.positions.clone(), &own);
        let own = Sees {
            own: causal,
            encoder: Some((states, whole)),
            heads: config.attention_heads[DECODER],
        };
        let states = self.side(&self.decoder, moved, batch.positions, &own);
        let x = self.dense.forward(states.select(0, batch.pooled)).tanh();
        self.out_proj.forward(x)
    }

    /// The states of encoder or decoder, `[n_tokens, d_model]`.
    fn side(
        &self,
        stack: &BartStack<B>,
        ids: Tensor<B, 1, Int>,
        positions: Tensor<B, 1, Int>,
        sees: &Sees<B>,
    ) -> Tensor<B, 2> {
        let x = embed(&self.shared, ids);
        let x = match self.config.scale_embedding {
            true => x.mul_scalar((self.config.d_model as f64).sqrt()),
            false => x,
        };
        let x = x + embed(&stack.embed_positions, positions.add_scalar(OFFSET as i32));
        let mut x = stack.layernorm_embedding.forward(x);
        for layer in &stack.layers {
            x = layer.forward(x, sees, self.config.activation_function);
        }
        x
    }
}

impl<B: FusedBackend> BartBlock<B> {
    fn forward(&self, x: Tensor<B, 2>, sees: &Sees<B>, activation: Activation) -> Tensor<B, 2> {
        let x = self.self_attn.onto(x.clone(), x.clone(), x, &sees.own, sees.heads, 1.0);
        let mut x = self.self_attn_layer_norm.forward(x);
        if let (Some(cross), Some((states, rows))) = (&self.cross, &sees.encoder) {
            let keys = states.clone();
            let y = cross.encoder_attn.onto(x.clone(), x, keys, rows, sees.heads, 1.0);
            x = cross.encoder_attn_layer_norm.forward(y);
        }
        let inner = activation.apply(self.fc1.forward(x.clone()));
        self.final_layer_norm.forward(self.fc2.onto(Some(x), inner))
    }
}

/// Names of an attention's layers in files.
fn attention_names(attention: &str) -> [String; 4] {
    ["q_proj", "k_proj", "v_proj", "out_proj"].map(|name| format!("{attention}.{name}"))
}

impl<B: Backend> Bart<B> {
    /// The configuration that the model was built from.
    pub fn config(&self) -> &BartConfig {
        &self.config
    }

    /// Loads a classifier from a Hugging Face model directory.
    ///
    /// # Errors
    /// Those of [`BartConfig::from_dir`]; missing, unexpected or misshapen tensors, or ones that
    /// are not
    /// finite, by name.
    pub fn load(dir: impl AsRef<Path>, device: &B::Device) -> Result<Self> {
        let hub = super::read_config(dir.as_ref())?;
        let config = BartConfig::from_hub(&hub)?;
        let mut files = Source::files(dir.as_ref())?;
        check_layers(&files, &hub, "encoder_layers", config.layers[0])?;
        check_layers(&files, &hub, "decoder_layers", config.layers[1])?;
        let p = files.prefix(&["model.", ""], "encoder.embed_positions.weight");
        // The shared embedding, under any of its names in files.
        let names = ["shared", "encoder.embed_tokens", "decoder.embed_tokens"]
            .map(|name| format!("{p}{name}.weight"));
        let name = names.iter().find(|name| files.contains(name)).unwrap_or(&names[0]);
        let shape = [config.vocab_size, config.d_model];
        let shared = Param::from_tensor(files.matrix(name, shape, F32, device)?);
        // Copies of it, and the language model's output layer.
        files.ignore(|name| {
            names.iter().any(|copy| copy == name)
                || name == "lm_head.weight"
                || name.ends_with("final_logits_bias")
        });
        let encoder = read_stack(&mut files, p, &config, ENCODER, device)?;
        let decoder = read_stack(&mut files, p, &config, DECODER, device)?;
        let d = config.d_model;
        let head = "classification_head";
        let dense = Dense::read(&mut files, &format!("{head}.dense"), [d, d], device)?;
        let shape = [d, config.labels.len()];
        let out_proj = Dense::read(&mut files, &format!("{head}.out_proj"), shape, device)?;
        files.finish()?;
        Ok(Self { shared, encoder, decoder, dense, out_proj, config })
    }

    /// Writes `config.json` and `model.safetensors` to `dir`, which is created if needed, in the
    /// form of
    /// transformers' `BartForSequenceClassification`. Each file is written whole or not at
    /// all.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        mopo_hub::create_dir(dir)?;
        let mut out = TensorWriter::with_dtype(None);
        out.tensor("model.shared.weight", self.shared.val());
        for (side, stack) in SIDES.into_iter().zip([&self.encoder, &self.decoder]) {
            let name = format!("model.{side}");
            out.tensor(&format!("{name}.embed_positions.weight"), stack.embed_positions.val());
            stack.layernorm_embedding.write(&mut out, &format!("{name}.layernorm_embedding"));
            for (i, layer) in stack.layers.iter().enumerate() {
                let name = format!("{name}.layers.{i}");
                layer.self_attn.write(&mut out, attention_names(&format!("{name}.self_attn")));
                layer.self_attn_layer_norm.write(&mut out, &format!("{name}.self_attn_layer_norm"));
                if let Some(cross) = &layer.cross {
                    let names = attention_names(&format!("{name}.encoder_attn"));
                    cross.encoder_attn.write(&mut out, names);
                    let norm = format!("{name}.encoder_attn_layer_norm");
                    cross.encoder_attn_layer_norm.write(&mut out, &norm);
                }
                layer.fc1.write(&mut out, &format!("{name}.fc1"));
                layer.fc2.write(&mut out, &format!("{name}.fc2"));
                layer.final_layer_norm.write(&mut out, &format!("{name}.final_layer_norm"));
            }
        }
        self.dense.write(&mut out, "classification_head.dense");
        self.out_proj.write(&mut out, "classification_head.out_proj");
        out.write(&dir.join(WEIGHTS))?;
        Ok(mopo_hub::write_json(&dir.join("config.json"), &self.config.to_hub())?)
    }
}

fn read_stack<B: Backend>(
    files: &mut Source,
    prefix: &str,
    config: &BartConfig,
    side: usize,
    device: &B::Device,
) -> Result<BartStack<B>> {
    let (d, ffn) = (config.d_model, config.ffn_dim[side]);
    let stack = format!("{prefix}{}", SIDES[side]);
    let shape = [config.max_position_embeddings + OFFSET, d];
    let positions = files.matrix(&format!("{stack}.embed_positions.weight"), shape, F32, device)?;
    let layernorm_embedding =
        layer_norm(files, &format!("{stack}.layernorm_embedding"), d, EPSILON, device)?;
    let mut layers = vec![];
    for i in 0..config.layers[side] {
        let name = format!("{stack}.layers.{i}");
        let mut attention = |attention: &str| -> Result<_> {
            let names = attention_names(&format!("{name}.{attention}"));
            let norm = format!("{name}.{attention}_layer_norm");
            Ok((
                Attention::read(files, names, d, device)?,
                layer_norm(files, &norm, d, EPSILON, device)?,
            ))
        };
        let (self_attn, self_attn_layer_norm) = attention("self_attn")?;
        let cross = match side {
            DECODER => {
                let (encoder_attn, encoder_attn_layer_norm) = attention("encoder_attn")?;
                Some(BartCross { encoder_attn, encoder_attn_layer_norm })
            }
            _ => None,
        };
        layers.push(BartBlock {
            self_attn,
            self_attn_layer_norm,
            cross,
            fc1: Dense::read(files, &format!("{name}.fc1"), [d, ffn], device)?,
            fc2: Dense::read(files, &format!("{name}.fc2"), [ffn, d], device)?,
            final_layer_norm: layer_norm(
                files,
                &format!("{name}.final_layer_norm"),
                d,
                EPSILON,
                device,
            )?,
        });
    }
    Ok(BartStack { embed_positions: Param::from_tensor(positions), layernorm_embedding, layers })
}
