//! Adaptive thresholds: what β and the lag do.

use mopo_core::Ball;
use mopo_core::ThresholdStatistic::{LowerBound, Plain};
use mopo_core::bandit::experiments::{SensitivityRow, SensitivitySettings, sensitivity};
use mopo_testkit::TestAutodiffBackend as AD;

use super::device;

fn rows() -> Vec<SensitivityRow> {
    let mut settings = SensitivitySettings {
        relaxations: vec![0.9, 1.0],
        lags: vec![50],
        rules: vec![
            (Plain, Ball::Radius(0.15)),
            (Plain, Ball::Confidence(0.95)),
            (LowerBound, Ball::Confidence(0.95)),
        ],
        ..SensitivitySettings::default()
    };
    settings.learner.steps = 900;
    settings.learner.learning_rate = 0.05;
    sensitivity::<AD>(&settings, &device(), &mut |_| {}).unwrap()
}

#[test]
fn a_small_relaxation_gives_the_secondary_up_and_a_wide_ball_the_primary() {
    let rows = rows();
    let of = |statistic: &str, ball: &str, beta: f64| {
        rows.iter()
            .find(|r| r.statistic == statistic && r.ball == ball && r.relaxation == beta)
            .unwrap()
    };
    assert_eq!(rows.len(), 6);
    // A threshold that is lowered at every refresh ends below its initial value, and no longer
    // binds.
    for statistic in ["plain", "lower_bound"] {
        let (cut, kept) =
            (of(statistic, "confidence 0.95", 0.9), of(statistic, "confidence 0.95", 1.0));
        assert!(cut.lambda < 1e-3 && cut.threshold < 0.45, "{cut:?}");
        assert!(kept.lambda > 0.05, "{kept:?}");
        assert!(cut.reward_2 < kept.reward_2 - 0.1, "{cut:?} {kept:?}");
        assert!(cut.reward_1 > kept.reward_1);
        assert!(kept.largest_lambda < 2.0);
    }
    // A threshold that follows the lower bound falls by the distance of the bound at every refresh.
    let (plain, bound) =
        (of("plain", "confidence 0.95", 1.0), of("lower_bound", "confidence 0.95", 1.0));
    assert!(bound.threshold < plain.threshold - 0.01, "{plain:?} {bound:?}");
    assert!(bound.secondary < plain.secondary, "{plain:?} {bound:?}");
    // With the wide ball λ rises until the end, and the secondary dominates.
    let wide = of("plain", "radius 0.15", 1.0);
    assert!(wide.lambda > 3.0 && wide.lambda == wide.largest_lambda, "{wide:?}");
    assert!(wide.reward_2 > wide.reward_1 && wide.secondary > wide.primary, "{wide:?}");
    assert!(rows.iter().all(|r| r.kl > 0.0 && r.kl < 21f64.ln()));
}
