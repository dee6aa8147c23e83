//! DistilBERT sequence classification, from top to bottom: embeddings with a LayerNorm, blocks
//! followed
//! by LayerNorms, and two layers on the state of each text's first token.
//!
//! As in transformers' `DistilBertForSequenceClassification`, without dropout.

use std::path::Path;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, activation};
use mopo_hub::{TensorWriter, WEIGHTS};
use mopo_ops::{FusedBackend, Gelu, PackedRows};
use serde_json::json;

use super::ClassifierShape;
use super::labels::{check_layers, label_keys, labels, unnamed_labels};
use super::rows::{Batch, TokenRow};
use crate::Result;
use crate::hub_config::{HubConfig, MAX_LAYERS, MAX_POSITIONS, MAX_VOCABULARY, MAX_WIDTH};
use crate::layers::Norm;
use crate::layers::dense::{self, Activation, Attention, Dense, embed, normal, pick};
use crate::weights::{LoadDtype::F32, Source};

/// Added to the variance in LayerNorm: fixed in this architecture.
const EPSILON: f64 = 1e-12;

/// The shape of a DistilBERT classifier; names as in Hugging Face's `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct DistilBertConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Maximum length of a text, in tokens.
    pub max_position_embeddings: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Number of attention heads; divides `dim`.
    pub n_heads: usize,
    /// Width of the feed-forward block.
    pub hidden_dim: usize,
    /// Activation of the feed-forward block.
    pub activation: Activation,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// The padding token.
    pub pad_token_id: Option<u32>,
    /// Names of the labels, in the order of the logits.
    pub labels: Vec<String>,
}

