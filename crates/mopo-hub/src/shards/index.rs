//! Which of several parts: `i/n`, counted from 1, given or found in the scheduler's environment.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::scheduler;
use crate::Result;

/// One of several parts, written `i/n`, counted from 1.
///
/// ```
/// use mopo_hub::ShardIndex;
///
/// let shard: ShardIndex = "2/3".parse()?;
/// // 100 rows in units of 8: the parts are whole units.
/// assert_eq!(shard.rows(100, 8), 32..64);
/// assert!("0/3".parse::<ShardIndex>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(try_from = "String", into = "String")]
pub struct ShardIndex {
    index: usize,
    of: usize,
}

impl ShardIndex {
    /// Part `index` of `of`, if there is such a part.
    pub(super) fn new(index: usize, of: usize) -> Option<Self> {
        (1..=of).contains(&index).then_some(Self { index, of })
    }

    /// Its number, from 1.
    pub fn index(self) -> usize {
        self.index
    }

    /// The number of parts.
    pub fn of(self) -> usize {
        self.of
    }

    /// The rows of this part of `n_rows`: whole units of `unit` rows in their order, the parts as equal as units allow. A
    /// part is empty if there are fewer units than parts.
    pub fn rows(self, n_rows: usize, unit: usize) -> Range<usize> {
        let n_units = n_rows.div_ceil(unit);
        // In 128 bits: the number of parts is anything that a person types.
        let end = |i: usize| {
            let units = (i as u128 * n_units as u128 / self.of as u128) as usize;
            (units * unit).min(n_rows)
        };
        end(self.index - 1)..end(self.index)
    }

    /// The place of this part: `{shard}` in a path becomes `2-of-3`. Other paths stay as they are.
    pub fn place(self, path: &Path) -> PathBuf {
        match path.to_str() {
            Some(text) => text.replace("{shard}", &self.in_a_name()).into(),
            None => path.into(),
        }
    }

    /// As it is written in names of files: `2-of-3`.
    pub fn in_a_name(self) -> String {
        format!("{}-of-{}", self.index, self.of)
    }
}

impl FromStr for ShardIndex {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts =
            text.split_once('/').and_then(|(i, n)| Self::new(i.parse().ok()?, n.parse().ok()?));
        parts.ok_or_else(|| {
            format!("`{text}` is not a shard: write i/n with i from 1 to n, e.g. 1/4 for the first of four")
        })
    }
}

impl TryFrom<String> for ShardIndex {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<ShardIndex> for String {
    fn from(shard: ShardIndex) -> Self {
        shard.to_string()
    }
}

impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// What `--shard` was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShardChoice {
    /// `i/n`.
    Given(ShardIndex),
    /// `auto` or `auto/n`: the scheduler's environment says which part this process is to do.
    Auto {
        /// The number of parts, if it was given.
        of: Option<usize>,
    },
}

impl ShardChoice {
    /// The part, if need be from the environment of this process.
    ///
    /// # Errors
    /// [`Error::Scheduler`](crate::Error::Scheduler) names the variables that were looked for, or the one that makes no
    /// sense.
    pub fn resolve(self) -> Result<ShardIndex> {
        self.resolve_with(&|name| std::env::var(name).ok())
    }

    /// The same with another environment.
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve).
    pub fn resolve_with(self, variable: &dyn Fn(&str) -> Option<String>) -> Result<ShardIndex> {
        match self {
            Self::Given(shard) => Ok(shard),
            Self::Auto { of } => scheduler::shard(of, variable),
        }
    }
}

impl FromStr for ShardChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto { of: None });
        }
        match text.strip_prefix("auto/") {
            Some(of) => match of.parse() {
                Ok(of) if of > 0 => Ok(Self::Auto { of: Some(of) }),
                _ => {
                    Err(format!("`{text}`: after `auto/` write the number of shards, e.g. auto/8"))
                }
            },
            None => text.parse().map(Self::Given).map_err(|why: String| {
                format!("{why}; or `auto`, or `auto/8`, for a shard that the scheduler names")
            }),
        }
    }
}
