//! Adapters as arithmetic on weights: into the base and out of it again, and several as one. Nothing is
//! trained here; an interpolated adapter can be used, saved or merged like any other.

use burn::module::Param;
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use crate::lora::LoraTarget;
use crate::projection::Weight;
use crate::{Error, LoraAdapter, LoraConfig, Phi, PhiConfig, Result};

/// The base with the adapter added to its weights: `W + s · A · B`, `s` = alpha / rank, for every
/// target. The model is then used without an adapter. Weights that change become F32, quantised
/// ones too (W is then what the codes stand for); the others are shared with `base`, as are all
/// biases.
///
/// `base` is untouched: keep it if the exact weights are needed again. [`unmerge`] comes close.
///
/// # Errors
/// An adapter of a model of another shape.
pub fn merge<B: Backend>(base: &Phi<B>, adapter: &LoraAdapter<B>) -> Result<Phi<B>> {
    add(base, adapter, 1.0)
}

/// Takes an adapter out of a model that it was merged into: `W − s · A · B`. The weights differ from
/// those before [`merge`] by rounding alone: each by no more than 2⁻²³ · (|W| + 2 |s · A · B|). The data
/// type stays F32.
///
/// # Errors
/// As of [`merge`].
pub fn unmerge<B: Backend>(merged: &Phi<B>, adapter: &LoraAdapter<B>) -> Result<Phi<B>> {
    add(merged, adapter, -1.0)
}

fn add<B: Backend>(base: &Phi<B>, adapter: &LoraAdapter<B>, factor: f64) -> Result<Phi<B>> {
    adapter.check_fits(base.config())?;
    let mut phi = base.clone();
    for (layer, updates) in phi.layers.iter_mut().zip(&adapter.layers) {
        for target in LoraTarget::ALL {
            let Some(pair) = updates.get(target) else { continue };
            let delta = pair.a.val().detach().matmul(pair.b.val().detach());
            let linear = layer.linear_mut(target);
            let weight = linear.dense_weight();
            let requires_grad = weight.is_require_grad();
            let sum =
                weight.detach().cast(FloatDType::F32) + delta.mul_scalar(factor * adapter.scale());
            let sum = Param::from_tensor(sum).set_require_grad(requires_grad);
            linear.weight = Weight::Dense(sum);
        }
    }
    Ok(phi)
}

/// Several adapters as one whose update is exactly `Σ_j weight_j · s_j · A_j · B_j` (up to rounding), by
/// laying their ranks side by side: A is `[w_1 s_1 A_1, w_2 s_2 A_2, …]`, B the B_j one below the
/// other, the scale 1. PEFT calls it the combination `cat`.
///
/// The rank is the sum of the ranks, alpha the same, dropout 0; the targets are those of any of them.
/// Where an adapter has no update, or its weight is 0, its ranks are zeros. Weights may be
/// negative and need not sum to 1.
///
/// # Errors
/// No adapter, a weight that is not finite, or an adapter of a model of another shape than `phi`.
pub fn interpolate<B: Backend>(
    adapters: &[(&LoraAdapter<B>, f64)],
    phi: &PhiConfig,
) -> Result<(LoraAdapter<B>, LoraConfig)> {
    let refuse = |field, value: String, expected: &str| {
        Err(Error::InvalidParameter { field, value, expected: expected.into() })
    };
    if adapters.is_empty() {
        return refuse("adapters", "empty".into(), "give at least one");
    }
    if let Some((_, weight)) = adapters.iter().find(|(_, weight)| !weight.is_finite()) {
        return refuse("adapters.weight", weight.to_string(), "it must be finite");
    }
    for (adapter, _) in adapters {
        adapter.check_fits(phi)?;
    }
    let has = |target: &LoraTarget| adapters.iter().any(|(a, _)| a.targets().contains(target));
    let rank = adapters.iter().map(|(adapter, _)| adapter.rank()).sum();
    let lora = LoraConfig {
        rank,
        alpha: rank as f64,
        dropout: 0.0,
        target_modules: LoraTarget::ALL.into_iter().filter(has).collect(),
    };
    let combined = lora.build(phi, |layer, target, [d_in, d_out]| {
        let (mut all_a, mut all_b) = (vec![], vec![]);
        for (adapter, weight) in adapters {
            let (a, b) = match adapter.layers[layer].get(target) {
                Some(pair) if *weight != 0.0 => {
                    let a = pair.a.val().detach().mul_scalar(weight * adapter.scale());
                    (a, pair.b.val().detach())
                }
                _ => {
                    let (rank, device) = (adapter.rank(), adapter.device());
                    (Tensor::zeros([d_in, rank], &device), Tensor::zeros([rank, d_out], &device))
                }
            };
            all_a.push(a);
            all_b.push(b);
        }
        Ok((Tensor::cat(all_a, 1), Tensor::cat(all_b, 0)))
    })?;
    Ok((combined, lora))
}

