//! From scored responses to a front: points with standard errors, who is dominated, hypervolumes
//! and how sure their difference is.

use mopo_core::Objectives;
use mopo_core::pareto::{Direction, dominates, hypervolume, non_dominated};
use serde::{Deserialize, Serialize};

use crate::bootstrap::{percentile_interval, resampled_hypervolumes};
use crate::{Clusters, Error, HypervolumeDifference, Interval, Result};

/// What a policy is in the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyGroup {
    /// Where training started.
    WarmStart,
    /// Trained with one objective as the primary one.
    Head,
    /// A mixture of heads.
    Mixture,
}

impl PolicyGroup {
    /// The name in tables: `warm start`, `head`, `mixture`.
    pub fn name(self) -> &'static str {
        match self {
            Self::WarmStart => "warm start",
            Self::Head => "head",
            Self::Mixture => "mixture",
        }
    }
}

/// One policy's answers to all prompts, scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicySamples {
    /// A unique identifier, e.g. `head-helpful`.
    pub policy: String,
    /// What figures and tables show, short.
    pub label: String,
    /// Its part in the comparison.
    pub group: PolicyGroup,
    /// `[n_prompts]`, in the order of the prompts.
    pub responses: Vec<String>,
    /// `[n_prompts][n_objectives]`; larger is better.
    pub scores: Vec<Vec<f32>>,
}

/// Everything that a front is computed from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The objectives, in the order of the scores; at least two.
    pub objectives: Objectives,
    /// `[n_prompts]`.
    pub prompts: Vec<String>,
    /// The prompts' clusters; [`Clusters::single`] for none.
    pub clusters: Clusters,
    /// The policies, in the order in which tables and legends show them.
    pub policies: Vec<PolicySamples>,
}

/// Choices that must be made before the comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontConfig {
    /// `[n_objectives]`: the hypervolume's corner, e.g. the rewards' known lower bounds. Never
    /// derived from the policies compared: the result would depend on who takes part.
    pub ref_point: Vec<f64>,
    /// Resamples of the bootstrap; default 1000.
    #[serde(default = "default_resamples")]
    pub n_resamples: usize,
    /// Seed of the bootstrap; default 0.
    #[serde(default)]
    pub seed: u64,
    /// Level of the intervals; default 0.95.
    #[serde(default = "default_confidence")]
    pub confidence: f64,
}

fn default_resamples() -> usize {
    1000
}

fn default_confidence() -> f64 {
    0.95
}

impl FrontConfig {
    /// `ref_point` with the defaults for everything else.
    pub fn new(ref_point: Vec<f64>) -> Self {
        Self {
            ref_point,
            n_resamples: default_resamples(),
            seed: 0,
            confidence: default_confidence(),
        }
    }
}

/// A set of policies whose hypervolume is computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicySet {
    /// The warm start alone.
    WarmStart,
    /// All heads.
    Heads,
    /// All heads and all mixtures of them.
    HeadsAndMixtures,
}

impl PolicySet {
    /// All sets, in the order of reports.
    pub const ALL: [Self; 3] = [Self::WarmStart, Self::Heads, Self::HeadsAndMixtures];

    /// The name in tables: `warm start`, `heads`, `heads and mixtures`.
    pub fn name(self) -> &'static str {
        match self {
            Self::WarmStart => "warm start",
            Self::Heads => "heads",
            Self::HeadsAndMixtures => "heads and mixtures",
        }
    }

    /// Whether policies of `group` belong to this set.
    pub fn contains(self, group: PolicyGroup) -> bool {
        match self {
            Self::WarmStart => group == PolicyGroup::WarmStart,
            Self::Heads => group == PolicyGroup::Head,
            Self::HeadsAndMixtures => group != PolicyGroup::WarmStart,
        }
    }
}

