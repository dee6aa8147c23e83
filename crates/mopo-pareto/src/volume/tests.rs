//! Volumes in five to eight dimensions: by boxes, by slices, and by both.

use super::*;
use crate::Direction::Maximize;
use crate::{hypervolume, hypervolume_contributions};
use proptest::prelude::*;

/// Numbers in [0, 1), the same ones every time.
fn noise(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..count).map(|_| next()).collect()
}

/// `n` points of a sphere, in descending order of the last objective.
fn sphere(n: usize, k: usize, seed: u64) -> Vec<f64> {
    let mut rows = noise(n * k, seed);
    for row in rows.chunks_exact_mut(k) {
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter_mut().for_each(|v| *v = *v / norm + 1e-3);
    }
    sorted(&rows, k)
}

fn sorted(rows: &[f64], k: usize) -> Vec<f64> {
    let mut order: Vec<&[f64]> = rows.chunks_exact(k).collect();
    order.sort_by(|a, b| b[k - 1].total_cmp(&a[k - 1]));
    order.concat()
}

fn assert_close(a: f64, b: f64, what: &str) {
    assert!((a - b).abs() <= 1e-12 * a.abs().max(b.abs()), "{what}: {a} against {b}");
}

/// The volume without boxes, for any number of rows.
fn by_slices(rows: &[f64], k: usize) -> f64 {
    let mut recursion = Recursion::new(k);
    recursion.levels.iter_mut().for_each(|level| level.sweep = None);
    recursion.volume_of_front(rows, k)
}

/// The volume by boxes, for any number of rows.
fn by_boxes(rows: &[f64], k: usize) -> f64 {
    let (volume, done) = boxes::sweep(k).expect("a decomposition").volume(rows);
    assert_eq!(done, rows.len() / k);
    volume
}

/// The cells between neighbouring values of a grid that lie under a point, one after the other.
fn by_cells(points: &[Vec<usize>], values: &[Vec<f64>]) -> f64 {
    let k = values.len();
    let widest = values.iter().map(Vec::len).max().unwrap();
    let mut total = 0.0;
    for code in 0..widest.pow(k as u32) {
        let cell: Vec<usize> = (0..k).map(|j| code / widest.pow(j as u32) % widest).collect();
        if cell.iter().zip(values).any(|(&c, v)| c + 1 >= v.len()) {
            continue;
        }
        // Cell c lies between the values c and c + 1.
        if points.iter().any(|p| p.iter().zip(&cell).all(|(p, c)| p > c)) {
            total += (0..k).map(|j| values[j][cell[j] + 1] - values[j][cell[j]]).product::<f64>();
        }
    }
    total
}

