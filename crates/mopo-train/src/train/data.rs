//! The data of a run in the form that training and evaluation use.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use mopo_core::Objectives;
use mopo_data::{LengthLimits, PreferenceRecord, PreparedSet, Tokenizer, tokenize};
use rand_chacha::ChaCha8Rng;

use crate::mixture::MixtureRecord;
use crate::run_dir::record::DATA;
use crate::{Pairs, Result, RunConfig, RunDir, RunRecord, load_tokenizer};

/// The data of a run, checked against its record.
#[derive(Debug)]
pub struct RunData {
    /// In the order of indicators.
    pub objectives: Objectives,
    /// The run's tokenizer.
    pub tokenizer: Tokenizer,
    /// Training pairs.
    pub train: Pairs,
    /// Training prompts, each once, in order. None where pairs stay on disk and the method neither changes nor answers them.
    pub train_prompts: Vec<TrainPrompt>,
    /// Held-out pairs.
    pub heldout: Pairs,
    /// Indicators of the held-out pairs as labelled.
    pub heldout_labels: Vec<Vec<Option<f32>>>,
    /// Held-out prompts, each once, in order.
    pub heldout_prompts: Vec<String>,
    /// The first held-out pair that has each of them.
    pub(crate) heldout_prompt_pairs: Vec<usize>,
    /// The prompt of each held-out pair.
    pub(crate) heldout_prompt_of: Vec<usize>,
    /// The training pairs' texts, for a method that changes or answers prompts; else empty, as if they stay on disk.
    train_records: Vec<PreferenceRecord>,
    /// The held-out pairs' texts, for a method that changes prompts; else empty.
    pub(crate) heldout_records: Vec<PreferenceRecord>,
    /// Prompts are cut to this number of tokens, without what a method tells in them.
    pub(crate) max_prompt_tokens: usize,
    /// The same with it.
    max_noted_tokens: usize,
    /// Messages about how many prompts and responses were cut.
    pub truncation: String,
}

/// A prompt of the training pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainPrompt {
    /// The training pairs that have it, in order.
    pub pairs: Vec<usize>,
}

impl TrainPrompt {
    /// The first training pair that has it.
    pub fn pair(&self) -> usize {
        self.pairs[0]
    }
}

/// Finds the prompts of pairs, of which it keeps no text.
#[derive(Default)]
struct PromptIndex {
    /// By 128 bits of their hash.
    known: HashMap<[u64; 2], usize>,
    prompts: Vec<TrainPrompt>,
    n_pairs: usize,
}

impl PromptIndex {
    fn push(&mut self, prompt: &str) {
        let half = |n: u8| {
            let mut hasher = DefaultHasher::new();
            (n, prompt).hash(&mut hasher);
            hasher.finish()
        };
        let at = *self.known.entry([half(0), half(1)]).or_insert_with(|| {
            self.prompts.push(TrainPrompt { pairs: vec![] });
            self.prompts.len() - 1
        });
        self.prompts[at].pairs.push(self.n_pairs);
        self.n_pairs += 1;
    }
}

impl RunData {
    /// `n` different training prompts by their index, at most all, in ascending order; from mixed sources by their weights.
    /// A prompt is of the source of its first pair.
    pub(crate) fn draw_prompts(&self, n: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        if let Some(mixture) = &self.train.mixture {
            return mixture.parts(self.train_prompts.iter().map(TrainPrompt::pair)).draw(n, rng);
        }
        let all = self.train_prompts.len();
        let mut drawn = rand::seq::index::sample(rng, all, n.min(all)).into_vec();
        drawn.sort_unstable();
        drawn
    }

