//! Low-rank adapters: their configuration and parameters. `phi` adds them to its layers; `adapter`
//! reads and writes their files.

use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::backend::Backend;
use burn::tensor::{Distribution, Tensor};
use serde::{Deserialize, Serialize};

use crate::{DecoderShape, Error, Result};

/// A linear layer of every block to which an adapter can be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraTarget {
    /// Queries.
    QProj,
    /// Keys.
    KProj,
    /// Values.
    VProj,
    /// The attention's output.
    Dense,
    /// The feed-forward's first layer.
    Fc1,
    /// The feed-forward's second layer.
    Fc2,
}

impl LoraTarget {
    /// All targets, in the order of the forward pass.
    pub const ALL: [Self; 6] =
        [Self::QProj, Self::KProj, Self::VProj, Self::Dense, Self::Fc1, Self::Fc2];

    /// The layer's path within a block, as in Hugging Face's files.
    pub fn path(self) -> &'static str {
        match self {
            Self::QProj => "self_attn.q_proj",
            Self::KProj => "self_attn.k_proj",
            Self::VProj => "self_attn.v_proj",
            Self::Dense => "self_attn.dense",
            Self::Fc1 => "mlp.fc1",
            Self::Fc2 => "mlp.fc2",
        }
    }
}

/// The size of an adapter. In a file every key must be present, as in the rest of a run's
/// configuration; the defaults are for code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of each update. Default 16.
    pub rank: usize,
    /// Updates are scaled by `alpha / rank`. Default 32.
    pub alpha: f64,
    /// Dropout on the input of A during training, in [0, 1). Default 0.05.
    pub dropout: f64,
    /// Target layers, the same in every block. Default: all six.
    #[serde(alias = "targets")]
    pub target_modules: Vec<LoraTarget>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, dropout: 0.05, target_modules: LoraTarget::ALL.to_vec() }
    }
}

/// More than the width of any layer.
const MAX_RANK: usize = 65_536;

impl LoraConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field out of range, or a repeated target.
    pub fn check(&self) -> Result<()> {
        let refuse = |field, value: String, expected: &str| {
            Err(Error::InvalidParameter { field, value, expected: expected.into() })
        };
        if self.rank == 0 || self.rank > MAX_RANK {
            let expected = format!("it must be a whole number from 1 to {MAX_RANK}");
            return refuse("lora.rank", self.rank.to_string(), &expected);
        }
        let scale = self.alpha / self.rank as f64;
        if !(scale > 0.0 && self.alpha <= f64::from(f32::MAX)) {
            return refuse(
                "lora.alpha",
                self.alpha.to_string(),
                "it must be positive and finite; twice the rank is usual",
            );
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse("lora.dropout", self.dropout.to_string(), "it must lie in [0, 1)");
        }
        let mut targets = self.target_modules.clone();
        targets.sort();
        targets.dedup();
        if targets.is_empty() || targets.len() != self.target_modules.len() {
            return refuse(
                "lora.target_modules",
                format!("{:?}", self.target_modules),
                "it must name at least one of q_proj, k_proj, v_proj, dense, fc1, fc2, each once",
            );
        }
        Ok(())
    }

    /// Number of the adapter's parameters on a model of this shape.
    pub fn num_params(&self, model: &DecoderShape) -> usize {
        let layer: usize = self
            .target_modules
            .iter()
            .map(|target| model.linear(*target).iter().sum::<usize>() * self.rank)
            .sum();
        layer * model.num_hidden_layers
    }

    /// A fresh adapter: A is uniform within ±1/√inputs (transformers' Kaiming rule) and B is 0, so
    /// it changes nothing yet. Deterministic after `B::seed`. Panics if [`check`](Self::check)
    /// refuses.
    pub fn init<B: Backend>(&self, model: &DecoderShape, device: &B::Device) -> LoraAdapter<B> {
        self.build(model, |_, _, [d_in, d_out]| {
            let bound = (d_in as f64).powf(-0.5);
            let uniform = Distribution::Uniform(-bound, bound);
            Ok((
                Tensor::random([d_in, self.rank], uniform, device),
                Tensor::zeros([self.rank, d_out], device),
            ))
        })
        .expect("a checked configuration")
    }

    /// An adapter from its tensors: `pair(layer, target, [inputs, outputs])` gives A and B.
    pub(crate) fn build<B: Backend>(
        &self,
        model: &DecoderShape,
        mut pair: impl FnMut(usize, LoraTarget, [usize; 2]) -> Result<(Tensor<B, 2>, Tensor<B, 2>)>,
    ) -> Result<LoraAdapter<B>> {
        self.check()?;
        let layers = (0..model.num_hidden_layers)
            .map(|i| {
                let mut layer = LoraLayer::empty();
                for target in
                    LoraTarget::ALL.into_iter().filter(|t| self.target_modules.contains(t))
                {
                    let (a, b) = pair(i, target, model.linear(target))?;
                    *layer.get_mut(target) =
                        Some(LoraPair { a: Param::from_tensor(a), b: Param::from_tensor(b) });
                }
                Ok(layer)
            })
            .collect::<Result<_>>()?;
        Ok(LoraAdapter {
            layers,
            scale: self.alpha / self.rank as f64,
            dropout: DropoutConfig::new(self.dropout).init(),
        })
    }
}

