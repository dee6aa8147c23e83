//! Pairs from absolute scores: every two different responses to a prompt, with an indicator per
//! objective from the two scores. The rows of a prompt need not be adjacent, so they are kept on
//! disk until all have been read.

use std::collections::{BTreeSet, HashMap};
use std::convert::identity;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::hash::stable_hash;
use crate::report::ReadReport;
use crate::source::{Place, Rejected, SourceRead, swapped};
use crate::stream::{KeyHasher, RowAt, RowKey, Sorter, Spool, text_key};
use crate::{Error, Indicator, PreferenceRecord, Result, Scores, Sink, indicator_of_scores};

/// How scored responses become pairs.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct PairOptions {
    /// Scores that differ by no more than this are a tie.
    pub tie_threshold: f32,
    /// Maximum number of pairs per prompt, chosen by a hash of the seed; `None`: all.
    pub pairs_per_prompt: Option<usize>,
}

/// One judgement of a response.
#[derive(Serialize, Deserialize)]
pub(crate) struct Scored {
    pub(crate) prompt: String,
    pub(crate) response: String,
    /// `[n_objectives]`; larger is better, `None` if missing.
    pub(crate) scores: Vec<Option<f64>>,
    /// Name of the file.
    pub(crate) source: String,
    /// Identifies the response in the file, for the pair's id.
    pub(crate) key: String,
}

impl Scored {
    /// A key of text and scores, independent of the file.
    fn key(&self) -> RowKey {
        let texts = KeyHasher::new().text(&self.prompt).text(&self.response);
        let bits = |score: &Option<f64>| score.map_or(u64::MAX, f64::to_bits);
        self.scores.iter().fold(texts, |key, score| key.number(bits(score))).finish()
    }
}

/// Judgements, grouped by prompt in bounded memory.
pub(crate) struct Judgements {
    folder: PathBuf,
    rows: Spool<Scored>,
    /// Key of the prompt, number of the judgement, its location.
    by_prompt: Sorter<5>,
    n_rows: u64,
    n_empty: usize,
}

impl Judgements {
    /// Keeps them in unnamed files in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be created.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let rows = Spool::new(folder).map_err(Error::io("write into", folder))?;
        let by_prompt = Sorter::new(folder);
        Ok(Self { folder: folder.into(), rows, by_prompt, n_rows: 0, n_empty: 0 })
    }

    /// Adds a judgement. Returns its key.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn push(&mut self, scored: &Scored) -> std::result::Result<RowKey, Rejected> {
        let io = |error| Error::io("write into", &self.folder)(error);
        let RowAt { offset, n_bytes } = self.rows.push(scored).map_err(io)?;
        let [a, b] = text_key(&scored.prompt);
        self.by_prompt.push([a, b, self.n_rows, offset, n_bytes]).map_err(io)?;
        self.n_rows += 1;
        Ok(scored.key())
    }

    /// Adds the responses of a row that has all responses to its prompt, in order, each with its
    /// scores;
    /// an empty one is `None` and counted.
    ///
    /// # Errors
    /// The row is skipped, for the reason `too_few`, unless two of its responses differ.
    pub(crate) fn push_row(
        &mut self,
        place: Place<'_>,
        prompt: &str,
        responses: Vec<(Option<String>, Vec<Option<f64>>)>,
        too_few: &'static str,
    ) -> std::result::Result<RowKey, Rejected> {
        let filled: BTreeSet<&str> =
            responses.iter().filter_map(|(response, _)| response.as_deref()).collect();
        if filled.len() < 2 {
            return Err(Rejected::LeftOut(too_few));
        }
        let mut key = KeyHasher::new();
        for (i, (response, scores)) in responses.into_iter().enumerate() {
            let Some(response) = response else {
                self.n_empty += 1;
                continue;
            };
            let [a, b] = self.push(&Scored {
                prompt: prompt.into(),
                response,
                scores,
                source: place.source.into(),
                key: format!("{}.{}", place.line, i + 1),
            })?;
            key = key.number(a).number(b);
        }
        Ok(key.finish())
    }

    /// Number of empty responses in rows that were not skipped.
    pub(crate) fn n_empty(&self) -> usize {
        self.n_empty
    }

    /// Passes the pairs to `sink`, prompts in the order of their first judgement. Returns what was
    /// read,
    /// with counts of its use.
    ///
    /// # Errors
    /// [`Error::Empty`] if there is none, [`Error::Io`], those of `sink`.
    pub(crate) fn pairs(
        self,
        mut read: SourceRead,
        n_objectives: usize,
        options: &PairOptions,
        seed: u64,
        path: &Path,
        sink: &mut Sink<'_>,
    ) -> Result<SourceRead> {
        let Self { folder, rows, by_prompt, .. } = self;
        let io = |error| Error::io("read in", &folder)(error);
        let mut rows = rows.finish().map_err(io)?;
        // Number of the prompt's first judgement, number of the judgement, its location.
        let mut in_order: Sorter<4> = Sorter::new(&folder);
        let mut first: Option<(RowKey, u64)> = None;
        by_prompt
            .for_each(identity, |[a, b, number, offset, n_bytes]| {
                let (_, first) = match first {
                    Some(found) if found.0 == [a, b] => found,
                    _ => *first.insert(([a, b], number)),
                };
                in_order.push([first, number, offset, n_bytes])
            })
            .map_err(io)?;
        let mut group: Option<(u64, Group)> = None;
        let mut n_records = 0;
        let mut emit = |group: Group, report: &mut ReadReport| {
            group.pairs(n_objectives, options, seed, report, &mut |record| {
                n_records += 1;
                sink(record)
            })
        };
        in_order.for_each(io, |[first, _, offset, n_bytes]| {
            let scored = rows.row(RowAt { offset, n_bytes }).map_err(io)?;
            match &mut group {
                Some((at, group)) if *at == first => group.add(scored, n_objectives),
                _ => {
                    let mut next = Group::new(scored.prompt.clone());
                    next.add(scored, n_objectives);
                    if let Some((_, whole)) = group.replace((first, next)) {
                        emit(whole, &mut read.report)?;
                    }
                }
            }
            Ok(())
        })?;
        if let Some((_, whole)) = group {
            emit(whole, &mut read.report)?;
        }
        read.having_made(n_records, path)
    }
}

