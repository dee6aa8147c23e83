//! Training and held-out sets without common prompts.

use serde::{Deserialize, Serialize};

use crate::PreferenceRecord;
use crate::hash::stable_hash;

/// The part of a split.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For training.
    Train,
    /// For evaluation; none of its prompts is in the training part.
    Heldout,
}

/// Splits into (train, held-out) by a hash of each prompt salted with `seed`: the same prompt is
/// in the same part in every set and for any order of rows. The order within a part is kept.
///
/// `heldout_fraction` is an expectation over prompts, so small sets deviate from it; 0 or less
/// (or NaN) holds out nothing, 1 or more everything.
pub fn split_by_prompt(
    records: Vec<PreferenceRecord>,
    heldout_fraction: f64,
    seed: u64,
) -> (Vec<PreferenceRecord>, Vec<PreferenceRecord>) {
    let (heldout, train) = records
        .into_iter()
        .partition(|record| unit_interval(seed, &record.prompt) < heldout_fraction);
    (train, heldout)
}

/// A number in [0, 1) that depends only on the prompt and the seed; [`split_by_prompt`] holds out
/// the prompts whose number is below the fraction.
pub fn unit_interval(seed: u64, prompt: &str) -> f64 {
    const TWO_POW_53: f64 = 9_007_199_254_740_992.0;
    (stable_hash(seed, &["split", prompt]) >> 11) as f64 / TWO_POW_53
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn records(prompts: &[u8]) -> Vec<PreferenceRecord> {
        let record = |(i, prompt): (usize, &u8)| PreferenceRecord {
            id: i.to_string(),
            source: "test".into(),
            prompt: format!("prompt {prompt}"),
            messages: None,
            first: "a".into(),
            second: "b".into(),
            indicators: vec![],
            scores: None,
        };
        prompts.iter().enumerate().map(record).collect()
    }

    fn prompts(records: &[PreferenceRecord]) -> BTreeSet<&str> {
        records.iter().map(|record| record.prompt.as_str()).collect()
    }

    proptest! {
        #[test]
        fn sides_share_no_prompt_and_lose_no_row(
            ids in prop::collection::vec(any::<u8>(), 0..200), fraction in 0.0f64..=1.0, seed: u64,
        ) {
            let all = records(&ids);
            let (train, heldout) = split_by_prompt(all.clone(), fraction, seed);
            prop_assert_eq!(train.len() + heldout.len(), all.len());
            prop_assert!(prompts(&train).is_disjoint(&prompts(&heldout)));
            // The part of a row does not depend on the rows around it.
            let mut reversed = all;
            reversed.reverse();
            let (again, _) = split_by_prompt(reversed, fraction, seed);
            prop_assert_eq!(prompts(&again), prompts(&train));
        }
    }

    #[test]
    fn fractions_are_met_and_limits_are_exact() {
        let ids: Vec<u8> = (0..=255).collect();
        let (train, heldout) = split_by_prompt(records(&ids), 0.25, 1);
        assert!((40..90).contains(&heldout.len()), "{}", heldout.len());
        assert_ne!(prompts(&train), prompts(&split_by_prompt(records(&ids), 0.25, 2).0));
        assert!(split_by_prompt(records(&ids), 0.0, 1).1.is_empty());
        assert!(split_by_prompt(records(&ids), f64::NAN, 1).1.is_empty());
        assert!(split_by_prompt(records(&ids), 1.0, 1).0.is_empty());
    }
}
