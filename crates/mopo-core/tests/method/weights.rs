//! The weights of the cloning loss: closed form, limits, pruning, missing labels.

use mopo_core::mopo::{PolicyDual, Prompts, importance_weights, needed_responses};
use mopo_core::{Ball, ChiUpdate, DualState, MopoConfig, ResponseLabels};
use mopo_testkit::TestBackend as B;
use proptest::prelude::*;

use super::{all, close, device, plain, state, tensor, weights_of_rows};

/// Indicators and log-ratio, per response.
type Responses = Vec<(Vec<f32>, f32)>;

fn rows(k: usize) -> impl Strategy<Value = Responses> {
    let indicator = prop_oneof![Just(0.0f32), Just(0.5), Just(1.0), 0.0f32..1.0];
    prop::collection::vec((prop::collection::vec(indicator, k), -3.0f32..3.0), 2..24)
}

fn problem() -> impl Strategy<Value = (f64, usize, Vec<f64>, Responses)> {
    (1usize..5)
        .prop_flat_map(|k| (0.05f64..2.0, 0..k, prop::collection::vec(0.0f64..3.0, k), rows(k)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn weights_are_the_closed_form_and_sum_to_1((tau, primary, lambda, responses) in problem()) {
        let (rows, log_r): (Vec<_>, Vec<_>) = responses.into_iter().unzip();
        let config = MopoConfig { tau, ..MopoConfig::default() };
        let dual = state(&config, primary, &lambda);
        let (weights, statistics) = weights_of_rows(&config, &dual, &all(&rows), &log_r, 0.1);
        let expected = plain(tau, primary, &lambda, &rows, &log_r);
        prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-4);
        let mut squares = 0.0;
        for (i, &weight) in weights.iter().enumerate() {
            let aw = expected.a[i] * expected.w[i];
            squares += aw * aw;
            prop_assert!((weight - aw).abs() < 1e-4, "response {i}: {weight} instead of {aw}");
        }
        prop_assert!(close(statistics.effective_sample_size, 1.0 / squares, 1e-3));
        let a2: f64 = expected.a.iter().map(|a| a * a).sum();
        prop_assert!(close(statistics.ratio_sample_size, 1.0 / a2, 1e-3));
        for k in 0..lambda.len() {
            let v: f64 = (0..rows.len())
                .map(|i| expected.a[i] * expected.w[i] * f64::from(rows[i][k]))
                .sum();
            prop_assert!((statistics.plain[k].unwrap() - v).abs() < 1e-4);
        }
    }

    #[test]
    fn equal_labels_on_all_objectives_are_one_objective(
        responses in rows(1),
        lambda in prop::collection::vec(0.0f64..4.0, 3),
        primary in 0usize..3,
    ) {
        let (one, log_r): (Vec<_>, Vec<_>) = responses.into_iter().unzip();
        let three: Vec<Vec<f32>> = one.iter().map(|r| vec![r[0]; 3]).collect();
        let weights = |tau, primary, lambda: &[f64], rows: &[Vec<f32>]| {
            let config = MopoConfig { tau, ..MopoConfig::default() };
            weights_of_rows(&config, &state(&config, primary, lambda), &all(rows), &log_r, 0.1).0
        };
        // Without multipliers: bit for bit.
        prop_assert_eq!(
            weights(0.2, primary, &[0.0; 3], &three),
            weights(0.2, 0, &[0.0], &one)
        );
        // With them: a smaller temperature.
        let sum: f64 = (0..3).filter(|&k| k != primary).map(|k| lambda[k]).sum();
        let shared = weights(0.5, primary, &lambda, &three);
        let single = weights(0.5 / (1.0 + sum), 0, &[0.0], &one);
        for (a, b) in shared.iter().zip(&single) {
            prop_assert!((a - b).abs() < 1e-5, "{a} and {b}");
        }
    }

    #[test]
    fn one_objective_is_importance_weighted_cloning(responses in rows(1), tau in 0.05f64..1.0) {
        let (rows, log_r): (Vec<_>, Vec<_>) = responses.into_iter().unzip();
        let config = MopoConfig { tau, ..MopoConfig::default() };
        let dual = DualState::new(&config, 0, 1);
        let (weights, _) = weights_of_rows(&config, &dual, &all(&rows), &log_r, 0.1);
        // r exp(I/τ), up to its sum.
        let raw: Vec<f64> = (0..rows.len())
            .map(|i| (f64::from(log_r[i]) + f64::from(rows[i][0]) / tau).exp())
            .collect();
        let sum: f64 = raw.iter().sum();
        for (weight, raw) in weights.iter().zip(&raw) {
            prop_assert!((weight - raw / sum).abs() < 1e-5);
        }
    }

    #[test]
    fn a_large_temperature_leaves_the_ratios((_, primary, lambda, responses) in problem()) {
        let (rows, log_r): (Vec<_>, Vec<_>) = responses.into_iter().unzip();
        let config = MopoConfig { tau: 1e6, ..MopoConfig::default() };
        let dual = state(&config, primary, &lambda);
        let (weights, _) = weights_of_rows(&config, &dual, &all(&rows), &log_r, 0.1);
        let a = plain(1.0, primary, &lambda, &rows, &log_r).a;
        for (weight, a) in weights.iter().zip(&a) {
            prop_assert!((weight - a).abs() < 1e-4);
        }
    }

    #[test]
    fn pruning_keeps_the_heaviest_and_what_is_heavy(
        weights in prop::collection::vec(prop_oneof![Just(0.0f64), 1e-9f64..1.0], 1..20),
        below in prop_oneof![Just(0.0f64), 1e-6f64..0.09],
    ) {
        let needed = needed_responses(&weights, below);
        let total: f64 = weights.iter().sum();
        let heaviest = weights.iter().cloned().fold(0.0, f64::max);
        prop_assert!(needed.contains(&true));
        for (&w, &needed) in weights.iter().zip(&needed) {
            if w == heaviest {
                prop_assert!(needed);
            } else {
                prop_assert_eq!(needed, w > 0.0 && w / total >= below);
            }
        }
    }
}

#[test]
fn nothing_overflows_at_a_small_temperature_with_large_multipliers() {
    let config = MopoConfig { tau: 0.01, lambda_max: 10.0, ..MopoConfig::default() };
    let rows: Vec<Vec<f32>> =
        (0..64).map(|i| (0..4).map(|k| [0.0, 1.0, 0.5][(i * 7 + k * 3) % 3]).collect()).collect();
    let log_r: Vec<f32> = (0..64).map(|i| (i as f32 - 32.0) * 10.0).collect(); // clipped at ±5
    let dual = state(&config, 1, &[10.0, 0.0, 10.0, 10.0]);
    let (weights, statistics) = weights_of_rows(&config, &dual, &all(&rows), &log_r, 0.15);
    assert!(weights.iter().all(|w| w.is_finite() && *w >= 0.0), "{weights:?}");
    assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-3, "{weights:?}");
    for row in [&statistics.plain, &statistics.lower_bound, &statistics.chi_gradient] {
        assert!(row.iter().all(|x| x.is_some_and(f64::is_finite)), "{statistics:?}");
    }
    assert!(statistics.effective_sample_size.is_finite());
}

