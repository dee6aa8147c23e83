//! The dear part of an evaluation: every policy's answers to every prompt, and their scores; whole, or in shards.
//!
//! A row of a shard is a policy and [`UNIT`] prompts. Answers and scores of a row do not depend on other rows.

use std::ops::Range;
use std::path::Path;

use mopo_eval::Reward;
use mopo_eval::reward::{Resolver, score_all};
use mopo_hub::{RowJob, SavedRows, ShardIndex, ShardSet, sha256_hex};
use mopo_lm::GenerationConfig;
use mopo_ops::FusedBackend;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::policies::{EvaluatedPolicy, evaluated_policies};
use super::{EvaluationPlan, prompts};
use crate::answers::UNIT;
use crate::identity::model_sha256;
use crate::{Error, Progress, Result, RunData, Sampler, Silent, Unit};

/// Which shard of an evaluation, and where its file goes.
#[derive(Debug, Clone, Copy)]
pub struct ShardPlan<'a> {
    /// The part.
    pub index: ShardIndex,
    /// Its file.
    pub out: &'a Path,
    /// Whether something else there is replaced.
    pub is_forced: bool,
    /// The kind of device, for instance `flex`: others may round otherwise.
    pub device_name: &'a str,
}

/// An answer with its scores, one per reward.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Answered {
    pub(super) response: String,
    pub(super) scores: Vec<f32>,
}

/// What is asked of whom.
pub(super) struct Asked<B: FusedBackend> {
    pub(super) sampler: Sampler<B>,
    pub(super) prompts: Vec<String>,
    /// Whose prompts they are: `given` or `held-out`.
    pub(super) kind: &'static str,
    /// The file of given prompts, for the record.
    pub(super) source: Option<Value>,
    pub(super) generation: GenerationConfig,
    pub(super) chosen: Vec<EvaluatedPolicy>,
    /// Number of training pairs.
    pub(super) n_train: usize,
}

impl<B: FusedBackend> Asked<B> {
    pub(super) fn new(
        plan: &EvaluationPlan,
        device: &B::Device,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        let settings = &plan.config.evaluation;
        let sampler = Sampler::<B>::load(&plan.run, &plan.config, device)?;
        let data = RunData::load(&plan.run, &plan.config, &plan.record)?;
        let n_train = data.train.len();
        let (available, kind, source) = match &plan.given {
            Some(given) => (given.prompts.clone(), "given", Some(given.record.clone())),
            None => (data.heldout_prompts, "held-out", None),
        };
        if settings.n_prompts > available.len() {
            progress.note(&format!(
                "note: {} prompts requested, but there are only {} {kind} ones; using all of them",
                settings.n_prompts,
                available.len()
            ));
        }
        let prompts = prompts::draw(available, settings.n_prompts, plan.seed);
        // Those of the run's data were counted when it was prepared.
        if plan.given.is_some() {
            sampler.cut_prompts(&prompts)?.iter().for_each(|note| progress.note(note));
        }
        let generation = GenerationConfig {
            max_new_tokens: settings.max_new_tokens,
            temperature: settings.temperature,
            top_p: settings.top_p,
            seed: plan.seed,
            ..Default::default()
        };
        let chosen = evaluated_policies(
            sampler.policies(),
            settings.mixture_steps,
            settings.worst_case && !sampler.is_conditioned(),
        );
        Ok(Self { sampler, prompts, kind, source, generation, chosen, n_train })
    }

    /// The answers as a job.
    pub(super) fn job(
        &self,
        plan: &EvaluationPlan,
        device_name: &str,
        resolve: Resolver<'_>,
        shard: Option<ShardIndex>,
        out: &Path,
    ) -> Result<RowJob> {
        let axes = plan.config.evaluation.rewards.iter();
        let rewards = axes.map(|axis| {
            let sha256 = axis.reward.fingerprint(resolve)?;
            Ok(json!({ "reward": axis.reward.identity(), "sha256": sha256 }))
        });
        let rewards = rewards.collect::<Result<Vec<Value>>>()?;
        let ids: Vec<&str> = self.chosen.iter().map(|policy| &*policy.id).collect();
        let prompts = json!(self.prompts).to_string();
        let mut identity = Map::new();
        for (key, value) in [
            ("version", json!(env!("CARGO_PKG_VERSION"))),
            ("device", json!(device_name)),
            ("run (its SHA-256)", json!(model_sha256(plan.run.path())?)),
            ("prompts (their SHA-256)", json!(sha256_hex(prompts.as_bytes()))),
            ("policies", json!(ids)),
            ("rewards", json!(rewards)),
            ("generation", json!(self.generation)),
        ] {
            identity.insert(key.into(), value);
        }
        let n_rows = self.chosen.len() * self.n_units();
        let out = out.to_path_buf();
        Ok(RowJob { command: "mopo pareto", identity, n_rows, unit: 1, shard, out })
    }

