//! Whether initial thresholds can be met, according to a known front (A.3 of the paper).
//!
//! The insertion index is the paper's. Its proposition on the start was not available to this
//! project; the condition here is our own, and rests on three remarks.
//!
//! 1. A front point is the value of some policy. If one front point meets every secondary
//!    threshold, its policy is feasible, and the constrained optimum is at least as good.
//! 2. If the front is complete (nothing attainable is better than all of it), whatever a feasible
//!    policy attains lies at or below some front point, which then meets the thresholds too. So the
//!    condition is also necessary, and the best primary value among the points that meet the
//!    thresholds is the constrained optimum: where the run should end.
//! 3. The points whose k-th value is at least v are those from its insertion index on, in the order
//!    of the k-th values. With one secondary objective "not past the end" is therefore the whole
//!    condition. With more, each index may be inside although no point is in all the sets at once.
//!
//! A front sampled at finitely many points is complete up to its spacing: thresholds between its
//! last points and its true edge are refused although they can be met.

use crate::{Error, Result};

/// The smallest i with `value` ≤ `ascending[i]`, or its length if there is none.
///
/// # Errors
/// [`Error::NonFinite`] for NaN, [`Error::InvalidParameter`] for a list that is not ascending.
pub fn insertion_index(ascending: &[f64], value: f64) -> Result<usize> {
    if value.is_nan() || ascending.iter().any(|o| o.is_nan()) {
        return Err(Error::NonFinite("a value of the insertion index".into()));
    }
    if !ascending.is_sorted() {
        return Err(Error::InvalidParameter {
            field: "ascending",
            value: format!("{} values", ascending.len()),
            expected: "they must be in ascending order".into(),
        });
    }
    Ok(ascending.partition_point(|o| *o < value))
}

/// A front, and its values in ascending order per objective.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownFront {
    points: Vec<Vec<f64>>,
    ascending: Vec<Vec<f64>>,
}

/// What a known front implies for thresholds.
#[derive(Debug, Clone, PartialEq)]
pub struct StartCheck {
    /// Insertion index per objective; `None` for the primary.
    pub index: Vec<Option<usize>>,
    /// No index is past the end: each threshold can be met on its own.
    pub each: bool,
    /// The point with the best primary value among those that meet all thresholds at once (the
    /// first of equals). `None`: no point does, and the thresholds are refused.
    pub landing: Option<usize>,
}

impl KnownFront {
    /// A front from its points, `[n_points][n_objectives]`.
    ///
    /// The primary's value is what the run maximises: with a KL term, E\[p\] − τ KL. Dominated
    /// points do no harm.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] without points or if they differ in length,
    /// [`Error::NonFinite`].
    pub fn new(points: Vec<Vec<f64>>) -> Result<Self> {
        let n = points.first().map_or(0, Vec::len);
        if n == 0 || points.iter().any(|p| p.len() != n) {
            return Err(Error::InvalidParameter {
                field: "points",
                value: format!("{} points", points.len()),
                expected: "at least one, all with one value per objective".into(),
            });
        }
        if points.iter().flatten().any(|v| !v.is_finite()) {
            return Err(Error::NonFinite("a value of the front".into()));
        }
        let ascending = (0..n)
            .map(|k| {
                let mut values: Vec<f64> = points.iter().map(|p| p[k]).collect();
                values.sort_by(f64::total_cmp);
                values
            })
            .collect();
        Ok(Self { points, ascending })
    }

    /// The points, as given.
    pub fn points(&self) -> &[Vec<f64>] {
        &self.points
    }

    /// The values of one objective in ascending order: O_k.
    pub fn ascending(&self, objective_idx: usize) -> &[f64] {
        &self.ascending[objective_idx]
    }

    /// Checks thresholds, one per objective (the primary's is ignored), against the front.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a threshold that is NaN.
    ///
    /// # Panics
    /// If there is not one threshold per objective, or `primary` is out of range.
    pub fn check(&self, primary: usize, thresholds: &[f64]) -> Result<StartCheck> {
        let n = self.ascending.len();
        assert_eq!(thresholds.len(), n, "one threshold per objective");
        assert!(primary < n, "the primary is one of {n} objectives");
        let mut index = vec![None; n];
        for k in (0..n).filter(|&k| k != primary) {
            index[k] = Some(insertion_index(&self.ascending[k], thresholds[k])?);
        }
        let meets = |p: &[f64]| (0..n).all(|k| k == primary || p[k] >= thresholds[k]);
        let mut landing: Option<usize> = None;
        for (i, point) in self.points.iter().enumerate().filter(|(_, p)| meets(p)) {
            if landing.is_none_or(|best| point[primary] > self.points[best][primary]) {
                landing = Some(i);
            }
        }
        let each = index.iter().flatten().all(|&i| i < self.points.len());
        Ok(StartCheck { index, each, landing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_that_of_the_first_value_not_below() {
        let list = [0.1, 0.3, 0.3, 0.7];
        for (value, index) in
            [(0.0, 0), (0.1, 0), (0.2, 1), (0.3, 1), (0.5, 3), (0.7, 3), (0.71, 4)]
        {
            assert_eq!(insertion_index(&list, value).unwrap(), index, "{value}");
        }
        assert_eq!(insertion_index(&[], 0.5).unwrap(), 0);
        assert!(matches!(insertion_index(&list, f64::NAN), Err(Error::NonFinite(_))));
        assert!(insertion_index(&[0.2, 0.1], 0.5).is_err());
    }

    #[test]
    fn indices_inside_are_not_enough_for_two_secondaries() {
        // Each threshold is met by some point, but no point meets both.
        let front =
            KnownFront::new(vec![vec![0.9, 0.1, 0.8], vec![0.5, 0.4, 0.4], vec![0.8, 0.7, 0.1]])
                .unwrap();
        let check = front.check(0, &[0.0, 0.6, 0.6]).unwrap();
        assert!(check.each && check.landing.is_none(), "{check:?}");
        assert_eq!(check.index, [None, Some(2), Some(2)]);
        let check = front.check(0, &[0.0, 0.3, 0.3]).unwrap();
        assert_eq!(check.landing, Some(1));
        let check = front.check(0, &[0.0, 0.3, 0.0]).unwrap();
        assert_eq!(check.landing, Some(2));
        assert!(!front.check(0, &[0.0, 0.9, 0.0]).unwrap().each);
    }
}
