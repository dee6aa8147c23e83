//! Which policies are compared, on which prompts, and the comparison of their scores.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{CONFIDENCE, Outcome, WinRate};
use crate::compare::{labelled, same_prompts, same_rewards};
use crate::evaluation::shown_label;
use crate::{
    Error, Estimate, PolicyGroup, PolicySamples, RecordedRun, Result, percentile_interval,
};

/// Resamples of the bootstrap of mean differences.
const N_RESAMPLES: usize = 1000;

/// Pairs of policies that answered the same prompts.
#[derive(Debug)]
pub struct Matchups {
    objectives: Vec<String>,
    prompts: Vec<String>,
    policies: Vec<PolicySamples>,
    pairs: Vec<(usize, usize)>,
    incomparable: Option<Error>,
}

/// A policy's win rate by one objective's scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardWinRate {
    /// The objective.
    pub objective: String,
    /// Over all prompts.
    pub win_rate: WinRate,
    /// The mean over prompts of the policy's score minus the other's, with a paired bootstrap over prompts.
    pub difference: Estimate,
}

impl Matchups {
    /// Policies of one run against others of it. Without `policies` all heads and mixtures that are no baseline; without
    /// `baselines` the SFT model. Names are those of `samples.jsonl`, labels, or `sft`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for an unknown name, a run without an SFT model, or where nothing is left to compare.
    pub fn within(run: RecordedRun, policies: &[String], baselines: &[String]) -> Result<Self> {
        let all = run.evaluation.policies;
        let mut theirs = find_all(&all, "baseline", baselines)?;
        if theirs.is_empty() {
            theirs.extend(all.iter().position(|policy| policy.group == PolicyGroup::Sft));
        }
        if theirs.is_empty() {
            let expected = format!(
                "{} has no SFT model; name a baseline of {} or other results",
                run.name,
                names(&all)
            );
            return Err(Error::invalid("baseline", "not given", expected));
        }
        let mut mine = find_all(&all, "policy", policies)?;
        if mine.is_empty() {
            mine = trained(&all);
            mine.retain(|policy| !theirs.contains(policy));
        }
        let pairs = product(&mine, &theirs);
        if pairs.is_empty() {
            let expected = format!("no other is left to compare it with among {}", names(&all));
            return Err(Error::invalid("baseline", &all[theirs[0]].policy, expected));
        }
        Ok(Self {
            objectives: run.evaluation.objectives,
            prompts: run.evaluation.prompts,
            policies: all,
            pairs,
            incomparable: None,
        })
    }

    /// Policies of one run against those of another. Without names all heads and mixtures (or all policies, in a run that
    /// has neither). Prompts are matched by their text; those of `run` give the order.
    ///
    /// # Errors
    /// [`Error::Incomparable`] with the number of common prompts if they are not the same; [`Error::InvalidParameter`] for
    /// an unknown policy, or for two runs of one name.
    pub fn between(
        run: RecordedRun,
        other: RecordedRun,
        policies: &[String],
        baselines: &[String],
    ) -> Result<Self> {
        if run.name == other.name {
            return Err(Error::invalid("runs", &run.name, "give each run a different name"));
        }
        let order = same_prompts(&run, &other)?;
        let incomparable = same_rewards(&run, &other).err();
        let (ours, mut others) = (run.evaluation.policies, other.evaluation.policies);
        let select = |all: &[PolicySamples], field, wanted: &[String]| -> Result<Vec<usize>> {
            let found = find_all(all, field, wanted)?;
            Ok(if found.is_empty() { trained(all) } else { found })
        };
        let mine = select(&ours, "policy", policies)?;
        let theirs = select(&others, "baseline", baselines)?;
        for samples in &mut others {
            samples.reorder(&order);
        }
        let theirs: Vec<usize> = theirs.iter().map(|other| ours.len() + other).collect();
        let pairs = product(&mine, &theirs);
        let policies = labelled(ours, &run.name).chain(labelled(others, &other.name)).collect();
        Ok(Self {
            objectives: run.evaluation.objectives,
            prompts: run.evaluation.prompts,
            policies,
            pairs,
            incomparable,
        })
    }

    /// `[n_prompts]`.
    pub fn prompts(&self) -> &[String] {
        &self.prompts
    }

    /// Each policy with its baseline.
    pub fn pairs(&self) -> impl ExactSizeIterator<Item = (&PolicySamples, &PolicySamples)> {
        self.pairs.iter().map(|&(policy, other)| (&self.policies[policy], &self.policies[other]))
    }

