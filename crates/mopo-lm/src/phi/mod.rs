//! phi, from top to bottom: embedding, parallel blocks with partial rotary attention, final
//! LayerNorm. The output layer is stored here and applied elsewhere, only where it is needed.
//!
//! As in transformers' `PhiForCausalLM`: one LayerNorm feeds attention and feed-forward, and both
//! are added to the residual stream; the first part of each head is rotated, in the layout by
//! halves; every linear layer has a bias; GELU is the tanh approximation.

mod config;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::nn::{Embedding, LayerNorm, LayerNormConfig};
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Distribution, FloatDType, Int, Tensor, TensorData};
use mopo_hub::{TensorWriter, WeightDtype};
use mopo_ops::{
    BlockContext, BlockParams, FusedBackend, LINEARS, NormKind, NormParams, PackedRows,
    block_with_store, primitive, tensor,
};

use crate::PackedInputs;
use crate::decoder::{Decoder, DecoderShape};
use crate::layers::projection::linear_params;
use crate::layers::{KvCache, NewTokens, OutputLayer, Projection, Weight};
use crate::lora::LoraAdapter;

pub use config::PhiConfig;
pub use weights::load_phi;

/// A phi model. Fresh and loaded models are trainable; [`Phi::freeze`] makes the parameters
/// constants.
#[derive(Module, Debug)]
pub struct Phi<B: Backend> {
    /// `[vocab_size, hidden_size]`.
    pub embed_tokens: Embedding<B>,
    /// The blocks.
    pub layers: Vec<PhiLayer<B>>,
    /// The LayerNorm before the output layer; [`Decoder::hidden_states_packed`] returns its result.
    pub final_layernorm: LayerNorm<B>,
    /// `[hidden_size, vocab_size]` with a bias; not tied to the embedding.
    pub lm_head: OutputLayer<B>,
    /// Constants of the rotary embedding.
    pub rotary: PhiRotary<B>,
    #[module(skip)]
    pub(crate) config: PhiConfig,
    /// See [`Decoder::with_gradient_checkpointing`].
    #[module(skip)]
    pub(crate) gradient_checkpointing: bool,
}

/// One block.
#[derive(Module, Debug)]
pub struct PhiLayer<B: Backend> {
    /// The LayerNorm that feeds attention and feed-forward.
    pub input_layernorm: LayerNorm<B>,
    /// The attention's projections.
    pub self_attn: PhiAttention<B>,
    /// The feed-forward's projections.
    pub mlp: PhiMlp<B>,
}

/// The linear layers of an attention, each `[hidden_size, hidden_size]` with a bias.
#[derive(Module, Debug)]
pub struct PhiAttention<B: Backend> {
    /// Queries.
    pub q_proj: Projection<B>,
    /// Keys.
    pub k_proj: Projection<B>,
    /// Values.
    pub v_proj: Projection<B>,
    /// Output.
    pub dense: Projection<B>,
}

/// The linear layers of a feed-forward block.
#[derive(Module, Debug)]
pub struct PhiMlp<B: Backend> {
    /// `[hidden_size, intermediate_size]`.
    pub fc1: Projection<B>,
    /// `[intermediate_size, hidden_size]`.
    pub fc2: Projection<B>,
}

/// Tables of the rotary embedding: constants, neither saved nor trained.
#[derive(Module, Debug)]
pub struct PhiRotary<B: Backend> {
    /// `[max_position_embeddings, rotary_dim / 2]`.
    cos: Tensor<B, 2>,
    /// `[max_position_embeddings, rotary_dim / 2]`.
    sin: Tensor<B, 2>,
}

impl<B: Backend> PhiLayer<B> {
    /// The linear layers, in the order of [`DecoderShape::linears`].
    pub fn linears(&self) -> [&Projection<B>; LINEARS] {
        let PhiAttention { q_proj, k_proj, v_proj, dense } = &self.self_attn;
        [q_proj, k_proj, v_proj, dense, &self.mlp.fc1, &self.mlp.fc2]
    }

