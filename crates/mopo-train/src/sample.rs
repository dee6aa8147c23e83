//! Responses to prompts, as text: of a finished run's policies, of exported ones, or of a plain model
//! from the hub.

use std::path::Path;

use mopo_data::Tokenizer;
use mopo_eval::cut_at_turn;
use mopo_lm::{
    Decoding, GenerationConfig, HeadChoice, HubGeneration, PackedBatch, Phi, PhiConfig,
    PolicyParams, generate, load_phi, load_policy,
};
use mopo_ops::FusedBackend;

use crate::config::BaseFormat;
use crate::{Error, Progress, Result, RunConfig, RunDir, load_base};

/// Prompts of one batch of generation.
const BATCH: usize = 32;

/// A model with its policies, or without any, ready to answer.
#[derive(Debug)]
pub struct Sampler<B: FusedBackend> {
    base: Phi<B>,
    params: Option<PolicyParams<B>>,
    tokenizer: Tokenizer,
    end_of_text: u32,
    max_prompt_tokens: Option<usize>,
    is_dialogue: bool,
    names: Vec<String>,
    device: B::Device,
}

impl<B: FusedBackend> Sampler<B> {
    /// Loads base, adapter and heads of a run.
    ///
    /// # Errors
    /// If the run is not finished or a file is damaged.
    pub fn load(run: &RunDir, config: &RunConfig, device: &B::Device) -> Result<Self> {
        if !run.is_finished() {
            return Err(Error::Run {
                path: run.path().into(),
                message: format!(
                    "training is not finished; go on with `mopo train --resume {}`",
                    run.path().display()
                ),
            });
        }
        let base = load_base::<B>(run, config.model.base, device)?;
        let mut this = Self::with_policies(base, run.path(), device)?;
        this.max_prompt_tokens = Some(config.data.max_prompt_tokens);
        Ok(this)
    }

    /// Loads a directory that `mopo export` wrote with all policies: `base/`, `policy/` and the
    /// tokenizer.
    ///
    /// # Errors
    /// A file that is missing, damaged or does not fit the others.
    pub fn load_export(dir: &Path, device: &B::Device) -> Result<Self> {
        Self::with_policies(frozen(&dir.join("base"), BaseFormat::Checkpoint, device)?, dir, device)
    }

    fn with_policies(base: Phi<B>, dir: &Path, device: &B::Device) -> Result<Self> {
        let (params, meta) = load_policy(dir.join("policy"), &base, device)?;
        let mut this = Self::plain(base, dir, device)?;
        (this.params, this.names, this.is_dialogue) = (Some(params), meta.objectives, true);
        Ok(this)
    }

    /// Loads a plain model from a directory of the hub, with its `tokenizer.json`. There are no
    /// policies: only [`HeadChoice::Base`] answers. Responses end at the first of `generation`'s
    /// tokens if it names any, else at the tokenizer's end of text.
    ///
    /// # Errors
    /// A file that is missing, damaged or does not fit the others; a tokenizer with more tokens than
    /// the model has rows.
    pub fn load_hub(dir: &Path, generation: &HubGeneration, device: &B::Device) -> Result<Self> {
        let mut this = Self::plain(frozen(dir, BaseFormat::Checkpoint, device)?, dir, device)?;
        if let Some(end) = generation.eos_token_id.first() {
            this.end_of_text = *end;
        }
        Ok(this)
    }

    /// Without policies; the tokenizer is in `dir`.
    fn plain(base: Phi<B>, dir: &Path, device: &B::Device) -> Result<Self> {
        let tokenizer = Tokenizer::load(dir.join("tokenizer.json"))?;
        tokenizer.check_fits(base.config().vocab_size)?;
        Ok(Self {
            base,
            params: None,
            end_of_text: tokenizer.end_of_text(),
            tokenizer,
            max_prompt_tokens: None,
            is_dialogue: false,
            names: vec![],
            device: device.clone(),
        })
    }

