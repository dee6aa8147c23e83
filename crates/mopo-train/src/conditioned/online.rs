//! Rounds in which a policy for all weights answers training prompts itself, and learns its better answers.

use mopo_core::Objectives;
use mopo_eval::reward::score_all;
use mopo_lm::{CausalLm, Decoding, GenerationConfig, HeadChoice, PolicyParams};
use mopo_ops::{FusedAutodiffBackend, FusedBackend};
use mopo_report::{Metrics, Quantity};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{ScoreStatistics, TargetMap, direction, direction_note, score_note};
use crate::batches::step_seed;
use crate::checkpoint::{Checkpoint, Parts};
use crate::communicator::Communicator;
use crate::config::ranges::{self, MAX_COUNT, MAX_TOKENS};
use crate::methods::TrainContext;
use crate::rollouts::{RolloutInputs, RolloutSettings};
use crate::sample::Answerer;
use crate::{Error, Result, RunData, Silent};

/// Share of the policy's own answers that are learnt.
const KEPT_ANSWERS: Quantity = Quantity::new("kept_answers");

/// Answers to a prompt, rounds: more are a typing error.
const MAX_FEW: usize = 1000;
const MAX_TEMPERATURE: f64 = 100.0;
/// The part of a checkpoint with the answers in use.
const ONLINE: &str = "online.json";

/// Rounds on the policy's own answers, which the `[[evaluation.rewards]]` named like the objectives score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnlineRounds {
    /// Number of rounds.
    pub rounds: usize,
    /// Share of `training.steps`, at the end, that all rounds together have.
    pub share: f64,
    /// Training prompts that are answered in a round.
    pub prompts: usize,
    /// Answers to each.
    pub answers: usize,
    /// Temperature of sampling.
    pub temperature: f64,
    /// Maximum number of tokens per answer.
    pub max_new_tokens: usize,
}

impl OnlineRounds {
    /// Checks every key.
    ///
    /// # Errors
    /// Names the key and what would be accepted.
    pub(crate) fn check(&self, section: &str) -> Result<()> {
        let key = |name: &str| format!("{section}.online.{name}");
        let t = self.temperature;
        ranges::count(&key("rounds"), self.rounds, 1..=MAX_FEW)
            .and(ranges::count(&key("prompts"), self.prompts, 1..=MAX_COUNT))
            .and(ranges::count(&key("answers"), self.answers, 1..=MAX_FEW))
            .and(ranges::count(&key("max_new_tokens"), self.max_new_tokens, 1..=MAX_TOKENS))
            .and(ranges::fraction(&key("share"), self.share))
            .and(match t > 0.0 && t <= MAX_TEMPERATURE {
                true => Ok(()),
                false => Err(format!(
                    "`{}` is {t}; it must be a number > 0, up to {MAX_TEMPERATURE}",
                    key("temperature")
                )),
            })
            .map_err(|message| Error::Config { origin: format!("`[{section}.online]`"), message })
    }

    /// Steps of all rounds together, at the end of so many.
    fn steps(&self, n_steps: usize) -> usize {
        ((self.share * n_steps as f64).round() as usize).min(n_steps)
    }

    /// Checks that each round has a step.
    ///
    /// # Errors
    /// Names the keys.
    pub(crate) fn check_steps(&self, section: &str, n_steps: usize) -> Result<()> {
        let n_online = self.steps(n_steps);
        if n_online >= self.rounds || n_steps == 0 {
            return Ok(());
        }
        Err(Error::Config {
            origin: format!("`[{section}.online]`"),
            message: format!(
                "`share` is {}, which is {n_online} of {n_steps} `training.steps`, and `rounds` is {}: each round needs a \
                 step, so take a larger share or fewer rounds",
                self.share, self.rounds
            ),
        })
    }

    /// As methods on rollouts have it.
    pub(crate) fn rollouts<'a>(
        &self,
        section: &'static str,
        objectives: &'a [String],
    ) -> RolloutSettings<'a> {
        RolloutSettings {
            temperature: self.temperature,
            max_new_tokens: self.max_new_tokens,
            ..RolloutSettings::beside_pairs(section, objectives)
        }
    }
}

