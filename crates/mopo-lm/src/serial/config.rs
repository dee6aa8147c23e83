//! What a serial decoder is made of, whatever its family.

use mopo_ops::{Activation, Heads, NormKind};
use serde_json::{Map, Value};

use crate::Result;
use crate::decoder::{DecoderShape, LinearShape};
use crate::hub_config::{
    HubConfig, MAX_LAYERS, MAX_PARAMS, MAX_POSITIONS, MAX_VOCABULARY, MAX_WIDTH,
};
use crate::layers::Rotary;

/// A serial decoder's sizes and parts.
#[derive(Debug, Clone)]
pub(crate) struct SerialConfig {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) max_position_embeddings: usize,
    /// Without the window, which is the layers'.
    pub(crate) heads: Heads,
    pub(crate) head_dim: usize,
    pub(crate) norm: NormKind,
    pub(crate) epsilon: f64,
    /// Of queries, keys and values, and of the attention's output.
    pub(crate) attention_biases: [bool; 2],
    pub(crate) feed_forward_bias: bool,
    /// Norms of queries' and keys' heads.
    pub(crate) has_head_norms: bool,
    /// Norms after each sub-layer.
    pub(crate) has_post_norms: bool,
    pub(crate) is_gated: bool,
    /// Whether one layer makes queries, keys and values, and one gate and up, as Phi-3's do.
    pub(crate) is_joined: bool,
    pub(crate) activation: Activation,
    pub(crate) rotaries: Vec<Rotary>,
    /// One for each block.
    pub(crate) layers: Vec<LayerKind>,
    /// Rows of the embedding are multiplied with it.
    pub(crate) embedding_scale: Option<f64>,
    pub(crate) output_soft_cap: Option<f32>,
    /// Whether the output layer is the embedding; also of a decoder without an output layer.
    pub(crate) is_tied: bool,
    pub(crate) names: Names,
    /// The model's `config.json`.
    pub(crate) hub: Map<String, Value>,
}

/// What differs between blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerKind {
    /// An index into [`SerialConfig::rotaries`].
    pub(crate) rotary: usize,
    /// How many of the last tokens a token sees.
    pub(crate) window: Option<usize>,
}

/// Names of modules within a block that are not the same in all families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) attention_post_norm: &'static str,
    pub(crate) feed_forward_norm: &'static str,
    pub(crate) feed_forward_post_norm: &'static str,
}

impl Names {
    /// Those of Llama and most others. Only Gemma has norms after its sub-layers.
    pub(crate) fn llama() -> Self {
        Self {
            gate: "mlp.gate_proj",
            up: "mlp.up_proj",
            down: "mlp.down_proj",
            attention_post_norm: "",
            feed_forward_norm: "post_attention_layernorm",
            feed_forward_post_norm: "",
        }
    }

    /// Those of Gemma 2 and 3.
    pub(crate) fn gemma() -> Self {
        Self {
            attention_post_norm: "post_attention_layernorm",
            feed_forward_norm: "pre_feedforward_layernorm",
            feed_forward_post_norm: "post_feedforward_layernorm",
            ..Self::llama()
        }
    }
}

impl SerialConfig {
    /// Reads what all families name alike, as Llama has it: RMSNorm, SwiGLU, no biases, no caps, the same rotary
    /// embedding without a window in every block. A family's file changes what it has otherwise.
    pub(crate) fn read(config: &HubConfig, defaults: Defaults) -> Result<Self> {
        config.only(
            "quantization_config",
            &[],
            "only weights in f32, f16 and bf16 are supported; use the unquantised model and quantise it \
             with `model.base`",
        )?;
        let hidden_size = config.count("hidden_size", None, MAX_WIDTH)?;
        let queries = config.count("num_attention_heads", None, MAX_WIDTH)?;
        let keys = config.count("num_key_value_heads", Some(queries), MAX_WIDTH)?;
        if !queries.is_multiple_of(keys) {
            let expected = format!("it must divide `num_attention_heads` ({queries})");
            return Err(config.invalid("num_key_value_heads", keys.to_string(), &expected));
        }
        let head_dim = match (config.value("head_dim"), defaults.head_dim) {
            (None, None) if !hidden_size.is_multiple_of(queries) => {
                let expected = format!("it must divide `hidden_size` ({hidden_size})");
                return Err(config.invalid("num_attention_heads", queries.to_string(), &expected));
            }
            (None, None) => hidden_size / queries,
            (_, default) => config.count("head_dim", default, 1 << 16)?,
        };
        let max_positions = defaults.max_position_embeddings;
        let max_position_embeddings =
            config.count("max_position_embeddings", Some(max_positions), MAX_POSITIONS)?;
        let n_layers = config.count("num_hidden_layers", None, MAX_LAYERS)?;
        let this = Self {
            vocab_size: config.count("vocab_size", None, MAX_VOCABULARY)?,
            hidden_size,
            intermediate_size: config.count("intermediate_size", None, MAX_WIDTH)?,
            max_position_embeddings,
            heads: Heads { keys, ..Heads::new(queries) },
            head_dim,
            norm: NormKind::Rms,
            epsilon: config.number("rms_norm_eps", 1e-6)?,
            attention_biases: [false; 2],
            feed_forward_bias: false,
            has_head_norms: false,
            has_post_norms: false,
            is_gated: true,
            is_joined: false,
            activation: Activation::Silu,
            rotaries: vec![],
            layers: vec![LayerKind { rotary: 0, window: None }; n_layers],
            embedding_scale: None,
            output_soft_cap: None,
            is_tied: config.flag("tie_word_embeddings", defaults.is_tied)?,
            names: Names::llama(),
            hub: config.json().clone(),
        };
        if this.n_params() > MAX_PARAMS {
            let expected = format!(
                "with `vocab_size` {}, `num_hidden_layers` {n_layers} and `intermediate_size` {} the \
                 model has {:.1e} parameters; it must have fewer than {MAX_PARAMS:.0e}",
                this.vocab_size,
                this.intermediate_size,
                this.n_params() as f64,
            );
            return Err(config.invalid("hidden_size", hidden_size.to_string(), &expected));
        }
        Ok(this)
    }