/// A policy's mean scores over some prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyPoint {
    /// The policy's identifier.
    pub policy: String,
    /// What figures show.
    pub label: String,
    /// Its part in the comparison.
    pub group: PolicyGroup,
    /// The cluster, or `None` for all prompts.
    pub cluster: Option<usize>,
    /// How many prompts the means are over.
    pub n: usize,
    /// `[n_objectives]`; larger is better.
    pub means: Vec<f64>,
    /// `[n_objectives]`: standard errors of the means; `None` for a single prompt.
    pub standard_errors: Option<Vec<f64>>,
    /// Whether no other policy's point of the same prompts dominates this one.
    pub non_dominated: bool,
    /// Whether it dominates the warm start on the same prompts; `None` without a warm start.
    pub dominates_warm_start: Option<bool>,
    /// The hypervolume of this point alone; larger is better.
    pub own_hypervolume: f64,
}

/// The hypervolume of a set of policies; **larger is better**.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupHypervolume {
    /// The set.
    pub set: PolicySet,
    /// The cluster, or `None` for all prompts.
    pub cluster: Option<usize>,
    /// How many policies the set has: a larger set has an advantage, so compare like with like or
    /// look at [`PolicyPoint::own_hypervolume`] too.
    pub n_policies: usize,
    /// The hypervolume.
    pub value: f64,
    /// Percentile interval of the bootstrap over prompts; only over all prompts.
    pub interval: Option<Interval>,
}

/// The result of a comparison, complete enough to be judged and repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontReport {
    /// The objectives, in the order of all vectors here.
    pub objectives: Objectives,
    /// The choices made beforehand: reference point, bootstrap.
    pub config: FrontConfig,
    /// How many prompts were evaluated.
    pub n_prompts: usize,
    /// `[n_clusters]`: the clusters' labels.
    pub cluster_labels: Vec<String>,
    /// One point per policy over all prompts, in the evaluation's order of policies.
    pub points: Vec<PolicyPoint>,
    /// One point per cluster and policy: clusters in order, then policies.
    pub cluster_points: Vec<PolicyPoint>,
    /// Hypervolume per set of policies over all prompts; sets without a policy are left out.
    pub hypervolumes: Vec<GroupHypervolume>,
    /// The same per cluster.
    pub cluster_hypervolumes: Vec<GroupHypervolume>,
    /// Heads − warm start, and heads and mixtures − warm start, as far as there are such policies.
    pub differences: Vec<HypervolumeDifference>,
}

impl Evaluation {
    /// Checks that all lists fit together, names are unique and scores finite.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::DuplicatePolicy`], [`Error::NonFinite`] or
    /// [`Error::InvalidParameter`], each with the field.
    pub fn check(&self) -> Result<()> {
        let (n, k) = (self.prompts.len(), self.objectives.len());
        if k < 2 {
            let expected = "a front needs at least two objectives; add one, or compare plain means";
            return Err(Error::invalid("objectives", self.objectives.names().join(", "), expected));
        }
        if n == 0 {
            return Err(Error::invalid("prompts", "empty", "at least one prompt is needed"));
        }
        if self.policies.is_empty() {
            return Err(Error::invalid("policies", "empty", "at least one policy is needed"));
        }
        let same = |field: String, found: usize, expected: usize, reason: &'static str| {
            if found == expected {
                Ok(())
            } else {
                Err(Error::Length { field, found, expected, reason })
            }
        };
        let assignments = &self.clusters.assignments;
        same("clusters.assignments".into(), assignments.len(), n, "one per prompt")?;
        let n_clusters = self.clusters.n_clusters();
        if let Some(i) = assignments.iter().position(|&c| c >= n_clusters) {
            let expected = format!("there are {n_clusters} cluster labels");
            return Err(Error::invalid(
                format!("clusters.assignments[{i}]"),
                assignments[i],
                expected,
            ));
        }
        if let Some(c) = self.clusters.sizes().iter().position(|&size| size == 0) {
            let expected = "each cluster needs a prompt; drop its label";
            return Err(Error::invalid(format!("clusters.labels[{c}]"), "unused", expected));
        }
        for (p, samples) in self.policies.iter().enumerate() {
            let name = &samples.policy;
            if self.policies[..p].iter().any(|other| other.policy == *name) {
                return Err(Error::DuplicatePolicy(name.clone()));
            }
            same(format!("responses of {name}"), samples.responses.len(), n, "one per prompt")?;
            same(format!("scores of {name}"), samples.scores.len(), n, "one row per prompt")?;
            for (i, row) in samples.scores.iter().enumerate() {
                let field = format!("scores of {name}, prompt {i}");
                same(field, row.len(), k, "one score per objective")?;
                if let Some(o) = row.iter().position(|v| !v.is_finite()) {
                    let objective = self.objectives.name(o);
                    let field = format!("score `{objective}` of {name}, prompt {i}");
                    return Err(Error::NonFinite { field, value: row[o].into() });
                }
            }
        }
        Ok(())
    }

    /// Indices of the policies in `set`.
    fn members(&self, set: PolicySet) -> Vec<usize> {
        (0..self.policies.len()).filter(|&p| set.contains(self.policies[p].group)).collect()
    }
}

