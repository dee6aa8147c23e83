//! Kernels and gradients against the generic bodies, and gradients against finite differences.

mod adam;
mod block;
mod kernels;
mod log_prob;
mod nodes;
mod quant;
mod sublayer;
mod updated;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Int, Tensor, TensorData};
use mopo_testkit::{TestAutodiffBackend, TestBackend};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{PackedRows, primitive as float, tensor};

type B = TestBackend;
type A = TestAutodiffBackend;

/// Uniform numbers within ±1, the same for the same seed on every backend.
fn random<Bk: Backend, const D: usize>(shape: [usize; D], seed: u64) -> Tensor<Bk, D> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect();
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

fn tokens<Bk: Backend>(n: usize, below: usize, seed: u64) -> Tensor<Bk, 1, Int> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let ids: Vec<i32> = (0..n).map(|_| rng.random_range(0..below as i32)).collect();
    Tensor::from_data(ids.as_slice(), &Default::default())
}

fn values<Bk: Backend, const D: usize>(x: Tensor<Bk, D>) -> Vec<f32> {
    x.into_data().iter().collect()
}

fn host<Bk: Backend>(x: FloatTensor<Bk>) -> Vec<f32> {
    Bk::float_into_data_sync(x)
}

trait Sync: Backend {
    fn float_into_data_sync(x: FloatTensor<Self>) -> Vec<f32>;
}

impl<Bk: Backend> Sync for Bk {
    fn float_into_data_sync(x: FloatTensor<Self>) -> Vec<f32> {
        use burn::tensor::TensorMetadata;
        let n = x.shape().num_elements();
        let flat = Bk::float_reshape(x, burn::tensor::Shape::new([n]));
        values(tensor::<Bk, 1>(flat))
    }
}

/// Largest difference relative to the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let size = b.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0f32, |m, (x, y)| m.max((x - y).abs())) / size
}

#[track_caller]
fn assert_close(a: &[f32], b: &[f32], tolerance: f32) {
    let found = distance(a, b);
    assert!(found <= tolerance, "relative distance {found}");
}

/// The tolerance for gradients that are compared with burn's own. Those of divisions and
/// logarithms, and so of softmax, multiply by a reciprocal, for which burn-ndarray takes the
/// processor's estimate with 12 bits.
fn of_burn(tolerance: f32) -> f32 {
    let estimated = std::any::type_name::<B>().contains("NdArray");
    if estimated { tolerance.max(1e-3) } else { tolerance }
}

/// A single prompt, a pair, a row after an empty prompt, and rows longer than a tile.
fn rows() -> PackedRows {
    PackedRows::new([[5, 0, 0], [3, 4, 2], [70, 30, 75], [1, 66, 0], [9, 0, 13]])
}
