//! A reward that is one logit of a classifier. Texts are batched by their number of tokens, without
//! padding.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::TensorData;
use burn::tensor::backend::Backend;
use mopo_lm::{Classifier, LoadDtype, TokenRow};
use mopo_ops::FusedBackend;
use rayon::prelude::*;

use super::template::Template;
use super::{ModelSettings, ModelSpec, Reward, RewardTokenizer, TruncationSide};
use crate::{Error, Result};

/// Tokens per batch, unless one text has more.
const BATCH_TOKENS: usize = 2048;

/// Number of extra rows of one token in every batch. Products with few rows are computed
/// differently from those with many, which changes the last bits: this way there are never few.
const COMPANY: usize = 16;

/// Texts of which the logits are kept for other rewards of the same model. More are computed again.
const MAX_KEPT: usize = 1 << 14;

/// A model that several rewards may share, each with another of its labels.
#[derive(Debug)]
struct Loaded<B: Backend> {
    model: Classifier<B>,
    tokenizer: RewardTokenizer,
    /// Logits by text, while several rewards share the model.
    kept: Mutex<HashMap<TokenRow, Vec<f32>>>,
}

/// What a loaded model depends on: its files, the maximum length, and the end that is cut off.
type ModelKey = (PathBuf, usize, TruncationSide);

/// The models of some rewards: those with the same key are loaded once.
pub(super) struct LoadedModels<B: Backend>(Vec<(ModelKey, Arc<Loaded<B>>)>);

impl<B: Backend> Default for LoadedModels<B> {
    fn default() -> Self {
        Self(vec![])
    }
}

/// A classifier as a reward: `sign` times one of its logits, raw, in f32.
///
/// A score depends only on its text: it has the same bits whatever else is in the batch (on
/// burn-flex; elsewhere the last bits depend on the device).
#[derive(Debug)]
pub struct ModelReward<B: Backend> {
    name: String,
    loaded: Arc<Loaded<B>>,
    settings: ModelSettings,
    text: Template,
    pair: Option<Template>,
    label: usize,
    pad: Option<u32>,
    batch_tokens: usize,
    /// Number of scored texts that were truncated.
    cut: AtomicUsize,
}

/// Finds the directory of a model that a configuration names: a path, or a name on Hugging Face.
pub type Resolver<'a> = &'a dyn Fn(&str) -> Result<PathBuf>;

/// A [`Resolver`] without network access: directories only.
///
/// # Errors
/// [`Error::NoModel`], which says what to download.
pub fn local_directory(model: &str) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(path.into());
    }
    let remedy = "download its files (config.json, the weights, the tokenizer's files) into a \
                  directory and give that as `path`";
    Err(Error::NoModel { model: model.into(), remedy: remedy.into() })
}

impl<B: Backend> ModelReward<B> {
    /// The reward that a specification describes.
    ///
    /// # Errors
    /// Missing settings; a model that is missing, damaged or of another architecture;
    /// a setting that does not fit it. Files and fields are named.
    pub fn load(spec: &ModelSpec, resolve: Resolver<'_>, device: &B::Device) -> Result<Self> {
        Self::load_shared(spec, resolve, device, &mut LoadedModels::default())
    }

    /// The same with a model that was loaded for another reward, if there is one.
    pub(super) fn load_shared(
        spec: &ModelSpec,
        resolve: Resolver<'_>,
        device: &B::Device,
        models: &mut LoadedModels<B>,
    ) -> Result<Self> {
        let whole = spec.with_preset()?;
        let path = whole.path.as_deref().expect("checked with the preset");
        let dir = resolve(path)?;
        let settings = spec.settings(&dir)?;
        let side = settings.truncation_side;
        let key = (dir.clone(), settings.max_length, side);
        let known = models.0.iter().find(|(known, _)| *known == key);
        let loaded = match known {
            Some((_, loaded)) => loaded.clone(),
            None => {
                let model = Classifier::load(&dir, LoadDtype::Checkpoint, device)?;
                let architecture = model.architecture();
                let tokenizer =
                    RewardTokenizer::load(&dir, architecture, settings.max_length, side)?;
                let loaded = Arc::new(Loaded { model, tokenizer, kept: Mutex::default() });
                models.0.push((key, loaded.clone()));
                loaded
            }
        };
        whole.check_architecture(&loaded.model.shape(), &dir)?;
        let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
        let name = settings.name.clone().unwrap_or_else(|| last.to_owned());
        Self::with(name, loaded, settings)
    }