#[test]
fn the_ratio_is_clipped() {
    let config = MopoConfig { ratio_clip: 1.0, tau: 1e6, ..MopoConfig::default() };
    let dual = DualState::new(&config, 0, 1);
    let rows = all(&[vec![1.0], vec![1.0]]);
    let (weights, _) = weights_of_rows(&config, &dual, &rows, &[50.0, -50.0], 0.1);
    assert!((weights[0] / weights[1] - 2.0f64.exp()).abs() < 1e-3, "{weights:?}");
}

#[test]
fn a_missing_label_counts_as_a_tie_in_the_score_and_not_at_all_in_the_estimates() {
    let config = MopoConfig { tau: 0.3, ..MopoConfig::default() };
    let dual = state(&config, 0, &[0.0, 0.7]);
    let full: Vec<Vec<Option<f32>>> = (0..12)
        .map(|i| vec![Some((i % 3) as f32 / 2.0), (i % 4 != 1).then_some((i % 5) as f32 / 4.0)])
        .collect();
    let log_r: Vec<f32> = (0..12).map(|i| (i as f32 * 0.37).sin()).collect();
    let (weights, statistics) = weights_of_rows(&config, &dual, &full, &log_r, 0.05);

    let tie: Vec<Vec<Option<f32>>> =
        full.iter().map(|r| vec![r[0], Some(r[1].unwrap_or(0.5))]).collect();
    let (as_tie, tied) = weights_of_rows(&config, &dual, &tie, &log_r, 0.05);
    assert_eq!(weights, as_tie);
    let differ = tied.plain[1].unwrap() - statistics.plain[1].unwrap();
    assert!(differ.abs() > 1e-3, "the tie must not count: {differ}");

    let there: Vec<usize> = (0..12).filter(|&i| full[i][1].is_some()).collect();
    let rows: Vec<_> = there.iter().map(|&i| full[i].clone()).collect();
    let ratios: Vec<f32> = there.iter().map(|&i| log_r[i]).collect();
    let (fewer, alone) = weights_of_rows(&config, &dual, &rows, &ratios, 0.05);
    let kept: f64 = there.iter().map(|&i| weights[i]).sum();
    for (j, &i) in there.iter().enumerate() {
        assert!((weights[i] / kept - fewer[j]).abs() < 1e-5);
    }
    for (a, b) in [
        (statistics.plain[1], alone.plain[1]),
        (statistics.lower_bound[1], alone.lower_bound[1]),
        (statistics.chi_gradient[1], alone.chi_gradient[1]),
    ] {
        assert!((a.unwrap() - b.unwrap()).abs() < 1e-5, "{a:?} and {b:?}");
    }
}

