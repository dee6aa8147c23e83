//! Log-probs under a lagged reference, kept from one refresh to the next.

use std::collections::BTreeMap;

use super::LogProbs;

/// Log-probs under a lagged reference, computed at most once per pair and refresh window.
///
/// Part of MOPO's checkpoints: a resumed run would compute the pairs in other batches than an
/// uninterrupted one, and the last bits of a log-prob may depend on the batch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WindowLogProbs {
    n_policies: usize,
    /// One row per policy for each pair.
    rows: BTreeMap<usize, LogProbs>,
}

impl WindowLogProbs {
    pub(crate) fn new(n_policies: usize) -> Self {
        Self { n_policies, rows: BTreeMap::new() }
    }

    pub(crate) fn get(&self, pair: usize) -> Option<&LogProbs> {
        self.rows.get(&pair)
    }

    /// Number of pairs.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Several pairs; `lists`: one per policy, in the order of the pairs.
    pub(crate) fn insert_all(
        &mut self,
        pairs: impl IntoIterator<Item = usize>,
        lists: &[LogProbs],
    ) {
        for (row, pair) in pairs.into_iter().enumerate() {
            self.insert(pair, lists.iter().map(|of| of[row]).collect());
        }
    }

    /// `of_pair`: one row per policy.
    pub(crate) fn insert(&mut self, pair: usize, of_pair: LogProbs) {
        assert_eq!(of_pair.len(), self.n_policies, "one row per policy");
        self.rows.insert(pair, of_pair);
    }

    /// Starts a new window.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
    }

    /// Per pair its index (u64) and two f32 per policy, little-endian.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.rows.len() * (8 + 8 * self.n_policies));
        for (pair, row) in &self.rows {
            out.extend((*pair as u64).to_le_bytes());
            out.extend(row.iter().flatten().flat_map(|x| x.to_le_bytes()));
        }
        out
    }

    /// `None` if the bytes are not those of this number of policies.
    pub(crate) fn from_bytes(n_policies: usize, bytes: &[u8]) -> Option<Self> {
        let chunks = bytes.chunks_exact(8 + 8 * n_policies);
        if !chunks.remainder().is_empty() {
            return None;
        }
        let rows = chunks.map(|chunk| {
            let (words, _) = chunk.as_chunks::<8>();
            let half = |w: &[u8; 8], i: usize| f32::from_le_bytes([0, 1, 2, 3].map(|j| w[i + j]));
            let row = words[1..].iter().map(|w| [half(w, 0), half(w, 4)]).collect();
            (u64::from_le_bytes(words[0]) as usize, row)
        });
        Some(Self { n_policies, rows: rows.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_probs_of_a_window_survive_as_bytes() {
        let mut window = WindowLogProbs::new(2);
        window.insert(70_000, vec![[-1.5, f32::MIN_POSITIVE], [0.1, -3e8]]);
        window.insert(3, vec![[-1.0, -2.0], [-3.0, -4.0]]);
        let bytes = window.to_bytes();
        assert_eq!(WindowLogProbs::from_bytes(2, &bytes), Some(window.clone()));
        assert_eq!(WindowLogProbs::from_bytes(2, &bytes[1..]), None);
        window.clear();
        assert_eq!(WindowLogProbs::from_bytes(2, &window.to_bytes()), Some(window));
    }
}
