//! Pairs from absolute scores: every two different responses of a prompt, an indicator per
//! objective from the two scores.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use crate::hash::stable_hash;
use crate::report::ReadReport;
use crate::source::{Place, Rejected, SourceRead, swapped};
use crate::{Indicator, PreferenceRecord, Result, Scores, indicator_of_scores};

/// How scored responses become pairs.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct PairOptions {
    /// Scores that differ by no more than this are a tie.
    pub tie_threshold: f32,
    /// At most so many pairs of a prompt, chosen by a hash of the seed; `None`: all.
    pub pairs_per_prompt: Option<usize>,
}

/// One judgement of a response.
pub(crate) struct Scored {
    pub(crate) prompt: String,
    pub(crate) response: String,
    /// `[n_objectives]`; larger is better, `None` where nobody said.
    pub(crate) scores: Vec<Option<f64>>,
    /// Name of the file.
    pub(crate) source: String,
    /// Which response of the file, for the pair's id.
    pub(crate) key: String,
}

/// The responses of sources whose rows have all responses to their prompt.
#[derive(Default)]
pub(crate) struct Judged {
    pub(crate) scored: Vec<Scored>,
    /// Empty responses of rows that were not left out.
    pub(crate) n_empty: usize,
}

impl Judged {
    /// Adds a row's responses in their order, each with its scores; an empty one is `None`.
    ///
    /// # Errors
    /// Leaves the row out, for the reason `too_few`, unless two of its responses differ.
    pub(crate) fn add_row(
        &mut self,
        place: Place<'_>,
        prompt: &str,
        responses: Vec<(Option<String>, Vec<Option<f64>>)>,
        too_few: &'static str,
    ) -> std::result::Result<(), Rejected> {
        let filled: BTreeSet<&str> =
            responses.iter().filter_map(|(response, _)| response.as_deref()).collect();
        if filled.len() < 2 {
            return Err(Rejected::LeftOut(too_few));
        }
        for (i, (response, scores)) in responses.into_iter().enumerate() {
            let Some(response) = response else {
                self.n_empty += 1;
                continue;
            };
            self.scored.push(Scored {
                prompt: prompt.into(),
                response,
                scores,
                source: place.source.into(),
                key: format!("{}.{}", place.line, i + 1),
            });
        }
        Ok(())
    }
}

/// What was read, with the pairs of the scored responses.
///
/// # Errors
/// [`Error::Empty`](crate::Error::Empty) if there is none.
pub(crate) fn with_pairs(
    mut read: SourceRead,
    scored: Vec<Scored>,
    n_objectives: usize,
    options: &PairOptions,
    seed: u64,
    path: &Path,
) -> Result<SourceRead> {
    let records = pairs_of(scored, n_objectives, options, seed, &mut read.report);
    read.with_records(records, path)
}

/// A distinct response of a prompt, with its judgements added up.
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

/// Groups by prompt, in the order of first appearance, averages the judgements of equal responses,
/// and compares all distinct ones. A prompt with one response gives no pair: its judgements are
/// taken to be rows of their own and counted as left out.
fn pairs_of(
    scored: Vec<Scored>,
    n_objectives: usize,
    options: &PairOptions,
    seed: u64,
    report: &mut ReadReport,
) -> Vec<PreferenceRecord> {
    let mut groups: Vec<(String, usize, Vec<Response>)> = Vec::new();
    // Looked up only, never iterated: their order does not matter.
    let mut group_of: HashMap<String, usize> = HashMap::new();
    let mut response_of: HashMap<(usize, String), usize> = HashMap::new();
    for Scored { prompt, response, scores, source, key } in scored {
        let group_idx = *group_of.entry(prompt.clone()).or_insert_with(|| {
            groups.push((prompt, 0, vec![]));
            groups.len() - 1
        });
        let (_, n_judgements, responses) = &mut groups[group_idx];
        *n_judgements += 1;
        let idx = *response_of.entry((group_idx, response.clone())).or_insert_with(|| {
            let sums = vec![(0.0, 0); n_objectives];
            responses.push(Response { text: response, sums, source, key });
            responses.len() - 1
        });
        for (sum, score) in responses[idx].sums.iter_mut().zip(scores) {
            if let Some(score) = score {
                *sum = (sum.0 + score, sum.1 + 1);
            }
        }
    }
    let mut records = Vec::new();
    for (prompt, n_judgements, responses) in &groups {
        report.merged_responses += n_judgements - responses.len();
        if responses.len() < 2 {
            report.take_back("no other response to its prompt", *n_judgements);
            continue;
        }
        let mut pairs = Vec::new();
        for (i, a) in responses.iter().enumerate() {
            pairs.extend(responses[i + 1..].iter().map(|b| (a, b)));
        }
        if let Some(most) = options.pairs_per_prompt
            && most < pairs.len()
        {
            report.leave_pairs_out("more than `pairs_per_prompt`", pairs.len() - most);
            let hash = |a: &Response, b: &Response| {
                stable_hash(seed, &["pair", prompt.as_str(), &a.text, &b.text])
            };
            // The chosen ones stay in the order of the data.
            let mut hashes: Vec<u64> = pairs.iter().map(|(a, b)| hash(a, b)).collect();
            let all = hashes.clone();
            hashes.sort_unstable();
            let limit = hashes[..most].last().copied();
            let mut all = all.into_iter();
            pairs.retain(|_| limit.is_some_and(|limit| all.next().is_some_and(|h| h <= limit)));
        }
        for (a, b) in pairs {
            match pair(prompt, a, b, n_objectives, options, seed) {
                Some(record) => records.push(record),
                None => report.leave_pairs_out("no objective has both scores", 1),
            }
        }
    }
    report.made = records.len();
    records
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
        /// Whatever the order, an indicator says which response has the larger score.
        #[test]
        fn indicators_follow_scores(
            values in prop::collection::vec(prop::array::uniform2(1u8..6), 2..6), seed: u64, most in 0usize..20
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
