//! Results of several runs, read back from files of [`crate::write_report`], as one comparison.
//!
//! Only comparable results are accepted: the same prompts, scored by the same rewards, with the
//! same
//! reference point. Otherwise the error says what differs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mopo_hub::{file_sha256, is_intact_json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Clusters, Difference, Error, Evaluation, FrontConfig, ObjectiveStatistics, PolicyGroup,
    PolicySamples, Result,
};

/// An axis of a front, and its reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredAxis {
    /// The objective's name.
    pub name: String,
    /// The definition of its reward, which must be the same for all runs. Only the scorer knows
    /// what it means.
    pub reward: Value,
}

/// A run's result as recorded in its files.
#[derive(Debug, Clone)]
pub struct RecordedRun {
    /// The run's name in the comparison.
    pub name: String,
    /// The directory that it was read from.
    pub dir: PathBuf,
    /// Prompts, clusters, responses and scores.
    pub evaluation: Evaluation,
    /// Reference point and bootstrap; `statistics` are those of the run's z-scores.
    pub config: FrontConfig,
    /// One per objective; `None` if not recorded.
    pub rewards: Option<Vec<ScoredAxis>>,
    /// The recorded generation settings, or `Null`.
    pub generation: Value,
    /// The run's own record, shown unchanged.
    pub record: Value,
}

/// The result of [`combine`].
#[derive(Debug, Clone)]
pub struct Combined {
    /// All policies, labelled with their runs.
    pub evaluation: Evaluation,
    /// That of the first run.
    pub config: FrontConfig,
    /// The rewards, the same for all runs.
    pub rewards: Option<Vec<ScoredAxis>>,
    /// Differences that do not prevent the comparison, for the reader.
    pub notes: Vec<String>,
}

#[derive(Deserialize)]
struct ReportFile {
    front: FrontPart,
    #[serde(default)]
    rewards: Option<Vec<ScoredAxis>>,
    #[serde(default)]
    record: Value,
    /// Of samples.jsonl; earlier versions have none.
    #[serde(default)]
    samples_sha256: Option<String>,
}

/// The parts of a run's record that a comparison uses.
#[derive(Deserialize, Default)]
#[serde(default)]
struct RecordPart {
    generation: Value,
    configuration: ConfigurationPart,
}

/// Older reports without `rewards` have them here.
#[derive(Deserialize, Default)]
#[serde(default)]
struct ConfigurationPart {
    evaluation: EvaluationPart,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct EvaluationPart {
    rewards: Option<Vec<ScoredAxis>>,
}

#[derive(Deserialize)]
struct FrontPart {
    objectives: Vec<String>,
    config: FrontConfig,
    #[serde(default)]
    statistics: Vec<ObjectiveStatistics>,
    #[serde(default)]
    runs: Vec<String>,
    cluster_labels: Vec<String>,
    points: Vec<PointPart>,
}

#[derive(Deserialize)]
struct PointPart {
    policy: String,
    label: String,
    group: PolicyGroup,
    means: Vec<f64>,
}

#[derive(Deserialize)]
struct SampleLine {
    policy: String,
    cluster: usize,
    prompt: String,
    response: String,
    scores: Vec<f32>,
}

const AGAIN: &str = "write it again with `mopo pareto RUN`";

impl RecordedRun {
    /// Reads `report.json` and `samples.jsonl` of `dir`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] names the file, and the line, that is missing, damaged or
    /// does
    /// not fit the other; those of [`Evaluation::check`].
    pub fn read(dir: &Path, name: impl Into<String>) -> Result<Self> {
        let path = dir.join("report.json");
        let wrong = |message: String| Error::File { path: path.clone(), message };
        let text = read(&path)?;
        let report: ReportFile = serde_json::from_str(&text)
            .map_err(|e| wrong(format!("{e}; it was changed or damaged: {AGAIN}")))?;
        let ReportFile { front, rewards, record, samples_sha256 } = report;
        if !front.runs.is_empty() {
            let runs = front.runs.join(", ");
            return Err(wrong(format!(
                "it compares several runs ({runs}); pass those runs instead"
            )));
        }
        let samples = dir.join("samples.jsonl");
        let evaluation = read_samples(&samples, &front)?;
        evaluation.check()?;
        if let Some(sha256) = samples_sha256
            && file_sha256(&samples)? != sha256
        {
            let message = format!("its SHA-256 is not the one in report.json: {AGAIN}");
            return Err(Error::File { path: samples, message });
        }
        if !is_intact_json(text.as_bytes()) {
            return Err(wrong(format!(
                "its SHA-256, in its last line but one, is another: it was changed or damaged: {AGAIN}"
            )));
        }
        let known = match &record {
            Value::Object(_) => RecordPart::deserialize(&record)
                .map_err(|e| wrong(format!("`record`: {e}; it was changed or damaged: {AGAIN}")))?,
            _ => RecordPart::default(),
        };
        let mut config = front.config;
        if !front.statistics.is_empty() {
            config.statistics = front.statistics;
        }
        Ok(Self {
            name: name.into(),
            dir: dir.into(),
            evaluation,
            config,
            rewards: rewards.or(known.configuration.evaluation.rewards),
            generation: known.generation,
            record,
        })
    }

