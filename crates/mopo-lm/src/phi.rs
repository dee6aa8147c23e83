//! phi, read top to bottom: embedding, parallel blocks with partial rotary attention, final
//! LayerNorm. The output layer is kept here and applied elsewhere, only where it is needed.
//!
//! As in the reference library's `PhiForCausalLM`: one LayerNorm feeds attention and feed-forward,
//! which are both added to the residual stream; the first part of each head is rotated, halves
//! layout; biases on every linear layer; the tanh form of GELU.

#[cfg(test)]
mod tests;

use burn::module::{Module, Param};
use burn::nn::{Embedding, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, Distribution, Int, Tensor, TensorData, activation, module::linear};

use crate::lora::{LoraAdapter, LoraLayer, LoraTarget};
use crate::{PackedInputs, PhiConfig};

/// What is added to a masked score: its softmax is then exactly 0, and a fully masked row is
/// uniform instead of NaN.
const MASKED: f64 = -1.0e9;

/// A phi model. Fresh and loaded models are trainable; [`Phi::freeze`] makes them constants.
#[derive(Module, Debug)]
pub struct Phi<B: Backend> {
    /// `[vocab_size, hidden_size]`.
    pub embed_tokens: Embedding<B>,
    /// The blocks.
    pub layers: Vec<PhiLayer<B>>,
    /// Before the output layer; its result is what [`Phi::hidden_states`] returns.
    pub final_layernorm: LayerNorm<B>,
    /// `[hidden_size, vocab_size]` with a bias; not tied to the embedding.
    pub lm_head: Linear<B>,
    /// Constants of the rotary embedding.
    pub rotary: Rotary<B>,
    #[module(skip)]
    pub(crate) config: PhiConfig,
}

/// One block.
#[derive(Module, Debug)]
pub struct PhiLayer<B: Backend> {
    /// Feeds attention and feed-forward.
    pub input_layernorm: LayerNorm<B>,
    /// The attention's projections.
    pub self_attn: PhiAttention<B>,
    /// The feed-forward's projections.
    pub mlp: PhiMlp<B>,
}

/// The projections of an attention, each `[hidden_size, hidden_size]` with a bias.
#[derive(Module, Debug)]
pub struct PhiAttention<B: Backend> {
    /// Queries.
    pub q_proj: Linear<B>,
    /// Keys.
    pub k_proj: Linear<B>,
    /// Values.
    pub v_proj: Linear<B>,
    /// Output.
    pub dense: Linear<B>,
}

/// The projections of a feed-forward block.
#[derive(Module, Debug)]
pub struct PhiMlp<B: Backend> {
    /// `[hidden_size, intermediate_size]`.
    pub fc1: Linear<B>,
    /// `[intermediate_size, hidden_size]`.
    pub fc2: Linear<B>,
}

/// Tables of the rotary embedding over a whole head. Constants: neither saved nor trained.
#[derive(Module, Debug)]
pub struct Rotary<B: Backend> {
    /// `[max_position_embeddings, head_dim]`, 1 where nothing is rotated.
    cos: Tensor<B, 2>,
    /// The same, 0 where nothing is rotated.
    sin: Tensor<B, 2>,
    /// `[head_dim, head_dim]` of 0 and ±1: `x · swap` is (−second half, first half, 0).
    swap: Tensor<B, 2>,
}

/// Keys and values of past positions, for generation.
#[derive(Debug, Clone)]
pub struct KvCache<B: Backend> {
    /// For each layer, both `[rows, heads, keys, head_dim]`; empty before the first call.
    layers: Vec<Option<(Tensor<B, 4>, Tensor<B, 4>)>>,
}

impl<B: Backend> KvCache<B> {
    /// An empty cache for a model of `n_layers`.
    pub fn new(n_layers: usize) -> Self {
        Self { layers: vec![None; n_layers] }
    }

    /// Positions held.
    pub fn n_keys(&self) -> usize {
        self.layers.first().and_then(|l| l.as_ref()).map_or(0, |(k, _)| k.dims()[2])
    }
}

impl<B: Backend> PhiLayer<B> {
    /// The linear layer that an adapter's target names.
    pub fn linear(&self, target: LoraTarget) -> &Linear<B> {
        match target {
            LoraTarget::QProj => &self.self_attn.q_proj,
            LoraTarget::KProj => &self.self_attn.k_proj,
            LoraTarget::VProj => &self.self_attn.v_proj,
            LoraTarget::Dense => &self.self_attn.dense,
            LoraTarget::Fc1 => &self.mlp.fc1,
            LoraTarget::Fc2 => &self.mlp.fc2,
        }
    }
}