/// A distinct response to a prompt, with the sum of its judgements.
struct Response {
    text: String,
    sums: Vec<(f64, u32)>,
    source: String,
    key: String,
}

impl Response {
    fn mean(&self, objective_idx: usize) -> Option<f32> {
        let (sum, count) = self.sums[objective_idx];
        (count > 0).then(|| (sum / f64::from(count)) as f32)
    }
}

/// The judgements of one prompt: its distinct responses in order of first occurrence.
struct Group {
    prompt: String,
    n_judgements: usize,
    responses: Vec<Response>,
    /// Only looked up, never iterated, so its order does not matter.
    place_of: HashMap<String, usize>,
}

impl Group {
    fn new(prompt: String) -> Self {
        Self { prompt, n_judgements: 0, responses: vec![], place_of: HashMap::new() }
    }

    fn add(&mut self, scored: Scored, n_objectives: usize) {
        let Scored { response, scores, source, key, .. } = scored;
        self.n_judgements += 1;
        let place = *self.place_of.entry(response.clone()).or_insert_with(|| {
            let sums = vec![(0.0, 0); n_objectives];
            self.responses.push(Response { text: response, sums, source, key });
            self.responses.len() - 1
        });
        for (sum, score) in self.responses[place].sums.iter_mut().zip(scores) {
            if let Some(score) = score {
                *sum = (sum.0 + score, sum.1 + 1);
            }
        }
    }

    /// Averages the judgements of equal responses and compares all distinct ones. A prompt with one
    /// response gives no pair: its judgements, each assumed to be a row, are counted as skipped.
    fn pairs(
        self,
        n_objectives: usize,
        options: &PairOptions,
        seed: u64,
        report: &mut ReadReport,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let Self { prompt, n_judgements, responses, .. } = self;
        report.merged_responses += n_judgements - responses.len();
        if responses.len() < 2 {
            report.take_back("no other response to its prompt", n_judgements);
            return Ok(());
        }
        let n_pairs = responses.len() * (responses.len() - 1) / 2;
        let pairs = || {
            let later = |i: usize| responses[i + 1..].iter().map(move |b| (i, b));
            (0..responses.len()).flat_map(later).map(|(i, b)| (&responses[i], b))
        };
        // The chosen ones keep the order of the data.
        let hash = |(a, b): (&Response, &Response)| {
            stable_hash(seed, &["pair", prompt.as_str(), &a.text, &b.text])
        };
        let mut limit = None;
        if let Some(most) = options.pairs_per_prompt
            && most < n_pairs
        {
            report.leave_pairs_out("more than `pairs_per_prompt`", n_pairs - most);
            let mut hashes: Vec<u64> = pairs().map(hash).collect();
            hashes.sort_unstable();
            let Some(&last) = hashes[..most].last() else { return Ok(()) };
            limit = Some(last);
        }
        for (a, b) in pairs().filter(|pair| limit.is_none_or(|limit| hash(*pair) <= limit)) {
            match pair(&prompt, a, b, n_objectives, options, seed) {
                Some(record) => sink(record)?,
                None => report.leave_pairs_out("no objective has both scores", 1),
            }
        }
        Ok(())
    }
}