    /// The same, mutable.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Projection<B>> {
        let PhiAttention { q_proj, k_proj, v_proj, dense } = &mut self.self_attn;
        vec![q_proj, k_proj, v_proj, dense, &mut self.mlp.fc1, &mut self.mlp.fc2]
    }
}

impl PhiConfig {
    /// A fresh model: weights from N(0, `initializer_range`²), biases 0, LayerNorms 1 and 0.
    /// Deterministic after `B::seed`, with no lazy parameters. Panics if [`PhiConfig::check`]
    /// refuses.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Phi<B> {
        self.check().expect("a checked configuration");
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let normal = |shape: [usize; 2]| {
            let distribution = Distribution::Normal(0.0, self.initializer_range);
            Param::from_tensor(Tensor::random(shape, distribution, device))
        };
        let linear = |d_in: usize, d_out: usize| Projection {
            weight: Weight::Dense(normal([d_in, d_out])),
            bias: Some(Param::from_tensor(Tensor::zeros([d_out], device))),
        };
        let layer_norm = || {
            let mut norm = LayerNormConfig::new(d).with_epsilon(self.layer_norm_eps).init(device);
            norm.gamma = Param::from_tensor(Tensor::ones([d], device));
            norm.beta = Some(Param::from_tensor(Tensor::zeros([d], device)));
            norm
        };
        Phi {
            embed_tokens: Embedding { weight: normal([self.vocab_size, d]) },
            layers: (0..self.num_hidden_layers)
                .map(|_| PhiLayer {
                    input_layernorm: layer_norm(),
                    self_attn: PhiAttention {
                        q_proj: linear(d, d),
                        k_proj: linear(d, d),
                        v_proj: linear(d, d),
                        dense: linear(d, d),
                    },
                    mlp: PhiMlp { fc1: linear(d, f), fc2: linear(f, d) },
                })
                .collect(),
            final_layernorm: layer_norm(),
            lm_head: OutputLayer {
                weight: Weight::Dense(normal([d, self.vocab_size])),
                update: None,
                bias: Some(Param::from_tensor(Tensor::zeros([self.vocab_size], device))),
                soft_cap: None,
            },
            rotary: PhiRotary::new(self, device),
            config: self.clone(),
            gradient_checkpointing: false,
        }
    }
}

impl<B: Backend> Phi<B> {
    /// The configuration that the model was built from.
    pub fn config(&self) -> &PhiConfig {
        &self.config
    }

    /// The same model with constant parameters, for which no gradients are computed.
    pub fn freeze(self) -> Self {
        self.no_grad()
    }
}

impl<B: FusedBackend> Decoder<B> for Phi<B> {
    fn shape(&self) -> DecoderShape {
        self.config.shape()
    }

    fn lm_head(&self) -> OutputLayer<B> {
        self.lm_head.clone()
    }

    fn linear_mut(&mut self, block: usize, linear: usize) -> &mut Projection<B> {
        self.layers[block].linears_mut().swap_remove(linear)
    }

    fn weight_dtype(&self) -> WeightDtype {
        WeightDtype::of(self.embed_tokens.weight.val().dtype())
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
        let context = self.context(inputs.rows.clone(), inputs.positions.clone(), adapter);
        let mut x = primitive(self.embed(inputs.ids.clone()));
        for i in 0..self.layers.len() {
            x = B::parallel_block(x, self.block(i, adapter, inputs.rows.n_tokens()), &context);
        }
        self.final_norm(tensor(x))
    }

    fn advance(
        &self,
        new: &NewTokens<B>,
        adapter: Option<&LoraAdapter<B>>,
        cache: &mut KvCache<B>,
    ) -> Tensor<B, 2> {
        let context = self.context(new.rows.clone(), new.positions.clone(), adapter);
        let mut x = primitive(self.embed(new.ids.clone()));
        for i in 0..self.layers.len() {
            let params = self.block(i, adapter, new.n_tokens);
            x = cache.with_layer(i, |stores| {
                block_with_store::<B>(x, &params, &context, stores, &new.paged)
            });
        }
        tensor(x)
    }