impl<B: Backend> LoraAdapter<B> {
    /// The layers that it changes. The first block speaks for all.
    fn targets(&self) -> Vec<LoraTarget> {
        let first = self.layers.first();
        let is_target = |target: &LoraTarget| first.is_some_and(|l| l.get(*target).is_some());
        LoraTarget::ALL.into_iter().filter(is_target).collect()
    }

    /// `[inputs, rank]`'s rank; every update of an adapter has the same.
    fn rank(&self) -> usize {
        let pair = self.layers.first().and_then(|l| LoraTarget::ALL.iter().find_map(|t| l.get(*t)));
        pair.map_or(0, |pair| pair.a.val().dims()[1])
    }

    fn device(&self) -> B::Device {
        let pair = self.layers.first().and_then(|l| LoraTarget::ALL.iter().find_map(|t| l.get(*t)));
        pair.map_or_else(Default::default, |pair| pair.a.val().device())
    }

    /// Checks that every update has the shape of the layer that it is for.
    fn check_fits(&self, phi: &PhiConfig) -> Result<()> {
        let refuse = |field, value: String, expected: String| {
            Err(Error::InvalidParameter { field, value, expected })
        };
        if self.layers.len() != phi.num_hidden_layers {
            let expected = format!("the model has {}", phi.num_hidden_layers);
            return refuse("adapter.layers", self.layers.len().to_string(), expected);
        }
        for layer in &self.layers {
            for target in LoraTarget::ALL {
                let Some(pair) = layer.get(target) else { continue };
                let ([d_in, _], [_, d_out]) = (pair.a.val().dims(), pair.b.val().dims());
                if [d_in, d_out] != target.shape(phi) {
                    let expected =
                        format!("the model's {} is {:?}", target.path(), target.shape(phi));
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
    use crate::{PackedBatch, PackedInputs, PairSlices};

    type B = TestBackend;

    fn adapter(seed: u64, rank: usize, alpha: f64, targets: &[LoraTarget]) -> LoraAdapter<B> {
        let lora = LoraConfig { rank, alpha, dropout: 0.0, target_modules: targets.to_vec() };
        let fresh = {
            let _guard = fixtures::BACKEND_RANDOM.lock();
            lora.init(&fixtures::tiny(), &Default::default())
        };
        fixtures::filled(fresh, seed, 0.3)
    }

    fn inputs() -> PackedInputs<B> {
        let pair =
            PairSlices { prompt: &[1, 2, 3], first: &[4, 5], second: &[6], keep: [true, true] };
        PackedBatch::pack(&[pair]).unwrap().inputs(&Default::default())
    }

    /// s · A · B of one layer, in f64 from the parameters; zeros where there is none.
    fn delta(adapter: &LoraAdapter<B>, layer: usize, target: LoraTarget) -> Vec<f64> {
        let [d_in, d_out] = target.shape(&fixtures::tiny());
        let mut out = vec![0.0; d_in * d_out];
        let Some(pair) = adapter.layers[layer].get(target) else { return out };
        let rank = pair.a.val().dims()[1];
        let (a, b) = (values(pair.a.val()), values(pair.b.val()));
        for i in 0..d_in {
            for r in 0..rank {
                let a = adapter.scale() * f64::from(a[i * rank + r]);
                for o in 0..d_out {
                    out[i * d_out + o] += a * f64::from(b[r * d_out + o]);
                }
            }
        }
        out
    }

    #[test]
    fn an_interpolated_adapter_is_the_weighted_sum_of_the_updates() {
        use LoraTarget::*;
        let one = adapter(1, 4, 6.0, &[QProj, Fc1]);
        let two = adapter(2, 1, 5.0, &[Fc1, Fc2, Dense]);
        let three = adapter(3, 3, 0.5, &LoraTarget::ALL);
        let phi = fixtures::tiny();
        for weights in [[0.5, 0.3, 0.2], [1.5, -2.0, 0.25], [0.0, 1.0, -1.0], [0.0; 3]] {
            let all = [&one, &two, &three];
            let parts: Vec<_> = all.into_iter().zip(weights).collect();
            let (sum, lora) = interpolate(&parts, &phi).unwrap();
            assert_eq!((lora.rank, sum.scale(), lora.target_modules.len()), (8, 1.0, 6));
            for layer in 0..2 {
                for target in LoraTarget::ALL {
                    let found = delta(&sum, layer, target);
                    let parts = parts.iter().map(|(a, w)| (delta(a, layer, target), w));
                    let mut expected = vec![0.0; found.len()];
                    for (part, w) in parts {
                        expected.iter_mut().zip(part).for_each(|(sum, x)| *sum += w * x);
                    }
                    for (found, expected) in found.iter().zip(&expected) {
                        assert!((found - expected).abs() < 1e-6, "{found} and {expected}");
                    }
                }
            }
        }
        // The union of the targets, no more; and what comes out is an adapter like any other.
        let (sum, lora) = interpolate(&[(&one, 0.5), (&two, 0.5)], &phi).unwrap();
        assert_eq!(lora.target_modules, [QProj, Dense, Fc1, Fc2]);
        let dir = tempfile::tempdir().unwrap();
        crate::save_adapter(&sum, &lora, dir.path()).unwrap();
        let (again, _) = crate::load_adapter::<B>(dir.path(), &phi, &Default::default()).unwrap();
        assert_eq!(delta(&again, 1, Fc1), delta(&sum, 1, Fc1));
    }

    #[test]
    fn a_merged_model_says_what_base_and_adapter_say_and_unmerging_undoes_it() {
        let base = fixtures::base::<B>(1);
        let adapter = adapter(2, 3, 5.0, &[LoraTarget::VProj, LoraTarget::Fc2]);
        let merged = merge(&base, &adapter).unwrap();
        let with_adapter = values(base.hidden_states_packed(&inputs(), Some(&adapter)));
        let found = values(merged.hidden_states_packed(&inputs(), None));
        fixtures::assert_close(&found, &with_adapter, 1e-4);
        assert_ne!(found, values(base.hidden_states_packed(&inputs(), None)));

        let restored = unmerge(&merged, &adapter).unwrap();
        let mut changed = 0;
        for (i, (a, b)) in base.layers.iter().zip(&restored.layers).enumerate() {
            for target in LoraTarget::ALL {
                let (a, b) = (a.linear(target), b.linear(target));
                let delta = delta(&adapter, i, target);
                let pairs = values(a.dense_weight()).into_iter().zip(values(b.dense_weight()));
                for ((a, b), delta) in pairs.zip(delta) {
                    let allowed = 2f64.powi(-23) * (f64::from(a.abs()) + 2.0 * delta.abs());
                    assert!(f64::from((a - b).abs()) <= allowed, "{a} and {b}");
                    changed += usize::from(a != b);
                }
                assert_eq!(values(a.bias.val()), values(b.bias.val()));
            }
        }
        // It is not exact: whoever needs the very bits keeps the base.
        assert!(changed > 0);
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
        let linear = half.layers[0].linear_mut(LoraTarget::Fc1);
        let weight = linear.dense_weight().cast(FloatDType::BF16);
        linear.weight = Weight::Dense(Param::from_tensor(weight).set_require_grad(false));
        let adapter = adapter(2, 3, 1e-3, &[LoraTarget::Fc1]);
        let merged = merge(&half, &adapter).unwrap();
        let merged = merged.layers[0].mlp.fc1.dense_weight();
        // An update below bf16's precision is not lost.
        let moved =
            values(merged.clone() - half.layers[0].mlp.fc1.dense_weight().cast(FloatDType::F32));
        let expected: Vec<f32> =
            delta(&adapter, 0, LoraTarget::Fc1).into_iter().map(|d| d as f32).collect();
        fixtures::assert_close(&moved, &expected, 1e-6);
        assert!(!merged.is_require_grad());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let message = |result: Result<(LoraAdapter<B>, LoraConfig)>| match result {
            Ok(_) => panic!("it fitted"),
            Err(e) => e.to_string(),
        };
        let one = adapter(1, 2, 2.0, &[LoraTarget::Fc1]);
        let phi = fixtures::tiny();
        assert!(message(interpolate::<B>(&[], &phi)).contains("at least one"));
        assert!(message(interpolate(&[(&one, f64::NAN)], &phi)).contains("NaN"));
        let deep = PhiConfig { num_hidden_layers: 3, ..phi.clone() };
        assert!(message(interpolate(&[(&one, 1.0)], &deep)).contains("the model has 3"));
        let wide = PhiConfig { intermediate_size: 50, ..phi };
        assert!(message(interpolate(&[(&one, 1.0)], &wide)).contains("mlp.fc1"));
    }
}
