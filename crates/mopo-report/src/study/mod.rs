//! Many methods, each trained with several seeds, as one comparison: intervals over seeds and prompts.
//!
//! A [`Study`] says which evaluations belong to which method and seed; [`StudyReport::new`] reads and judges them;
//! [`write_study`] writes a page, its Markdown, and the figure.

mod figure;
mod page;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use page::{StudyFiles, write_study};

use crate::bootstrap::weighted_mean;
use crate::quality::{Judge, Quality};
use crate::{
    Error, Estimate, Interval, ObjectiveStatistics, PolicyGroup, RecordedRun, Result, combine,
    percentile_interval,
};

/// The name of the SFT model among the methods.
pub(crate) const SFT: &str = "SFT";
/// A rival may be this share of its hypervolume ahead: where the lower end of the interval is above, the reference
/// method is called at or above it.
const TOLERANCE: f64 = 0.01;

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
}

/// The bootstrap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StudyOptions {
    /// Number of resamples; at least 1.
    pub n_resamples: usize,
    /// Level of the intervals, in (0, 1).
    pub confidence: f64,
    /// Seed of the resamples.
    pub seed: u64,
}

impl Default for StudyOptions {
    fn default() -> Self {
        Self { n_resamples: 1000, confidence: 0.95, seed: 0 }
    }
}

/// The comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyReport {
    /// The objectives' names.
    pub objectives: Vec<String>,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Prompts of each seed.
    pub n_prompts: Vec<usize>,
    /// Number of resamples of the bootstrap.
    pub n_resamples: usize,
    /// Level of the intervals.
    pub confidence: f64,
    /// The SFT model and every method.
    pub methods: Vec<MethodResult>,
    /// Every policy.
    pub points: Vec<StudyPoint>,
}

/// A method's front. All values are means over seeds, their intervals over seeds and prompts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodResult {
    /// Its name.
    pub name: String,
    /// Hypervolume of the mean raw scores of its policies; larger is better.
    pub hypervolume: Estimate,
    /// IGD+ to the front of all methods, in standard deviations; smaller is better. `None` without z-scores.
    pub igd_plus: Option<Estimate>,
    /// Against the reference method; `None` for that itself.
    pub against: Option<Against>,
}

/// The reference method against another one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Against {
    /// Hypervolume of the reference method minus that of this one.
    pub difference: Estimate,
    /// The share of resamples in which the reference method's is larger.
    pub probability: f64,
    /// Whether the lower end of the interval is at least −1 % of this one's hypervolume.
    pub holds: bool,
}

/// A policy's mean scores.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyPoint {
    /// Index of its method.
    pub method: usize,
    /// What tells it from the method's others.
    pub label: String,
    /// Its kind.
    pub group: PolicyGroup,
    /// z-scores by objective, mean over seeds; `None` where an objective has none.
    pub z: Vec<Option<Estimate>>,
}

/// One seed's evaluations.
struct Seed {
    objectives: Vec<String>,
    /// `[n_policies][n_prompts][n_objectives]`.
    scores: Vec<Vec<Vec<f32>>>,
    /// Method, label and kind of each policy.
    keys: Vec<(usize, String, PolicyGroup)>,
    ref_point: Vec<f64>,
    statistics: Vec<ObjectiveStatistics>,
}

/// What one resample comes to, each the mean over seeds.
struct Draw {
    /// By method.
    quality: Vec<Quality>,
    /// By policy and objective.
    z: Vec<Vec<Option<f64>>>,
}