/// Which answers are learnt.
pub(crate) enum Rule {
    /// Those that reach a threshold on any objective, in standard deviations; their prompts are told their own scores.
    Scores { range: Vec<[f64; 2]>, map: TargetMap, thresholds: Vec<f64> },
    /// The best of each prompt along a direction, which its prompt is told.
    Direction,
}

/// What rounds are made with.
pub(crate) struct Online<'a> {
    settings: &'a OnlineRounds,
    rule: Rule,
    /// Of the training set's scores, by objective.
    statistics: Vec<ScoreStatistics>,
    names: &'a [String],
    inputs: &'a RolloutInputs,
    n_steps: usize,
    seed: u64,
    state: Round,
}

/// The answers in use.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Round {
    number: Option<usize>,
    kept: Vec<Kept>,
}

/// An answer that is learnt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Index of its prompt among the training prompts.
    pub(crate) prompt: usize,
    /// What that is told.
    pub(crate) note: String,
    pub(crate) ids: Vec<u32>,
}

impl<'a> Online<'a> {
    /// Rounds before their first answer; `None` without a section. `statistics`: of the policies' objectives, with their
    /// indices in the data.
    pub(crate) fn new<B: FusedAutodiffBackend>(
        settings: Option<&'a OnlineRounds>,
        rule: impl FnOnce() -> Rule,
        statistics: &[(usize, ScoreStatistics)],
        context: &TrainContext<'a, B>,
    ) -> Option<Self> {
        settings.zip(context.rollouts).map(|(settings, inputs)| Self {
            settings,
            rule: rule(),
            statistics: statistics.iter().map(|(_, of)| *of).collect(),
            names: context.policies,
            inputs,
            n_steps: context.phase.steps,
            seed: context.seed,
            state: Round::default(),
        })
    }

    /// The round of a step; `None` before the first.
    fn round(&self, step: usize) -> Option<usize> {
        let n_online = self.settings.steps(self.n_steps);
        let first = self.n_steps - n_online;
        (step >= first).then(|| (step - first) * self.settings.rounds / n_online.max(1))
    }

    /// The first step of the last round.
    pub(crate) fn last_round(&self) -> usize {
        let last = |step: &usize| self.round(*step) == Some(self.settings.rounds - 1);
        (0..self.n_steps).find(last).unwrap_or(0)
    }

    /// Samples the answers of a step's round unless they are there; false before the first round, and in one without an
    /// answer to keep. `policy`: the current one.
    ///
    /// # Errors
    /// Those of generation; a reward that refuses an answer.
    #[allow(clippy::too_many_arguments)] // of private plumbing
    pub(crate) fn begin<B: FusedBackend>(
        &mut self,
        step: usize,
        base: &CausalLm<B>,
        policy: impl FnOnce() -> PolicyParams<B>,
        data: &RunData,
        device: &B::Device,
        communicator: &dyn Communicator,
        metrics: &mut Metrics,
    ) -> Result<bool> {
        let round = self.round(step);
        if round.is_some() && round != self.state.number {
            let number = round.unwrap_or_default();
            let kept = self.sample(number, base, &policy(), data, device, communicator, metrics)?;
            self.state = Round { number: round, kept };
        }
        Ok(round.is_some() && !self.state.kept.is_empty())
    }

    /// `n` rows of a step, drawn anew.
    pub(crate) fn rows(&self, step: usize, batch: usize, n: usize) -> Vec<&Kept> {
        let mut rng = ChaCha8Rng::seed_from_u64(step_seed(self.seed, "online rows", step));
        rng.set_stream(batch as u64);
        (0..n).map(|_| &self.state.kept[rng.random_range(0..self.state.kept.len())]).collect()
    }

