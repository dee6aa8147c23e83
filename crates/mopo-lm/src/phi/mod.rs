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

use std::path::Path;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::nn::{Embedding, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Distribution, FloatDType, Int, Tensor, TensorData};
use mopo_hub::WeightDtype;
use mopo_ops::{
    BlockContext, BlockParams, FusedBackend, PackedRows, block_with_store, primitive, tensor,
};

use crate::decoder::{Decoder, DecoderShape};
use crate::lora::{LoraAdapter, LoraTarget};
use crate::projection::{Projection, Weight, linear_params};
use crate::{LoadOptions, PackedInputs, Result};

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
    pub lm_head: Linear<B>,
    /// Constants of the rotary embedding.
    pub rotary: Rotary<B>,
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
pub struct Rotary<B: Backend> {
    /// `[max_position_embeddings, rotary_dim / 2]`.
    cos: Tensor<B, 2>,
    /// `[max_position_embeddings, rotary_dim / 2]`.
    sin: Tensor<B, 2>,
}

/// Keys and values of past tokens, for generation: one row per sequence, filled from the left.
#[derive(Debug)]
pub struct KvCache<B: Backend> {
    /// Keys and values per layer, `[rows, capacity, hidden_size]`.
    layers: Vec<Option<[Tensor<B, 3>; 2]>>,
    lens: Vec<usize>,
    capacity: usize,
}

impl<B: Backend> KvCache<B> {
    /// A cache with room for `capacity` tokens in each of `rows` sequences.
    pub fn new(shape: &DecoderShape, rows: usize, capacity: usize, device: &B::Device) -> Self {
        let store = || Tensor::zeros([rows, capacity, shape.hidden_size], device);
        let layers = (0..shape.num_hidden_layers).map(|_| Some([store(), store()])).collect();
        Self { layers, lens: vec![0; rows], capacity }
    }

    /// Number of cached tokens per row.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }
}

impl<B: Backend> PhiLayer<B> {
    /// The linear layer of a LoRA target.
    pub fn linear(&self, target: LoraTarget) -> &Projection<B> {
        match target {
            LoraTarget::QProj => &self.self_attn.q_proj,
            LoraTarget::KProj => &self.self_attn.k_proj,
            LoraTarget::VProj => &self.self_attn.v_proj,
            LoraTarget::Dense => &self.self_attn.dense,
            LoraTarget::Fc1 => &self.mlp.fc1,
            LoraTarget::Fc2 => &self.mlp.fc2,
        }
    }

