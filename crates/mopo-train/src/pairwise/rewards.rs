//! Implicit rewards of a step's pairs, for the metrics.

use mopo_report::{MetricKey, Metrics, Quantity};
use serde::{Deserialize, Serialize};

/// Sums of implicit rewards over the decided pairs of a step.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Rewards {
    chosen: f64,
    rejected: f64,
    right: f64,
    n: usize,
}

impl Rewards {
    /// Adds a pair with the rewards of its responses; ties are ignored.
    pub(super) fn add(&mut self, indicator: f32, first: f64, second: f64) {
        if indicator == 0.5 {
            return;
        }
        let (chosen, rejected) = if indicator > 0.5 { (first, second) } else { (second, first) };
        self.chosen += chosen;
        self.rejected += rejected;
        self.right += match chosen.total_cmp(&rejected) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
        self.n += 1;
    }

    /// Adds those of other pairs.
    pub(super) fn extend(&mut self, others: Self) {
        self.chosen += others.chosen;
        self.rejected += others.rejected;
        self.right += others.right;
        self.n += others.n;
    }

    /// Number of decided pairs.
    pub(super) fn len(&self) -> usize {
        self.n
    }

    /// Means under the keys that `key` makes; none if no pair was decided.
    pub(super) fn report(&self, key: impl Fn(Quantity) -> MetricKey, metrics: &mut Metrics) {
        if self.n == 0 {
            return;
        }
        let n = self.n as f64;
        for (quantity, value) in [
            (Quantity::ACCURACY, self.right / n),
            (Quantity::MARGIN, (self.chosen - self.rejected) / n),
            (Quantity::CHOSEN_REWARD, self.chosen / n),
            (Quantity::REJECTED_REWARD, self.rejected / n),
        ] {
            metrics.set(key(quantity), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_are_those_of_the_preferred_response_and_ties_say_nothing() {
        let mut rewards = Rewards::default();
        rewards.add(1.0, 0.3, 0.1); // first preferred and ahead
        rewards.add(0.0, 0.4, -0.2); // second preferred and behind
        let mut others = Rewards::default();
        others.add(0.9, 0.2, 0.2); // neither is ahead
        others.add(0.5, 9.0, -9.0); // a tie
        rewards.extend(others);
        assert_eq!(rewards.len(), 3);
        let mut metrics = Metrics::default();
        rewards.report(|quantity| quantity.of("helpful"), &mut metrics);
        for (name, expected) in [
            (Quantity::ACCURACY, 0.5),
            (Quantity::CHOSEN_REWARD, 0.1 * (3.0 - 2.0 + 2.0) / 3.0),
            (Quantity::REJECTED_REWARD, 0.1 * (1.0 + 4.0 + 2.0) / 3.0),
            (Quantity::MARGIN, 0.1 * (2.0 - 6.0) / 3.0),
        ] {
            let found = metrics.get(name.of("helpful")).unwrap();
            assert!((found - expected).abs() < 1e-12, "{name:?}: {found} and {expected}");
        }
        let mut none = Metrics::default();
        Rewards::default().report(|quantity| quantity.of("helpful"), &mut none);
        assert!(none.is_empty());
    }
}
