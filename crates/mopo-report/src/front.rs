//! From scored responses to a front: points with standard errors and z-scores, dominance, and the
//! indicators of policy sets with their uncertainty.

use mopo_pareto::{Direction, dominates, hypervolume, non_dominated};
use serde::{Deserialize, Serialize};

use crate::bootstrap::{percentile_interval, resampled};
use crate::evaluation::shown_label;
use crate::quality::{Judge, Quality};
use crate::statistics::select_statistics;
use crate::{
    Error, Estimate, Evaluation, HypervolumeDifference, ObjectiveStatistics, PolicyGroup,
    PolicySet, Result, SetRef,
};

/// Settings that must be chosen before the comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontConfig {
    /// `[n_objectives]`: the hypervolume's reference point, e.g. known lower bounds of the rewards.
    /// It must not be derived from the compared policies, since the result would then depend on
    /// which take part.
    pub ref_point: Vec<f64>,
    /// Number of bootstrap resamples, from 1 to 1,000,000; default 1000.
    #[serde(default = "default_resamples")]
    pub n_resamples: usize,
    /// Seed of the bootstrap; default 0.
    #[serde(default)]
    pub seed: u64,
    /// Level of the intervals; default 0.95.
    #[serde(default = "default_confidence")]
    pub confidence: f64,
    /// Statistics for z-scores, one per objective, in any order; empty (the default) means those of
    /// the first SFT model's scores here, or of all scores if there is no SFT model.
    #[serde(default)]
    pub statistics: Vec<ObjectiveStatistics>,
}

/// Far more than any interval needs; each keeps the qualities of all sets in memory.
const MAX_RESAMPLES: usize = 1_000_000;

fn default_resamples() -> usize {
    1000
}

fn default_confidence() -> f64 {
    0.95
}

impl FrontConfig {
    /// This reference point, and defaults for everything else.
    pub fn new(ref_point: Vec<f64>) -> Self {
        Self {
            ref_point,
            n_resamples: default_resamples(),
            seed: 0,
            confidence: default_confidence(),
            statistics: Vec::new(),
        }
    }
}

/// A policy's mean scores over some prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyPoint {
    /// The run that the policy belongs to, if several are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The policy's identifier.
    pub policy: String,
    /// A short name for figures and tables.
    pub label: String,
    /// Its kind.
    pub group: PolicyGroup,
    /// The cluster, or `None` for all prompts.
    pub cluster: Option<usize>,
    /// Number of prompts that the means are over.
    pub n: usize,
    /// `[n_objectives]`; larger is better.
    pub means: Vec<f64>,
    /// `[n_objectives]`: standard errors of the means; `None` for a single prompt.
    pub standard_errors: Option<Vec<f64>>,
    /// `[n_objectives]`: the means as z-scores with [`FrontReport::statistics`]; `None` if the
    /// deviation is 0.
    pub z_scores: Vec<Option<f64>>,
    /// Whether no other policy dominates it on the same prompts.
    pub non_dominated: bool,
    /// Whether it dominates its run's SFT model on the same prompts; `None` without one.
    #[serde(rename = "dominates_warm_start")]
    pub dominates_sft: Option<bool>,
    /// The hypervolume of this point on its own; larger is better.
    pub own_hypervolume: f64,
}

impl PolicyPoint {
    /// The label as figures and pages show it.
    pub(crate) fn shown_label(&self) -> String {
        shown_label(self.group, &self.label)
    }
}

/// Indicators of a set of policies. Larger sets have an advantage, so compare sets of equal size,
/// or look at [`PolicyPoint::own_hypervolume`] too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetQuality {
    /// The set, and its run if several are compared.
    #[serde(flatten)]
    pub of: SetRef,
    /// The cluster, or `None` for all prompts.
    pub cluster: Option<usize>,
    /// Number of policies in the set.
    pub n_policies: usize,
    /// The hypervolume of the raw scores above [`FrontConfig::ref_point`]; **larger is better**.
    /// Intervals are computed over all prompts only, here and below.
    pub hypervolume: Estimate,
    /// IGD+ relative to the front of all compared policies, in standard deviations; **smaller is
    /// better**. `None` if an objective has no z-scores.
    pub igd_plus: Option<Estimate>,
    /// The additive epsilon relative to that front, in standard deviations; **smaller is better**.
    pub epsilon: Option<Estimate>,
}