/// Points on a grid by index, where 0 is the reference point's plane, and the values of each axis.
fn grid() -> impl Strategy<Value = (Vec<Vec<usize>>, Vec<Vec<f64>>)> {
    (5_usize..=8).prop_flat_map(|k| {
        let levels = if k < 7 { 4 } else { 3 };
        let steps = prop::collection::vec(prop::collection::vec(0.1_f64..2.0, levels), k);
        let values = steps.prop_map(|steps| {
            let running = |steps: Vec<f64>| {
                let mut sum = 0.0;
                let sums = steps.into_iter().map(move |step| {
                    sum += step;
                    sum
                });
                std::iter::once(0.0).chain(sums).collect()
            };
            steps.into_iter().map(running).collect()
        });
        // Rarely 0: there a point counts nothing.
        let index = prop_oneof![1 => 0..=levels, 9 => 1..=levels];
        (prop::collection::vec(prop::collection::vec(index, k), 1..60), values)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ties_copies_and_covered_points_agree_with_counted_cells((points, values) in grid()) {
        let k = values.len();
        let real: Vec<Vec<f64>> =
            points.iter().map(|p| p.iter().zip(&values).map(|(&i, v)| v[i]).collect()).collect();
        let expected = by_cells(&points, &values);
        let close = |found: f64| (found - expected).abs() <= 1e-12 * expected;

        let hv = hypervolume(&real, &vec![0.0; k], &vec![Maximize; k]).unwrap();
        prop_assert!(close(hv), "{} against {}", hv, expected);

        let inside = real.iter().filter(|p| p.iter().all(|&v| v > 0.0));
        let mut rows = sorted(&inside.flatten().copied().collect::<Vec<_>>(), k);
        prop_assert!(close(by_boxes(&rows, k)), "{} against {}", by_boxes(&rows, k), expected);
        prop_assert!(close(by_slices(&rows, k)), "{} against {}", by_slices(&rows, k), expected);
        Filter::default().retain_uncovered(&mut rows, k);
        prop_assert!(close(by_boxes(&rows, k)), "{} against {}", by_boxes(&rows, k), expected);
    }

    #[test]
    fn the_filter_keeps_the_first_of_what_none_covers((points, values) in grid()) {
        let k = values.len();
        let rows = points.iter().flat_map(|p| p.iter().map(|&i| i as f64)).collect::<Vec<_>>();
        let mut rows = sorted(&rows, k);
        let mut expected: Vec<&[f64]> = Vec::new();
        let copy = rows.clone();
        for row in copy.chunks_exact(k) {
            if !expected.iter().any(|e| e.iter().zip(row).all(|(a, b)| a >= b)) {
                expected.push(row);
            }
        }
        Filter::default().retain_uncovered(&mut rows, k);
        prop_assert_eq!(rows, expected.concat());
    }
}

#[test]
fn simplices_of_integers_are_counted() {
    // All points of positive integers whose sum is m + K: the cells below are the points with at
    // most that sum, (m + K) choose K of them. Nearly all coordinates are ties.
    fn simplex(k: usize, m: usize) -> Vec<Vec<f64>> {
        if k == 1 {
            return vec![vec![1.0 + m as f64]];
        }
        let rests = |first: usize| simplex(k - 1, m - first).into_iter();
        let with = |first: usize| rests(first).map(move |r| [vec![1.0 + first as f64], r].concat());
        (0..=m).flat_map(with).collect()
    }
    for (k, m, n, expected) in
        [(5, 4, 70, 126.0), (6, 3, 56, 84.0), (7, 3, 84, 120.0), (8, 2, 36, 45.0), (9, 2, 45, 55.0)]
    {
        let points = simplex(k, m);
        assert_eq!(points.len(), n);
        let (zero, up) = (vec![0.0; k], vec![Maximize; k]);
        assert_eq!(hypervolume(&points, &zero, &up).unwrap(), expected, "{k} dimensions");
        // Each alone covers exactly one cell.
        assert_eq!(hypervolume_contributions(&points, &zero, &up).unwrap(), vec![1.0; n]);
    }
}

#[test]
fn boxes_and_slices_agree_on_fronts() {
    for k in 5..=8 {
        for n in [1, 2, few(k) + 1, 50] {
            let rows = sphere(n, k, (k * 100 + n) as u64);
            let what = format!("{n} points in {k} dimensions");
            assert_close(by_boxes(&rows, k), by_slices(&rows, k), &what);
            assert_close(volume(rows.clone(), k), by_slices(&rows, k), &what);
        }
    }
    // Slices above, boxes below.
    let rows = sphere(40, 9, 9);
    assert_close(volume(rows.clone(), 9), by_slices(&rows, 9), "9 dimensions");
}

#[test]
fn slices_take_over_from_too_many_boxes() {
    for k in 5..=8 {
        let rows = sphere(60, k, k as u64);
        let whole = volume(rows.clone(), k);
        for most in [0, 40, 150] {
            let mut recursion = Recursion::new(k);
            for (level, k) in recursion.levels.iter_mut().zip((5..=k).rev()) {
                level.sweep = boxes::sweep_with_at_most(k, most);
            }
            let (_, done) = recursion.levels[0].sweep.as_mut().unwrap().volume(&rows);
            assert!(done < 60 && (most == 0 || done > 1), "{done} of 60");
            let volume = recursion.volume_of_front(&rows, k);
            assert_close(volume, whole, &format!("{most} boxes in {k} dimensions"));
        }
    }
}

#[test]
fn the_order_of_points_and_of_objectives_matters_at_most_by_rounding() {
    for k in 5..=8 {
        let rows = sphere(50, k, k as u64);
        let points: Vec<&[f64]> = rows.chunks_exact(k).collect();
        let hv = |points: &[Vec<f64>]| hypervolume(points, &vec![0.0; k], &vec![Maximize; k]);
        let mut permuted: Vec<Vec<f64>> = points.iter().map(|p| p.to_vec()).collect();
        let expected = hv(&permuted).unwrap();
        permuted.rotate_left(17);
        permuted.swap(3, 31);
        assert_close(hv(&permuted).unwrap(), expected, "another order of points");
        // Copies and covered points change nothing.
        permuted.extend(points[..9].iter().map(|p| p.to_vec()));
        permuted.extend(points[..9].iter().map(|p| p.iter().map(|v| v * 0.9).collect()));
        assert_close(hv(&permuted).unwrap(), expected, "copies");
        for axis in 1..k {
            permuted.iter_mut().for_each(|p| p.rotate_left(1));
            assert_close(hv(&permuted).unwrap(), expected, &format!("axes turned by {axis}"));
        }
    }
}

#[test]
fn sets_that_are_flat_in_one_objective() {
    for k in 5..=8 {
        let lower = sphere(60, k - 1, k as u64);
        let expected = 0.5 * volume(lower.clone(), k - 1);
        for axis in [0, 1, k - 1] {
            let with = |row: &[f64]| [&row[..axis], &[0.5], &row[axis..]].concat();
            let flat: Vec<f64> = lower.chunks_exact(k - 1).flat_map(with).collect();
            assert_close(volume(flat, k), expected, &format!("axis {axis} of {k}"));
        }
    }
}

#[test]
fn tiny_and_huge_gains() {
    // Powers of two, so that scaling is exact.
    for k in 5..=8 {
        let rows = sphere(40, k, k as u64);
        let expected = volume(rows.clone(), k);
        for power in [-100, 100] {
            let factor = 2.0_f64.powi(power);
            let scaled = rows.iter().map(|v| v * factor).collect();
            assert_eq!(volume(scaled, k), expected * factor.powi(k as i32), "{k} dimensions");
        }
    }
    // What no f64 can hold is an error, not a wrong number.
    let huge: Vec<Vec<f64>> =
        sphere(40, 5, 1).chunks_exact(5).map(|p| p.iter().map(|v| v * 1e70).collect()).collect();
    assert!(hypervolume(&huge, &[0.0; 5], &[Maximize; 5]).is_err());
}