    /// The reward of objective `k`, or a default for an unknown one.
    fn reward(&self, k: usize) -> &Value {
        let axis = self.rewards.as_ref().and_then(|axes| axes.get(k));
        axis.map_or(&Value::Null, |axis| &axis.reward)
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Io {
        action: "read",
        path: path.into(),
        source,
    })
}

fn read_samples(path: &Path, front: &FrontPart) -> Result<Evaluation> {
    let wrong = |message: String| Error::File {
        path: path.into(),
        message: format!("{message}; it does not belong to the report.json next to it: {AGAIN}"),
    };
    let mut lines: BTreeMap<String, Vec<SampleLine>> = BTreeMap::new();
    for (i, line) in read(path)?.lines().enumerate() {
        let sample: SampleLine =
            serde_json::from_str(line).map_err(|e| wrong(format!("line {}: {e}", i + 1)))?;
        lines.entry(sample.policy.clone()).or_default().push(sample);
    }
    let first = front.points.first().and_then(|p| lines.get(&p.policy));
    let first = first.ok_or_else(|| wrong("it has no policy of the report".into()))?;
    let prompts: Vec<String> = first.iter().map(|s| s.prompt.clone()).collect();
    let clusters = Clusters {
        assignments: first.iter().map(|s| s.cluster).collect(),
        labels: front.cluster_labels.clone(),
    };
    let mut policies = Vec::with_capacity(front.points.len());
    for point in &front.points {
        let name = &point.policy;
        let own = lines.remove(name).unwrap_or_default();
        if !own.iter().map(|s| &s.prompt).eq(&prompts) {
            let (found, expected) = (own.len(), prompts.len());
            return Err(wrong(format!(
                "`{name}` has {found} responses, but not to the {expected} prompts of the other policies"
            )));
        }
        for (k, &mean) in point.means.iter().enumerate() {
            let sum: f64 =
                own.iter().map(|s| s.scores.get(k).map_or(f64::NAN, |&v| v.into())).sum();
            let found = sum / own.len() as f64;
            if (found - mean).abs() > 1e-6 * mean.abs().max(1.0) || found.is_nan() {
                return Err(wrong(format!(
                    "the mean of score {k} of `{name}` is {found} here and {mean} there"
                )));
            }
        }
        let (mut responses, mut scores) = (Vec::new(), Vec::new());
        for sample in own {
            responses.push(sample.response);
            scores.push(sample.scores);
        }
        policies.push(PolicySamples {
            run: None,
            policy: name.clone(),
            label: point.label.clone(),
            group: point.group,
            responses,
            scores,
        });
    }
    if let Some(other) = lines.keys().next() {
        return Err(wrong(format!("`{other}` is not a policy of the report")));
    }
    Ok(Evaluation { objectives: front.objectives.clone(), prompts, clusters, policies })
}

/// Combines the policies of several runs. A single run is unchanged, without a run's
/// name. Prompts, clusters, seed of the bootstrap and statistics are those of the first; the
/// others' prompts may be in another order.
///
/// # Errors
/// [`Error::Incomparable`] names the two runs and what differs: objectives, rewards, reference point or
/// prompts. [`Error::InvalidParameter`] without a run, or for two of the same name.
pub fn combine(runs: Vec<RecordedRun>) -> Result<Combined> {
    let several = runs.len() > 1;
    for (i, run) in runs.iter().enumerate() {
        if runs[..i].iter().any(|other| other.name == run.name) {
            return Err(Error::invalid("runs", &run.name, "give each run a different name"));
        }
    }
    let mut notes = Vec::new();
    let mut runs = runs.into_iter();
    let Some(first) = runs.next() else {
        return Err(Error::invalid("runs", "empty", "name at least one"));
    };
    let mut evaluation = first.evaluation.clone();
    if several {
        evaluation.policies.clear();
        evaluation.policies.extend(labelled(first.evaluation.policies.clone(), &first.name));
    }
    for run in runs {
        comparable(&first, &run)?;
        let order = same_prompts(&first, &run)?;
        if run.generation != first.generation {
            notes.push(format!(
                "{} and {} generated with different settings: {} and {}.",
                first.name, run.name, first.generation, run.generation
            ));
        }
        let plain = |run: &RecordedRun| -> Vec<(f64, f64)> {
            run.config.statistics.iter().map(|s| (s.mean, s.std)).collect()
        };
        if plain(&run) != plain(&first) {
            notes.push(format!(
                "z-scores use the statistics of {}; {} recorded different ones.",
                first.name, run.name
            ));
        }
        let clusters = |i: usize| run.evaluation.clusters.assignments[order[i]];
        if !(0..order.len()).map(clusters).eq(first.evaluation.clusters.assignments.iter().copied())
        {
            notes.push(format!(
                "Prompt clusters are those of {}; {} had others.",
                first.name, run.name
            ));
        }
        let mut policies = run.evaluation.policies;
        policies.iter_mut().for_each(|samples| samples.reorder(&order));
        evaluation.policies.extend(labelled(policies, &run.name));
    }
    if several && first.rewards.is_none() {
        notes.push("The files do not say which rewards scored the responses.".into());
    }
    evaluation.check()?;
    Ok(Combined { evaluation, config: first.config, rewards: first.rewards, notes })
}

/// The policies with the name of their run.
pub(crate) fn labelled(
    policies: Vec<PolicySamples>,
    run: &str,
) -> impl Iterator<Item = PolicySamples> + '_ {
    policies.into_iter().map(move |samples| PolicySamples {
        run: Some(run.to_owned()),
        label: format!("{run}: {}", samples.label),
        ..samples
    })
}