impl FrontReport {
    /// Computes the whole report.
    ///
    /// Complexity: O(n_resamples · policies · prompts · objectives) for the bootstrap, which
    /// outweighs the rest.
    ///
    /// # Errors
    /// As [`Evaluation::check`]; [`Error::InvalidParameter`] for an unusable `config`;
    /// [`Error::Core`] if a hypervolume overflows.
    pub fn new(evaluation: &Evaluation, config: &FrontConfig) -> Result<Self> {
        evaluation.check()?;
        check_config(config, evaluation.objectives.len())?;
        let everyone: Vec<usize> = (0..evaluation.prompts.len()).collect();
        let points = points_over(evaluation, config, &everyone, None)?;
        let mut hypervolumes = hypervolumes_of(evaluation, config, &points, None)?;
        let mut cluster_points = Vec::new();
        let mut cluster_hypervolumes = Vec::new();
        for cluster in 0..evaluation.clusters.n_clusters() {
            let assignments = &evaluation.clusters.assignments;
            let members: Vec<usize> =
                everyone.iter().copied().filter(|&i| assignments[i] == cluster).collect();
            let points = points_over(evaluation, config, &members, Some(cluster))?;
            let volumes = hypervolumes_of(evaluation, config, &points, Some(cluster))?;
            cluster_hypervolumes.extend(volumes);
            cluster_points.extend(points);
        }

        let scores: Vec<&[Vec<f32>]> =
            evaluation.policies.iter().map(|p| p.scores.as_slice()).collect();
        let sets: Vec<Vec<usize>> =
            hypervolumes.iter().map(|h| evaluation.members(h.set)).collect();
        let draws = resampled_hypervolumes(
            &scores,
            &sets,
            &config.ref_point,
            config.n_resamples,
            config.seed,
        )?;
        for (s, volume) in hypervolumes.iter_mut().enumerate() {
            let values = draws.iter().map(|d| d[s]).collect();
            volume.interval = Some(percentile_interval(values, config.confidence));
        }
        let at = |set| hypervolumes.iter().position(|h| h.set == set);
        let mut differences = Vec::new();
        for of in [PolicySet::Heads, PolicySet::HeadsAndMixtures] {
            if let (Some(a), Some(b)) = (at(of), at(PolicySet::WarmStart)) {
                let values: Vec<f64> = draws.iter().map(|d| d[a] - d[b]).collect();
                let positive = values.iter().filter(|&&v| v > 0.0).count();
                differences.push(HypervolumeDifference {
                    of,
                    minus: PolicySet::WarmStart,
                    value: hypervolumes[a].value - hypervolumes[b].value,
                    probability_positive: positive as f64 / values.len() as f64,
                    interval: percentile_interval(values, config.confidence),
                });
            }
        }
        Ok(Self {
            objectives: evaluation.objectives.clone(),
            config: config.clone(),
            n_prompts: evaluation.prompts.len(),
            cluster_labels: evaluation.clusters.labels.clone(),
            points,
            cluster_points,
            hypervolumes,
            cluster_hypervolumes,
            differences,
        })
    }

