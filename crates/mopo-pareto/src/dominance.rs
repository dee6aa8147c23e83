//! Dominance, and the non-dominated points of a set.

use crate::Direction;
use crate::dominators;
use crate::points::Descending;
use crate::staircase::Staircase;

/// Whether `a` Pareto-dominates `b`: at least as good in every objective and strictly better in
/// one. Equal points do not dominate each other, and a point with a NaN neither dominates nor is
/// dominated.
///
/// Complexity: O(K). Source: Deb, *Multi-Objective Optimization using Evolutionary Algorithms*
/// (2001), definition 2.5.
///
/// ```
/// use mopo_pareto::{Direction::{Maximize, Minimize}, dominates};
///
/// assert!(dominates(&[2.0, 1.0], &[1.0, 1.0], &[Maximize; 2]));
/// assert!(!dominates(&[2.0, 1.0], &[1.0, 1.0], &[Minimize; 2]));
/// ```
///
/// # Panics
/// If `a`, `b` and `directions` differ in length.
pub fn dominates(a: &[f64], b: &[f64], directions: &[Direction]) -> bool {
    assert_eq!(a.len(), directions.len(), "one direction per objective of `a`");
    assert_eq!(b.len(), directions.len(), "one direction per objective of `b`");
    let mut strictly = false;
    for ((&x, &y), direction) in a.iter().zip(b).zip(directions) {
        if !direction.at_least(x, y) {
            return false;
        }
        strictly |= direction.better(x, y);
    }
    strictly
}

/// The indices, ascending, of the points that no other point dominates. All of several equal points
/// are kept, and so is a point with a NaN, which nothing dominates. No tolerance.
///
/// Complexity for n points and K objectives: O(n log n) for K ≤ 2; O(n log n) comparisons for K = 3
/// (a sweep with a staircase in an array); O(K n log n + K n²/64) beyond, on
/// bit sets. Source: Kung, Luccio and Preparata, *On Finding the Maxima of a Set of Vectors*
/// (1975), for the sweeps.
///
/// # Panics
/// If a point and `directions` differ in length.
pub fn non_dominated<P: AsRef<[f64]>>(points: &[P], directions: &[Direction]) -> Vec<usize> {
    let sorted = Descending::of_candidates(points, directions);
    // For each row whether an earlier one is at least as good everywhere.
    let covered: Vec<bool> = match directions.len() {
        0..=2 => {
            let mut best = None;
            let second = |rest: &[f64]| rest.first().copied().unwrap_or(0.0);
            let mut covered = |v: f64| {
                let covered = best.is_some_and(|b| b >= v);
                if !covered {
                    best = Some(v);
                }
                covered
            };
            sorted.rests().map(|rest| covered(second(rest))).collect()
        }
        3 => {
            let mut stairs = Staircase::default();
            sorted.rests().map(|rest| !stairs.insert(rest[0], rest[1])).collect()
        }
        _ => {
            let mut covered = Vec::with_capacity(sorted.len());
            dominators::visit(&sorted, |_, set| covered.push(set.iter().any(|&word| word != 0)));
            covered
        }
    };
    let mut kept = vec![false; points.len()];
    sorted.incomparable.iter().for_each(|&idx| kept[idx as usize] = true);
    let mut first_is_kept = false;
    for (i, &idx) in sorted.indices.iter().enumerate() {
        // Equal points are adjacent and treated like the first.
        if !sorted.repeats(i) {
            first_is_kept = !covered[i];
        }
        kept[idx as usize] = first_is_kept;
    }
    kept.iter().enumerate().filter_map(|(i, &kept)| kept.then_some(i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Direction::{Maximize, Minimize};
    use proptest::prelude::*;

    #[test]
    fn dominance_needs_one_strict_improvement() {
        let d = [Maximize, Maximize];
        assert!(dominates(&[1.0, 2.0], &[1.0, 1.0], &d));
        assert!(!dominates(&[1.0, 1.0], &[1.0, 1.0], &d));
        assert!(!dominates(&[2.0, 0.0], &[1.0, 1.0], &d));
        assert!(dominates(&[2.0, 0.0], &[1.0, 1.0], &[Maximize, Minimize]));
        assert!(!dominates(&[f64::NAN, 5.0], &[1.0, 1.0], &d));
        assert!(!dominates(&[5.0, 5.0], &[f64::NAN, 1.0], &d));
    }

    #[test]
    fn duplicates_are_all_kept_and_a_last_bit_counts() {
        let d = [Maximize, Maximize];
        let points = [[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [0.5, 0.5]];
        assert_eq!(non_dominated(&points, &d), [0, 1, 2]);
        let close = [[1.0, 1.0], [1.0, 1.0 + f64::EPSILON]];
        assert_eq!(non_dominated(&close, &d), [1]);
        assert!(non_dominated::<[f64; 2]>(&[], &d).is_empty());
    }

    #[test]
    fn a_point_with_a_nan_is_kept_and_hides_nothing() {
        let points = [[f64::NAN, 9.0], [1.0, 1.0], [0.0, 0.0], [9.0, f64::NAN]];
        assert_eq!(non_dominated(&points, &[Maximize; 2]), [0, 1, 3]);
        let infinite = [[f64::INFINITY, 0.0], [f64::NEG_INFINITY, -0.0], [0.0, 0.0]];
        assert_eq!(non_dominated(&infinite, &[Maximize; 2]), [0]);
        assert_eq!(non_dominated(&infinite, &[Minimize; 2]), [1]);
    }

    #[test]
    fn padding_is_not_taken_for_a_point() {
        let worst = [[f64::NEG_INFINITY; 5], [f64::NEG_INFINITY; 5]];
        assert_eq!(non_dominated(&worst, &[Maximize; 5]), [0, 1]);
        let first_decides = [[1.0, f64::NEG_INFINITY], [0.0, f64::NEG_INFINITY]];
        assert_eq!(non_dominated(&first_decides, &[Maximize; 2]), [0]);
    }

    proptest! {
        #[test]
        fn agrees_with_comparing_every_pair(
            points in (0_usize..=6).prop_flat_map(|k| {
                prop::collection::vec(prop::collection::vec(-2_i8..3, k), 0..40)
            }),
            minimised in prop::collection::vec(any::<bool>(), 6),
        ) {
            let k = points.first().map_or(3, Vec::len);
            let d: Vec<_> =
                minimised[..k].iter().map(|&m| if m { Minimize } else { Maximize }).collect();
            let points: Vec<Vec<f64>> = points
                .iter()
                // A negative zero equals a zero.
                .map(|p| p.iter().map(|&v| if v == -2 { -0.0 } else { f64::from(v) }).collect())
                .collect();
            let expected: Vec<usize> = (0..points.len())
                .filter(|&i| !points.iter().any(|other| dominates(other, &points[i], &d)))
                .collect();
            prop_assert_eq!(non_dominated(&points, &d), expected);
        }
    }
}
