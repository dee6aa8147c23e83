//! The hypervolume as something to ascend: its gradient with respect to every point, and what HaM makes of it
//! (docs/methods/ham.md). Values for reports are those of [`crate::pareto`].
//!
//! Points are `[n_objectives]`, all maximised, and count above a fixed corner z only.

mod ham;
mod spread;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::random::normal;
pub use ham::{RatioMeans, RatioNormalization, ascent};
pub use spread::spread_weights;

/// HV(Y; z) and its gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeGradient {
    /// HV, in the product of the objectives' units.
    pub value: f64,
    /// ∂HV/∂y_kj, `[n_points][n_objectives]`. Zero for a point that is dominated, not above the corner everywhere, or
    /// equal to an earlier one.
    pub gradient: Vec<Vec<f64>>,
}

/// The hypervolume's gradient: exact in two objectives, and in more an unbiased estimate from `n_directions` random
/// scalarisations ([`scalarised`]), seeded by `seed`.
///
/// # Panics
/// If a point has another length than `corner`, or there are fewer than two objectives.
pub fn volume_gradient(
    points: &[Vec<f64>],
    corner: &[f64],
    n_directions: usize,
    seed: u64,
) -> VolumeGradient {
    match corner.len() {
        2 => in_two_dimensions(points, corner),
        _ => scalarised(points, corner, n_directions, seed),
    }
}

/// With the front's points by y₁ descending, so y₂ ascending, and the corner at both ends,
/// ∂HV/∂y_{i,1} = y_{i,2} − y_{i−1,2} and ∂HV/∂y_{i,2} = y_{i,1} − y_{i+1,1}.
fn in_two_dimensions(points: &[Vec<f64>], corner: &[f64]) -> VolumeGradient {
    let is_above = |y: &Vec<f64>| y.iter().zip(corner).all(|(y, z)| y > z);
    let mut order: Vec<usize> = (0..points.len()).filter(|&i| is_above(&points[i])).collect();
    order.sort_by(|&a, &b| {
        let descending = |j: usize| points[b][j].total_cmp(&points[a][j]);
        descending(0).then(descending(1)).then(a.cmp(&b))
    });
    let mut front: Vec<usize> = Vec::new();
    for i in order {
        if front.last().is_none_or(|&last| points[i][1] > points[last][1]) {
            front.push(i);
        }
    }
    let (mut value, mut gradient) = (0.0, vec![vec![0.0; 2]; points.len()]);
    for (at, &i) in front.iter().enumerate() {
        let below = if at == 0 { corner[1] } else { points[front[at - 1]][1] };
        let left = front.get(at + 1).map_or(corner[0], |&next| points[next][0]);
        let (width, height) = (points[i][0] - left, points[i][1] - below);
        value += (points[i][0] - corner[0]) * height;
        gradient[i] = vec![height, width];
    }
    VolumeGradient { value, gradient }
}

