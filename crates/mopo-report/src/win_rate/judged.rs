//! What a judge said of pairs of answers that it saw in both orders.

use serde::{Deserialize, Serialize};

use super::{Outcome, WinRate};

/// A judge's answer about two texts, shown as A and B.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The first shown is better.
    A,
    /// The second shown is better.
    B,
    /// Neither is.
    Tie,
    /// The answer says none of these.
    Unreadable,
}

/// What is known of a policy's answer and the other's to one prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// Both are the same text: a tie without asking.
    Same,
    /// The judge has not been asked in both orders yet, or not about the prompts before it.
    Missing,
    /// The judge has seen both orders.
    Asked {
        /// The policy's answer was shown first.
        policy_first: Verdict,
        /// The other's was shown first.
        other_first: Verdict,
    },
}

impl Judgement {
    /// Won or lost only if both orders agree, otherwise a tie; `None` if it is missing or one order unreadable.
    pub fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Same => Some(Outcome::Tied),
            Self::Missing => None,
            Self::Asked { policy_first, other_first } => match (policy_first, other_first) {
                (Verdict::Unreadable, _) | (_, Verdict::Unreadable) => None,
                (Verdict::A, Verdict::B) => Some(Outcome::Won),
                (Verdict::B, Verdict::A) => Some(Outcome::Lost),
                _ => Some(Outcome::Tied),
            },
        }
    }
}

/// A policy's win rate by a judge, and how far the judge is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct JudgedWinRate {
    /// Over all pairs that are neither unreadable nor missing; `None` if there are none.
    pub win_rate: Option<WinRate>,
    /// Number of pairs of equal texts, which count as ties.
    pub n_same: usize,
    /// Number of pairs for which an answer could not be read, in either order.
    pub n_unreadable: usize,
    /// Number of pairs that are not judged yet.
    pub n_missing: usize,
    /// Position bias: of the pairs that were asked and read in both orders, the share in which the first shown won both
    /// times; `None` without such pairs.
    pub first_shown: Option<f64>,
    /// The share in which the second shown won both times.
    pub second_shown: Option<f64>,
}

impl JudgedWinRate {
    /// Counts the judgements of a policy and another, one per prompt.
    pub fn of(judgements: &[Judgement]) -> Self {
        let count = |is: &dyn Fn(&Judgement) -> bool| judgements.iter().filter(|j| is(j)).count();
        let both = |verdict: Verdict| {
            let twice = Judgement::Asked { policy_first: verdict, other_first: verdict };
            count(&|judgement| *judgement == twice)
        };
        let is_asked = |judgement: &Judgement| matches!(judgement, Judgement::Asked { .. });
        let n_read = count(&|j| is_asked(j) && j.outcome().is_some());
        let share = |n: usize| (n_read > 0).then(|| n as f64 / n_read as f64);
        Self {
            win_rate: WinRate::of(judgements.iter().filter_map(|judgement| judgement.outcome())),
            n_same: count(&|judgement| *judgement == Judgement::Same),
            n_unreadable: count(&is_asked) - n_read,
            n_missing: count(&|judgement| *judgement == Judgement::Missing),
            first_shown: share(both(Verdict::A)),
            second_shown: share(both(Verdict::B)),
        }
    }
}
