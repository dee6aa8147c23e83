//! Low-rank adapters: their configuration and parameters. Decoders add them to their layers; `peft` and
//! `adapter` read and write their files.

mod interpolate;
mod targets;

use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::backend::Backend;
use burn::tensor::{Distribution, Tensor};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{DecoderShape, Error, Result};
pub use targets::TargetModules;
pub(crate) use targets::{Update, module_name};

/// The size of an adapter. In a file every key but the last three must be present, as in the rest of a
/// run's configuration; the defaults are for code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of each update. Default 16.
    pub rank: usize,
    /// Updates are scaled by `alpha / rank`. Default 32.
    pub alpha: f64,
    /// Dropout on the input of A during training, in [0, 1). Default 0.05.
    pub dropout: f64,
    /// Target layers. Default: every linear layer of the blocks.
    #[serde(alias = "targets")]
    pub target_modules: TargetModules,
    /// Other ranks for layers whose names, or their ends, these regular expressions match.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub rank_pattern: IndexMap<String, usize>,
    /// Other alphas, likewise.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub alpha_pattern: IndexMap<String, f64>,
    /// Scale by `alpha / √rank` instead (rsLoRA).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub use_rslora: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.05,
            target_modules: TargetModules::all_linear(),
            rank_pattern: IndexMap::new(),
            alpha_pattern: IndexMap::new(),
            use_rslora: false,
        }
    }
}

/// More than the width of any layer.
const MAX_RANK: usize = 65_536;

