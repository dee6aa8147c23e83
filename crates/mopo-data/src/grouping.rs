//! Mean indicators of a response over all its comparisons, for the trainer's `action` estimator.

use std::collections::HashMap;

use crate::hash::stable_hash;
use crate::{Indicator, PreferenceRecord};

/// For the two responses of each record (0 is the first, with indicator I; 1 the second, with 1 −
/// I)
/// the mean indicator `[n_objectives]` over **all** occurrences in `records` of the same prompt and
/// response. Missing indicators are excluded from a mean; a mean of nothing is `None`.
///
/// If every response is compared once, this is its own indicator.
pub fn response_group_means(records: &[PreferenceRecord]) -> Vec<[Vec<Indicator>; 2]> {
    // (sum, count) per objective. Only looked up, never iterated, so its order does not matter.
    let mut groups: HashMap<(&str, &str), Vec<(f64, u32)>> = HashMap::new();
    for record in records {
        for (side, response) in sides(record) {
            let group = groups.entry((&record.prompt, response)).or_default();
            group.resize(record.indicators.len().max(group.len()), (0.0, 0));
            for (entry, indicator) in group.iter_mut().zip(&record.indicators) {
                if let Some(value) = indicator {
                    entry.0 += term_indicator(side, *value);
                    entry.1 += 1;
                }
            }
        }
    }
    let mean = |&(sum, count): &(f64, u32)| (count > 0).then(|| (sum / f64::from(count)) as f32);
    records
        .iter()
        .map(|record| {
            sides(record).map(|(_, response)| {
                let group = &groups[&(record.prompt.as_str(), response)];
                group[..record.indicators.len()].iter().map(mean).collect()
            })
        })
        .collect()
}

/// The same of records that come one by one, whose texts are not kept: of each response only a hash.
#[derive(Debug, Default)]
pub struct ResponseGroupMeans {
    /// (sum, count) per objective.
    groups: HashMap<[u64; 2], Vec<(f64, u32)>>,
    /// The groups of each record's responses, and its number of objectives.
    records: Vec<([[u64; 2]; 2], usize)>,
}

impl ResponseGroupMeans {
    /// Adds the next record.
    pub fn push(&mut self, record: &PreferenceRecord) {
        let n = record.indicators.len();
        // Two hashes of 64 bits: equal by chance in none of any number of texts that a disk has room for.
        let key = |response: &str| {
            [1, 2].map(|seed| stable_hash(seed, &["response", &record.prompt, response]))
        };
        let keys = sides(record).map(|(side, response)| {
            let key = key(response);
            let group = self.groups.entry(key).or_default();
            group.resize(n.max(group.len()), (0.0, 0));
            for (entry, indicator) in group.iter_mut().zip(&record.indicators) {
                if let Some(value) = indicator {
                    entry.0 += term_indicator(side, *value);
                    entry.1 += 1;
                }
            }
            key
        });
        self.records.push((keys, n));
    }

    /// What [`response_group_means`] has of all records.
    pub fn finish(self) -> Vec<[Vec<Indicator>; 2]> {
        let mean =
            |&(sum, count): &(f64, u32)| (count > 0).then(|| (sum / f64::from(count)) as f32);
        let of = |key: &[u64; 2], n: usize| self.groups[key][..n].iter().map(mean).collect();
        self.records.iter().map(|(keys, n)| [of(&keys[0], *n), of(&keys[1], *n)]).collect()
    }
}

fn sides(record: &PreferenceRecord) -> [(usize, &str); 2] {
    [(0, &record.first), (1, &record.second)]
}

fn term_indicator(side: usize, indicator: f32) -> f64 {
    if side == 0 { f64::from(indicator) } else { 1.0 - f64::from(indicator) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(prompt: &str, first: &str, second: &str, i: [Indicator; 2]) -> PreferenceRecord {
        PreferenceRecord {
            id: "x".into(),
            source: "test".into(),
            prompt: prompt.into(),
            messages: None,
            first: first.into(),
            second: second.into(),
            indicators: i.to_vec(),
            scores: None,
        }
    }

    #[test]
    fn means_cross_sides_but_not_prompts() {
        let records = [
            record("p", "a", "b", [Some(1.0), None]),
            record("p", "c", "a", [Some(1.0), Some(0.25)]),
            record("q", "a", "b", [Some(0.0), None]),
        ];
        let means = response_group_means(&records);
        // `a` under `p`: first with 1, second with 1 − 1.
        assert_eq!(means[0][0], [Some(0.5), Some(0.75)]);
        assert_eq!(means[1][1], means[0][0]);
        assert_eq!(means[0][1], [Some(0.0), None]);
        assert_eq!(means[1][0], [Some(1.0), Some(0.25)]);
        assert_eq!(means[2], [vec![Some(0.0), None], vec![Some(1.0), None]]);
        let mut one_by_one = ResponseGroupMeans::default();
        records.iter().for_each(|record| one_by_one.push(record));
        assert_eq!(one_by_one.finish(), means);
        assert!(response_group_means(&[]).is_empty());
    }
}