    /// Why scores cannot be compared, if the runs have other objectives or rewards.
    pub fn incomparable(&self) -> Option<&Error> {
        self.incomparable.as_ref()
    }

    /// `[n_pairs][n_objectives]`: who has the larger score. Scores are tied if they are equal, or not further apart than
    /// `tie` (up to the rounding of f32). Empty if scores are [incomparable](Self::incomparable).
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for a `tie` that is negative or not finite.
    pub fn by_rewards(&self, tie: f64) -> Result<Vec<Vec<RewardWinRate>>> {
        if !(tie.is_finite() && tie >= 0.0) {
            return Err(Error::invalid("tie", tie, "it must be a number of at least 0"));
        }
        if self.incomparable.is_some() {
            return Ok(vec![]);
        }
        let of_pair = |(mine, theirs): (&PolicySamples, &PolicySamples)| {
            let objectives = self.objectives.iter().enumerate();
            let one = |(k, objective): (usize, &String)| {
                let scores: Vec<(f32, f32)> =
                    mine.scores.iter().zip(&theirs.scores).map(|(a, b)| (a[k], b[k])).collect();
                let differences: Vec<f64> =
                    scores.iter().map(|&(a, b)| f64::from(a) - f64::from(b)).collect();
                let outcomes = scores.iter().map(|&(a, b)| outcome(a, b, tie));
                RewardWinRate {
                    objective: objective.clone(),
                    win_rate: WinRate::of(outcomes).expect("an evaluation has prompts"),
                    difference: mean_difference(&differences),
                }
            };
            objectives.map(one).collect()
        };
        Ok(self.pairs().map(of_pair).collect())
    }
}

/// Which of two scores is larger.
pub(super) fn outcome(a: f32, b: f32, tie: f64) -> Outcome {
    let difference = f64::from(a) - f64::from(b);
    // 0.3 − 0.2 is more than 0.1 in f32.
    let rounding = 2.0 * f64::from(f32::EPSILON) * f64::from(a.abs().max(b.abs()));
    let is_tie = a == b || (tie > 0.0 && difference.abs() <= tie + rounding);
    match is_tie {
        true => Outcome::Tied,
        false if difference > 0.0 => Outcome::Won,
        false => Outcome::Lost,
    }
}

/// The mean, with percentiles of a bootstrap whose resamples are the same for all lists of one length.
pub(super) fn mean_difference(differences: &[f64]) -> Estimate {
    let n = differences.len();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let draw = |_| (0..n).map(|_| differences[rng.random_range(0..n)]).sum::<f64>() / n as f64;
    let means = (0..N_RESAMPLES).map(draw).collect();
    Estimate {
        value: differences.iter().sum::<f64>() / n as f64,
        interval: Some(percentile_interval(means, CONFIDENCE)),
    }
}

/// All heads and mixtures, or all policies if there are none.
fn trained(all: &[PolicySamples]) -> Vec<usize> {
    let is_trained = |&p: &usize| all[p].group != PolicyGroup::Sft;
    let found: Vec<usize> = (0..all.len()).filter(is_trained).collect();
    if found.is_empty() { (0..all.len()).collect() } else { found }
}

/// Indices of the policies with these names, each once.
fn find_all(all: &[PolicySamples], field: &str, wanted: &[String]) -> Result<Vec<usize>> {
    let mut found = vec![];
    for name in wanted {
        let is_called = |policy: &PolicySamples| {
            let shown = shown_label(policy.group, &policy.label);
            let is_sft = policy.group == PolicyGroup::Sft && name.eq_ignore_ascii_case("sft");
            policy.label == *name || shown == *name || is_sft
        };
        let index = all.iter().position(|policy| policy.policy == *name);
        let Some(index) = index.or_else(|| all.iter().position(is_called)) else {
            let has_sft = all.iter().any(|policy| policy.group == PolicyGroup::Sft);
            let sft = if has_sft { ", and `sft` is the SFT model" } else { "" };
            return Err(Error::invalid(
                field,
                name,
                format!("the policies are {}{sft}", names(all)),
            ));
        };
        if !found.contains(&index) {
            found.push(index);
        }
    }
    Ok(found)
}

fn names(all: &[PolicySamples]) -> String {
    let names: Vec<&str> = all.iter().map(|policy| policy.policy.as_str()).collect();
    names.join(", ")
}

fn product(mine: &[usize], theirs: &[usize]) -> Vec<(usize, usize)> {
    let pairs = mine.iter().flat_map(|&a| theirs.iter().map(move |&b| (a, b)));
    pairs.filter(|(a, b)| a != b).collect()
}