impl LoraConfig {
    /// Checks every field; whether a model has the target layers is
    /// [`check_fits`](Self::check_fits)'s to say.
    ///
    /// # Errors
    /// The first field out of range, a repeated target, an invalid regular expression.
    pub fn check(&self) -> Result<()> {
        let refuse = |field, value: String, expected: &str| {
            Err(Error::InvalidParameter { field, value, expected: expected.into() })
        };
        let ranks = self.rank_pattern.values().map(|rank| ("lora.rank_pattern", *rank));
        for (field, rank) in std::iter::once(("lora.rank", self.rank)).chain(ranks) {
            if rank == 0 || rank > MAX_RANK {
                let expected = format!("it must be a whole number from 1 to {MAX_RANK}");
                return refuse(field, rank.to_string(), &expected);
            }
        }
        let alphas = self.alpha_pattern.values().map(|alpha| ("lora.alpha_pattern", *alpha));
        for (field, alpha) in std::iter::once(("lora.alpha", self.alpha)).chain(alphas) {
            let scale = alpha / self.rank as f64;
            if !(scale > 0.0 && alpha <= f64::from(f32::MAX)) {
                let expected = "it must be positive and finite; twice the rank is usual";
                return refuse(field, alpha.to_string(), expected);
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse("lora.dropout", self.dropout.to_string(), "it must lie in [0, 1)");
        }
        self.check_targets()
    }

    /// Checks every field, and that the model has the target layers.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); a target that the model does not have, with the names that
    /// it has.
    pub fn check_fits(&self, model: &DecoderShape) -> Result<()> {
        self.check()?;
        self.updates(model).map(|_| ())
    }

    /// alpha / rank, or alpha / √rank.
    pub(crate) fn scale_of(&self, rank: usize, alpha: f64) -> f64 {
        match self.use_rslora {
            false => alpha / rank as f64,
            true => alpha / (rank as f64).sqrt(),
        }
    }

    /// Number of the adapter's parameters on a model of this shape; 0 if the model does not have the
    /// targets.
    pub fn num_params(&self, model: &DecoderShape) -> usize {
        let updates = self.updates(model).unwrap_or_default();
        let of_block = |block: &Vec<Option<Update>>| -> usize {
            let sized = model.linears.iter().zip(block);
            sized.filter_map(|(linear, update)| Some(update.as_ref()?.rank * linear.sides())).sum()
        };
        updates.iter().map(of_block).sum()
    }

    /// A fresh adapter: A is uniform within ±1/√inputs (transformers' Kaiming rule) and B is 0, so
    /// it changes nothing yet. Deterministic after `B::seed`. Panics if
    /// [`check_fits`](Self::check_fits) refuses.
    pub fn init<B: Backend>(&self, model: &DecoderShape, device: &B::Device) -> LoraAdapter<B> {
        self.build(model, |_, _, [d_in, rank, d_out]| {
            let bound = (d_in as f64).powf(-0.5);
            let uniform = Distribution::Uniform(-bound, bound);
            Ok((
                Tensor::random([d_in, rank], uniform, device),
                Tensor::zeros([rank, d_out], device),
            ))
        })
        .expect("a checked configuration")
    }

    /// A copy of an adapter of this configuration, trainable and with its own parameter ids.
    pub(crate) fn copied<B: Backend>(
        &self,
        of: &LoraAdapter<B>,
        model: &DecoderShape,
    ) -> LoraAdapter<B> {
        let mut pairs = of.layers.iter().flat_map(|layer| layer.pairs.iter().flatten());
        let copy = self.build(model, |_, _, [d_in, rank, d_out]| {
            let pair = pairs.next().expect("an adapter of this configuration");
            let (a, b) = (pair.a.val().detach(), pair.b.val().detach());
            assert_eq!((a.dims(), b.dims()), ([d_in, rank], [rank, d_out]), "another size");
            Ok((a, b))
        });
        copy.expect("a checked configuration")
    }

    /// Checks that a model's own adapter can be trained on with this configuration.
    ///
    /// # Errors
    /// Other targets, ranks or scales.
    pub fn check_continues(&self, own: &Self, model: &DecoderShape) -> Result<()> {
        if self.updates(model)? == own.updates(model)? {
            return Ok(());
        }
        Err(Error::InvalidParameter {
            field: "lora",
            value: format!("of rank {} and alpha {}", self.rank, self.alpha),
            expected: format!(
                "the model has an adapter of its own of rank {}, alpha {} and targets {}, which training \
                 goes on with: set `[lora]` to that, or merge the adapter into the model first",
                own.rank, own.alpha, own.target_modules
            ),
        })
    }

    /// An adapter from its tensors: `pair(block, path, [inputs, rank, outputs])` gives A and B.
    pub(crate) fn build<B: Backend>(
        &self,
        model: &DecoderShape,
        mut pair: impl FnMut(usize, &str, [usize; 3]) -> Result<(Tensor<B, 2>, Tensor<B, 2>)>,
    ) -> Result<LoraAdapter<B>> {
        self.check()?;
        let mut layers = vec![];
        for (block, updates) in self.updates(model)?.into_iter().enumerate() {
            let mut pairs = vec![];
            for (linear, update) in model.linears.iter().zip(updates) {
                let [d_in, d_out] = linear.shape;
                pairs.push(match update {
                    None => None,
                    Some(Update { rank, scale }) => {
                        let (a, b) = pair(block, &linear.path, [d_in, rank, d_out])?;
                        Some(LoraPair { a: Param::from_tensor(a), b: Param::from_tensor(b), scale })
                    }
                });
            }
            layers.push(LoraLayer { pairs });
        }
        Ok(LoraAdapter { layers, dropout: DropoutConfig::new(self.dropout).init() })
    }
}

/// The low-rank updates of all layers.
#[derive(Module, Debug)]
pub struct LoraAdapter<B: Backend> {
    /// One for each block.
    pub layers: Vec<LoraLayer<B>>,
    /// Acts on backends with gradients only.
    dropout: Dropout,
}

/// The updates of one block.
#[derive(Module, Debug)]
pub struct LoraLayer<B: Backend> {
    /// One for each linear layer of a block, in the order of [`DecoderShape::linears`]; `None` for
    /// those that are no targets.
    pub pairs: Vec<Option<LoraPair<B>>>,
}

/// One update: `scale · x · A · B`.
#[derive(Module, Debug)]
pub struct LoraPair<B: Backend> {
    /// `[inputs, rank]`.
    pub a: Param<Tensor<B, 2>>,
    /// `[rank, outputs]`.
    pub b: Param<Tensor<B, 2>>,
    /// alpha / rank, or alpha / √rank.
    #[module(skip)]
    pub scale: f64,
}

impl<B: Backend> LoraAdapter<B> {
    /// The update of a block's linear layer, if it is a target.
    pub(crate) fn pair(&self, block: usize, linear: usize) -> Option<&LoraPair<B>> {
        self.layers[block].pairs[linear].as_ref()
    }

