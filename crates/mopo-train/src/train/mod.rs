//! A whole run, phase by phase; finished phases are skipped.

mod base;
mod data;
mod others;
mod periodic;

use std::path::PathBuf;

use burn::module::AutodiffModule;
use mopo_lm::{CausalLm, Decoder, PolicyHeads, PolicyParams, load_policy, save_policy};
use mopo_ops::{FusedAutodiffBackend, FusedBackend};
use mopo_report::MetricsLog;

pub use base::load_base;
pub use data::{RunData, TrainPrompt};
pub(crate) use others::OtherPolicy;
use periodic::{Evaluated, Evaluator};

use crate::batches::step_seed;
use crate::cache::{Context, LogProbCache};
use crate::communicator::{Communicator, check_equal};
use crate::conditioned::Conditioning;
use crate::config::ModelSource;
use crate::fit::{Fit, PolicyMethod};
use crate::heldout::{HeldoutEstimate, log_ratio};
use crate::log_probs::{self, LogProbs, all_log_probs, frozen_log_probs};
use crate::methods::TrainContext;
use crate::metrics_file::METRICS;
use crate::models::model_dir;
use crate::result::{Best, RunResult, RunTokens, accuracies, constraints};
use crate::rollouts::RolloutInputs;
use crate::run_dir::record::{INITIAL, POLICY};
use crate::{Progress, Result, RunConfig, RunDir, RunRecord, prepare};

/// The file with the best evaluation between steps.
const BEST: &str = "best.json";
/// The name of the head of a policy for all weights.
const CONDITIONED: &str = "conditioned";

