//! The base model of a run: trained by SFT or taken as it is, then frozen.

use std::path::{Path, PathBuf};

use burn::module::AutodiffModule;
use burn::tensor::backend::Backend;
use mopo_data::Tokenizer;
use mopo_lm::{CausalLm, Decoder, DecoderShape, LoadOptions, save_adapter};
use mopo_ops::{FusedAutodiffBackend, FusedBackend};

use super::data::RunData;
use crate::batches::step_seed;
use crate::cache::Context;
use crate::communicator::Communicator;
use crate::config::{BaseFormat, MatmulPrecision, ModelSource};
use crate::fit::Fit;
use crate::run_dir::record::{BASE, INITIAL};
use crate::sft::Sft;
use crate::{Error, Progress, Result, RunConfig, RunDir, RunRecord, checkpoint};

/// Version of the computation of log-probs, in the keys of the cache: to be incremented when the
/// numbers of [`crate::log_probs`] change by more than rounding.
const LOG_PROBS_FORMAT: u32 = 1;

/// Trains the base model, unless that is done, and reads it back, so that a resumed run starts with
/// the same bits.
pub(super) fn trained<B: FusedAutodiffBackend>(
    run: &RunDir,
    config: &RunConfig,
    record: &mut RunRecord,
    data: &RunData,
    communicator: &dyn Communicator,
    device: &B::Device,
    progress: &mut dyn Progress,
) -> Result<CausalLm<B>> {
    let dir = run.join(BASE);
    let is_done = communicator.by_first(|| Ok(is_trained(&dir, config)))?;
    if !is_done {
        B::seed(device, step_seed(config.seed, "init", 0));
        if let ModelSource::Hub(model) = &config.model.source {
            record.check_model(&crate::models::model_dir(model)?)?;
        }
        match config.sft.steps > 0 && config.sft.lora {
            true => {
                train_adapter::<B>(run, config, record, data, communicator, device, progress)?;
            }
            false => train_model::<B>(run, config, record, data, communicator, device, progress)?,
        }
    }
    if !is_done || !record.has(BASE) {
        record.change_together(run, communicator, |record| {
            let before = record.has(BASE).then(|| record.folder_sha256(BASE));
            record.add_folder(run, BASE)?;
            if before.is_some_and(|before| before != record.folder_sha256(BASE))
                && has_successors(run, config)?
            {
                return Err(Error::Run {
                    path: run.path().into(),
                    message: format!(
                        "the base model was trained again and has changed, so {INITIAL} and the \
                         method's checkpoints no longer belong to it: remove them, or start a new run"
                    ),
                });
            }
            Ok(())
        })?;
    }
    let base = load_base::<B>(run, config.model.base, device)?;
    data.tokenizer.check_fits(base.shape().vocab_size)?;
    if let Some((_, own)) = base.own_adapter() {
        config.lora.check_continues(own, &base.shape())?;
    }
    Ok(base)
}

/// Whether a run's base model is complete.
fn is_trained(dir: &Path, config: &RunConfig) -> bool {
    let has_adapter = config.sft.steps > 0 && config.sft.lora;
    dir.join("config.json").exists() && (!has_adapter || dir.join("adapter_config.json").exists())
}

/// SFT of all weights; with no steps, the base as it is.
fn train_model<B: FusedAutodiffBackend>(
    run: &RunDir,
    config: &RunConfig,
    record: &mut RunRecord,
    data: &RunData,
    communicator: &dyn Communicator,
    device: &B::Device,
    progress: &mut dyn Progress,
) -> Result<()> {
    let dir = run.join(BASE);
    let base = initial::<B>(config, &data.tokenizer, device)?
        .with_gradient_checkpointing(config.sft.gradient_checkpointing);
    if config.sft.steps == 0
        && let Some(file) = source_file(config)?
    {
        return communicator.once(|| keep_file(&file, &base.valid(), &dir));
    }
    let mut sft = Sft::new(base, &data.train, &config.sft, config.seed, communicator, device);
    fit(run, config, record, communicator, &mut sft, progress)?;
    communicator.once(|| Ok(sft.model().valid().save(&dir)?))
}

/// SFT of an adapter: the run keeps the base as it is, and beside it the adapter in PEFT's files.
fn train_adapter<B: FusedAutodiffBackend>(
    run: &RunDir,
    config: &RunConfig,
    record: &mut RunRecord,
    data: &RunData,
    communicator: &dyn Communicator,
    device: &B::Device,
    progress: &mut dyn Progress,
) -> Result<()> {
    let dir = run.join(BASE);
    communicator.once(|| {
        if dir.join("config.json").exists() {
            return Ok(());
        }
        let base = initial::<B>(config, &data.tokenizer, device)?.valid();
        let base = base.without_adapter();
        match source_file(config)? {
            Some(file) => keep_file(&file, &base, &dir),
            None => Ok(base.save(&dir)?),
        }
    })?;
    // In the format that the policies are trained on.
    let base = load_base::<B>(run, config.model.base, device)?
        .with_gradient_checkpointing(config.sft.gradient_checkpointing);
    let shape = base.shape();
    B::seed(device, step_seed(config.seed, "sft adapter", 0));
    let adapter = config.lora.init::<B>(&shape, device);
    let (pairs, phase) = (&data.train, &config.sft);
    let mut sft = Sft::of_adapter(base, adapter, pairs, phase, config.seed, communicator, device);
    fit(run, config, record, communicator, &mut sft, progress)?;
    let adapter = sft.adapter().expect("it is trained").valid();
    communicator.once(|| Ok(save_adapter(&adapter, &shape, &config.lora, &dir)?))
}

