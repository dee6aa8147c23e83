//! Draws that `rand` alone does not have.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// A standard normal number, by the Box–Muller method.
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
