//! What is compared: policies, their answers to the same prompts, and the answers' scores.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The kind of a policy in the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyGroup {
    /// The SFT model, from which training started.
    #[serde(rename = "warm_start")]
    Sft,
    /// Trained with one objective as the primary one.
    Head,
    /// A mixture of heads.
    Mixture,
}

impl PolicyGroup {
    /// The name on pages: `SFT model`, `head`, `mixture`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "SFT model",
            Self::Head => "head",
            Self::Mixture => "mixture",
        }
    }

    /// The name in CSV files, whose readers know `warm start`.
    pub(crate) fn csv_name(self) -> &'static str {
        match self {
            Self::Sft => WARM_START,
            group => group.name(),
        }
    }
}

/// What files call the SFT model.
const WARM_START: &str = "warm start";

/// A policy's label as figures and pages show it: files call the SFT model `warm start`.
pub(crate) fn shown_label(group: PolicyGroup, label: &str) -> String {
    match label.strip_suffix(WARM_START) {
        Some(run) if group == PolicyGroup::Sft => format!("{run}{}", group.name()),
        _ => label.to_owned(),
    }
}

/// One policy's answers to all prompts, scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicySamples {
    /// The run or method that it belongs to, if several are compared; `None` for a single one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// An identifier that is unique within its run, e.g. `head-helpful`.
    pub policy: String,
    /// A short name for figures and tables.
    pub label: String,
    /// Its kind.
    pub group: PolicyGroup,
    /// `[n_prompts]`, in the order of the prompts.
    pub responses: Vec<String>,
    /// `[n_prompts][n_objectives]`; larger is better.
    pub scores: Vec<Vec<f32>>,
}

impl PolicySamples {
    /// Takes the answers in another order of the prompts: `order` has each index once.
    pub(crate) fn reorder(&mut self, order: &[usize]) {
        self.responses = order.iter().map(|&i| std::mem::take(&mut self.responses[i])).collect();
        self.scores = order.iter().map(|&i| std::mem::take(&mut self.scores[i])).collect();
    }
}

/// Which cluster each prompt is in. Clusters are ordered by size, the largest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clusters {
    /// `[n_prompts]`: the index of the prompt's cluster.
    pub assignments: Vec<usize>,
    /// `[n_clusters]`: the three words with the largest weight in the cluster's centre, joined with commas.
    pub labels: Vec<String>,
}

impl Clusters {
    /// All prompts in one cluster: no clustering.
    pub fn single(n_prompts: usize) -> Self {
        Self { assignments: vec![0; n_prompts], labels: vec!["all prompts".into()] }
    }

    /// Number of clusters.
    pub fn n_clusters(&self) -> usize {
        self.labels.len()
    }

    /// `[n_clusters]`: number of prompts in each.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.labels.len()];
        for &cluster in &self.assignments {
            sizes[cluster] += 1;
        }
        sizes
    }
}

/// Everything that a front is computed from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The names of the objectives, in the order of the scores; at least two, all different.
    pub objectives: Vec<String>,
    /// `[n_prompts]`.
    pub prompts: Vec<String>,
    /// The prompts' clusters; [`Clusters::single`] for none.
    pub clusters: Clusters,
    /// The policies, in the order in which tables and legends show them.
    pub policies: Vec<PolicySamples>,
}

/// A set of policies of one run whose front is judged as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicySet {
    /// The SFT model only.
    #[serde(rename = "warm_start")]
    Sft,
    /// All heads.
    Heads,
    /// All heads and all mixtures of them.
    HeadsAndMixtures,
}

impl PolicySet {
    /// All sets, in the order of reports.
    pub const ALL: [Self; 3] = [Self::Sft, Self::Heads, Self::HeadsAndMixtures];

    /// The name on pages: `SFT model`, `heads`, `heads and mixtures`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "SFT model",
            Self::Heads => "heads",
            Self::HeadsAndMixtures => "heads and mixtures",
        }
    }

    /// The name in CSV files, whose readers know `warm start`.
    pub(crate) fn csv_name(self) -> &'static str {
        match self {
            Self::Sft => WARM_START,
            set => set.name(),
        }
    }

    /// Whether policies of `group` belong to this set.
    pub fn contains(self, group: PolicyGroup) -> bool {
        match self {
            Self::Sft => group == PolicyGroup::Sft,
            Self::Heads => group == PolicyGroup::Head,
            Self::HeadsAndMixtures => group != PolicyGroup::Sft,
        }
    }
}

/// A set of policies of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRef {
    /// The run, as in [`PolicySamples::run`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The set.
    pub set: PolicySet,
}

impl SetRef {
    /// The name on pages: `heads`, or `dpo: heads` if several runs are compared.
    pub fn name(&self) -> String {
        match &self.run {
            Some(run) => format!("{run}: {}", self.set.name()),
            None => self.set.name().into(),
        }
    }
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
            return Err(Error::invalid("objectives", self.objectives.join(", "), expected));
        }
        if let Some(i) = (1..k).find(|&i| self.objectives[..i].contains(&self.objectives[i])) {
            let expected = "names must be distinct";
            return Err(Error::invalid(format!("objectives[{i}]"), &self.objectives[i], expected));
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
            let twice = |other: &PolicySamples| other.policy == *name && other.run == samples.run;
            if self.policies[..p].iter().any(twice) {
                return Err(Error::DuplicatePolicy(name.clone()));
            }
            same(format!("responses of {name}"), samples.responses.len(), n, "one per prompt")?;
            same(format!("scores of {name}"), samples.scores.len(), n, "one row per prompt")?;
            for (i, row) in samples.scores.iter().enumerate() {
                let field = format!("scores of {name}, prompt {i}");
                same(field, row.len(), k, "one score per objective")?;
                if let Some(o) = row.iter().position(|v| !v.is_finite()) {
                    let objective = &self.objectives[o];
                    let field = format!("score `{objective}` of {name}, prompt {i}");
                    return Err(Error::NonFinite { field, value: row[o].into() });
                }
            }
        }
        Ok(())
    }

    /// The runs in the order of their first policies; a single `None` if no run is named.
    pub fn runs(&self) -> Vec<Option<String>> {
        let mut runs: Vec<Option<String>> = Vec::new();
        for samples in &self.policies {
            if !runs.contains(&samples.run) {
                runs.push(samples.run.clone());
            }
        }
        runs
    }

    /// Every set that has policies, with their indices, run by run. Heads and mixtures form a
    /// separate set only if there is a mixture.
    pub(crate) fn sets(&self) -> Vec<(SetRef, Vec<usize>)> {
        let mut out = Vec::new();
        for run in self.runs() {
            let of_run = |p: &usize| self.policies[*p].run == run;
            let own: Vec<usize> = (0..self.policies.len()).filter(of_run).collect();
            let mixture = own.iter().any(|&p| self.policies[p].group == PolicyGroup::Mixture);
            for set in PolicySet::ALL {
                let members: Vec<usize> =
                    own.iter().copied().filter(|&p| set.contains(self.policies[p].group)).collect();
                if members.is_empty() || (set == PolicySet::HeadsAndMixtures && !mixture) {
                    continue;
                }
                out.push((SetRef { run: run.clone(), set }, members));
            }
        }
        out
    }
}
