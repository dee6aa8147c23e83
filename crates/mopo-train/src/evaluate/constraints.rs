//! Constraints of a run on what its policies generate: how often an answer is preferred to the data's responses to the
//! same prompt, by the evaluation's rewards. Unlike the estimate on held-out pairs it needs no ratios of probabilities.

use std::collections::HashMap;
use std::fmt;

use mopo_data::PreparedSet;
use mopo_eval::Reward;
use mopo_eval::reward::score_all;
use mopo_report::{Interval, PolicyGroup, PolicySamples};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::heldout::{Verdict, bootstrap};
use crate::{Constraint, Result, RunDir};

/// How many of the data's responses an answer is compared with at most.
const MAX_RESPONSES: usize = 8;

/// With fewer prompts the bootstrap knows too little of how much they differ, and nothing is decided.
const MIN_PROMPTS: usize = 10;

/// A constraint of a policy on its generations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GeneratedConstraint {
    /// The policy's primary objective.
    pub policy: String,
    /// The secondary objective.
    pub objective: String,
    /// Mean of b_k over the last steps of training.
    pub threshold: f64,
    /// Share of comparisons with the data's responses that the policy's answer wins by this objective's reward; ties
    /// count half, and prompts alike.
    pub mean: f64,
    /// Percentile interval (95 %) of the bootstrap over prompts.
    pub interval: Interval,
    /// The same share of the SFT model's answers.
    pub sft: Option<f64>,
    /// Number of prompts that the data has responses to.
    pub n_prompts: usize,
    /// What that says of the threshold.
    pub verdict: Verdict,
}

/// The data's responses to the prompts of an evaluation.
pub(super) struct DataResponses {
    /// For each response, the index of its prompt.
    of: Vec<usize>,
    prompts: Vec<String>,
    responses: Vec<String>,
}

impl DataResponses {
    /// Those of the run's held-out pairs, each once.
    ///
    /// # Errors
    /// A set that cannot be read.
    pub(super) fn of(run: &RunDir, prompts: &[String]) -> Result<Self> {
        let set = PreparedSet::read(run.join("data/heldout.jsonl"))?;
        let mut found: HashMap<&str, Vec<&str>> =
            prompts.iter().map(|prompt| (prompt.as_str(), vec![])).collect();
        for record in &set.records {
            let Some(responses) = found.get_mut(record.prompt.as_str()) else { continue };
            for response in [record.first.as_str(), record.second.as_str()] {
                if responses.len() < MAX_RESPONSES && !responses.contains(&response) {
                    responses.push(response);
                }
            }
        }
        let mut this = Self { of: vec![], prompts: vec![], responses: vec![] };
        for (i, prompt) in prompts.iter().enumerate() {
            for response in &found[prompt.as_str()] {
                this.of.push(i);
                this.prompts.push(prompt.clone());
                this.responses.push((*response).into());
            }
        }
        Ok(this)
    }