    /// Tokens of a prompt.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn n_tokens(&self, prompt: &str) -> Result<usize> {
        Ok(self.tokenizer.encode(prompt)?.len())
    }

    /// Whether prompts are dialogues, as for all models with policies.
    pub fn is_dialogue(&self) -> bool {
        self.is_dialogue
    }

    /// The policies' primary objectives, in the order of the heads.
    pub fn policies(&self) -> &[String] {
        &self.names
    }

    /// One response per prompt, that of a dialogue cut at its next turn. A prompt longer than the
    /// run's limit loses its beginning, as in training. Ids that the tokenizer has no token for are
    /// never chosen. `head`: a [`HeadChoice`], or a [`Decoding`]
    /// for a mixture under another divergence than reverse KL.
    ///
    /// # Errors
    /// Settings or head out of range, a prompt without a token.
    pub fn answer(
        &self,
        head: impl Into<Decoding>,
        prompts: &[String],
        generation: &GenerationConfig,
        progress: &mut dyn Progress,
    ) -> Result<Vec<String>> {
        let decoding = head.into();
        let tokens = self.prompt_tokens(prompts)?;
        self.check_lengths(&tokens, generation.max_new_tokens)?;
        // Prompts of like length together: less padding. Responses do not depend on the batch.
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&i| (tokens[i].len(), i));
        let params = self.params.as_ref().filter(|_| decoding.head != HeadChoice::Base);
        let known = self.tokenizer.vocab_size();
        let n_tokens = Some(generation.n_tokens.map_or(known, |n| n.min(known)));
        let generation = &GenerationConfig { n_tokens, ..generation.clone() };
        let mut responses = vec![String::new(); prompts.len()];
        for batch in order.chunks(BATCH) {
            let rows: Vec<Vec<u32>> = batch.iter().map(|&i| tokens[i].clone()).collect();
            let end = self.end_of_text;
            let device = &self.device;
            let out = generate(&self.base, params, &decoding, &rows, end, generation, device)?;
            for (&i, ids) in batch.iter().zip(out) {
                let text = self.tokenizer.decode(&ids)?;
                responses[i] = match self.is_dialogue {
                    true => cut_at_turn(&text).to_string(),
                    false => text,
                };
            }
            progress.advance("");
        }
        Ok(responses)
    }

    /// The policies' own hidden state of each prompt, `[n_prompts][hidden_size]`: the mean over the
    /// prompt's tokens of the states after the last LayerNorm, with the adapter that all policies
    /// share (without policies, the base's). A prompt longer than the run's limit loses its beginning.
    ///
    /// # Errors
    /// A prompt without a token.
    pub fn prompt_states(&self, prompts: &[String]) -> Result<Vec<Vec<f32>>> {
        let tokens = self.prompt_tokens(prompts)?;
        let adapter = self.params.as_ref().map(|params| &params.adapter);
        let mut states = Vec::with_capacity(prompts.len());
        for batch in tokens.chunks(BATCH) {
            let packed = PackedBatch::prompts(batch)?;
            let inputs = packed.inputs::<B>(&self.device);
            let hidden = self.base.hidden_states_packed(&inputs, adapter);
            let mut start = 0;
            for ids in batch {
                let own = hidden.clone().narrow(0, start, ids.len());
                states.push(own.mean_dim(0).into_data().iter::<f32>().collect());
                start += ids.len();
            }
        }
        Ok(states)
    }

    /// Refuses prompts that leave no room for their answers, before the first one is answered.
    fn check_lengths(&self, prompts: &[Vec<u32>], n_new: usize) -> Result<()> {
        let max = self.base.config().max_position_embeddings;
        let too_long = |prompt: &Vec<u32>| prompt.len().saturating_add(n_new) > max;
        match prompts.iter().position(too_long) {
            Some(index) => {
                let n_prompt = prompts[index].len();
                Err(mopo_lm::Error::TooLong { index, n_prompt, n_new, max }.into())
            }
            None => Ok(()),
        }
    }

    /// Token ids of prompts, as long as the run takes them.
    fn prompt_tokens(&self, prompts: &[String]) -> Result<Vec<Vec<u32>>> {
        let longest = self.max_prompt_tokens.unwrap_or(usize::MAX);
        let mut tokens = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let ids = self.tokenizer.encode(prompt)?;
            let skip = ids.len().saturating_sub(longest);
            tokens.push(ids[skip..].to_vec());
        }
        Ok(tokens)
    }

    /// Batches that [`answer`](Self::answer) takes for so many prompts.
    pub fn batches(n_prompts: usize) -> usize {
        n_prompts.div_ceil(BATCH)
    }
}

/// A frozen model from a directory of the hub.
pub(crate) fn frozen<B: FusedBackend>(
    dir: &Path,
    format: BaseFormat,
    device: &B::Device,
) -> Result<Phi<B>> {
    let config = PhiConfig::from_file(dir.join("config.json"))?;
    Ok(load_phi(dir, &config, format.load_options(), device)?.freeze())
}
