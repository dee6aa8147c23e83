//! A quantised base against the same base in f32: losses, gradients, training, conversions.

use burn::module::AutodiffModule;
use burn::optim::{AdamConfig, GradientsParams, Optimizer};
use burn::tensor::backend::AutodiffBackend;
use mopo_ops::FusedBackend;
use mopo_testkit::{TestAutodiffBackend, TestBackend};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::fixtures::{self, assert_close, values};
use crate::{Decoder, PackedBatch, PhiConfig, PolicyParams, token_log_probs};

type B = TestBackend;
type Ad = TestAutodiffBackend;

const NF4: QuantFormat = QuantFormat::Nf4 { double_quant: false };
const NF4_DOUBLE: QuantFormat = QuantFormat::Nf4 { double_quant: true };
const ALL: [QuantFormat; 3] = [NF4, NF4_DOUBLE, QuantFormat::Int8];

/// Sixteen pairs of random tokens.
fn batch() -> PackedBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let rows: Vec<[Vec<u32>; 3]> =
        (0..16).map(|_| [5, 9, 8].map(|n| fixtures::tokens(n, &mut rng))).collect();
    let pairs: Vec<_> =
        rows.iter().map(|row| (row.each_ref().map(Vec::as_slice), [true, true])).collect();
    PackedBatch::pack(&pairs).unwrap()
}

/// Log-probabilities of all response tokens, with the adapter and the first head if there are any.
fn log_probs<Bk: FusedBackend>(base: &Phi<Bk>, params: Option<&PolicyParams<Bk>>) -> Tensor<Bk, 1> {
    let batch = batch();
    let inputs = batch.inputs::<Bk>(&Default::default());
    let hidden = base.hidden_states_packed(&inputs, params.map(|p| p.adapter(0)));
    let head = params.map_or(&base.lm_head, |p| &p.heads.heads[0]);
    let responses: Vec<usize> = (0..batch.responses.len()).collect();
    token_log_probs(hidden, head, &batch, &responses)
}

/// Mean over the response tokens of −log p, in nats.
fn loss<Bk: FusedBackend>(base: &Phi<Bk>, params: Option<&PolicyParams<Bk>>) -> Tensor<Bk, 1> {
    log_probs(base, params).mean().neg()
}

/// The distances that docs/formats.md states.
#[test]
fn the_loss_stays_close_to_that_in_f32() {
    let bounds = [(NF4, 0.03, 0.15), (NF4_DOUBLE, 0.03, 0.15), (QuantFormat::Int8, 0.001, 0.01)];
    for (format, mean, each) in bounds {
        let (mut worst_mean, mut worst_each) = (0f32, 0f32);
        for seed in 1..=5 {
            let base = fixtures::base::<B>(seed);
            let quantised = base.clone().quantise(format).unwrap();
            let [f32, ours] = [&base, &quantised].map(|phi| values(log_probs(phi, None)));
            let n = f32.len() as f32;
            let distances = f32.iter().zip(&ours).map(|(a, b)| a - b);
            worst_mean = worst_mean.max((distances.clone().sum::<f32>() / n).abs());
            worst_each = worst_each.max(distances.map(f32::abs).sum::<f32>() / n);
        }
        println!("{format:?}: loss {worst_mean:.5} away, tokens {worst_each:.5} on average");
        assert!(worst_mean > 0.0 && worst_mean < mean, "{format:?}: {worst_mean}");
        assert!(worst_each < each, "{format:?}: {worst_each}");
    }
}

#[test]
fn the_model_is_that_of_the_dequantised_weights() {
    for format in ALL {
        let quantised = fixtures::base::<B>(3).quantise(format).unwrap();
        let mut dense = quantised.clone();
        for layer in &mut dense.layers {
            for linear in layer.linears_mut() {
                let weight = burn::module::Param::from_tensor(linear.dense_weight());
                linear.weight = Weight::Dense(weight);
            }
        }
        let params = fixtures::policies(&quantised, 1, 4);
        let found = values(log_probs(&quantised, Some(&params)));
        assert_close(&found, &values(log_probs(&dense, Some(&params))), 1e-4);
    }
}

