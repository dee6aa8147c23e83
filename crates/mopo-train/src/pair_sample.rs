//! A sample of the pairs of a source that is read once, in memory for as many as are kept.

use std::collections::BinaryHeap;

use mopo_data::PreferenceRecord;
use mopo_hub::sha256_hex;

/// Keeps the pairs whose prompts have the smallest hashes. So the sample has whole prompts, but for the last one, whatever
/// the order in which a source has them, and a larger sample includes a smaller one of the same seed.
pub(crate) struct PairSample {
    most: usize,
    seed: u64,
    seen: usize,
    kept: BinaryHeap<Kept>,
}

/// A pair; larger hashes are dropped first, and of equal ones later pairs.
struct Kept {
    key: (String, usize),
    record: PreferenceRecord,
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Kept {}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl PairSample {
    pub(crate) fn new(most: usize, seed: u64) -> Self {
        Self { most, seed, seen: 0, kept: BinaryHeap::new() }
    }

    pub(crate) fn push(&mut self, record: PreferenceRecord) {
        // Not the hash by which prompts are held out.
        let hash = sha256_hex(format!("max_pairs {} {}", self.seed, record.prompt).as_bytes());
        self.kept.push(Kept { key: (hash, self.seen), record });
        self.seen += 1;
        if self.kept.len() > self.most {
            self.kept.pop();
        }
    }

    /// Number of kept pairs.
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Number of pairs in all.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }

    /// The kept pairs in the order of the source.
    pub(crate) fn into_records(self) -> impl Iterator<Item = PreferenceRecord> {
        let mut kept = self.kept.into_vec();
        kept.sort_by_key(|kept| kept.key.1);
        kept.into_iter().map(|kept| kept.record)
    }
}

#[cfg(test)]
mod tests {
    use mopo_data::demo::{DemoConfig, generate};

    use super::*;

    #[test]
    fn a_sample_has_whole_prompts_in_order_and_grows_by_adding() {
        let config = DemoConfig { n_prompts: 50, ..DemoConfig::default() };
        let records = generate(&config).unwrap().records;
        let sample = |most, seed| {
            let mut sample = PairSample::new(most, seed);
            records.iter().cloned().for_each(|record| sample.push(record));
            assert_eq!((sample.seen(), sample.len()), (records.len(), most.min(records.len())));
            sample.into_records().map(|record| record.id).collect::<Vec<_>>()
        };
        let (few, more) = (sample(10, 1), sample(30, 1));
        let ids: Vec<&String> = records.iter().map(|record| &record.id).collect();
        let places = |ids_of: &[String]| {
            ids_of
                .iter()
                .map(|id| ids.iter().position(|all| *all == id).unwrap())
                .collect::<Vec<_>>()
        };
        assert!(places(&more).is_sorted() && few.iter().all(|id| more.contains(id)));
        assert_ne!(few, sample(10, 2));
        assert_eq!(sample(1000, 1).len(), records.len());
        let prompts: std::collections::BTreeSet<_> =
            places(&few).into_iter().map(|i| &records[i].prompt).collect();
        assert!(prompts.len() <= 10usize.div_ceil(config.pairs_per_prompt) + 1);
    }
}
