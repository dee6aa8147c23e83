//! MOPO with pairwise extraction, and thresholds at the reference.

use super::{assert_resumable, finished_with, metric, metrics, tiny, tiny_method};

#[test]
fn one_objective_without_constraints_is_ipo() {
    let whole = ["training.batch_size=10000", "training.learning_rate=2e-3", "training.steps=5"];
    let (_a, mopo) = finished_with(&tiny(
        &[
            &whole[..],
            &[
                "policies=[\"helpful\"]",
                "mopo.extraction=pairwise",
                "mopo.indicator_estimator=pair",
                "mopo.reference_lag=100",
                "mopo.thresholds=fixed",
                "mopo.initial_threshold=0",
                "mopo.tau=0.5",
            ],
        ]
        .concat(),
    ));
    let set = [&whole[..], &["ipo.beta=0.5", "ipo.train_head=true"]].concat();
    let (_b, ipo) = finished_with(&tiny_method("ipo", &set));
    let norms = [metric(&mopo, "mopo", "gradient_norm"), metric(&ipo, "ipo", "gradient_norm")];
    for (a, b) in norms[0].iter().zip(&norms[1]) {
        assert!((a - b).abs() < 1e-3 * b, "{norms:?}");
    }
}

#[test]
fn each_policy_moves_to_its_own_objective_and_constraints_follow_its_choices() {
    let (_tmp, run) = finished_with(&tiny(&[
        "training.batch_size=10000",
        "training.learning_rate=2e-3",
        "training.steps=12",
        "mopo.extraction=pairwise",
        "mopo.reference_lag=6",
        "mopo.thresholds=fixed",
        "mopo.initial_threshold=0.9",
    ]));
    let of = |key: &str| metric(&run, "mopo", key);
    for policy in ["helpful", "harmless", "humor"] {
        let loss = of(&format!("{policy}/loss"));
        assert!(loss[5] < loss[0], "{policy}: {loss:?}");
    }
    // The initial policy chooses by halves, whatever the labels.
    let plain = of("helpful/plain/harmless");
    assert!((plain[0] - 0.5).abs() < 1e-5, "{plain:?}");
    // Far out of reach: λ grows, and pulls the choice towards the other objective.
    let lambda = of("helpful/lambda/harmless");
    assert!(lambda[11] > lambda[1] && plain[11] > plain[0], "{lambda:?} {plain:?}");
    assert!(of("needed_terms").iter().all(|share| *share == 1.0));
    assert!(of("helpful/kl_initial")[11] > 0.0);
}

#[test]
fn runs_of_either_kind_that_are_cut_off_end_bit_for_bit_the_same() {
    for more in [
        &["mopo.extraction=pairwise"][..],
        &["mopo.extraction=pairwise", "mopo.thresholds=reference", "mopo.dual=exact"],
        &["mopo.thresholds=reference"],
    ] {
        assert_resumable(&tiny(&[more, &["training.gradient_accumulation_steps=2"]].concat()));
    }
}

#[test]
fn thresholds_at_the_reference_can_be_met_and_move_with_it() {
    for extraction in ["cloning", "pairwise"] {
        let (_tmp, run) = finished_with(&tiny(&[
            &format!("mopo.extraction={extraction}"),
            "mopo.thresholds=reference",
            "mopo.relaxation=0.9",
            "mopo.ball={radius=0.0}",
            "training.learning_rate=2e-3",
        ]));
        let threshold = metric(&run, "mopo", "helpful/threshold/harmless");
        // The initial policy has half of all comparisons.
        assert!((threshold[0] - 0.45).abs() < 1e-6, "{extraction}: {threshold:?}");
        let windows = [&threshold[..3], &threshold[3..6], &threshold[6..]];
        assert!(windows.iter().all(|w| w.iter().all(|b| b == &w[0])), "{threshold:?}");
        assert!(windows[1][0] != windows[0][0] && windows[2][0] != windows[1][0]);
    }
}

