//! f, f', its inverse, D_f and the names.

use std::f64::consts::LN_2;

use mopo_core::divergence::Divergence::{self, *};
use proptest::prelude::*;

fn any() -> impl Strategy<Value = Divergence> {
    prop_oneof![proptest::sample::select(Divergence::ALL.to_vec()), (0.01..0.99f64).prop_map(Alpha)]
}

fn distributions() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
    proptest::collection::vec((1e-3..1.0f64, 1e-3..1.0f64), 2..9).prop_map(|pairs| {
        let (p, q): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        let normalised = |v: Vec<f64>| v.iter().map(|x| x / v.iter().sum::<f64>()).collect();
        (normalised(p), normalised(q))
    })
}

proptest! {
    #[test]
    fn the_derivative_is_the_derivative(divergence in any(), log_u in -4.0..4.0f64) {
        // Not across the kink.
        let log_u = if log_u.abs() < 1e-3 { 0.5 } else { log_u };
        let u = log_u.exp();
        let h = 1e-5 * u;
        let numeric = (divergence.f(u + h) - divergence.f(u - h)) / (2.0 * h);
        let exact = divergence.derivative(u);
        prop_assert!((numeric - exact).abs() < 2e-8 * (1.0 + exact.abs()), "{divergence} at {u}");
        let of_log = divergence.derivative_at_log(log_u);
        prop_assert!((of_log - exact).abs() < 1e-13 * (1.0 + exact.abs()));
    }

    #[test]
    fn the_inverse_inverts(divergence in any(), log_u in -600.0..8.0f64) {
        if divergence == TotalVariation {
            return Ok(());
        }
        // Chi-squared's f' cannot represent so small a u.
        let log_u = if divergence == ChiSquared { log_u.max(-8.0) } else { log_u };
        let v = divergence.derivative_at_log(log_u);
        let found = divergence.log_inverse_derivative(v).unwrap();
        prop_assert!((found - log_u).abs() < 2e-12 * (1.0 + log_u.abs()), "{divergence} {log_u}");
        let u = divergence.inverse_derivative(v).unwrap();
        prop_assert!((u.ln() - log_u).abs() < 2e-12 * (1.0 + log_u.abs()), "{divergence} {log_u}");
    }

    #[test]
    fn the_derivative_of_the_inverse_is_the_value(divergence in any(), v in -50.0..20.0f64) {
        if let Some(u) = divergence.inverse_derivative(v) {
            let back = divergence.derivative(u);
            prop_assert!((back - v).abs() < 1e-12 * (1.0 + v.abs()), "{divergence}: {back} {v}");
        }
    }

    #[test]
    fn f_is_convex_and_zero_at_one(divergence in any(), a in -20.0..20.0f64, b in -20.0..20.0f64) {
        let (low, high) = (a.min(b), a.max(b));
        prop_assert!(divergence.derivative_at_log(low) <= divergence.derivative_at_log(high));
        prop_assert_eq!(divergence.f(1.0), 0.0);
    }

    #[test]
    fn the_sum_over_f_is_the_divergence((p, q) in distributions(), divergence in any()) {
        let naive: f64 = p.iter().zip(&q).map(|(p, q)| q * divergence.f(p / q)).sum();
        let found = divergence.between(&p, &q).unwrap();
        prop_assert!((found - naive).abs() < 1e-11 * (1.0 + naive), "{divergence} {found} {naive}");
        prop_assert!(found >= 0.0);
    }

    #[test]
    fn divergences_are_related_as_they_should((p, q) in distributions()) {
        let of = |divergence: Divergence, p: &[f64], q: &[f64]| divergence.between(p, q).unwrap();
        let (reverse, forward) = (of(ReverseKl, &p, &q), of(ForwardKl, &p, &q));
        let close = |a: f64, b: f64, tolerance: f64| (a - b).abs() < tolerance * (1.0 + b);
        prop_assert!(close(of(Jeffreys, &p, &q), reverse + forward, 1e-12));
        prop_assert!(close(of(ReverseKl, &q, &p), forward, 1e-12));
        prop_assert!(close(of(JensenShannon, &q, &p), of(JensenShannon, &p, &q), 1e-12));
        prop_assert!(of(JensenShannon, &p, &q) <= 2.0 * LN_2);
        prop_assert!(close(of(Alpha(0.3), &q, &p), of(Alpha(0.7), &p, &q), 1e-12));
        prop_assert!(close(of(Alpha(1e-6), &p, &q), reverse, 1e-4));
        prop_assert!(close(of(Alpha(1.0 - 1e-6), &p, &q), forward, 1e-4));
        // Pinsker, and KL ≤ log(1 + χ²).
        prop_assert!(2.0 * of(TotalVariation, &p, &q).powi(2) <= reverse + 1e-12);
        prop_assert!(reverse <= of(ChiSquared, &p, &q).ln_1p() + 1e-12);
    }
}

