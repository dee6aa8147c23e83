//! The training pairs in the form that the training loops use: tokens, and two rows of indicators
//! per pair.

use std::path::Path;

use mopo_core::IndicatorEstimator;
use mopo_data::{
    LengthLimits, PairTokens, PreferenceRecord, ResponseGroupMeans, Tokenizer, TruncationReport,
    response_group_means,
};
use mopo_lm::PackedBatch;

use crate::mixture::Mixture;
use crate::token_store::TokenStore;
use crate::{Error, Result};

/// Tokenised pairs and the labels of their responses.
#[derive(Debug, Clone)]
pub struct Pairs {
    /// Prompt and responses as token ids.
    pub tokens: TokenStore,
    /// Indicators of the two responses of each pair, `[n_objectives]` each: the first response's, and
    /// the second's (1 − I).
    pub labels: Vec<[Vec<Option<f32>>; 2]>,
    /// Recorded scores of the two responses of each pair, `[n_objectives]` each, if there are any.
    pub scores: Vec<Option<[Vec<f32>; 2]>>,
    /// Where they are from, if sources are mixed by weight.
    pub(crate) mixture: Option<Mixture>,
}

impl Pairs {
    /// From records and their tokens. With the `action` estimator all occurrences of a (prompt, response)
    /// share the mean of their indicators.
    pub fn new(
        records: &[PreferenceRecord],
        tokens: Vec<PairTokens>,
        estimator: IndicatorEstimator,
    ) -> Self {
        let labels = match estimator {
            IndicatorEstimator::Action => response_group_means(records),
            IndicatorEstimator::Pair => records
                .iter()
                .map(|r| {
                    let second = r.indicators.iter().map(|i| i.map(|i| 1.0 - i)).collect();
                    [r.indicators.clone(), second]
                })
                .collect(),
        };
        let scores = |r: &PreferenceRecord| {
            r.scores.as_ref().map(|scores| [scores.first.clone(), scores.second.clone()])
        };
        Self {
            tokens: tokens.into(),
            labels,
            scores: records.iter().map(scores).collect(),
            mixture: None,
        }
    }

    /// From a prepared set that stays where it is; the same pairs as in memory. `each` sees every record once.
    ///
    /// # Errors
    /// Those of reading and of the tokenizer.
    pub(crate) fn streamed(
        path: &Path,
        tokenizer: &Tokenizer,
        limits: &LengthLimits,
        estimator: IndicatorEstimator,
        mut each: impl FnMut(&PreferenceRecord),
    ) -> Result<(Self, TruncationReport)> {
        let mut rows: Vec<Vec<Option<f32>>> = vec![];
        let mut scores = vec![];
        let mut groups = ResponseGroupMeans::default();
        let (tokens, truncation) = TokenStore::open(path, tokenizer, limits, |record| {
            each(record);
            match estimator {
                IndicatorEstimator::Action => groups.push(record),
                IndicatorEstimator::Pair => rows.push(record.indicators.clone()),
            }
            let of = record.scores.as_ref();
            scores.push(of.map(|scores| [scores.first.clone(), scores.second.clone()]));
        })?;
        let labels = match estimator {
            IndicatorEstimator::Action => groups.finish(),
            IndicatorEstimator::Pair => {
                let second =
                    |row: &Vec<Option<f32>>| row.iter().map(|i| i.map(|i| 1.0 - i)).collect();
                rows.into_iter().map(|row| [row.clone(), second(&row)]).collect()
            }
        };
        Ok((Self { tokens, labels, scores, mixture: None }, truncation))
    }

    /// Without recorded scores.
    pub fn without_scores(tokens: Vec<PairTokens>, labels: Vec<[Vec<Option<f32>>; 2]>) -> Self {
        let scores = vec![None; tokens.len()];
        Self { tokens: tokens.into(), labels, scores, mixture: None }
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Indicators of each pair, `[n_pairs][n_objectives]`: those of the first responses.
    pub(crate) fn rows(&self) -> Vec<&[Option<f32>]> {
        self.labels.iter().map(|labels| labels[0].as_slice()).collect()
    }

    /// Number of tokens of each pair's packed row.
    pub fn row_lengths(&self) -> Vec<usize> {
        self.tokens.all_lengths().map(|parts| parts.iter().sum()).collect()
    }

    /// Refuses pairs that are longer than the model's positions, before training starts. `note`: the tokens of what a
    /// method tells in prompts.
    ///
    /// # Errors
    /// Names the longest.
    pub(crate) fn check_positions(&self, positions: usize, note: usize, what: &str) -> Result<()> {
        let longest = |[prompt, first, second]: [usize; 3]| prompt + note + first.max(second);
        let n = self.tokens.all_lengths().filter(|parts| longest(*parts) > positions).count();
        let Some(most) = self.tokens.all_lengths().map(longest).max().filter(|_| n > 0) else {
            return Ok(());
        };
        Err(Error::Config {
            origin: "`data.max_prompt_tokens`, `data.max_response_tokens`".into(),
            message: format!(
                "{n} of {} {what} pairs have more tokens (up to {most}{}) than the model has positions \
                 ({positions}): lower these limits so that their sum is at most {}",
                self.len(),
                told(note),
                positions.saturating_sub(note)
            ),
        })
    }

    /// Number of tokens of a batch of the `batch_size` longest pairs.
    pub(crate) fn longest_batch(&self, batch_size: usize) -> usize {
        let mut lengths = self.row_lengths();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.iter().take(batch_size).sum()
    }

    /// Refuses prompts that leave no room for answers of up to `max_new_tokens`, the value of `key`, which would fail
    /// later.
    ///
    /// # Errors
    /// Names the longest.
    pub(crate) fn check_answers(
        &self,
        positions: usize,
        note: usize,
        what: &str,
        (key, max_new_tokens): (&str, usize),
    ) -> Result<()> {
        let prompts = self.tokens.all_lengths().map(|[prompt, ..]| prompt);
        let longest = prompts.max().unwrap_or(0) + note;
        if longest.saturating_add(max_new_tokens) <= positions {
            return Ok(());
        }
        Err(Error::Config {
            origin: format!("`{key}`"),
            message: format!(
                "{what} prompts have up to {longest} tokens{}, and {max_new_tokens} new ones would \
                 exceed the model's {positions} positions: lower it, or `data.max_prompt_tokens`",
                told(note)
            ),
        })
    }

    /// Labelled responses per objective: N of the confidence radius.
    pub fn labelled_responses(&self) -> Vec<usize> {
        let k = self.labels.first().map_or(0, |t| t[0].len());
        let count = |j: usize| self.labels.iter().flatten().filter(|t| t[j].is_some()).count();
        (0..k).map(count).collect()
    }

    /// Packs the pairs `indices`; `keep[i]` says which responses of the i-th one to include.
    pub(crate) fn pack(&self, indices: &[usize], keep: &[[bool; 2]]) -> Result<PackedBatch> {
        let tokens = indices.iter().map(|&i| self.tokens.get(i)).collect::<Result<Vec<_>>>()?;
        let pairs: Vec<_> =
            tokens.iter().zip(keep).map(|(tokens, &keep)| (tokens.parts(), keep)).collect();
        Ok(PackedBatch::pack(&pairs)?)
    }
}

/// What to add to a number of tokens that a note is part of.
fn told(note: usize) -> String {
    match note {
        0 => String::new(),
        note => format!(", {note} of them what the method tells in the prompt"),
    }
}
