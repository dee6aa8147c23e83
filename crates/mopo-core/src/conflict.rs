//! Gradients of several objectives as one direction: conflict-averse gradient descent (Liu et al., 2021,
//! arXiv 2110.14048), with the correction clipped at the preference weights (Chen et al., 2026,
//! arXiv 2602.02495, Algorithm 1). Only the gradients' products are needed, on the host.

use crate::dual::cholesky_solve;

/// Up to so many objectives the solution is searched for among all their subsets.
const MAX_FACES: usize = 12;
/// With more objectives: sections of the search for μ, and the steps in each at most.
const MAX_SECTIONS: usize = 60;
const MAX_STEPS: usize = 2000;
/// The smallest μ, relative to the longest gradient.
const SMALLEST: f64 = 1e-9;
/// Relative to the slope: the gap at which steps end.
const GAP: f64 = 1e-10;

/// Relative to the mean squared norm of the gradients: added to their squared norms, so that linearly dependent
/// ones can be solved for.
const RIDGE: f64 = 1e-12;
/// Relative to the slope: values that differ by less are the same.
const SAME_VALUE: f64 = 1e-13;
/// Mixtures with a smaller squared norm, relative to the largest of the gradients, have no direction.
const NO_DIRECTION: f64 = 1e-10;

/// How gradients g_k are combined to d = Σ_k c_k g_k.
#[derive(Debug, Clone, PartialEq)]
pub struct ConflictAverse {
    /// p of the dual's solution, on the simplex.
    pub mixture: Vec<f64>,
    /// p̃ = min(p, α) if it is clipped, else p; not normalised.
    pub clipped: Vec<f64>,
    /// c_k = α_k + c ‖g_0‖ p̃_k/‖g_p̃‖.
    pub factors: Vec<f64>,
}

/// The direction d = g_0 + c ‖g_0‖ g_p̃/‖g_p̃‖ with g_0 = Σ α_k g_k and g_p = Σ p_k g_k, where p minimises
///
/// ⟨g_p, g_0⟩ + c ‖g_0‖ ‖g_p‖
///
/// on the simplex: the dual of max_d min_k ⟨g_k, d⟩ over ‖d − g_0‖ ≤ c ‖g_0‖. Without clipping d is that
/// maximum, and the dual's value is the slowest improvement min_k ⟨g_k, d⟩. Where g_p̃ is 0, d = g_0.
///
/// * `gram`: ⟨g_j, g_k⟩, `[K][K]`, symmetric. If it has a number that is not finite, d is g_0.
/// * `weights`: α, `[K]`, non-negative.
/// * `radius`: c in \[0, 1). With 0, d is g_0.
/// * `clip`: whether p_k may not exceed α_k.
///
/// For K ≤ 12 the solution is exact up to rounding, by the stationary point of every face of the simplex, of which there
/// are 2^K − 1. For more, pairwise Frank-Wolfe steps (Lacoste-Julien and Jaggi, 2015) find the face, and its
/// stationary point is the solution where it is better.
///
/// # Panics
/// If the shapes do not agree, or K is 0.
pub fn conflict_averse(
    gram: &[Vec<f64>],
    weights: &[f64],
    radius: f64,
    clip: bool,
) -> ConflictAverse {
    let k = weights.len();
    assert!(k > 0, "no objective");
    assert!(gram.len() == k && gram.iter().all(|row| row.len() == k), "a square matrix");
    let plain = ConflictAverse {
        mixture: weights.to_vec(),
        clipped: weights.to_vec(),
        factors: weights.to_vec(),
    };
    let norm = square(gram, weights).sqrt();
    let reach = radius * norm;
    if !reach.is_finite() || gram.iter().flatten().any(|x| !x.is_finite()) || norm == 0.0 {
        return plain;
    }
    let problem = Dual { gram, slope: times(gram, weights), reach };
    let mixture = match k <= MAX_FACES {
        true => problem.minimum(),
        false => problem.descend(),
    };
    let clipped: Vec<f64> = match clip {
        true => mixture.iter().zip(weights).map(|(p, w)| p.min(*w)).collect(),
        false => mixture.clone(),
    };
    let largest = (0..k).map(|i| gram[i][i]).fold(0.0, f64::max);
    let length = square(gram, &clipped);
    let correction = match length > NO_DIRECTION * largest {
        true => reach / length.sqrt(),
        false => 0.0,
    };
    let factors = weights.iter().zip(&clipped).map(|(w, p)| w + correction * p).collect();
    ConflictAverse { mixture, clipped, factors }
}