    /// What each constraint is on the policies' answers; those on objectives without a reward are left out, and all if
    /// the data has no responses to these prompts. `axes`: the names of the rewards.
    ///
    /// # Errors
    /// A reward that refuses a text.
    pub(super) fn constraints(
        &self,
        constraints: &[Constraint],
        policies: &[PolicySamples],
        (axes, rewards): (&[String], &[Box<dyn Reward>]),
        seed: u64,
    ) -> Result<Vec<GeneratedConstraint>> {
        let scores = score_all(rewards, &self.prompts, &self.responses)?;
        let shares = |policy: &PolicySamples, axis: usize| -> Vec<f64> {
            // Wins and comparisons of each prompt.
            let mut won = vec![(0.0, 0_usize); policy.scores.len()];
            for (prompt, scores) in self.of.iter().zip(&scores) {
                let (own, other) = (policy.scores[*prompt][axis], scores[axis]);
                let (sum, n) = &mut won[*prompt];
                *sum += f64::from(u8::from(own > other)) + 0.5 * f64::from(u8::from(own == other));
                *n += 1;
            }
            won.into_iter().filter(|(_, n)| *n > 0).map(|(sum, n)| sum / n as f64).collect()
        };
        let sft = policies.iter().find(|policy| policy.group == PolicyGroup::Sft);
        let estimates = constraints.iter().filter_map(|constraint| {
            let axis = axes.iter().position(|axis| *axis == constraint.objective)?;
            let id = format!("head-{}", constraint.policy);
            let policy = policies.iter().find(|policy| policy.policy == id)?;
            let found = estimate(constraint, &shares(policy, axis), seed)?;
            Some(GeneratedConstraint { sft: sft.map(|sft| mean(&shares(sft, axis))), ..found })
        });
        Ok(estimates.collect())
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// From the share of each prompt; `None` if there is none.
fn estimate(constraint: &Constraint, shares: &[f64], seed: u64) -> Option<GeneratedConstraint> {
    let n_prompts = shares.len();
    let resampled = |of: &mut dyn Iterator<Item = usize>| {
        [of.map(|i| shares[i]).sum::<f64>() / n_prompts as f64]
    };
    if n_prompts == 0 {
        return None;
    }
    let [interval] = bootstrap(n_prompts, resampled, &mut ChaCha8Rng::seed_from_u64(seed));
    let threshold = constraint.threshold;
    Some(GeneratedConstraint {
        policy: constraint.policy.clone(),
        objective: constraint.objective.clone(),
        threshold,
        mean: mean(shares),
        interval,
        sft: None,
        n_prompts,
        verdict: match n_prompts < MIN_PROMPTS {
            true => Verdict::Undecided,
            false => Verdict::of(interval, threshold),
        },
    })
}

impl GeneratedConstraint {
    /// The same as on a line of its own, as a sentence.
    pub(super) fn sentence(&self) -> String {
        let line = self.to_string();
        let (first, rest) = line.split_at(1);
        format!("{}{rest}.", first.to_uppercase())
    }
}

impl fmt::Display for GeneratedConstraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, objective, threshold, mean, interval, sft, n_prompts, verdict } = self;
        let Interval { low, high } = interval;
        write!(
            f,
            "constraint of {policy}: {objective} ≥ {threshold:.3}; its answers are preferred to the data's responses in \
             {mean:.3} of cases (95 % {low:.3} to {high:.3}, {n_prompts} prompts): {verdict}"
        )?;
        match sft {
            Some(sft) => write!(f, "; the SFT model's in {sft:.3}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constraint(threshold: f64) -> Constraint {
        Constraint {
            policy: "a".into(),
            objective: "b".into(),
            threshold,
            slack: 0.0,
            lambda: 0.0,
            saturated: 0.0,
            heldout: None,
        }
    }

    #[test]
    fn verdicts_follow_the_interval_over_prompts() {
        let shares: Vec<f64> = (0..100).map(|i| [1.0, 0.5, 0.5, 0.0][i % 4]).collect();
        for (threshold, verdict) in
            [(0.3, Verdict::Kept), (0.5, Verdict::Undecided), (0.7, Verdict::Violated)]
        {
            let found = estimate(&constraint(threshold), &shares, 1).unwrap();
            assert_eq!((found.mean, found.n_prompts, found.verdict), (0.5, 100, verdict));
            assert!(found.interval.low < 0.5 && 0.5 < found.interval.high);
        }
        assert_eq!(estimate(&constraint(0.5), &[], 1), None);
    }

    /// By length: `n` letters.
    #[derive(Debug)]
    struct Length;

    impl Reward for Length {
        fn name(&self) -> &str {
            "length"
        }

        fn score(&self, _: &str, response: &str) -> mopo_eval::Result<f32> {
            Ok(response.len() as f32)
        }
    }

    #[test]
    fn answers_are_compared_with_the_datas_responses() {
        let data = DataResponses {
            of: vec![0, 0, 2],
            prompts: vec!["p".into(), "p".into(), "r".into()],
            responses: vec!["aa".into(), "aaaa".into(), "a".into()],
        };
        let policy = |id: &str, lengths: [f32; 3]| PolicySamples {
            run: None,
            policy: id.into(),
            label: id.into(),
            group: if id == "sft" { PolicyGroup::Sft } else { PolicyGroup::Head },
            responses: vec![String::new(); 3],
            scores: lengths.map(|score| vec![score]).into(),
        };
        let policies = [policy("sft", [9.0; 3]), policy("head-a", [3.0, 0.0, 1.0])];
        let rewards: [Box<dyn Reward>; 1] = [Box::new(Length)];
        let of = |constraints: &[Constraint], axis: &str| {
            data.constraints(constraints, &policies, (&[axis.to_string()], &rewards), 1).unwrap()
        };
        // One of two, no data, a tie.
        let found = of(&[constraint(0.5)], "b");
        assert_eq!((found[0].mean, found[0].sft, found[0].n_prompts), (0.5, Some(1.0), 2));
        assert!(found[0].to_string().contains("b ≥ 0.500"), "{}", found[0]);
        assert_eq!(of(&[constraint(0.5)], "c"), []);
        let unknown = Constraint { policy: "x".into(), ..constraint(0.5) };
        assert_eq!(of(&[unknown], "b"), []);
    }
}
