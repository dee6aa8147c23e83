//! The tokenizer of a model, a run or an export, with the settings in its other files: the end of a
//! response, and the chat template.
//!
//! A run stores them next to its `tokenizer.json` in transformers' files:
//! `tokenizer_config.json` (the trained end of a response, the chat template) and
//! `generation_config.json` (all tokens that end one).

use std::path::Path;

use mopo_data::{ChatTemplate, PreparedSet, PromptForm, Tokenizer};
use mopo_hub::locate;
use mopo_lm::HubGeneration;

use crate::config::{ModelSource, TokenizerConfig};
use crate::models::{model_dir, tokenizer_file};
use crate::{Result, RunConfig, RunDir, Silent};

/// The files that [`save`] writes; a tokenizer needs no others.
pub(crate) const FILES: [&str; 3] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json"];

/// The tokenizer in a Hugging Face model directory, a run, an export or a GGUF file.
///
/// # Errors
/// A missing or damaged file, unsupported settings (by key), or tokens for the end of a
/// response that the tokenizer does not have.
pub fn load_tokenizer(dir: &Path) -> Result<Tokenizer> {
    if dir.is_file() {
        return Ok(Tokenizer::load(dir)?);
    }
    let declared = HubGeneration::declared(dir)?.eos_token_id;
    Ok(Tokenizer::load_for_model(dir.join("tokenizer.json"), &declared)?)
}

/// The tokenizer of a run, and the template of its prompts; `None` if it is the model's own, which
/// the tokenizer has.
///
/// Runs from before templates were recorded encode control tokens as text, as in their training;
/// their template is that of their held-out prompts.
///
/// # Errors
/// Those of [`load_tokenizer`], or damaged held-out pairs.
pub fn load_run_tokenizer(
    run: &RunDir,
    config: &RunConfig,
) -> Result<(Tokenizer, Option<ChatTemplate>)> {
    let tokenizer = load_tokenizer(run.path())?;
    match tokenizer.form() {
        PromptForm::Template(template) => return Ok((tokenizer, Some(template))),
        PromptForm::Model => return Ok((tokenizer, None)),
        PromptForm::Text | PromptForm::Raw => {}
    }
    let heldout = run.join("data/heldout.jsonl");
    let template = match heldout.exists() {
        true => {
            let set = PreparedSet::read(&heldout)?;
            ChatTemplate::of_prompts(set.records.iter().map(|record| record.prompt.as_str()))
        }
        false => config.data.source.template.unwrap_or(ChatTemplate::Dialogue),
    };
    Ok((tokenizer, Some(template)))
}

/// The tokenizer of a new run whose prompts have this template, unless its model has its own;
/// `texts` to train one.
pub(crate) fn new_tokenizer<'a>(
    config: &RunConfig,
    template: ChatTemplate,
    texts: impl Iterator<Item = &'a str>,
) -> Result<Tokenizer> {
    let tokenizer = match &config.tokenizer {
        TokenizerConfig::Train(vocab_size) => Tokenizer::train(texts, *vocab_size)?,
        TokenizerConfig::File(file) => {
            // What ends a response stands beside the tokenizer, or else beside the weights.
            let place = locate(file, None, &mut Silent)?.0;
            let declared = match &config.model.source {
                _ if place.join(FILES[2]).exists() => HubGeneration::declared(place)?,
                ModelSource::Hub(model) => HubGeneration::declared(model_dir(model)?)?,
                // A model used only for its tokenizer.
                ModelSource::Scratch(_) if place.is_dir() => HubGeneration::declared(place)?,
                ModelSource::Scratch(_) => HubGeneration::default(),
            };
            Tokenizer::load_for_model(tokenizer_file(file)?, &declared.eos_token_id)?
        }
    };
    Ok(tokenizer.for_training(template)?)
}

/// Writes the run's [`FILES`].
pub(crate) fn save(tokenizer: &Tokenizer, run: &RunDir) -> Result<()> {
    tokenizer.save(run.join(FILES[0]))?;
    run.write_json(FILES[1], &tokenizer.settings())?;
    Ok(generation(tokenizer, HubGeneration::default()).write(run.path())?)
}

/// `settings` with the tokenizer's special tokens.
pub fn generation(tokenizer: &Tokenizer, settings: HubGeneration) -> HubGeneration {
    let role = |role| Some(tokenizer.role_id(role).unwrap_or(tokenizer.end_of_text()));
    HubGeneration {
        eos_token_id: tokenizer.stops().to_vec(),
        bos_token_id: role("bos_token"),
        pad_token_id: role("pad_token"),
        ..settings
    }
}