/// f(p) = pᵀ b + s √(pᵀ H p).
struct Dual<'a> {
    /// H.
    gram: &'a [Vec<f64>],
    /// b.
    slope: Vec<f64>,
    /// s.
    reach: f64,
}

impl Dual<'_> {
    fn value(&self, p: &[f64]) -> f64 {
        let linear: f64 = p.iter().zip(&self.slope).map(|(p, b)| p * b).sum();
        linear + self.reach * square(self.gram, p).sqrt()
    }

    fn minimum(&self) -> Vec<f64> {
        let k = self.slope.len();
        let corners = (0..k).map(|i| {
            let mut p = vec![0.0; k];
            p[i] = 1.0;
            p
        });
        let faces = (1..1_usize << k).filter(|face| face.count_ones() > 1).filter_map(|face| {
            let face: Vec<usize> = (0..k).filter(|i| face >> i & 1 == 1).collect();
            self.stationary(&face)
        });
        let all: Vec<(f64, Vec<f64>)> = corners.chain(faces).map(|p| (self.value(&p), p)).collect();
        let least = all.iter().map(|(value, _)| *value).fold(f64::INFINITY, f64::min);
        let scale = self.slope.iter().fold(least.abs(), |most, b| most.max(b.abs()));
        // Equal gradients have many solutions: the one that divides p evenly, instead of what rounding chooses.
        let best = all.into_iter().filter(|(value, _)| *value <= least + SAME_VALUE * scale);
        let even = |p: &[f64]| p.iter().map(|p| p * p).sum::<f64>();
        best.min_by(|a, b| even(&a.1).total_cmp(&even(&b.1))).expect("a corner").1
    }

    /// The same for any K: f(p) is the minimum over μ > 0 of pᵀ b + s (pᵀ H p/μ + μ)/2, which is convex in p and μ together
    /// and quadratic in p. μ is found by golden sections of its logarithm, and p by steps.
    fn descend(&self) -> Vec<f64> {
        let k = self.slope.len();
        let largest = (0..k).map(|i| self.gram[i][i]).fold(0.0, f64::max).sqrt();
        let mut p = vec![1.0 / k as f64; k];
        let mut at = |log: f64| {
            let mu = largest * log.exp();
            self.settle(&mut p, mu);
            let value = self.value(&p);
            let linear: f64 = p.iter().zip(&self.slope).map(|(p, b)| p * b).sum();
            let smooth = linear + 0.5 * self.reach * (square(self.gram, &p) / mu + mu);
            (smooth, value, p.clone())
        };
        let share = 0.5 * (5f64.sqrt() - 1.0);
        let (mut low, mut high) = (SMALLEST.ln(), 0.0);
        let inner = |low: f64, high: f64| [high - share * (high - low), low + share * (high - low)];
        let [mut left, mut right] = inner(low, high).map(&mut at);
        let mut best = if left.1 < right.1 { left.clone() } else { right.clone() };
        for _ in 0..MAX_SECTIONS {
            if left.0 < right.0 {
                high = inner(low, high)[1];
                right = left;
                left = at(inner(low, high)[0]);
            } else {
                low = inner(low, high)[0];
                left = right;
                right = at(inner(low, high)[1]);
            }
            for found in [&left, &right] {
                if found.1 < best.1 {
                    best.clone_from(found);
                }
            }
        }
        let p = best.2;
        let face: Vec<usize> = (0..k).filter(|i| p[*i] > 1e-7).collect();
        match self.stationary(&face) {
            Some(exact) if face.len() > 1 && self.value(&exact) <= best.1 => exact,
            _ => p,
        }
    }

    /// Moves p to the minimum of pᵀ b + s pᵀ H p/(2 μ) on the simplex: pairwise Frank-Wolfe steps, each as long as is best.
    fn settle(&self, p: &mut [f64], mu: f64) {
        let k = p.len();
        let mut product = times(self.gram, p);
        let scale = self.slope.iter().fold(0.0_f64, |most, b| most.max(b.abs()));
        for _ in 0..MAX_STEPS {
            let slope: Vec<f64> =
                (self.slope.iter().zip(&product)).map(|(b, hp)| b + self.reach / mu * hp).collect();
            let by_slope = |a: &usize, b: &usize| slope[*a].total_cmp(&slope[*b]);
            let to = (0..k).min_by(by_slope).expect("not empty");
            let from = (0..k).filter(|i| p[*i] > 0.0).max_by(by_slope).expect("weights have sum 1");
            let gap = slope[from] - slope[to];
            if gap <= GAP * scale {
                break;
            }
            let curvature = self.gram[to][to] + self.gram[from][from] - 2.0 * self.gram[to][from];
            let best = gap * mu / (self.reach * curvature);
            // Without curvature all of it.
            let step = if best.is_finite() && best < p[from] { best } else { p[from] };
            p[to] += step;
            p[from] = if step == p[from] { 0.0 } else { p[from] - step };
            for (j, product) in product.iter_mut().enumerate() {
                *product += step * (self.gram[to][j] - self.gram[from][j]);
            }
        }
    }

    /// The point at which f is stationary inside a face, if there is one.
    ///
    /// There b + s H p/√q = ν with q = pᵀ H p and the same ν in each coordinate of the face. So
    /// p = μ (ν H⁻¹ 1 − H⁻¹ b) with μ = √q/s; 1ᵀ p = 1 and pᵀ H p = q = s² μ² leave a quadratic
    /// equation for ν with one root at which μ > 0. The value there is ν.
    fn stationary(&self, face: &[usize]) -> Option<Vec<f64>> {
        let k = self.slope.len();
        let ridge = RIDGE * (0..k).map(|i| self.gram[i][i]).sum::<f64>() / k as f64;
        let matrix: Vec<Vec<f64>> = face
            .iter()
            .map(|&i| {
                let entry = |&j: &usize| self.gram[i][j] + if i == j { ridge } else { 0.0 };
                face.iter().map(entry).collect()
            })
            .collect();
        let slope: Vec<f64> = face.iter().map(|&i| self.slope[i]).collect();
        let of_ones = cholesky_solve(matrix.clone(), &vec![1.0; face.len()])?;
        let of_slope = cholesky_solve(matrix, &slope)?;
        let ones: f64 = of_ones.iter().sum();
        let mixed: f64 = of_slope.iter().sum();
        let slopes: f64 = of_slope.iter().zip(&slope).map(|(x, b)| x * b).sum();
        let root = (mixed * mixed - ones * (slopes - self.reach * self.reach)).sqrt();
        // NaN where f falls towards the edge of the face everywhere.
        if root.is_nan() || root <= 0.0 {
            return None;
        }
        let level = (mixed + root) / ones;
        let inside: Vec<f64> =
            of_ones.iter().zip(&of_slope).map(|(x, y)| (level * x - y) / root).collect();
        if inside.iter().any(|p| p.is_nan() || *p < 0.0) {
            return None;
        }
        let total: f64 = inside.iter().sum();
        let mut p = vec![0.0; k];
        face.iter().zip(inside).for_each(|(&i, value)| p[i] = value / total);
        Some(p)
    }
}

