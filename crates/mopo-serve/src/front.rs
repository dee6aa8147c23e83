//! The front of the run's last `mopo pareto`, for the page.

use std::path::{Path, PathBuf};

use mopo_report::{FrontReport, PolicyGroup, ResultsDir};
use mopo_train::RunDir;
use mopo_train::evaluate::check_up_to_date;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// Where the front of a run is. It is read when it is asked for, so a new evaluation shows at once.
#[derive(Debug, Clone)]
pub struct FrontSource(Source);

#[derive(Debug, Clone)]
enum Source {
    Run { path: PathBuf, policies: Vec<String> },
    Fixed(Front),
}

/// The front of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Front {
    /// The axes: the rewards of the evaluation.
    pub axes: Vec<String>,
    /// The policies' objectives, which weights are of.
    pub policies: Vec<String>,
    /// Number of prompts that were answered.
    pub n_prompts: usize,
    /// Steps of the grid of weights, if known: weights are multiples of 1/steps.
    pub steps: Option<usize>,
    /// What was evaluated.
    pub points: Vec<Point>,
    /// Why the figures may not be those of this model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// A policy or mixture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// Its short name.
    pub label: String,
    /// `sft`, `head` or `mixture`.
    pub group: &'static str,
    /// Its weights, one per policy; none for the SFT model and other mixtures.
    pub weights: Option<Vec<f64>>,
    /// Mean scores, one per axis.
    pub means: Vec<f64>,
    /// Their standard errors; none for a single prompt.
    pub standard_errors: Option<Vec<f64>>,
    /// Whether no other point is at least as good on all axes and better on one.
    pub non_dominated: bool,
}

#[derive(Deserialize)]
struct Report {
    front: FrontReport,
    #[serde(default)]
    record: Value,
}

/// What of an evaluation's record matters here.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Evaluated {
    configuration: Configuration,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Configuration {
    evaluation: Settings,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Settings {
    mixture_steps: Option<usize>,
}

impl FrontSource {
    /// The front of the run in a directory, whose policies have these objectives; `None` for anything but a run.
    pub fn of(run: &Path, policies: &[String]) -> Option<Self> {
        let of_run = || Source::Run { path: run.into(), policies: policies.to_vec() };
        RunDir::is_run(run).then(|| Self(of_run()))
    }

    /// A front that does not change.
    pub fn fixed(front: Front) -> Self {
        Self(Source::Fixed(front))
    }

    /// Reads it; `None` if the run has not been evaluated.
    ///
    /// # Errors
    /// A file that is damaged.
    pub fn read(&self) -> Result<Option<Front>> {
        let (run, policies) = match &self.0 {
            Source::Run { path, policies } => (path, policies),
            Source::Fixed(front) => return Ok(Some(front.clone())),
        };
        let Ok(found) = ResultsDir::find(run) else { return Ok(None) };
        let path = found.results.join("report.json");
        let wrong = |message: String| Error::File { path: path.clone(), message };
        let text = std::fs::read(&path).map_err(|e| wrong(e.to_string()))?;
        let Report { front, record } = serde_json::from_slice(&text).map_err(|e| {
            wrong(format!("it is not a report of `mopo pareto` ({e}); evaluate the run again"))
        })?;
        let warning = check_up_to_date(run, &record).err().map(|e| e.to_string());
        let recorded = Evaluated::deserialize(record).unwrap_or_default();
        let steps = recorded.configuration.evaluation.mixture_steps.filter(|steps| *steps > 0);
        let point = |point: &mopo_report::PolicyPoint| Point {
            label: point.label.clone(),
            group: match point.group {
                PolicyGroup::Sft => "sft",
                PolicyGroup::Head => "head",
                PolicyGroup::Mixture => "mixture",
            },
            weights: weights(&point.policy, policies, steps),
            means: point.means.clone(),
            standard_errors: point.standard_errors.clone(),
            non_dominated: point.non_dominated,
        };
        Ok(Some(Front {
            axes: front.objectives,
            policies: policies.clone(),
            n_prompts: front.n_prompts,
            steps,
            points: front.points.iter().map(point).collect(),
            warning,
        }))
    }
}

/// The weights in a policy's id: `head-NAME`, or `mixture-0.33-0.67` with two decimals each.
fn weights(id: &str, policies: &[String], steps: Option<usize>) -> Option<Vec<f64>> {
    if let Some(name) = id.strip_prefix("head-") {
        let chosen = policies.iter().position(|policy| policy == name)?;
        return Some((0..policies.len()).map(|k| f64::from(u8::from(k == chosen))).collect());
    }
    let rounded: Vec<f64> =
        id.strip_prefix("mixture-")?.split('-').map(|w| w.parse().ok()).collect::<Option<_>>()?;
    if rounded.len() != policies.len() {
        return None;
    }
    let whole = match steps {
        // As they were before they were rounded for the name.
        Some(steps) => rounded.iter().map(|w| (w * steps as f64).round() / steps as f64).collect(),
        None => rounded,
    };
    let sum: f64 = whole.iter().sum();
    (sum > 0.0).then(|| whole.iter().map(|w| w / sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_from_ids_and_made_exact() {
        let policies = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(weights("head-b", &policies, None), Some(vec![0.0, 1.0, 0.0]));
        let thirds = weights("mixture-0.33-0.33-0.33", &policies, Some(3)).unwrap();
        assert_eq!(thirds, [1.0 / 3.0; 3]);
        let two = weights("mixture-0.67-0.33-0.00", &policies, Some(3)).unwrap();
        assert_eq!(two, [2.0 / 3.0, 1.0 / 3.0, 0.0]);
        let rounded = weights("mixture-0.50-0.25-0.25", &policies, None).unwrap();
        assert_eq!(rounded, [0.5, 0.25, 0.25]);
        for id in [
            "warm-start",
            "worst-case",
            "head-d",
            "mixture-0.50-0.50",
            "mixture-x-y-z",
            "mixture-0-0-0",
        ] {
            assert_eq!(weights(id, &policies, Some(3)), None, "{id}");
        }
    }
}