/// The low-rank updates of all layers.
#[derive(Module, Debug)]
pub struct LoraAdapter<B: Backend> {
    /// One for each block.
    pub layers: Vec<LoraLayer<B>>,
    /// `alpha / rank`.
    scale: f64,
    /// Acts on backends with gradients only.
    dropout: Dropout,
}

/// The updates of one block; `None` for layers that are not targets.
#[derive(Module, Debug)]
pub struct LoraLayer<B: Backend> {
    /// Queries.
    pub q_proj: Option<LoraPair<B>>,
    /// Keys.
    pub k_proj: Option<LoraPair<B>>,
    /// Values.
    pub v_proj: Option<LoraPair<B>>,
    /// The attention's output.
    pub dense: Option<LoraPair<B>>,
    /// The feed-forward's first layer.
    pub fc1: Option<LoraPair<B>>,
    /// The feed-forward's second layer.
    pub fc2: Option<LoraPair<B>>,
}

/// One update: `x · A · B`, scaled.
#[derive(Module, Debug)]
pub struct LoraPair<B: Backend> {
    /// `[inputs, rank]`.
    pub a: Param<Tensor<B, 2>>,
    /// `[rank, outputs]`.
    pub b: Param<Tensor<B, 2>>,
}

impl<B: Backend> LoraLayer<B> {
    fn empty() -> Self {
        Self { q_proj: None, k_proj: None, v_proj: None, dense: None, fc1: None, fc2: None }
    }

    /// The update of one layer, or `None` if it is not a target.
    pub fn get(&self, target: LoraTarget) -> Option<&LoraPair<B>> {
        match target {
            LoraTarget::QProj => self.q_proj.as_ref(),
            LoraTarget::KProj => self.k_proj.as_ref(),
            LoraTarget::VProj => self.v_proj.as_ref(),
            LoraTarget::Dense => self.dense.as_ref(),
            LoraTarget::Fc1 => self.fc1.as_ref(),
            LoraTarget::Fc2 => self.fc2.as_ref(),
        }
    }

    /// For tests, which move single parameters.
    #[cfg(test)]
    pub(crate) fn pair_mut(&mut self, target: LoraTarget) -> &mut LoraPair<B> {
        self.get_mut(target).as_mut().expect("a target")
    }

    fn get_mut(&mut self, target: LoraTarget) -> &mut Option<LoraPair<B>> {
        match target {
            LoraTarget::QProj => &mut self.q_proj,
            LoraTarget::KProj => &mut self.k_proj,
            LoraTarget::VProj => &mut self.v_proj,
            LoraTarget::Dense => &mut self.dense,
            LoraTarget::Fc1 => &mut self.fc1,
            LoraTarget::Fc2 => &mut self.fc2,
        }
    }
}

impl<B: Backend> LoraAdapter<B> {
    /// What the input of A, of shape `shape`, is multiplied with during training: 0, or 1 / (1 −
    /// dropout). `None` without dropout.
    pub(crate) fn dropout_mask(
        &self,
        shape: [usize; 2],
        device: &B::Device,
    ) -> Option<Tensor<B, 2>> {
        let dropout = self.dropout.prob;
        (dropout > 0.0 && B::ad_enabled(device)).then(|| {
            let kept = Tensor::random(shape, Distribution::Bernoulli(1.0 - dropout), device);
            kept.mul_scalar(1.0 / (1.0 - dropout))
        })
    }

    /// `alpha / rank`.
    pub fn scale(&self) -> f64 {
        self.scale
    }
}

#[cfg(test)]
mod tests {
    use mopo_testkit::{TestAutodiffBackend, TestBackend};

    use super::*;
    use crate::fixtures::{self, values};
    use crate::{Decoder, PackedBatch, PackedInputs};

    fn inputs<B: Backend>() -> PackedInputs<B> {
        let pair = ([&[1, 2, 3][..], &[4, 5], &[6]], [true, true]);
        PackedBatch::pack(&[pair]).unwrap().inputs(&Default::default())
    }

