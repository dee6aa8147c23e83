//! Text generation with policies of a finished run, exported policies, or a plain model from
//! Hugging Face.

mod answerer;
mod chat;
mod session;
mod stops;

use std::borrow::Cow;
use std::path::Path;

use burn::module::Module;
use mopo_core::divergence::Divergence;
use mopo_data::{ChatTemplate, PromptForm, Tokenizer};
use mopo_lm::{
    CausalLm, Decoder, Decoding, GenerationConfig, HeadChoice, HubGeneration, Mixing, PackedBatch,
    PolicyParams, load_policy,
};
use mopo_ops::FusedBackend;

use crate::conditioned::Conditioning;
use crate::config::BaseFormat;
use crate::tokens::{load_run_tokenizer, load_tokenizer};
use crate::{Error, Progress, Result, RunConfig, RunDir, load_base};
pub(crate) use answerer::Answerer;
use answerer::bounded;
pub use chat::Reply;
pub use session::{Accepted, LikelyToken, Prompt, Question, Session, TextEvent, TokenText};
pub use stops::StopScanner;

/// Number of prompts per batch.
const BATCH: usize = 32;

/// Names of the model without a policy; the second is an earlier one.
pub(crate) const WITHOUT_POLICY: [&str; 2] = ["sft", "warm-start"];
/// The name of the mixture with the worst weights.
pub(crate) const WORST_CASE: &str = "worst-case";

/// A model with its policies, or without any, ready for generation.
#[derive(Debug)]
pub struct Sampler<B: FusedBackend> {
    base: CausalLm<B>,
    params: Option<PolicyParams<B>>,
    tokenizer: Tokenizer,
    /// The template of its prompts, if known and not the model's own.
    template: Option<ChatTemplate>,
    defaults: HubGeneration,
    max_prompt_tokens: Option<usize>,
    names: Vec<String>,
    /// How policies make another one for preference weights.
    mixing: Mixing,
    /// What prompts say, if there is one policy for all weights.
    conditioning: Option<Conditioning>,
    /// What they say instead, whatever the policy.
    note: Option<String>,
    device: B::Device,
}

/// A caller's settings of generation, instead of the model's defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct SamplingOverrides {
    /// Maximum number of new tokens.
    pub max_new_tokens: Option<usize>,
    /// Sampling temperature; 0 is greedy.
    pub temperature: Option<f64>,
    /// Sample from the K most likely tokens; 0 means all.
    pub top_k: Option<usize>,
    /// Sample from the smallest set of tokens with this total probability.
    pub top_p: Option<f64>,
    /// Sample only from tokens at least this probable, relative to the most likely one; 0 means all.
    pub min_p: Option<f64>,
    /// Penalty of tokens that prompt or answer have; 1 means none.
    pub repetition_penalty: Option<f64>,
    /// Penalty of tokens that the answer has; 0 means none.
    pub presence_penalty: Option<f64>,
    /// The same for each time that it has them.
    pub frequency_penalty: Option<f64>,
    /// Seed of sampling.
    pub seed: u64,
}

/// What a choice of policy comes to.
struct Resolved<'a, B: FusedBackend> {
    /// The parameters that it needs, and the choice among them.
    params: Option<Cow<'a, PolicyParams<B>>>,
    decoding: Decoding,
    /// What is added to prompts.
    note: Option<String>,
}

impl<B: FusedBackend> Sampler<B> {
    /// Loads a run, an export or a plain model.
    ///
    /// # Errors
    /// The directory is none of them; those of [`load`](Self::load),
    /// [`load_export`](Self::load_export) and
    /// [`load_hub`](Self::load_hub).
    pub fn open(dir: &Path, device: &B::Device) -> Result<Self> {
        Self::open_in(dir, None, device)
    }

