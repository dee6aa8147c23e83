//! A whole run, phase by phase; every phase that is done is not done again.

use std::path::{Path, PathBuf};

use burn::module::AutodiffModule;
use burn::tensor::backend::Backend;
use mopo_core::Objectives;
use mopo_data::{LengthLimits, PreparedSet, Tokenizer, tokenize};
use mopo_lm::{
    LoadOptions, Phi, PhiConfig, PolicyParams, load_phi, load_policy, save_phi, save_policy,
};

use mopo_ops::{FusedAutodiffBackend, FusedBackend};

use crate::cache::{Context, LogProbCache};
use crate::config::{BaseFormat, MethodConfig, ModelSource};
use crate::fit::{Method, fit, step_seed};
use crate::log_probs::{self, all_log_probs, frozen_log_probs};
use crate::methods::dpo::{self, Dpo};
use crate::methods::mopo::{self, Mopo};
use crate::result::{RunResult, accuracies, constraints, log_ratio};
use crate::run_dir::{dir_sha256, file_sha256};
use crate::sft::{self, WarmStart};
use crate::{
    Error, Pairs, Progress, Result, RunConfig, RunDir, RunRecord, checkpoint, load_tokenizer,
    prepare,
};

/// Version of how log-probs are computed, in the keys of the cache: to be raised when the numbers
/// that [`log_probs`] gives change by more than rounding.
const LOG_PROBS_FORMAT: u32 = 1;

