//! Statistics of scores, and the mean and standard deviation that turn them into z-scores.
//!
//! There is one definition: the mean, and the sample's standard deviation (over n − 1), both in f64
//! and
//! in two passes, so that equal scores give equal bits. Scores that do not fit into memory are
//! passed
//! twice: [`FirstPass`], then [`SecondPass`].
//!
//! z-scores can only be compared if they use the same statistics. So these are
//! recorded with every result, with their origin ([`ObjectiveStatistics`]), and can be given to
//! another evaluation.

use std::path::Path;

use mopo_hub::write_atomically;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Statistics of one reward's scores.
///
/// Older files have `standard_deviation`, the population's (over n), instead of `std`; it is
/// converted on reading.
///
/// ```
/// let s = mopo_report::ScoreStatistics::new([1.0, 2.0, 4.0, 5.0].into_iter());
/// assert_eq!((s.n, s.mean, s.min, s.max), (4, 3.0, 1.0, 5.0));
/// assert_eq!(s.std, (10.0_f64 / 3.0).sqrt()); // squares 4 + 1 + 1 + 4 over n − 1 = 3
/// ```
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
#[serde(try_from = "StoredStatistics")]
pub struct ScoreStatistics {
    /// Number of scores.
    pub n: usize,
    /// The arithmetic mean.
    pub mean: f64,
    /// The standard deviation over n − 1; 0 for a single score.
    pub std: f64,
    /// The smallest score.
    pub min: f64,
    /// The largest score.
    pub max: f64,
}

/// [`ScoreStatistics`] in a current or older file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredStatistics {
    n: usize,
    mean: f64,
    std: Option<f64>,
    /// Over n.
    standard_deviation: Option<f64>,
    min: f64,
    max: f64,
}

impl TryFrom<StoredStatistics> for ScoreStatistics {
    type Error = &'static str;

    fn try_from(stored: StoredStatistics) -> std::result::Result<Self, Self::Error> {
        let StoredStatistics { n, mean, min, max, .. } = stored;
        let std = match (stored.std, stored.standard_deviation) {
            (Some(std), None) => std,
            (None, Some(of_population)) if n > 1 => {
                of_population * (n as f64 / (n - 1) as f64).sqrt()
            }
            (None, Some(of_population)) => of_population,
            (Some(_), Some(_)) => return Err("`std` and `standard_deviation`: keep only `std`"),
            (None, None) => return Err("missing field `std`"),
        };
        Ok(Self { n, mean, std, min, max })
    }
}

impl ScoreStatistics {
    /// Statistics of finite scores; all 0 if there are none.
    pub fn new(scores: impl Iterator<Item = f32> + Clone) -> Self {
        let mut first = FirstPass::default();
        scores.clone().for_each(|score| first.push(score));
        let mut second = first.second();
        scores.for_each(|score| second.push(score));
        second.finish()
    }
}

/// Count, sum and range of scores added one by one.
#[derive(Clone, Copy, Debug)]
pub struct FirstPass {
    n: usize,
    sum: f64,
    min: f64,
    max: f64,
}

impl Default for FirstPass {
    fn default() -> Self {
        Self { n: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl FirstPass {
    /// Adds the next score.
    pub fn push(&mut self, score: f32) {
        let score = f64::from(score);
        self.n += 1;
        self.sum += score;
        self.min = self.min.min(score);
        self.max = self.max.max(score);
    }

    /// The second pass, over the same scores in the same order.
    pub fn second(self) -> SecondPass {
        let mean = if self.n == 0 { 0.0 } else { self.sum / self.n as f64 };
        SecondPass { first: self, mean, squares: 0.0 }
    }
}

/// Squared distances from the mean of a [`FirstPass`].
#[derive(Clone, Copy, Debug)]
pub struct SecondPass {
    first: FirstPass,
    mean: f64,
    squares: f64,
}

impl SecondPass {
    /// Adds the next score.
    pub fn push(&mut self, score: f32) {
        self.squares += (f64::from(score) - self.mean).powi(2);
    }

    /// The statistics; all 0 if there are no scores.
    pub fn finish(self) -> ScoreStatistics {
        let FirstPass { n, min, max, .. } = self.first;
        let (min, max) = if n == 0 { (0.0, 0.0) } else { (min, max) };
        // The deviation of a single score is 0, as for equal ones.
        let std = if n > 1 { (self.squares / (n - 1) as f64).sqrt() } else { 0.0 };
        ScoreStatistics { n, mean: self.mean, std, min, max }
    }
}

/// Statistics for the z-scores of one objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveStatistics {
    /// The objective.
    pub objective: String,
    /// Mean of the raw scores.
    pub mean: f64,
    /// Their standard deviation over n − 1 (`deviation` in older files). If it is 0, all scores
    /// were equal, and there are no z-scores.
    #[serde(alias = "deviation")]
    pub std: f64,
    /// Number of scores that they were computed from, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
    /// Whose scores they are, for information: policy, prompts, data set or publication.
    pub source: String,
}

/// The file of [`write_statistics`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatisticsFile {
    schema: u32,
    statistics: Vec<ObjectiveStatistics>,
}

const SCHEMA: u32 = 1;

impl ObjectiveStatistics {
    /// The statistics of an objective's scores.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] without scores; [`Error::NonFinite`] for scores that are not
    /// finite.
    pub fn new(
        objective: impl Into<String>,
        scores: ScoreStatistics,
        source: impl Into<String>,
    ) -> Result<Self> {
        let objective = objective.into();
        let ScoreStatistics { n, mean, std, .. } = scores;
        if n == 0 {
            let field = format!("scores of `{objective}`");
            return Err(Error::invalid(field, "empty", "statistics need at least one score"));
        }
        let this = Self { objective, mean, std, n: Some(n), source: source.into() };
        this.check()?;
        Ok(this)
    }

