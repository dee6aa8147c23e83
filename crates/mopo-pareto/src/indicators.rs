//! How far a set of points stays behind a reference front: IGD+ and the additive epsilon.

use crate::Direction;
use crate::points::{check, check_directions, signs, too_large};
use crate::{Error, Result};

/// The modified inverted generational distance IGD+: the mean, over the points r of
/// `reference_front`, of the smallest distance d+(r, a) from r to a point a of `points`. d+ is the
/// Euclidean distance over the objectives in which a is worse than r; the others count 0.
///
/// **Smaller is better**; 0 exactly if every point of `reference_front` is equalled or dominated by
/// one of `points`. Its unit is that of the objectives, which therefore should be on one scale.
/// Duplicates in `reference_front` count as often as they occur; those in `points`, and
/// dominated points, change nothing.
///
/// Complexity: O(K · |points| · |reference_front|) at worst; the search for a reference point ends
/// at the first point that covers it. Source: Ishibuchi, Masuda, Tanigaki and Nojima,
/// *Modified Distance Calculation in Generational Distance and Inverted Generational Distance*
/// (2015).
///
/// # Errors
/// [`Error::InvalidParameter`] if there is no objective, if a set is empty or if lengths differ;
/// [`Error::NonFinite`] for a NaN or an infinity in the input, or a result too large for an `f64`.
/// The field and the index are named.
pub fn igd_plus<P: AsRef<[f64]>, R: AsRef<[f64]>>(
    points: &[P],
    reference_front: &[R],
    directions: &[Direction],
) -> Result<f64> {
    const WHAT: &str = "IGD+";
    let (points, front) = sets(points, reference_front, directions, WHAT)?;
    let k = directions.len();
    let mut search = Search::new(points, k);
    let (_, bounds) = search.remote(&front);
    let mut sum = 0.0;
    let mut r = vec![0.0; k];
    for (i, &bound) in bounds.as_flattened().iter().enumerate() {
        // Covered points add nothing, nor does the padding of the last block.
        if bound > 0.0 {
            copy_lane(&front[i / LANES * k..], i % LANES, &mut r);
            let squared = search.smallest(&r, 0.0, |sum, lost| {
                let lost = if lost > 0.0 { lost } else { 0.0 };
                sum.unwrap_or(0.0) + lost * lost
            });
            sum += squared.sqrt();
        }
    }
    finite(sum / reference_front.len() as f64, WHAT)
}

/// The additive epsilon indicator: the smallest ε such that every point of `reference_front` is
/// equalled or dominated by one of `points` once that one is improved by ε in every objective.
/// That is, max over r of min over a of max over k of how much a is worse than r in objective k.
///
/// **Smaller is better**; 0 or less exactly if every point of `reference_front` is equalled or
/// dominated by one of `points`, and negative if it is beaten in every objective. Its unit is that
/// of the objectives, which therefore should be on one scale. Duplicates change nothing.
///
/// Complexity: O(K · |points| · |reference_front|) at worst. A few remote reference points raise
/// the
/// maximum first; the search for each other one ends as soon as it cannot exceed
/// it. Source: Zitzler, Thiele, Laumanns, Fonseca and da Fonseca,
/// *Performance Assessment of Multiobjective Optimizers* (2003).
///
/// # Errors
/// Those of [`igd_plus`].
pub fn epsilon_additive<P: AsRef<[f64]>, R: AsRef<[f64]>>(
    points: &[P],
    reference_front: &[R],
    directions: &[Direction],
) -> Result<f64> {
    const WHAT: &str = "the additive epsilon";
    let (points, front) = sets(points, reference_front, directions, WHAT)?;
    let k = directions.len();
    let mut search = Search::new(points, k);
    let (mut epsilon, bounds) = search.remote(&front);
    let mut r = vec![0.0; k];
    for (i, &bound) in bounds.as_flattened().iter().enumerate() {
        if bound > epsilon {
            copy_lane(&front[i / LANES * k..], i % LANES, &mut r);
            let loss = search.smallest(&r, epsilon, |largest, lost| {
                largest.map_or(lost, |largest| larger(largest, lost))
            });
            epsilon = epsilon.max(loss);
        }
    }
    finite(epsilon, WHAT)
}

/// Number of points compared at a time.
const LANES: usize = 8;

/// Points in blocks of [`LANES`], each objective of a block contiguous, so that the compiler can
/// process several points at once. Larger is better; padding in the last block loses against
/// everything.
type Blocks = Vec<[f64; LANES]>;

/// Checks both sets.
fn sets<P: AsRef<[f64]>, R: AsRef<[f64]>>(
    points: &[P],
    reference_front: &[R],
    directions: &[Direction],
    what: &str,
) -> Result<(Blocks, Blocks)> {
    check_directions(directions, what)?;
    Ok((
        blocks("points", points, directions)?,
        blocks("reference_front", reference_front, directions)?,
    ))
}