/// The result of a comparison, with everything needed to judge and repeat it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontReport {
    /// The objectives, in the order of all vectors here.
    pub objectives: Vec<String>,
    /// The settings chosen beforehand: reference point, bootstrap.
    pub config: FrontConfig,
    /// `[n_objectives]`: statistics for z-scores.
    pub statistics: Vec<ObjectiveStatistics>,
    /// Number of evaluated prompts.
    pub n_prompts: usize,
    /// `[n_clusters]`: the clusters' labels.
    pub cluster_labels: Vec<String>,
    /// The compared runs, in order; empty for a single one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<String>,
    /// One point per policy over all prompts, in the evaluation's order of policies.
    pub points: Vec<PolicyPoint>,
    /// One point per cluster and policy: clusters in order, then policies.
    pub cluster_points: Vec<PolicyPoint>,
    /// Every set of policies over all prompts, run by run; sets without policies are omitted.
    pub sets: Vec<SetQuality>,
    /// The same per cluster.
    pub cluster_sets: Vec<SetQuality>,
    /// Within each run: heads − SFT, and heads and mixtures − SFT. Between each two runs: heads −
    /// heads, and all trained policies − all trained policies.
    pub differences: Vec<HypervolumeDifference>,
}

impl FrontReport {
    /// Computes the whole report.
    ///
    /// Complexity: O(n_resamples · policies · prompts · objectives) for the bootstrap, which
    /// dominates the rest.
    ///
    /// # Errors
    /// Those of [`Evaluation::check`]; [`Error::InvalidParameter`] for an invalid `config`;
    /// [`Error::Pareto`] if a hypervolume overflows.
    pub fn new(evaluation: &Evaluation, config: &FrontConfig) -> Result<Self> {
        evaluation.check()?;
        check_config(config, evaluation.objectives.len())?;
        let statistics = match config.statistics.as_slice() {
            [] => own_statistics(evaluation)?,
            given => select_statistics(given, &evaluation.objectives, "the comparison")?,
        };
        let sets = evaluation.sets();
        let members: Vec<Vec<usize>> = sets.iter().map(|s| s.1.clone()).collect();
        let judge = Judge::new(&config.ref_point, &statistics);
        let on = |prompts: &[usize], cluster| -> Result<_> {
            let points = points_over(evaluation, config, &statistics, prompts, cluster)?;
            let means: Vec<Vec<f64>> = points.iter().map(|p| p.means.clone()).collect();
            let found = judge.judge(&means, &members)?;
            let qualities: Vec<SetQuality> =
                sets.iter().zip(found).map(|(set, q)| SetQuality::new(set, cluster, q)).collect();
            Ok((points, qualities))
        };
        let everyone: Vec<usize> = (0..evaluation.prompts.len()).collect();
        let (points, mut qualities) = on(&everyone, None)?;
        let (mut cluster_points, mut cluster_sets) = (Vec::new(), Vec::new());
        for cluster in 0..evaluation.clusters.n_clusters() {
            let assignments = &evaluation.clusters.assignments;
            let inside = |i: &usize| assignments[*i] == cluster;
            let prompts: Vec<usize> = everyone.iter().copied().filter(inside).collect();
            let (points, sets) = on(&prompts, Some(cluster))?;
            cluster_points.extend(points);
            cluster_sets.extend(sets);
        }

        let scores: Vec<&[Vec<f32>]> =
            evaluation.policies.iter().map(|p| p.scores.as_slice()).collect();
        let draws = resampled(&scores, &members, &judge, config.n_resamples, config.seed)?;
        for (s, quality) in qualities.iter_mut().enumerate() {
            quality.with_intervals(draws.iter().map(|d| d[s]), config.confidence);
        }
        let runs = evaluation.runs();
        let differences = pairs_to_compare(&runs, &sets)
            .into_iter()
            .map(|(a, b)| {
                let values: Vec<f64> =
                    draws.iter().map(|d| d[a].hypervolume - d[b].hypervolume).collect();
                let share = |wanted: fn(f64) -> bool| {
                    values.iter().filter(|&&v| wanted(v)).count() as f64 / values.len() as f64
                };
                HypervolumeDifference {
                    of: sets[a].0.clone(),
                    minus: sets[b].0.clone(),
                    value: qualities[a].hypervolume.value - qualities[b].hypervolume.value,
                    probability_positive: share(|v| v > 0.0),
                    probability_negative: share(|v| v < 0.0),
                    interval: percentile_interval(values, config.confidence),
                }
            })
            .collect();
        Ok(Self {
            objectives: evaluation.objectives.clone(),
            config: config.clone(),
            statistics,
            n_prompts: evaluation.prompts.len(),
            cluster_labels: evaluation.clusters.labels.clone(),
            runs: runs.into_iter().flatten().collect(),
            points,
            cluster_points,
            sets: qualities,
            cluster_sets,
            differences,
        })
    }

    /// Indicators of `set` in the first run (or the only one) over all prompts, if it has a policy.
    pub fn quality(&self, set: PolicySet) -> Option<&SetQuality> {
        self.sets.iter().find(|q| q.of.set == set)
    }