    #[test]
    fn a_fresh_adapter_changes_nothing_and_its_heads_are_the_base() {
        let base = fixtures::base::<TestBackend>(1);
        let params = fixtures::fresh_policies(&base, 2);
        let plain = values(base.hidden_states_packed(&inputs(), None));
        let adapted = values(base.hidden_states_packed(&inputs(), Some(&params.adapter)));
        assert_eq!(plain, adapted);
        for head in &params.heads.heads {
            assert_eq!(values(head.weight.val()), values(base.lm_head.weight.val()));
            assert_ne!(head.weight.id, base.lm_head.weight.id);
        }
        let a = values(params.adapter.layers[0].q_proj.as_ref().unwrap().a.val());
        let bound = 1.0 / (24f32).sqrt();
        assert!(a.iter().all(|a| a.abs() <= bound) && a.iter().any(|a| a.abs() > bound / 2.0));
        assert_eq!(params.adapter.num_params(), fixtures::lora().num_params(&base.shape()));
    }

    #[test]
    fn only_targets_are_changed_and_all_parameters_are_leaves() {
        type Ad = TestAutodiffBackend;
        let base = fixtures::base::<Ad>(1);
        let config = LoraConfig { target_modules: vec![LoraTarget::Fc2], ..fixtures::lora() };
        let adapter = {
            let _guard = fixtures::BACKEND_RANDOM.lock();
            config.init::<Ad>(&base.shape(), &Default::default())
        };
        assert!(adapter.layers[0].q_proj.is_none() && adapter.layers[1].fc2.is_some());
        assert_eq!(adapter.num_params(), config.num_params(&base.shape()));
        let params = fixtures::fresh_policies(&base, 1);
        assert!(params.heads.heads[0].weight.val().is_require_grad());
        assert!(params.heads.heads[0].bias.as_ref().unwrap().val().is_require_grad());
        assert!(params.adapter.layers[0].fc1.as_ref().unwrap().a.val().is_require_grad());
    }

    #[test]
    fn the_update_is_scaled_by_alpha_over_rank() {
        let base = fixtures::base::<TestBackend>(1);
        let device = Default::default();
        let hidden = |alpha: f64, size: f32| {
            let config = LoraConfig { rank: 2, alpha, dropout: 0.5, ..Default::default() };
            let adapter = config
                .build::<TestBackend>(&base.shape(), |i, _, [d_in, d_out]| {
                    let a = Tensor::full([d_in, 2], 0.01 * (i + 1) as f32, &device);
                    Ok((a, Tensor::full([2, d_out], size, &device)))
                })
                .unwrap();
            assert_eq!(adapter.scale(), alpha / 2.0);
            // Dropout is off here.
            values(base.hidden_states_packed(&inputs(), Some(&adapter)))
        };
        assert_eq!(hidden(4.0, 0.1), hidden(2.0, 0.2));
        assert_ne!(hidden(4.0, 0.1), hidden(2.0, 0.1));
    }

    #[test]
    fn dropout_acts_on_backends_with_gradients_only() {
        let _guard = fixtures::BACKEND_RANDOM.lock();
        fn mask<B: Backend>(dropout: f64) -> Option<Vec<f32>> {
            let config = LoraConfig { dropout, ..Default::default() };
            let adapter = config
                .build::<B>(&fixtures::tiny().shape(), |_, _, [d_in, d_out]| {
                    let device = Default::default();
                    Ok((Tensor::ones([d_in, 16], &device), Tensor::ones([16, d_out], &device)))
                })
                .unwrap();
            adapter.dropout_mask([50, 24], &Default::default()).map(values)
        }
        assert!(mask::<TestBackend>(0.25).is_none());
        assert!(mask::<TestAutodiffBackend>(0.0).is_none());
        let mask = mask::<TestAutodiffBackend>(0.25).unwrap();
        assert!(mask.iter().all(|x| *x == 0.0 || (x - 4.0 / 3.0).abs() < 1e-6));
        let mean = mask.iter().sum::<f32>() / mask.len() as f32;
        assert!((mean - 1.0).abs() < 0.1, "{mean}");
    }

    #[test]
    fn configurations_are_checked_and_neither_lose_nor_gain_a_field() {
        let text = serde_json::to_string(&LoraConfig::default()).unwrap();
        let read = |from: &str, to: &str| {
            assert!(text.contains(from), "{text}");
            serde_json::from_str::<LoraConfig>(&text.replace(from, to))
        };
        read("fc2", "fc2").unwrap().check().unwrap();
        assert!(read("rank", "ranks").unwrap_err().to_string().contains("ranks"));
        let error = read("\"alpha\":32.0,", "").unwrap_err().to_string();
        assert!(error.contains("missing field `alpha`"), "{error}");
        for (from, to, field) in [
            ("16", "0", "lora.rank"),
            ("16", "1000000000", "lora.rank"),
            ("32.0", "1e39", "lora.alpha"),
            ("32.0", "-1", "lora.alpha"),
            ("0.05", "1.0", "lora.dropout"),
            ("fc1", "fc2", "lora.target_modules"),
        ] {
            let error = read(from, to).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
        let none = LoraConfig { target_modules: vec![], ..Default::default() };
        assert!(none.check().unwrap_err().to_string().contains("lora.target_modules"));
    }
}
