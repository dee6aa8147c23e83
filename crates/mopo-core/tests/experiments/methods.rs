//! All methods on tables: what must be equal is, and where the exact front is out of reach it stays so.

use mopo_core::bandit::experiments::{MethodResults, MethodSettings, methods};
use mopo_core::bandit::{Labels, Structure, ToySet};
use mopo_testkit::TestAutodiffBackend as AD;

use super::device;

fn results() -> MethodResults {
    let settings = MethodSettings {
        structures: vec![Structure::Total, Structure::Antichain],
        sets: vec![ToySet::A],
        labels: Labels::Probability,
        n_pairs: 20_000,
        n_points: 5,
        seeds: vec![0],
        steps: 600,
        threshold_taus: vec![0.5],
        threshold_steps: 3_000,
        ..MethodSettings::default()
    };
    methods::<AD>(&settings, &device(), &mut |_, _| {}).unwrap()
}

#[test]
fn fronts_on_tables_are_what_their_closed_forms_say() {
    let MethodResults { rows, shares, thresholds } = results();
    let share = |problem: &str, method: &str| {
        shares.iter().find(|s| (s.problem, s.method) == (problem, method)).unwrap()
    };
    // Nearly all pairs occur, labelled with their probabilities: what is left is optimisation.
    for method in ["cop_on_data", "pairwise_on_data", "mopo_fixed", "mopo_pairwise"] {
        let found = share("A", method).share.value;
        assert!((found - 1.0).abs() < 0.01, "{method}: {found}");
    }
    assert!((share("A", "exact").share_at_kl.value - 1.0).abs() < 1e-9);
    // Cloning and the regression are the closed forms on their own data.
    let kl = |method: &str| share("A", method).kl.value;
    for (learned, exact) in [("mopo_fixed", "cop_on_data"), ("mopo_pairwise", "pairwise_on_data")] {
        let (learned, exact) = (kl(learned), kl(exact));
        assert!((learned - exact).abs() < 0.02, "{learned} and {exact}");
    }
    // MODPO with true rewards, DPO on labels of the mixed one, and CAN's relatives are MORLHF's optimum.
    let of = |method: &str, weight: f64| {
        let at = |r: &&mopo_core::bandit::experiments::MethodRow| {
            (r.problem, r.method, r.parameter) == ("A", method, weight)
        };
        rows.iter().find(at).unwrap().reward
    };
    for weight in [0.5, 0.75, 1.0] {
        let optimum = of("morlhf", weight);
        for method in ["modpo", "dpo_mixed_reward"] {
            let found = of(method, weight);
            for k in 0..2 {
                assert!(
                    (found[k] - optimum[k]).abs() < 0.02,
                    "{method} {weight}: {found:?} {optimum:?}"
                );
            }
        }
    }
    // Soups of one policy are that policy.
    for weight in [0.0, 1.0] {
        let (soup, dpo) = (of("soups", weight), of("dpo", weight));
        assert!((0..2).all(|k| (soup[k] - dpo[k]).abs() < 1e-9), "{soup:?} {dpo:?}");
    }
    // HaM spends what the exact front does, and covers most of it.
    let ham = share("A", "ham");
    assert!((ham.kl.value - kl("exact")).abs() < 0.02, "{}", ham.kl.value);
    assert!(ham.share.value > 0.95, "{}", ham.share.value);
    // Where the objectives agree there is one best policy; cloning approaches a vertex slowly.
    assert!(share("total", "mopo_fixed").share.value > 0.99);

    // Thresholds at the reference can be met, those that follow the plain mean with this ball cannot.
    let rule = |problem: &str, rule: &str| {
        thresholds.iter().find(|r| (r.problem, r.rule, r.radius) == (problem, rule, 0.15)).unwrap()
    };
    for problem in ["antichain", "A"] {
        let (reference, plain) = (rule(problem, "reference"), rule(problem, "adaptive_plain"));
        assert!(reference.largest_lambda < 2.0 && !reference.at_cap, "{reference:?}");
        assert!(plain.largest_lambda > 2.0 * reference.largest_lambda, "{plain:?}");
        assert!(reference.primary > plain.primary, "{reference:?} {plain:?}");
        let pairwise = rule(problem, "reference_pairwise");
        assert!(
            !pairwise.at_cap && (pairwise.primary - reference.primary).abs() < 0.1,
            "{pairwise:?}"
        );
    }
}