#[test]
fn values_by_hand() {
    let third = 1.0 / 3.0;
    for (divergence, at, f, derivative) in [
        (ReverseKl, 2.0, 2.0 * LN_2, LN_2 + 1.0),
        (ForwardKl, 2.0, -LN_2, -0.5),
        (JensenShannon, 3.0, 3.0 * 3f64.ln() - 4.0 * LN_2, 1.5f64.ln()),
        (JensenShannon, third, -third * 3f64.ln() + 4.0 * third * 1.5f64.ln(), -LN_2),
        (Alpha(0.5), 4.0, 2.0, 1.0),
        (Alpha(0.5), 0.25, 0.5, -2.0),
        (Jeffreys, 2.0, LN_2, LN_2 + 0.5),
        (TotalVariation, 3.0, 1.0, 0.5),
        (TotalVariation, 0.5, 0.25, -0.5),
        (TotalVariation, 1.0, 0.0, 0.0),
        (ChiSquared, 3.0, 4.0, 4.0),
        (ChiSquared, 0.0, 1.0, -2.0),
        (ReverseKl, 0.0, 0.0, f64::NEG_INFINITY),
        (ForwardKl, 0.0, f64::INFINITY, f64::NEG_INFINITY),
        (JensenShannon, 0.0, LN_2, f64::NEG_INFINITY),
        (Alpha(0.5), 0.0, 2.0, f64::NEG_INFINITY),
        (Jeffreys, 0.0, f64::INFINITY, f64::NEG_INFINITY),
        (TotalVariation, 0.0, 0.5, -0.5),
        (JensenShannon, f64::INFINITY, f64::INFINITY, LN_2),
        (ForwardKl, f64::INFINITY, f64::NEG_INFINITY, 0.0),
        (Alpha(0.5), f64::INFINITY, f64::INFINITY, 2.0),
    ] {
        let close = |a: f64, b: f64| a == b || (a - b).abs() < 1e-14;
        assert!(close(divergence.f(at), f), "{divergence}: f({at}) = {}", divergence.f(at));
        let found = divergence.derivative(at);
        assert!(close(found, derivative), "{divergence}: f'({at}) = {found}");
    }
    for divergence in Divergence::ALL {
        assert!(divergence.f(-1.0).is_nan() && divergence.derivative(-1.0).is_nan());
        assert!(divergence.f(f64::NAN).is_nan() && divergence.derivative(f64::NAN).is_nan());
    }
}

#[test]
fn where_the_derivative_has_no_inverse_there_is_none() {
    for (divergence, inside, outside) in [
        (ForwardKl, -1e-300, 0.0),
        (JensenShannon, LN_2 - 1e-15, LN_2),
        (Alpha(0.5), 2.0 - 1e-15, 2.0),
        (ChiSquared, -2.0, -2.0 - 1e-15),
    ] {
        assert!(divergence.inverse_derivative(inside).is_some(), "{divergence}");
        assert_eq!(divergence.inverse_derivative(outside), None, "{divergence}");
    }
    assert_eq!(ChiSquared.inverse_derivative(-2.0), Some(0.0));
    for v in [-0.5, 0.0, 0.5, 3.0] {
        assert_eq!(TotalVariation.inverse_derivative(v), None);
    }
    for divergence in Divergence::ALL {
        assert_eq!(divergence.inverse_derivative(f64::NAN), None);
        let of_zero = divergence.inverse_derivative(f64::NEG_INFINITY);
        assert_eq!(of_zero, divergence.has_barrier().then_some(0.0), "{divergence}");
    }
}

#[test]
fn huge_and_tiny_arguments_work() {
    for divergence in Divergence::ALL {
        for u in [1e-300, 1e-100, 1e100, 1e300] {
            let (f, derivative) = (divergence.f(u), divergence.derivative(u));
            assert!(!derivative.is_nan() && derivative.is_finite(), "{divergence} at {u}");
            let overflows = divergence == ChiSquared && u == 1e300;
            assert!(f.is_finite() || overflows, "{divergence} at {u}: {f}");
            if u < 1.0 && divergence.has_barrier() {
                let back = divergence.inverse_derivative(derivative).unwrap();
                assert!((back / u - 1.0).abs() < 1e-12, "{divergence} at {u}: {back}");
            }
        }
    }
    for l in [-1e5, -1e3] {
        assert_eq!(ReverseKl.log_inverse_derivative(l + 1.0), Some(l));
        let jeffreys = Jeffreys.derivative_at_log(-l);
        assert!((Jeffreys.log_inverse_derivative(jeffreys).unwrap() / -l - 1.0).abs() < 1e-14);
    }
    // Relative precision where u is close to 1.
    for divergence in [JensenShannon, Alpha(0.3), Jeffreys, ChiSquared] {
        for l in [1e-3, -1e-9, 1e-15] {
            let v = divergence.derivative_at_log(l);
            let back = divergence.log_inverse_derivative(v).unwrap();
            assert!((back / l - 1.0).abs() < 1e-14, "{divergence} at {l}: {back}");
        }
    }
}