fn comparable(a: &RecordedRun, b: &RecordedRun) -> Result<()> {
    same_rewards(a, b)?;
    let (mine, theirs) = (&a.config.ref_point, &b.config.ref_point);
    if mine != theirs {
        return Err(differ(a, b, Difference::RefPoint(mine.clone(), theirs.clone())));
    }
    Ok(())
}

/// Checks that both runs have the same objectives, scored by the same rewards.
pub(crate) fn same_rewards(a: &RecordedRun, b: &RecordedRun) -> Result<()> {
    let (names, others) = (&a.evaluation.objectives, &b.evaluation.objectives);
    if names != others {
        return Err(differ(a, b, Difference::Objectives(names.clone(), others.clone())));
    }
    for (k, name) in names.iter().enumerate() {
        let (mine, theirs) = (a.reward(k), b.reward(k));
        if mine != theirs {
            let (name, mine, theirs) = (name.clone(), mine.clone(), theirs.clone());
            return Err(differ(a, b, Difference::Reward { name, a: mine, b: theirs }));
        }
    }
    Ok(())
}

fn differ(a: &RecordedRun, b: &RecordedRun, difference: Difference) -> Error {
    let difference = Box::new(difference);
    Error::Incomparable { a: a.name.clone(), b: b.name.clone(), difference }
}

/// The index in `b` of each prompt of `a`.
pub(crate) fn same_prompts(a: &RecordedRun, b: &RecordedRun) -> Result<Vec<usize>> {
    let (mine, theirs) = (&a.evaluation.prompts, &b.evaluation.prompts);
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, prompt) in theirs.iter().enumerate().rev() {
        places.entry(prompt).or_default().push(i);
    }
    let order: Vec<usize> =
        mine.iter().filter_map(|prompt| places.get_mut(prompt.as_str())?.pop()).collect();
    if order.len() != mine.len() || mine.len() != theirs.len() {
        let (a_len, b_len) = (mine.len(), theirs.len());
        let difference = Difference::Prompts { a: a_len, b: b_len, common: order.len() };
        return Err(differ(a, b, difference));
    }
    Ok(order)
}