/// Runs the remaining phases of a run: data, SFT, the method, held-out accuracy. Nobody else may
/// write to it
/// meanwhile: if the caller does not hold the run's lock, it is taken.
///
/// `communicator`: the ranks that train together, each of which calls this with the same arguments; rank 0 alone writes.
///
/// `cache`: the cache of log-probs of the frozen base. It changes no result: a run
/// keeps its own copy, and a cached pair has the same bits as a computed one.
///
/// # Errors
/// Whatever prevents the next step; the run can be resumed after every error but
/// [`crate::Error::NonFinite`].
pub fn train<B: FusedAutodiffBackend>(
    run: &RunDir,
    config: &RunConfig,
    record: &mut RunRecord,
    cache: Option<&LogProbCache>,
    communicator: &dyn Communicator,
    device: &B::Device,
    progress: &mut dyn Progress,
) -> Result<RunResult> {
    let clock = std::time::Instant::now();
    config.check_rewards()?;
    ranks_agree(config, communicator)?;
    let held;
    let run = match communicator.is_first() {
        true => {
            held = run.begin_training(record, || config.to_toml())?;
            &held
        }
        false => run,
    };
    let is_new = communicator.by_first(|| Ok(record.hashes.is_empty()))?;
    if is_new && communicator.is_first() {
        config.method.check_new(config.training.steps)?;
        config.check_mixtures()?;
        config.check_trained_heads()?;
        if let ModelSource::Hub(model) = &config.model.source {
            let dir = model_dir(model)?;
            RunDir::check_origin(&dir)?;
            record.add_model(&dir)?;
        }
        record.add_inputs(config)?;
        for others in [config.method.other_policies(), config.method.starts_from()] {
            others::check(&others, config)?;
            others::record(&others, record)?;
        }
        prepare::prepare(run, config, record, progress)?;
    }
    *record = communicator.by_first(|| Ok(record.clone()))?;
    let mut data = RunData::load(run, config, record)?;
    progress.note(&format!(
        "data: {} training and {} held-out pairs; {}",
        data.train.len(),
        data.heldout.len(),
        data.truncation
    ));

    periodic::check_metric(config, &data)?;
    let shape = base::shape(run, config, &data.tokenizer)?;
    config.lora.check_fits(&shape)?;
    config.check_head_rank(&shape)?;
    let positions = shape.max_position_embeddings;
    let names = &config.policies;
    let conditioning = config.method.conditioning(names, &data)?;
    let limit = ("evaluation.max_new_tokens", config.evaluation.max_new_tokens);
    let note = match &conditioning {
        Some(told) => {
            let corners: Vec<String> = (0..names.len()).map(|k| told.corner(k)).collect();
            data.make_room(&corners, positions, limit.1)?
        }
        None => 0,
    };
    data.train.check_positions(positions, note, "training")?;
    data.heldout.check_positions(positions, note, "held-out")?;
    data.heldout.check_answers(positions, note, "held-out", limit)?;
    let rollouts = config.method.rollouts(&config.policies);
    if let Some(rollouts) = &rollouts {
        let limit = (&*rollouts.max_new_tokens_key(), rollouts.max_new_tokens);
        data.train.check_answers(positions, note, "training", limit)?;
    }
    if is_new {
        // On other devices than a CPU this machine's memory is not the one that matters.
        let memory = mopo_hub::available_memory()
            .filter(|_| !["cuda", "wgpu"].iter().any(|kind| record.device.starts_with(kind)));
        for (section, phase) in [("sft", &config.sft), ("training", &config.training)] {
            let n_tokens = match &rollouts {
                Some(rollouts) if section == "training" => {
                    let own = rollouts.longest_batch(data.prompt_lengths(), phase.batch_size);
                    match rollouts.trains_on_pairs {
                        true => own.max(data.train.longest_batch(phase.batch_size)),
                        false => own,
                    }
                }
                _ => data.train.longest_batch(phase.batch_size),
            };
            phase.check_batches(section, &shape, n_tokens, memory.unwrap_or(u64::MAX))?;
        }
    }

    let base = base::trained::<B>(run, config, record, &data, communicator, device, progress)?;
    if is_new {
        // Once more where they are read: a run that goes on may not need them any more.
        for others in [config.method.other_policies(), config.method.starts_from()] {
            others::check_base(&others, record)?;
        }
    }
    let frozen = base.valid();
    let context = base::context::<B>(config, record, device);
    let cache = cache.map(|cache| (cache, &context));

    let initial = match config.method.needs_initial_log_probs() {
        true => {
            initial_log_probs(run, record, &frozen, &data, cache, communicator, device, progress)?
        }
        false => LogProbs::new(),
    };

    let name = "held-out pairs";
    let before =
        frozen_log_probs(&frozen, &data.heldout, cache, name, device, communicator, progress)?;

    let others = config.method.other_policies();
    let others =
        others::log_probs(&others, run, record, &frozen, &data, communicator, device, progress)?;

    let primaries = config.method.primaries(names, &data.objectives)?;
    let dir = run.join(POLICY);
    let is_done = communicator.by_first(|| Ok(dir.join("policy.json").exists()))?;
    if !is_done {
        let rollouts = match &rollouts {
            Some(settings) => Some(RolloutInputs::load(
                settings,
                run,
                config,
                record,
                &frozen,
                &data,
                communicator,
                device,
                progress,
            )?),
            None => None,
        };
        let base = base.with_gradient_checkpointing(config.training.gradient_checkpointing);
        let starts = config.method.starts_from();
        let (params, mut loras) = match &starts[..] {
            [] => {
                B::seed(device, step_seed(config.seed, "adapter", 0));
                let sharing = config.adapters;
                let n = if conditioning.is_some() { 1 } else { names.len() };
                let params = PolicyParams::init(&base, &config.lora, n, sharing, device);
                let loras = vec![config.lora.clone(); params.adapters.len()];
                (params, loras)
            }
            starts => others::policies(starts, names, record, &base, device)?,
        };
        let params = match config.head_rank {
            _ if !config.train_heads => {
                let heads = PolicyHeads::constants_of(&base.lm_head(), params.n_policies());
                PolicyParams { heads, ..params }
            }
            Some(rank) => {
                let scale = config.lora.alpha / config.lora.rank as f64;
                let heads = match starts.is_empty() {
                    true => {
                        let n = params.n_policies();
                        PolicyHeads::updates_of(&base.lm_head(), n, rank, scale)
                    }
                    false => params.heads.with_updates(rank, scale),
                };
                PolicyParams { heads, ..params }
            }
            None => params,
        };
        let phase = &config.training;
        let context = TrainContext {
            base: &base,
            params,
            phase,
            policies: names,
            data: &data,
            initial_log_probs: &initial,
            others: &others,
            rollouts: rollouts.as_ref(),
            seed: config.seed,
            communicator,
            device,
        };
        let told = conditioning.as_ref();
        let mut evaluator =
            Evaluator::new(run, config, &data, &frozen, &before, told, communicator, device)?;
        let mut fit = |method: &mut dyn PolicyMethod<B>, progress: &mut dyn Progress| {
            let checkpoints = &config.checkpoints;
            let mut fit = Fit { run, record: &mut *record, phase, checkpoints, communicator };
            match &mut evaluator {
                Some(evaluator) => fit.run(&mut Evaluated { method, evaluator }, progress),
                None => fit.run(method, progress),
            }
        };
        let mut trained = config.method.train(context, &mut fit, progress)?.merged();
        run.check_there()?;
        // A method may have kept several policies of one adapter.
        if starts.is_empty() {
            loras = vec![config.lora.clone(); trained.adapters.len()];
        }
        if let Some(evaluator) = evaluator {
            evaluator.notes().iter().for_each(|note| progress.note(note));
            let (policies, best) = evaluator.end(trained)?;
            trained = policies;
            communicator.once(|| run.write_json(BEST, &best))?;
        }
        // `policy.json` comes last: it says that the policy is complete.
        communicator.once(|| {
            let heads = match &conditioning {
                Some(conditioning) => {
                    conditioning.write(&dir)?;
                    vec![CONDITIONED.to_string()]
                }
                None => names.clone(),
            };
            let (shape, mixing) = (base.shape(), config.method.mixing());
            Ok(save_policy(&trained, &shape, &loras, &heads, mixing, &dir)?)
        })?;
    }
    if !is_done || !record.has(POLICY) {
        record.change_together(run, communicator, |record| record.add_folder(run, POLICY))?;
    }
    let (params, _) = load_policy(&dir, &frozen, device)?;

    let told = conditioning.as_ref();
    let after = heldout_log_probs(
        &frozen,
        &params,
        &data,
        names,
        told,
        name,
        device,
        communicator,
        progress,
    )?;
    communicator.by_first(|| {
        let k = data.objectives.len();
        let best: Option<Best> = match run.join(BEST).exists() {
            true => run.read_json(BEST)?,
            false => None,
        };
        let log = read_log(run, progress);
        // Methods without them have no primary objectives.
        let lag = config.method.reference_lag().unwrap_or(usize::MAX);
        let kept = best.as_ref().filter(|_| config.training.load_best_model_at_end);
        let end = kept.map(|best| best.step);
        let (mut constraints, last_steps) =
            constraints(&log.rows, config.method.kind(), &data.objectives, &primaries, lag, end);
        for constraint in &mut constraints {
            let h = names.iter().position(|name| *name == constraint.policy);
            let k = data.objectives.index_of(&constraint.objective)?;
            constraint.heldout = h.and_then(|h| {
                let labels = data.heldout_labels.iter().map(|row| row[k]);
                let ratio = |i| log_ratio(&after[h], &before, i);
                HeldoutEstimate::of(labels, &data.heldout_prompt_of, ratio, config.seed)
            });
        }
        let result = RunResult {
            objectives: data.objectives.names().to_vec(),
            sft: accuracies(&data.heldout_labels, |i| before[i], k),
            policies: names
                .iter()
                .zip(&after)
                .map(|(name, policy)| {
                    let log_ratio = |i| log_ratio(policy, &before, i);
                    (name.clone(), accuracies(&data.heldout_labels, log_ratio, k))
                })
                .collect(),
            tokens: RunTokens::of(
                &log.rows,
                config.method.kind(),
                config.training.steps,
                config.training.early_stopping_patience.is_some(),
            ),
            best,
            last_steps,
            constraints,
            seconds: clock.elapsed().as_secs_f64(),
        };
        run.finish(&mut record.clone(), &result)?;
        Ok(result)
    })
}

