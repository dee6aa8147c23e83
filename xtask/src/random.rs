//! Numbers that depend on a seed, a part and a trial only, so that one trial can be repeated.

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// That of one trial.
    pub(crate) fn of_trial(seed: u64, part: &str, trial: u64) -> Self {
        let mut this = Self(seed);
        for byte in part.bytes() {
            this.0 = this.next() ^ u64::from(byte);
        }
        this.0 = this.next() ^ trial;
        this.next();
        this
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A whole number below `n`, which is above 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        let n = n as u128;
        // The high half of a product of 128 bits: as uniform as 64 bits allow.
        ((u128::from(self.next()) * n) >> 64) as usize
    }

    /// In [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// One of a list that is not empty.
    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_has_the_same_numbers_again_and_others_have_others() {
        let first = |part: &str, trial| Random::of_trial(7, part, trial).below(1 << 40);
        assert_eq!(first("kill", 3), first("kill", 3));
        let all = [first("kill", 3), first("kill", 4), first("bytes", 3), {
            Random::of_trial(8, "kill", 3).below(1 << 40)
        }];
        for (i, a) in all.iter().enumerate() {
            assert!(!all[..i].contains(a), "{all:?}");
        }
    }

    #[test]
    fn numbers_below_n_are_all_met_about_equally_often() {
        let mut random = Random::of_trial(0, "test", 0);
        let mut counts = [0; 5];
        for _ in 0..5000 {
            counts[random.below(5)] += 1;
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        let mean = (0..5000).map(|_| random.unit()).sum::<f64>() / 5000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        assert!((0..100).all(|_| !random.chance(0.0) && random.chance(1.0)));
    }
}
