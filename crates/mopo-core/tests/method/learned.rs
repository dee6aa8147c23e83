//! What the experiments claim, for fewer settings: learned policies equal the exact ones.

use mopo_core::Ball;
use mopo_core::bandit::experiments::{
    FrontMethod, FrontSettings, StructureSettings, fronts, shares, structures,
};
use mopo_core::bandit::{
    Batch, Comparison, Comparisons, Labels, LearnerConfig, Run, Structure, ToySet, learn,
};
use mopo_core::dual::{DualProblem, ResponseGroups, log_weights};
use mopo_core::mopo::{ContrastLoss, Extraction, IndicatorEstimator, MopoConfig, ThresholdRule};
use mopo_testkit::TestAutodiffBackend as AD;

use super::device;

#[test]
fn every_structure_is_learned_at_every_temperature_with_every_seed() {
    let settings = StructureSettings { reference_lag: None, ..StructureSettings::default() };
    let rows = structures::<AD>(&settings, &device(), &mut |_| {}).unwrap();
    assert_eq!(rows.len(), 5 * 6 * 5 * 2);
    let mut literal_worst = 0.0f64;
    for row in &rows {
        if row.estimator == "action" {
            assert!(row.total_variation <= 0.02, "{row:?}");
        } else {
            literal_worst = literal_worst.max(row.total_variation);
        }
    }
    // The literal estimator gives another policy if an action is in several comparisons.
    assert!(literal_worst > 0.2, "{literal_worst}");
    // The published outcomes, at the smallest τ.
    for row in rows.iter().filter(|r| r.estimator == "action" && r.tau == 0.02) {
        let outcome = match row.structure {
            "total" => [1.0, 0.0, 0.0],
            "antichain" => [2.0 / 3.0, 1.0 / 3.0, 0.0],
            "incomparable" => [1.0 / 3.0; 3],
            _ => [0.5, 0.5, 0.0],
        };
        for (learned, published) in row.learned.iter().zip(outcome) {
            assert!((learned - published).abs() < 0.02, "{row:?}");
        }
    }
    // Where no threshold binds, a larger τ is always closer to the uniform reference.
    for structure in Structure::ALL.into_iter().filter(|s| s.threshold().is_none()) {
        let mut previous = f64::INFINITY;
        for tau in &settings.taus {
            let of = rows.iter().find(|r| r.structure == structure.name() && r.tau == *tau);
            let distance: f64 = of.unwrap().exact.iter().map(|p| (p - 1.0 / 3.0).abs()).sum();
            assert!(distance <= previous + 1e-12, "{structure} at {tau}");
            previous = distance;
        }
    }
}

#[test]
fn a_lagged_reference_is_the_exact_solution_iterated() {
    let settings = StructureSettings {
        structures: vec![Structure::Total, Structure::Antichain],
        taus: vec![0.5],
        seeds: vec![0],
        learner: LearnerConfig { steps: 8_000, ..LearnerConfig::default() },
        reference_lag: Some(2_000),
    };
    let rows = structures::<AD>(&settings, &device(), &mut |_| {}).unwrap();
    for row in rows.iter().filter(|r| r.reference_lag.is_some()) {
        assert!(row.total_variation < 0.03, "{row:?}");
        let fixed = rows.iter().find(|r| {
            r.structure == row.structure && r.estimator == "action" && r.reference_lag.is_none()
        });
        // Sharper than one window alone.
        assert!(row.exact[0] > fixed.unwrap().exact[0] + 0.05, "{row:?}");
    }
}