impl PhiConfig {
    /// A fresh model: weights from N(0, `initializer_range`²), biases 0, LayerNorms 1 and 0.
    /// Deterministic after `B::seed`; nothing is left lazy. Panics if [`PhiConfig::check`] refuses.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Phi<B> {
        self.check().expect("a checked configuration");
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let normal = |shape: [usize; 2]| {
            let distribution = Distribution::Normal(0.0, self.initializer_range);
            Param::from_tensor(Tensor::random(shape, distribution, device))
        };
        let linear = |d_in: usize, d_out: usize| Linear {
            weight: normal([d_in, d_out]),
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
            lm_head: linear(d, self.vocab_size),
            rotary: Rotary::new(self, device),
            config: self.clone(),
        }
    }
}

impl<B: Backend> Phi<B> {
    /// The configuration that the model was built from.
    pub fn config(&self) -> &PhiConfig {
        &self.config
    }

    /// The same model as a constant: no gradient is computed for any of its parameters.
    pub fn freeze(self) -> Self {
        self.no_grad()
    }

    /// States after the final LayerNorm, `[rows, width, hidden_size]`.
    ///
    /// `ids`, `positions`: `[rows, width]`, positions below `max_position_embeddings`;
    /// `mask`: `[rows, width, width]`, true where the query (second axis) may NOT attend to the key;
    /// `adapter`: none is the base model.
    pub fn hidden_states(
        &self,
        ids: Tensor<B, 2, Int>,
        positions: Tensor<B, 2, Int>,
        mask: Tensor<B, 3, Bool>,
        adapter: Option<&LoraAdapter<B>>,
    ) -> Tensor<B, 3> {
        self.forward(ids, positions, mask, adapter, None)
    }

    /// [`hidden_states`](Self::hidden_states) of a packed batch.
    pub fn hidden_states_packed(
        &self,
        inputs: &PackedInputs<B>,
        adapter: Option<&LoraAdapter<B>>,
    ) -> Tensor<B, 3> {
        let PackedInputs { ids, positions, mask } = inputs.clone();
        self.forward(ids, positions, mask, adapter, None)
    }

    /// [`hidden_states`](Self::hidden_states) of `width` new positions after those in `cache`, which
    /// grows by them. `mask`: `[rows, width, keys]` over all keys, the cached ones first.
    pub fn hidden_states_cached(
        &self,
        ids: Tensor<B, 2, Int>,
        positions: Tensor<B, 2, Int>,
        mask: Tensor<B, 3, Bool>,
        adapter: Option<&LoraAdapter<B>>,
        cache: &mut KvCache<B>,
    ) -> Tensor<B, 3> {
        self.forward(ids, positions, mask, adapter, Some(cache))
    }

    fn forward(
        &self,
        ids: Tensor<B, 2, Int>,
        positions: Tensor<B, 2, Int>,
        mask: Tensor<B, 3, Bool>,
        adapter: Option<&LoraAdapter<B>>,
        mut cache: Option<&mut KvCache<B>>,
    ) -> Tensor<B, 3> {
        if let Some(adapter) = adapter {
            assert_eq!(adapter.layers.len(), self.layers.len(), "adapter of another depth");
        }
        // Once per forward, shared by all layers.
        let bias = mask.float().mul_scalar(MASKED).unsqueeze_dim::<4>(1);
        let turn = self.rotary.at(positions);

        let mut x = self.embed_tokens.forward(ids);
        for (i, layer) in self.layers.iter().enumerate() {
            let lora = adapter.map(|adapter| (adapter, &adapter.layers[i]));
            let past = cache.as_mut().map(|cache| &mut cache.layers[i]);
            let normed = layer.input_layernorm.forward(x.clone());
            let attended = self.attention(layer, normed.clone(), &bias, &turn, lora, past);
            let inner = project(&layer.mlp.fc1, normed, lora, LoraTarget::Fc1);
            let fed = project(&layer.mlp.fc2, gelu_new(inner), lora, LoraTarget::Fc2);
            x = x + attended + fed;
        }
        self.final_layernorm.forward(x)
    }