#[test]
fn an_objective_without_a_label_has_no_estimate_and_moves_nothing() {
    let config = MopoConfig { initial_lambda: 0.3, ..MopoConfig::default() };
    let mut dual = DualState::new(&config, 0, 2);
    let rows = vec![vec![Some(1.0), None], vec![Some(0.0), None]];
    let (_, statistics) = weights_of_rows(&config, &dual, &rows, &[0.0, 0.0], 0.1);
    assert!(statistics.plain[0].is_some());
    assert_eq!(
        [statistics.plain[1], statistics.lower_bound[1], statistics.chi_gradient[1]],
        [None; 3]
    );
    let before = dual.clone();
    let step = dual.step(&config, &statistics);
    assert_eq!(dual, before);
    assert_eq!((step.slack, step.saturated), (vec![None; 2], vec![false; 2]));
    dual.refresh(&config);
    assert_eq!(dual.thresholds, before.thresholds);
}

#[test]
fn hyper_parameters_out_of_range_are_named() {
    let base = MopoConfig::default;
    let cases = [
        ("mopo.tau", MopoConfig { tau: 0.0, ..base() }),
        ("mopo.tau", MopoConfig { tau: f64::NAN, ..base() }),
        ("mopo.ball.radius", MopoConfig { ball: Ball::Radius(-0.1), ..base() }),
        ("mopo.ball.confidence", MopoConfig { ball: Ball::Confidence(0.4), ..base() }),
        ("mopo.relaxation", MopoConfig { relaxation: 1.1, ..base() }),
        ("mopo.reference_lag", MopoConfig { reference_lag: 0, ..base() }),
        ("mopo.lambda_lr", MopoConfig { lambda_lr: -1.0, ..base() }),
        ("mopo.chi_lr", MopoConfig { chi_lr: f64::INFINITY, ..base() }),
        ("mopo.initial_lambda", MopoConfig { initial_lambda: 11.0, ..base() }),
        ("mopo.initial_chi", MopoConfig { initial_chi: 0.0, ..base() }),
        ("mopo.ratio_clip", MopoConfig { ratio_clip: 0.0, ..base() }),
        ("mopo.initial_threshold", MopoConfig { initial_threshold: 1.5, ..base() }),
        ("mopo.prune_below", MopoConfig { prune_below: 0.1, ..base() }),
    ];
    base().check().unwrap();
    for (field, config) in cases {
        let e = config.check().unwrap_err().to_string();
        assert!(e.contains(field), "{field}: {e}");
    }
}

