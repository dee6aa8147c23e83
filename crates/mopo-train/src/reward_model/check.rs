//! Checks of a reward model's configuration: ranges, files and memory.

use mopo_core::Objectives;
use mopo_data::Tokenizer;
use mopo_eval::reward::RewardTokenizer;
use mopo_hub::readable_bytes;
use mopo_lm::{ClassifierShape, DecoderShape, LoraConfig};

use super::config::{DecoderModel, RewardModel, RewardTrainConfig, TrainingConfig};
use crate::config::ranges::{self, Checked, MAX_BATCH, MAX_STEPS, MAX_TOKENS};
use crate::config::{
    BYTES_FROZEN, BYTES_TRAINED, TokenizerConfig, check_head, count_of_parameters,
};
use crate::models::{decoder_dir, model_dir, tokenizer_file, tokenizer_of};
use crate::{Error, Result};

/// Larger than any model, and small enough that products of sizes do not overflow.
const MAX_WIDTH: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 14;
/// More parameters than any classifier has.
const MAX_PARAMETERS: f64 = 1e12;

impl RewardTrainConfig {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names the key and the accepted values.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config { origin: self.name.clone(), message });
        check_head(&self.name, self.seed).or_else(fail)?;
        Objectives::new([self.objective.as_str()])?;
        let d = &self.data;
        ranges::fraction("data.heldout_fraction", d.heldout_fraction).or_else(fail)?;
        ranges::fraction("data.validation_fraction", d.validation_fraction).or_else(fail)?;
        match (&d.pairs, &d.texts) {
            (Some(pairs), None) => pairs.source.check().or_else(fail)?,
            (Some(_), Some(_)) => {
                return fail("both `[data.pairs]` and `[data.texts]` are present; keep one".into());
            }
            (None, None) => {
                return fail(
                    "add `[data.pairs]` (compared pairs) or `[data.texts]` (labelled texts)".into(),
                );
            }
            (None, Some(texts)) => {
                for (key, value) in
                    [("text", &texts.text), ("label", &texts.label), ("positive", &texts.positive)]
                {
                    if value.is_empty() {
                        return fail(format!(
                            "`data.texts.{key}` is empty; name a column or label"
                        ));
                    }
                }
            }
        }
        if let Some(tokenizer) = &self.tokenizer {
            tokenizer.check().or_else(fail)?;
        }
        match (&self.model, &self.tokenizer) {
            (RewardModel::Hub(_) | RewardModel::Decoder(_), Some(_)) => {
                return fail("the model has its own tokenizer; remove `[tokenizer]`".into());
            }
            (RewardModel::Gpt2(_) | RewardModel::Distilbert(_), None) => {
                return fail(
                    "a model from random weights needs `[tokenizer]`: `vocab_size = N`, \
                             or `file = \"tokenizer.json\"`"
                        .into(),
                );
            }
            _ => {}
        }
        match (&self.model, &self.lora) {
            (RewardModel::Decoder(_), Some(lora)) => lora.check()?,
            (RewardModel::Decoder(_), None) => {
                return fail(
                    "`[model.decoder]` is trained with an adapter: add `[lora]`, as a run has it"
                        .into(),
                );
            }
            (_, Some(_)) => {
                return fail(
                    "all weights of this model are trained: remove `[lora]`, or use `[model.decoder]`"
                        .into(),
                );
            }
            (_, None) => {}
        }
        self.model.check().or_else(fail)?;
        ranges::count("input.max_length", self.input.max_length, 3..=MAX_TOKENS).or_else(fail)?;
        if !self.input.text.contains("{response}") {
            return fail(format!(
                "`input.text` is {:?}; it must contain {{response}}, and may contain {{prompt}}",
                self.input.text
            ));
        }
        if d.texts.is_some() && self.input.text.contains("{prompt}") {
            return fail("labelled texts have no prompt; remove {prompt} from `input.text`".into());
        }
        self.training.check().or_else(fail)?;
        self.checkpoints.check().or_else(fail)
    }

    /// Checks a new training's configuration against the files that it names, which have been
    /// [fetched](Self::fetch_models), and its model's size against `memory`, in bytes (`None`:
    /// not compared).
    ///
    /// # Errors
    /// Names the key, and the accepted values.
    pub fn check_files(&self, memory: Option<u64>) -> Result<()> {
        let fail = |message: String| Err(Error::Config { origin: self.name.clone(), message });
        if let RewardModel::Hub(model) = &self.model {
            let dir = model_dir(model)?;
            let shape = ClassifierShape::read(&dir)?;
            let needed = self.data.n_labels();
            if shape.labels.len() != needed {
                return fail(format!(
                    "`model.hub` has {} labels ({}), but {needed} are needed: 1 for pairs, 2 for texts \
                     of two kinds",
                    shape.labels.len(),
                    shape.labels.join(", ")
                ));
            }
            let input = &self.input;
            if input.max_length > shape.max_tokens {
                return fail(format!(
                    "`input.max_length` is {}, but {} has {} positions: lower it",
                    input.max_length,
                    dir.display(),
                    shape.max_tokens
                ));
            }
            RewardTokenizer::load(
                &dir,
                shape.architecture,
                input.max_length,
                input.truncation_side,
            )?;
            return Ok(());
        }
        if let (RewardModel::Decoder(model), Some(lora)) = (&self.model, &self.lora) {
            return self.check_decoder(model, lora, memory);
        }
        let vocabulary = match &self.tokenizer {
            Some(TokenizerConfig::File(file)) => {
                Tokenizer::load(tokenizer_file(file)?)?.vocab_size()
            }
            Some(TokenizerConfig::Train(size)) => *size,
            None => 0,
        };
        let parameters = self.model.parameters(vocabulary, self.input.max_length);
        let bytes = BYTES_TRAINED * parameters;
        match memory {
            Some(available) if bytes > available as f64 => fail(format!(
                "the model has {} parameters: training them takes about {}, and {} of memory are \
                 available; make `[model.{}]` smaller, or use a machine with more memory",
                count_of_parameters(parameters),
                readable_bytes(bytes as u64),
                readable_bytes(available),
                self.model.architecture()
            )),
            _ => Ok(()),
        }
    }
}