    fn attention(
        &self,
        layer: &PhiLayer<B>,
        x: Tensor<B, 3>,
        bias: &Tensor<B, 4>,
        turn: &(Tensor<B, 4>, Tensor<B, 4>),
        lora: Option<(&LoraAdapter<B>, &LoraLayer<B>)>,
        past: Option<&mut Option<(Tensor<B, 4>, Tensor<B, 4>)>>,
    ) -> Tensor<B, 3> {
        let [rows, width, d] = x.dims();
        let (heads, head_dim) = (self.config.num_attention_heads, self.config.head_dim());
        let split = |y: Tensor<B, 3>| y.reshape([rows, width, heads, head_dim]);
        let attn = &layer.self_attn;

        let q = split(project(&attn.q_proj, x.clone(), lora, LoraTarget::QProj));
        let k = split(project(&attn.k_proj, x.clone(), lora, LoraTarget::KProj));
        let v = split(project(&attn.v_proj, x, lora, LoraTarget::VProj)).swap_dims(1, 2);
        // The queries are scaled, not the scores: fewer numbers.
        let q = self.rotary.turn(q, turn).mul_scalar((head_dim as f64).powf(-0.5)).swap_dims(1, 2);
        let k = self.rotary.turn(k, turn).swap_dims(1, 2);
        let (k, v) = match past {
            None => (k, v),
            Some(past) => {
                let (k, v) = match past.take() {
                    None => (k, v),
                    Some((pk, pv)) => (Tensor::cat(vec![pk, k], 2), Tensor::cat(vec![pv, v], 2)),
                };
                *past = Some((k.clone(), v.clone()));
                (k, v)
            }
        };
        let scores = q.matmul(k.transpose()) + bias.clone();
        let mixed = activation::softmax(scores, 3).matmul(v);
        project(
            &attn.dense,
            mixed.swap_dims(1, 2).reshape([rows, width, d]),
            lora,
            LoraTarget::Dense,
        )
    }
}

/// A linear layer, plus its low-rank update where the adapter has one.
fn project<B: Backend>(
    layer: &Linear<B>,
    x: Tensor<B, 3>,
    lora: Option<(&LoraAdapter<B>, &LoraLayer<B>)>,
    target: LoraTarget,
) -> Tensor<B, 3> {
    match lora.and_then(|(adapter, layer)| layer.get(target).map(|pair| (adapter, pair))) {
        None => layer.forward(x),
        Some((adapter, pair)) => layer.forward(x.clone()) + adapter.delta(pair, x),
    }
}

/// GELU in its tanh form, `gelu_new` of the reference library:
/// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`, written as `x · σ(2u)`, which is the same with
/// fewer steps and without a power.
fn gelu_new<B: Backend>(x: Tensor<B, 3>) -> Tensor<B, 3> {
    let two_c = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    let square = x.clone() * x.clone();
    let twice_u = square.mul_scalar(0.044715 * two_c).add_scalar(two_c) * x.clone();
    x * activation::sigmoid(twice_u)
}

impl<B: Backend> Rotary<B> {
    pub(crate) fn new(config: &PhiConfig, device: &B::Device) -> Self {
        let (n, dim, rot) =
            (config.max_position_embeddings, config.head_dim(), config.rotary_dim());
        let half = rot / 2;
        let mut cos = vec![1f32; n * dim];
        let mut sin = vec![0f32; n * dim];
        // In f32, as the reference library computes them.
        let frequencies: Vec<f32> = (0..half)
            .map(|j| 1.0 / (config.rope_theta as f32).powf((2 * j) as f32 / rot as f32))
            .collect();
        for position in 0..n {
            for j in 0..rot {
                let angle = position as f32 * frequencies[j % half];
                cos[position * dim + j] = angle.cos();
                sin[position * dim + j] = angle.sin();
            }
        }
        let mut swap = vec![0f32; dim * dim];
        for j in 0..half {
            swap[(half + j) * dim + j] = -1.0;
            swap[j * dim + half + j] = 1.0;
        }
        let table = |values: Vec<f32>, rows: usize| {
            Tensor::from_data(TensorData::new(values, [rows, dim]), device)
        };
        Self { cos: table(cos, n), sin: table(sin, n), swap: table(swap, dim) }
    }

    /// Cosines and sines at `positions` `[rows, width]`: both `[rows, width, 1, head_dim]`.
    fn at(&self, positions: Tensor<B, 2, Int>) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let [rows, width] = positions.dims();
        let flat = positions.reshape([rows * width]);
        let pick = |table: &Tensor<B, 2>| {
            let dim = table.dims()[1];
            table.clone().select(0, flat.clone()).reshape([rows, width, 1, dim])
        };
        (pick(&self.cos), pick(&self.sin))
    }

    /// Rotates `x` `[rows, width, heads, head_dim]`. The swap of halves is a product with a constant
    /// matrix: one node of the graph, where slices and a concatenation are seven.
    fn turn(&self, x: Tensor<B, 4>, (cos, sin): &(Tensor<B, 4>, Tensor<B, 4>)) -> Tensor<B, 4> {
        let swapped = linear(x.clone(), self.swap.clone(), None);
        x * cos.clone() + swapped * sin.clone()
    }
}