    /// The same with the base in a format of its own, instead of the run's or the file's.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); weights that cannot be quantised.
    pub fn open_in(dir: &Path, base: Option<BaseFormat>, device: &B::Device) -> Result<Self> {
        if RunDir::is_run(dir) {
            let (run, config, _) = RunDir::open(dir)?;
            return Self::load_run(&run, &config, base.unwrap_or(config.model.base), device);
        }
        let base = base.unwrap_or_default();
        if dir.join("policy/policy.json").exists() {
            return Self::load_export(dir, base, device);
        }
        if dir.join("config.json").exists() || mopo_lm::gguf_file(dir).is_some() {
            return Self::load_hub(dir, base, device);
        }
        Err(Error::Corrupt {
            path: dir.into(),
            message: "this is neither a run (no config.toml), nor an export of all policies (no \
                      policy/policy.json), nor a Hugging Face model (no config.json), nor a GGUF file"
                .into(),
        })
    }

    /// Loads base, adapter and heads of a run.
    ///
    /// # Errors
    /// The run is not finished, or a file is damaged.
    pub fn load(run: &RunDir, config: &RunConfig, device: &B::Device) -> Result<Self> {
        Self::load_run(run, config, config.model.base, device)
    }

    fn load_run(
        run: &RunDir,
        config: &RunConfig,
        base: BaseFormat,
        device: &B::Device,
    ) -> Result<Self> {
        run.check_finished()?;
        run.check_policies(&run.read_record(config)?)?;
        let (tokenizer, template) = load_run_tokenizer(run, config)?;
        let base = load_base::<B>(run, base, device)?;
        let mut this = Self::plain(base, tokenizer, device)?.with_policies(run.path())?;
        this.template = template;
        this.defaults = config.evaluation.generation();
        this.max_prompt_tokens = Some(config.data.max_prompt_tokens);
        Ok(this)
    }

    /// Loads a directory written by `mopo export` with all policies: `base/`, `policy/` and the
    /// tokenizer. Exports from before templates were recorded use HH-RLHF's template.
    ///
    /// # Errors
    /// A file that is missing, damaged or does not fit the others.
    pub fn load_export(dir: &Path, base: BaseFormat, device: &B::Device) -> Result<Self> {
        let tokenizer = load_tokenizer(dir)?;
        let base = frozen(&dir.join("base"), base, device)?;
        let mut this = Self::plain(base, tokenizer, device)?.with_policies(dir)?;
        if this.tokenizer.form() != PromptForm::Model {
            this.template = this.template.or(Some(ChatTemplate::Dialogue));
        }
        this.defaults = HubGeneration::declared(dir)?;
        Ok(this)
    }

    /// Loads a plain model from a Hugging Face model directory, with its `tokenizer.json`, or from a GGUF
    /// file. It has no policies: only [`HeadChoice::Base`] can be used. Prompts are put into its chat
    /// template; if it has none that can be rendered, they are used as they are, special tokens in them
    /// included.
    ///
    /// # Errors
    /// A file that is missing, damaged or does not fit the others; a tokenizer with more tokens
    /// than
    /// the model has rows.
    pub fn load_hub(dir: &Path, base: BaseFormat, device: &B::Device) -> Result<Self> {
        let mut tokenizer = load_tokenizer(dir)?;
        if tokenizer.form() == PromptForm::Text {
            tokenizer = tokenizer.with_form(PromptForm::Raw)?;
        }
        let base = frozen(dir, base, device)?;
        let mut this = Self::plain(base, tokenizer, device)?;
        this.defaults = HubGeneration::declared(dir)?;
        Ok(this)
    }

    fn plain(base: CausalLm<B>, tokenizer: Tokenizer, device: &B::Device) -> Result<Self> {
        tokenizer.check_fits(base.shape().vocab_size)?;
        let template = match tokenizer.form() {
            PromptForm::Template(template) => Some(template),
            PromptForm::Text | PromptForm::Raw | PromptForm::Model => None,
        };
        Ok(Self {
            base,
            params: None,
            tokenizer,
            template,
            defaults: HubGeneration::default(),
            max_prompt_tokens: None,
            names: vec![],
            mixing: Mixing::default(),
            conditioning: None,
            note: None,
            device: device.clone(),
        })
    }

