//! GPT-2 sequence classification, from top to bottom: embeddings of tokens and positions, blocks
//! preceded by LayerNorms, and one linear layer on the state at one position of each text.
//!
//! As in transformers' `GPT2ForSequenceClassification`. The caller chooses the position
//! ([`TokenRow::pool`]); there is no dropout.

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
use crate::layers::dense::{Activation, Attention, Dense, embed, layer_norm, linear, normal, pick};
use crate::weights::{LoadDtype::F32, Source};

/// The shape of a GPT-2 classifier; names as in Hugging Face's `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpt2Config {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Maximum length of a text, in tokens.
    pub n_positions: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Number of attention heads; divides `n_embd`.
    pub n_head: usize,
    /// Width of the feed-forward block, usually 4 · `n_embd`.
    pub n_inner: usize,
    /// Activation of the feed-forward block.
    pub activation_function: Activation,
    /// Added to the variance in LayerNorm.
    pub layer_norm_epsilon: f64,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Whether attention scores are divided by the square root of a head's size.
    pub scale_attn_weights: bool,
    /// Whether they are also divided by the block's number, counted from 1.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// The padding token, which some pooling rules need.
    pub pad_token_id: Option<u32>,
    /// Names of the labels, in the order of the logits.
    pub labels: Vec<String>,
}