/// H p.
fn times(gram: &[Vec<f64>], p: &[f64]) -> Vec<f64> {
    gram.iter().map(|row| row.iter().zip(p).map(|(h, p)| h * p).sum()).collect()
}

/// pᵀ H p, which rounding may make slightly negative.
fn square(gram: &[Vec<f64>], p: &[f64]) -> f64 {
    times(gram, p).iter().zip(p).map(|(h, p)| h * p).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gram(gradients: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        gradients.iter().map(|a| gradients.iter().map(|b| product(a, b)).collect()).collect()
    }

    /// Reproducible numbers in [−1, 1).
    fn numbers(seed: u32) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 23) - 1.0
        }
    }

    fn gradients(k: usize, dim: usize, draw: &mut impl FnMut() -> f64) -> Vec<Vec<f64>> {
        (0..k).map(|_| (0..dim).map(|_| draw()).collect()).collect()
    }

    fn simplex(k: usize, draw: &mut impl FnMut() -> f64) -> Vec<f64> {
        let raw: Vec<f64> = (0..k).map(|_| draw().abs() + 0.05).collect();
        let total: f64 = raw.iter().sum();
        raw.into_iter().map(|x| x / total).collect()
    }

    /// The dual's value at p.
    fn value(gram: &[Vec<f64>], weights: &[f64], radius: f64, p: &[f64]) -> f64 {
        let reach = radius * square(gram, weights).sqrt();
        Dual { gram, slope: times(gram, weights), reach }.value(p)
    }

    #[test]
    fn no_point_of_a_fine_grid_is_better_for_two_and_three_objectives() {
        let mut draw = numbers(3);
        for i in 0..300 {
            // Also gradients that are linearly dependent.
            let (k, dim) = (2 + i % 2, 1 + i % 4);
            let h = gram(&gradients(k, dim, &mut draw));
            let weights = simplex(k, &mut draw);
            let radius = 0.1 + 0.2 * (i % 5) as f64;
            let found = conflict_averse(&h, &weights, radius, false);
            let best = value(&h, &weights, radius, &found.mixture);
            assert!((found.mixture.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            assert!(found.mixture.iter().all(|p| *p >= 0.0));
            let n = if k == 2 { 20_000 } else { 200 };
            let mut on_grid = f64::INFINITY;
            for a in 0..=n {
                for b in 0..=if k == 2 { 0 } else { n - a } {
                    let [a, b] = [a, b].map(|x| f64::from(x) / f64::from(n));
                    let p = if k == 2 { vec![a, 1.0 - a] } else { vec![a, b, 1.0 - a - b] };
                    on_grid = on_grid.min(value(&h, &weights, radius, &p));
                }
            }
            assert!(best <= on_grid + 1e-6, "{i}: {best} and {on_grid}: {h:?} {weights:?}");
        }
    }

    #[test]
    fn the_dual_is_the_slowest_improvement_and_no_direction_in_reach_has_a_larger_one() {
        let mut draw = numbers(11);
        for i in 0..200 {
            let k = 2 + i % 5;
            let g = gradients(k, 8, &mut draw);
            let (h, weights) = (gram(&g), simplex(k, &mut draw));
            let radius = 0.1 + 0.2 * (i % 5) as f64;
            let found = conflict_averse(&h, &weights, radius, false);
            let slowest =
                |factors: &[f64]| times(&h, factors).into_iter().fold(f64::INFINITY, f64::min);
            let at = slowest(&found.factors);
            let dual = value(&h, &weights, radius, &found.mixture);
            assert!((at - dual).abs() < 1e-6, "{i}: {at} and {dual}");
            assert!(at >= slowest(&weights) - 1e-9, "{i}");
            // Its distance from g_0 is c ‖g_0‖.
            let apart: Vec<f64> = found.factors.iter().zip(&weights).map(|(c, w)| c - w).collect();
            let reach = radius * square(&h, &weights).sqrt();
            assert!((square(&h, &apart).sqrt() - reach).abs() < 1e-9);
            for _ in 0..20 {
                let other: Vec<f64> = (0..k).map(|_| draw()).collect();
                let scale = reach / square(&h, &other).sqrt();
                let moved: Vec<f64> =
                    weights.iter().zip(other).map(|(w, x)| w + scale * x).collect();
                assert!(slowest(&moved) <= at + 1e-9, "{i}");
            }
        }
    }

    #[test]
    fn steps_find_what_the_search_among_all_faces_finds() {
        let mut draw = numbers(29);
        for i in 0..200 {
            // Also more gradients than dimensions.
            let (k, dim) = (2 + i % 9, 2 + i % 7);
            let h = gram(&gradients(k, dim, &mut draw));
            let weights = simplex(k, &mut draw);
            let reach = (0.1 + 0.2 * (i % 5) as f64) * square(&h, &weights).sqrt();
            let problem = Dual { gram: &h, slope: times(&h, &weights), reach };
            let (exact, found) = (problem.minimum(), problem.descend());
            assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            assert!(found.iter().all(|p| *p >= 0.0), "{found:?}");
            let (exact, found) = (problem.value(&exact), problem.value(&found));
            assert!(found - exact < 1e-6 * (1.0 + exact.abs()), "{i}: {found} and {exact}");
        }
    }

    #[test]
    fn many_objectives_improve_by_the_duals_value() {
        let mut draw = numbers(31);
        for k in [13, 20, 40] {
            let h = gram(&gradients(k, 2 * k, &mut draw));
            let weights = simplex(k, &mut draw);
            let found = conflict_averse(&h, &weights, 0.4, false);
            let slowest = times(&h, &found.factors).into_iter().fold(f64::INFINITY, f64::min);
            let dual = value(&h, &weights, 0.4, &found.mixture);
            assert!(
                (slowest - dual).abs() < 1e-6 * (1.0 + dual.abs()),
                "{k}: {slowest} and {dual}"
            );
        }
    }

    #[test]
    fn two_orthogonal_gradients_have_a_closed_form() {
        // Of equal length and weight: by symmetry p = ½, and d = (1 + c) g_0.
        let h = gram(&[vec![1.0, 0.0], vec![0.0, 1.0]]);
        let found = conflict_averse(&h, &[0.5, 0.5], 0.4, true);
        for (p, factor) in found.mixture.iter().zip(&found.factors) {
            assert!((p - 0.5).abs() < 1e-9 && (factor - 0.7).abs() < 1e-9, "{found:?}");
        }
    }

    #[test]
    fn clipped_mixtures_stay_below_the_weights_and_are_not_normalised() {
        // A stationary point inside: with H = [[17, −5], [−5, 2]], α = (0.2, 0.8), c = ½ it is at p_0 = 0.3561.
        let h = gram(&[vec![1.0, -4.0], vec![-1.0, 1.0]]);
        let found = conflict_averse(&h, &[0.2, 0.8], 0.5, true);
        assert!((found.mixture[0] - 0.3561).abs() < 1e-4, "{found:?}");
        assert_eq!(found.clipped[0], 0.2);
        assert!((found.clipped[1] - 0.6439).abs() < 1e-4);
        // d − g_0 has length c ‖g_0‖ all the same.
        let apart: Vec<f64> = found.factors.iter().zip([0.2, 0.8]).map(|(c, w)| c - w).collect();
        let lengths = [square(&h, &apart), square(&h, &[0.2, 0.8])].map(f64::sqrt);
        assert!((lengths[0] - 0.5 * lengths[1]).abs() < 1e-12);
        // The length of d by another program.
        assert!((square(&h, &found.factors).sqrt() - 0.8886).abs() < 1e-4);
        let free = conflict_averse(&h, &[0.2, 0.8], 0.5, false);
        assert_eq!((&free.mixture, free.clipped), (&found.mixture, free.mixture.clone()));
    }

    #[test]
    fn equal_gradients_share_the_mixture_evenly() {
        let mut draw = numbers(3);
        for _ in 0..20 {
            let mut g = gradients(3, 4, &mut draw);
            g[2] = g[0].clone();
            // Products whose last digits differ, as those of two passes do.
            let mut h = gram(&g);
            h[2][2] *= 1.0 + f64::EPSILON;
            let found = conflict_averse(&h, &[0.3, 0.4, 0.3], 0.4, true);
            let [first, _, last] = found.mixture[..] else { panic!("three") };
            assert!((first - last).abs() < 1e-3, "{found:?}");
        }
    }

    #[test]
    fn without_a_conflict_or_a_radius_the_direction_is_the_weighted_sum() {
        let weights = [0.3, 0.5, 0.2];
        // Equal gradients: all of it is along g, with length 1 + c.
        let equal = gram(&vec![vec![0.6, -0.8]; 3]);
        for clip in [true, false] {
            let found = conflict_averse(&equal, &weights, 0.4, clip);
            assert!((found.factors.iter().sum::<f64>() - 1.4).abs() < 1e-9, "{found:?}");
        }
        let mut draw = numbers(5);
        let h = gram(&gradients(3, 4, &mut draw));
        assert_eq!(conflict_averse(&h, &weights, 0.0, true).factors, weights);
        // Nothing to correct, or nothing to compute with.
        let opposite = gram(&[vec![1.0], vec![-1.0]]);
        assert_eq!(conflict_averse(&opposite, &[0.5, 0.5], 0.4, true).factors, [0.5, 0.5]);
        let nan = vec![vec![f64::NAN; 2]; 2];
        assert_eq!(conflict_averse(&nan, &[0.5, 0.5], 0.4, true).factors, [0.5, 0.5]);
        // One objective: its gradient is only longer.
        let alone = conflict_averse(&[vec![4.0]], &[1.0], 0.4, true);
        assert!((alone.factors[0] - 1.4).abs() < 1e-12);
    }

    #[test]
    fn gradients_of_any_scale_have_the_same_mixture() {
        let mut draw = numbers(9);
        let g = gradients(3, 5, &mut draw);
        let weights = simplex(3, &mut draw);
        let at = |scale: f64| {
            let scaled: Vec<Vec<f64>> =
                g.iter().map(|g| g.iter().map(|x| scale * x).collect()).collect();
            conflict_averse(&gram(&scaled), &weights, 0.4, true).factors
        };
        for scale in [1e-12, 1e12] {
            assert!(at(1.0).iter().zip(at(scale)).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }
}