    /// The difference of `set` and the SFT model of the first run, if both have a policy.
    pub fn difference(&self, set: PolicySet) -> Option<&HypervolumeDifference> {
        self.differences.iter().find(|d| d.of.set == set && d.minus.set == PolicySet::Sft)
    }

    /// Indicators of the set `of` over all prompts.
    pub(crate) fn set_quality(&self, of: &SetRef) -> Option<&SetQuality> {
        self.sets.iter().find(|q| q.of == *of)
    }

    /// Policies × objectives as plain text: means ± standard errors and z-scores, `*` for
    /// non-dominated.
    pub fn table(&self) -> String {
        let width =
            self.points.iter().map(|p| p.shown_label().chars().count()).max().unwrap_or(0).max(6);
        let mut out = format!("  {:width$}", "policy");
        for name in &self.objectives {
            out += &format!("  {name:>17}  {:>6}", "z");
        }
        out += &format!("  {:>11}\n", "own volume");
        for point in &self.points {
            let mark = if point.non_dominated { '*' } else { ' ' };
            out += &format!("{mark} {:width$}", point.shown_label());
            for k in 0..self.objectives.len() {
                let error = point.standard_errors.as_ref().map_or(f64::NAN, |e| e[k]);
                let z = point.z_scores[k].map_or_else(|| "–".into(), |z| format!("{z:+.2}"));
                out += &format!("  {:>8.4} ± {error:<6.4}  {z:>6}", point.means[k]);
            }
            out += &format!("  {:>11.5}\n", point.own_hypervolume);
        }
        out
    }

    /// Indicators of sets and their differences as plain text, to follow [`table`](Self::table).
    pub fn summary(&self) -> String {
        let width = self.sets.iter().map(|q| q.of.name().chars().count()).max().unwrap_or(0);
        let mut out = format!("{:width$}  hypervolume ↑   IGD+ ↓  additive ε ↓\n", "set");
        for quality in &self.sets {
            let distance =
                |e: Option<Estimate>| e.map_or_else(|| "–".into(), |e| format!("{:.4}", e.value));
            out += &format!(
                "{:width$}  {:>13.4}  {:>7}  {:>12}\n",
                quality.of.name(),
                quality.hypervolume.value,
                distance(quality.igd_plus),
                distance(quality.epsilon)
            );
        }
        out += &format!(
            "  (reference point {:?}; IGD+ and ε in standard deviations)\n",
            self.config.ref_point
        );
        for d in &self.differences {
            out += &format!(
                "{} − {}: {:+.4} ({:+.4} to {:+.4}), P(larger) {:.3}\n",
                d.of.name(),
                d.minus.name(),
                d.value,
                d.interval.low,
                d.interval.high,
                d.probability_positive
            );
        }
        out
    }
}

impl SetQuality {
    fn new((of, members): &(SetRef, Vec<usize>), cluster: Option<usize>, found: Quality) -> Self {
        let plain = |value| Estimate { value, interval: None };
        Self {
            of: of.clone(),
            cluster,
            n_policies: members.len(),
            hypervolume: plain(found.hypervolume),
            igd_plus: found.distances.map(|d| plain(d[0])),
            epsilon: found.distances.map(|d| plain(d[1])),
        }
    }

    fn with_intervals(&mut self, draws: impl Iterator<Item = Quality> + Clone, confidence: f64) {
        let interval = |values: Vec<f64>| {
            (!values.is_empty()).then(|| percentile_interval(values, confidence))
        };
        let distance = |i: usize| draws.clone().filter_map(|d| Some(d.distances?[i])).collect();
        self.hypervolume.interval = interval(draws.clone().map(|d| d.hypervolume).collect());
        for (i, estimate) in [&mut self.igd_plus, &mut self.epsilon].into_iter().enumerate() {
            if let Some(estimate) = estimate {
                estimate.interval = interval(distance(i));
            }
        }
    }
}

/// Indices into `sets`: the pairs of [`FrontReport::differences`].
fn pairs_to_compare(runs: &[Option<String>], sets: &[(SetRef, Vec<usize>)]) -> Vec<(usize, usize)> {
    let at =
        |run: &Option<String>, set| sets.iter().position(|(of, _)| of.run == *run && of.set == set);
    let trained = |run| at(run, PolicySet::HeadsAndMixtures).or(at(run, PolicySet::Heads));
    let mut out = Vec::new();
    for run in runs {
        for set in [PolicySet::Heads, PolicySet::HeadsAndMixtures] {
            out.extend(at(run, set).zip(at(run, PolicySet::Sft)));
        }
    }
    for (i, a) in runs.iter().enumerate() {
        for b in &runs[i + 1..] {
            let heads = at(a, PolicySet::Heads).zip(at(b, PolicySet::Heads));
            let everything = trained(a).zip(trained(b)).filter(|pair| Some(*pair) != heads);
            out.extend(heads.into_iter().chain(everything));
        }
    }
    out
}

