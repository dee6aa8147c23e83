//! Small random models for this crate's tests. They have their own random generator, since the
//! backends share one random state between all threads of the test runner.

use std::sync::Mutex;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use mopo_ops::FusedBackend;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{AdapterSharing, LoraConfig, Phi, PhiConfig, PolicyParams};

/// Locked by tests that seed the backend and depend on what it draws.
pub(crate) static BACKEND_RANDOM: Mutex<()> = Mutex::new(());

/// Two blocks of width 24, three heads of 8 with 4 dimensions rotated, 40 tokens, 64 positions.
pub(crate) fn tiny() -> PhiConfig {
    PhiConfig {
        vocab_size: 40,
        hidden_size: 24,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        max_position_embeddings: 64,
        ..PhiConfig::phi_1_5()
    }
}

/// A frozen tiny model in which every parameter, biases included, affects the output.
pub(crate) fn base<B: Backend>(seed: u64) -> Phi<B> {
    base_with(tiny(), seed)
}

/// The same with another configuration.
pub(crate) fn base_with<B: Backend>(config: PhiConfig, seed: u64) -> Phi<B> {
    let _guard = BACKEND_RANDOM.lock();
    B::seed(&Default::default(), seed);
    filled(config.init(&Default::default()), seed, 0.25).freeze()
}

/// Policies on [`base`] with random adapter and heads, without dropout.
pub(crate) fn policies<B: FusedBackend>(base: &Phi<B>, n: usize, seed: u64) -> PolicyParams<B> {
    filled(fresh_policies(base, n), seed, 0.2)
}

/// The same with an adapter for each.
pub(crate) fn policies_apart<B: FusedBackend>(
    base: &Phi<B>,
    n: usize,
    seed: u64,
) -> PolicyParams<B> {
    let mut params = policies(base, n, seed);
    for i in 1..n as u64 {
        params.adapters.extend(policies(base, 1, seed + 4 + i).adapters);
    }
    params
}

/// Policies before any training.
pub(crate) fn fresh_policies<B: FusedBackend>(base: &Phi<B>, n: usize) -> PolicyParams<B> {
    let _guard = BACKEND_RANDOM.lock();
    B::seed(&Default::default(), 0);
    PolicyParams::init(base, &lora(), n, AdapterSharing::Shared, &Default::default())
}

/// Rank 4, no dropout.
pub(crate) fn lora() -> LoraConfig {
    LoraConfig { rank: 4, alpha: 6.0, dropout: 0.0, ..Default::default() }
}

/// Every parameter plus uniform noise within ±`size`.
pub(crate) fn filled<B: Backend, M: Module<B>>(module: M, seed: u64, size: f32) -> M {
    struct Noise(ChaCha8Rng, f32);
    impl<B: Backend> ModuleMapper<B> for Noise {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            param.map(|tensor| {
                let shape = tensor.shape();
                let noise: Vec<f32> = (0..shape.num_elements())
                    .map(|_| (self.0.random::<f32>() * 2.0 - 1.0) * self.1)
                    .collect();
                let required = tensor.is_require_grad();
                let noise = Tensor::from_data(TensorData::new(noise, shape), &tensor.device());
                (tensor.detach() + noise).detach().set_require_grad(required)
            })
        }
    }
    module.map(&mut Noise(ChaCha8Rng::seed_from_u64(seed), size))
}

/// Random token ids below [`tiny`]'s vocabulary, without the last one (the tests' end of text).
pub(crate) fn tokens(n: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
    (0..n).map(|_| rng.random_range(0..END)).collect()
}

/// The tests' end of text.
pub(crate) const END: u32 = 39;

/// All values of a tensor.
pub(crate) fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().to_vec().unwrap()
}

/// Fails unless all pairs are within `tolerance`.
pub(crate) fn assert_close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance, "value {i}: {a} and {b}");
    }
}