fn blocks<P: AsRef<[f64]>>(
    field: &'static str,
    points: &[P],
    directions: &[Direction],
) -> Result<Blocks> {
    if points.is_empty() {
        return Err(Error::InvalidParameter {
            field,
            value: "empty".into(),
            expected: "at least one point is needed".into(),
        });
    }
    let (k, signs) = (directions.len(), signs(directions));
    let mut blocks = vec![[f64::NEG_INFINITY; LANES]; points.len().div_ceil(LANES) * k];
    // The same loop; where the compiler knows the number of objectives it unrolls it.
    let all_fit = match k {
        2 => fill(blocks.as_chunks_mut::<2>().0, points, &signs),
        3 => fill(blocks.as_chunks_mut::<3>().0, points, &signs),
        4 => fill(blocks.as_chunks_mut::<4>().0, points, &signs),
        _ => fill(blocks.chunks_exact_mut(k), points, &signs),
    };
    if !all_fit {
        for (i, point) in points.iter().enumerate() {
            check(field, i, point.as_ref(), k)?;
        }
    }
    Ok(blocks)
}

/// Whether each point has as many values as there are signs, all of them finite.
fn fill<P: AsRef<[f64]>, B: AsMut<[[f64; LANES]]>>(
    blocks: impl IntoIterator<Item = B>,
    points: &[P],
    signs: &[f64],
) -> bool {
    let mut zeros = [0.0; LANES];
    for (mut block, points) in blocks.into_iter().zip(points.chunks(LANES)) {
        let block = block.as_mut();
        let signs = &signs[..block.len()];
        for (lane, point) in points.iter().enumerate() {
            let point = point.as_ref();
            if point.len() != block.len() {
                return false;
            }
            for ((column, &v), &sign) in block.iter_mut().zip(point).zip(signs) {
                column[lane] = v * sign;
                zeros[lane] += v * 0.0; // NaN for anything but a number
            }
        }
    }
    zeros == [0.0; LANES]
}

/// One point of a block.
fn copy_lane(block: &[[f64; LANES]], lane: usize, to: &mut [f64]) {
    for (value, column) in to.iter_mut().zip(block) {
        *value = column[lane];
    }
}

fn finite(value: f64, what: &str) -> Result<f64> {
    if value.is_finite() { Ok(value) } else { Err(too_large(what)) }
}

/// Number of the most remote points of the front whose nearest point is searched first. They raise
/// the maximum so far that most other searches can be skipped.
const REMOTE: usize = 6;

/// Number of blocks for copies of the points that ended the last searches early.
const COPIES: usize = 8;

/// Searches for the point that is least behind a reference point.
struct Search {
    n_objectives: usize,
    /// The points, after the copies: a point that ended a search is likely to end the next ones.
    blocks: Blocks,
    /// Number of copied points.
    n_copied: usize,
}

impl Search {
    fn new(points: Blocks, n_objectives: usize) -> Self {
        let mut blocks = vec![[f64::NEG_INFINITY; LANES]; COPIES * n_objectives];
        blocks.extend(points);
        Self { n_objectives, blocks, n_copied: 0 }
    }

    /// See [`remote`].
    fn remote(&self, front: &[[f64; LANES]]) -> (f64, Blocks) {
        let k = self.n_objectives;
        let points = &self.blocks[COPIES * k..];
        match k {
            2 => remote(points.as_chunks::<2>().0, front.as_chunks::<2>().0, k),
            3 => remote(points.as_chunks::<3>().0, front.as_chunks::<3>().0, k),
            4 => remote(points.as_chunks::<4>().0, front.as_chunks::<4>().0, k),
            _ => {
                let chunks = |blocks| <[_]>::chunks_exact(blocks, k).collect::<Vec<_>>();
                remote(&chunks(points), &chunks(front), k)
            }
        }
    }

    /// The smallest value over the points, or any value up to `enough` if there is one. `combine`
    /// takes the result of the objectives so far, starting with `initial`, and how much the point
    /// is behind in the next one.
    fn smallest(
        &mut self,
        r: &[f64],
        enough: f64,
        combine: impl Fn(Option<f64>, f64) -> f64,
    ) -> f64 {
        let k = self.n_objectives;
        // Blocks without copies come first.
        let first = COPIES.saturating_sub(self.n_copied.div_ceil(LANES));
        let blocks = &self.blocks[first * k..];
        // The same loop; where the compiler knows the number of objectives it unrolls it.
        let (smallest, at) = match k {
            2 => scan(blocks.as_chunks::<2>().0, r, enough, combine),
            3 => scan(blocks.as_chunks::<3>().0, r, enough, combine),
            4 => scan(blocks.as_chunks::<4>().0, r, enough, combine),
            k => scan(blocks.chunks_exact(k), r, enough, combine),
        };
        if let Some((block, lane)) = at
            && first + block >= COPIES
        {
            // Replaces the oldest copy.
            let to = COPIES * LANES - 1 - self.n_copied % (COPIES * LANES);
            for objective in 0..k {
                self.blocks[to / LANES * k + objective][to % LANES] =
                    self.blocks[(first + block) * k + objective][lane];
            }
            self.n_copied += 1;
        }
        smallest
    }
}