    #[allow(clippy::too_many_arguments)] // of private plumbing
    fn sample<B: FusedBackend>(
        &self,
        round: usize,
        base: &CausalLm<B>,
        policy: &PolicyParams<B>,
        data: &RunData,
        device: &B::Device,
        communicator: &dyn Communicator,
        metrics: &mut Metrics,
    ) -> Result<Vec<Kept>> {
        let seed = step_seed(self.seed, "online round", round);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let drawn = data.draw_prompts(self.settings.prompts, &mut rng);
        let n = drawn.len();
        let aims: Vec<(Vec<f64>, String)> =
            drawn.iter().map(|_| self.rule.aim(&mut rng, self.names.len())).collect();

        // The answers to a prompt next to each other.
        let rows: Vec<usize> =
            (0..n).flat_map(|i| std::iter::repeat_n(i, self.settings.answers)).collect();
        let told = |i: usize| -> Result<Vec<u32>> { data.prompt_with(drawn[i], &aims[i].1) };
        let tokens = rows.iter().map(|&i| told(i)).collect::<Result<Vec<_>>>()?;
        let ids: Vec<u64> = (0..rows.len() as u64).collect();
        let generation = GenerationConfig {
            max_new_tokens: self.settings.max_new_tokens,
            temperature: self.settings.temperature,
            seed,
            ..GenerationConfig::default()
        };
        let answerer = Answerer {
            base,
            params: Some(policy),
            tokenizer: &data.tokenizer,
            template: self.inputs.template,
            device,
        };
        let head = Decoding::from(HeadChoice::Policy(0));
        let answers = answerer.answer_together(
            &head,
            &tokens,
            Some(&ids),
            &generation,
            communicator,
            &mut Silent,
        )?;
        let prompts = data.prompt_texts(rows.iter().map(|&i| drawn[i]))?;
        let texts: Vec<String> = answers.iter().map(|answer| answer.text.clone()).collect();
        let scores =
            communicator.by_first(|| Ok(score_all(&self.inputs.rewards, &prompts, &texts)?))?;
        let z: Vec<Vec<f64>> = scores
            .into_iter()
            .map(|row| row.iter().zip(&self.statistics).map(|(score, of)| of.z(*score)).collect())
            .collect();
        let kept: Vec<(usize, String)> = (0..n)
            .flat_map(|i| {
                let own = i * self.settings.answers..(i + 1) * self.settings.answers;
                self.rule
                    .keep(&aims[i], &z[own.clone()])
                    .into_iter()
                    .map(move |(at, note)| (own.start + at, note))
            })
            .collect();
        for (k, name) in self.names.iter().enumerate() {
            let mean = z.iter().map(|row| row[k]).sum::<f64>() / z.len() as f64;
            metrics.set(Quantity::SCORE.of(name), mean);
        }
        metrics.set(KEPT_ANSWERS, kept.len() as f64 / z.len() as f64);
        let n_generated: usize = answers.iter().map(|answer| answer.sampled.drawn().len()).sum();
        metrics.set(Quantity::GENERATED_TOKENS, n_generated as f64);
        Ok(kept
            .into_iter()
            .map(|(at, note)| Kept {
                prompt: drawn[rows[at]],
                note,
                ids: answers[at].sampled.drawn(),
            })
            .filter(|kept| !kept.ids.is_empty())
            .collect())
    }

    /// Adds the answers in use to the parts of a checkpoint.
    pub(crate) fn save(&self, parts: &mut Parts) -> Result<()> {
        let bytes = serde_json::to_vec(&self.state)
            .map_err(|e| Error::corrupt(ONLINE.as_ref(), e.to_string()))?;
        parts.insert(ONLINE.into(), bytes);
        Ok(())
    }

    /// Their inverse.
    pub(crate) fn load(&mut self, c: &Checkpoint) -> Result<()> {
        self.state = serde_json::from_slice(c.part(ONLINE)?)
            .map_err(|e| Error::corrupt(ONLINE.as_ref(), e.to_string()))?;
        Ok(())
    }
}

impl Rule {
    /// What is asked for in a prompt: weights or a direction, and the note.
    fn aim(&self, rng: &mut ChaCha8Rng, n: usize) -> (Vec<f64>, String) {
        match self {
            Self::Direction => {
                let v = direction(n, rng);
                let note = direction_note(&v);
                (v, note)
            }
            Self::Scores { range, map, .. } => {
                // Uniform on the simplex.
                let drawn: Vec<f64> = (0..n).map(|_| -(1.0 - rng.random::<f64>()).ln()).collect();
                let sum: f64 = drawn.iter().sum();
                let weights: Vec<f64> = drawn.iter().map(|x| x / sum).collect();
                let least = (0..n).min_by(|a, b| weights[*a].total_cmp(&weights[*b]));
                let mut targets = map.targets(&weights, range);
                for (k, target) in targets.iter_mut().enumerate() {
                    if Some(k) != least {
                        *target = range[k][1];
                    }
                }
                let note = score_note(&targets);
                (weights, note)
            }
        }
    }

