//! The five canonical preference structures of the paper's section 4.1, on three actions and two
//! objectives of which the first is the primary. The pairs are a reconstruction: the smallest sets
//! from which every published outcome follows.

use std::fmt;
use std::str::FromStr;

use super::{Comparison, Comparisons};
use crate::{Error, Result};

/// A data set over the actions a, b, c (0, 1, 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Structure {
    /// a before b before c, on both objectives.
    Total,
    /// a and b before c, nothing between them.
    Partial,
    /// As `Partial`, and the two objectives disagree on a and b; the second has a threshold.
    Antichain,
    /// Every pair equally often in both directions.
    Incomparable,
    /// a and b tie; c is in no pair.
    Unobserved,
}

impl Structure {
    /// All structures.
    pub const ALL: [Self; 5] =
        [Self::Total, Self::Partial, Self::Antichain, Self::Incomparable, Self::Unobserved];

    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Partial => "partial",
            Self::Antichain => "antichain",
            Self::Incomparable => "incomparable",
            Self::Unobserved => "unobserved",
        }
    }

    /// The threshold of the second objective.
    pub fn threshold(self) -> Option<f64> {
        (self == Self::Antichain).then_some(2.0 / 3.0)
    }

    /// What the paper reports as τ → 0, in words.
    pub fn published(self) -> &'static str {
        match self {
            Self::Total => "a alone",
            Self::Partial => "a and b, one half each",
            Self::Antichain => "a 2/3, b 1/3",
            Self::Incomparable => "uniform at every τ",
            Self::Unobserved => "a and b, one half each; c falls with τ",
        }
    }

    /// The comparisons. An action in no pair counts as never preferred.
    pub fn comparisons(self) -> Comparisons {
        let (a, b, c) = (0, 1, 2);
        let (both, first, second) = ([1.0, 1.0], [1.0, 0.0], [0.0, 1.0]);
        let pairs: Vec<(usize, usize, [f32; 2])> = match self {
            Self::Total => vec![(a, b, both), (b, c, both), (a, c, both)],
            Self::Partial => vec![(a, c, both), (b, c, both)],
            Self::Antichain => vec![(a, b, first), (a, c, both), (b, c, both)],
            Self::Incomparable => [(a, b), (b, c), (a, c)]
                .into_iter()
                .flat_map(|(x, y)| [(x, y, first), (x, y, second)])
                .collect(),
            Self::Unobserved => vec![(a, b, both), (b, a, both)],
        };
        let pairs = pairs
            .into_iter()
            .map(|(first, second, indicators)| Comparison {
                context: 0,
                first,
                second,
                indicators: indicators.to_vec(),
            })
            .collect();
        Comparisons::new(1, 3, 2, pairs, 0.0).expect("constants in range")
    }
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Structure {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| Error::InvalidParameter {
            field: "structure",
            value: name.into(),
            expected: format!("the structures are: {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}
