//! From records to token ids, and from lengths to batches. The trainer makes tensors of them.

use std::collections::BTreeMap;
use std::fmt;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::{Error, PreferenceRecord, Result, Tokenizer};

/// Number of batches in one window of rows sorted by length. Larger values give batches of more
/// even lengths, smaller ones batches closer to a uniform draw.
const WINDOW_BATCHES: usize = 50;

/// One pair as token ids. Prompt and responses are encoded separately, so a response's tokens do
/// not depend on the prompt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PairTokens {
    /// At most [`LengthLimits::max_prompt`] ids, the end of the prompt.
    pub prompt: Vec<u32>,
    /// Ends with the end-of-text id unless it was cut.
    pub first: Vec<u32>,
    /// Ends with the end-of-text id unless it was cut.
    pub second: Vec<u32>,
}

impl PairTokens {
    /// Prompt, first and second response.
    pub fn parts(&self) -> [&[u32]; 3] {
        [&self.prompt, &self.first, &self.second]
    }

    /// Length of a packed row: the prompt once, then both responses.
    pub fn packed_len(&self) -> usize {
        self.prompt.len() + self.first.len() + self.second.len()
    }
}

/// Limits in tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LengthLimits {
    /// A longer prompt is cut from the **left**: the last turn matters most.
    pub max_prompt: usize,
    /// A longer response is cut from the right and loses its end-of-text id.
    pub max_response: usize,
}

/// How much [`tokenize`] has cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TruncationReport {
    /// Number of pairs.
    pub pairs: usize,
    /// Number of prompts that were cut.
    pub prompts: usize,
    /// Number of responses (two per pair) that were cut and so have no end-of-text id.
    pub responses: usize,
    /// Number of pairs whose responses are equal after cutting, and teach nothing.
    pub identical: usize,
}

impl fmt::Display for TruncationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pairs, prompts, responses, identical } = self;
        write!(
            f,
            "{pairs} pairs: {prompts} prompts cut at the left, {responses} of {} responses cut at \
             the right, {identical} pairs identical after the cut",
            2 * pairs
        )
    }
}

/// Encodes every pair; the result has the order and length of `records`.
///
/// # Errors
/// [`Error::InvalidParameter`] for a limit of 0; [`Error::Tokenizer`] if the tokenizer refuses a
/// text; [`Error::ChatTemplate`] if the model's own template refuses a conversation.
pub fn tokenize(
    records: &[PreferenceRecord],
    tokenizer: &Tokenizer,
    limits: &LengthLimits,
) -> Result<(Vec<PairTokens>, TruncationReport)> {
    for (field, limit) in [("max_prompt", limits.max_prompt), ("max_response", limits.max_response)]
    {
        if limit == 0 {
            return Err(Error::InvalidParameter {
                field,
                value: "0".into(),
                expected: "it must leave room for at least one token".into(),
            });
        }
    }
    let mut report = TruncationReport { pairs: records.len(), ..Default::default() };
    let mut pairs = Vec::with_capacity(records.len());
    for record in records {
        let (mut pair, was_cut) = tokenizer.encode_pair(record, limits.max_prompt)?;
        report.prompts += usize::from(was_cut);
        for response in [&mut pair.first, &mut pair.second] {
            report.responses += usize::from(response.len() > limits.max_response);
            response.truncate(limits.max_response);
        }
        report.identical += usize::from(pair.first == pair.second);
        pairs.push(pair);
    }
    Ok((pairs, report))
}

/// The batches of one epoch: lists of indices into `lengths`, each index exactly once. Rows are
/// shuffled, sorted by length within windows of 50 batches so that the rows of a batch have similar
/// lengths, and the batches are shuffled again. All batches have `batch_size` rows, except one with
/// the rest.
///
/// Depends only on its arguments: a resumed run recomputes it instead of storing a position in
/// a random stream. A `batch_size` of 0 counts as 1.
pub fn bucketed_batches(
    lengths: &[usize],
    batch_size: usize,
    seed: u64,
    epoch: u64,
) -> Vec<Vec<usize>> {
    mixed_batches(lengths, &[], batch_size, seed, epoch)
}

/// The same for rows of several groups: each batch has rows of every group in the proportion that they have in its window,
/// but for a row or two, and of similar length among those of their group. `groups`: the group of each row, or none if there is
/// only one.
pub fn mixed_batches(
    lengths: &[usize],
    groups: &[usize],
    batch_size: usize,
    seed: u64,
    epoch: u64,
) -> Vec<Vec<usize>> {
    let batch_size = batch_size.max(1);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.shuffle(&mut rng);
    let mut batches = Vec::with_capacity(lengths.len().div_ceil(batch_size));
    for window in order.chunks_mut(batch_size.saturating_mul(WINDOW_BATCHES)) {
        // Stable, so that rows of equal length stay in shuffled order.
        window.sort_by_key(|&index| lengths[index]);
        if !groups.is_empty() {
            interleave(window, groups);
        }
        batches.extend(window.chunks(batch_size).map(<[usize]>::to_vec));
    }
    batches.shuffle(&mut rng);
    batches
}

