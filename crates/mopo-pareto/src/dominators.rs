//! For each point the set of those that are at least as good everywhere, as bits.

use crate::points::{Descending, order_key};

/// Number of rows per batch, which limits the memory to 512 bytes per point.
const BATCH: usize = 4096;

/// Calls `visit` for each row of `sorted`, in its order, with the earlier rows that are at least as
/// good in every objective: bit i % 64 of word i / 64 is row i.
///
/// The points that are at least as good in one objective are a prefix of that objective's order;
/// the
/// bits of the prefixes are intersected, 64 points at a time. O(K n²/64 + K n log n).
pub(crate) fn visit(sorted: &Descending, mut visit: impl FnMut(usize, &[u64])) {
    let n = sorted.indices.len();
    // The order of the rows decides the first objective, except for rows of a later batch.
    let orders: Vec<Vec<(u64, u32)>> = (1..sorted.n_objectives)
        .map(|k| {
            let column = sorted.values.iter().skip(k).step_by(sorted.n_objectives);
            let mut order: Vec<_> = column.zip(0..).map(|(&v, i)| (!order_key(v), i)).collect();
            order.sort_unstable();
            order
        })
        .collect();
    let mut sets = Vec::new();
    let mut so_far = Vec::new();
    for start in (0..n).step_by(BATCH) {
        let end = n.min(start + BATCH);
        let n_words = end.div_ceil(64);
        sets.clear();
        sets.resize((end - start) * n_words, 0_u64);
        for (i, set) in (start..end).zip(sets.chunks_exact_mut(n_words)) {
            set[..i / 64].fill(u64::MAX);
            set[i / 64] = (1 << (i % 64)) - 1;
        }
        for order in &orders {
            so_far.clear();
            so_far.resize(n_words, 0_u64);
            for equal in order.chunk_by(|a, b| a.0 == b.0) {
                for &(_, i) in equal {
                    if let Some(word) = so_far.get_mut(i as usize / 64) {
                        *word |= 1 << (i % 64);
                    }
                }
                for &(_, i) in equal {
                    let Some(row) = (i as usize).checked_sub(start).filter(|&r| r < end - start)
                    else {
                        continue;
                    };
                    let words = i as usize / 64 + 1; // none of the later rows
                    let set = &mut sets[row * n_words..][..words];
                    for (word, &seen) in set.iter_mut().zip(&so_far) {
                        *word &= seen;
                    }
                }
            }
        }
        for (i, set) in (start..end).zip(sets.chunks_exact(n_words)) {
            visit(i, &set[..i / 64 + 1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Direction::Maximize;

    #[test]
    fn batches_join_without_a_seam() {
        // More rows than a batch, on a coarse grid: many ties and copies.
        let points: Vec<[f64; 4]> = (0..BATCH + 700)
            .map(|i| {
                let digit = |by: usize| ((i * 7919 / by + i) % 11) as f64;
                [digit(1), digit(5), digit(31), digit(101)]
            })
            .collect();
        let sorted = Descending::new(&points, &[Maximize; 4]);
        let row = |i: usize| points[sorted.indices[i] as usize];
        let mut next = 0;
        visit(&sorted, |i, set| {
            assert_eq!(i, next);
            next += 1;
            if i % 97 == 0 || i.abs_diff(BATCH) < 3 {
                let covering = |j: &usize| row(*j).iter().zip(row(i)).all(|(a, b)| *a >= b);
                let expected: Vec<usize> = (0..i).filter(covering).collect();
                let found: Vec<usize> =
                    (0..set.len() * 64).filter(|j| set[j / 64] >> (j % 64) & 1 == 1).collect();
                assert_eq!(found, expected);
            }
        });
        assert_eq!(next, points.len());
    }
}