    fn final_norm(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let (gamma, beta) = norm_params(&self.final_layernorm);
        let (kind, epsilon) = (NormKind::Layer, self.config.layer_norm_eps);
        let norm = NormParams { kind, gamma, beta: Some(beta), epsilon };
        tensor(B::norm_op(primitive(x), &norm))
    }

    fn hub_config(&self) -> serde_json::Value {
        self.config.to_hub()
    }

    fn list_weights(&self, lm_head: Option<&OutputLayer<B>>, out: &mut TensorWriter) {
        weights::list(self, lm_head.unwrap_or(&self.lm_head), out)
    }
}

impl<B: FusedBackend> Phi<B> {
    /// Rows of the embedding, `[n, hidden_size]`, as f32.
    fn embed(&self, ids: Tensor<B, 1, Int>) -> Tensor<B, 2> {
        let weight = primitive(self.embed_tokens.weight.val());
        let rows = tensor::<B, 2>(B::select_rows_op(weight, ids.into_primitive()));
        if rows.dtype() == DType::F32 { rows } else { rows.cast(FloatDType::F32) }
    }

    /// What all blocks of a pass share.
    fn context(
        &self,
        rows: Arc<PackedRows>,
        positions: Tensor<B, 1, Int>,
        adapter: Option<&LoraAdapter<B>>,
    ) -> BlockContext<B> {
        if let Some(adapter) = adapter {
            assert_eq!(adapter.layers.len(), self.layers.len(), "adapter of another depth");
        }
        let at = |table: &Tensor<B, 2>| primitive(table.clone().select(0, positions.clone()));
        BlockContext {
            rows,
            cos: at(&self.rotary.cos),
            sin: at(&self.rotary.sin),
            n_heads: self.config.num_attention_heads,
            epsilon: self.config.layer_norm_eps,
            checkpoint: self.gradient_checkpointing,
        }
    }

    /// The parameters of a block for `n` tokens.
    fn block(&self, i: usize, adapter: Option<&LoraAdapter<B>>, n: usize) -> BlockParams<B> {
        let layer = &self.layers[i];
        let (gamma, beta) = norm_params(&layer.input_layernorm);
        let mut linears = layer.linears().into_iter().enumerate().map(|(linear, layer)| {
            let update = adapter.and_then(|a| Some((a, a.pair(i, linear)?)));
            linear_params(layer, update, n)
        });
        let linears = std::array::from_fn(|_| linears.next().expect("six of them"));
        BlockParams { gamma, beta, linears }
    }
}

/// Scale and offset of a LayerNorm.
fn norm_params<B: Backend>(norm: &LayerNorm<B>) -> (FloatTensor<B>, FloatTensor<B>) {
    let beta = norm.beta.as_ref().expect("every LayerNorm of phi has a bias");
    (primitive(norm.gamma.val()), primitive(beta.val()))
}

impl<B: Backend> PhiRotary<B> {
    pub(crate) fn new(config: &PhiConfig, device: &B::Device) -> Self {
        let (n, rot) = (config.max_position_embeddings, config.rotary_dim());
        let half = rot / 2;
        // In f32, as transformers computes them.
        let frequencies: Vec<f32> = (0..half)
            .map(|j| 1.0 / (config.rope_theta as f32).powf((2 * j) as f32 / rot as f32))
            .collect();
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = (0..n)
                .flat_map(|position| frequencies.iter().map(move |w| f(position as f32 * w)))
                .collect();
            Tensor::from_data(TensorData::new(values, [n, half]), device)
        };
        Self { cos: table(f32::cos), sin: table(f32::sin) }
    }
}