#[test]
fn mopo_covers_the_exact_front_and_dpo_does_not() {
    let settings = FrontSettings {
        n_thresholds: 7,
        dpo_weights: vec![0.5],
        dpo_steps: 300,
        steps: 1_500,
        ..FrontSettings::default()
    };
    let rows = fronts::<AD>(&settings, &device(), &mut |_, _| {}).unwrap();
    let shares = shares(&rows).unwrap();
    for set in ToySet::ALL {
        let share = |method| {
            shares.iter().find(|s| s.set == set.name() && s.method == method).unwrap().share
        };
        assert_eq!(share(FrontMethod::Exact), 1.0);
        assert!(share(FrontMethod::Mopo) >= 0.99, "{} {}", set.name(), share(FrontMethod::Mopo));
        // One policy for one objective misses the other.
        for method in [FrontMethod::DpoFirst, FrontMethod::DpoSecond, FrontMethod::DpoAgree] {
            assert!(share(method) < 0.9, "{} {method:?} {}", set.name(), share(method));
        }
    }
}

/// Why the toys need weights that are normalised by prompt.
#[test]
fn normalised_over_the_batch_lambda_answers_to_another_average() {
    let (set, tau) = (ToySet::B, 0.02);
    let [p, q] = set.preference();
    // The true preferences as data: every cell once, which gives the uniform reference.
    let rows: Vec<Vec<Option<f32>>> =
        p.iter().zip(&q).map(|(p, q)| vec![Some(*p as f32), Some(*q as f32)]).collect();
    let groups = ResponseGroups::new(rows.iter().map(|r| (r.as_slice(), 0.0)), 5.0).unwrap();
    let free = set.problem(0, tau, vec![None; 2]).solve().unwrap().attained[1];
    let best = set.problem(1, tau, vec![None; 2]).solve().unwrap().attained[1];
    let mut misses = Vec::new();
    for i in 1..10 {
        let b = free + (best - free) * f64::from(i) / 10.0;
        let over_batch = groups.solve(&DualProblem {
            primary: 0,
            tau,
            thresholds: &[0.0, b],
            radius: &[0.0; 2],
            lambda_max: 1e3,
        });
        // The secondary objective of the policy with that λ, normalised in each context.
        let lambda = over_batch.lambda[1];
        let attained: f64 = p
            .chunks(ToySet::N_ACTIONS)
            .zip(q.chunks(ToySet::N_ACTIONS))
            .map(|(p, q)| {
                let uniform = vec![1.0 / p.len() as f64; p.len()];
                let score: Vec<f64> = p.iter().zip(q).map(|(p, q)| p + lambda * q).collect();
                let weights = log_weights(&uniform, &score, tau);
                q.iter().zip(&weights).map(|(q, w)| q * w.exp() / p.len() as f64).sum::<f64>()
            })
            .sum::<f64>()
            / ToySet::N_CONTEXTS as f64;
        // Over the batch the constraint holds …
        assert!((over_batch.plain[1].unwrap() - b).abs() < 1e-5, "{over_batch:?}");
        misses.push((attained - b).abs());
        // … and with the solution by prompt it holds in each prompt.
        let exact = set.problem(0, tau, vec![None, Some(b)]).solve().unwrap();
        assert!((exact.attained[1] - b).abs() < 1e-7);
    }
    let worst = misses.iter().cloned().fold(0.0, f64::max);
    println!("missed by {misses:.3?}");
    assert!(worst > 0.1, "{misses:?}");
}

#[test]
fn the_toys_are_what_they_say() {
    for set in ToySet::ALL {
        let rewards = set.rewards();
        assert!(rewards.iter().flatten().all(|r| (0.0..=4.0).contains(r)));
        // At x = 1 both want y = ½.
        for r in &rewards {
            assert_eq!(r[10 * 21 + 10], 4.0);
        }
        // μ against itself is a tie.
        let uniform = vec![1.0 / 21.0; 231];
        for p in set.preference() {
            assert!((ToySet::mean(&p, &uniform) - 0.5).abs() < 1e-12);
        }
        // Triplets and labels do not depend on what else is requested.
        let one = set.sample(50, Labels::Sampled, &[1.0, 0.0], 3).unwrap();
        let two = set.sample(50, Labels::Sampled, &[1.0, 0.0, 0.5], 3).unwrap();
        let soft = set.sample(50, Labels::Probability, &[1.0, 0.0], 3).unwrap();
        for ((a, b), c) in one.pairs().iter().zip(two.pairs()).zip(soft.pairs()) {
            assert_eq!(a.indicators, b.indicators[..2]);
            assert_eq!((a.context, a.first, a.second), (c.context, c.first, c.second));
            assert!(a.indicators.iter().all(|i| *i == 0.0 || *i == 1.0));
        }
    }
}