/// The additive epsilon of [`REMOTE`] points of the front: of the first one, then each time of the
/// one furthest from the nearest points found so far. Also returns, for each point of the front, an
/// upper bound of its own.
fn remote<B: AsRef<[[f64; LANES]]>>(
    points: &[B],
    front: &[B],
    n_objectives: usize,
) -> (f64, Blocks) {
    let mut bounds = vec![[f64::INFINITY; LANES]; front.len()];
    let mut epsilon = f64::NEG_INFINITY;
    let (mut r, mut a) = (vec![0.0; n_objectives], vec![0.0; n_objectives]);
    let mut remotest = (0, 0);
    for _ in 0..REMOTE {
        copy_lane(front[remotest.0].as_ref(), remotest.1, &mut r);
        let (loss, nearest) =
            smallest_of(points.len(), |i| losses(points[i].as_ref(), |k, v| r[k] - v));
        epsilon = epsilon.max(loss);
        copy_lane(points[nearest.0].as_ref(), nearest.1, &mut a);
        for (block, bounds) in front.iter().zip(&mut bounds) {
            for (bound, loss) in bounds.iter_mut().zip(losses(block.as_ref(), |k, v| v - a[k])) {
                *bound = lesser(*bound, loss);
            }
        }
        let (bound, at) = smallest_of(front.len(), |i| bounds[i].map(|bound| -bound));
        remotest = at;
        if -bound <= epsilon {
            break;
        }
    }
    (epsilon, bounds)
}

/// The largest value of `lost`, per lane, over the objectives.
fn losses(block: &[[f64; LANES]], lost: impl Fn(usize, f64) -> f64) -> [f64; LANES] {
    let mut losses = [f64::NEG_INFINITY; LANES];
    for (k, column) in block.iter().enumerate() {
        for (loss, &value) in losses.iter_mut().zip(column) {
            *loss = larger(*loss, lost(k, value));
        }
    }
    losses
}

/// The smallest of the values of `n` blocks, with its block and lane. `values` may be called twice
/// for a block.
fn smallest_of(n: usize, mut values: impl FnMut(usize) -> [f64; LANES]) -> (f64, (usize, usize)) {
    const STRIDE: usize = 16; // one comparison that is not one of all lanes
    let (mut smallest, mut from) = (f64::INFINITY, 0);
    for start in (0..n).step_by(STRIDE) {
        let mut lanes = [f64::INFINITY; LANES];
        for i in start..n.min(start + STRIDE) {
            for (lane, value) in lanes.iter_mut().zip(values(i)) {
                *lane = lesser(*lane, value);
            }
        }
        if least(&lanes) < smallest {
            (smallest, from) = (least(&lanes), start);
        }
    }
    for i in from..n {
        if let Some(lane) = values(i).iter().position(|&v| v == smallest) {
            return (smallest, (i, lane));
        }
    }
    (smallest, (0, 0))
}

/// The search, which also returns the block and the lane that ended it early.
fn scan<B: AsRef<[[f64; LANES]]>>(
    blocks: impl IntoIterator<Item = B>,
    r: &[f64],
    enough: f64,
    combine: impl Fn(Option<f64>, f64) -> f64,
) -> (f64, Option<(usize, usize)>) {
    let mut smallest = [f64::INFINITY; LANES];
    for (at, block) in blocks.into_iter().enumerate() {
        let mut values = [0.0; LANES];
        for (k, (column, &r)) in block.as_ref().iter().zip(r).enumerate() {
            for (value, &a) in values.iter_mut().zip(column) {
                *value = combine((k > 0).then_some(*value), r - a);
            }
        }
        for (smallest, &value) in smallest.iter_mut().zip(&values) {
            *smallest = lesser(*smallest, value);
        }
        if least(&smallest) <= enough {
            let lane = values.iter().position(|&v| v <= enough).unwrap_or(0);
            return (values[lane], Some((at, lane)));
        }
    }
    (least(&smallest), None)
}

/// The smaller of two numbers in one instruction; `f64::min` needs more because of NaN.
fn lesser(a: f64, b: f64) -> f64 {
    if b < a { b } else { a }
}

/// The same for the larger one.
fn larger(a: f64, b: f64) -> f64 {
    if b > a { b } else { a }
}

/// By halves, so that the compiler compares several at once.
fn least(values: &[f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = *values;
    let [a, b, c, d] = [lesser(a, e), lesser(b, f), lesser(c, g), lesser(d, h)];
    lesser(lesser(a, c), lesser(b, d))
}

#[cfg(test)]
mod tests;