impl DistilBertConfig {
    /// A model of this size with `n_labels` labels; other settings are DistilBERT's.
    pub fn new(
        vocab_size: usize,
        dim: usize,
        n_layers: usize,
        n_heads: usize,
        n_labels: usize,
    ) -> Self {
        Self {
            vocab_size,
            max_position_embeddings: 512,
            dim,
            n_layers,
            n_heads,
            hidden_dim: 4 * dim,
            activation: Activation::Gelu(Gelu::Erf),
            initializer_range: 0.02,
            pad_token_id: Some(0),
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
        hub.check_model_type("distilbert")?;
        let size = |keys: &[&'static str], most| hub.count(hub.first(keys), None, most);
        let dim = size(&["dim", "hidden_size"], MAX_WIDTH)?;
        let n_heads = size(&["n_heads", "num_attention_heads"], MAX_WIDTH)?;
        hub.check_divides("n_heads", n_heads, dim)?;
        let positions = hub.count("max_position_embeddings", Some(512), MAX_POSITIONS)?;
        // `sinusoidal_pos_embds` says how the table was made; the file has the table either way.
        Ok(Self {
            vocab_size: hub.count("vocab_size", None, MAX_VOCABULARY)?,
            max_position_embeddings: positions,
            dim,
            n_layers: size(&["n_layers", "num_hidden_layers"], MAX_LAYERS)?,
            n_heads,
            hidden_dim: hub.count("hidden_dim", Some(4 * dim), 4 * MAX_WIDTH)?,
            activation: Activation::read(hub, "activation", "gelu")?,
            initializer_range: hub.number("initializer_range", 0.02)?,
            pad_token_id: hub.token("pad_token_id")?,
            labels: labels(hub, 2)?,
        })
    }

    pub(super) fn shape(&self) -> ClassifierShape {
        ClassifierShape {
            architecture: "distilbert",
            labels: self.labels.clone(),
            max_tokens: self.max_position_embeddings,
            vocab_size: self.vocab_size,
        }
    }

    fn to_hub(&self) -> serde_json::Value {
        let mut json = json!({
            "architectures": ["DistilBertForSequenceClassification"],
            "model_type": "distilbert",
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "dim": self.dim,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "hidden_dim": self.hidden_dim,
            "activation": self.activation.hub_name(),
            "initializer_range": self.initializer_range,
            "pad_token_id": self.pad_token_id,
            "sinusoidal_pos_embds": false,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "seq_classif_dropout": 0.0,
            "torch_dtype": "float32",
        });
        for (key, value) in label_keys(&self.labels) {
            json[key] = value;
        }
        json
    }

    /// A fresh model: weights from N(0, `initializer_range`²), biases 0. Deterministic after
    /// `B::seed`.
    pub fn init<B: Backend>(&self, device: &B::Device) -> DistilBert<B> {
        let (d, deviation) = (self.dim, self.initializer_range);
        let block = || DistilBertBlock {
            attention: Attention::init(d, deviation, device),
            sa_layer_norm: Norm::init(d, EPSILON, device),
            lin1: Dense::init([d, self.hidden_dim], deviation, device),
            lin2: Dense::init([self.hidden_dim, d], deviation, device),
            output_layer_norm: Norm::init(d, EPSILON, device),
        };
        DistilBert {
            word_embeddings: normal([self.vocab_size, d], deviation, device),
            position_embeddings: normal([self.max_position_embeddings, d], deviation, device),
            layer_norm: Norm::init(d, EPSILON, device),
            layers: (0..self.n_layers).map(|_| block()).collect(),
            pre_classifier: Dense::init([d, d], deviation, device),
            classifier: Dense::init([d, self.labels.len()], deviation, device),
            config: self.clone(),
        }
    }
}

/// A DistilBERT classifier. Every parameter is trainable.
#[derive(Module, Debug)]
pub struct DistilBert<B: Backend> {
    /// `[vocab_size, dim]`.
    pub word_embeddings: Param<Tensor<B, 2>>,
    /// `[max_position_embeddings, dim]`.
    pub position_embeddings: Param<Tensor<B, 2>>,
    /// LayerNorm of the sum of both.
    pub layer_norm: Norm<B>,
    /// The blocks.
    pub layers: Vec<DistilBertBlock<B>>,
    /// `[dim, dim]`, before max(x, 0).
    pub pre_classifier: Dense<B>,
    /// `[dim, n_labels]`.
    pub classifier: Dense<B>,
    #[module(skip)]
    config: DistilBertConfig,
}

/// One block: LayerNorm of `x + attention(x)`, then LayerNorm of `x + feed_forward(x)`.
#[derive(Module, Debug)]
pub struct DistilBertBlock<B: Backend> {
    /// The attention, over the whole text.
    pub attention: Attention<B>,
    /// The LayerNorm after it.
    pub sa_layer_norm: Norm<B>,
    /// The feed-forward's first layer, `[dim, hidden_dim]`.
    pub lin1: Dense<B>,
    /// The feed-forward's second layer, `[hidden_dim, dim]`.
    pub lin2: Dense<B>,
    /// The LayerNorm after it.
    pub output_layer_norm: Norm<B>,
}

impl<B: FusedBackend> DistilBert<B> {
    /// Logits of texts, `[n_rows, n_labels]`. Panics for an id beyond the vocabulary, and for a
    /// text without tokens or longer than `max_position_embeddings`: see
    /// [`Classifier::check`](super::Classifier::check).
    pub fn forward(&self, rows: &[TokenRow]) -> Tensor<B, 2> {
        let config = &self.config;
        let batch = Batch::<B>::new(rows, &self.word_embeddings.device());
        let (whole, of_pooled) = (batch.bidirectional(), batch.of_pooled());
        let x = embed(&self.word_embeddings, batch.ids)
            + embed(&self.position_embeddings, batch.positions);
        let mut x = self.layer_norm.forward(x);
        let last = self.layers.len() - 1;
        for (i, layer) in self.layers.iter().enumerate() {
            let (at, rows) = match i == last {
                true => (Some(&batch.pooled), &of_pooled),
                false => (None, &whole),
            };
            x = layer.forward(x, at, rows, config);
        }
        let x = self.pre_classifier.forward(x);
        self.classifier.forward(activation::relu(x))
    }
}

impl<B: FusedBackend> DistilBertBlock<B> {
    /// The states at `at`, or at all tokens; `rows` says what they see.
    fn forward(
        &self,
        x: Tensor<B, 2>,
        at: Option<&Tensor<B, 1, Int>>,
        rows: &Arc<PackedRows>,
        config: &DistilBertConfig,
    ) -> Tensor<B, 2> {
        let queries = pick(x.clone(), at);
        let x = self.attention.onto(queries.clone(), queries, x, rows, config.n_heads, 1.0);
        let x = self.sa_layer_norm.forward(x);
        let inner = config.activation.apply(self.lin1.forward(x.clone()));
        self.output_layer_norm.forward(self.lin2.onto(Some(x), inner))
    }
}

/// Names of an attention's layers in files.
fn attention_names(layer: &str) -> [String; 4] {
    ["q_lin", "k_lin", "v_lin", "out_lin"].map(|name| format!("{layer}.attention.{name}"))
}

impl<B: Backend> DistilBert<B> {
    /// The configuration that the model was built from.
    pub fn config(&self) -> &DistilBertConfig {
        &self.config
    }

    /// Loads a classifier from a Hugging Face model directory.
    ///
    /// # Errors
    /// Those of [`DistilBertConfig::from_dir`]; missing, unexpected or misshapen tensors, or ones
    /// that are not
    /// finite, by name.
    pub fn load(dir: impl AsRef<Path>, device: &B::Device) -> Result<Self> {
        let hub = super::read_config(dir.as_ref())?;
        let config = DistilBertConfig::from_hub(&hub)?;
        let mut files = Source::files(dir.as_ref())?;
        check_layers(&files, &hub, "n_layers", config.n_layers)?;
        // A constant of older checkpoints, and the language model's output layers.
        files
            .ignore(|name| name.ends_with("embeddings.position_ids") || name.starts_with("vocab_"));
        let (d, hidden, n_labels) = (config.dim, config.hidden_dim, config.labels.len());
        let p = files.prefix(&["distilbert.", ""], "embeddings.word_embeddings.weight");
        let table = |files: &mut Source, name: &str, rows| {
            let table =
                files.matrix(&format!("{p}embeddings.{name}.weight"), [rows, d], F32, device);
            table.map(Param::from_tensor)
        };
        let word_embeddings = table(&mut files, "word_embeddings", config.vocab_size)?;
        let position_embeddings =
            table(&mut files, "position_embeddings", config.max_position_embeddings)?;
        let layer_norm =
            dense::layer_norm(&mut files, &format!("{p}embeddings.LayerNorm"), d, EPSILON, device)?;
        let mut layers = vec![];
        for i in 0..config.n_layers {
            let name = format!("{p}transformer.layer.{i}");
            let norm = |files: &mut Source, norm: &str| {
                dense::layer_norm(files, &format!("{name}.{norm}"), d, EPSILON, device)
            };
            layers.push(DistilBertBlock {
                attention: Attention::read(&mut files, attention_names(&name), d, device)?,
                sa_layer_norm: norm(&mut files, "sa_layer_norm")?,
                lin1: Dense::read(&mut files, &format!("{name}.ffn.lin1"), [d, hidden], device)?,
                lin2: Dense::read(&mut files, &format!("{name}.ffn.lin2"), [hidden, d], device)?,
                output_layer_norm: norm(&mut files, "output_layer_norm")?,
            });
        }
        let pre_classifier = Dense::read(&mut files, "pre_classifier", [d, d], device)?;
        let classifier = Dense::read(&mut files, "classifier", [d, n_labels], device)?;
        files.finish()?;
        Ok(Self {
            word_embeddings,
            position_embeddings,
            layer_norm,
            layers,
            pre_classifier,
            classifier,
            config,
        })
    }

    /// Writes `config.json` and `model.safetensors` to `dir`, which is created if needed, in the
    /// form of
    /// transformers' `DistilBertForSequenceClassification`. Each file is written whole or
    /// not at all.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        mopo_hub::create_dir(dir)?;
        let mut out = TensorWriter::with_dtype(None);
        let embeddings = "distilbert.embeddings";
        out.tensor(&format!("{embeddings}.word_embeddings.weight"), self.word_embeddings.val());
        out.tensor(
            &format!("{embeddings}.position_embeddings.weight"),
            self.position_embeddings.val(),
        );
        self.layer_norm.write(&mut out, &format!("{embeddings}.LayerNorm"));
        for (i, layer) in self.layers.iter().enumerate() {
            let name = format!("distilbert.transformer.layer.{i}");
            layer.attention.write(&mut out, attention_names(&name));
            layer.sa_layer_norm.write(&mut out, &format!("{name}.sa_layer_norm"));
            layer.lin1.write(&mut out, &format!("{name}.ffn.lin1"));
            layer.lin2.write(&mut out, &format!("{name}.ffn.lin2"));
            layer.output_layer_norm.write(&mut out, &format!("{name}.output_layer_norm"));
        }
        self.pre_classifier.write(&mut out, "pre_classifier");
        self.classifier.write(&mut out, "classifier");
        out.write(&dir.join(WEIGHTS))?;
        Ok(mopo_hub::write_json(&dir.join("config.json"), &self.config.to_hub())?)
    }
}