#[test]
fn barriers_are_where_the_derivative_falls_without_bound() {
    for divergence in Divergence::ALL.into_iter().chain([0.001, 0.999].map(Alpha)) {
        // The slowest goes like log u.
        let falls = divergence.derivative_at_log(-1e6) < -9e5;
        assert_eq!(divergence.has_barrier(), falls, "{divergence}");
        let at_zero = divergence.derivative(0.0);
        assert_eq!(divergence.has_barrier(), at_zero == f64::NEG_INFINITY, "{divergence}");
    }
}

#[test]
fn zeros_have_their_limits() {
    let (p, q) = ([0.5, 0.5, 0.0], [0.25, 0.25, 0.5]);
    let inf = f64::INFINITY;
    for (divergence, one_way, other_way) in [
        (ReverseKl, LN_2, inf),
        (ForwardKl, inf, LN_2),
        // ½ f(2)·… by hand: the table's f at 2 and 0, then at ½ and the slope at ∞.
        (JensenShannon, 0.5 * (2.0 * LN_2 - 3.0 * 1.5f64.ln()) + 0.5 * LN_2, f64::NAN),
        (Alpha(0.5), 0.5 * -4.0 * (2f64.sqrt() - 1.5) + 0.5 * 2.0, f64::NAN),
        (Jeffreys, inf, inf),
        (TotalVariation, 0.5, 0.5),
        (ChiSquared, 1.0, inf),
    ] {
        let found = divergence.between(&p, &q).unwrap();
        assert!(found == one_way || (found - one_way).abs() < 1e-14, "{divergence}: {found}");
        let found = divergence.between(&q, &p).unwrap();
        // These two are symmetric.
        let expected = if other_way.is_nan() { one_way } else { other_way };
        assert!(found == expected || (found - expected).abs() < 1e-14, "{divergence}: {found}");
    }
    for divergence in Divergence::ALL {
        assert_eq!(divergence.between(&p, &p), Ok(0.0));
    }
}

#[test]
fn small_differences_keep_their_digits() {
    let q = [0.2f64, 0.3, 0.5];
    let e = 1e-9;
    let p = [0.2f64 + e, 0.3 - e, 0.5];
    // f''(1)/2 Σ (p − q)²/q.
    let square = ((p[0] - q[0]).powi(2) / q[0] + (p[1] - q[1]).powi(2) / q[1]) / 2.0;
    for (divergence, curvature) in [
        (ReverseKl, 1.0),
        (ForwardKl, 1.0),
        (JensenShannon, 0.5),
        (Alpha(0.3), 1.0),
        (Jeffreys, 2.0),
        (ChiSquared, 2.0),
    ] {
        let found = divergence.between(&p, &q).unwrap();
        assert!((found / (curvature * square) - 1.0).abs() < 1e-7, "{divergence}: {found:e}");
    }
}

#[test]
fn names_are_read_and_written() {
    for divergence in Divergence::ALL.into_iter().chain([Alpha(0.25)]) {
        assert_eq!(divergence.to_string().parse(), Ok(divergence));
        let json = serde_json::to_string(&divergence).unwrap();
        assert_eq!(serde_json::from_str::<Divergence>(&json).unwrap(), divergence);
    }
    assert_eq!(serde_json::to_string(&JensenShannon).unwrap(), r#""jensen_shannon""#);
    assert_eq!(serde_json::to_string(&Alpha(0.25)).unwrap(), r#""alpha:0.25""#);
    // As files of earlier versions have it.
    assert_eq!(serde_json::from_str::<Divergence>(r#"{"alpha":0.25}"#).unwrap(), Alpha(0.25));
    assert_eq!(Alpha(0.25).to_string(), "alpha:0.25");
    assert_eq!(Divergence::default(), ReverseKl);
    for (name, words) in [
        ("kl", "reverse_kl, forward_kl"),
        ("alpha", "alpha:0.5"),
        ("alpha:x", "alpha:0.5"),
        ("alpha:1", "between 0 and 1"),
        ("alpha:NaN", "between 0 and 1"),
    ] {
        let error = name.parse::<Divergence>().unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(name), "{error}");
    }
}