/// Runs what is left of a run: data, warm start, the method, held-out accuracy.
///
/// `cache`: where log-probs of the frozen base are looked up and kept. It changes no result: a run
/// keeps its own copy, and a pair has the same bits whether it was found or computed.
///
/// # Errors
/// Whatever stands in the way; the run can be resumed after every one of them.
pub fn train<B: FusedAutodiffBackend>(
    run: &RunDir,
    config: &RunConfig,
    record: &mut RunRecord,
    cache: Option<&LogProbCache>,
    device: &B::Device,
    progress: &mut dyn Progress,
) -> Result<RunResult> {
    let clock = std::time::Instant::now();
    let is_new = record.hashes.is_empty();
    if is_new {
        prepare::prepare(run, config, record, progress)?;
    }
    let data = RunData::load(run, config, record)?;
    progress.note(&format!(
        "data: {} training and {} held-out pairs; {}",
        data.train.len(),
        data.heldout.len(),
        data.truncation
    ));

    let base_dir = run.join("warm_start");
    let phi = base_config(config, &base_dir, &data.tokenizer)?;
    let positions = phi.max_position_embeddings;
    data.train.check_positions(positions, "training")?;
    data.heldout.check_positions(positions, "held-out")?;
    if is_new {
        data.heldout.check_answers(positions, config.evaluation.max_new_tokens)?;
        // Elsewhere than on a CPU the memory that counts is not this machine's.
        let memory = mopo_hub::available_memory().filter(|_| !record.device.starts_with("cuda"));
        for (section, phase) in [("sft", &config.sft), ("training", &config.training)] {
            let n_tokens = data.train.longest_batch(phase.batch_size);
            phase.check_batches(section, &phi, n_tokens, memory.unwrap_or(u64::MAX))?;
        }
    }
    let mut metrics_len = 0;
    if !base_dir.join("config.json").exists() {
        B::seed(device, step_seed(config.seed, "init", 0));
        let base = initial_base::<B>(config, &data.tokenizer, device)?;
        let base = base.with_gradient_checkpointing(config.sft.gradient_checkpointing);
        let mut warm = WarmStart::new(base, &data.train, &config.sft, config.seed, device);
        metrics_len = fit(&mut warm, run, &config.sft, &config.checkpoints, 0, progress)?;
        save_phi(&warm.model().valid(), &base_dir)?;
    } else if let Some(c) = checkpoint::latest(run, sft::PHASE)? {
        metrics_len = c.metrics_len;
    }
    // Read back even if it is in memory: a resumed run then starts from the same bits.
    let base = load_base::<B>(run, config.model.base, device)?;
    data.tokenizer.check_fits(base.config().vocab_size)?;
    let base_inner = base.valid();

    let context = match cache {
        Some(_) => Some(context::<B>(&base_dir, config, record, device)?),
        None => None,
    };
    let cache = cache.zip(context.as_ref());
    let initial_path = run.join("initial_log_probs.safetensors");
    if !initial_path.exists() {
        let name = "initial policy";
        let all = frozen_log_probs(&base_inner, &data.train, cache, name, device, progress)?;
        log_probs::write(&initial_path, &all)?;
    }
    let initial = log_probs::read(&initial_path, data.train.len())?;

    let primaries = primaries(config, &data.objectives)?;
    let policy_dir = run.join("policy");
    let names: Vec<String> =
        primaries.iter().map(|&p| data.objectives.name(p).to_string()).collect();
    if !policy_dir.join("policy.json").exists() {
        let base = base.with_gradient_checkpointing(config.training.gradient_checkpointing);
        B::seed(device, step_seed(config.seed, "adapter", 0));
        let params = PolicyParams::init(&base, &config.lora, primaries.len(), device);
        let phase = &config.training;
        let train = |method: &mut dyn Method, progress: &mut dyn Progress| {
            fit(method, run, phase, &config.checkpoints, metrics_len, progress)
        };
        let trained = match config.method()? {
            MethodConfig::Mopo(mopo) => {
                let setup = mopo::Setup {
                    config: mopo,
                    phase,
                    objectives: &data.objectives,
                    primaries: &primaries,
                    pairs: &data.train,
                    initial_log_probs: &initial,
                    seed: config.seed,
                };
                let mut method = Mopo::new(&base, params, setup, device);
                train(&mut method, progress)?;
                method.params().valid()
            }
            MethodConfig::Dpo(dpo) => {
                let setup = dpo::Setup {
                    config: dpo,
                    phase,
                    objective: primaries[0],
                    pairs: &data.train,
                    reference_log_probs: &initial,
                    seed: config.seed,
                };
                let mut method = Dpo::new(&base, params, setup, device);
                progress.note(&format!(
                    "DPO on `{}`: {} of {} pairs carry its label; the others are left out",
                    dpo.objective,
                    method.n_labelled(),
                    data.train.len()
                ));
                train(&mut method, progress)?;
                method.params()
            }
        };
        save_policy(&trained, &config.lora, &names, &policy_dir)?;
    }
    let (params, _) = load_policy(&policy_dir, &base_inner, device)?;

    let name = "held-out accuracy";
    let before = frozen_log_probs(&base_inner, &data.heldout, cache, name, device, progress)?;
    let after = all_log_probs(&base_inner, Some(&params), &data.heldout, name, device, progress)?;
    let k = data.objectives.len();
    let lag = config.mopo.as_ref().map_or(usize::MAX, |mopo| mopo.reference_lag);
    let last_steps = lag.min(config.training.steps).clamp(1, 100);
    let metrics_path = run.join("metrics.jsonl");
    let metrics =
        std::fs::read_to_string(&metrics_path).map_err(Error::io("reading", &metrics_path))?;
    let result = RunResult {
        objectives: data.objectives.names().to_vec(),
        warm_start: accuracies(&data.heldout_labels, |i| before[i], k),
        policies: names
            .into_iter()
            .zip(&after)
            .map(|(name, policy)| {
                let log_ratio = |i| log_ratio(policy, &before, i);
                (name, accuracies(&data.heldout_labels, log_ratio, k))
            })
            .collect(),
        last_steps,
        // None but MOPO's.
        constraints: constraints(&metrics, &data.objectives, &primaries, last_steps),
        seconds: clock.elapsed().as_secs_f64(),
    };
    run.write_json("result.json", &result)?;
    Ok(result)
}

/// What log-probs under the run's frozen base depend on, beside the pairs.
fn context<B: FusedAutodiffBackend>(
    base_dir: &Path,
    config: &RunConfig,
    record: &RunRecord,
    device: &B::Device,
) -> Result<Context> {
    Ok(Context {
        format: LOG_PROBS_FORMAT,
        mopo_version: env!("CARGO_PKG_VERSION").into(),
        device: B::InnerBackend::name(device),
        model: dir_sha256(base_dir)?,
        weights: match config.model.base {
            // The name under which they were kept before there was a choice.
            BaseFormat::Checkpoint => "as_stored".into(),
            base => base.name().into(),
        },
        adapter: "none".into(),
        output_layer: "base".into(),
        tokenizer: record.hashes.get("tokenizer.json").cloned().unwrap_or_default(),
        template: "prompt and response encoded apart, end of text after the response".into(),
        max_prompt_tokens: config.data.max_prompt_tokens,
        max_response_tokens: config.data.max_response_tokens,
    })
}

/// The objectives that the run's policies maximise, as indices.
fn primaries(config: &RunConfig, objectives: &Objectives) -> Result<Vec<usize>> {
    config
        .policies
        .iter()
        .map(|name| {
            objectives
                .index_of(name)
                .map_err(|e| Error::Config { origin: "`policies`".into(), message: e.to_string() })
        })
        .collect()
}