    /// Rows of a policy.
    fn n_units(&self) -> usize {
        self.prompts.len().div_ceil(UNIT)
    }

    /// The policy of some rows, and their prompts: those before the next policy's.
    fn first_of(&self, rows: Range<usize>) -> (usize, Range<usize>) {
        let (policy, start) = (rows.start / self.n_units(), rows.start % self.n_units());
        let end = self.n_units().min(start + rows.len());
        (policy, start * UNIT..self.prompts.len().min(end * UNIT))
    }

    /// Answers of a policy to some prompts, which begin with a unit.
    fn answers(
        &self,
        policy: usize,
        prompts: Range<usize>,
        rewards: &[Box<dyn Reward>],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Answered>> {
        let decoding = self.sampler.decoding(self.chosen[policy].head.clone(), None)?;
        let at_once = if self.sampler.answers_alone() { prompts.len().max(1) } else { UNIT };
        let mut answers = Vec::with_capacity(prompts.len());
        for prompts in self.prompts[prompts].chunks(at_once) {
            let responses =
                self.sampler.answer(decoding.clone(), prompts, &self.generation, progress)?;
            let scores = score_all(rewards, prompts, &responses)?;
            let scored = responses.into_iter().zip(scores);
            answers.extend(scored.map(|(response, scores)| Answered { response, scores }));
        }
        Ok(answers)
    }

    /// All answers, policy by policy.
    pub(super) fn all(
        &self,
        rewards: &[Box<dyn Reward>],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Vec<Answered>>> {
        let n_answers = self.chosen.len() * self.prompts.len();
        progress.begin("generate", 0, n_answers as u64, Unit::Steps);
        let of = |policy| self.answers(policy, 0..self.prompts.len(), rewards, progress);
        let answers = (0..self.chosen.len()).map(of).collect::<Result<Vec<_>>>()?;
        progress.end("");
        Ok(answers)
    }

    /// Generates and saves the rows of a shard that are missing.
    pub(super) fn fill(
        &self,
        job: &RowJob,
        saved: &mut SavedRows,
        rewards: &[Box<dyn Reward>],
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let (done, total) = (saved.n_done() as u64, job.rows().len() as u64);
        if done > 0 {
            progress.note(&format!("resuming: {done} of {total} parts are already there"));
        }
        progress.begin("generate", done, total, Unit::Steps);
        let mut compute = |mut rows: Range<usize>| {
            let mut lines = Vec::with_capacity(rows.len());
            while !rows.is_empty() {
                let (policy, prompts) = self.first_of(rows.clone());
                let answers = self.answers(policy, prompts, rewards, &mut Silent)?;
                for row in answers.chunks(UNIT) {
                    lines.push(serde_json::to_string(row).expect("texts and numbers"));
                    rows.start += 1;
                }
            }
            Ok::<_, Error>(lines)
        };
        saved.fill(&mut compute, &mut |n| progress.advance(n as u64, ""))?;
        progress.end("");
        Ok(())
    }

    /// All answers from shards, policy by policy.
    pub(super) fn merged(&self, set: &ShardSet) -> Result<Vec<Vec<Answered>>> {
        let mut all: Vec<Vec<Answered>> = self.chosen.iter().map(|_| vec![]).collect();
        let mut row = 0;
        set.for_each(&mut |line| {
            let (policy, prompts) = self.first_of(row..row + 1);
            row += 1;
            let found: Vec<Answered> = serde_json::from_str(line)
                .ok()
                .filter(|found: &Vec<Answered>| found.len() == prompts.len())
                .ok_or_else(|| {
                    let message = format!("row {row} is not what `mopo pareto --shard` writes");
                    Error::corrupt(Path::new("--merge"), message)
                })?;
            all[policy].extend(found);
            Ok::<_, Error>(())
        })?;
        Ok(all)
    }
}