/// Refuses ranks that would train another run than rank 0.
fn ranks_agree(config: &RunConfig, communicator: &dyn Communicator) -> Result<()> {
    check_equal(communicator, "version of mopo", env!("CARGO_PKG_VERSION"))?;
    check_equal(communicator, "configuration", &config.to_toml()?)
}

/// log π_0 of the training pairs: computed once, and then read from the run's own file.
#[allow(clippy::too_many_arguments)] // of private plumbing
fn initial_log_probs<B: FusedBackend>(
    run: &RunDir,
    record: &mut RunRecord,
    frozen: &CausalLm<B>,
    data: &RunData,
    cache: Option<(&LogProbCache, &Context)>,
    communicator: &dyn Communicator,
    device: &B::Device,
    progress: &mut dyn Progress,
) -> Result<LogProbs> {
    let path = run.join(INITIAL);
    let is_done = communicator.by_first(|| Ok(path.exists()))?;
    if !is_done {
        let (name, pairs) = ("initial policy", &data.train);
        let all = frozen_log_probs(frozen, pairs, cache, name, device, communicator, progress)?;
        communicator.once(|| {
            run.check_there()?;
            log_probs::write(&path, &all)
        })?;
    }
    if !is_done || !record.has(INITIAL) {
        record.change_together(run, communicator, |record| record.add_file(run, INITIAL))?;
    }
    log_probs::read(&path, data.train.len())
}

