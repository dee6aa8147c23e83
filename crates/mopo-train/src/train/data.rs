//! The data of a run in the form that training and evaluation use.

use std::collections::BTreeSet;

use mopo_core::Objectives;
use mopo_data::{LengthLimits, PairTokens, PreferenceRecord, PreparedSet, Tokenizer, tokenize};

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
    /// Training prompts, each once, in order.
    pub train_prompts: Vec<TrainPrompt>,
    /// Held-out pairs.
    pub heldout: Pairs,
    /// Indicators of the held-out pairs as labelled.
    pub heldout_labels: Vec<Vec<Option<f32>>>,
    /// Held-out prompts, each once, in order.
    pub heldout_prompts: Vec<String>,
    /// The first held-out pair that has each of them.
    pub(crate) heldout_prompt_pairs: Vec<usize>,
    /// The training pairs' texts, for a method that changes prompts or compares answers with them; else empty.
    pub(crate) train_records: Vec<PreferenceRecord>,
    /// The held-out pairs' texts, for a method that changes prompts; else empty.
    pub(crate) heldout_records: Vec<PreferenceRecord>,
    /// Prompts are cut to this number of tokens.
    pub(crate) max_prompt_tokens: usize,
    /// Messages about how many prompts and responses were cut.
    pub truncation: String,
}

/// A prompt of the training pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainPrompt {
    /// Its text.
    pub text: String,
    /// The first training pair that has it.
    pub pair: usize,
}

impl RunData {
    /// The tokens of a training prompt, by its index.
    pub(crate) fn prompt_tokens(&self, prompt: usize) -> &[u32] {
        &self.train_tokens(self.train_prompts[prompt].pair).prompt
    }

    /// The tokens of a training pair, for methods that streamed data is refused for.
    pub(crate) fn train_tokens(&self, pair: usize) -> &PairTokens {
        &self.train.tokens.in_memory().expect("checked with the configuration")[pair]
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
        let needs_texts = rollouts.is_some_and(|rollouts| rollouts.trains_on_pairs);
        let changes_prompts = config.method.changes_prompts();
        let train_path = run.join("data/train.jsonl");
        let (mut pairs, truncation, train_records) = match config.data.streaming {
            true => {
                let (pairs, truncation) =
                    Pairs::streamed(&train_path, &tokenizer, &limits, estimator)?;
                (pairs, truncation, vec![])
            }
            false => {
                let train = PreparedSet::read(&train_path)?;
                let (tokens, truncation) = tokenize(&train.records, &tokenizer, &limits)?;
                (Pairs::new(&train.records, tokens, estimator), truncation, train.records)
            }
        };
        let (heldout_tokens, _) = tokenize(&heldout.records, &tokenizer, &limits)?;
        let mut heldout_prompts: Vec<String> = Vec::new();
        let mut heldout_prompt_pairs = Vec::new();
        let mut seen = BTreeSet::new();
        for (pair, r) in heldout.records.iter().enumerate() {
            if seen.insert(&r.prompt) {
                heldout_prompts.push(r.prompt.clone());
                heldout_prompt_pairs.push(pair);
            }
        }
        let mut train_prompts = Vec::new();
        let mut seen = BTreeSet::new();
        // Streamed ones are for methods that do not ask for them.
        for (pair, r) in train_records.iter().enumerate() {
            if seen.insert(&r.prompt) {
                train_prompts.push(TrainPrompt { text: r.prompt.clone(), pair });
            }
        }
        if let Some(mixture) = MixtureRecord::read(run)? {
            pairs.mixture = Some(mixture.mixture(run, pairs.len())?);
        }
        Ok(Self {
            objectives: heldout.header.objectives.clone(),
            train: pairs,
            train_prompts,
            heldout: Pairs::new(&heldout.records, heldout_tokens, estimator),
            heldout_labels: heldout.records.iter().map(|r| r.indicators.clone()).collect(),
            heldout_prompts,
            heldout_prompt_pairs,
            truncation: truncation.to_string(),
            tokenizer,
            max_prompt_tokens: limits.max_prompt,
            train_records: if changes_prompts || needs_texts { train_records } else { vec![] },
            heldout_records: if changes_prompts { heldout.records } else { vec![] },
        })
    }

    /// The tokens of a training prompt with a note, cut at the left.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub(crate) fn prompt_with(&self, prompt: usize, note: &str) -> Result<Vec<u32>> {
        self.pair_prompt_with(self.train_prompts[prompt].pair, note)
    }

    /// The tokens of a training pair's prompt with a note, cut at the left.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub(crate) fn pair_prompt_with(&self, pair: usize, note: &str) -> Result<Vec<u32>> {
        let noted = self.train_records[pair].with_note(note);
        Ok(self.tokenizer.encode_prompt_of(&noted, self.max_prompt_tokens)?.0)
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
            Some(note) => {
                let noted = self.heldout_records[pair].with_note(note);
                Ok(self.tokenizer.encode_prompt_of(&noted, self.max_prompt_tokens)?.0)
            }
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
            let noted = record.with_note(note);
            tokens.prompt = self.tokenizer.encode_prompt_of(&noted, self.max_prompt_tokens)?.0;
        }
        Ok(pairs)
    }
}