    fn with_policies(mut self, dir: &Path) -> Result<Self> {
        let (params, meta) = load_policy(dir.join("policy"), &self.base, &self.device)?;
        (self.params, self.names, self.mixing) = (Some(params), meta.objectives, meta.mixing);
        self.conditioning = Conditioning::read(&dir.join("policy"))?;
        if let Some(conditioning) = &self.conditioning {
            self.names = conditioning.objectives().to_vec();
        }
        Ok(self)
    }

    /// The policies' primary objectives, in the order of the heads.
    pub fn policies(&self) -> &[String] {
        &self.names
    }

    /// Whether the model has a chat template that cannot be rendered here: prompts are taken as they
    /// are.
    pub fn has_unknown_template(&self) -> bool {
        self.template.is_none() && self.tokenizer.has_unknown_template()
    }

    /// Unsupported settings of the model's generation, as `key: value`.
    pub fn ignored_settings(&self) -> Vec<String> {
        self.defaults.ignored()
    }

    /// A policy by its objective, the model without policies (`sft`), or a mixture of all
    /// policies with these weights; by default the first policy.
    ///
    /// # Errors
    /// An unknown name, or a policy of a model without any.
    pub fn head(&self, policy: Option<&str>, weights: Option<&[f32]>) -> Result<HeadChoice> {
        let origin = if weights.is_some() { "--weights" } else { "--policy" };
        let wrong = |message: String| Error::Config { origin: origin.into(), message };
        let is_base = policy.is_some_and(|name| WITHOUT_POLICY.contains(&name));
        if self.names.is_empty() {
            return match weights.is_some() || (policy.is_some() && !is_base) {
                true => Err(wrong("a plain model has no policies to choose from".into())),
                false => Ok(HeadChoice::Base),
            };
        }
        if let Some(weights) = weights {
            return Ok(HeadChoice::Mixture(weights.to_vec()));
        }
        let Some(name) = policy else { return Ok(HeadChoice::Policy(0)) };
        if is_base {
            return Ok(HeadChoice::Base);
        }
        let known = self.names.iter().position(|known| known == name).map(HeadChoice::Policy);
        // One policy is its own worst case.
        let has_worst = self.names.len() > 1 && self.conditioning.is_none();
        let worst = (has_worst && name == WORST_CASE).then_some(HeadChoice::WorstCase);
        known.or(worst).ok_or_else(|| {
            let mut choices = format!(
                "the policies are {}, and `{}` is the model without a policy",
                self.names.join(", "),
                WITHOUT_POLICY.join("` or `")
            );
            if has_worst {
                choices +=
                    &format!("; `{WORST_CASE}` mixes all with the weights that are worst for it");
            }
            match name == WORST_CASE {
                true => wrong(format!(
                    "`{WORST_CASE}` is a mixture of policies with heads of their own, and there is one policy for all; \
                     {choices}"
                )),
                false => wrong(format!("unknown policy `{name}`; {choices}")),
            }
        })
    }

    /// The distribution of a choice: mixed as the policies were saved to be, or with another divergence.
    ///
    /// # Errors
    /// A divergence where parameters are averaged.
    pub fn decoding(&self, head: HeadChoice, divergence: Option<Divergence>) -> Result<Decoding> {
        let is_mixture = matches!(head, HeadChoice::Mixture(_));
        if divergence.is_some() && self.is_conditioned() {
            return Err(Error::Config {
                origin: "--divergence".into(),
                message:
                    "this policy is told its weights in the prompt and is not mixed; leave it out"
                        .into(),
            });
        }
        let divergence = match (self.mixing, divergence) {
            (Mixing::Parameters, Some(_)) if is_mixture => {
                return Err(Error::Config {
                    origin: "--divergence".into(),
                    message: "these policies are mixed by averaging their parameters, which has no divergence; \
                              leave it out"
                        .into(),
                });
            }
            (_, Some(divergence)) => divergence,
            (Mixing::Logits(divergence), None) if is_mixture => divergence,
            _ => Divergence::default(),
        };
        Ok(Decoding { head, divergence })
    }

