//! Point sets in the form that the algorithms need: checked, in one flat array, larger is better.

use std::cmp::Ordering;

use crate::Direction;
use crate::{Error, Result};

/// Refuses an empty list of objectives.
pub(crate) fn check_directions(directions: &[Direction], what: &str) -> Result<()> {
    if directions.is_empty() {
        return Err(Error::InvalidParameter {
            field: "directions",
            value: "empty".into(),
            expected: format!("{what} needs at least one objective"),
        });
    }
    Ok(())
}

/// Refuses a point with a wrong number of values, or with a NaN or an infinity.
#[inline]
pub(crate) fn check(
    field: &'static str,
    idx: usize,
    point: &[f64],
    n_objectives: usize,
) -> Result<()> {
    // Zero times anything but a number is NaN.
    let zero: f64 = point.iter().map(|v| v * 0.0).sum();
    if point.len() == n_objectives && zero == 0.0 {
        return Ok(());
    }
    refuse(field, idx, point, n_objectives)
}

/// Describes the problem, if any.
#[cold]
fn refuse(field: &'static str, idx: usize, point: &[f64], n_objectives: usize) -> Result<()> {
    if point.len() != n_objectives {
        return Err(Error::InvalidParameter {
            field,
            value: format!("{point:?} (index {idx})"),
            expected: format!("{n_objectives} values are needed, one per direction"),
        });
    }
    match point.iter().position(|v| !v.is_finite()) {
        Some(k) => Err(Error::NonFinite(format!("objective {k} of `{field}` (index {idx})"))),
        None => Ok(()),
    }
}

/// How much the points that are strictly better than `ref_point` everywhere exceed it, row after
/// row, and the index of each row in `points`.
pub(crate) struct Gains {
    pub(crate) values: Vec<f64>,
    pub(crate) indices: Vec<u32>,
}

impl Gains {
    /// Checks everything. `what` is called for messages only.
    pub(crate) fn new<P: AsRef<[f64]>>(
        points: &[P],
        ref_point: &[f64],
        directions: &[Direction],
        what: &str,
    ) -> Result<Self> {
        let n_objectives = directions.len();
        check_directions(directions, what)?;
        check("ref_point", 0, ref_point, n_objectives)?;
        let signs = signs(directions);
        let mut values = Vec::with_capacity(points.len() * n_objectives);
        let mut indices = Vec::with_capacity(points.len());
        for (i, point) in points.iter().enumerate() {
            let point = point.as_ref();
            check("points", i, point, n_objectives)?;
            let start = values.len();
            let (mut smallest, mut largest) = (f64::INFINITY, 0.0);
            for ((&v, &r), &sign) in point.iter().zip(ref_point).zip(&signs) {
                let gain = (v - r) * sign;
                smallest = if gain < smallest { gain } else { smallest };
                largest = if gain > largest { gain } else { largest };
                values.push(gain);
            }
            if smallest > 0.0 {
                if largest == f64::INFINITY {
                    return Err(too_large(what));
                }
                indices.push(index(i));
            } else {
                values.truncate(start);
            }
        }
        Ok(Self { values, indices })
    }

    /// The rows as arrays, for a number of objectives known at compile time.
    pub(crate) fn rows<const K: usize>(&self) -> impl Iterator<Item = [f64; K]> {
        self.values.as_chunks().0.iter().copied()
    }
}

/// Factors such that larger is better.
pub(crate) fn signs(directions: &[Direction]) -> Vec<f64> {
    directions.iter().map(|direction| direction.gain(1.0, 0.0)).collect()
}

/// The error for a volume too large for an `f64`.
pub(crate) fn too_large(what: &str) -> Error {
    Error::NonFinite(format!("{what} (the objectives' ranges are too large)"))
}

/// Indices have 32 bits: lists of 2³² points do not fit into memory anyway.
#[inline]
pub(crate) fn index(i: usize) -> u32 {
    u32::try_from(i).expect("fewer than 2^32 points")
}

