//! The exact hypervolume of a set of points for any number of objectives.

use crate::Direction;
use crate::Result;
use crate::points::{Gains, too_large};
use crate::volume::volume;

/// The hypervolume: the volume of the region that is dominated by at least one of `points` and
/// that itself dominates `ref_point`, in the product of the objectives' units. **Larger is
/// better.** A point that is not strictly better than `ref_point` in all objectives contributes
/// nothing, and so does a duplicate or a dominated point; no points give 0.
///
/// Exact up to rounding: nothing is sampled, and different values are never treated as equal.
/// Only values that were computed with the same `ref_point` can be compared, so fix it before the
/// comparison and record it with the result.
///
/// Complexity for n points and K objectives:
/// - K = 2: O(n log n), a sweep.
/// - K = 3: O(n log n) comparisons, a sweep with a staircase of s ≤ n steps in an array: an
///   insertion may move O(s) of them (s is about √n on a smooth front).
/// - K = 4: n scans of the three-dimensional front that grows along the fourth objective, whose
///   size is m ≤ n, each O(m) if few of its points bound one box and O(m²) at worst. After HV4D+
///   (Guerreiro and Fonseca, *Computing and Updating Hypervolume Contributions in Up to Four
///   Dimensions*, 2018).
/// - K = 5 to 8: n scans of the boxes into which the uncovered part of K − 1 dimensions is cut, and
///   updates of some; there are at most O(n^⌊(K − 1) / 2⌋) boxes, far fewer on usual fronts. After
///   Lacour, Klamroth and Fonseca (*A Box Decomposition Algorithm to Compute the Hypervolume
///   Indicator*, 2017).
/// - K > 8, and few points for their number of objectives: exponential in K; the exclusive volumes of
///   While, Bradstreet and Barone (*A Fast Way of Calculating Exact Hypervolumes*, 2012), each with
///   one objective fewer.
///
/// Definition: Zitzler and Thiele, *Multiobjective Evolutionary Algorithms*, 1999. Passing only the
/// front, or another order, changes the result at most by rounding.
///
/// # Errors
/// [`Error::InvalidParameter`](crate::Error::InvalidParameter) if there is no objective or if
/// lengths differ; [`Error::NonFinite`](crate::Error::NonFinite) for a NaN or an infinity in the
/// input, or a volume too large for an `f64`. The field and the index are named.
pub fn hypervolume<P: AsRef<[f64]>>(
    points: &[P],
    ref_point: &[f64],
    directions: &[Direction],
) -> Result<f64> {
    const WHAT: &str = "the hypervolume";
    let gains = Gains::new(points, ref_point, directions, WHAT)?;
    let volume = volume(gains.values, directions.len());
    if volume.is_finite() { Ok(volume) } else { Err(too_large(WHAT)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Direction::{Maximize, Minimize};
    use proptest::prelude::*;

    fn max_hv(points: &[Vec<f64>], ref_point: &[f64]) -> f64 {
        hypervolume(points, ref_point, &vec![Maximize; ref_point.len()]).unwrap()
    }

    #[test]
    fn hand_computed_values() {
        // One point is a box.
        assert_eq!(max_hv(&[vec![3.0]], &[1.0]), 2.0);
        assert_eq!(max_hv(&[vec![2.0, 3.0]], &[0.0, 1.0]), 4.0);
        // Steps of 1 + 2 + 3 unit squares.
        let stairs = [vec![1.0, 3.0], vec![2.0, 2.0], vec![3.0, 1.0]];
        assert_eq!(max_hv(&stairs, &[0.0, 0.0]), 6.0);
        // Three 2×1×1 boxes that share a unit cube: 3·2 − 3·1 + 1 = 4.
        let star = [vec![2.0, 1.0, 1.0], vec![1.0, 2.0, 1.0], vec![1.0, 1.0, 2.0]];
        assert_eq!(max_hv(&star, &[0.0; 3]), 4.0);
        // The same in four dimensions: 4·2 − 6·1 + 4·1 − 1 = 5.
        let star: Vec<Vec<f64>> =
            (0..4).map(|i| (0..4).map(|j| if i == j { 2.0 } else { 1.0 }).collect()).collect();
        assert_eq!(max_hv(&star, &[0.0; 4]), 5.0);
    }

    #[test]
    fn directions_mix() {
        // Accuracy up, cost down: (0.8, 2) and (0.9, 4) against (0.5, 5).
        let hv = hypervolume(&[[0.8, 2.0], [0.9, 4.0]], &[0.5, 5.0], &[Maximize, Minimize]);
        assert!((hv.unwrap() - (0.3 * 3.0 + 0.1)).abs() < 1e-12);
    }

    #[test]
    fn points_not_strictly_better_than_the_reference_count_nothing() {
        assert_eq!(max_hv(&[vec![0.0, 5.0], vec![5.0, -1.0]], &[0.0, 0.0]), 0.0);
        assert_eq!(max_hv(&[], &[0.0, 0.0]), 0.0);
    }

    #[test]
    fn bad_input_is_an_error() {
        let d = [Maximize, Maximize];
        let e = hypervolume(&[vec![1.0, f64::NAN]], &[0.0, 0.0], &d).unwrap_err();
        assert!(e.to_string().contains("objective 1 of `points` (index 0)"), "{e}");
        assert!(hypervolume(&[vec![1.0, 1.0]], &[0.0, f64::INFINITY], &d).is_err());
        assert!(hypervolume(&[vec![1.0]], &[0.0, 0.0], &d).is_err());
        assert!(hypervolume(&[vec![1.0, 1.0]], &[0.0], &d).is_err());
        assert!(hypervolume::<Vec<f64>>(&[], &[], &[]).is_err());
        assert!(hypervolume(&[vec![f64::MAX, f64::MAX]], &[0.0, 0.0], &d).is_err());
    }

    /// The union of boxes by inclusion and exclusion: exponential, but certainly correct.
    fn inclusion_exclusion(points: &[Vec<f64>], ref_point: &[f64]) -> f64 {
        (1_u32..1 << points.len())
            .map(|subset| {
                let intersection: f64 = (0..ref_point.len())
                    .map(|k| {
                        let chosen = (0..points.len()).filter(|i| subset >> i & 1 == 1);
                        let edge = chosen.map(|i| points[i][k]).fold(f64::INFINITY, f64::min);
                        (edge - ref_point[k]).max(0.0)
                    })
                    .product();
                if subset.count_ones() % 2 == 1 { intersection } else { -intersection }
            })
            .sum()
    }

    fn sets() -> impl Strategy<Value = Vec<Vec<f64>>> {
        // A coarse grid, so that ties and duplicates are frequent; some points are not above the
        // reference.
        (2_usize..=8).prop_flat_map(|n_objectives| {
            let point =
                prop::collection::vec((-2_i8..9).prop_map(|v| f64::from(v) / 2.0), n_objectives);
            prop::collection::vec(point, 1..8)
        })
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
    }

    proptest! {
        #[test]
        fn agrees_with_inclusion_exclusion(points in sets()) {
            let ref_point = vec![0.0; points[0].len()];
            let hv = max_hv(&points, &ref_point);
            let expected = inclusion_exclusion(&points, &ref_point);
            prop_assert!(close(hv, expected), "{} against {}", hv, expected);
        }

        #[test]
        fn identities(points in sets(), rotate in 0_usize..8, shrink in 0.1_f64..1.0, scale in 0.1_f64..9.0) {
            let n = points[0].len();
            let ref_point = vec![0.25; n];
            let hv = max_hv(&points, &ref_point);

            let mut permuted = points.clone();
            permuted.rotate_left(rotate % points.len());
            prop_assert!(close(hv, max_hv(&permuted, &ref_point)));

            let mut more = points.clone();
            more.push(points[0].iter().map(|v| v - shrink).collect());
            more.push(points[0].clone());
            prop_assert!(close(hv, max_hv(&more, &ref_point)));

            let mut better = points.clone();
            better.push(points[0].iter().map(|v| v + shrink).collect());
            prop_assert!(max_hv(&better, &ref_point) >= hv - 1e-9);

            let scaled: Vec<Vec<f64>> = points.iter()
                .map(|p| p.iter().enumerate().map(|(k, v)| if k == 0 { v * scale } else { *v }).collect())
                .collect();
            let mut scaled_ref = ref_point.clone();
            scaled_ref[0] *= scale;
            prop_assert!(close(hv * scale, max_hv(&scaled, &scaled_ref)));

            let negated: Vec<Vec<f64>> = points.iter().map(|p| p.iter().map(|v| -v).collect()).collect();
            let minimised = hypervolume(&negated, &vec![-0.25; n], &vec![Minimize; n]).unwrap();
            prop_assert!(close(hv, minimised));

            // Swapping two objectives changes nothing.
            let swapped: Vec<Vec<f64>> = points.iter().map(|p| {
                let mut p = p.clone();
                p.swap(0, n - 1);
                p
            }).collect();
            prop_assert!(close(hv, max_hv(&swapped, &ref_point)));
        }
    }
}