    /// The statistics of `scores`.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn of(
        objective: impl Into<String>,
        scores: impl IntoIterator<Item = f32, IntoIter: Clone>,
        source: impl Into<String>,
    ) -> Result<Self> {
        Self::new(objective, ScoreStatistics::new(scores.into_iter()), source)
    }

    /// `value` in standard deviations above the mean; `None` if the deviation is 0.
    pub fn z(&self, value: f64) -> Option<f64> {
        (self.std > 0.0).then(|| (value - self.mean) / self.std)
    }

    /// Checks that mean and deviation are finite and the deviation is not negative.
    ///
    /// # Errors
    /// [`Error::NonFinite`] or [`Error::InvalidParameter`] with the objective's name.
    pub fn check(&self) -> Result<()> {
        let name = &self.objective;
        for (what, value) in [("mean", self.mean), ("std", self.std)] {
            if !value.is_finite() {
                return Err(Error::NonFinite { field: format!("{what} of `{name}`"), value });
            }
        }
        if self.std < 0.0 {
            let field = format!("std of `{name}`");
            return Err(Error::invalid(field, self.std, "it must be at least 0"));
        }
        Ok(())
    }
}

/// The statistics of `objectives`, in their order, out of `given`.
///
/// # Errors
/// [`Error::InvalidParameter`] names an objective that is missing or given twice, or as
/// [`ObjectiveStatistics::check`].
pub fn select_statistics(
    given: &[ObjectiveStatistics],
    objectives: &[String],
    origin: &str,
) -> Result<Vec<ObjectiveStatistics>> {
    objectives
        .iter()
        .map(|name| {
            let mut found = given.iter().filter(|s| s.objective == *name);
            let there: Vec<&str> = given.iter().map(|s| s.objective.as_str()).collect();
            let wrong = |expected: String| {
                Error::invalid(format!("statistics of {origin}"), there.join(", "), expected)
            };
            let first = found
                .next()
                .ok_or_else(|| wrong(format!("the objective `{name}` is needed too")))?;
            if found.next().is_some() {
                return Err(wrong(format!("`{name}` may be given only once")));
            }
            first.check()?;
            Ok(first.clone())
        })
        .collect()
}

/// Reads statistics that [`write_statistics`] wrote, or that were written by hand, for `objectives`;
/// others in the file do not count.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] names the file and what is wrong in it.
pub fn read_statistics(path: &Path, objectives: &[String]) -> Result<Vec<ObjectiveStatistics>> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
        action: "read",
        path: path.into(),
        source,
    })?;
    let wrong = |message: String| Error::File { path: path.into(), message };
    let remedy = "it should be as `mopo pareto` writes it: {\"schema\": 1, \"statistics\": \
                  [{\"objective\": …, \"mean\": …, \"std\": …, \"source\": …}]}";
    let file: StatisticsFile =
        serde_json::from_str(&text).map_err(|e| wrong(format!("{e}; {remedy}")))?;
    if file.schema != SCHEMA {
        return Err(wrong(format!("`schema` is {}, but only {SCHEMA} is known", file.schema)));
    }
    select_statistics(&file.statistics, objectives, "the file").map_err(|e| wrong(e.to_string()))
}

