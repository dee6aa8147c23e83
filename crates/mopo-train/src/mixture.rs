//! Several data sources mixed by weight: which pairs an epoch has, whatever the sizes of the sources.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::batches::step_seed;
use crate::{Error, Result, RunDir};

/// The file of a run with its sources.
pub(crate) const MIXTURE: &str = "data/mixture.json";

/// The sources of a run's data, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MixtureRecord {
    pub(crate) sources: Vec<MixedPart>,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MixedPart {
    pub(crate) path: String,
    pub(crate) weight: f64,
    /// Training pairs of it; those of one source follow those of the one before.
    pub(crate) train: usize,
}

impl MixtureRecord {
    /// That of a run, if its data comes from several sources.
    pub(crate) fn read(run: &RunDir) -> Result<Option<Self>> {
        match run.join(MIXTURE).exists() {
            true => run.read_json(MIXTURE).map(Some),
            false => Ok(None),
        }
    }

    /// Where each training pair is from, and the weights of the sources.
    ///
    /// # Errors
    /// The file is not of these pairs.
    pub(crate) fn mixture(&self, run: &RunDir, n_pairs: usize) -> Result<Mixture> {
        let of: Vec<u16> = (self.sources.iter().zip(0_u16..))
            .flat_map(|(part, i)| std::iter::repeat_n(i, part.train))
            .collect();
        if of.len() != n_pairs {
            return Err(Error::corrupt(
                &run.join(MIXTURE),
                format!("it has {} training pairs, and data/train.jsonl {n_pairs}", of.len()),
            ));
        }
        Ok(Mixture { of, weights: self.sources.iter().map(|part| part.weight).collect() })
    }
}

/// The source of each pair, and the weight of each source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mixture {
    pub(crate) of: Vec<u16>,
    pub(crate) weights: Vec<f64>,
}

impl Mixture {
    /// The rows of each source among some pairs, and how many of them an epoch has: as many rows in all as there are, each
    /// source by its weight. A source without such pairs has no share.
    pub(crate) fn parts(&self, pairs: impl Iterator<Item = usize>) -> MixedRows {
        let mut rows: Vec<Vec<usize>> = vec![vec![]; self.weights.len()];
        let mut n = 0;
        for (row, pair) in pairs.enumerate() {
            rows[usize::from(self.of[pair])].push(row);
            n += 1;
        }
        let weights: Vec<f64> = (rows.iter().zip(&self.weights))
            .map(|(rows, weight)| if rows.is_empty() { 0.0 } else { *weight })
            .collect();
        MixedRows { shares: shares(&weights, n), weights, rows }
    }
}

/// Whole numbers with sum `n` in the proportion of weights, by the largest remainder.
fn shares(weights: &[f64], n: usize) -> Vec<usize> {
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| n as f64 * weight / sum).collect();
    let mut shares: Vec<usize> = exact.iter().map(|x| x.floor() as usize).collect();
    let mut order: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] > 0.0).collect();
    let rest = |i: usize| exact[i] - exact[i].floor();
    order.sort_by(|a, b| rest(*b).total_cmp(&rest(*a)).then(a.cmp(b)));
    let missing = n - shares.iter().sum::<usize>();
    for i in order.into_iter().cycle().take(missing) {
        shares[i] += 1;
    }
    shares
}

/// Rows by source.
#[derive(Debug, Clone)]
pub(crate) struct MixedRows {
    rows: Vec<Vec<usize>>,
    /// Of each source that has rows; 0 of others.
    weights: Vec<f64>,
    /// Rows of each in an epoch.
    shares: Vec<usize>,
}

impl MixedRows {
    /// The rows of an epoch. Each source is gone through in an order of its own, drawn anew each time it is through, and
    /// every epoch goes on where the last one ended: no pair is used twice before all of its source have been used once.
    pub(crate) fn epoch(&self, seed: u64, epoch: u64) -> Vec<usize> {
        let mut out = Vec::with_capacity(self.shares.iter().sum());
        for (s, (rows, &share)) in self.rows.iter().zip(&self.shares).enumerate() {
            let first = epoch as usize * share;
            let mut round = None;
            let mut order: Vec<usize> = vec![];
            for at in first..first + share {
                if round != Some(at / rows.len()) {
                    round = Some(at / rows.len());
                    order.clone_from(rows);
                    let seed = step_seed(seed, &format!("source {s}"), at / rows.len());
                    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
                }
                out.push(order[at % rows.len()]);
            }
        }
        out
    }

