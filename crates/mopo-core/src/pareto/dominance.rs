//! Which points of a set are not beaten by another one.

use super::Direction;

/// Whether `a` Pareto-dominates `b`: at least as good in every objective and strictly better in
/// one. Equal points do not dominate each other, and a point with a NaN neither dominates nor is
/// dominated.
///
/// Complexity: O(K). Source: Deb, *Multi-Objective Optimization using Evolutionary Algorithms*
/// (2001), definition 2.5.
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

/// The indices, ascending, of the points that no other point dominates. Of several equal points
/// all are kept. No tolerance.
///
/// Complexity: O(K n²).
///
/// # Panics
/// If a point and `directions` differ in length.
pub fn non_dominated<P: AsRef<[f64]>>(points: &[P], directions: &[Direction]) -> Vec<usize> {
    (0..points.len())
        .filter(|&i| {
            !points.iter().any(|other| dominates(other.as_ref(), points[i].as_ref(), directions))
        })
        .collect()
}

/// The points in layers: layer 0 is [`non_dominated`], layer 1 is what is non-dominated once layer
/// 0 is taken away, and so on. Indices ascend within a layer; every index stands in exactly one.
///
/// Complexity: O(K n²) time, O(n²) memory. Source: the fast non-dominated sort of NSGA-II (Deb et
/// al. 2002).
///
/// # Panics
/// If a point and `directions` differ in length.
pub fn non_dominated_sort<P: AsRef<[f64]>>(
    points: &[P],
    directions: &[Direction],
) -> Vec<Vec<usize>> {
    let n = points.len();
    let mut beats: Vec<Vec<usize>> = vec![Vec::new(); n];
    let mut beaten_by = vec![0_usize; n];
    for i in 0..n {
        for j in 0..n {
            if dominates(points[i].as_ref(), points[j].as_ref(), directions) {
                beats[i].push(j);
                beaten_by[j] += 1;
            }
        }
    }
    let mut layers = Vec::new();
    let mut layer: Vec<usize> = (0..n).filter(|&i| beaten_by[i] == 0).collect();
    while !layer.is_empty() {
        let mut next = Vec::new();
        for &i in &layer {
            for &j in &beats[i] {
                beaten_by[j] -= 1;
                if beaten_by[j] == 0 {
                    next.push(j);
                }
            }
        }
        next.sort_unstable();
        layers.push(std::mem::replace(&mut layer, next));
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::Direction::{Maximize, Minimize};
    use super::*;
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
    fn layers_peel_off_one_front_after_another() {
        let d = [Maximize, Maximize];
        let points = [[0.0, 0.0], [1.0, 1.0], [2.0, 1.0], [1.0, 2.0], [0.0, 0.0]];
        assert_eq!(non_dominated_sort(&points, &d), [vec![2, 3], vec![1], vec![0, 4]]);
    }

    proptest! {
        #[test]
        fn sort_is_repeated_peeling(points in prop::collection::vec([0_i8..4, 0..4, 0..4], 0..20)) {
            let d = [Maximize, Minimize, Maximize];
            let points: Vec<Vec<f64>> =
                points.iter().map(|p| p.iter().map(|&v| f64::from(v)).collect()).collect();
            let mut left: Vec<usize> = (0..points.len()).collect();
            for layer in non_dominated_sort(&points, &d) {
                let rest: Vec<&Vec<f64>> = left.iter().map(|&i| &points[i]).collect();
                let expected: Vec<usize> =
                    non_dominated(&rest, &d).into_iter().map(|j| left[j]).collect();
                prop_assert_eq!(&layer, &expected);
                left.retain(|i| !layer.contains(i));
            }
            prop_assert!(left.is_empty());
        }
    }
}
