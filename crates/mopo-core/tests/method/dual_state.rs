//! The multipliers from batch to batch.

use mopo_core::{BatchStatistics, DualState, MopoConfig, ThresholdRule, ThresholdStatistic};

/// Statistics of two objectives, with these values for the second.
fn statistics(plain: f64, bound: f64, chi_gradient: f64) -> BatchStatistics {
    BatchStatistics {
        plain: vec![Some(0.9), Some(plain)],
        lower_bound: vec![Some(0.9), Some(bound)],
        chi_gradient: vec![Some(3.0), Some(chi_gradient)],
        best_chi: vec![None; 2],
        ratio_sample_size: 1.0,
        effective_sample_size: 1.0,
    }
}

#[test]
fn lambda_stays_between_zero_and_its_cap_which_is_reported() {
    let config = MopoConfig { lambda_lr: 0.5, lambda_max: 0.6, ..MopoConfig::default() };
    let mut dual = DualState::new(&config, 0, 2).with_thresholds(&[0.5, 0.8]);
    // Violated by 0.5: up by 0.25, capped at the third.
    for (lambda, saturated) in [(0.25, false), (0.5, false), (0.6, true), (0.6, true)] {
        let step = dual.step(&config, &statistics(0.6, 0.3, 0.0));
        assert!((dual.lambda[1] - lambda).abs() < 1e-12, "{dual:?}");
        assert_eq!((step.saturated[0], step.saturated[1]), (false, saturated));
        assert!((step.slack[1].unwrap() + 0.5).abs() < 1e-12);
    }
    // Kept with 0.2 to spare: down to exactly 0, and not saturated on the way.
    for _ in 0..10 {
        let step = dual.step(&config, &statistics(1.2, 1.0, 0.0));
        assert!(!step.saturated[1] && dual.lambda[1] >= 0.0);
    }
    assert_eq!(dual.lambda, [0.0, 0.0]);
}

#[test]
fn chi_climbs_its_gradient_and_the_primary_never_moves() {
    let config = MopoConfig { chi_lr: 0.5, ..MopoConfig::default() };
    let mut dual = DualState::new(&config, 0, 2);
    dual.step(&config, &statistics(0.5, 0.4, 0.2));
    assert_eq!(dual.log_chi, [0.0, 0.1]);
    dual.step(&config, &statistics(0.5, 0.4, -1e9));
    assert!(dual.chi(1) > 0.0 && dual.chi(1) < 1e-6, "{dual:?}");
    assert_eq!((dual.lambda[0], dual.log_chi[0], dual.thresholds[0]), (0.0, 0.0, 0.5));
    assert_eq!(dual.secondary().collect::<Vec<_>>(), [1]);
}

#[test]
fn adaptive_thresholds_follow_the_mean_of_the_interval() {
    for (statistic, mean) in
        [(ThresholdStatistic::Plain, 0.7), (ThresholdStatistic::LowerBound, 0.4)]
    {
        let config = MopoConfig {
            threshold_statistic: statistic,
            thresholds: ThresholdRule::Adaptive,
            relaxation: 0.9,
            ..MopoConfig::default()
        };
        let mut dual = DualState::new(&config, 0, 2);
        dual.step(&config, &statistics(0.6, 0.3, 0.0));
        dual.step(&config, &statistics(0.8, 0.5, 0.0));
        assert_eq!(dual.thresholds, [0.5, 0.5]);
        dual.refresh(&config);
        assert_eq!(dual.thresholds[0], 0.5);
        assert!((dual.thresholds[1] - 0.9 * mean).abs() < 1e-12, "{statistic:?} {dual:?}");
        // The next interval forgets this one …
        dual.step(&config, &statistics(0.2, 0.1, 0.0));
        dual.refresh(&config);
        let next = if statistic == ThresholdStatistic::Plain { 0.2 } else { 0.1 };
        assert!((dual.thresholds[1] - 0.9 * next).abs() < 1e-12, "{statistic:?} {dual:?}");
        // … and one without a batch keeps the threshold.
        let before = dual.thresholds.clone();
        dual.refresh(&config);
        assert_eq!(dual.thresholds, before);
    }
}

#[test]
fn fixed_thresholds_stay() {
    let config = MopoConfig { thresholds: ThresholdRule::Fixed, ..MopoConfig::default() };
    let mut dual = DualState::new(&config, 0, 2).with_thresholds(&[0.0, 0.61]);
    for _ in 0..3 {
        dual.step(&config, &statistics(0.9, 0.8, 0.0));
        dual.refresh(&config);
    }
    assert_eq!(dual.thresholds, [0.0, 0.61]);
}

#[test]
fn json_keeps_every_bit() {
    let config = MopoConfig::default();
    let mut dual = DualState::new(&config, 1, 3).with_thresholds(&[0.1 + 0.2, 1.0 / 3.0, 5e-324]);
    // Numbers without a short decimal form, in every field.
    let odd: Vec<Option<f64>> = [7.0f64, 11.0, 13.0].iter().map(|x| Some(x.sqrt() / 9.0)).collect();
    for _ in 0..7 {
        dual.step(
            &config,
            &BatchStatistics {
                plain: odd.clone(),
                lower_bound: odd.iter().map(|x| x.map(|x| x - 0.3)).collect(),
                chi_gradient: odd.iter().map(|x| x.map(|x| x / 7.0)).collect(),
                best_chi: vec![None; 3],
                ratio_sample_size: 1.0,
                effective_sample_size: 1.0,
            },
        );
    }
    let text = serde_json::to_string(&dual).unwrap();
    let mut back: DualState = serde_json::from_str(&text).unwrap();
    for (a, b) in dual.lambda.iter().zip(&back.lambda).chain(dual.log_chi.iter().zip(&back.log_chi))
    {
        assert_eq!(a.to_bits(), b.to_bits());
    }
    assert_eq!(back, dual);
    assert_eq!(serde_json::to_string(&back).unwrap(), text);
    // The hidden sums are there too: both refresh to the same thresholds.
    let adaptive = MopoConfig { thresholds: ThresholdRule::Adaptive, ..config };
    dual.refresh(&adaptive);
    back.refresh(&adaptive);
    assert_eq!(back, dual);
    assert_ne!(dual.thresholds[0], 0.1 + 0.2);
}