/// Statistics of the first SFT model's scores, or of all scores if there is no SFT model.
fn own_statistics(evaluation: &Evaluation) -> Result<Vec<ObjectiveStatistics>> {
    let n = evaluation.prompts.len();
    let sft = evaluation.policies.iter().find(|p| p.group == PolicyGroup::Sft);
    let (whose, source) = match sft {
        Some(sft) => {
            let label = shown_label(sft.group, &sft.label);
            (
                std::slice::from_ref(sft),
                format!("responses of the policy “{label}” to the {n} prompts"),
            )
        }
        None => {
            let policies = evaluation.policies.len();
            let source = format!("responses of all {policies} policies to the {n} prompts");
            (evaluation.policies.as_slice(), source)
        }
    };
    let of = |(k, name): (usize, &String)| {
        let scores = whose.iter().flat_map(|p| p.scores.iter().map(move |row| row[k]));
        ObjectiveStatistics::of(name, scores, source.as_str())
    };
    evaluation.objectives.iter().enumerate().map(of).collect()
}

fn check_config(config: &FrontConfig, n_objectives: usize) -> Result<()> {
    if config.ref_point.len() != n_objectives {
        return Err(Error::Length {
            field: "ref_point".into(),
            found: config.ref_point.len(),
            expected: n_objectives,
            reason: "one value per objective",
        });
    }
    if let Some(k) = config.ref_point.iter().position(|v| !v.is_finite()) {
        return Err(Error::NonFinite {
            field: format!("ref_point[{k}]"),
            value: config.ref_point[k],
        });
    }
    if !(1..=MAX_RESAMPLES).contains(&config.n_resamples) {
        let expected = format!("it must be from 1 to {MAX_RESAMPLES}, e.g. 1000");
        return Err(Error::invalid("n_resamples", config.n_resamples, expected));
    }
    if !(config.confidence > 0.0 && config.confidence < 1.0) {
        let expected = "it must lie between 0 and 1, e.g. 0.95";
        return Err(Error::invalid("confidence", config.confidence, expected));
    }
    Ok(())
}

fn points_over(
    evaluation: &Evaluation,
    config: &FrontConfig,
    statistics: &[ObjectiveStatistics],
    prompts: &[usize],
    cluster: Option<usize>,
) -> Result<Vec<PolicyPoint>> {
    let k = evaluation.objectives.len();
    let directions = vec![Direction::Maximize; k];
    let mut points: Vec<PolicyPoint> = Vec::with_capacity(evaluation.policies.len());
    for samples in &evaluation.policies {
        let (means, standard_errors) = mean_and_error(&samples.scores, prompts, k);
        points.push(PolicyPoint {
            run: samples.run.clone(),
            policy: samples.policy.clone(),
            label: samples.label.clone(),
            group: samples.group,
            cluster,
            n: prompts.len(),
            own_hypervolume: hypervolume(&[&means], &config.ref_point, &directions)?,
            z_scores: means.iter().zip(statistics).map(|(&mean, s)| s.z(mean)).collect(),
            means,
            standard_errors,
            non_dominated: false,
            dominates_sft: None,
        });
    }
    let means: Vec<Vec<f64>> = points.iter().map(|p| p.means.clone()).collect();
    for i in non_dominated(&means, &directions) {
        points[i].non_dominated = true;
    }
    for (i, own) in means.iter().enumerate() {
        let is_its_sft_model = |p: &usize| {
            let other = &evaluation.policies[*p];
            other.group == PolicyGroup::Sft && other.run == evaluation.policies[i].run
        };
        let mut starts = (0..means.len()).filter(is_its_sft_model).peekable();
        if starts.peek().is_some() {
            let beats_all = starts.all(|w| dominates(own, &means[w], &directions));
            points[i].dominates_sft = Some(beats_all);
        }
    }
    Ok(points)
}

/// Means over `prompts` and their standard errors (sample deviation over √n).
fn mean_and_error(
    scores: &[Vec<f32>],
    prompts: &[usize],
    n_objectives: usize,
) -> (Vec<f64>, Option<Vec<f64>>) {
    let n = prompts.len() as f64;
    let mean = |k: usize| prompts.iter().map(|&i| f64::from(scores[i][k])).sum::<f64>() / n;
    let means: Vec<f64> = (0..n_objectives).map(mean).collect();
    let error = |k: usize| {
        let squares: f64 =
            prompts.iter().map(|&i| (f64::from(scores[i][k]) - means[k]).powi(2)).sum();
        (squares / (n - 1.0) / n).sqrt()
    };
    let errors = (prompts.len() > 1).then(|| (0..n_objectives).map(error).collect());
    (means, errors)
}