    /// The tokens of a training prompt, by its index.
    ///
    /// # Errors
    /// The training set can no longer be read, where it is on disk.
    pub(crate) fn prompt_tokens(&self, prompt: usize) -> Result<Cow<'_, [u32]>> {
        Ok(match self.train.tokens.get(self.train_prompts[prompt].pair())? {
            Cow::Borrowed(tokens) => Cow::Borrowed(&tokens.prompt),
            Cow::Owned(tokens) => Cow::Owned(tokens.prompt),
        })
    }

    /// The same of several, in their order.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn tokens_of_prompts(
        &self,
        prompts: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<Vec<u32>>> {
        prompts.into_iter().map(|prompt| Ok(self.prompt_tokens(prompt)?.into_owned())).collect()
    }

    /// How many tokens each training prompt has.
    pub(crate) fn prompt_lengths(&self) -> Vec<usize> {
        let length = |prompt: &TrainPrompt| self.train.tokens.lengths(prompt.pair())[0];
        self.train_prompts.iter().map(length).collect()
    }

    /// The texts of training prompts, by their indices.
    ///
    /// # Errors
    /// The training set can no longer be read, where it is on disk.
    ///
    /// # Panics
    /// For a method that neither changes nor answers prompts.
    pub(crate) fn prompt_texts(
        &self,
        prompts: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<String>> {
        let text = |prompt: usize| -> Result<String> {
            Ok(self.train_record(self.train_prompts[prompt].pair())?.prompt.clone())
        };
        prompts.into_iter().map(text).collect()
    }

    /// The texts of a training pair.
    ///
    /// # Errors
    /// The training set can no longer be read, where it is on disk.
    ///
    /// # Panics
    /// For a method that neither changes nor answers prompts.
    pub(crate) fn train_record(&self, pair: usize) -> Result<Cow<'_, PreferenceRecord>> {
        Ok(match self.train.tokens.record(pair)? {
            Some(record) => Cow::Owned(record),
            None => Cow::Borrowed(&self.train_records[pair]),
        })
    }

    /// Reads and tokenises a run's data.
    ///
    /// # Errors
    /// A file is not the one that the run was started with.
    pub fn load(run: &RunDir, config: &RunConfig, record: &RunRecord) -> Result<Self> {
        record.check(run, DATA, false)?;
        let tokenizer = load_tokenizer(run.path())?;
        let heldout = PreparedSet::read(run.join("data/heldout.jsonl"))?;
        let limits = LengthLimits {
            max_prompt: config.data.max_prompt_tokens,
            max_response: config.data.max_response_tokens,
        };
        let estimator = config.method.estimator();
        let rollouts = config.method.rollouts(&config.policies);
        let changes_prompts = config.method.changes_prompts();
        let needs_texts = changes_prompts || rollouts.is_some();
        let train_path = run.join("data/train.jsonl");
        let mut index = PromptIndex::default();
        let (mut pairs, truncation, train_records) = match config.data.streaming {
            true => {
                let each = |record: &PreferenceRecord| {
                    if needs_texts {
                        index.push(&record.prompt);
                    }
                };
                let (pairs, truncation) =
                    Pairs::streamed(&train_path, &tokenizer, &limits, estimator, each)?;
                (pairs, truncation, vec![])
            }
            false => {
                let train = PreparedSet::read(&train_path)?;
                train.records.iter().for_each(|record| index.push(&record.prompt));
                let (tokens, truncation) = tokenize(&train.records, &tokenizer, &limits)?;
                (Pairs::new(&train.records, tokens, estimator), truncation, train.records)
            }
        };
        let (heldout_tokens, _) = tokenize(&heldout.records, &tokenizer, &limits)?;
        let mut heldout_prompts: Vec<String> = Vec::new();
        let mut heldout_prompt_pairs = Vec::new();
        let mut heldout_prompt_of = Vec::with_capacity(heldout.records.len());
        let mut seen = HashMap::new();
        for (pair, r) in heldout.records.iter().enumerate() {
            let prompt = *seen.entry(&r.prompt).or_insert_with(|| {
                heldout_prompts.push(r.prompt.clone());
                heldout_prompt_pairs.push(pair);
                heldout_prompts.len() - 1
            });
            heldout_prompt_of.push(prompt);
        }
        if let Some(mixture) = MixtureRecord::read(run)? {
            pairs.mixture = Some(mixture.mixture(run, pairs.len())?);
        }
        Ok(Self {
            objectives: heldout.header.objectives.clone(),
            train: pairs,
            train_prompts: index.prompts,
            heldout: Pairs::new(&heldout.records, heldout_tokens, estimator),
            heldout_labels: heldout.records.iter().map(|r| r.indicators.clone()).collect(),
            heldout_prompts,
            heldout_prompt_pairs,
            heldout_prompt_of,
            truncation: truncation.to_string(),
            tokenizer,
            max_prompt_tokens: limits.max_prompt,
            max_noted_tokens: usize::MAX,
            train_records: if needs_texts { train_records } else { vec![] },
            heldout_records: if changes_prompts { heldout.records } else { vec![] },
        })
    }

    /// The most tokens that a note of a method adds to a training prompt. Prompts with a note are from now on no longer
    /// than what leaves room for the longest response, or for `max_new_tokens`.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub(crate) fn make_room(
        &mut self,
        notes: &[String],
        positions: usize,
        max_new_tokens: usize,
    ) -> Result<usize> {
        let record = self.train_record(0)?;
        let length = |record: &PreferenceRecord| -> Result<usize> {
            Ok(self.tokenizer.encode_prompt_of(record, usize::MAX)?.0.len())
        };
        let plain = length(&record)?;
        let mut most = 0;
        for note in notes {
            most = most.max(length(&record.with_note(note))?.saturating_sub(plain));
        }
        let lengths = self.train.tokens.all_lengths().chain(self.heldout.tokens.all_lengths());
        let response = lengths.map(|[_, first, second]| first.max(second)).max().unwrap_or(0);
        self.max_noted_tokens = positions.saturating_sub(response.max(max_new_tokens));
        Ok(most)
    }

    /// The tokens of a training prompt with a note, cut at the left.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub(crate) fn prompt_with(&self, prompt: usize, note: &str) -> Result<Vec<u32>> {
        self.pair_prompt_with(self.train_prompts[prompt].pair(), note)
    }

    /// The tokens of a training pair's prompt with a note, cut at the left.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub(crate) fn pair_prompt_with(&self, pair: usize, note: &str) -> Result<Vec<u32>> {
        let record = self.train_record(pair)?;
        self.noted(&record, note)
    }

    fn noted(&self, record: &PreferenceRecord, note: &str) -> Result<Vec<u32>> {
        let (most, whole) = (self.max_prompt_tokens, self.max_noted_tokens);
        Ok(self.tokenizer.encode_noted_prompt_of(record, note, most, whole)?)
    }

    /// The tokens of a held-out prompt, by its index, with a note if there is one.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub(crate) fn heldout_prompt_tokens(
        &self,
        prompt: usize,
        note: Option<&str>,
    ) -> Result<Vec<u32>> {
        let pair = self.heldout_prompt_pairs[prompt];
        match note {
            None => Ok(self.heldout.tokens.get(pair)?.prompt.clone()),
            Some(note) => self.noted(&self.heldout_records[pair], note),
        }
    }

    /// The held-out pairs with a note in their prompts.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub(crate) fn heldout_with(&self, note: &str) -> Result<Pairs> {
        let mut pairs = self.heldout.clone();
        let all = pairs.tokens.in_memory_mut().expect("held-out pairs are");
        for (tokens, record) in all.iter_mut().zip(&self.heldout_records) {
            tokens.prompt = self.noted(record, note)?;
        }
        Ok(pairs)
    }
}
