//! Checks a configuration against the files that it names and the available memory, before the
//! first step.

use mopo_data::Tokenizer;
use mopo_eval::reward::Resolver;
use mopo_hub::readable_bytes;
use mopo_lm::DecoderShape;

use super::{BaseFormat, ModelSource, PhaseConfig, RunConfig, TokenizerConfig};
use crate::models::{model_dir, tokenizer_file};
use crate::{Error, Result};

/// Bytes per trained parameter: its value, its gradient and Adam's two moments in f32, and value
/// and moments again while a checkpoint is written.
pub(crate) const BYTES_TRAINED: f64 = 28.0;
/// Bytes per frozen parameter, in f32.
pub(crate) const BYTES_FROZEN: f64 = 4.0;

impl RunConfig {
    /// Checks a new run's configuration against the files that it names, which have been
    /// [fetched](Self::fetch_models): maximum lengths against the model's positions, the
    /// tokenizer, every reward of `[evaluation]`, and the models' sizes against `memory`, in bytes
    /// (`None`: not compared, for models on another device). `resolve` finds the models of
    /// rewards.
    ///
    /// # Errors
    /// Names the key, and the accepted values.
    pub fn check_files(&self, resolve: Resolver<'_>, memory: Option<u64>) -> Result<()> {
        let fail = |message: String| Err(Error::Config { origin: self.name.clone(), message });
        let vocabulary = match &self.tokenizer {
            TokenizerConfig::Train(size) => *size,
            TokenizerConfig::File(file) => Tokenizer::load(tokenizer_file(file)?)?.vocab_size(),
        };
        let (model, limit) = match &self.model.source {
            ModelSource::Scratch(shape) => {
                (shape.shape(vocabulary)?, "`model.scratch.max_position_embeddings` is".to_string())
            }
            ModelSource::Hub(model) => {
                let dir = model_dir(model)?;
                let limit = match mopo_lm::gguf_file(&dir) {
                    Some(file) => format!("the context length in {} is", file.display()),
                    None => format!(
                        "`max_position_embeddings` in {} is",
                        dir.join("config.json").display()
                    ),
                };
                if self.sft.steps > 0 && mopo_lm::has_adapter(&dir) {
                    return fail(format!(
                        "{} has an adapter of its own beside its weights, and SFT would go on without \
                         it: set `sft.steps = 0` to train the policies from it, or merge it into the \
                         weights first (`mopo export`, or PEFT's `merge_and_unload`)",
                        dir.display()
                    ));
                }
                (DecoderShape::read(dir)?, limit)
            }
        };
        self.lora.check_fits(&model).map_err(Error::from)?;
        self.check_positions(model.max_position_embeddings, &limit).or_else(fail)?;
        let rollouts = self.method.rollouts(&self.policies);
        let rollouts =
            rollouts.map(|rollouts| (rollouts.max_new_tokens_key(), rollouts.max_new_tokens));
        let evaluation = ("evaluation.max_new_tokens".to_string(), self.evaluation.max_new_tokens);
        for (key, new) in std::iter::once(evaluation).chain(rollouts) {
            if new >= model.max_position_embeddings {
                return fail(format!(
                    "`{key}` is {new}, which leaves no room for a prompt: {limit} {}",
                    model.max_position_embeddings
                ));
            }
        }
        if self.training.lora {
            return fail(
                "`training.lora` is true, but the methods always train an adapter: remove it, or set \
                 `sft.lora`"
                    .into(),
            );
        }
        if self.training.prompt_weight != 0.0 {
            return fail(format!(
                "`training.prompt_weight` is {}, but only SFT learns prompts: remove it, or set \
                 `sft.prompt_weight`",
                self.training.prompt_weight
            ));
        }
        self.check_rewards()?;
        self.check_evaluation(resolve)?;
        match memory {
            Some(memory) => self.check_memory(&model, memory).or_else(fail),
            None => Ok(()),
        }
    }

    /// Checks what `[evaluation]` needs of files, before a run begins or goes on: that section may have
    /// been edited since.
    ///
    /// # Errors
    /// Names the reward.
    pub fn check_evaluation(&self, resolve: Resolver<'_>) -> Result<()> {
        let fail = |message: String| Err(Error::Config { origin: self.name.clone(), message });
        if let [axis] = self.evaluation.rewards.as_slice() {
            return fail(format!(
                "`evaluation.rewards` has only `{}`; a front needs at least two axes",
                axis.name
            ));
        }
        for axis in &self.evaluation.rewards {
            axis.reward.check_files(resolve).or_else(|e| {
                fail(format!("`evaluation.rewards`: the reward of `{}`: {e}", axis.name))
            })?;
        }
        Ok(())
    }

    /// Refuses maximum lengths beyond the model's positions; `limit` names their origin.
    pub(super) fn check_positions(
        &self,
        positions: usize,
        limit: &str,
    ) -> std::result::Result<(), String> {
        let d = &self.data;
        let longest = d.max_prompt_tokens.saturating_add(d.max_response_tokens);
        match longest <= positions {
            true => Ok(()),
            false => Err(format!(
                "prompts of {} and responses of {} tokens need {longest} positions, but {limit} \
                 {positions}: lower `data.max_prompt_tokens` or `data.max_response_tokens`",
                d.max_prompt_tokens, d.max_response_tokens
            )),
        }
    }