#[test]
fn comparisons_and_runs_that_do_not_fit_are_refused() {
    let pair =
        |first, indicators: Vec<f32>| Comparison { context: 0, first, second: 1, indicators };
    let new = |pairs| Comparisons::new(1, 2, 1, pairs, 0.0);
    assert!(new(vec![]).is_err());
    assert!(new(vec![pair(2, vec![1.0])]).unwrap_err().to_string().contains("index 0"));
    assert!(new(vec![pair(0, vec![1.0, 1.0])]).is_err());
    assert!(new(vec![pair(0, vec![1.5])]).is_err());
    let data = [new(vec![pair(0, vec![1.0])]).unwrap()];
    assert_eq!(data[0].preference(), [[1.0, 0.0]]);
    let run =
        Run { data: 0, primary: 0, thresholds: vec![0.0], mopo: MopoConfig::default(), seed: 0 };
    let config = LearnerConfig { steps: 1, ..LearnerConfig::default() };
    let all = LearnerConfig { batch: Batch::All, ..config.clone() };
    let refuse = |run: Run, config: &LearnerConfig| {
        learn::<AD>(&data, &[run], config, &device(), &mut |_| {}).unwrap_err().to_string()
    };
    assert!(refuse(Run { data: 1, ..run.clone() }, &config).contains("data"));
    assert!(refuse(Run { primary: 1, ..run.clone() }, &config).contains("objectives"));
    let tau = MopoConfig { tau: 0.0, ..MopoConfig::default() };
    assert!(refuse(Run { mopo: tau, ..run.clone() }, &config).contains("tau"));
    let pairs =
        MopoConfig { indicator_estimator: IndicatorEstimator::Pair, ..MopoConfig::default() };
    assert!(refuse(Run { mopo: pairs, ..run.clone() }, &all).contains("estimator"));
    assert!(refuse(run, &LearnerConfig { batch: Batch::Pairs(0), ..config }).contains("pair"));
}

/// Single comparisons, drawn one by one, give the least-squares scores; an action in no pair keeps its share.
#[test]
fn pairwise_extraction_learns_the_scores_of_drawn_pairs() {
    let data = [Structure::Partial, Structure::Unobserved].map(Structure::comparisons);
    let run = |data, contrast_loss| Run {
        data,
        primary: 0,
        thresholds: vec![0.0, 0.0],
        mopo: MopoConfig {
            tau: 0.5,
            extraction: Extraction::Pairwise,
            contrast_loss,
            ball: Ball::Radius(0.0),
            thresholds: ThresholdRule::Fixed,
            reference_lag: usize::MAX,
            ..MopoConfig::default()
        },
        seed: 3,
    };
    let config = LearnerConfig { steps: 3_000, batch: Batch::Pairs(12), learning_rate: 0.015 };
    let squared = ContrastLoss::Squared;
    let runs = [run(0, squared), run(1, squared), run(0, ContrastLoss::Logistic)];
    let learned = learn::<AD>(&data, &runs, &config, &device(), &mut |_| {}).unwrap();
    // a and b are ½/τ = 1 ahead of c, the one that each is compared with.
    let e = std::f64::consts::E;
    let partial = [e, e, 1.0].map(|w| w / (2.0 * e + 1.0));
    for (found, expected) in learned[0].policy.iter().zip(partial) {
        assert!((found - expected).abs() < 0.02, "{:?}", learned[0].policy);
    }
    assert!(
        learned[1].policy.iter().all(|p| (p - 1.0 / 3.0).abs() < 0.02),
        "{:?}",
        learned[1].policy
    );
    // Nobody prefers c: odds without end.
    assert!(learned[2].policy[2] < 0.5 * partial[2], "{:?}", learned[2].policy);
}