impl StudyReport {
    /// Reads and judges all evaluations of a study; relative directories are below `root`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the field: an unknown reference, methods that are not there or have the same name,
    /// seeds that a method lacks; those of [`RecordedRun::read`] and [`combine`].
    pub fn new(study: &Study, root: &Path, options: &StudyOptions) -> Result<Self> {
        let names = study.check()?;
        let seeds = study.seeds()?;
        let all =
            seeds.iter().map(|seed| study.read(*seed, root)).collect::<Result<Vec<Seed>>>()?;
        for (seed, of) in seeds.iter().zip(&all) {
            if of.keys != all[0].keys || of.objectives != all[0].objectives {
                let expected = format!(
                    "its policies and objectives must be those of seed {}: evaluate both alike",
                    seeds[0]
                );
                return Err(Error::invalid("runs", format!("with seed {seed}"), expected));
            }
        }
        let whole = Draw::mean(&all, names.len(), &mut None)?;
        let mut rng = Some(ChaCha8Rng::seed_from_u64(options.seed));
        let draws = (0..options.n_resamples.max(1))
            .map(|_| Draw::mean(&all, names.len(), &mut rng))
            .collect::<Result<Vec<_>>>()?;
        let interval = |of: &dyn Fn(&Draw) -> Option<f64>| -> Option<Interval> {
            let values: Option<Vec<f64>> = draws.iter().map(of).collect();
            values.map(|values| percentile_interval(values, options.confidence))
        };
        let estimate = |of: &dyn Fn(&Draw) -> Option<f64>| {
            of(&whole).map(|value| Estimate { value, interval: interval(of) })
        };
        let reference = 1 + study.index(&study.reference)?;
        let result = |(m, name): (usize, &String)| {
            let volume = |draw: &Draw| draw.quality[m].hypervolume;
            let ahead = |draw: &Draw| draw.quality[reference].hypervolume - volume(draw);
            let hypervolume = estimate(&|draw| Some(volume(draw))).expect("always there");
            let against = (m != reference).then(|| {
                let difference = estimate(&|draw| Some(ahead(draw))).expect("always there");
                let low = difference.interval.map_or(difference.value, |interval| interval.low);
                let n_ahead = draws.iter().filter(|draw| ahead(draw) > 0.0).count();
                Against {
                    probability: n_ahead as f64 / draws.len() as f64,
                    holds: low >= -TOLERANCE * hypervolume.value,
                    difference,
                }
            });
            MethodResult {
                name: name.clone(),
                igd_plus: estimate(&|draw| draw.quality[m].distances.map(|[igd, _]| igd)),
                hypervolume,
                against,
            }
        };
        let n_objectives = all[0].objectives.len();
        let point =
            |(p, (method, label, group)): (usize, &(usize, String, PolicyGroup))| StudyPoint {
                method: *method,
                label: label.clone(),
                group: *group,
                z: (0..n_objectives).map(|k| estimate(&|draw| draw.z[p][k])).collect(),
            };
        Ok(Self {
            objectives: all[0].objectives.clone(),
            n_prompts: all.iter().map(|seed| seed.scores[0].len()).collect(),
            n_resamples: draws.len(),
            confidence: options.confidence,
            methods: names.iter().enumerate().map(result).collect(),
            points: all[0].keys.iter().enumerate().map(point).collect(),
            seeds,
        })
    }
}

impl Study {
    /// The names of the SFT model and all methods.
    fn check(&self) -> Result<Vec<String>> {
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
        self.index(&self.reference)?;
        Ok(names)
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.methods.iter().position(|method| method.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.methods.iter().map(|method| &*method.name).collect();
            Error::invalid("reference", name, format!("the methods are {}", names.join(", ")))
        })
    }

    /// The seeds, which all methods have.
    fn seeds(&self) -> Result<Vec<u64>> {
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
    fn read(&self, seed: u64, root: &Path) -> Result<Seed> {
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

impl Draw {
    /// Means over seeds: of all, or of as many that are drawn with replacement, each with a resample of its prompts, which
    /// all policies share.
    fn mean(all: &[Seed], n_methods: usize, rng: &mut Option<ChaCha8Rng>) -> Result<Self> {
        let mut each = Vec::with_capacity(all.len());
        for at in 0..all.len() {
            let seed = match rng {
                Some(rng) => &all[rng.random_range(0..all.len())],
                None => &all[at],
            };
            each.push(Self::of(seed, n_methods, rng)?);
        }
        let n = each.len() as f64;
        let mean = |of: &dyn Fn(&Self) -> Option<f64>| -> Option<f64> {
            let values: Option<Vec<f64>> = each.iter().map(of).collect();
            Some(values?.iter().sum::<f64>() / n)
        };
        let quality = |m: usize| Quality {
            hypervolume: mean(&|draw| Some(draw.quality[m].hypervolume)).expect("always there"),
            distances: mean(&|draw| draw.quality[m].distances.map(|[igd, _]| igd))
                .zip(mean(&|draw| draw.quality[m].distances.map(|[_, epsilon]| epsilon)))
                .map(|(igd, epsilon)| [igd, epsilon]),
        };
        let (n_policies, n_objectives) = (all[0].keys.len(), all[0].objectives.len());
        let z = |p: usize| (0..n_objectives).map(|k| mean(&|draw| draw.z[p][k])).collect();
        Ok(Self {
            quality: (0..n_methods).map(quality).collect(),
            z: (0..n_policies).map(z).collect(),
        })
    }

    fn of(seed: &Seed, n_methods: usize, rng: &mut Option<ChaCha8Rng>) -> Result<Self> {
        let n_prompts = seed.scores[0].len();
        let times = match rng {
            None => vec![1.0; n_prompts],
            Some(rng) => {
                let mut times = vec![0.0; n_prompts];
                (0..n_prompts).for_each(|_| times[rng.random_range(0..n_prompts)] += 1.0);
                times
            }
        };
        let means: Vec<Vec<f64>> =
            seed.scores.iter().map(|policy| weighted_mean(policy, &times)).collect();
        let sets: Vec<Vec<usize>> = (0..n_methods)
            .map(|m| (0..means.len()).filter(|&p| seed.keys[p].0 == m).collect())
            .collect();
        let quality = Judge::new(&seed.ref_point, &seed.statistics).judge(&means, &sets)?;
        let z = |row: &Vec<f64>| row.iter().zip(&seed.statistics).map(|(v, s)| s.z(*v)).collect();
        Ok(Self { quality, z: means.iter().map(z).collect() })
    }
}

#[cfg(test)]
mod tests;