#[test]
fn the_layers_weights_are_not_parameters_and_survive_valid_and_back() {
    let base = fixtures::base::<Ad>(3);
    let PhiConfig { hidden_size: d, intermediate_size: f, num_hidden_layers, .. } = *base.config();
    let n_weights = num_hidden_layers * (4 * d * d + 2 * d * f);
    for format in ALL {
        let quantised = base.clone().quantise(format).unwrap();
        assert_eq!(quantised.num_params(), base.num_params() - n_weights);
        let expected = values(log_probs(&quantised, None).inner());
        let inner = quantised.valid();
        assert_close(&values(log_probs(&inner, None)), &expected, 1e-5);
        let back = Phi::<Ad>::from_inner(inner).freeze();
        assert_close(&values(log_probs(&back, None).inner()), &expected, 1e-5);
    }
}

#[test]
fn gradients_reach_the_adapter_and_none_the_base() {
    for format in ALL {
        for checkpointing in [false, true] {
            let base = fixtures::base::<Ad>(5).quantise(format).unwrap();
            let base = base.with_gradient_checkpointing(checkpointing);
            let params = fixtures::policies(&base, 1, 6);
            let grads = loss(&base, Some(&params)).backward();
            for layer in &base.layers {
                for linear in layer.linears() {
                    let Weight::Quantised(weight) = &linear.weight else { panic!("{linear:?}") };
                    assert!(weight.scales.grad(&grads).is_none());
                    assert!(linear.bias.as_ref().unwrap().val().grad(&grads).is_none());
                }
            }
            let grads = GradientsParams::from_grads(grads, &params);
            // The whole adapter, both factors of every update, in the first layer too: gradients
            // pass through the quantised layers above.
            for layer in &params.adapters[0].layers {
                for pair in layer.pairs.iter().flatten() {
                    for id in [pair.a.id, pair.b.id] {
                        let grad = values(grads.get::<B, 2>(id).expect("a gradient"));
                        assert!(grad.iter().any(|g| *g != 0.0));
                    }
                }
            }
        }
    }
}

fn step<Bk: AutodiffBackend>(
    params: PolicyParams<Bk>,
    optimizer: &mut impl Optimizer<PolicyParams<Bk>, Bk>,
    loss: Tensor<Bk, 1>,
) -> PolicyParams<Bk> {
    let grads = GradientsParams::from_grads(loss.backward(), &params);
    optimizer.step(1e-2, params, grads)
}

#[test]
fn training_an_adapter_on_a_quantised_base_lowers_the_loss() {
    for format in [NF4_DOUBLE, QuantFormat::Int8] {
        let base = fixtures::base::<Ad>(8).quantise(format).unwrap();
        let mut params = fixtures::fresh_policies(&base, 1);
        let mut optimizer = AdamConfig::new().init();
        let before = values(loss(&base, Some(&params)).inner())[0];
        for _ in 0..15 {
            let loss = loss(&base, Some(&params));
            params = step(params, &mut optimizer, loss);
        }
        let after = values(loss(&base, Some(&params)).inner())[0];
        assert!(after < 0.8 * before, "{format:?}: {before} before, {after} after");
    }
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let mut base = fixtures::base::<B>(1);
    let linear = &mut base.layers[1].mlp.fc2;
    let weight = linear.dense_weight().mul_scalar(f32::INFINITY);
    linear.weight = Weight::Dense(burn::module::Param::from_tensor(weight));
    let error = base.quantise(NF4).expect_err("infinite").to_string();
    assert!(error.contains("model.layers.1.mlp.fc2.weight"), "{error}");
    assert!(error.contains("inf") && error.contains("without quantising"), "{error}");
}