#[test]
fn a_contrast_beside_cloning_raises_the_margins_and_resumes() {
    let own = |weight: f64| {
        let (_tmp, run) = finished_with(&tiny(&[
            "training.batch_size=10000",
            "training.learning_rate=2e-3",
            "mopo.reference_lag=100",
            &format!("mopo.contrast_weight={weight}"),
        ]));
        (metric(&run, "mopo", "helpful/loss"), metric(&run, "mopo", "needed_terms")[0])
    };
    let ((plain, _), (both, needed)) = (own(0.0), own(0.5));
    // (t/τ)² of every decided pair, which a step of cloning alone does not have.
    assert!(both[0] > plain[0] + 0.5, "{} and {}", both[0], plain[0]);
    assert_eq!(needed, 1.0);
    assert!(both[7] - both[0] < plain[7] - plain[0], "{both:?} {plain:?}");
    assert_resumable(&tiny(&["mopo.contrast_weight=0.5"]));
}

#[test]
fn smoothed_ratios_have_a_shape_lose_less_of_the_sample_and_resume_bit_for_bit() {
    let set = ["training.learning_rate=2e-3", "mopo.reference_lag=3", "mopo.ratio_clip=100.0"];
    let smoothed = tiny(&[&set[..], &["mopo.ratio_smoothing=pareto"]].concat());
    let (_a, run) = finished_with(&smoothed);
    let (_b, raw) = finished_with(&tiny(&set));
    let of = |run: &std::path::Path, key: &str| metric(run, "mopo", key);
    let shapes = |run: &std::path::Path| -> Vec<f64> {
        metrics(run).iter().filter_map(|row| row.get("helpful/ratio_shape")?.as_f64()).collect()
    };
    // From the first refresh on, one number for each window.
    let shape = shapes(&run);
    assert_eq!(shape.len(), of(&run, "loss").len() - 3);
    assert!(shape[0] == shape[2] && shape[0] != shape[3], "{shape:?}");
    assert!(shapes(&raw).is_empty());
    // Until then nothing differs; after it the largest ratios are smaller.
    let sizes = [&run, &raw].map(|run| of(run, "helpful/ratio_sample_size"));
    assert_eq!(sizes[0][..3], sizes[1][..3]);
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    assert!(mean(&sizes[0][3..6]) >= mean(&sizes[1][3..6]), "{sizes:?}");
    assert_resumable(&smoothed);
}

#[test]
fn ratios_clipped_token_by_token_lose_less_of_the_sample_and_resume_bit_for_bit() {
    let set = ["training.learning_rate=2e-3", "mopo.reference_lag=3", "mopo.ratio_clip=100.0"];
    let clipped = tiny(&[&set[..], &["mopo.token_ratio_clip=0.02"]].concat());
    let (_a, run) = finished_with(&clipped);
    let (_b, raw) = finished_with(&tiny(&set));
    let sizes = [&run, &raw].map(|run| metric(run, "mopo", "helpful/ratio_sample_size"));
    assert_eq!(sizes[0][..3], sizes[1][..3]);
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    assert!(mean(&sizes[0][3..]) > mean(&sizes[1][3..]), "{sizes:?}");
    assert_resumable(&clipped);
    // With all pairs scored at the refresh, and smoothed.
    assert_resumable(&tiny(
        &[&set[..], &["mopo.token_ratio_clip=0.02", "mopo.ratio_smoothing=pareto"]].concat(),
    ));
}

#[test]
fn bounds_at_their_best_chi_are_never_below_stepped_ones_and_resume_bit_for_bit() {
    let best = tiny(&["mopo.chi=optimum"]);
    let (_a, run) = finished_with(&best);
    let (_b, stepped) = finished_with(&tiny(&[]));
    let of = |run: &std::path::Path, key: &str| metric(run, "mopo", key);
    // The first step is on the same batch with the same weights.
    let [at_best, at_first] =
        [&run, &stepped].map(|run| of(run, "helpful/lower_bound/harmless")[0]);
    assert!(at_best > at_first, "{at_best}, {at_first}");
    assert!(at_best < of(&run, "helpful/plain/harmless")[0]);
    // What a step reports is the χ before it moved.
    let chi = of(&run, "helpful/chi/harmless");
    assert!(chi[0] == 1.0 && chi[1] != 1.0, "{chi:?}");
    assert_resumable(&best);
}