fn initial_base<B: FusedAutodiffBackend>(
    config: &RunConfig,
    tokenizer: &Tokenizer,
    device: &B::Device,
) -> Result<Phi<B>> {
    match &config.model.source {
        ModelSource::Scratch(shape) => {
            let phi = shape.with_vocab(tokenizer.vocab_size());
            phi.check()?;
            Ok(phi.init(device))
        }
        ModelSource::Hub(model) => {
            let dir = &crate::models::model_dir(model)?;
            let phi = PhiConfig::from_file(dir.join("config.json"))?;
            tokenizer.check_fits(phi.vocab_size)?;
            Ok(load_phi(dir, &phi, initial_options(config), device)?)
        }
    }
}

/// The shape of the run's base model: of the one in `base_dir` if SFT is done.
fn base_config(config: &RunConfig, base_dir: &Path, tokenizer: &Tokenizer) -> Result<PhiConfig> {
    let dir = match &config.model.source {
        _ if base_dir.join("config.json").exists() => base_dir.to_path_buf(),
        ModelSource::Scratch(shape) => return Ok(shape.with_vocab(tokenizer.vocab_size())),
        ModelSource::Hub(model) => crate::models::model_dir(model)?,
    };
    Ok(PhiConfig::from_file(dir.join("config.json"))?)
}

/// A base that is trained needs F32; one that stays as it is keeps the checkpoint's data type.
fn initial_options(config: &RunConfig) -> LoadOptions {
    match config.sft.steps {
        0 => LoadOptions::default(),
        _ => LoadOptions::f32(),
    }
}

/// The frozen base of a run whose warm start is done.
///
/// # Errors
/// If it is missing or damaged.
pub fn load_base<B: FusedBackend>(
    run: &RunDir,
    format: BaseFormat,
    device: &B::Device,
) -> Result<Phi<B>> {
    crate::sample::frozen(&run.join("warm_start"), format, device)
}

/// The data of a run, checked against its record.
#[derive(Debug)]
pub struct RunData {
    /// In the order of indicators.
    pub objectives: Objectives,
    /// The run's tokenizer.
    pub tokenizer: Tokenizer,
    /// Training pairs.
    pub train: Pairs,
    /// Held-out pairs.
    pub heldout: Pairs,
    /// Indicators of the held-out pairs as labelled.
    pub heldout_labels: Vec<Vec<Option<f32>>>,
    /// Held-out prompts, each once, in order.
    pub heldout_prompts: Vec<String>,
    /// How many prompts and responses were cut, in words.
    pub truncation: String,
}

impl RunData {
    /// Reads and tokenises a run's data.
    ///
    /// # Errors
    /// If a file is not the one that the run was started with.
    pub fn load(run: &RunDir, config: &RunConfig, record: &RunRecord) -> Result<Self> {
        for (name, expected) in &record.hashes {
            let path = run.join(name);
            if file_sha256(&path)? != *expected {
                return Err(Error::Corrupt {
                    path,
                    message: "its SHA-256 is not the one in run.json; the run cannot go on with \
                              other data: restore the file, or start a new run"
                        .into(),
                });
            }
        }
        let tokenizer = load_tokenizer(run.path())?;
        let train = PreparedSet::read(run.join("data/train.jsonl"))?;
        let heldout = PreparedSet::read(run.join("data/heldout.jsonl"))?;
        let limits = LengthLimits {
            max_prompt: config.data.max_prompt_tokens,
            max_response: config.data.max_response_tokens,
        };
        let (train_tokens, truncation) = tokenize(&train.records, &tokenizer, &limits)?;
        let (heldout_tokens, _) = tokenize(&heldout.records, &tokenizer, &limits)?;
        let mut heldout_prompts: Vec<String> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for r in &heldout.records {
            if seen.insert(&r.prompt) {
                heldout_prompts.push(r.prompt.clone());
            }
        }
        let estimator = config.method()?.estimator();
        Ok(Self {
            objectives: train.header.objectives.clone(),
            train: Pairs::new(&train.records, train_tokens, estimator),
            heldout: Pairs::new(&heldout.records, heldout_tokens, estimator),
            heldout_labels: heldout.records.iter().map(|r| r.indicators.clone()).collect(),
            heldout_prompts,
            truncation: truncation.to_string(),
            tokenizer,
        })
    }
}

/// Checks what a configuration needs from the command line before a run directory is made.
///
/// # Errors
/// If the data source needs a path and none was given, or the other way round.
pub fn check_data_path(config: &RunConfig, data: Option<&PathBuf>) -> Result<()> {
    config.data.source.check_path(&config.name, data.map(PathBuf::as_path))
}
