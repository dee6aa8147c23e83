//! Merging an adapter into the base, which is then used without it.

use burn::module::Param;
use burn::tensor::FloatDType;
use burn::tensor::backend::Backend;
use mopo_ops::FusedBackend;

use crate::layers::Weight;
use crate::{Decoder, DecoderShape, Error, LoraAdapter, Result};

/// The base with the adapter added to its weights: `W + s · A · B`, `s` its scale, for every
/// target; an adapter of the base's own is left out. The result is used without an adapter. Changed weights become F32, quantised ones too (W
/// then has the values of the codes); the others are shared with `base`, as are all biases.
///
/// `base` is unchanged.
///
/// # Errors
/// The adapter belongs to a model of another shape.
pub fn merge<B: FusedBackend, M: Decoder<B>>(base: &M, adapter: &LoraAdapter<B>) -> Result<M> {
    adapter.check_fits(&base.shape())?;
    let mut merged = base.clone().without_adapter();
    for (block, updates) in adapter.layers.iter().enumerate() {
        for (i, pair) in updates.pairs.iter().enumerate() {
            let Some(pair) = pair else { continue };
            let delta = pair.a.val().detach().matmul(pair.b.val().detach());
            let linear = merged.linear_mut(block, i);
            let weight = linear.dense_weight();
            let requires_grad = weight.is_require_grad();
            let sum = weight.detach().cast(FloatDType::F32) + delta.mul_scalar(pair.scale);
            let sum = Param::from_tensor(sum).set_require_grad(requires_grad);
            linear.weight = Weight::Dense(sum);
        }
    }
    Ok(merged)
}