    /// The weights of a mixture from those that a person named: one for each policy in their order, or by names of
    /// policies, the others 0.
    ///
    /// # Errors
    /// Names with and without; an unknown name, or one given twice.
    pub fn weights(&self, given: &[(Option<String>, f32)]) -> Result<Vec<f32>> {
        let wrong = |message: String| Error::Config { origin: "--weights".into(), message };
        if given.iter().all(|(name, _)| name.is_none()) {
            return Ok(given.iter().map(|(_, weight)| *weight).collect());
        }
        let mut weights = vec![None; self.names.len()];
        for (name, weight) in given {
            let Some(name) = name else {
                return Err(wrong("give names to all weights or to none".into()));
            };
            let index = self.names.iter().position(|known| known == name).ok_or_else(|| {
                wrong(format!(
                    "unknown policy `{name}`; the policies are {}",
                    self.names.join(", ")
                ))
            })?;
            if weights[index].replace(*weight).is_some() {
                return Err(wrong(format!("policy `{name}` has two weights")));
            }
        }
        Ok(weights.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// The prompt for what a person typed, in the template that the model was trained with. The
    /// model's own is applied later, to tokens.
    ///
    /// # Errors
    /// A text that the template cannot express.
    pub fn prompt(&self, typed: &str) -> Result<String> {
        match self.template {
            None => Ok(typed.into()),
            Some(template) => template
                .ask(typed)
                .map_err(|message| Error::Config { origin: "--prompt".into(), message }),
        }
    }

    /// The generation settings for these prompts: those requested, else the model's own.
    ///
    /// # Errors
    /// A prompt that the tokenizer refuses, or a `max_length` that leaves no room.
    pub fn generation(
        &self,
        overrides: &SamplingOverrides,
        prompts: &[String],
    ) -> Result<GenerationConfig> {
        let longest = self.prompt_tokens(prompts)?.iter().map(Vec::len).max().unwrap_or(0);
        self.settings(overrides, longest)
    }

    /// The same for prompts of at most `longest` tokens.
    fn settings(&self, overrides: &SamplingOverrides, longest: usize) -> Result<GenerationConfig> {
        let mut defaults = self.defaults.clone();
        defaults.max_new_tokens = overrides.max_new_tokens.or(defaults.max_new_tokens);
        let config = defaults.config(longest)?;
        Ok(GenerationConfig {
            temperature: overrides.temperature.unwrap_or(config.temperature),
            top_k: overrides.top_k.unwrap_or(config.top_k),
            top_p: overrides.top_p.unwrap_or(config.top_p),
            min_p: overrides.min_p.unwrap_or(config.min_p),
            repetition_penalty: overrides.repetition_penalty.unwrap_or(config.repetition_penalty),
            presence_penalty: overrides.presence_penalty.unwrap_or(config.presence_penalty),
            frequency_penalty: overrides.frequency_penalty.unwrap_or(config.frequency_penalty),
            seed: overrides.seed,
            ..config
        })
    }

    /// One response per prompt, cut at the next turn if the template has no end-of-turn token. A
    /// response ends at the model's own end tokens and those of `generation`. Prompts longer than
    /// the
    /// run's limit are cut from the left, as in training. Ids without a token are
    /// never chosen. `head`: a [`HeadChoice`], or a [`Decoding`]
    /// for a mixture under another divergence than reverse KL.
    ///
    /// # Errors
    /// Settings or head out of range, a prompt without tokens.
    pub fn answer(
        &self,
        head: impl Into<Decoding>,
        prompts: &[String],
        generation: &GenerationConfig,
        progress: &mut dyn Progress,
    ) -> Result<Vec<String>> {
        let Resolved { params, decoding, note } = self.resolved(head.into())?;
        let params = params.as_deref();
        let tokens = self.noted_tokens(note.as_deref(), prompts)?;
        self.check_lengths(&tokens, generation.max_new_tokens)?;
        let answerer = Answerer {
            base: &self.base,
            params,
            tokenizer: &self.tokenizer,
            template: self.template,
            device: &self.device,
        };
        let answers = answerer.answer(&decoding, &tokens, None, generation, progress)?;
        Ok(answers.into_iter().map(|answer| answer.text).collect())
    }

    /// Whether an answer depends on neither the prompts it is generated with nor their number, bit for bit.
    pub fn answers_alone(&self) -> bool {
        B::FEW_LINES.is_some()
    }

    /// Refuses prompts for which [`answer`](Self::answer) would fail, before any is answered.
    ///
    /// # Errors
    /// A prompt without tokens, or one that leaves no room for its answer; a choice that there is not.
    pub fn check_prompts(
        &self,
        head: impl Into<Decoding>,
        prompts: &[String],
        generation: &GenerationConfig,
    ) -> Result<()> {
        let Resolved { note, .. } = self.resolved(head.into())?;
        let tokens = self.noted_tokens(note.as_deref(), prompts)?;
        self.check_lengths(&tokens, generation.max_new_tokens)
    }

    /// Token ids of prompts with what the policy is told.
    fn noted_tokens(&self, note: Option<&str>, prompts: &[String]) -> Result<Vec<Vec<u32>>> {
        let Some(note) = note else { return self.prompt_tokens(prompts) };
        let most = self.max_prompt_tokens.unwrap_or(usize::MAX);
        let noted = |prompt: &String| Ok(self.tokenizer.encode_noted_prompt(prompt, note, most)?);
        prompts.iter().map(noted).collect()
    }

    /// The weights with which parameters are averaged for a choice, if they are.
    fn averaged_weights(&self, decoding: &Decoding) -> Option<Vec<f32>> {
        let averages = self.mixing == Mixing::Parameters && self.conditioning.is_none();
        match &decoding.head {
            HeadChoice::Mixture(weights) if averages && self.params.is_some() => {
                Some(weights.clone())
            }
            _ => None,
        }
    }

    /// What a choice comes to.
    fn resolved(&self, decoding: Decoding) -> Result<Resolved<'_, B>> {
        Ok(match (&decoding.head, &self.params) {
            (HeadChoice::Base, _) | (_, None) => Resolved { params: None, decoding, note: None },
            (head, Some(params)) if self.conditioning.is_some() => Resolved {
                note: Some(self.note_of(head)?),
                params: Some(Cow::Borrowed(params)),
                decoding: HeadChoice::Policy(0).into(),
            },
            (HeadChoice::Mixture(weights), Some(params)) if self.mixing == Mixing::Parameters => {
                Resolved {
                    params: Some(Cow::Owned(params.interpolated(weights)?)),
                    decoding: HeadChoice::Policy(0).into(),
                    note: None,
                }
            }
            (_, Some(params)) => {
                Resolved { params: Some(Cow::Borrowed(params)), decoding, note: None }
            }
        })
    }

    /// What the prompts of a policy for all weights say for a choice.
    fn note_of(&self, head: &HeadChoice) -> Result<String> {
        let conditioning = self.conditioning.as_ref().expect("the caller has looked");
        head.check(self.names.len())?;
        Ok(match (&self.note, head) {
            (Some(note), _) => note.clone(),
            (None, HeadChoice::Policy(k)) => conditioning.corner(*k),
            (None, HeadChoice::Mixture(weights)) => conditioning.note(weights),
            (None, HeadChoice::Base | HeadChoice::WorstCase) => {
                return Err(Error::Config {
                    origin: "--policy".into(),
                    message: format!(
                        "this run has one policy that is told its aim, so there is no `{WORST_CASE}` of several: give an \
                         objective, --weights or --targets"
                    ),
                });
            }
        })
    }

    /// A sampler whose policy is told to reach these scores, in standard deviations from the mean of its training set:
    /// one for each objective, by name.
    ///
    /// # Errors
    /// A policy whose prompts do not say scores, names that are unknown or missing, scores outside the range that is
    /// asked for in training.
    pub fn aimed_at(mut self, targets: &[(String, f64)]) -> Result<Self> {
        let Some(conditioning) = &self.conditioning else {
            return Err(Error::Config {
                origin: "--targets".into(),
                message: "only a policy trained with the method `ric` is told scores; give --policy or --weights".into(),
            });
        };
        self.note = Some(conditioning.targets(targets)?);
        Ok(self)
    }

    /// Whether there is one policy for all weights, which is told in its prompts what to aim at.
    pub fn is_conditioned(&self) -> bool {
        self.conditioning.is_some()
    }

    /// The settings with the tokenizer's limits: its ids, and its tokens that end a response.
    fn bounded(&self, generation: GenerationConfig) -> GenerationConfig {
        bounded(&self.tokenizer, generation)
    }

    /// The policies' own hidden state of each prompt, `[n_prompts][hidden_size]`: the states after
    /// the
    /// last LayerNorm, averaged over the prompt's tokens, with the adapter that all policies
    /// share (without policies, the base's; if each has its own, the mean of theirs). Prompts longer than the run's limit are cut from the
    /// left.
    ///
    /// # Errors
    /// A prompt without tokens.
    pub fn prompt_states(&self, prompts: &[String]) -> Result<Vec<Vec<f32>>> {
        let tokens = self.prompt_tokens(prompts)?;
        let adapters: Vec<_> = match &self.params {
            Some(params) => params.adapters.iter().map(Some).collect(),
            None => vec![None],
        };
        let mut states = Vec::with_capacity(prompts.len());
        for batch in tokens.chunks(BATCH) {
            let packed = PackedBatch::prompts(batch)?;
            let inputs = packed.inputs::<B>(&self.device);
            let of = |adapter: &Option<&_>| self.base.hidden_states_packed(&inputs, *adapter);
            let sum = adapters.iter().map(of).reduce(|a, b| a + b).expect("at least the base");
            let hidden = sum.div_scalar(adapters.len() as f64);
            let mut start = 0;
            for ids in batch {
                let own = hidden.clone().narrow(0, start, ids.len());
                states.push(own.mean_dim(0).into_data().iter::<f32>().collect());
                start += ids.len();
            }
        }
        Ok(states)
    }

    /// Refuses prompts that leave no room for their answers, before any is generated.
    fn check_lengths(&self, prompts: &[Vec<u32>], n_new: usize) -> Result<()> {
        let max = self.base.shape().max_position_embeddings;
        let too_long = |prompt: &Vec<u32>| prompt.len().saturating_add(n_new) > max;
        match prompts.iter().position(too_long) {
            Some(index) => {
                let n_prompt = prompts[index].len();
                Err(mopo_lm::Error::TooLong { index, n_prompt, n_new, max }.into())
            }
            None => Ok(()),
        }
    }

    /// What to say of prompts that are longer than a run's limit, if there are any: how many, and what happens to them.
    ///
    /// # Errors
    /// A prompt that the tokenizer refuses.
    pub fn cut_prompts(&self, prompts: &[String]) -> Result<Option<String>> {
        let Some(most) = self.max_prompt_tokens else { return Ok(None) };
        let mut n_cut = 0;
        for prompt in prompts {
            n_cut += usize::from(self.tokenizer.encode_prompt(prompt, most)?.1);
        }
        Ok((n_cut > 0).then(|| {
            format!(
                "note: {n_cut} of {} prompts have more than {most} tokens, the run's `data.max_prompt_tokens`: their \
                 beginnings are left out",
                prompts.len()
            )
        }))
    }

    /// Token ids of prompts, cut to the run's limit.
    fn prompt_tokens(&self, prompts: &[String]) -> Result<Vec<Vec<u32>>> {
        let most = self.max_prompt_tokens.unwrap_or(usize::MAX);
        prompts.iter().map(|prompt| Ok(self.tokenizer.encode_prompt(prompt, most)?.0)).collect()
    }
}

/// A frozen model from a Hugging Face model directory or a GGUF file.
pub(crate) fn frozen<B: FusedBackend>(
    dir: &Path,
    format: BaseFormat,
    device: &B::Device,
) -> Result<CausalLm<B>> {
    Ok(CausalLm::<B>::load(dir, format.load_options(), device)?.no_grad())
}
