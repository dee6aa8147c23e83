//! Indicators against published examples, definitions and properties.

use super::*;
use crate::Direction::{Maximize, Minimize};
use crate::{dominates, non_dominated};
use proptest::prelude::*;

#[test]
fn published_example() {
    // Example 4 of Ishibuchi et al.: A is better than B, and IGD+ says so where IGD does not.
    let front = [[10.0, 0.0], [6.0, 1.0], [2.0, 2.0], [1.0, 6.0], [0.0, 10.0]];
    let a = [[4.0, 2.0], [3.0, 3.0], [2.0, 4.0]];
    let b = [[8.0, 2.0], [4.0, 4.0], [2.0, 8.0]];
    let d = [Minimize; 2];
    let igd_a = igd_plus(&a, &front, &d).unwrap();
    let igd_b = igd_plus(&b, &front, &d).unwrap();
    assert!((igd_a - 1.482_842_712_474_619).abs() < 1e-14, "{igd_a}");
    assert!((igd_b - 2.260_112_615_949_154).abs() < 1e-14, "{igd_b}");
}

#[test]
fn hand_computed_values() {
    let d = [Maximize, Minimize];
    let front = [[4.0, 1.0], [2.0, 0.0]];
    // (1, 5) is behind by 3 and 4 in the first, by 1 and 5 in the second.
    let one = [[1.0, 5.0]];
    let expected = (5.0 + 26.0_f64.sqrt()) / 2.0;
    assert_eq!(igd_plus(&one, &front, &d).unwrap(), expected);
    assert_eq!(epsilon_additive(&one, &front, &d).unwrap(), 5.0);
    // Better than both by at least 1 and by exactly 0.5.
    let better = [[5.0, -0.5]];
    assert_eq!(igd_plus(&better, &front, &d).unwrap(), 0.0);
    assert_eq!(epsilon_additive(&better, &front, &d).unwrap(), -0.5);
    // One objective.
    assert_eq!(igd_plus(&[[1.0]], &[[3.0], [0.0]], &[Maximize]).unwrap(), 1.0);
    assert_eq!(epsilon_additive(&[[1.0]], &[[3.0], [0.0]], &[Maximize]).unwrap(), 2.0);
}

#[test]
fn large_sets_agree_with_comparing_every_pair() {
    // Steps of irrational size. Spheres, with the front behind or ahead of the points.
    let sphere = |n: usize, k: usize, first: usize, radius: f64| -> Vec<Vec<f64>> {
        let walk = |i: usize, k: usize| (i as f64 * (2.0 + 3.0 * k as f64).sqrt()).fract();
        let raw = |i| (0..k).map(|k| walk(i, k) + 1e-3).collect::<Vec<f64>>();
        let norm = |p: &[f64]| p.iter().map(|x| x * x).sum::<f64>().sqrt();
        let scaled = |p: Vec<f64>| p.iter().map(|x| x / norm(&p) * radius).collect();
        (first..first + n).map(raw).map(scaled).collect()
    };
    for k in 1..=6 {
        let d = vec![Maximize; k];
        for (radius, same) in [(0.9, false), (1.0, false), (1.1, false), (1.0, true)] {
            let points = sphere(403, k, 1, radius);
            let front = sphere(517, k, if same { 1 } else { 1001 }, 1.0);
            let (mut epsilon, mut distances) = (f64::NEG_INFINITY, 0.0);
            for r in &front {
                let lost = |a: &[f64]| r.iter().zip(a).map(|(r, a)| r - a).collect::<Vec<_>>();
                let worst = |a: &Vec<f64>| lost(a).into_iter().fold(f64::NEG_INFINITY, f64::max);
                epsilon = epsilon.max(points.iter().map(worst).fold(f64::INFINITY, f64::min));
                let distance =
                    |a: &Vec<f64>| lost(a).iter().map(|l| l.max(0.0).powi(2)).sum::<f64>();
                distances += points.iter().map(distance).fold(f64::INFINITY, f64::min).sqrt();
            }
            assert_eq!(epsilon_additive(&points, &front, &d).unwrap(), epsilon, "{k}");
            assert_eq!(igd_plus(&points, &front, &d).unwrap(), distances / 517.0, "{k}");
        }
    }
}