impl Gpt2Config {
    /// A model of this size with `n_labels` labels; other settings are GPT-2's.
    pub fn new(
        vocab_size: usize,
        n_embd: usize,
        n_layer: usize,
        n_head: usize,
        n_labels: usize,
    ) -> Self {
        Self {
            vocab_size,
            n_positions: 1024,
            n_embd,
            n_layer,
            n_head,
            n_inner: 4 * n_embd,
            activation_function: Activation::Gelu(Gelu::Tanh),
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            pad_token_id: None,
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
        hub.check_model_type("gpt2")?;
        hub.only("add_cross_attention", &[false.into()], "cross-attention is not supported")?;
        let size = |keys: &[&'static str], most| hub.count(hub.first(keys), None, most);
        let n_embd = size(&["n_embd", "hidden_size"], MAX_WIDTH)?;
        let n_head = size(&["n_head", "num_attention_heads"], MAX_WIDTH)?;
        hub.check_divides("n_head", n_head, n_embd)?;
        let positions = hub.first(&["n_positions", "max_position_embeddings", "n_ctx"]);
        Ok(Self {
            vocab_size: hub.count("vocab_size", None, MAX_VOCABULARY)?,
            n_positions: hub.count(positions, Some(1024), MAX_POSITIONS)?,
            n_embd,
            n_layer: size(&["n_layer", "num_hidden_layers"], MAX_LAYERS)?,
            n_head,
            n_inner: hub.count("n_inner", Some(4 * n_embd), 4 * MAX_WIDTH)?,
            activation_function: Activation::read(hub, "activation_function", "gelu_new")?,
            layer_norm_epsilon: hub.number("layer_norm_epsilon", 1e-5)?,
            initializer_range: hub.number("initializer_range", 0.02)?,
            scale_attn_weights: hub.flag("scale_attn_weights", true)?,
            scale_attn_by_inverse_layer_idx: hub.flag("scale_attn_by_inverse_layer_idx", false)?,
            pad_token_id: hub.token("pad_token_id")?,
            labels: labels(hub, 2)?,
        })
    }

    pub(super) fn shape(&self) -> ClassifierShape {
        ClassifierShape {
            architecture: "gpt2",
            labels: self.labels.clone(),
            max_tokens: self.n_positions,
            vocab_size: self.vocab_size,
        }
    }

    fn to_hub(&self) -> serde_json::Value {
        let mut json = json!({
            "architectures": ["GPT2ForSequenceClassification"],
            "model_type": "gpt2",
            "vocab_size": self.vocab_size,
            "n_positions": self.n_positions,
            "n_embd": self.n_embd,
            "n_layer": self.n_layer,
            "n_head": self.n_head,
            "n_inner": self.n_inner,
            "activation_function": self.activation_function.hub_name(),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "initializer_range": self.initializer_range,
            "scale_attn_weights": self.scale_attn_weights,
            "scale_attn_by_inverse_layer_idx": self.scale_attn_by_inverse_layer_idx,
            "pad_token_id": self.pad_token_id,
            // If absent, transformers would use its own vocabulary's end of text.
            "bos_token_id": self.pad_token_id,
            "eos_token_id": self.pad_token_id,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "torch_dtype": "float32",
        });
        for (key, value) in label_keys(&self.labels) {
            json[key] = value;
        }
        json
    }

    /// A fresh model: weights from N(0, `initializer_range`²), those at the end of a branch of the
    /// residual stream divided by √(2 · `n_layer`), biases 0. Deterministic after `B::seed`.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Gpt2<B> {
        let (d, deviation) = (self.n_embd, self.initializer_range);
        let small = deviation / (2.0 * self.n_layer as f64).sqrt();
        let norm = || Norm::init(d, self.layer_norm_epsilon, device);
        let block = || Gpt2Block {
            ln_1: norm(),
            attn: Attention {
                out: Dense::init([d, d], small, device),
                ..Attention::init(d, deviation, device)
            },
            ln_2: norm(),
            c_fc: Dense::init([d, self.n_inner], deviation, device),
            c_proj: Dense::init([self.n_inner, d], small, device),
        };
        Gpt2 {
            wte: normal([self.vocab_size, d], deviation, device),
            wpe: normal([self.n_positions, d], deviation, device),
            blocks: (0..self.n_layer).map(|_| block()).collect(),
            ln_f: norm(),
            score: normal([d, self.labels.len()], deviation, device),
            config: self.clone(),
        }
    }
}

/// A GPT-2 classifier. Every parameter is trainable.
#[derive(Module, Debug)]
pub struct Gpt2<B: Backend> {
    /// Embedding of tokens, `[vocab_size, n_embd]`.
    pub wte: Param<Tensor<B, 2>>,
    /// Embedding of positions, `[n_positions, n_embd]`.
    pub wpe: Param<Tensor<B, 2>>,
    /// The blocks.
    pub blocks: Vec<Gpt2Block<B>>,
    /// The LayerNorm before the last layer.
    pub ln_f: Norm<B>,
    /// `[n_embd, n_labels]`, without a bias.
    pub score: Param<Tensor<B, 2>>,
    #[module(skip)]
    config: Gpt2Config,
}

/// One block: `x + attention(ln_1(x))`, then `x + feed_forward(ln_2(x))`.
#[derive(Module, Debug)]
pub struct Gpt2Block<B: Backend> {
    /// The LayerNorm before the attention.
    pub ln_1: Norm<B>,
    /// The attention; files have queries, keys and values in one matrix, `c_attn`.
    pub attn: Attention<B>,
    /// The LayerNorm before the feed-forward.
    pub ln_2: Norm<B>,
    /// The feed-forward's first layer, `[n_embd, n_inner]`.
    pub c_fc: Dense<B>,
    /// The feed-forward's second layer, `[n_inner, n_embd]`.
    pub c_proj: Dense<B>,
}

impl<B: FusedBackend> Gpt2<B> {
    /// Logits of texts, `[n_rows, n_labels]`. Panics for an id beyond the vocabulary, and for a
    /// text without tokens or longer than `n_positions`: see
    /// [`Classifier::check`](super::Classifier::check).
    pub fn forward(&self, rows: &[TokenRow]) -> Tensor<B, 2> {
        let config = &self.config;
        // The classified token does not see what follows it.
        let rows: Vec<TokenRow> = rows
            .iter()
            .map(|row| TokenRow { ids: row.ids[..=row.pool].to_vec(), pool: row.pool })
            .collect();
        let batch = Batch::<B>::new(&rows, &self.wte.device());
        let (causal, of_pooled) = (batch.causal(), batch.of_pooled());
        let mut x = embed(&self.wte, batch.ids) + embed(&self.wpe, batch.positions);
        let last = self.blocks.len() - 1;
        for (i, block) in self.blocks.iter().enumerate() {
            let (at, rows) = match i == last {
                true => (Some(&batch.pooled), &of_pooled),
                false => (None, &causal),
            };
            x = block.forward(x, at, rows, i, config);
        }
        let x = self.ln_f.forward(x);
        let no_bias = Tensor::zeros([config.labels.len()], &x.device());
        linear(None, x, self.score.val(), no_bias)
    }
}

impl<B: FusedBackend> Gpt2Block<B> {
    /// The states at `at`, or at all tokens; `rows` says what they see.
    fn forward(
        &self,
        x: Tensor<B, 2>,
        at: Option<&Tensor<B, 1, Int>>,
        rows: &Arc<PackedRows>,
        index: usize,
        config: &Gpt2Config,
    ) -> Tensor<B, 2> {
        let dim = config.n_embd / config.n_head;
        let mut scale = 1.0;
        if !config.scale_attn_weights {
            scale *= (dim as f64).sqrt();
        }
        if config.scale_attn_by_inverse_layer_idx {
            scale /= (index + 1) as f64;
        }
        let normed = self.ln_1.forward(x.clone());
        let (x, queries) = (pick(x, at), pick(normed.clone(), at));
        let x = self.attn.onto(x, queries, normed, rows, config.n_head, scale);
        let normed = self.ln_2.forward(x.clone());
        let inner = config.activation_function.apply(self.c_fc.forward(normed));
        self.c_proj.onto(Some(x), inner)
    }
}

impl<B: Backend> Gpt2<B> {
    /// The configuration that the model was built from.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// Loads a classifier from a Hugging Face model directory.
    ///
    /// # Errors
    /// Those of [`Gpt2Config::from_dir`]; missing, unexpected or misshapen tensors, or ones that
    /// are not
    /// finite, by name.
    pub fn load(dir: impl AsRef<Path>, device: &B::Device) -> Result<Self> {
        let hub = super::read_config(dir.as_ref())?;
        let config = Gpt2Config::from_hub(&hub)?;
        let mut files = Source::files(dir.as_ref())?;
        check_layers(&files, &hub, "n_layer", config.n_layer)?;
        // Constants of older checkpoints, and the language model's output layer.
        files.ignore(|name| {
            name.ends_with(".attn.bias")
                || name.ends_with(".attn.masked_bias")
                || name == "lm_head.weight"
        });
        let (d, inner) = (config.n_embd, config.n_inner);
        let p = files.prefix(&["transformer.", ""], "wte.weight");
        let epsilon = config.layer_norm_epsilon;
        let wte = files.matrix(&format!("{p}wte.weight"), [config.vocab_size, d], F32, device)?;
        let wpe = files.matrix(&format!("{p}wpe.weight"), [config.n_positions, d], F32, device)?;
        let mut blocks = vec![];
        for i in 0..config.n_layer {
            let name = format!("{p}h.{i}");
            let [q, k, v] = read_qkv(&mut files, &format!("{name}.attn.c_attn"), d, device)?;
            let out = read_conv(&mut files, &format!("{name}.attn.c_proj"), [d, d], device)?;
            blocks.push(Gpt2Block {
                ln_1: layer_norm(&mut files, &format!("{name}.ln_1"), d, epsilon, device)?,
                attn: Attention { q, k, v, out },
                ln_2: layer_norm(&mut files, &format!("{name}.ln_2"), d, epsilon, device)?,
                c_fc: read_conv(&mut files, &format!("{name}.mlp.c_fc"), [d, inner], device)?,
                c_proj: read_conv(&mut files, &format!("{name}.mlp.c_proj"), [inner, d], device)?,
            });
        }
        let ln_f = layer_norm(&mut files, &format!("{p}ln_f"), d, epsilon, device)?;
        let score = files.transposed("score.weight", [d, config.labels.len()], device)?;
        files.finish()?;
        let (wte, wpe, score) =
            (Param::from_tensor(wte), Param::from_tensor(wpe), Param::from_tensor(score));
        Ok(Self { wte, wpe, blocks, ln_f, score, config })
    }