#[test]
fn normalised_by_prompt_every_prompt_keeps_its_share() {
    // Two policies with their own multipliers on one batch of two prompts.
    let rows =
        all(&[vec![1.0, 0.0], vec![0.0, 1.0], vec![1.0, 1.0], vec![0.2, 0.4], vec![0.0, 0.0]]);
    let prompts = [0, 0, 1, 1, 1];
    let log_r = [0.3f32, -0.2, 0.1, 0.0, 0.4];
    let config = MopoConfig { tau: 0.1, ..MopoConfig::default() };
    let duals = [state(&config, 0, &[0.0, 0.5]), state(&config, 1, &[0.2, 0.0])];
    let policies = duals.each_ref().map(|dual| PolicyDual {
        tau: config.tau,
        dual,
        radius: &[0.0, 0.1],
        chi: ChiUpdate::Step,
    });
    let labels = ResponseLabels::<B>::from_rows(&rows, &device()).with_prompts(&prompts, &device());
    let ratio = tensor(&[log_r, log_r].concat()).reshape([2, 5]);
    let (weights, statistics) = importance_weights(&policies, &labels, ratio, config.ratio_clip);
    let weights: Vec<f64> = weights.into_data().iter().collect();
    let r: Vec<f64> = log_r.iter().map(|l| f64::from(*l).exp()).collect();
    let total: f64 = r.iter().sum();
    for (h, weights) in weights.chunks(5).enumerate() {
        let score = |i: usize| {
            let [p, q] = [0, 1].map(|k| f64::from(rows[i][k].unwrap()));
            if h == 0 { p + 0.5 * q } else { q + 0.2 * p }
        };
        let mut v = [0.0; 2];
        for prompt in [0, 1] {
            let of = || (0..5).filter(|&i| prompts[i] == prompt);
            let share: f64 = of().map(|i| r[i] / total).sum();
            let z: f64 = of().map(|i| r[i] * (score(i) / 0.1).exp()).sum();
            for i in of() {
                let expected = share * r[i] * (score(i) / 0.1).exp() / z;
                assert!((weights[i] - expected).abs() < 1e-5, "{h} {i}: {}", weights[i]);
                for k in [0, 1] {
                    v[k] += expected * f64::from(rows[i][k].unwrap());
                }
            }
        }
        for k in [0, 1] {
            assert!((statistics[h].plain[k].unwrap() - v[k]).abs() < 1e-5, "{h} {k}");
        }
        // No ball, no adversary: the bound is the estimate.
        assert_eq!(statistics[h].lower_bound[0], statistics[h].plain[0]);
        assert_eq!(statistics[h].chi_gradient[0], Some(0.0));
        assert!(statistics[h].lower_bound[1] < statistics[h].plain[1]);
    }
}

