//! The exact hypervolume of a set of points for any number of objectives.

use super::{Direction, non_dominated};
use crate::{Error, Result};

/// The hypervolume: the volume of the region that is dominated by at least one of `points` and
/// that itself dominates `ref_point`. **Larger is better.** A point that is not strictly better
/// than `ref_point` in all objectives contributes nothing, and so does a duplicate or a dominated
/// point; no points give 0.
///
/// Only values that were computed with the same `ref_point` can be compared, so fix it before the
/// comparison and record it with the result.
///
/// Complexity, for n non-dominated points and K objectives: O(K n²) to filter; then O(n log n) for
/// K = 2 (sweep), O(n log n) comparisons for K = 3 (sweep along the third objective over a
/// staircase), and exponential in K beyond (the exclusive volumes of While, Bradstreet and Barone,
/// *A Fast Way of Calculating Exact Hypervolumes*, 2012, each with one objective less).
/// Definition: Zitzler and Thiele, *Multiobjective Evolutionary Algorithms*, 1999.
///
/// # Errors
/// [`Error::InvalidParameter`] if there is no objective or if lengths differ;
/// [`Error::NonFinite`] for a NaN or an infinity in the input, or a volume too large for an `f64`.
pub fn hypervolume<P: AsRef<[f64]>>(
    points: &[P],
    ref_point: &[f64],
    directions: &[Direction],
) -> Result<f64> {
    let n_objectives = directions.len();
    if n_objectives == 0 {
        return Err(Error::InvalidParameter {
            field: "directions",
            value: "empty".into(),
            expected: "the hypervolume needs at least one objective".into(),
        });
    }
    check("ref_point", 0, ref_point, n_objectives)?;
    let mut gains = Vec::new();
    for (i, point) in points.iter().enumerate() {
        let point = point.as_ref();
        check("points", i, point, n_objectives)?;
        let gain: Vec<f64> =
            (0..n_objectives).map(|k| directions[k].gain(point[k], ref_point[k])).collect();
        if gain.iter().all(|&g| g > 0.0) {
            gains.push(gain);
        }
    }
    let volume = volume(gains, n_objectives);
    if volume.is_finite() {
        Ok(volume)
    } else {
        Err(Error::NonFinite("the hypervolume (the objectives' ranges are too large)".into()))
    }
}

fn check(field: &'static str, idx: usize, point: &[f64], n_objectives: usize) -> Result<()> {
    if point.len() != n_objectives {
        return Err(Error::InvalidParameter {
            field,
            value: format!("{point:?} (index {idx})"),
            expected: format!("{n_objectives} values are needed, one per direction"),
        });
    }
    match point.iter().position(|v| !v.is_finite()) {
        Some(k) => Err(Error::NonFinite(format!("objective {k} of `{field}` (index {idx})"))),
        None => Ok(()),
    }
}

/// The volume of the union of the boxes from the origin to each of `points`, all positive.
fn volume(points: Vec<Vec<f64>>, n_objectives: usize) -> f64 {
    let points = distinct_non_dominated(points, n_objectives);
    match n_objectives {
        1 => points.iter().map(|p| p[0]).fold(0.0, f64::max),
        2 => sweep_2d(points),
        3 => sweep_3d(points),
        _ => by_exclusive_volumes(points, n_objectives),
    }
}

fn distinct_non_dominated(mut points: Vec<Vec<f64>>, n_objectives: usize) -> Vec<Vec<f64>> {
    let order = |a: &Vec<f64>, b: &Vec<f64>| {
        a.iter().zip(b).map(|(x, y)| x.total_cmp(y)).find(|o| o.is_ne()).unwrap_or_else(|| {
            a.len().cmp(&b.len()) // equal points: equal lengths
        })
    };
    points.sort_by(order);
    points.dedup();
    let keep = non_dominated(&points, &vec![Direction::Maximize; n_objectives]);
    keep.into_iter().map(|i| std::mem::take(&mut points[i])).collect()
}

/// Non-dominated points sorted by the first objective, ascending: the second descends.
fn sweep_2d(mut points: Vec<Vec<f64>>) -> f64 {
    points.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let mut from = 0.0;
    let mut area = 0.0;
    for point in &points {
        area += (point[0] - from) * point[1];
        from = point[0];
    }
    area
}

/// Slices along the third objective, from the best down: each slice is the staircase of the points
/// seen so far, times its height.
fn sweep_3d(mut points: Vec<Vec<f64>>) -> f64 {
    points.sort_by(|a, b| b[2].total_cmp(&a[2]));
    let mut stairs: Vec<(f64, f64)> = Vec::new(); // first ascending, second descending
    let mut area = 0.0;
    let mut volume = 0.0;
    for (i, point) in points.iter().enumerate() {
        area += add_step(&mut stairs, point[0], point[1]);
        let below = points.get(i + 1).map_or(0.0, |next| next[2]);
        volume += area * (point[2] - below);
    }
    volume
}

/// Inserts (x, y) into the staircase and returns the area gained.
fn add_step(stairs: &mut Vec<(f64, f64)>, x: f64, y: f64) -> f64 {
    // The first step that reaches at least as far as x covers everything up to its own height.
    let at = stairs.partition_point(|s| s.0 < x);
    let mut covered = stairs.get(at).map_or(0.0, |s| s.1);
    if covered >= y {
        return 0.0;
    }
    // Steps before it that are at most as high as y disappear under the new one.
    let first_hidden = stairs[..at].partition_point(|s| s.1 > y);
    let mut right = x;
    let mut gained = 0.0;
    for &(step_x, step_y) in stairs[first_hidden..at].iter().rev() {
        gained += (right - step_x) * (y - covered);
        (right, covered) = (step_x, step_y);
    }
    let left = if first_hidden == 0 { 0.0 } else { stairs[first_hidden - 1].0 };
    gained += (right - left) * (y - covered);
    let last_hidden = at + usize::from(stairs.get(at).is_some_and(|s| s.0 == x));
    stairs.splice(first_hidden..last_hidden, [(x, y)]);
    gained
}

/// Points in the order of the last objective, ascending. What a point adds to those after it lies
/// wholly below its own last coordinate, so it is that coordinate times a volume in one dimension
/// less.
fn by_exclusive_volumes(mut points: Vec<Vec<f64>>, n_objectives: usize) -> f64 {
    let last = n_objectives - 1;
    points.sort_by(|a, b| a[last].total_cmp(&b[last]));
    let mut total = 0.0;
    for (i, point) in points.iter().enumerate() {
        let own: f64 = point[..last].iter().product();
        let shared: Vec<Vec<f64>> = points[i + 1..]
            .iter()
            .map(|other| (0..last).map(|k| point[k].min(other[k])).collect())
            .collect();
        total += point[last] * (own - volume(shared, last));
    }
    total
}

#[cfg(test)]
mod tests {
    use super::Direction::{Maximize, Minimize};
    use super::*;
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

    /// The union of boxes by inclusion and exclusion: exponential, but beyond doubt.
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
        // A coarse grid, so that ties and duplicates are frequent; some points miss the reference.
        (2_usize..=5).prop_flat_map(|n_objectives| {
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