    /// Writes `config.json` and `model.safetensors` to `dir`, which is created if needed, in the
    /// form of
    /// transformers' `GPT2ForSequenceClassification`. Each file is written whole or not at
    /// all.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        mopo_hub::create_dir(dir)?;
        let mut out = TensorWriter::with_dtype(None);
        out.tensor("transformer.wte.weight", self.wte.val());
        out.tensor("transformer.wpe.weight", self.wpe.val());
        for (i, block) in self.blocks.iter().enumerate() {
            let name = format!("transformer.h.{i}");
            block.ln_1.write(&mut out, &format!("{name}.ln_1"));
            let Attention { q, k, v, out: c_proj } = &block.attn;
            let weights = [q, k, v].map(|layer| layer.weight.val());
            let biases = [q, k, v].map(|layer| layer.bias.val());
            let name_qkv = format!("{name}.attn.c_attn");
            out.tensor(&format!("{name_qkv}.weight"), Tensor::cat(weights.into(), 1));
            out.tensor(&format!("{name_qkv}.bias"), Tensor::cat(biases.into(), 0));
            write_conv(&mut out, &format!("{name}.attn.c_proj"), c_proj);
            block.ln_2.write(&mut out, &format!("{name}.ln_2"));
            write_conv(&mut out, &format!("{name}.mlp.c_fc"), &block.c_fc);
            write_conv(&mut out, &format!("{name}.mlp.c_proj"), &block.c_proj);
        }
        self.ln_f.write(&mut out, "transformer.ln_f");
        out.transposed("score.weight", self.score.val());
        out.write(&dir.join(WEIGHTS))?;
        Ok(mopo_hub::write_json(&dir.join("config.json"), &self.config.to_hub())?)
    }
}

/// A layer that files store as `[inputs, outputs]` (transformers' `Conv1D`).
fn read_conv<B: Backend>(
    files: &mut Source,
    name: &str,
    shape: [usize; 2],
    device: &B::Device,
) -> Result<Dense<B>> {
    let weight = files.matrix(&format!("{name}.weight"), shape, F32, device)?;
    let bias = files.vector(&format!("{name}.bias"), shape[1], device)?;
    Ok(Dense { weight: Param::from_tensor(weight), bias: Param::from_tensor(bias) })
}

fn write_conv<B: Backend>(out: &mut TensorWriter, name: &str, layer: &Dense<B>) {
    out.tensor(&format!("{name}.weight"), layer.weight.val());
    out.tensor(&format!("{name}.bias"), layer.bias.val());
}

/// Queries, keys and values from one matrix `[d, 3 · d]`.
fn read_qkv<B: Backend>(
    files: &mut Source,
    name: &str,
    d: usize,
    device: &B::Device,
) -> Result<[Dense<B>; 3]> {
    let weight = files.matrix::<B>(&format!("{name}.weight"), [d, 3 * d], F32, device)?;
    let bias = files.vector::<B>(&format!("{name}.bias"), 3 * d, device)?;
    Ok([0, 1, 2].map(|i| Dense {
        weight: Param::from_tensor(weight.clone().narrow(1, i * d, d)),
        bias: Param::from_tensor(bias.clone().narrow(0, i * d, d)),
    }))
}