    /// Refuses models whose parameters alone need more memory than available.
    fn check_memory(
        &self,
        model: &DecoderShape,
        available: u64,
    ) -> std::result::Result<(), String> {
        let base = model.num_params as f64;
        let adapter = self.lora.num_params(model) as f64;
        let (hidden_size, vocab_size) = (model.hidden_size as f64, model.vocab_size as f64);
        let weights = match self.head_rank {
            _ if !self.train_heads => 0.0,
            Some(rank) => rank as f64 * (hidden_size + vocab_size) + vocab_size,
            None => hidden_size * vocab_size + vocab_size,
        };
        let heads = self.policies.len() as f64 * weights;
        let sft = if self.sft.steps > 0 && !self.sft.lora { BYTES_TRAINED } else { BYTES_FROZEN };
        let quantised = self.model.base.is_quantised();
        // A quantised base is packed tensor by tensor while it is read.
        let sft = if quantised { 0.5 } else { sft };
        let policies = BYTES_TRAINED * (adapter + heads);
        let per_weight = match self.model.base {
            _ if quantised => 0.5,
            BaseFormat::Bf16 => 2.0,
            _ => BYTES_FROZEN,
        };
        let frozen = per_weight * base;
        for (bytes, what, remedy) in [
            (
                sft * base,
                format!("the base model has {} parameters", count_of_parameters(base)),
                match &self.model.source {
                    ModelSource::Scratch(_) => "make `[model.scratch]` smaller",
                    ModelSource::Hub(_) => {
                        "use a smaller `model.hub`, or set sft.steps=0 and model.base=nf4"
                    }
                },
            ),
            (
                frozen + policies,
                format!(
                    "adapter and heads have {} parameters beside the base model's {}",
                    count_of_parameters(adapter + heads),
                    count_of_parameters(base)
                ),
                if adapter > heads { "lower `lora.rank`" } else { "train fewer `policies`" },
            ),
        ] {
            if bytes > available as f64 {
                return Err(format!(
                    "{what}: training them takes about {}, and {} of memory are available; {remedy}, \
                     or use a machine with more memory",
                    readable_bytes(bytes as u64),
                    readable_bytes(available)
                ));
            }
        }
        Ok(())
    }
}

impl PhaseConfig {
    /// Refuses batches whose activations alone need more than `available` bytes. `n_tokens`: size
    /// of the
    /// longest batch.
    ///
    /// # Errors
    /// Names `batch_size` of the section.
    pub(crate) fn check_batches(
        &self,
        section: &str,
        model: &DecoderShape,
        n_tokens: usize,
        available: u64,
    ) -> Result<()> {
        let (d, f) = (model.hidden_size as f64, model.intermediate_size as f64);
        // What a block keeps for its gradients, in f32: its input, the rows of both norms and of
        // attention, and the feed-forward layer before and after its activation.
        let kept = if self.gradient_checkpointing { d } else { 6.0 * d + 2.0 * f };
        let bytes = 4.0 * n_tokens as f64 * model.num_hidden_layers as f64 * kept;
        if self.steps == 0 || bytes <= available as f64 {
            return Ok(());
        }
        let remedy = match self.gradient_checkpointing {
            true => String::new(),
            false => format!(", or set {section}.gradient_checkpointing=true"),
        };
        Err(Error::Config {
            origin: format!("`{section}.batch_size`"),
            message: format!(
                "it is {}: a batch has up to {n_tokens} tokens, which take about {}, and {} of memory \
                 are available; lower it and raise `{section}.gradient_accumulation_steps`{remedy}",
                self.batch_size,
                readable_bytes(bytes as u64),
                readable_bytes(available)
            ),
        })
    }
}

/// A number of parameters in a readable form.
pub(crate) fn count_of_parameters(n: f64) -> String {
    match n {
        n if n >= 1e9 => format!("{:.1} billion", n / 1e9),
        n if n >= 1e6 => format!("{:.1} million", n / 1e6),
        n => format!("{n}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_no_memory_holds_are_refused_by_their_key() {
        let config = RunConfig::preset("demo").unwrap();
        let ModelSource::Scratch(shape) = &config.model.source else { panic!("the demo's model") };
        let model = shape.shape(768).unwrap();
        // 1,000,000 tokens · 4 blocks · (6 · 128 + 2 · 512) · 4 bytes: 28.7 GB.
        let check = |phase: &PhaseConfig, available| {
            phase.check_batches("training", &model, 1_000_000, available)
        };
        let e = check(&config.training, 4 << 30).unwrap_err().to_string();
        for part in ["`training.batch_size`", "28.7 GB", "gradient_checkpointing=true"] {
            assert!(e.contains(part), "{part}: {e}");
        }
        check(&config.training, 32 << 30).unwrap();
        let frugal = PhaseConfig { gradient_checkpointing: true, ..config.training.clone() };
        check(&frugal, 4 << 30).unwrap();
        check(&PhaseConfig { steps: 0, ..config.training }, 1).unwrap();
    }
}
