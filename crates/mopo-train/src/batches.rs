//! Which pairs a step uses, and the seed of everything random in it.

use std::cmp::Reverse;

use crate::mixture::MixedRows;
use crate::train::TrainPrompt;
use crate::{Pairs, RunData};

/// The seed of one step: the same in a resumed run, different for every step and phase.
pub(crate) fn step_seed(seed: u64, phase: &str, step: usize) -> u64 {
    let parts = seed.to_le_bytes().into_iter().chain(phase.bytes());
    let mut h = mopo_hub::fnv1a(parts.chain((step as u64).to_le_bytes()));
    // The finaliser of SplitMix64.
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// The seed of a pass over one of a step's micro-batches, whichever rank makes it.
pub(crate) fn pass_seed(seed: u64, phase: &str, step: usize, pass: usize) -> u64 {
    match pass {
        0 => step_seed(seed, phase, step),
        pass => step_seed(seed, &format!("{phase} pass {pass}"), step),
    }
}

/// Position of a step in the data: the batches of `(epoch, index)` in turn.
pub(crate) struct BatchOrder {
    lengths: Vec<usize>,
    /// Where rows are from, if sources are mixed by weight.
    mixed: Option<MixedRows>,
    batch_size: usize,
    seed: u64,
    cached: Option<(u64, Vec<Vec<usize>>)>,
}

impl BatchOrder {
    /// `lengths` are the lengths of the rows, for bucketing; not empty.
    pub(crate) fn new(lengths: Vec<usize>, batch_size: usize, seed: u64) -> Self {
        Self { lengths, mixed: None, batch_size, seed, cached: None }
    }

    /// Batches of places in `used`, a list of pairs; by default of all pairs. Sources are mixed by their weights.
    pub(crate) fn of_pairs(
        pairs: &Pairs,
        used: Option<&[usize]>,
        batch_size: usize,
        seed: u64,
    ) -> Self {
        let lengths = pairs.row_lengths();
        let Some(used) = used else {
            let mixed = pairs.mixture.as_ref().map(|mixture| mixture.parts(0..pairs.len()));
            return Self { mixed, ..Self::new(lengths, batch_size, seed) };
        };
        let mixed = pairs.mixture.as_ref().map(|mixture| mixture.parts(used.iter().copied()));
        let lengths = used.iter().map(|&i| lengths[i]).collect();
        Self { mixed, ..Self::new(lengths, batch_size, seed) }
    }

    /// Batches of training prompts with these lengths. Each is of the source of its first pair.
    pub(crate) fn of_prompts(
        data: &RunData,
        lengths: Vec<usize>,
        batch_size: usize,
        seed: u64,
    ) -> Self {
        let mixture = data.train.mixture.as_ref();
        let pairs = data.train_prompts.iter().map(TrainPrompt::pair);
        let mixed = mixture.map(|mixture| mixture.parts(pairs));
        Self { mixed, ..Self::new(lengths, batch_size, seed) }
    }

    /// The `n` micro-batches of a step. Those with most tokens come first, so that ranks that take turns have about the
    /// same work.
    pub(crate) fn step(&mut self, step: usize, n: usize) -> Vec<Vec<usize>> {
        let mut batches: Vec<Vec<usize>> =
            (step * n..(step + 1) * n).map(|j| self.batch(j)).collect();
        let tokens = |batch: &Vec<usize>| batch.iter().map(|&row| self.lengths[row]).sum::<usize>();
        batches.sort_by_key(|batch| Reverse(tokens(batch)));
        batches
    }

    /// The rows of batch number `n`, counted from the start of training.
    pub(crate) fn batch(&mut self, n: usize) -> Vec<usize> {
        let per_epoch = self.lengths.len().div_ceil(self.batch_size);
        let epoch = (n / per_epoch) as u64;
        if self.cached.as_ref().is_none_or(|(e, _)| *e != epoch) {
            let batches = match &self.mixed {
                None => {
                    mopo_data::bucketed_batches(&self.lengths, self.batch_size, self.seed, epoch)
                }
                Some(mixed) => {
                    let rows = mixed.epoch(self.seed, epoch);
                    let lengths: Vec<usize> = rows.iter().map(|&row| self.lengths[row]).collect();
                    let (sources, size) = (mixed.sources(), self.batch_size);
                    let mut batches =
                        mopo_data::mixed_batches(&lengths, &sources, size, self.seed, epoch);
                    batches.iter_mut().flatten().for_each(|at| *at = rows[*at]);
                    batches
                }
            };
            self.cached = Some((epoch, batches));
        }
        let (_, batches) = self.cached.as_ref().expect("just filled");
        batches[n % per_epoch].clone()
    }
}