    /// The hypervolume of `set` over all prompts, if it has a policy.
    pub fn hypervolume(&self, set: PolicySet) -> Option<&GroupHypervolume> {
        self.hypervolumes.iter().find(|h| h.set == set)
    }

    /// The difference of `set` and the warm start, if both have a policy.
    pub fn difference(&self, set: PolicySet) -> Option<&HypervolumeDifference> {
        self.differences.iter().find(|d| d.of == set)
    }

    /// Policies × objectives as plain text: means ± standard errors, `*` for non-dominated.
    pub fn table(&self) -> String {
        let width = self.points.iter().map(|p| p.label.chars().count()).max().unwrap_or(0).max(6);
        let mut out = format!("  {:width$}", "policy");
        for name in self.objectives.names() {
            out += &format!("  {name:>17}");
        }
        out += &format!("  {:>11}\n", "own volume");
        for point in &self.points {
            let mark = if point.non_dominated { '*' } else { ' ' };
            out += &format!("{mark} {:width$}", point.label);
            for k in 0..self.objectives.len() {
                let error = point.standard_errors.as_ref().map_or(f64::NAN, |e| e[k]);
                out += &format!("  {:>8.4} ± {error:<6.4}", point.means[k]);
            }
            out += &format!("  {:>11.5}\n", point.own_hypervolume);
        }
        out
    }
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
    if config.n_resamples == 0 {
        return Err(Error::invalid("n_resamples", 0, "it must be at least 1"));
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
    prompts: &[usize],
    cluster: Option<usize>,
) -> Result<Vec<PolicyPoint>> {
    let k = evaluation.objectives.len();
    let directions = vec![Direction::Maximize; k];
    let mut points: Vec<PolicyPoint> = Vec::with_capacity(evaluation.policies.len());
    for samples in &evaluation.policies {
        let (means, standard_errors) = mean_and_error(&samples.scores, prompts, k);
        points.push(PolicyPoint {
            policy: samples.policy.clone(),
            label: samples.label.clone(),
            group: samples.group,
            cluster,
            n: prompts.len(),
            own_hypervolume: hypervolume(&[&means], &config.ref_point, &directions)?,
            means,
            standard_errors,
            non_dominated: false,
            dominates_warm_start: None,
        });
    }
    let means: Vec<Vec<f64>> = points.iter().map(|p| p.means.clone()).collect();
    for i in non_dominated(&means, &directions) {
        points[i].non_dominated = true;
    }
    let warm_starts = evaluation.members(PolicySet::WarmStart);
    if !warm_starts.is_empty() {
        for (point, own) in points.iter_mut().zip(&means) {
            let beats_all = warm_starts.iter().all(|&w| dominates(own, &means[w], &directions));
            point.dominates_warm_start = Some(beats_all);
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

fn hypervolumes_of(
    evaluation: &Evaluation,
    config: &FrontConfig,
    points: &[PolicyPoint],
    cluster: Option<usize>,
) -> Result<Vec<GroupHypervolume>> {
    let directions = vec![Direction::Maximize; config.ref_point.len()];
    let mut out = Vec::new();
    for set in PolicySet::ALL {
        let members = evaluation.members(set);
        let has_mixture = evaluation.policies.iter().any(|p| p.group == PolicyGroup::Mixture);
        if members.is_empty() || (set == PolicySet::HeadsAndMixtures && !has_mixture) {
            continue;
        }
        let means: Vec<&[f64]> = members.iter().map(|&p| points[p].means.as_slice()).collect();
        out.push(GroupHypervolume {
            set,
            cluster,
            n_policies: members.len(),
            value: hypervolume(&means, &config.ref_point, &directions)?,
            interval: None,
        });
    }
    Ok(out)
}