    /// A reward called `name` with a loaded model. The tokenizer truncates texts, so it must
    /// have been made with the settings' length and truncation side.
    ///
    /// # Errors
    /// A setting that does not fit the model.
    pub fn new(
        name: impl Into<String>,
        model: Classifier<B>,
        tokenizer: RewardTokenizer,
        settings: ModelSettings,
    ) -> Result<Self> {
        Self::with(name, Arc::new(Loaded { model, tokenizer, kept: Mutex::default() }), settings)
    }

    fn with(
        name: impl Into<String>,
        loaded: Arc<Loaded<B>>,
        settings: ModelSettings,
    ) -> Result<Self> {
        let label = settings.check(&loaded.model.shape())?;
        let pair =
            settings.pair.as_deref().map(|pair| Template::parse("pair", pair)).transpose()?;
        Ok(Self {
            name: name.into(),
            text: Template::parse("text", &settings.text)?,
            pair,
            label,
            pad: settings.pad_token_id.or_else(|| loaded.model.pad_token()),
            loaded,
            settings,
            batch_tokens: BATCH_TOKENS,
            cut: AtomicUsize::new(0),
        })
    }

    /// Sets the approximate number of tokens per batch, which does not change scores.
    pub fn with_batch_tokens(self, batch_tokens: usize) -> Self {
        Self { batch_tokens, ..self }
    }

    /// The settings.
    pub fn settings(&self) -> &ModelSettings {
        &self.settings
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &RewardTokenizer {
        &self.loaded.tokenizer
    }

    /// The model.
    pub fn model(&self) -> &Classifier<B> {
        &self.loaded.model
    }

    /// The model's input for a prompt and a response.
    ///
    /// # Errors
    /// A text without tokens or without a token to pool, or an id beyond the vocabulary; the
    /// message completes
    /// "the text …".
    pub fn tokens(&self, prompt: &str, response: &str) -> std::result::Result<TokenRow, String> {
        self.cut_tokens(prompt, response).map(|(row, _)| row)
    }

    /// The same, and how many tokens were cut off.
    ///
    /// # Errors
    /// Those of [`tokens`](Self::tokens).
    pub fn cut_tokens(
        &self,
        prompt: &str,
        response: &str,
    ) -> std::result::Result<(TokenRow, usize), String> {
        let settings = &self.settings;
        let prompt = settings
            .prompt_prefix
            .as_deref()
            .map_or(prompt, |prefix| prompt.strip_prefix(prefix).unwrap_or(prompt));
        let prompt = settings
            .prompt_suffix
            .as_deref()
            .map_or(prompt, |suffix| prompt.strip_suffix(suffix).unwrap_or(prompt));
        let response = settings
            .response_prefix
            .as_deref()
            .map_or(response, |prefix| response.strip_prefix(prefix).unwrap_or(response));
        let text = self.text.fill(prompt, response);
        let pair = self.pair.as_ref().map(|pair| pair.fill(prompt, response));
        let encoded = self.loaded.tokenizer.encode(&text, pair.as_deref());
        let (ids, cut) = encoded.map_err(|e| e.to_string())?;
        let model = &self.loaded.model;
        model.check(&ids)?;
        let pool = settings.pooling.at(&ids, self.pad, model.eos_token())?;
        Ok((TokenRow { ids, pool }, cut))
    }
}

impl<B: FusedBackend> ModelReward<B> {
    /// The logits of texts, `[n_rows][n_labels]`, in their order; each depends only on its row.
    /// Panics where [`Classifier::check`] would refuse a row.
    pub fn logits(&self, rows: &[TokenRow]) -> Vec<Vec<f32>> {
        let is_shared = Arc::strong_count(&self.loaded) > 1;
        if !is_shared {
            return self.computed(rows);
        }
        // Since a text's logits are the same in every batch, another reward may have computed them.
        let kept = || self.loaded.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut logits: Vec<Option<Vec<f32>>> = {
            let kept = kept();
            rows.iter().map(|row| kept.get(row).cloned()).collect()
        };
        let missing = || rows.iter().zip(&logits).filter(|(_, logits)| logits.is_none());
        let new: Vec<TokenRow> = missing().map(|(row, _)| row.clone()).collect();
        let computed = self.computed(&new);
        let mut kept = kept();
        if kept.len() + new.len() > MAX_KEPT {
            kept.clear();
        }
        kept.extend(new.into_iter().zip(computed.iter().cloned()));
        let mut computed = computed.into_iter();
        for logits in logits.iter_mut().filter(|logits| logits.is_none()) {
            *logits = computed.next();
        }
        logits.into_iter().map(|logits| logits.expect("kept or computed")).collect()
    }

