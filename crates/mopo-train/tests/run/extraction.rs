//! MOPO with pairwise extraction, and thresholds at the reference.

use mopo_train::Silent;

use super::{
    assert_resumable, finished_with, go_on, message, metric, metrics, new_run, tiny, tiny_method,
};

/// Five steps of one policy without constraints on all pairs at once take the same way as a method of single objectives.
fn assert_same_way(loss: &str, method: &str, beta: &str) {
    let whole = ["training.batch_size=10000", "training.learning_rate=2e-3", "training.steps=5"];
    let contrast = format!("mopo.contrast_loss={loss}");
    let own = [
        "policies=[\"helpful\"]",
        "mopo.extraction=pairwise",
        &contrast,
        "mopo.indicator_estimator=pair",
        "mopo.reference_lag=100",
        "mopo.thresholds=fixed",
        "mopo.initial_threshold=0",
        "mopo.tau=0.5",
    ];
    let (_a, mopo) = finished_with(&tiny(&[&whole[..], &own].concat()));
    let other = [format!("{method}.beta={beta}"), format!("{method}.train_head=true")];
    let other = [&whole[..], &other.each_ref().map(String::as_str)].concat();
    let (_b, other) = finished_with(&tiny_method(method, &other));
    let norms = [metric(&mopo, "mopo", "gradient_norm"), metric(&other, method, "gradient_norm")];
    for (a, b) in norms[0].iter().zip(&norms[1]) {
        assert!((a - b).abs() < 1e-3 * b, "{norms:?}");
    }
}

#[test]
fn one_objective_without_constraints_is_ipo() {
    assert_same_way("squared", "ipo", "0.5");
}

#[test]
fn one_objective_without_constraints_is_dpo_with_the_logistic_loss() {
    assert_same_way("logistic", "dpo", "2.0");
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
        &["mopo.extraction=pairwise", "mopo.thresholds=reference"],
        &["mopo.thresholds=reference"],
    ] {
        assert_resumable(&tiny(&[more, &["training.gradient_accumulation_steps=2"]].concat()));
    }
}

#[test]
fn the_exact_dual_is_not_for_choices_within_pairs() {
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &tiny(&["mopo.extraction=pairwise", "mopo.dual=exact"]));
    let e = message(go_on(&run, &mut Silent)).1;
    assert!(e.contains("`mopo.dual`") && e.contains("\"joint\""), "{e}");
}

/// Rewards that differ by answer, unlike the demo's on an untrained model, and fresh answers from every refresh on.
fn fresh(set: &[&str]) -> mopo_train::RunConfig {
    let axis = |name: &str, target: usize| {
        format!(
            "{{name={name:?},ref_point=-100.0,reward={{kind=\"length\",unit=\"characters\",target={target}}}}}"
        )
    };
    let axes = [axis("helpful", 5), axis("harmless", 40), axis("humor", 12)].join(",");
    let rewards = format!("evaluation.rewards=[{axes}]");
    let fresh = "mopo.fresh={prompts=6,answers=4,max_new_tokens=8}";
    tiny(&[set, &["training.batch_size=4", "mopo.reference_lag=3", &rewards, fresh]].concat())
}

#[test]
fn fresh_answers_take_the_datas_place_at_a_refresh_and_keep_the_sample() {
    let (_tmp, run) = finished_with(&fresh(&["training.learning_rate=2e-2"]));
    let rows: Vec<_> = metrics(&run).into_iter().filter(|row| row["phase"] == "mopo").collect();
    let drawn = |key: &str| rows.iter().map(|row| row.contains_key(key)).collect::<Vec<_>>();
    let expected: Vec<bool> = (0..rows.len()).map(|step| step > 0 && step % 3 == 0).collect();
    assert_eq!(drawn("generated_tokens"), expected);
    assert_eq!(drawn("helpful/fresh_preference/harmless"), expected);
    for (key, row) in rows.iter().flatten().filter(|(key, _)| key.contains("fresh_preference")) {
        assert!((0.0..=1.0).contains(&row.as_f64().unwrap()), "{key}: {row}");
    }
    // Ratios to a mixture of three are at most 3, so that the sample is at least a third of the eight responses; those to
    // π_0 of the same run without fresh answers are a few ones.
    let sizes = metric(&run, "mopo", "helpful/ratio_sample_size");
    assert!(sizes[3..].iter().all(|size| *size > 8.0 / 3.0), "{sizes:?}");
    // The policies have left the initial one, which their KL is still taken from.
    let kl = metric(&run, "mopo", "helpful/kl_initial");
    assert!(kl.last().unwrap().abs() > 1e-3, "{kl:?}");
}

#[test]
fn runs_with_fresh_answers_that_are_cut_off_end_bit_for_bit_the_same() {
    for more in [
        &["mopo.thresholds=reference", "mopo.contrast_weight=0.2"][..],
        &["mopo.extraction=pairwise", "mopo.thresholds=fixed"],
        &[
            "mopo.ratio_smoothing=pareto",
            "adapters=per_policy",
            "head_rank=2",
            "mopo.ball={confidence=0.95}",
        ],
    ] {
        assert_resumable(&fresh(more));
    }
}

#[test]
fn fresh_answers_need_a_reward_for_each_objective() {
    let mut config = fresh(&[]);
    config.evaluation.rewards.retain(|axis| axis.name != "humor");
    let e = config.check_rewards().unwrap_err().to_string();
    assert!(e.contains("`policies`") && e.contains("humor"), "{e}");
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("run");
    super::new_run(&path, &fresh(&["policies=[\"helpful\",\"humor\"]"]));
    let e = super::go_on(&path, &mut mopo_train::Silent).unwrap_err().to_string();
    assert!(e.contains("[mopo.fresh]") && e.contains("harmless"), "{e}");
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
    assert_resumable(&tiny(&["mopo.contrast_weight=0.5", "mopo.contrast_loss=logistic"]));
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
    // Without smoothing each window but the first is judged when it has ended.
    let rows: Vec<_> = metrics(&raw).into_iter().filter(|row| row["phase"] == "mopo").collect();
    let has_shape = |&i: &usize| rows[i].contains_key("helpful/ratio_shape");
    let judged: Vec<usize> = (0..rows.len()).filter(has_shape).collect();
    let ends: Vec<usize> = (6..rows.len()).step_by(3).collect();
    assert!(!ends.is_empty() && judged == ends, "{judged:?}");
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
