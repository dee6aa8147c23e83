//! Many methods, each trained with several seeds, as one comparison: intervals over seeds and prompts.
//!
//! A [`Study`] says which evaluations belong to which method and seed; [`StudyReport::new`] reads and judges them;
//! [`write_study`] writes a page, its Markdown, and the figure.

mod clusters;
mod figure;
mod page;
mod pairs;
mod spec;
mod tables;

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

pub use clusters::StudyCluster;
pub use page::{StudyFiles, write_study};
pub use spec::{
    Cost, CostTokens, Study, StudyMethod, StudyRun, StudySensitivity, StudyTry, StudyValue,
};

use crate::bootstrap::weighted_mean;
use crate::quality::{Judge, Quality};
use crate::{
    Clusters, Error, Estimate, Interval, ObjectiveStatistics, PolicyGroup, Result,
    percentile_interval,
};

/// The name of the SFT model among the methods.
pub(crate) const SFT: &str = "SFT";
/// A rival may be this share of its hypervolume ahead: where the lower end of the interval is above, the reference
/// method is called at or above it.
const TOLERANCE: f64 = 0.01;

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

/// Assigns prompts to at most so many clusters.
pub type ClusterPrompts<'a> =
    dyn Fn(&[String], usize) -> std::result::Result<Clusters, String> + 'a;

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
    /// For every two of the methods, in their order: how often the first is ahead.
    pub ahead: Vec<Vec<Option<Estimate>>>,
    /// Every policy.
    pub points: Vec<StudyPoint>,
    /// The same by cluster of prompts, the largest first; empty if none were asked for.
    pub clusters: Vec<StudyCluster>,
    /// One entry for each parameter of the study.
    pub sensitivity: Vec<SensitivityResult>,
}

/// How a method's hypervolume depends on one parameter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SensitivityResult {
    /// The method.
    pub method: String,
    /// The parameter.
    pub parameter: String,
    /// Its seeds.
    pub seeds: Vec<u64>,
    /// Values, ascending, with the hypervolume at each.
    pub points: Vec<(f64, Estimate)>,
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
    /// The share of resamples in which the reference method's is larger; equal ones count half.
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
    prompts: Vec<String>,
}

/// What one resample comes to, each the mean over seeds.
struct Draw {
    /// By method.
    quality: Vec<Quality>,
    /// By policy and objective.
    z: Vec<Vec<Option<f64>>>,
    /// For every two methods: the share of the drawn seeds in which the first has the larger hypervolume.
    ahead: Vec<Vec<f64>>,
}

impl StudyReport {
    /// Reads and judges all evaluations of a study; relative directories are below `root`. `cluster` groups the prompts
    /// of all seeds together, if the study asks for clusters.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the field: an unknown reference, methods that are not there or have the same name,
    /// seeds that a method lacks; those of [`crate::RecordedRun::read`] and [`crate::combine`].
    pub fn new(
        study: &Study,
        root: &Path,
        options: &StudyOptions,
        cluster: &ClusterPrompts<'_>,
    ) -> Result<Self> {
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
        let reference = 1 + study.index("reference", &study.reference)?;
        let result = |(m, name): (usize, &String)| {
            let volume = |draw: &Draw| draw.quality[m].hypervolume;
            let ahead = |draw: &Draw| draw.quality[reference].hypervolume - volume(draw);
            let hypervolume = estimate(&|draw| Some(volume(draw))).expect("always there");
            let against = (m != reference).then(|| {
                let difference = estimate(&|draw| Some(ahead(draw))).expect("always there");
                let low = difference.interval.map_or(difference.value, |interval| interval.low);
                let share = |draw| match ahead(draw) {
                    0.0 => 0.5,
                    ahead if ahead > 0.0 => 1.0,
                    _ => 0.0,
                };
                Against {
                    probability: draws.iter().map(share).sum::<f64>() / draws.len() as f64,
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
        let sensitivity = (study.sensitivity.iter())
            .map(|one| SensitivityResult::new(study, one, root, options))
            .collect::<Result<_>>()?;
        Ok(Self {
            ahead: pairs::ahead(&draws, names.len(), options.confidence),
            clusters: clusters::clusters(study, &all, names.len(), cluster)?,
            sensitivity,
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

impl SensitivityResult {
    fn new(
        study: &Study,
        asked: &StudySensitivity,
        root: &Path,
        options: &StudyOptions,
    ) -> Result<Self> {
        study.index("sensitivity.method", &asked.method)?;
        let wrong = |value: String, expected: &str| {
            Err(Error::invalid("sensitivity.values", value, expected))
        };
        if asked.values.is_empty() {
            return wrong("empty".into(), "name at least one value");
        }
        let mut methods: Vec<StudyMethod> = vec![];
        for StudyValue { value, runs } in &asked.values {
            if !value.is_finite() {
                return wrong(value.to_string(), "give numbers");
            }
            methods.push(StudyMethod {
                name: value.to_string(),
                tries: vec![],
                runs: runs.clone(),
            });
        }
        let alone = Study {
            title: asked.parameter.clone(),
            about: vec![],
            reference: methods[0].name.clone(),
            methods,
            n_clusters: 0,
            sensitivity: vec![],
        };
        let never = |_: &[String], _| Err("no clusters are asked for".to_string());
        let report = StudyReport::new(&alone, root, options, &never)?;
        // The first is the SFT model.
        let volumes = report.methods.iter().skip(1).map(|method| method.hypervolume);
        Ok(Self {
            method: asked.method.clone(),
            parameter: asked.parameter.clone(),
            seeds: report.seeds.clone(),
            points: asked.values.iter().map(|of| of.value).zip(volumes).collect(),
        })
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
            ahead: pairs::shares(&each, n_methods),
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
        Ok(Self { quality, z: means.iter().map(z).collect(), ahead: vec![] })
    }
}

#[cfg(test)]
mod tests;
