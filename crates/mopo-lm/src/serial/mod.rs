//! Decoders whose blocks are attention, then feed-forward, each with a norm before it and its own residual: Llama,
//! Mistral, Qwen, Gemma. From top to bottom: embedding, blocks, final norm.
//!
//! What sets the families apart (kinds of norms, groups of heads, biases, windows, rotary embeddings,
//! caps) is data, [`SerialConfig`], which each family's file reads from its `config.json`.

mod config;
mod weights;

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};
use mopo_hub::{TensorWriter, WeightDtype};
use mopo_ops::{
    AttentionParams, FeedForwardParams, FusedBackend, Heads, PackedRows, SublayerContext,
    attention_with_store, primitive, tensor,
};

use crate::PackedInputs;
use crate::decoder::{Decoder, DecoderShape};
use crate::layers::projection::linear_params;
use crate::layers::{KvCache, NewTokens, Norm, OutputLayer, Projection, Weight};
use crate::lora::LoraAdapter;

pub(crate) use config::{Defaults, LayerKind, Names, SerialConfig};

/// A decoder with serial residuals. Loaded models are trainable; `no_grad` makes the parameters constants.
#[derive(Module, Debug)]
pub struct SerialDecoder<B: Backend> {
    /// The embedding as an output layer has it: `[hidden_size, vocab_size]`.
    pub embed_tokens: Weight<B>,
    /// The blocks.
    pub layers: Vec<SerialLayer<B>>,
    /// Before the output layer.
    pub norm: Norm<B>,
    /// The output layer; `None` if it is the embedding (tied).
    pub output: Option<OutputLayer<B>>,
    #[module(skip)]
    config: Arc<SerialConfig>,
    /// See [`Decoder::with_gradient_checkpointing`].
    #[module(skip)]
    gradient_checkpointing: bool,
}

/// One block.
#[derive(Module, Debug)]
pub struct SerialLayer<B: Backend> {
    /// Before the attention.
    pub attention_norm: Norm<B>,
    /// The linear layers of the block, in the order of [`DecoderShape::linears`]: queries, keys, values, output; gate
    /// if there is one, up, down. Or one for queries, keys and values, output, one for gate and up, down.
    pub linears: Vec<Projection<B>>,
    /// Of each head of queries and of keys.
    pub head_norms: Option<Vec<Norm<B>>>,
    /// After the attention, before the residual.
    pub attention_post_norm: Option<Norm<B>>,
    /// Before the feed-forward.
    pub feed_forward_norm: Norm<B>,
    /// After the feed-forward, before the residual.
    pub feed_forward_post_norm: Option<Norm<B>>,
}

impl<B: FusedBackend> Decoder<B> for SerialDecoder<B> {
    fn shape(&self) -> DecoderShape {
        self.config.shape()
    }

    fn lm_head(&self) -> OutputLayer<B> {
        match &self.output {
            Some(output) => output.clone(),
            // The same parameter, so that its gradient is that of both uses.
            None => OutputLayer {
                weight: self.embed_tokens.clone(),
                update: None,
                bias: None,
                soft_cap: self.config.output_soft_cap,
            },
        }
    }

    fn is_tied(&self) -> bool {
        self.output.is_none()
    }

    fn linear_mut(&mut self, block: usize, linear: usize) -> &mut Projection<B> {
        &mut self.layers[block].linears[linear]
    }

    fn weight_dtype(&self) -> WeightDtype {
        self.embed_tokens.dtype()
    }

    fn with_gradient_checkpointing(mut self, on: bool) -> Self {
        self.gradient_checkpointing = on;
        self
    }

    fn hidden_states_packed(
        &self,
        inputs: &PackedInputs<B>,
        adapter: Option<&LoraAdapter<B>>,
    ) -> Tensor<B, 2> {
        let n = inputs.rows.n_tokens();
        let contexts = self.contexts(&inputs.rows, &inputs.positions);
        let mut x = primitive(self.embed(inputs.ids.clone()));
        for (i, context) in contexts.iter().enumerate() {
            let layer = BlockParams { config: &self.config, layer: &self.layers[i], i, adapter, n };
            x = B::attention_layer(x, &layer.attention(), context);
            x = B::feed_forward_layer(x, &layer.feed_forward(), self.gradient_checkpointing);
        }
        self.norm.forward(tensor(x))
    }

