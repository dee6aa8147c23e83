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
use burn::tensor::{Bool, Distribution, Int, Tensor, TensorData, activation};

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
    /// For each layer, both `[heads, rows, keys, head_dim]`; empty before the first call.
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
        let [rows, width] = ids.dims();
        let (n, d) = (rows * width, self.config.hidden_size);
        // Once per forward, shared by all layers.
        let shared = Shared {
            rows,
            width,
            bias: mask.float().mul_scalar(MASKED).reshape([1, -1]),
            turn: self.rotary.at(positions, self.config.num_attention_heads),
        };

        // Positions are one axis from here on: every projection is then one product of matrices,
        // and so is its gradient.
        let mut x = self.embed_tokens.forward(ids).reshape([n, d]);
        for (i, layer) in self.layers.iter().enumerate() {
            let lora = adapter.map(|adapter| (adapter, &adapter.layers[i]));
            let past = cache.as_mut().map(|cache| &mut cache.layers[i]);
            let normed = layer.input_layernorm.forward(x.clone());
            let attended = self.attention(layer, normed.clone(), &shared, lora, past);
            let inner = project(&layer.mlp.fc1, normed, lora, LoraTarget::Fc1);
            let fed = project(&layer.mlp.fc2, gelu_new(inner), lora, LoraTarget::Fc2);
            x = x + attended + fed;
        }
        self.final_layernorm.forward(x).reshape([rows, width, d])
    }

    /// Attention of one block at `x` `[rows * width, hidden_size]`.
    fn attention(
        &self,
        layer: &PhiLayer<B>,
        x: Tensor<B, 2>,
        shared: &Shared<B>,
        lora: Option<(&LoraAdapter<B>, &LoraLayer<B>)>,
        past: Option<&mut Option<(Tensor<B, 4>, Tensor<B, 4>)>>,
    ) -> Tensor<B, 2> {
        let Shared { rows, width, bias, turn } = shared;
        let (rows, width, d) = (*rows, *width, self.config.hidden_size);
        let (heads, head_dim) = (self.config.num_attention_heads, self.config.head_dim());
        // Heads go first: the mask, the same for all of them, is then added as one repeated line.
        let split =
            |y: Tensor<B, 2>| y.reshape([rows, width, heads, head_dim]).permute([2, 0, 1, 3]);
        let turned = |y: Tensor<B, 2>, cos, sin| {
            split(self.rotary.turn(y.reshape([rows * width * heads, head_dim]), cos, sin))
        };
        let attn = &layer.self_attn;

        let q = project(&attn.q_proj, x.clone(), lora, LoraTarget::QProj);
        let k = project(&attn.k_proj, x.clone(), lora, LoraTarget::KProj);
        let v = split(project(&attn.v_proj, x, lora, LoraTarget::VProj));
        let q = turned(q, &turn.query_cos, &turn.query_sin);
        let k = turned(k, &turn.cos, &turn.sin);
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
        let keys = k.dims()[2];
        let scores = q.matmul(k.transpose()).reshape([heads, rows * width * keys]) + bias.clone();
        let scores = scores.reshape([heads, rows, width, keys]);
        // A softmax, divided after the product with the values: there are fewer of those.
        let largest = scores.clone().detach().max_dim(3);
        let weights = (scores - largest).exp();
        let total = weights.clone().sum_dim(3);
        let mixed = weights.matmul(v) / total;
        let mixed = mixed.permute([1, 2, 0, 3]).reshape([rows * width, d]);
        project(&attn.dense, mixed, lora, LoraTarget::Dense)
    }
}

/// What all blocks of one forward pass share.
struct Shared<B: Backend> {
    rows: usize,
    width: usize,
    /// `[1, rows * width * keys]`: 0, or [`MASKED`].
    bias: Tensor<B, 2>,
    turn: Turn<B>,
}

/// Cosines and sines at the positions of a batch, each `[rows * width * heads, head_dim]`; those of
/// the queries carry the scores' factor 1/√head_dim.
struct Turn<B: Backend> {
    query_cos: Tensor<B, 2>,
    query_sin: Tensor<B, 2>,
    cos: Tensor<B, 2>,
    sin: Tensor<B, 2>,
}

/// A linear layer at `x` `[n, inputs]`, plus its low-rank update where the adapter has one.
fn project<B: Backend>(
    layer: &Linear<B>,
    x: Tensor<B, 2>,
    lora: Option<(&LoraAdapter<B>, &LoraLayer<B>)>,
    target: LoraTarget,
) -> Tensor<B, 2> {
    match lora.and_then(|(adapter, layer)| layer.get(target).map(|pair| (adapter, pair))) {
        None => layer.forward(x),
        Some((adapter, pair)) => layer.forward(x.clone()) + adapter.delta(pair, x),
    }
}

/// GELU in its tanh form, `gelu_new` of the reference library:
/// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`, written as `x · σ(2u)`, which is the same with
/// fewer steps and without a power.
fn gelu_new<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
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

    /// The tables' lines at `positions` `[rows, width]`, repeated for each head.
    fn at(&self, positions: Tensor<B, 2, Int>, heads: usize) -> Turn<B> {
        let [rows, width] = positions.dims();
        let n = rows * width;
        let dim = self.cos.dims()[1];
        let flat = positions.reshape([n]);
        let pick = |table: &Tensor<B, 2>| {
            let lines = table.clone().select(0, flat.clone()).unsqueeze_dim::<3>(1);
            lines.expand([n, heads, dim]).reshape([n * heads, dim])
        };
        let (cos, sin) = (pick(&self.cos), pick(&self.sin));
        let scale = (dim as f64).powf(-0.5);
        Turn {
            query_cos: cos.clone().mul_scalar(scale),
            query_sin: sin.clone().mul_scalar(scale),
            cos,
            sin,
        }
    }

    /// Rotates `x` `[n, head_dim]`. The swap of halves is a product with a constant matrix: one node
    /// of the graph, where slices and a concatenation are seven.
    fn turn(&self, x: Tensor<B, 2>, cos: &Tensor<B, 2>, sin: &Tensor<B, 2>) -> Tensor<B, 2> {
        let swapped = x.clone().matmul(self.swap.clone());
        x * cos.clone() + swapped * sin.clone()
    }
}