/// Puts rows in the order of their places among the rows of their own group, relative to how many those are.
fn interleave(rows: &mut [usize], groups: &[usize]) {
    let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
    let places: Vec<usize> = rows
        .iter()
        .map(|&row| {
            let n = seen.entry(groups[row]).or_default();
            *n += 1;
            *n - 1
        })
        .collect();
    let place = |(at, &row): (usize, &usize)| {
        let share = (places[at] as f64 + 0.5) / seen[&groups[row]] as f64;
        (share, row)
    };
    let mut order: Vec<(f64, usize)> = rows.iter().enumerate().map(place).collect();
    order.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    rows.iter_mut().zip(order).for_each(|(to, (_, row))| *to = row);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_index_once_per_epoch(
            lengths in prop::collection::vec(0usize..500, 0..400),
            batch_size in 0usize..20, seed: u64, epoch: u64,
        ) {
            let batches = bucketed_batches(&lengths, batch_size, seed, epoch);
            let mut all: Vec<usize> = batches.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            let size = batch_size.max(1);
            prop_assert!(batches.iter().all(|b| !b.is_empty() && b.len() <= size));
            prop_assert!(batches.iter().filter(|b| b.len() < size).count() <= 1);
            prop_assert_eq!(bucketed_batches(&lengths, batch_size, seed, epoch), batches);
        }
    }

    /// However long the rows of a group are.
    #[test]
    fn every_batch_has_the_groups_in_proportion() {
        let groups: Vec<usize> = (0..1200).map(|i| usize::from(i >= 300)).collect();
        let lengths: Vec<usize> =
            groups.iter().enumerate().map(|(i, group)| 10 + 200 * group + i % 40).collect();
        let batches = mixed_batches(&lengths, &groups, 16, 3, 0);
        let mut all = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..1200).collect::<Vec<_>>());
        for batch in &batches {
            let of_first = batch.iter().filter(|&&row| groups[row] == 0).count() as f64;
            assert!((of_first - batch.len() as f64 / 4.0).abs() <= 2.0, "{batch:?}");
            let own: Vec<usize> =
                batch.iter().filter(|&&row| groups[row] == 1).map(|&row| lengths[row]).collect();
            assert!(own.iter().max().unwrap() - own.iter().min().unwrap() <= 4, "{own:?}");
        }
        // One group is none.
        let same = mixed_batches(&lengths, &vec![7; 1200], 16, 3, 0);
        assert_eq!(same, bucketed_batches(&lengths, 16, 3, 0));
    }

    #[test]
    fn epochs_differ_and_batches_are_level() {
        let lengths: Vec<usize> = (0..4000).map(|i| (i * 37) % 300).collect();
        let batches = bucketed_batches(&lengths, 8, 1, 0);
        assert_ne!(batches, bucketed_batches(&lengths, 8, 1, 1));
        assert_ne!(batches, bucketed_batches(&lengths, 8, 2, 0));
        let longest: usize =
            batches.iter().map(|b| b.len() * b.iter().map(|&i| lengths[i]).max().unwrap()).sum();
        let all: usize = lengths.iter().sum();
        assert!((longest as f64) < 1.1 * all as f64, "{longest} for {all}");
    }

    #[test]
    fn truncation_sides_and_counts() {
        let record = PreferenceRecord {
            id: "1".into(),
            source: "test".into(),
            prompt: "abcdef".into(),
            messages: None,
            first: "xyz".into(),
            second: "xyzw".into(),
            indicators: vec![],
            scores: None,
        };
        // 257 ids: every byte is a separate token.
        let tokenizer = Tokenizer::train(["abc"].into_iter(), 257).unwrap();
        let limits = LengthLimits { max_prompt: 4, max_response: 4 };
        let (pairs, report) = tokenize(std::slice::from_ref(&record), &tokenizer, &limits).unwrap();
        assert_eq!(tokenizer.decode(&pairs[0].prompt).unwrap(), "cdef");
        assert_eq!(pairs[0].first.last(), Some(&tokenizer.end_of_text()));
        assert_eq!(tokenizer.decode(&pairs[0].second).unwrap(), "xyzw");
        assert_ne!(pairs[0].second.last(), Some(&tokenizer.end_of_text()));
        assert_eq!(pairs[0].packed_len(), 12);
        assert_eq!(report, TruncationReport { pairs: 1, prompts: 1, responses: 1, identical: 0 });
        let limits = LengthLimits { max_prompt: 9, max_response: 2 };
        let (_, report) = tokenize(std::slice::from_ref(&record), &tokenizer, &limits).unwrap();
        assert_eq!((report.prompts, report.responses, report.identical), (0, 2, 1));
        let error = tokenize(&[record], &tokenizer, &LengthLimits { max_response: 0, ..limits });
        assert!(error.unwrap_err().to_string().contains("`max_response` is 0"));
    }
}