/// The steps of SFT.
fn fit<B: FusedAutodiffBackend>(
    run: &RunDir,
    config: &RunConfig,
    record: &mut RunRecord,
    communicator: &dyn Communicator,
    sft: &mut Sft<'_, B>,
    progress: &mut dyn Progress,
) -> Result<()> {
    let (phase, checkpoints) = (&config.sft, &config.checkpoints);
    Fit { run, record, phase, checkpoints, communicator }.run(sft, progress)?;
    run.check_there()
}

/// The GGUF file that the run's model comes from, if it does.
fn source_file(config: &RunConfig) -> Result<Option<PathBuf>> {
    Ok(match &config.model.source {
        ModelSource::Hub(model) => mopo_lm::gguf_file(&crate::models::model_dir(model)?),
        ModelSource::Scratch(_) => None,
    })
}

/// Copies a GGUF file that is not trained, so that its blocks stay as they are, and the model's own adapter if it has
/// one.
fn keep_file<B: FusedBackend>(file: &Path, base: &CausalLm<B>, dir: &Path) -> Result<()> {
    mopo_hub::create_dir(dir)?;
    mopo_hub::write_atomically_with(&dir.join(mopo_lm::GGUF_WEIGHTS), |out| {
        std::io::copy(&mut std::fs::File::open(file)?, out).map(|_| ())
    })?;
    if let Some((adapter, lora)) = base.own_adapter() {
        save_adapter(adapter, &base.shape(), lora, dir)?;
    }
    // Written last: it says that the model is complete.
    Ok(mopo_hub::write_json(&dir.join("config.json"), &base.hub_config())?)
}

/// Whether anything was computed with the base model.
fn has_successors(run: &RunDir, config: &RunConfig) -> Result<bool> {
    let phase = config.method.kind();
    Ok(run.join(INITIAL).exists() || checkpoint::newest_until(run, phase, usize::MAX).is_some())
}

/// What log-probs under the run's frozen base depend on, besides the pairs.
pub(super) fn context<B: FusedAutodiffBackend>(
    config: &RunConfig,
    record: &RunRecord,
    device: &B::Device,
) -> Context {
    Context {
        format: LOG_PROBS_FORMAT,
        mopo_version: env!("CARGO_PKG_VERSION").into(),
        device: B::InnerBackend::name(device),
        model: record.folder_sha256(BASE),
        weights: {
            let weights = match config.model.base {
                // The name from before there was a choice.
                BaseFormat::Checkpoint => "as_stored",
                base => base.name(),
            };
            match config.model.matmul_precision {
                MatmulPrecision::F32 => weights.into(),
                other => format!("{weights}, products in {}", other.name()),
            }
        },
        adapter: "none".into(),
        output_layer: "base".into(),
        tokenizer: record.hashes.get("tokenizer.json").cloned().unwrap_or_default(),
        template: "prompt and response encoded apart, end of text after the response".into(),
        max_prompt_tokens: config.data.max_prompt_tokens,
        max_response_tokens: config.data.max_response_tokens,
    }
}

fn initial<B: FusedAutodiffBackend>(
    config: &RunConfig,
    tokenizer: &Tokenizer,
    device: &B::Device,
) -> Result<CausalLm<B>> {
    match &config.model.source {
        ModelSource::Scratch(shape) => Ok(shape.init(tokenizer.vocab_size(), device)?),
        ModelSource::Hub(model) => {
            let dir = &crate::models::model_dir(model)?;
            tokenizer.check_fits(DecoderShape::read(dir)?.vocab_size)?;
            Ok(CausalLm::load(dir, initial_options(config), device)?)
        }
    }
}

/// The shape of the run's base model: of the trained one if SFT is done.
pub(super) fn shape(
    run: &RunDir,
    config: &RunConfig,
    tokenizer: &Tokenizer,
) -> Result<DecoderShape> {
    let trained = run.join(BASE);
    let dir = match &config.model.source {
        _ if trained.join("config.json").exists() => trained,
        ModelSource::Scratch(shape) => return Ok(shape.shape(tokenizer.vocab_size())?),
        ModelSource::Hub(model) => crate::models::model_dir(model)?,
    };
    Ok(DecoderShape::read(dir)?)
}

/// A base that is trained needs F32; a frozen one keeps the checkpoint's data type.
fn initial_options(config: &RunConfig) -> LoadOptions {
    match config.sft.steps > 0 && !config.sft.lora {
        false => LoadOptions::default(),
        true => LoadOptions::f32(),
    }
}

/// The frozen base of a run whose SFT is done.
///
/// # Errors
/// It is missing or damaged.
pub fn load_base<B: FusedBackend>(
    run: &RunDir,
    format: BaseFormat,
    device: &B::Device,
) -> Result<CausalLm<B>> {
    crate::sample::frozen(&run.join(BASE), format, device)
}