    fn computed(&self, rows: &[TokenRow]) -> Vec<Vec<f32>> {
        // Long texts first, so that the last batches are small.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(rows[*i].ids.len()));
        let mut logits = vec![vec![]; rows.len()];
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take_while(|i| {
                tokens += rows[**i].ids.len();
                tokens <= self.batch_tokens
            });
            let (batch, others) = rest.split_at(fits.count().max(1));
            rest = others;
            let company = TokenRow { ids: vec![0], pool: 0 };
            let texts = batch.iter().map(|i| rows[*i].clone());
            let texts: Vec<TokenRow> = texts.chain(std::iter::repeat_n(company, COMPANY)).collect();
            let data: TensorData = self.loaded.model.forward(&texts).into_data();
            let values: Vec<f32> = data.iter().collect();
            let n_labels = self.loaded.model.labels().len();
            for (i, values) in batch.iter().zip(values.chunks_exact(n_labels)) {
                logits[*i] = values.to_vec();
            }
        }
        logits
    }
}

impl<B: FusedBackend> Reward for ModelReward<B> {
    fn name(&self) -> &str {
        &self.name
    }

    fn uses_all_cores(&self) -> bool {
        true
    }

    fn notes(&self) -> Vec<String> {
        let side = match self.settings.truncation_side {
            TruncationSide::Left => "beginning",
            TruncationSide::Right => "end",
        };
        match self.cut.load(Ordering::Relaxed) {
            0 => vec![],
            n => vec![format!(
                "reward `{}`: {n} texts had more than {} tokens; their {side} was cut off",
                self.name, self.settings.max_length
            )],
        }
    }

    fn score(&self, prompt: &str, response: &str) -> Result<f32> {
        Ok(self.score_batch(&[(prompt, response)])?[0])
    }

    fn score_batch(&self, items: &[(&str, &str)]) -> Result<Vec<f32>> {
        let refused = |index, why| Error::Text { reward: self.name.clone(), index, why };
        // Collect all before looking for the first error, which is then the same every time.
        let rows: Vec<_> =
            items.par_iter().map(|(prompt, response)| self.cut_tokens(prompt, response)).collect();
        let rows = rows.into_iter().enumerate().map(|(i, row)| row.map_err(|why| refused(i, why)));
        let (rows, cut): (Vec<_>, Vec<_>) = rows.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        self.cut.fetch_add(cut.into_iter().filter(|cut| *cut > 0).count(), Ordering::Relaxed);
        let scores = self.logits(&rows).into_iter().enumerate().map(|(i, logits)| {
            let score = f32::from(self.settings.sign) * logits[self.label];
            match score.is_finite() {
                true => Ok(score),
                false => Err(refused(i, format!("has the logit {score}: the model is damaged"))),
            }
        });
        scores.collect()
    }
}