fn pair(
    prompt: &str,
    a: &Response,
    b: &Response,
    n_objectives: usize,
    options: &PairOptions,
    seed: u64,
) -> Option<PreferenceRecord> {
    let id = if a.source == b.source {
        format!("{}:{}-{}", a.source, a.key, b.key)
    } else {
        format!("{}:{}-{}:{}", a.source, a.key, b.source, b.key)
    };
    let (first, second) = if swapped(seed, prompt, &a.text, &b.text) { (b, a) } else { (a, b) };
    let both = |k: usize| Some((first.mean(k)?, second.mean(k)?));
    let indicators: Vec<Indicator> = (0..n_objectives)
        .map(|k| both(k).map(|(x, y)| indicator_of_scores(x, y, options.tie_threshold)))
        .collect();
    if indicators.iter().all(Option::is_none) {
        return None;
    }
    // A record has all scores or none.
    let scores = |response: &Response| (0..n_objectives).map(|k| response.mean(k)).collect();
    let scores: Option<(Vec<f32>, Vec<f32>)> = Option::zip(scores(first), scores(second));
    Some(PreferenceRecord {
        id,
        source: a.source.clone(),
        prompt: prompt.into(),
        messages: None,
        first: first.text.clone(),
        second: second.text.clone(),
        indicators,
        scores: scores.map(|(first, second)| Scores { first, second }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scored(prompt: &str, response: &str, scores: &[Option<f64>], key: usize) -> Scored {
        Scored {
            prompt: prompt.into(),
            response: response.into(),
            scores: scores.to_vec(),
            source: "made".into(),
            key: key.to_string(),
        }
    }

    /// The pairs of judgements, and the resulting report.
    fn pairs_of(
        judgements: Vec<Scored>,
        n_objectives: usize,
        options: &PairOptions,
        seed: u64,
        report: &mut ReadReport,
    ) -> Vec<PreferenceRecord> {
        let folder = std::env::temp_dir();
        let mut kept = Judgements::new(&folder).unwrap();
        for scored in &judgements {
            assert!(kept.push(scored).is_ok());
        }
        let read = SourceRead { report: report.clone(), ..Default::default() };
        let (records, read) = crate::collect(|sink| {
            kept.pairs(read, n_objectives, options, seed, Path::new("made"), sink)
        })
        .unwrap();
        *report = read.report;
        records
    }

    #[test]
    fn equal_responses_are_averaged_and_missing_scores_stay_missing() {
        let judgements = vec![
            scored("p", "a", &[Some(4.0), Some(1.0)], 1),
            scored("q", "alone", &[Some(1.0), None], 2),
            scored("p", "b", &[Some(2.0), None], 3),
            scored("p", "a", &[Some(1.0), None], 4), // a: 2.5 and 1 on the average
            scored("p", "c", &[None, Some(1.5)], 5),
        ];
        let mut report = ReadReport { rows: 5, used: 5, ..Default::default() };
        let options = PairOptions { tie_threshold: 0.5, pairs_per_prompt: None };
        let records = pairs_of(judgements, 2, &options, 3, &mut report);
        // b and c have no objective in common.
        assert_eq!(records.len(), 2);
        assert_eq!(report.pairs_left_out["no objective has both scores"], 1);
        assert_eq!(report.left_out_for("no other response to its prompt"), 1);
        assert_eq!((report.merged_responses, report.used, report.made), (1, 4, 2));
        for record in &records {
            // 2.5 against 2 and 1 against 1.5: ties at this threshold, in either order.
            let expected =
                if record.id == "made:1-3" { [Some(0.5), None] } else { [None, Some(0.5)] };
            assert_eq!(record.indicators, expected);
            assert_eq!(record.scores, None);
        }
    }

    proptest! {
        /// In either order, an indicator says which response has the larger score.
        #[test]
        fn indicators_follow_scores(
            values in prop::collection::vec(prop::array::uniform2(1u8..6), 2..6), seed: u64, most in 1usize..20
        ) {
            let judgements = values.iter().enumerate().map(|(i, v)| {
                scored("p", &i.to_string(), &v.map(|x| Some(f64::from(x))), i)
            });
            let all = values.len() * (values.len() - 1) / 2;
            let mut report = ReadReport { used: values.len(), ..Default::default() };
            let options = PairOptions { tie_threshold: 0.0, pairs_per_prompt: Some(most) };
            let records = pairs_of(judgements.collect(), 2, &options, seed, &mut report);
            prop_assert_eq!(records.len(), all.min(most));
            prop_assert_eq!(report.pairs_left_out.values().sum::<usize>(), all - records.len());
            for record in records {
                let score = |text: &str, k: usize| values[text.parse::<usize>().unwrap()][k];
                let scores = record.scores.unwrap();
                for k in 0..2 {
                    let (x, y) = (score(&record.first, k), score(&record.second, k));
                    let expected = if x == y { 0.5 } else { f32::from(u8::from(x > y)) };
                    prop_assert_eq!(record.indicators[k], Some(expected));
                    prop_assert_eq!((scores.first[k], scores.second[k]), (f32::from(x), f32::from(y)));
                }
            }
        }
    }
}
