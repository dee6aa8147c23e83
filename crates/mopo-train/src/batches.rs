//! Which pairs a step uses, and the seed of everything random in it.

/// The seed of one step: the same in a resumed run, different for every step and phase.
pub(crate) fn step_seed(seed: u64, phase: &str, step: usize) -> u64 {
    let parts = seed.to_le_bytes().into_iter().chain(phase.bytes());
    let mut h = mopo_hub::fnv1a(parts.chain((step as u64).to_le_bytes()));
    // The finaliser of SplitMix64.
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// Position of a step in the data: the batches of `(epoch, index)` in turn.
pub(crate) struct BatchOrder {
    lengths: Vec<usize>,
    batch_size: usize,
    seed: u64,
    cached: Option<(u64, Vec<Vec<usize>>)>,
}

impl BatchOrder {
    /// `lengths` are the lengths of the rows, for bucketing; not empty.
    pub(crate) fn new(lengths: Vec<usize>, batch_size: usize, seed: u64) -> Self {
        Self { lengths, batch_size, seed, cached: None }
    }

    /// The rows of batch number `n`, counted from the start of training.
    pub(crate) fn batch(&mut self, n: usize) -> Vec<usize> {
        let per_epoch = self.lengths.len().div_ceil(self.batch_size);
        let epoch = (n / per_epoch) as u64;
        if self.cached.as_ref().is_none_or(|(e, _)| *e != epoch) {
            let batches =
                mopo_data::bucketed_batches(&self.lengths, self.batch_size, self.seed, epoch);
            self.cached = Some((epoch, batches));
        }
        let (_, batches) = self.cached.as_ref().expect("just filled");
        batches[n % per_epoch].clone()
    }
}
