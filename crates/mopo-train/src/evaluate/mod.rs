//! Evaluation of a finished run: every policy answers the same prompts, rewards score the answers,
//! and the scores become a front. `mopo-report` writes files and the page.

mod answers;
mod constraints;
mod policies;
mod prompts;
mod statistics;

pub use answers::ShardPlan;
pub use constraints::GeneratedConstraint;
pub use policies::{EvaluatedPolicy, evaluated_policies, simplex_grid};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mopo_core::Objectives;
use mopo_eval::Reward;
use mopo_eval::reward::Resolver;
use mopo_eval::{ClusterConfig, PromptEmbedding, cluster_embedded, cluster_prompts};
use mopo_ops::FusedBackend;
use mopo_report::{
    Evaluation, FrontConfig, FrontReport, PolicySamples, ReportExtras, RunExtras, ScoredAxis,
    read_metrics,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::{MatmulPrecision, build_rewards};
use crate::result::RESULT;
use crate::{Constraint, DirLock, Error, Progress, Result, RunConfig, RunDir, RunRecord};
use answers::{Answered, Asked};
use constraints::DataResponses;
use prompts::GivenPrompts;
pub(crate) use statistics::KnownStatistics;

/// Settings of an evaluation besides the run's own configuration.
#[derive(Debug, Clone, Default)]
pub struct EvaluationOptions {
    /// Seed of sampling, of clustering and of drawing prompts; `None`: the run's.
    pub seed: Option<u64>,
    /// A file of prompts, instead of the run's held-out ones.
    pub prompts: Option<PathBuf>,
    /// A file with statistics for z-scores, instead of the configured ones.
    pub statistics: Option<PathBuf>,
    /// In what products are computed, to be recorded: it is set for the whole process
    /// ([`mopo_ops::set_matmul_precision`]).
    pub matmul_precision: MatmulPrecision,
}

/// An evaluation with checked settings, before minutes of generation.
#[derive(Debug)]
pub struct EvaluationPlan {
    run: RunDir,
    config: RunConfig,
    record: RunRecord,
    seed: u64,
    objectives: Vec<String>,
    statistics: KnownStatistics,
    given: Option<GivenPrompts>,
    matmul_precision: MatmulPrecision,
    /// `result.json`.
    trained: Value,
    /// Those in it.
    constraints: Vec<Constraint>,
}

/// What an evaluation reads of `result.json`.
#[derive(Deserialize)]
struct Trained {
    #[serde(default)]
    constraints: Vec<Constraint>,
}

/// The result of a run's evaluation, for [`mopo_report::write_report`].
#[derive(Debug, Clone)]
pub struct EvaluatedRun {
    /// Prompts, answers and scores.
    pub evaluation: Evaluation,
    /// The front.
    pub report: FrontReport,
    /// Title, record and training curves for the page.
    pub extras: ReportExtras,
    /// The run's policies, without mixtures.
    pub policies: Vec<String>,
    /// The run's constraints on these answers.
    pub constraints: Vec<GeneratedConstraint>,
}

impl EvaluationPlan {
    /// Checks everything that can be checked before generation. `config` is the run's, with changes
    /// to the evaluation's settings. `progress` reports prompts from the training
    /// data.
    ///
    /// # Errors
    /// [`Error::Run`] for fewer than two axes, or for statistics that the data does not have; an
    /// invalid file of
    /// prompts or statistics, with its name.
    pub fn new(
        run: RunDir,
        config: RunConfig,
        record: RunRecord,
        options: &EvaluationOptions,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        config.check()?;
        run.check_finished()?;
        // Before minutes of generation.
        record.check(&run, &[RESULT], true)?;
        let trained: Value = run.read_json(RESULT).map_err(|e| Error::Run {
            path: run.path().into(),
            message: format!("{e}; delete it and resume the run: it is computed again"),
        })?;
        let Trained { constraints } = Trained::deserialize(&trained)
            .map_err(|e| Error::corrupt(&run.join(RESULT), e.to_string()))?;
        let rewards = &config.evaluation.rewards;
        let objectives = Objectives::new(rewards.iter().map(|axis| axis.name.clone()))?;
        let objectives = objectives.names().to_vec();
        if objectives.len() < 2 {
            return Err(Error::Run {
                path: run.path().into(),
                message: format!(
                    "`evaluation.rewards` has only `{}`; a front needs at least two axes",
                    objectives.join(", ")
                ),
            });
        }
        let file = options.statistics.as_deref();
        let statistics = KnownStatistics::new(file, &config.evaluation, &objectives, &run)?;
        let given = match &options.prompts {
            Some(path) => Some(GivenPrompts::read(path, &run, progress)?),
            None => None,
        };
        let seed = options.seed.unwrap_or(config.seed);
        let matmul_precision = options.matmul_precision;
        Ok(Self {
            run,
            config,
            record,
            seed,
            objectives,
            statistics,
            given,
            matmul_precision,
            trained,
            constraints,
        })
    }

    /// Generates, scores and judges. `resolve` finds the models of rewards.
    ///
    /// # Errors
    /// A run that is not finished or whose files were changed; a reward that cannot be built or
    /// that
    /// refuses a text; those of [`FrontReport::new`].
    pub fn run<B: FusedBackend>(
        self,
        device: &B::Device,
        resolve: Resolver<'_>,
        progress: &mut dyn Progress,
    ) -> Result<EvaluatedRun> {
        let asked = Asked::<B>::new(&self, device, progress)?;
        let rewards = self.rewards::<B>(device, resolve)?;
        let answers = asked.all(&rewards, progress)?;
        let evaluated = self.evaluated(asked, answers, &rewards, progress)?;
        rewards.iter().flat_map(|reward| reward.notes()).for_each(|note| progress.note(&note));
        Ok(evaluated)
    }

    /// Generates and scores the answers of a shard, and writes its file, unless that is there already; returns whether it
    /// was. `device_name` is the kind of device, for instance `flex`.
    ///
    /// # Errors
    /// Those of [`run`](Self::run); something else at `out`, unless it is `forced`; another process at this shard.
    pub fn run_shard<B: FusedBackend>(
        &self,
        shard: ShardPlan<'_>,
        device: &B::Device,
        resolve: Resolver<'_>,
        progress: &mut dyn Progress,
    ) -> Result<bool> {
        let asked = Asked::<B>::new(self, device, progress)?;
        let job = asked.job(self, shard.device_name, resolve, Some(shard.index), shard.out)?;
        if !shard.is_forced && job.shard_is_done()? {
            return Ok(true);
        }
        mopo_hub::create_dir(&job.progress_dir())?;
        let _lock = DirLock::acquire(&job.progress_dir())?;
        let mut saved = job.open()?;
        let notes = match job.rows().is_empty() {
            true => vec![],
            false => {
                let rewards = self.rewards::<B>(device, resolve)?;
                asked.fill(&job, &mut saved, &rewards, progress)?;
                rewards.iter().flat_map(|reward| reward.notes()).collect()
            }
        };
        notes.iter().for_each(|note| progress.note(note));
        job.write_shard(&json!(notes), || saved.lines())?;
        job.remove_saved()?;
        Ok(false)
    }

    /// The evaluation from the files of all shards.
    ///
    /// # Errors
    /// Those of [`RowJob::merge`](mopo_hub::RowJob::merge): shards of another run, of other prompts, rewards or settings,
    /// duplicates, holes; those of [`run`](Self::run).
    pub fn merge<B: FusedBackend>(
        self,
        paths: &[PathBuf],
        device_name: &str,
        device: &B::Device,
        resolve: Resolver<'_>,
        progress: &mut dyn Progress,
    ) -> Result<EvaluatedRun> {
        let asked = Asked::<B>::new(&self, device, progress)?;
        let set = asked.job(&self, device_name, resolve, None, Path::new(""))?.merge(paths)?;
        let answers = asked.merged(&set)?;
        let notes = set.about().filter_map(Value::as_array).flatten().filter_map(Value::as_str);
        notes.for_each(|note| progress.note(note));
        // The answers are scored already; only constraints have other texts to score.
        let rewards = match self.constraints.is_empty() {
            true => vec![],
            false => self.rewards::<B>(device, resolve)?,
        };
        self.evaluated(asked, answers, &rewards, progress)
    }

    fn rewards<B: FusedBackend>(
        &self,
        device: &B::Device,
        resolve: Resolver<'_>,
    ) -> Result<Vec<Box<dyn Reward>>> {
        build_rewards::<B>(&self.config.evaluation.rewards, device, resolve)
    }

    /// From answers with their scores, policy by policy, to the front.
    fn evaluated<B: FusedBackend>(
        self,
        asked: Asked<B>,
        answers: Vec<Vec<Answered>>,
        rewards: &[Box<dyn Reward>],
        progress: &mut dyn Progress,
    ) -> Result<EvaluatedRun> {
        let settings = &self.config.evaluation;
        let Asked { sampler, prompts, kind, source, generation, chosen, n_train } = asked;
        let clustering = ClusterConfig {
            n_clusters: settings.n_clusters,
            seed: self.seed,
            ..ClusterConfig::default()
        };
        let clusters = match settings.embedding {
            PromptEmbedding::TfIdf => cluster_prompts(&prompts, &clustering)?,
            PromptEmbedding::HiddenState => {
                cluster_embedded(&prompts, &sampler.prompt_states(&prompts)?, &clustering)?
            }
        };
        let policies: Vec<PolicySamples> = chosen
            .into_iter()
            .zip(answers)
            .map(|(policy, answers)| {
                let (responses, scores) =
                    answers.into_iter().map(|answer| (answer.response, answer.scores)).unzip();
                PolicySamples {
                    run: None,
                    scores,
                    policy: policy.id,
                    label: policy.label,
                    group: policy.group,
                    responses,
                }
            })
            .collect();

        let whose = format!(
            "responses of the SFT model of {} to {} {kind} prompts (temperature {}, seed {})",
            self.run.path().display(),
            prompts.len(),
            settings.temperature,
            self.seed
        );
        let constraints = self.constraints(&prompts, &policies, rewards)?;
        let statistics = self.statistics.complete(&self.objectives, &policies[0], &whose)?;
        let evaluation = Evaluation { objectives: self.objectives, prompts, clusters, policies };
        let front = FrontConfig {
            seed: self.seed,
            statistics,
            ..FrontConfig::new(settings.rewards.iter().map(|axis| axis.ref_point).collect())
        };
        let report = FrontReport::new(&evaluation, &front)?;
        let (metrics, notes) = read_metrics(&self.run.join("metrics.jsonl"));
        notes.iter().for_each(|note| progress.note(&format!("note: {note}")));
        let extras = ReportExtras {
            title: format!("{}: the Pareto front of its policies", self.config.name),
            summary: Some(format!(
                "{} policies on one base model, {} training pairs; {} responses each to {kind} \
                 prompts, temperature {}{}, seed {}.",
                sampler.policies().len(),
                n_train,
                evaluation.prompts.len(),
                settings.temperature,
                self.matmul_precision.note(),
                self.seed
            )),
            rewards: Some(
                settings
                    .rewards
                    .iter()
                    .map(|axis| ScoredAxis { name: axis.name.clone(), reward: json!(axis.reward) })
                    .collect(),
            ),
            runs: vec![RunExtras {
                name: String::new(),
                metrics,
                record: json!({
                    // The current configuration is next to it; see `Evaluated`.
                    "run": RunRecord { config: None, ..self.record },
                    "configuration": self.config,
                    "generation": generation,
                    "matmul_precision": self.matmul_precision,
                    "prompts": source,
                    "result": self.trained,
                    "constraints": constraints,
                }),
            }],
            notes: constraints.iter().map(GeneratedConstraint::sentence).collect(),
            ..ReportExtras::default()
        };
        let policies = sampler.policies().to_vec();
        Ok(EvaluatedRun { evaluation, report, extras, policies, constraints })
    }

    /// The run's constraints on these answers.
    fn constraints(
        &self,
        prompts: &[String],
        policies: &[PolicySamples],
        rewards: &[Box<dyn Reward>],
    ) -> Result<Vec<GeneratedConstraint>> {
        if self.constraints.is_empty() {
            return Ok(vec![]);
        }
        let data = DataResponses::of(&self.run, prompts)?;
        data.constraints(&self.constraints, policies, (&self.objectives, rewards), self.seed)
    }

    /// The run's directory.
    pub fn run_dir(&self) -> &RunDir {
        &self.run
    }
}

/// What the record of an evaluation says of the run that was evaluated.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Evaluated {
    run: EvaluatedHashes,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct EvaluatedHashes {
    hashes: BTreeMap<String, String>,
}

/// Refuses results of a run that was trained again since; `record` is the evaluation's own.
///
/// # Errors
/// The file that has changed since; as [`RunDir::open`] and [`RunDir::check_present`].
pub fn check_up_to_date(run: &Path, record: &Value) -> Result<()> {
    let (dir, _, now) = RunDir::open(run)?;
    dir.check_present(&now)?;
    // Reports of other programs have other records.
    let Evaluated { run: then } = Evaluated::deserialize(record).unwrap_or_default();
    // The time in a result that was computed again is another, and nothing else.
    let is_other = |name: &&String| {
        *name != RESULT && then.hashes.get(*name).is_some_and(|h| *h != now.hashes[*name])
    };
    match now.hashes.keys().find(is_other) {
        None => Ok(()),
        Some(name) => Err(Error::corrupt(
            run,
            format!(
                "the results of `mopo pareto` are out of date: `{name}` has changed since; evaluate \
                 the run again with `mopo pareto {}`",
                run.display()
            ),
        )),
    }
}

/// The finished run below `root` that was started last.
///
/// # Errors
/// [`Error::Run`] says why there is none, and what to do.
pub fn newest_finished_run(root: &Path) -> Result<PathBuf> {
    let remedy = "train one with `cargo xtask train`, or give a run directory";
    let none = |message: String| Error::Run { path: root.into(), message };
    let entries =
        std::fs::read_dir(root).map_err(|e| none(format!("cannot be read ({e}); {remedy}")))?;
    let mut runs: Vec<(u64, PathBuf)> = Vec::new();
    let mut unfinished = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        match RunDir::open(&path) {
            Ok((run, _, record)) if run.is_finished() => runs.push((record.started, path)),
            Ok(_) => unfinished.push(path),
            Err(e) if path.join("config.toml").exists() => {
                tracing::warn!("skipped: {e}");
            }
            Err(_) => {}
        }
    }
    if let Some((_, path)) = runs.into_iter().max() {
        return Ok(path);
    }
    Err(none(match unfinished.first() {
        Some(path) => format!(
            "no finished run found; resume one with `mopo train --resume {}`",
            mopo_hub::quoted(path)
        ),
        None => format!("no run found; {remedy}"),
    }))
}