/// log π of the held-out pairs under each policy. Of a policy for all weights, each objective's is the one that is told to
/// aim at it alone.
#[allow(clippy::too_many_arguments)] // of private plumbing
fn heldout_log_probs<B: FusedBackend>(
    frozen: &CausalLm<B>,
    params: &PolicyParams<B>,
    data: &RunData,
    names: &[String],
    conditioning: Option<&Conditioning>,
    phase: &str,
    device: &B::Device,
    communicator: &dyn Communicator,
    progress: &mut dyn Progress,
) -> Result<Vec<LogProbs>> {
    let Some(conditioning) = conditioning else {
        let pairs = &data.heldout;
        return all_log_probs(frozen, Some(params), pairs, phase, device, communicator, progress);
    };
    let mut of = |k: usize| -> Result<LogProbs> {
        let told = data.heldout_with(&conditioning.corner(k))?;
        let mut all =
            all_log_probs(frozen, Some(params), &told, phase, device, communicator, progress)?;
        Ok(all.swap_remove(0))
    };
    (0..names.len()).map(&mut of).collect()
}

/// The log as far as it can be read; only the final state of the constraints is taken from it.
fn read_log(run: &RunDir, progress: &mut dyn Progress) -> MetricsLog {
    let path = run.join(METRICS);
    if !path.exists() {
        // Nothing was trained here.
        return MetricsLog::default();
    }
    let log = match MetricsLog::read(&path) {
        Ok(log) => log,
        Err(e) => {
            progress.note(&format!("warning: {e}; result.json has no constraints"));
            return MetricsLog::default();
        }
    };
    if log.n_unreadable > 0 {
        progress.note(&format!(
            "warning: skipped {} unreadable lines of {}",
            log.n_unreadable,
            path.display()
        ));
    }
    log
}

/// Checks what a configuration needs from the command line before a run directory is made.
///
/// # Errors
/// The data source needs a path and none was given, or vice versa.
pub fn check_data_path(config: &RunConfig, data: Option<&PathBuf>) -> Result<()> {
    config.data.source.check_path(&config.name, data.map(PathBuf::as_path))
}
