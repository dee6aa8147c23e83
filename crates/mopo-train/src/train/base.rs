//! The base model of a run: trained by SFT or taken as it is, then frozen.

use std::path::Path;

use burn::module::AutodiffModule;
use burn::tensor::backend::Backend;
use mopo_data::Tokenizer;
use mopo_lm::{CausalLm, Decoder, DecoderShape, LoadOptions};
use mopo_ops::{FusedAutodiffBackend, FusedBackend};

use super::data::RunData;
use crate::batches::step_seed;
use crate::cache::Context;
use crate::config::{BaseFormat, ModelSource};
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
    device: &B::Device,
    progress: &mut dyn Progress,
) -> Result<CausalLm<B>> {
    let dir = run.join(BASE);
    let is_done = dir.join("config.json").exists();
    if !is_done {
        B::seed(device, step_seed(config.seed, "init", 0));
        if let ModelSource::Hub(model) = &config.model.source {
            record.check_model(&crate::models::model_dir(model)?)?;
        }
        let base = initial::<B>(config, &data.tokenizer, device)?
            .with_gradient_checkpointing(config.sft.gradient_checkpointing);
        let file = match &config.model.source {
            ModelSource::Hub(model) if config.sft.steps == 0 => {
                mopo_lm::gguf_file(&crate::models::model_dir(model)?)
            }
            _ => None,
        };
        match file {
            Some(file) => keep_file(&file, &base.valid(), &dir)?,
            None => {
                let mut sft = Sft::new(base, &data.train, &config.sft, config.seed, device);
                let (phase, checkpoints) = (&config.sft, &config.checkpoints);
                Fit { run, record, phase, checkpoints }.run(&mut sft, progress)?;
                run.check_there()?;
                sft.model().valid().save(&dir)?;
            }
        }
    }
    if !is_done || !record.has(BASE) {
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
        run.write_record(record)?;
    }
    let base = load_base::<B>(run, config.model.base, device)?;
    data.tokenizer.check_fits(base.shape().vocab_size)?;
    Ok(base)
}

/// Copies a GGUF file that is not trained, so that its blocks stay as they are.
fn keep_file<B: FusedBackend>(file: &Path, base: &CausalLm<B>, dir: &Path) -> Result<()> {
    mopo_hub::create_dir(dir)?;
    mopo_hub::write_atomically_with(&dir.join(mopo_lm::GGUF_WEIGHTS), |out| {
        std::io::copy(&mut std::fs::File::open(file)?, out).map(|_| ())
    })?;
    // Written last: it says that the model is complete.
    Ok(mopo_hub::write_json(&dir.join("config.json"), &base.hub_config())?)
}

/// Whether anything was computed with the base model.
fn has_successors(run: &RunDir, config: &RunConfig) -> Result<bool> {
    let phase = config.method()?.phase();
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
        weights: match config.model.base {
            // The name from before there was a choice.
            BaseFormat::Checkpoint => "as_stored".into(),
            base => base.name().into(),
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
    match config.sft.steps {
        0 => LoadOptions::default(),
        _ => LoadOptions::f32(),
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