    /// Which answers to a prompt are learnt, with what their prompts are told; `z`: their scores.
    fn keep(&self, (aim, note): &(Vec<f64>, String), z: &[Vec<f64>]) -> Vec<(usize, String)> {
        match self {
            Self::Scores { thresholds, .. } => {
                let is_good = |row: &[f64]| row.iter().zip(thresholds).any(|(z, least)| z >= least);
                let kept = z.iter().enumerate().filter(|(_, row)| is_good(row));
                kept.map(|(i, row)| (i, score_note(row))).collect()
            }
            Self::Direction => {
                let along = |i: usize| z[i].iter().zip(aim).map(|(z, v)| z * v).sum::<f64>();
                // The first of several maxima.
                let best = (0..z.len()).rev().max_by(|a, b| along(*a).total_cmp(&along(*b)));
                best.map(|i| (i, note.clone())).into_iter().collect()
            }
        }
    }
}

/// The quantile of scores in standard deviations, both responses of all pairs, for the objective at index `k`.
pub(crate) fn training_quantile(data: &RunData, k: usize, of: &ScoreStatistics, share: f64) -> f64 {
    let mut all: Vec<f64> =
        data.train.scores.iter().flatten().flatten().map(|row| of.z(row[k])).collect();
    all.sort_by(f64::total_cmp);
    let at = (share * (all.len().max(1) - 1) as f64).round() as usize;
    all.get(at).copied().unwrap_or(0.0)
}

/// Statistics of the policies' objectives, with their indices in the data.
///
/// # Errors
/// An objective that the data does not have, or whose scores are all equal.
pub(crate) fn statistics_of(
    policies: &[String],
    objectives: &Objectives,
    data: &RunData,
) -> Result<Vec<(usize, ScoreStatistics)>> {
    let of = |name: &String| {
        let k = objectives.index_of(name)?;
        Ok((k, ScoreStatistics::of(&data.train, k, name)?))
    };
    policies.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores() -> Rule {
        let range = vec![[-4.0, 4.0]; 2];
        Rule::Scores { range, map: TargetMap::Linf, thresholds: vec![1.0, 0.5] }
    }

    #[test]
    fn answers_that_are_good_at_anything_are_kept_with_their_own_scores() {
        let aim = (vec![0.5, 0.5], "asked".to_string());
        let z = [vec![0.9, 0.4], vec![1.0, -3.0], vec![-2.0, 0.7]];
        let kept = scores().keep(&aim, &z);
        let expected =
            [(1, "<rm1_score> 1.0 <rm2_score> -3.0"), (2, "<rm1_score> -2.0 <rm2_score> 0.7")];
        assert_eq!(kept, expected.map(|(i, note)| (i, note.to_string())));
        let along = Rule::Direction.keep(&(vec![0.6, 0.8], "v".into()), &z);
        assert_eq!(along, [(0, "v".to_string())]);
    }

    #[test]
    fn all_but_the_smallest_target_are_the_highest() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..50 {
            let (weights, note) = scores().aim(&mut rng, 2);
            assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            assert!(note.contains("4.0"), "{note}");
        }
        let (v, _) = Rule::Direction.aim(&mut rng, 3);
        assert!((v.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn keys_out_of_range_are_named() {
        let good = OnlineRounds {
            rounds: 2,
            share: 0.2,
            prompts: 8,
            answers: 1,
            temperature: 1.0,
            max_new_tokens: 8,
        };
        good.check("ric").unwrap();
        for (wrong, key) in [
            (OnlineRounds { rounds: 0, ..good.clone() }, "ric.online.rounds"),
            (OnlineRounds { share: 1.5, ..good.clone() }, "ric.online.share"),
            (OnlineRounds { temperature: 0.0, ..good.clone() }, "ric.online.temperature"),
            (OnlineRounds { answers: 0, ..good }, "ric.online.answers"),
        ] {
            let e = wrong.check("ric").unwrap_err().to_string();
            assert!(e.contains(key), "{e}");
        }
    }
}