impl<B: Backend> LoraAdapter<B> {
    /// Checks that every update has the shape of its layer.
    fn check_fits(&self, model: &DecoderShape) -> Result<()> {
        let refuse = |field, value: String, expected: String| {
            Err(Error::InvalidParameter { field, value, expected })
        };
        if self.layers.len() != model.num_hidden_layers {
            let expected = format!("the model has {}", model.num_hidden_layers);
            return refuse("adapter.layers", self.layers.len().to_string(), expected);
        }
        for layer in &self.layers {
            if layer.pairs.len() != model.linears.len() {
                let expected = format!("the model's blocks have {}", model.linears.len());
                return refuse("adapter.pairs", layer.pairs.len().to_string(), expected);
            }
            for (pair, linear) in layer.pairs.iter().zip(&model.linears) {
                let Some(pair) = pair else { continue };
                let ([d_in, _], [_, d_out]) = (pair.a.val().dims(), pair.b.val().dims());
                if [d_in, d_out] != linear.shape {
                    let expected = format!("the model's {} is {:?}", linear.path, linear.shape);
                    return refuse("adapter.shape", format!("[{d_in}, {d_out}]"), expected);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use mopo_testkit::TestBackend;

    use super::*;
    use crate::fixtures::{self, values};
    use crate::{LoraConfig, PackedBatch, PackedInputs, PhiConfig, Projection, TargetModules};

    type B = TestBackend;

    fn adapter(seed: u64, rank: usize, alpha: f64, targets: &[&str]) -> LoraAdapter<B> {
        let target_modules = TargetModules::names(targets.iter().copied());
        let lora = LoraConfig { rank, alpha, dropout: 0.0, target_modules, ..Default::default() };
        let fresh = {
            let _guard = fixtures::BACKEND_RANDOM.lock();
            lora.init(&fixtures::tiny().shape(), &Default::default())
        };
        fixtures::filled(fresh, seed, 0.3)
    }

    fn inputs() -> PackedInputs<B> {
        let pair = ([&[1, 2, 3][..], &[4, 5], &[6]], [true, true]);
        PackedBatch::pack(&[pair]).unwrap().inputs(&Default::default())
    }

    /// s · A · B of one layer, in f64 from the parameters; zeros where there is none.
    fn delta(adapter: &LoraAdapter<B>, layer: usize, linear: usize) -> Vec<f64> {
        let [d_in, d_out] = fixtures::tiny().shape().linears[linear].shape;
        let mut out = vec![0.0; d_in * d_out];
        let Some(pair) = adapter.pair(layer, linear) else { return out };
        let rank = pair.a.val().dims()[1];
        let (a, b) = (values(pair.a.val()), values(pair.b.val()));
        for i in 0..d_in {
            for r in 0..rank {
                let a = pair.scale * f64::from(a[i * rank + r]);
                for o in 0..d_out {
                    out[i * d_out + o] += a * f64::from(b[r * d_out + o]);
                }
            }
        }
        out
    }

    #[test]
    fn a_merged_model_equals_base_and_adapter() {
        let base = fixtures::base::<B>(1);
        let adapter = adapter(2, 3, 5.0, &["v_proj", "fc2"]);
        let merged = merge(&base, &adapter).unwrap();
        let with_adapter = values(base.hidden_states_packed(&inputs(), Some(&adapter)));
        let found = values(merged.hidden_states_packed(&inputs(), None));
        fixtures::assert_close(&found, &with_adapter, 1e-4);
        assert_ne!(found, values(base.hidden_states_packed(&inputs(), None)));

        for (i, (a, b)) in base.layers.iter().zip(&merged.layers).enumerate() {
            for (linear, (a, b)) in a.linears().into_iter().zip(b.linears()).enumerate() {
                let delta = delta(&adapter, i, linear);
                let pairs = values(a.dense_weight()).into_iter().zip(values(b.dense_weight()));
                for ((a, b), delta) in pairs.zip(delta) {
                    let sum = f64::from(a) + delta;
                    assert!(
                        (f64::from(b) - sum).abs() <= 1e-6 * (1.0 + sum.abs()),
                        "{b} and {sum}"
                    );
                    assert!(delta != 0.0 || a == b, "other layers stay as they are");
                }
                let bias = |of: &Projection<B>| values(of.bias.as_ref().unwrap().val());
                assert_eq!(bias(a), bias(b));
            }
        }
        assert_eq!(merged.num_params(), base.num_params());
    }

    #[test]
    fn weights_keep_their_precision_and_stay_constants_when_merged() {
        let base = fixtures::base::<B>(1);
        if !B::supports_dtype(&Default::default(), burn::tensor::DType::BF16) {
            println!("skipped: this backend has no bf16");
            return;
        }
        let mut half = base.clone();
        let linear = &mut half.layers[0].mlp.fc1;
        let weight = linear.dense_weight().cast(FloatDType::BF16);
        linear.weight = Weight::Dense(Param::from_tensor(weight).set_require_grad(false));
        let adapter = adapter(2, 3, 1e-3, &["fc1"]);
        let merged = merge(&half, &adapter).unwrap();
        let merged = merged.layers[0].mlp.fc1.dense_weight();
        // An update below bf16's precision is not lost.
        let moved =
            values(merged.clone() - half.layers[0].mlp.fc1.dense_weight().cast(FloatDType::F32));
        let expected: Vec<f32> = delta(&adapter, 0, 4).into_iter().map(|d| d as f32).collect();
        fixtures::assert_close(&moved, &expected, 1e-6);
        assert!(!merged.is_require_grad());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let one = adapter(1, 2, 2.0, &["fc1"]);
        let message = |config: PhiConfig| {
            let base = {
                let _guard = fixtures::BACKEND_RANDOM.lock();
                config.init::<B>(&Default::default())
            };
            match merge(&base, &one) {
                Ok(_) => panic!("it fitted"),
                Err(e) => e.to_string(),
            }
        };
        let phi = fixtures::tiny();
        let deep = PhiConfig { num_hidden_layers: 3, ..phi.clone() };
        assert!(message(deep).contains("the model has 3"));
        let wide = PhiConfig { intermediate_size: 50, ..phi };
        assert!(message(wide).contains("mlp.fc1"));
    }
}