#[test]
fn bad_input_is_named() {
    let d = [Maximize, Maximize];
    let good = [vec![1.0, 2.0]];
    let none: [Vec<f64>; 0] = [];
    for indicator in [igd_plus::<Vec<f64>, Vec<f64>>, epsilon_additive] {
        let message = |p: &[Vec<f64>], r: &[Vec<f64>], d: &[Direction]| {
            indicator(p, r, d).unwrap_err().to_string()
        };
        assert!(message(&none, &good, &d).contains("`points` is empty"));
        assert!(message(&good, &none, &d).contains("`reference_front` is empty"));
        assert!(message(&good, &good, &[]).contains("`directions` is empty"));
        let nan = [vec![1.0, 2.0], vec![1.0, f64::NAN]];
        let m = message(&good, &nan, &d);
        assert!(m.contains("objective 1 of `reference_front` (index 1)"), "{m}");
        let short = [vec![1.0, 2.0], vec![1.0]];
        let m = message(&short, &good, &d);
        assert!(m.contains("`points`") && m.contains("index 1"), "{m}");
        assert!(indicator(&[vec![-f64::MAX; 2]], &[vec![f64::MAX; 2]], &d).is_err());
    }
}

type Sets = (Vec<Vec<f64>>, Vec<Vec<f64>>, Vec<Direction>);

fn sets() -> impl Strategy<Value = Sets> {
    (1_usize..=5).prop_flat_map(|k| {
        let point = || prop::collection::vec((-2_i8..7).prop_map(|v| f64::from(v) / 2.0), k);
        let direction = any::<bool>().prop_map(|m| if m { Minimize } else { Maximize });
        (
            prop::collection::vec(point(), 1..30),
            prop::collection::vec(point(), 1..12),
            prop::collection::vec(direction, k),
        )
    })
}

proptest! {
    #[test]
    fn the_definitions_hold((points, front, d) in sets()) {
        let losses = |r: &[f64], a: &[f64]| -> Vec<f64> {
            (0..d.len()).map(|k| d[k].gain(r[k], a[k])).collect()
        };
        let mut distances = 0.0;
        let mut epsilon = f64::NEG_INFINITY;
        for r in &front {
            let distance = |a: &Vec<f64>| {
                losses(r, a).iter().map(|l| l.max(0.0).powi(2)).sum::<f64>().sqrt()
            };
            distances += points.iter().map(distance).fold(f64::INFINITY, f64::min);
            let worst = |a: &Vec<f64>| losses(r, a).into_iter().fold(f64::NEG_INFINITY, f64::max);
            epsilon = epsilon.max(points.iter().map(worst).fold(f64::INFINITY, f64::min));
        }
        let igd = igd_plus(&points, &front, &d).unwrap();
        prop_assert!((igd - distances / front.len() as f64).abs() < 1e-12);
        prop_assert_eq!(epsilon_additive(&points, &front, &d).unwrap(), epsilon);
        // Zero, or not above, exactly where everything is covered.
        let covers = |a: &Vec<f64>, r: &Vec<f64>| a == r || dominates(a, r, &d);
        let covered = front.iter().all(|r| points.iter().any(|a| covers(a, r)));
        prop_assert_eq!(igd == 0.0, covered);
        prop_assert_eq!(epsilon <= 0.0, covered);
    }

    #[test]
    fn only_the_front_of_the_points_counts((points, front, d) in sets()) {
        let kept: Vec<&Vec<f64>> =
            non_dominated(&points, &d).into_iter().map(|i| &points[i]).collect();
        prop_assert_eq!(
            igd_plus(&points, &front, &d).unwrap(), igd_plus(&kept, &front, &d).unwrap());
        prop_assert_eq!(
            epsilon_additive(&points, &front, &d).unwrap(),
            epsilon_additive(&kept, &front, &d).unwrap());
        prop_assert_eq!(igd_plus(&points, &points, &d).unwrap(), 0.0);
        prop_assert_eq!(epsilon_additive(&kept, &kept, &d).unwrap(), 0.0);
    }
}
