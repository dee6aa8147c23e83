//! Win rates: how often the answers of one policy are better than those of another to the same prompts, by
//! rewards or by a judge.
//!
//! [`Matchups`] picks the policies and matches their prompts, [`Matchups::by_rewards`] compares their scores,
//! [`JudgedWinRate::of`] counts what a judge said, and [`write_win_rates`] writes both as tables.

mod judged;
mod matchups;
mod page;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use judged::{JudgedWinRate, Judgement, Verdict};
pub use matchups::{Matchups, RewardWinRate};
pub use page::{JudgeRecord, PolicyWinRates, WinRateFiles, WinRateReport, write_win_rates};

use crate::Interval;

/// Level of all intervals of win rates.
const CONFIDENCE: f64 = 0.95;
/// Its two-sided quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// How a policy's answer compares with the other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The policy's is better.
    Won,
    /// Neither is.
    Tied,
    /// The other's is better.
    Lost,
}

/// The share of comparisons that a policy wins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WinRate {
    /// Number of comparisons won.
    pub n_won: usize,
    /// Number of ties.
    pub n_tied: usize,
    /// Number of comparisons lost.
    pub n_lost: usize,
    /// (won + ½ tied) / all, in [0, 1]; ½: neither policy is ahead.
    pub rate: f64,
    /// [`wilson_interval`] of the rate.
    pub interval: Interval,
}

impl WinRate {
    /// Counts outcomes; `None` if there are none.
    ///
    /// ```
    /// use mopo_report::{Outcome::{Lost, Tied, Won}, WinRate};
    ///
    /// let found = WinRate::of([Won, Won, Tied, Lost]).expect("there are four");
    /// assert_eq!(found.rate, 0.625);
    /// ```
    pub fn of(outcomes: impl IntoIterator<Item = Outcome>) -> Option<Self> {
        let mut counts = [0; 3];
        outcomes.into_iter().for_each(|outcome| counts[outcome as usize] += 1);
        let [n_won, n_tied, n_lost] = counts;
        let n = n_won + n_tied + n_lost;
        let rate = (n_won as f64 + 0.5 * n_tied as f64) / n as f64;
        (n > 0).then(|| Self { n_won, n_tied, n_lost, rate, interval: wilson_interval(rate, n) })
    }

    /// Number of comparisons.
    pub fn n(&self) -> usize {
        self.n_won + self.n_tied + self.n_lost
    }
}

/// The 95 % score interval of a rate r in [0, 1] over n comparisons, with z = 1.96:
///
/// (r + z²/2n ± z √(r(1 − r)/n + z²/4n²)) / (1 + z²/n)
///
/// Unlike a bootstrap it keeps its width where all comparisons are won, and needs no seed. A tie counts as half a win:
/// the variance of such outcomes is r(1 − r) minus a quarter of the share of ties, so with ties the interval is
/// wider than it need be, never narrower. Source: Wilson, *Probable Inference, the Law of Succession, and Statistical Inference*,
/// 1927.
pub fn wilson_interval(rate: f64, n: usize) -> Interval {
    let n = n as f64;
    let z2 = Z * Z / n;
    let centre = rate + z2 / 2.0;
    let half = Z * (rate * (1.0 - rate) / n + z2 / (4.0 * n)).sqrt();
    Interval {
        low: ((centre - half) / (1.0 + z2)).max(0.0),
        high: ((centre + half) / (1.0 + z2)).min(1.0),
    }
}
