//! What a study compares, and the evaluations that it names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{SFT, Seed};
use crate::{Error, PolicyGroup, RecordedRun, Result, combine};

/// What is compared, as a file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Title of the page.
    pub title: String,
    /// Paragraphs above the tables.
    #[serde(default)]
    pub about: Vec<String>,
    /// The method that the others are compared with.
    pub reference: String,
    /// In the order of the tables; the SFT model, which every evaluation has, comes first by itself.
    pub methods: Vec<StudyMethod>,
    /// Clusters of prompts that fronts are drawn for besides the whole; 0 or 1: none.
    #[serde(default)]
    pub n_clusters: usize,
    /// Parameters whose influence is shown.
    #[serde(default)]
    pub sensitivity: Vec<StudySensitivity>,
}

/// How a method's front depends on one parameter, with all others fixed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudySensitivity {
    /// The method.
    pub method: String,
    /// The parameter.
    pub parameter: String,
    /// Its values, ascending, with their runs.
    pub values: Vec<StudyValue>,
}

/// A value of a parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyValue {
    /// The value.
    pub value: f64,
    /// As those of a method.
    pub runs: Vec<StudyRun>,
}

/// A method with its runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyMethod {
    /// Its name, unique.
    pub name: String,
    /// The hyper-parameters that were tried on validation prompts.
    #[serde(default)]
    pub tries: Vec<StudyTry>,
    /// One or several for each seed, in the same order for all seeds; the union of their policies is the method's front.
    pub runs: Vec<StudyRun>,
}

/// Hyper-parameters and what they came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyTry {
    /// As overrides of a configuration.
    pub settings: String,
    /// On the validation prompts.
    pub hypervolume: f64,
    /// Whether the runs are trained with them.
    pub chosen: bool,
}

/// An evaluated run of a method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyRun {
    /// The seed of data, training and evaluation.
    pub seed: u64,
    /// What tells it from the method's other runs with that seed, such as its preference weights; may be empty.
    #[serde(default)]
    pub label: String,
    /// The directory that `mopo pareto` wrote.
    pub results: PathBuf,
    /// What training took.
    pub cost: Option<Cost>,
}

/// What the training of a run took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Wall-clock seconds of the whole command.
    pub seconds: f64,
    /// Responses in all batches.
    pub responses: u64,
    /// Peak resident memory in bytes, if it was measured.
    pub memory: Option<u64>,
    /// Tokens, if they were recorded.
    #[serde(default)]
    pub tokens: Option<CostTokens>,
}

/// Tokens that a training took; docs/math.md, section 9, defines them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostTokens {
    /// Of differentiated passes.
    pub trained: u64,
    /// Sampled from policies.
    pub generated: u64,
    /// Of passes without gradients.
    pub scored: u64,
}

impl Study {
    /// The names of the SFT model and all methods.
    pub(super) fn check(&self) -> Result<Vec<String>> {
        if self.methods.is_empty() {
            return Err(Error::invalid("methods", "empty", "name at least one method"));
        }
        let mut names = vec![SFT.to_string()];
        for method in &self.methods {
            if names.contains(&method.name) || method.name.is_empty() {
                let expected = format!("each method needs a name of its own, other than `{SFT}`");
                return Err(Error::invalid("methods.name", &method.name, expected));
            }
            names.push(method.name.clone());
        }
        self.index("reference", &self.reference)?;
        Ok(names)
    }

    /// The index of the method that a field names.
    pub(super) fn index(&self, field: &'static str, name: &str) -> Result<usize> {
        self.methods.iter().position(|method| method.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.methods.iter().map(|method| &*method.name).collect();
            Error::invalid(field, name, format!("the methods are {}", names.join(", ")))
        })
    }

    /// The seeds, which all methods have.
    pub(super) fn seeds(&self) -> Result<Vec<u64>> {
        let of = |method: &StudyMethod| {
            let mut seeds: Vec<u64> = method.runs.iter().map(|run| run.seed).collect();
            seeds.sort_unstable();
            seeds.dedup();
            seeds
        };
        let first = of(&self.methods[0]);
        for method in &self.methods {
            let found = of(method);
            if found != first || found.is_empty() {
                let value = format!("of `{}` with seeds {found:?}", method.name);
                let expected =
                    format!("`{}` has {first:?}, and all need the same", self.methods[0].name);
                return Err(Error::invalid("runs", value, expected));
            }
        }
        Ok(first)
    }

    /// All evaluations with a seed.
    pub(super) fn read(&self, seed: u64, root: &Path) -> Result<Seed> {
        let mut recorded = Vec::new();
        // The method and the label of each run, by its name in the comparison.
        let mut known = BTreeMap::new();
        for (m, method) in self.methods.iter().enumerate() {
            for (i, run) in method.runs.iter().filter(|run| run.seed == seed).enumerate() {
                let name = format!("{} {i}", method.name);
                recorded.push(RecordedRun::read(&root.join(&run.results), &name)?);
                known.insert(name, (1 + m, run.label.clone()));
            }
        }
        let several = recorded.len() > 1;
        if let ([only], false) = (&mut recorded[..], several) {
            // Without another run nothing has its name.
            let name = only.name.clone();
            only.evaluation.policies.iter_mut().for_each(|policy| policy.run = Some(name.clone()));
        }
        let combined = combine(recorded)?;
        let mut this = Seed {
            objectives: combined.evaluation.objectives,
            scores: vec![],
            keys: vec![],
            ref_point: combined.config.ref_point,
            statistics: combined.config.statistics,
            prompts: combined.evaluation.prompts,
        };
        for policy in combined.evaluation.policies {
            let (method, run_label) = &known[policy.run.as_deref().unwrap_or_default()];
            let own = policy.label.rsplit(": ").next().unwrap_or_default();
            let (method, label) = match policy.group {
                // All start from one.
                PolicyGroup::Sft if this.keys.iter().any(|(method, ..)| *method == 0) => continue,
                PolicyGroup::Sft => (0, String::new()),
                _ if run_label.is_empty() => (*method, own.to_string()),
                _ => (*method, run_label.clone()),
            };
            this.keys.push((method, label, policy.group));
            this.scores.push(policy.scores);
        }
        Ok(this)
    }
}