/// HV = c_J E_λ[max_k min_j (max(y_kj − z_j, 0)/λ_j)^J] with λ uniform on the sphere's part in the positive orthant and
/// c_J = π^{J/2}/(2^J Γ(J/2 + 1)), the volume of the unit ball's part there (Zhang and Golovin, 2020, arXiv 2006.04655,
/// lemma 5): the mean over `n_directions` drawn λ, and its gradient, which only the point and objective that attain the
/// max and the min have.
///
/// # Panics
/// As [`volume_gradient`].
pub fn scalarised(
    points: &[Vec<f64>],
    corner: &[f64],
    n_directions: usize,
    seed: u64,
) -> VolumeGradient {
    let n_objectives = corner.len();
    assert!(n_objectives >= 2, "a front has two objectives or more");
    assert!(points.iter().all(|y| y.len() == n_objectives), "one number per objective");
    let power = n_objectives as f64;
    let constant = std::f64::consts::PI.powf(power / 2.0)
        / (2f64.powf(power) * libm::tgamma(power / 2.0 + 1.0));
    let scale = constant / n_directions as f64;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut value, mut gradient) = (0.0, vec![vec![0.0; n_objectives]; points.len()]);
    for _ in 0..n_directions {
        let drawn: Vec<f64> = (0..n_objectives).map(|_| normal(&mut rng).abs()).collect();
        let norm = drawn.iter().map(|x| x * x).sum::<f64>().sqrt();
        let lambda: Vec<f64> = drawn.iter().map(|x| x / norm).collect();
        // Distance from the corner to the region's edge in direction λ, by point and objective.
        let mut best: Option<(f64, usize, usize)> = None;
        for (k, y) in points.iter().enumerate() {
            let reach = |j: usize| (y[j] - corner[j]).max(0.0) / lambda[j];
            let nearest =
                (0..n_objectives).map(|j| (reach(j), j)).min_by(|a, b| a.0.total_cmp(&b.0));
            if let Some((reach, j)) = nearest
                && reach > best.map_or(0.0, |(most, ..)| most)
            {
                best = Some((reach, k, j));
            }
        }
        if let Some((reach, k, j)) = best {
            value += scale * reach.powf(power);
            gradient[k][j] += scale * power * reach.powf(power - 1.0) / lambda[j];
        }
    }
    VolumeGradient { value, gradient }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pareto::{Direction, hypervolume};
    use rand::RngExt;

    fn exact(points: &[Vec<f64>], corner: &[f64]) -> f64 {
        hypervolume(points, corner, &vec![Direction::Maximize; corner.len()]).unwrap()
    }

    fn random(n: usize, k: usize, seed: u64) -> Vec<Vec<f64>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| (0..k).map(|_| rng.random_range(-0.2..1.0)).collect()).collect()
    }

    /// Central differences of the exact hypervolume.
    fn differences(points: &[Vec<f64>], corner: &[f64]) -> Vec<Vec<f64>> {
        let h = 1e-7;
        let moved = |k: usize, j: usize, by: f64| {
            let mut points = points.to_vec();
            points[k][j] += by;
            exact(&points, corner)
        };
        let of = |k: usize, j: usize| (moved(k, j, h) - moved(k, j, -h)) / (2.0 * h);
        (0..points.len()).map(|k| (0..corner.len()).map(|j| of(k, j)).collect()).collect()
    }

    #[test]
    fn in_two_dimensions_value_and_gradient_are_those_of_the_exact_hypervolume() {
        for seed in 0..50 {
            let points = random(6, 2, seed);
            let corner = [0.0, 0.05];
            let found = volume_gradient(&points, &corner, 0, 0);
            assert!((found.value - exact(&points, &corner)).abs() < 1e-12, "{points:?}");
            let expected = differences(&points, &corner);
            for (a, b) in found.gradient.iter().flatten().zip(expected.iter().flatten()) {
                assert!((a - b).abs() < 1e-6, "{points:?}: {found:?} and {expected:?}");
            }
        }
    }

    #[test]
    fn of_equal_points_one_has_the_gradient() {
        let y = vec![0.5, 0.25];
        let found = volume_gradient(&[y.clone(), y.clone(), vec![0.5, 0.1]], &[0.0; 2], 0, 0);
        assert_eq!(found.gradient, [[0.25, 0.5], [0.0; 2], [0.0; 2]]);
        let sampled = scalarised(&[y.clone(), y], &[0.0; 2], 100, 1);
        assert!(sampled.gradient[0].iter().all(|g| *g > 0.0) && sampled.gradient[1] == [0.0; 2]);
    }

    #[test]
    fn one_point_has_the_gradient_of_a_product() {
        let y = vec![2.0, 3.0];
        assert_eq!(volume_gradient(&[y], &[0.0, 1.0], 0, 0).gradient, [[2.0, 2.0]]);
        // In three dimensions each is the product of the two other edges, 2 · 1.5 · 0.5.
        let found = volume_gradient(&[vec![1.0, 0.5, -0.5]], &[-1.0; 3], 400_000, 3);
        for (found, expected) in found.gradient[0].iter().zip([0.75, 1.0, 3.0]) {
            assert!((found - expected).abs() < 0.03 * expected, "{found} and {expected}");
        }
    }

    #[test]
    fn the_mean_of_scalarisations_is_the_hypervolume() {
        for k in [2, 3, 4] {
            let points = random(5, k, 7 + k as u64);
            let corner = vec![-0.3; k];
            // Means of many small estimates, whose scatter is the error of their mean.
            let parts: Vec<f64> =
                (0..200).map(|seed| scalarised(&points, &corner, 500, seed).value).collect();
            let mean = parts.iter().sum::<f64>() / 200.0;
            let variance = parts.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 199.0;
            let error = (variance / 200.0).sqrt();
            let exact = exact(&points, &corner);
            assert!((mean - exact).abs() < 4.0 * error, "{k}: {mean} ± {error} and {exact}");
            assert!(error < 0.01 * exact, "{k}: {error}");
        }
    }

    #[test]
    fn the_gradient_of_scalarisations_is_that_of_the_hypervolume_on_average() {
        for k in [2, 3] {
            let points = random(4, k, 20 + k as u64);
            let corner = vec![-0.3; k];
            let found = scalarised(&points, &corner, 300_000, 5).gradient;
            let expected = differences(&points, &corner);
            for (a, b) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!((a - b).abs() < 0.02, "{found:?} and {expected:?}");
            }
        }
    }
}