    /// The source of each row of an [`epoch`](Self::epoch).
    pub(crate) fn sources(&self) -> Vec<usize> {
        let shares = self.shares.iter().enumerate();
        shares.flat_map(|(source, share)| std::iter::repeat_n(source, *share)).collect()
    }

    /// `n` different rows, at most all, in ascending order: of each source by its weight, as far as it has so many.
    pub(crate) fn draw(&self, n: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut counts = vec![0; self.rows.len()];
        let room = |counts: &[usize], s: usize| self.rows[s].len() - counts[s];
        loop {
            let missing = n.saturating_sub(counts.iter().sum());
            let open = |s: usize| if room(&counts, s) > 0 { self.weights[s] } else { 0.0 };
            let weights: Vec<f64> = (0..counts.len()).map(open).collect();
            if missing == 0 || weights.iter().all(|weight| *weight == 0.0) {
                break;
            }
            let more = shares(&weights, missing);
            for (s, more) in more.into_iter().enumerate() {
                counts[s] += more.min(room(&counts, s));
            }
        }
        let drawn = self.rows.iter().zip(counts).flat_map(|(rows, count)| {
            let places = rand::seq::index::sample(rng, rows.len(), count).into_vec();
            places.into_iter().map(|at| rows[at]).collect::<Vec<_>>()
        });
        let mut drawn: Vec<usize> = drawn.collect();
        drawn.sort_unstable();
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_whole_and_in_proportion() {
        assert_eq!(shares(&[0.5, 0.5], 7), [4, 3]);
        assert_eq!(shares(&[3.0, 1.0], 8), [6, 2]);
        assert_eq!(shares(&[1.0, 0.0, 2.0], 10), [3, 0, 7]);
        assert_eq!(shares(&[1e-9, 1.0], 3), [0, 3]);
    }

    #[test]
    fn rows_are_drawn_by_weight_as_far_as_there_are_any() {
        let of: Vec<u16> = [vec![0; 10], vec![1; 100]].concat();
        let parts = Mixture { of, weights: vec![0.9, 0.1] }.parts(0..110);
        let draw = |n| parts.draw(n, &mut ChaCha8Rng::seed_from_u64(1));
        let of_first = |rows: &[usize]| rows.iter().filter(|row| **row < 10).count();
        for (n, first) in [(0, 0), (10, 9), (50, 10), (110, 110 - 100), (500, 10)] {
            let rows = draw(n);
            assert_eq!((rows.len(), of_first(&rows)), (n.min(110), first), "{rows:?}");
            assert!(rows.is_sorted_by(|a, b| a < b));
        }
        assert_eq!(parts.sources(), [vec![0; 99], vec![1; 11]].concat());
    }

    #[test]
    fn epochs_have_their_shares_and_use_every_pair_equally_often() {
        let of: Vec<u16> = [vec![0; 10], vec![1; 30]].concat();
        let mixture = Mixture { of, weights: vec![0.75, 0.25] };
        let parts = mixture.parts(0..40);
        let mut used = vec![0_usize; 40];
        for epoch in 0..6 {
            let rows = parts.epoch(7, epoch);
            assert_eq!(rows, parts.epoch(7, epoch), "it depends on nothing else");
            assert_eq!(rows.iter().filter(|row| **row < 10).count(), 30);
            assert_eq!(rows.len(), 40);
            rows.into_iter().for_each(|row| used[row] += 1);
        }
        // 180 of ten pairs, and 60 of thirty.
        assert!(used[..10].iter().all(|n| *n == 18) && used[10..].iter().all(|n| *n == 2));
        assert_ne!(parts.epoch(7, 0), parts.epoch(8, 0));
        assert_ne!(parts.epoch(7, 0)[..10], parts.epoch(7, 1)[..10]);
        // Only some of the pairs: rows count those, and a source without any has no share.
        let some = mixture.parts([0, 3, 12].into_iter());
        let mut rows = some.epoch(1, 0);
        rows.sort_unstable();
        assert!(rows.len() == 3 && rows.iter().filter(|row| **row < 2).count() == 2, "{rows:?}");
        let alone = mixture.parts([15, 16].into_iter()).epoch(1, 0);
        assert!(alone.len() == 2 && alone[0] != alone[1]);
    }
}