    /// Gives the blocks for which `is_local` holds a window.
    pub(crate) fn set_window(&mut self, window: usize, is_local: impl Fn(usize) -> bool) {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            layer.window = is_local(i).then_some(window);
        }
    }

    /// The same without an output layer.
    pub(crate) fn without_output(self) -> Self {
        Self { is_tied: true, ..self }
    }

    /// The sizes that others need.
    pub(crate) fn shape(&self) -> DecoderShape {
        let inputs = ["q_proj", "k_proj", "v_proj", "qkv_proj"];
        let linear = |(path, _, shape): (&str, bool, [usize; 2])| LinearShape {
            path: path.into(),
            shape,
            reads_input: inputs.iter().any(|name| path.ends_with(&format!(".{name}"))),
        };
        DecoderShape {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.layers.len(),
            attention_width: self.heads.queries * self.head_dim,
            key_value_width: self.heads.keys * self.head_dim,
            max_position_embeddings: self.max_position_embeddings,
            num_params: usize::try_from(self.n_params()).unwrap_or(usize::MAX),
            linears: self.linears().map(linear).collect(),
        }
    }

    /// The linear layers of a block, in the order of the forward pass: path, whether it has a bias,
    /// inputs and outputs.
    pub(crate) fn linears(&self) -> impl Iterator<Item = (&'static str, bool, [usize; 2])> + use<> {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let [q, kv] = [self.heads.queries, self.heads.keys].map(|heads| heads * self.head_dim);
        let [inner, outer] = self.attention_biases;
        let (names, of_feed_forward) = (self.names, self.feed_forward_bias);
        let inputs = match self.is_joined {
            true => vec![("self_attn.qkv_proj", inner, [d, q + 2 * kv])],
            false => vec![
                ("self_attn.q_proj", inner, [d, q]),
                ("self_attn.k_proj", inner, [d, kv]),
                ("self_attn.v_proj", inner, [d, kv]),
            ],
        };
        let output = ("self_attn.o_proj", outer, [q, d]);
        let up = match (self.is_gated, self.is_joined) {
            (false, _) => vec![(names.up, of_feed_forward, [d, f])],
            (true, false) => {
                vec![(names.gate, of_feed_forward, [d, f]), (names.up, of_feed_forward, [d, f])]
            }
            (true, true) => vec![(names.up, of_feed_forward, [d, 2 * f])],
        };
        let down = (names.down, of_feed_forward, [f, d]);
        inputs.into_iter().chain([output]).chain(up).chain([down])
    }

    /// How many linear layers read the normed input of the attention, and of the feed-forward.
    pub(crate) fn n_inputs(&self) -> [usize; 2] {
        match self.is_joined {
            true => [1, 1],
            false => [3, 1 + usize::from(self.is_gated)],
        }
    }

    fn n_params(&self) -> u128 {
        let [v, d, head, n] = [self.vocab_size, self.hidden_size, self.head_dim, self.layers.len()]
            .map(|n| n as u128);
        let linears: u128 = self
            .linears()
            .map(|(_, bias, [i, o])| i as u128 * o as u128 + u128::from(bias) * o as u128)
            .sum();
        let of_norm = if self.norm == NormKind::Layer { 2 } else { 1 };
        let norms = of_norm
            * (d * if self.has_post_norms { 4 } else { 2 }
                + if self.has_head_norms { 2 * head } else { 0 });
        let output = if self.is_tied { 0 } else { v * d };
        v * d + n * (linears + norms) + of_norm * d + output
    }
}

/// What a family assumes where its `config.json` is silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Defaults {
    pub(crate) max_position_embeddings: usize,
    /// The width divided by the heads if it is absent.
    pub(crate) head_dim: Option<usize>,
    pub(crate) is_tied: bool,
}