/// Writes statistics for [`read_statistics`], atomically.
///
/// # Errors
/// [`Error::Files`] names the file that could not be written.
pub fn write_statistics(path: &Path, statistics: &[ObjectiveStatistics]) -> Result<()> {
    let file = StatisticsFile { schema: SCHEMA, statistics: statistics.to_vec() };
    let text = serde_json::to_string_pretty(&file)
        .map_err(|source| Error::Json { what: "the statistics".into(), source })?;
    Ok(write_atomically(path, (text + "\n").as_bytes())?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mean_and_deviation_are_those_by_hand_and_z_scores_follow() {
        let s = ObjectiveStatistics::of("a", [1.0, 2.0, 4.0, 5.0], "test").unwrap();
        // Squares 4 + 1 + 1 + 4 over n − 1 = 3.
        assert_eq!((s.mean, s.n), (3.0, Some(4)));
        assert!((s.std - (10.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((s.z(3.0 + s.std).unwrap() - 1.0).abs() < 1e-12);
        let equal = ObjectiveStatistics::of("a", [2.0, 2.0], "test").unwrap();
        assert_eq!(equal.z(2.0), None, "nothing to divide by");
        assert_eq!(ObjectiveStatistics::of("a", [2.0], "test").unwrap().std, 0.0);
        assert!(ObjectiveStatistics::of("a", [], "test").is_err());
        assert!(ObjectiveStatistics::of("a", [f32::NAN], "test").is_err());
    }

    #[test]
    fn statistics_of_nothing_and_of_equal_scores() {
        let none = ScoreStatistics::new([].into_iter());
        assert_eq!((none.n, none.mean, none.std, none.min, none.max), (0, 0.0, 0.0, 0.0, 0.0));
        let equal = ScoreStatistics::new([2.0_f32; 3].into_iter());
        assert_eq!((equal.mean, equal.std), (2.0, 0.0));
    }

    #[test]
    fn older_files_keep_their_meaning() {
        let new = ScoreStatistics::new([1.0, 2.0, 4.0, 5.0].into_iter());
        let old: ScoreStatistics = serde_json::from_str(&format!(
            "{{\"n\":4,\"mean\":3.0,\"standard_deviation\":{},\"min\":1.0,\"max\":5.0}}",
            2.5_f64.sqrt()
        ))
        .unwrap();
        assert!((old.std - new.std).abs() < 1e-15 && (old.n, old.max) == (4, 5.0));
        let json = serde_json::to_string(&new).unwrap();
        assert_eq!(serde_json::from_str::<ScoreStatistics>(&json).unwrap(), new, "{json}");
        for (change, part) in
            [("\"sdt\"", "sdt"), ("\"std\":1,\"standard_deviation\"", "keep only `std`")]
        {
            let json = format!("{{\"n\":4,\"mean\":3.0,{change}:1,\"min\":1.0,\"max\":5.0}}");
            let e = serde_json::from_str::<ScoreStatistics>(&json).unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        }
        let missing = "{\"n\":4,\"mean\":3.0,\"min\":1.0,\"max\":5.0}";
        let e = serde_json::from_str::<ScoreStatistics>(missing).unwrap_err().to_string();
        assert!(e.contains("`std`"), "{e}");
    }

    proptest! {
        #[test]
        fn two_passes_agree_with_the_formula(
            scores in prop::collection::vec(-1e3f32..1e3, 2..50),
        ) {
            let s = ScoreStatistics::new(scores.iter().copied());
            let n = scores.len() as f64;
            let sum: f64 = scores.iter().map(|&x| f64::from(x)).sum();
            let squares: f64 = scores.iter().map(|&x| f64::from(x).powi(2)).sum();
            let variance = (squares - sum * sum / n) / (n - 1.0);
            prop_assert!((s.std.powi(2) - variance).abs() < 1e-6 * variance.max(1.0));
        }
    }

    #[test]
    fn files_come_back_by_name_and_mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("statistics.json");
        let of =
            |name: &str, mean: f32| ObjectiveStatistics::of(name, [mean, 1.0], "test").unwrap();
        let all = [of("b", 2.0), of("a", 3.0), of("c", 4.0)];
        write_statistics(&path, &all).unwrap();
        let wanted = ["a".to_owned(), "b".to_owned()];
        let back = read_statistics(&path, &wanted).unwrap();
        assert_eq!(back, [all[1].clone(), all[0].clone()]);
        // As it was written before.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"std\"", "\"deviation\"")).unwrap();
        assert_eq!(read_statistics(&path, &wanted).unwrap(), back);

        let fails = |text: &str, part: &str| {
            std::fs::write(&path, text).unwrap();
            let e = read_statistics(&path, &wanted).unwrap_err().to_string();
            assert!(e.contains("statistics.json") && e.contains(part), "{e}");
        };
        let entry = |name: &str, std: &str| {
            format!("{{\"objective\":\"{name}\",\"mean\":0,\"std\":{std},\"source\":\"x\"}}")
        };
        let file =
            |entries: &[String]| format!("{{\"schema\":1,\"statistics\":[{}]}}", entries.join(","));
        fails("{", "line 1");
        fails("{\"schema\":2,\"statistics\":[]}", "schema");
        fails("{\"schema\":1,\"statistics\":[],\"statistic\":[]}", "`statistic`");
        fails(&file(&[entry("a", "1").replace("std", "sdt")]), "`sdt`");
        fails(&file(&[entry("a", "1")]), "`b`");
        fails(&file(&[entry("a", "1"), entry("b", "1"), entry("b", "2")]), "only once");
        fails(&file(&[entry("a", "-1"), entry("b", "1")]), "std of `a`");
        std::fs::remove_file(&path).unwrap();
        assert!(read_statistics(&path, &wanted).is_err());
    }
}
