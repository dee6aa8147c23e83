//! Mean and standard deviation of each objective's scores: what z-scores are counted in.
//!
//! A z-score only says something beside others that were made with the same statistics. So they are
//! recorded with every result, with where they come from, and can be given to another evaluation.

use std::path::Path;

use mopo_hub::write_atomically;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The statistics of one objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreStatistics {
    /// The objective.
    pub objective: String,
    /// Mean of the raw scores.
    pub mean: f64,
    /// Their standard deviation (over n − 1). 0: all were equal, and there are no z-scores.
    pub deviation: f64,
    /// How many scores they were computed from, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
    /// Whose scores they are, for people: policy, prompts, data set or publication.
    pub source: String,
}

/// The file of [`write_statistics`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatisticsFile {
    schema: u32,
    statistics: Vec<ScoreStatistics>,
}

const SCHEMA: u32 = 1;

impl ScoreStatistics {
    /// The statistics of `scores`, in f64.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] without a score; [`Error::NonFinite`] for a score that is none.
    pub fn of(
        objective: impl Into<String>,
        scores: impl IntoIterator<Item = f32>,
        source: impl Into<String>,
    ) -> Result<Self> {
        let objective = objective.into();
        let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
        let n = scores.len();
        if n == 0 {
            let field = format!("scores of `{objective}`");
            return Err(Error::invalid(field, "empty", "statistics need at least one score"));
        }
        let mean = scores.iter().sum::<f64>() / n as f64;
        let squares: f64 = scores.iter().map(|s| (s - mean).powi(2)).sum();
        // A single score has no deviation: 0, like equal ones.
        let deviation = if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 };
        let this = Self { objective, mean, deviation, n: Some(n), source: source.into() };
        this.check()?;
        Ok(this)
    }

    /// `value` in standard deviations above the mean; `None` if the deviation is 0.
    pub fn z(&self, value: f64) -> Option<f64> {
        (self.deviation > 0.0).then(|| (value - self.mean) / self.deviation)
    }

    /// Checks that mean and deviation are numbers and the deviation is not negative.
    ///
    /// # Errors
    /// [`Error::NonFinite`] or [`Error::InvalidParameter`] with the objective's name.
    pub fn check(&self) -> Result<()> {
        let name = &self.objective;
        for (what, value) in [("mean", self.mean), ("deviation", self.deviation)] {
            if !value.is_finite() {
                return Err(Error::NonFinite { field: format!("{what} of `{name}`"), value });
            }
        }
        if self.deviation < 0.0 {
            let field = format!("deviation of `{name}`");
            return Err(Error::invalid(field, self.deviation, "it must be at least 0"));
        }
        Ok(())
    }
}

/// The statistics of `objectives`, in their order, out of `given`.
///
/// # Errors
/// [`Error::InvalidParameter`] names an objective that is missing or stands there twice, or as
/// [`ScoreStatistics::check`].
pub fn select_statistics(
    given: &[ScoreStatistics],
    objectives: &[String],
    origin: &str,
) -> Result<Vec<ScoreStatistics>> {
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
                return Err(wrong(format!("`{name}` may stand there only once")));
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
pub fn read_statistics(path: &Path, objectives: &[String]) -> Result<Vec<ScoreStatistics>> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
        action: "read",
        path: path.into(),
        source,
    })?;
    let wrong = |message: String| Error::File { path: path.into(), message };
    let remedy = "it should be as `mopo pareto` writes it: {\"schema\": 1, \"statistics\": \
                  [{\"objective\": …, \"mean\": …, \"deviation\": …, \"source\": …}]}";
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
pub fn write_statistics(path: &Path, statistics: &[ScoreStatistics]) -> Result<()> {
    let file = StatisticsFile { schema: SCHEMA, statistics: statistics.to_vec() };
    let text = serde_json::to_string_pretty(&file)
        .map_err(|source| Error::Json { what: "the statistics".into(), source })?;
    Ok(write_atomically(path, (text + "\n").as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation_are_those_by_hand_and_z_scores_follow() {
        let s = ScoreStatistics::of("a", [1.0, 2.0, 4.0, 5.0], "test").unwrap();
        // Squares 4 + 1 + 1 + 4 over n − 1 = 3.
        assert_eq!((s.mean, s.n), (3.0, Some(4)));
        assert!((s.deviation - (10.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((s.z(3.0 + s.deviation).unwrap() - 1.0).abs() < 1e-12);
        let equal = ScoreStatistics::of("a", [2.0, 2.0], "test").unwrap();
        assert_eq!(equal.z(2.0), None, "nothing to divide by");
        assert_eq!(ScoreStatistics::of("a", [2.0], "test").unwrap().deviation, 0.0);
        assert!(ScoreStatistics::of("a", [], "test").is_err());
        assert!(ScoreStatistics::of("a", [f32::NAN], "test").is_err());
    }

    #[test]
    fn files_come_back_by_name_and_mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("statistics.json");
        let of = |name: &str, mean: f32| ScoreStatistics::of(name, [mean, 1.0], "test").unwrap();
        let all = [of("b", 2.0), of("a", 3.0), of("c", 4.0)];
        write_statistics(&path, &all).unwrap();
        let wanted = ["a".to_owned(), "b".to_owned()];
        let back = read_statistics(&path, &wanted).unwrap();
        assert_eq!(back, [all[1].clone(), all[0].clone()]);

        let fails = |text: &str, part: &str| {
            std::fs::write(&path, text).unwrap();
            let e = read_statistics(&path, &wanted).unwrap_err().to_string();
            assert!(e.contains("statistics.json") && e.contains(part), "{e}");
        };
        let entry = |name: &str, deviation: &str| {
            format!(
                "{{\"objective\":\"{name}\",\"mean\":0,\"deviation\":{deviation},\"source\":\"x\"}}"
            )
        };
        let file =
            |entries: &[String]| format!("{{\"schema\":1,\"statistics\":[{}]}}", entries.join(","));
        fails("{", "line 1");
        fails("{\"schema\":2,\"statistics\":[]}", "schema");
        fails(&file(&[entry("a", "1")]), "`b`");
        fails(&file(&[entry("a", "1"), entry("b", "1"), entry("b", "2")]), "only once");
        fails(&file(&[entry("a", "-1"), entry("b", "1")]), "deviation of `a`");
        std::fs::remove_file(&path).unwrap();
        assert!(read_statistics(&path, &wanted).is_err());
    }
}