    fn advance(
        &self,
        new: &NewTokens<B>,
        adapter: Option<&LoraAdapter<B>>,
        cache: &mut KvCache<B>,
    ) -> Tensor<B, 2> {
        let n = new.n_tokens;
        let contexts = self.contexts(&new.rows, &new.positions);
        let mut x = primitive(self.embed(new.ids.clone()));
        for (i, context) in contexts.iter().enumerate() {
            let layer = BlockParams { config: &self.config, layer: &self.layers[i], i, adapter, n };
            x = cache.with_layer(i, |stores| {
                attention_with_store::<B>(x, &layer.attention(), context, stores, &new.paged)
            });
            x = B::feed_forward_layer(x, &layer.feed_forward(), false);
        }
        tensor(x)
    }

    fn final_norm(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        self.norm.forward(hidden)
    }

    fn hub_config(&self) -> serde_json::Value {
        let mut json = self.config.hub.clone();
        // The newer name of `torch_dtype`, which the caller sets.
        json.remove("dtype");
        json.into()
    }

    fn list_weights(&self, lm_head: Option<&OutputLayer<B>>, out: &mut TensorWriter) {
        weights::list(self, lm_head, out)
    }
}

impl<B: Backend> SerialDecoder<B> {
    /// What it is made of.
    pub(crate) fn config(&self) -> &SerialConfig {
        &self.config
    }
}

impl<B: Backend> SerialDecoder<B> {
    /// The width of the residual stream.
    pub(crate) fn width(&self) -> usize {
        self.config.hidden_size
    }

    /// The decoder alone, for another use of its states.
    pub(crate) fn without_output(mut self) -> Self {
        self.output = None;
        self.config = Arc::new(SerialConfig::clone(&self.config).without_output());
        self
    }
}

impl<B: FusedBackend> SerialDecoder<B> {
    /// Rows of the embedding, `[n, hidden_size]`, as f32.
    fn embed(&self, ids: Tensor<B, 1, Int>) -> Tensor<B, 2> {
        let rows = self.embed_tokens.rows(ids);
        match self.config.embedding_scale {
            None => rows,
            // transformers rounds the factor to the weights' type.
            Some(scale) => rows.mul_scalar(rounded(scale, self.embed_tokens.dtype().burn())),
        }
    }

    /// What each block needs besides its parameters.
    fn contexts(
        &self,
        rows: &Arc<PackedRows>,
        positions: &Tensor<B, 1, Int>,
    ) -> Vec<SublayerContext<B>> {
        let rotaries = self.config.rotaries.iter();
        let angles: Vec<_> = rotaries.map(|r| r.angles(positions.clone()).map(primitive)).collect();
        let context = |kind: &LayerKind| {
            let [cos, sin] = angles[kind.rotary].clone();
            SublayerContext {
                rows: rows.clone(),
                cos,
                sin,
                heads: Heads { window: kind.window, ..self.config.heads },
                checkpoint: self.gradient_checkpointing,
            }
        };
        self.config.layers.iter().map(context).collect()
    }
}

/// A number in the precision of a data type.
fn rounded(x: f64, dtype: DType) -> f32 {
    let x = TensorData::from([x as f32]).convert_dtype(dtype).convert_dtype(DType::F32);
    x.iter::<f32>().next().expect("one number")
}

/// A block, its updates, and the number of tokens that go through it.
struct BlockParams<'a, B: Backend> {
    config: &'a SerialConfig,
    layer: &'a SerialLayer<B>,
    i: usize,
    adapter: Option<&'a LoraAdapter<B>>,
    n: usize,
}

impl<B: FusedBackend> BlockParams<'_, B> {
    fn linear(&self, linear: usize) -> mopo_ops::LinearParams<B> {
        let update = self.adapter.and_then(|a| Some((a, a.pair(self.i, linear)?)));
        linear_params(&self.layer.linears[linear], update, self.n)
    }

    fn attention(&self) -> AttentionParams<B> {
        let layer = self.layer;
        let head_norms = layer.head_norms.as_ref();
        let output = self.config.n_inputs()[0];
        AttentionParams {
            norm: layer.attention_norm.params(),
            inputs: (0..output).map(|linear| self.linear(linear)).collect(),
            output: self.linear(output),
            head_norms: head_norms.map(|norms| [0, 1].map(|i: usize| norms[i].params())),
            post_norm: layer.attention_post_norm.as_ref().map(Norm::params),
        }
    }

    fn feed_forward(&self) -> FeedForwardParams<B> {
        let [of_attention, n] = self.config.n_inputs();
        let first = of_attention + 1;
        FeedForwardParams {
            norm: self.layer.feed_forward_norm.params(),
            inputs: (first..first + n).map(|linear| self.linear(linear)).collect(),
            is_gated: self.config.is_gated,
            down: self.linear(first + n),
            activation: self.config.activation,
            post_norm: self.layer.feed_forward_post_norm.as_ref().map(Norm::params),
        }
    }
}