    /// Where it is. Panics if it has no update.
    pub fn device(&self) -> B::Device {
        let mut pairs = self.layers.iter().flat_map(|layer| layer.pairs.iter().flatten());
        pairs.next().expect("an adapter has at least one update").a.device()
    }

    /// The same adapter without dropout.
    pub fn without_dropout(self) -> Self {
        Self { dropout: DropoutConfig::new(0.0).init(), ..self }
    }

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
        let adapted = values(base.hidden_states_packed(&inputs(), Some(params.adapter(0))));
        assert_eq!(plain, adapted);
        for head in &params.heads.heads {
            assert_eq!(values(head.weight.dense()), values(base.lm_head.weight.dense()));
            let id = |layer: &crate::OutputLayer<TestBackend>| match &layer.weight {
                crate::Weight::Dense(weight) => weight.id,
                _ => panic!("dense"),
            };
            assert_ne!(id(head), id(&base.lm_head));
        }
        let a = values(params.adapter(0).pair(0, 0).unwrap().a.val());
        let bound = 1.0 / (24f32).sqrt();
        assert!(a.iter().all(|a| a.abs() <= bound) && a.iter().any(|a| a.abs() > bound / 2.0));
        assert_eq!(params.adapter(0).num_params(), fixtures::lora().num_params(&base.shape()));
    }

    #[test]
    fn only_targets_are_changed_and_all_parameters_are_leaves() {
        type Ad = TestAutodiffBackend;
        let base = fixtures::base::<Ad>(1);
        let config =
            LoraConfig { target_modules: TargetModules::names(["fc2"]), ..fixtures::lora() };
        let adapter = {
            let _guard = fixtures::BACKEND_RANDOM.lock();
            config.init::<Ad>(&base.shape(), &Default::default())
        };
        assert!(adapter.pair(0, 0).is_none() && adapter.pair(1, 5).is_some());
        assert_eq!(adapter.num_params(), config.num_params(&base.shape()));
        let params = fixtures::fresh_policies(&base, 1);
        assert!(params.heads.heads[0].weight.dense().is_require_grad());
        assert!(params.heads.heads[0].bias.as_ref().unwrap().val().is_require_grad());
        assert!(params.adapter(0).pair(0, 4).unwrap().a.val().is_require_grad());
    }

    #[test]
    fn the_update_is_scaled_by_alpha_over_rank() {
        let base = fixtures::base::<TestBackend>(1);
        let device = Default::default();
        let hidden = |alpha: f64, size: f32| {
            let config = LoraConfig { rank: 2, alpha, dropout: 0.5, ..Default::default() };
            let adapter = config
                .build::<TestBackend>(&base.shape(), |i, _, [d_in, _, d_out]| {
                    let a = Tensor::full([d_in, 2], 0.01 * (i + 1) as f32, &device);
                    Ok((a, Tensor::full([2, d_out], size, &device)))
                })
                .unwrap();
            assert_eq!(adapter.pair(1, 3).unwrap().scale, alpha / 2.0);
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
                .build::<B>(&fixtures::tiny().shape(), |_, _, [d_in, _, d_out]| {
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
        let target_modules = TargetModules::names(["q_proj", "fc1", "fc2"]);
        let config = LoraConfig { target_modules, ..Default::default() };
        let text = serde_json::to_string(&config).unwrap();
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
        let none = LoraConfig { target_modules: TargetModules::names([]), ..Default::default() };
        assert!(none.check().unwrap_err().to_string().contains("lora.target_modules"));
    }
}