    /// The same, mutable.
    pub(crate) fn linear_mut(&mut self, target: LoraTarget) -> &mut Projection<B> {
        match target {
            LoraTarget::QProj => &mut self.self_attn.q_proj,
            LoraTarget::KProj => &mut self.self_attn.k_proj,
            LoraTarget::VProj => &mut self.self_attn.v_proj,
            LoraTarget::Dense => &mut self.self_attn.dense,
            LoraTarget::Fc1 => &mut self.mlp.fc1,
            LoraTarget::Fc2 => &mut self.mlp.fc2,
        }
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
            bias: Param::from_tensor(Tensor::zeros([d_out], device)),
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
            lm_head: Linear {
                weight: normal([d, self.vocab_size]),
                bias: Some(Param::from_tensor(Tensor::zeros([self.vocab_size], device))),
            },
            rotary: Rotary::new(self, device),
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
    fn load(dir: &Path, options: LoadOptions, device: &B::Device) -> Result<Self> {
        weights::load_phi(dir, &PhiConfig::from_file(dir.join("config.json"))?, options, device)
    }

    fn shape(&self) -> DecoderShape {
        self.config.shape()
    }

    fn lm_head(&self) -> &Linear<B> {
        &self.lm_head
    }

    fn linear_mut(&mut self, block: usize, target: LoraTarget) -> &mut Projection<B> {
        self.layers[block].linear_mut(target)
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

    fn prefill(
        &self,
        prompts: &[Vec<u32>],
        adapter: Option<&LoraAdapter<B>>,
        cache: &mut KvCache<B>,
    ) -> Tensor<B, 2> {
        assert!(cache.lens.iter().all(|n| *n == 0), "the cache is in use");
        let rows = PackedRows::new(prompts.iter().map(|prompt| [prompt.len(), 0, 0]));
        let ids: Vec<i32> = prompts.iter().flatten().map(|id| *id as i32).collect();
        let places = prompts.iter().enumerate();
        let at: Vec<(usize, usize)> =
            places.flat_map(|(row, prompt)| (0..prompt.len()).map(move |p| (row, p))).collect();
        let last: Vec<i32> =
            rows.rows().iter().map(|row| (row.start + row.prompt) as i32 - 1).collect();
        let hidden = self.forward_cached(&ids, rows, &at, false, adapter, cache);
        let last = Tensor::<B, 1, Int>::from_data(last.as_slice(), &hidden.device());
        self.final_norm(hidden.select(0, last))
    }

    fn step(
        &self,
        tokens: &[u32],
        adapter: Option<&LoraAdapter<B>>,
        cache: &mut KvCache<B>,
    ) -> Tensor<B, 2> {
        let ids: Vec<i32> = tokens.iter().map(|id| *id as i32).collect();
        let at: Vec<(usize, usize)> = cache.lens.iter().copied().enumerate().collect();
        let rows = PackedRows::new(tokens.iter().map(|_| [1, 0, 0]));
        let hidden = self.forward_cached(&ids, rows, &at, true, adapter, cache);
        self.final_norm(hidden)
    }

    fn hub_config(&self) -> serde_json::Value {
        self.config.to_hub()
    }

    fn write_weights(
        &self,
        lm_head: &Linear<B>,
        dtype: Option<WeightDtype>,
        file: &Path,
    ) -> Result<()> {
        weights::write_phi(self, lm_head, dtype, file)
    }
}

impl<B: FusedBackend> Phi<B> {
    fn forward_cached(
        &self,
        ids: &[i32],
        rows: PackedRows,
        at: &[(usize, usize)],
        one_each: bool,
        adapter: Option<&LoraAdapter<B>>,
        cache: &mut KvCache<B>,
    ) -> Tensor<B, 2> {
        assert_eq!(rows.rows().len(), cache.lens.len(), "a cache of other rows");
        let device = self.rotary.cos.device();
        let places: Vec<i32> = at.iter().map(|(_, position)| *position as i32).collect();
        for (row, position) in at {
            assert!(*position < cache.capacity, "the cache holds {} tokens a row", cache.capacity);
            cache.lens[*row] = position + 1;
        }
        let positions = Tensor::<B, 1, Int>::from_data(places.as_slice(), &device);
        let context = self.context(Arc::new(rows), positions, adapter);
        let ids = Tensor::<B, 1, Int>::from_data(ids, &device);
        let mut x = primitive(self.embed(ids));
        let lens = one_each.then_some(cache.lens.as_slice());
        for (i, layer) in cache.layers.iter_mut().enumerate() {
            // Taken out, so that there is one owner and they are written in place.
            let stores = layer.take().expect("put back below").map(primitive);
            let params = self.block(i, adapter, at.len());
            let (y, stores) = block_with_store::<B>(x, &params, &context, stores, at, lens);
            (x, *layer) = (y, Some(stores.map(tensor)));
        }
        tensor(x)
    }

    /// Rows of the embedding, `[n, hidden_size]`, as f32.
    fn embed(&self, ids: Tensor<B, 1, Int>) -> Tensor<B, 2> {
        let weight = primitive(self.embed_tokens.weight.val());
        let rows = tensor::<B, 2>(B::select_rows_op(weight, ids.into_primitive()));
        if rows.dtype() == DType::F32 { rows } else { rows.cast(FloatDType::F32) }
    }

    fn final_norm(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let (gamma, beta) = norm_params(&self.final_layernorm);
        tensor(B::layer_norm_op(primitive(x), gamma, beta, self.config.layer_norm_eps))
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
            lora_scale: adapter.map_or(1.0, LoraAdapter::scale),
            checkpoint: self.gradient_checkpointing,
        }
    }

    /// The parameters of a block for `n` tokens.
    fn block(&self, i: usize, adapter: Option<&LoraAdapter<B>>, n: usize) -> BlockParams<B> {
        let layer = &self.layers[i];
        let (gamma, beta) = norm_params(&layer.input_layernorm);
        let linears = LoraTarget::ALL.map(|target| {
            let update = adapter.and_then(|a| a.layers[i].get(target).map(|pair| (a, pair)));
            linear_params(layer.linear(target), update, n)
        });
        BlockParams { gamma, beta, linears }
    }
}

/// Scale and offset of a LayerNorm.
fn norm_params<B: Backend>(norm: &LayerNorm<B>) -> (FloatTensor<B>, FloatTensor<B>) {
    let beta = norm.beta.as_ref().expect("every LayerNorm of phi has a bias");
    (primitive(norm.gamma.val()), primitive(beta.val()))
}

impl<B: Backend> Rotary<B> {
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