/// Integers in the order of the numbers. Not for NaN and negative zero.
#[inline]
pub(crate) fn order_key(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// The number of bits for an index below `n`. They replace a key's last bits, so that one integer
/// has both: sorting such integers is twice as fast as sorting pairs.
pub(crate) fn index_bits(n: usize) -> u64 {
    (1 << (usize::BITS - n.leading_zeros())) - 1
}

/// Sorts keys whose lowest `index_bits` bits are an index. `compare` decides between those whose
/// other bits are equal.
pub(crate) fn sort_packed(
    packed: &mut [u64],
    index_bits: u64,
    mut compare: impl FnMut(u32, u32) -> Ordering,
) {
    packed.sort_unstable();
    let alike = packed.chunk_by_mut(|a, b| a ^ b <= index_bits).filter(|alike| alike.len() > 1);
    for alike in alike {
        let idx = |packed: u64| (packed & index_bits) as u32;
        alike.sort_unstable_by(|&a, &b| compare(idx(a), idx(b)));
    }
}

/// The points without a NaN, larger being better, in descending lexicographic order.
///
/// Whatever dominates a point comes before it, and equal points are adjacent, the lower
/// index first.
pub(crate) struct Descending {
    /// Row after row.
    pub(crate) values: Vec<f64>,
    /// The index of each row in the caller's list.
    pub(crate) indices: Vec<u32>,
    /// The points with a NaN: incomparable to everything.
    pub(crate) incomparable: Vec<u32>,
    pub(crate) n_objectives: usize,
}

impl Descending {
    /// All of `points`.
    ///
    /// # Panics
    /// If a point and `directions` differ in length.
    pub(crate) fn new<P: AsRef<[f64]>>(points: &[P], directions: &[Direction]) -> Self {
        Self::select(points, directions, false)
    }

    /// Without some dominated points: those below the point with the largest sum, which are most of
    /// a cloud, and need not be sorted then.
    ///
    /// # Panics
    /// If a point and `directions` differ in length.
    pub(crate) fn of_candidates<P: AsRef<[f64]>>(points: &[P], directions: &[Direction]) -> Self {
        Self::select(points, directions, true)
    }

    fn select<P: AsRef<[f64]>>(points: &[P], directions: &[Direction], drop: bool) -> Self {
        let n_objectives = directions.len();
        let signs = signs(directions);
        let mut raised = vec![0.0; points.len() * n_objectives];
        let mut order = Vec::with_capacity(points.len());
        let mut incomparable = Vec::new();
        let index_bits = index_bits(points.len());
        for (i, point) in points.iter().enumerate() {
            let point = point.as_ref();
            assert_eq!(point.len(), n_objectives, "one direction per objective of point {i}");
            let row = &mut raised[i * n_objectives..][..n_objectives];
            let mut any_nan = false;
            for ((value, &v), &sign) in row.iter_mut().zip(point).zip(&signs) {
                // Adding zero turns a negative zero into zero, so that the bits' order holds.
                *value = v * sign + 0.0;
                any_nan |= v.is_nan();
            }
            let idx = index(i);
            if any_nan {
                incomparable.push(idx);
            } else {
                let first = row.first().map_or(0, |&v| !order_key(v));
                order.push(first & !index_bits | u64::from(idx));
            }
        }
        let row = |i: u32| &raised[i as usize * n_objectives..][..n_objectives];
        let idx = |key: u64| (key & index_bits) as u32;
        if drop {
            let sum = |i: u32| row(i).iter().sum::<f64>();
            let sums = order.iter().map(|&key| (sum(idx(key)), idx(key)));
            if let Some((_, best)) = sums.max_by(|a, b| a.0.total_cmp(&b.0)) {
                let best = row(best);
                order.retain(|&key| {
                    let row = row(idx(key));
                    row.iter().zip(best).any(|(v, b)| v > b) || row == best
                });
            }
        }
        // Descending in the first objective, and in all others where that ties.
        sort_packed(&mut order, index_bits, |a, b| {
            let unequal = row(a).iter().zip(row(b)).map(|(x, y)| y.total_cmp(x));
            unequal.fold(Ordering::Equal, Ordering::then).then(a.cmp(&b))
        });
        let mut values = vec![0.0; order.len() * n_objectives];
        let mut indices = Vec::with_capacity(order.len());
        for (i, &key) in order.iter().enumerate() {
            values[i * n_objectives..][..n_objectives].copy_from_slice(row(idx(key)));
            indices.push(idx(key));
        }
        Self { values, indices, incomparable, n_objectives }
    }

    #[inline]
    pub(crate) fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.n_objectives..][..self.n_objectives]
    }

    pub(crate) fn len(&self) -> usize {
        self.indices.len()
    }

    /// The rows without their first objective.
    pub(crate) fn rests(&self) -> impl Iterator<Item = &[f64]> {
        (0..self.len()).map(|i| self.row(i).get(1..).unwrap_or_default())
    }

    /// Whether row `i` equals the one before it.
    #[inline]
    pub(crate) fn repeats(&self, i: usize) -> bool {
        i > 0 && self.row(i) == self.row(i - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Direction::Maximize;

    #[test]
    fn last_bits_decide_though_indices_take_their_place() {
        let value = |i: usize| 1.0 + (i * 7919 % 1000) as f64 * f64::EPSILON;
        let points: Vec<[f64; 2]> = (0..1000).map(|i| [value(i), value(i + 1)]).collect();
        let sorted = Descending::new(&points, &[Maximize; 2]);
        let row = |i: usize| points[sorted.indices[i] as usize];
        assert!((1..1000).all(|i| row(i - 1)[0] > row(i)[0] && sorted.row(i) == row(i)));
    }
}