/// The labelled responses of the second objective have weights of e^-200 of the batch: nothing in f32.
#[test]
fn labels_next_to_a_dominant_unlabelled_response_still_count() {
    let rows = [
        vec![Some(1.0), None],
        vec![Some(0.0), Some(1.0)],
        vec![Some(0.0), Some(0.25)],
        vec![Some(0.0), None],
    ];
    let config = MopoConfig { tau: 0.005, ..MopoConfig::default() };
    for radius in [0.0, 0.1] {
        let dual = state(&config, 0, &[0.0, 0.0]);
        let (_, statistics) = weights_of_rows(&config, &dual, &rows, &[0.0, 0.0, 0.0, 0.0], radius);
        let super::BatchStatistics { plain, lower_bound, chi_gradient, .. } = &statistics;
        // Among themselves both have the same weight.
        assert!((plain[1].unwrap() - 0.625).abs() < 1e-6, "{plain:?}");
        assert!(lower_bound[1].is_some_and(|q| q.is_finite() && q <= 0.625 + 1e-6));
        assert!(chi_gradient.iter().all(|x| x.is_some_and(f64::is_finite)), "{chi_gradient:?}");
        // With a multiplier the better of them has e^(0.75 · 0.1 / 0.005) times the other's.
        let dual = state(&config, 0, &[0.0, 0.1]);
        let (_, statistics) = weights_of_rows(&config, &dual, &rows, &[0.0; 4], radius);
        assert!((statistics.plain[1].unwrap() - 1.0).abs() < 1e-5, "{:?}", statistics.plain);
        // An objective without labels in the batch has no statistics.
        let none = rows.clone().map(|row| vec![row[0], None]);
        let (_, statistics) = weights_of_rows(&config, &dual, &none, &[0.0; 4], radius);
        assert!(statistics.plain[0].is_some_and(f64::is_finite) && statistics.plain[1].is_none());
    }
}

#[test]
fn prompts_in_blocks_are_prompts_by_membership() {
    let rows = all(&[vec![1.0, 0.0], vec![0.0, 1.0], vec![1.0, 1.0], vec![0.2, 0.4]]);
    let config = MopoConfig { tau: 0.05, ..MopoConfig::default() };
    // One prompt is far behind the other: its weights must not vanish.
    let dual = state(&config, 0, &[0.0, 90.0]);
    let policies =
        [PolicyDual { tau: config.tau, dual: &dual, radius: &[0.0; 2], chi: ChiUpdate::Step }];
    let labels = ResponseLabels::<B>::from_rows(&rows, &device());
    let weights = |labels: ResponseLabels<B>| -> Vec<f64> {
        let ratio = tensor(&[0.1, 0.2, -0.3, 0.0]).unsqueeze();
        importance_weights(&policies, &labels, ratio, config.ratio_clip)
            .0
            .into_data()
            .iter()
            .collect()
    };
    let members = weights(labels.clone().with_prompts(&[0, 0, 1, 1], &device()));
    let blocks = weights(ResponseLabels { prompts: Prompts::Blocks(2), ..labels });
    assert!(
        members.iter().zip(&blocks).all(|(a, b)| (a - b).abs() < 1e-6),
        "{members:?} {blocks:?}"
    );
    assert!(members[0] + members[1] > 0.4, "{members:?}");
}

#[test]
fn policies_weighted_together_equal_policies_weighted_separately() {
    let rows = all(&[vec![1.0, 0.0, 0.3], vec![0.0, 1.0, 0.9], vec![1.0, 1.0, 0.0]]);
    let config = MopoConfig { tau: 0.2, ..MopoConfig::default() };
    let log_r = [[0.0f32, 0.5, -0.5], [0.1, 0.2, 0.3]];
    let duals = [state(&config, 2, &[0.3, 0.1, 0.0]), state(&config, 0, &[0.0, 2.0, 1.0])];
    let radius = [0.05; 3];
    let policies = duals.each_ref().map(|dual| PolicyDual {
        tau: config.tau,
        dual,
        radius: &radius,
        chi: ChiUpdate::Step,
    });
    let labels = ResponseLabels::<B>::from_rows(&rows, &device());
    let ratio = tensor(&log_r.concat()).reshape([2, 3]);
    let (weights, statistics) = importance_weights(&policies, &labels, ratio, config.ratio_clip);
    let weights: Vec<f64> = weights.into_data().iter().collect();
    for h in [0, 1] {
        let (alone, of_one) = weights_of_rows(&config, &duals[h], &rows, &log_r[h], 0.05);
        assert!(alone.iter().zip(&weights[3 * h..]).all(|(a, b)| (a - b).abs() < 1e-6));
        for k in 0..3 {
            let (a, b) = (of_one.lower_bound[k].unwrap(), statistics[h].lower_bound[k].unwrap());
            assert!((a - b).abs() < 1e-5, "{h} {k}: {a} and {b}");
        }
    }
}