impl RewardTrainConfig {
    /// Checks a language model's files, the adapter that is to fit it, and its size.
    fn check_decoder(
        &self,
        model: &DecoderModel,
        lora: &LoraConfig,
        memory: Option<u64>,
    ) -> Result<()> {
        let fail = |message: String| Err(Error::Config { origin: self.name.clone(), message });
        let dir = decoder_dir(&model.hub)?;
        let shape = DecoderShape::read(&dir)?;
        lora.check_fits(&shape)?;
        let (max_length, positions) = (self.input.max_length, shape.max_position_embeddings);
        if max_length > positions {
            return fail(format!(
                "`input.max_length` is {max_length}, but {} has {positions} positions: lower it",
                dir.display()
            ));
        }
        Tokenizer::load(tokenizer_of(dir))?.check_fits(shape.vocab_size)?;
        // At the end the adapter is merged into weights in f32.
        let trained = BYTES_TRAINED * lora.num_params(&shape) as f64;
        let bytes = trained + BYTES_FROZEN * shape.num_params as f64;
        match memory {
            Some(available) if bytes > available as f64 => fail(format!(
                "`model.decoder.hub` has {} parameters: with the adapter merged into it they take about \
                 {}, and {} of memory are available; use a smaller model, or a machine with more memory",
                count_of_parameters(shape.num_params as f64),
                readable_bytes(bytes as u64),
                readable_bytes(available)
            )),
            _ => Ok(()),
        }
    }
}

impl RewardModel {
    fn check(&self) -> Checked {
        let (kind, width, heads) = match self {
            Self::Gpt2(s) => ("gpt2", ("n_embd", s.n_embd), ("n_head", s.n_head)),
            Self::Distilbert(s) => ("distilbert", ("dim", s.dim), ("n_heads", s.n_heads)),
            Self::Hub(_) | Self::Decoder(_) => return Ok(()),
        };
        let (layers, inner) = match self {
            Self::Distilbert(s) => (("n_layers", s.n_layers), Some(("hidden_dim", s.hidden_dim))),
            Self::Gpt2(s) => (("n_layer", s.n_layer), None),
            Self::Hub(_) | Self::Decoder(_) => return Ok(()),
        };
        let key = |name: &str| format!("model.{kind}.{name}");
        for (name, value) in [width, heads].into_iter().chain(inner) {
            ranges::count(&key(name), value, 1..=MAX_WIDTH)?;
        }
        ranges::count(&key(layers.0), layers.1, 1..=MAX_LAYERS)?;
        if width.1 % heads.1 != 0 {
            return Err(format!(
                "`{}` is {}; it must divide `{}`, which is {}",
                key(heads.0),
                heads.1,
                key(width.0),
                width.1
            ));
        }
        match self.parameters(1, 1) {
            n if n > MAX_PARAMETERS => Err(format!(
                "`model.{kind}` has {} parameters; it must have fewer than 1000 billion",
                count_of_parameters(n)
            )),
            _ => Ok(()),
        }
    }

    /// Number of parameters of a model with random weights, without biases.
    fn parameters(&self, vocabulary: usize, positions: usize) -> f64 {
        let (width, inner, layers) = match self {
            Self::Gpt2(s) => (s.n_embd, 4.0 * s.n_embd as f64, s.n_layer),
            Self::Distilbert(s) => (s.dim, s.hidden_dim as f64, s.n_layers),
            Self::Hub(_) | Self::Decoder(_) => return 0.0,
        };
        let (width, layers) = (width as f64, layers as f64);
        let embeddings = (vocabulary as f64 + positions as f64) * width;
        embeddings + layers * (4.0 * width * width + 2.0 * width * inner)
    }
}

impl TrainingConfig {
    fn check(&self) -> Checked {
        ranges::count("training.steps", self.steps, 1..=MAX_STEPS)?;
        ranges::count("training.batch_size", self.batch_size, 1..=MAX_BATCH)?;
        ranges::positive("training.learning_rate", self.learning_rate)?;
        ranges::count("training.warmup_steps", self.warmup_steps, 0..=MAX_STEPS)?;
        ranges::not_negative("training.max_grad_norm", self.max_grad_norm)?;
        ranges::not_negative("training.weight_decay", self.weight_decay)?;
        ranges::count("training.eval_steps", self.eval_steps, 1..=MAX_STEPS)?;
        ranges::count(
            "training.early_stopping_patience",
            self.early_stopping_patience,
            1..=MAX_STEPS,
        )?;
        if self.learning_rate * self.weight_decay >= 1.0 {
            return Err("`training.weight_decay` × `learning_rate` must be below 1".into());
        }
        if !(0.0..1.0).contains(&self.token_dropout) {
            return Err(format!(
                "`training.token_dropout` is {}; it must lie in [0, 1)",
                self.token_dropout
            ));
        }
        Ok(())
    }
}
