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
/// Complexity: O(K · |points| · |reference_front|) at worst; a reference point that is covered is
/// left at the first point that covers it. Source: Ishibuchi, Masuda, Tanigaki and Nojima,
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
        // Nothing is added by those that are known to be covered, nor by what fills the last block.
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
/// Complexity: O(K · |points| · |reference_front|) at worst. The maximum is first raised with a few
/// remote reference points and what is near them; the others are left as soon as they cannot raise
/// it. Source: Zitzler, Thiele, Laumanns, Fonseca and da Fonseca,
/// *Performance Assessment of Multiobjective Optimizers* (2003).
///
/// # Errors
/// As [`igd_plus`].
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

/// How many points are compared at a time.
const LANES: usize = 8;

/// Points in blocks of [`LANES`], each objective of a block side by side, so that the compiler can
/// work on several points at once. Larger is better; what is missing in the last block loses
/// against everything.
type Blocks = Vec<[f64; LANES]>;

/// Both sets, checked.
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

/// Whether each point has as many values as there are signs, and all are numbers.
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

/// For how many points of the front, the most remote ones, the nearest one is sought first. They
/// raise the maximum to where most others can be left out without a search.
const REMOTE: usize = 6;

/// Blocks for copies of the points that ended the last searches early.
const COPIES: usize = 8;

/// Looks for the point that loses least against a reference point.
struct Search {
    n_objectives: usize,
    /// The points, and before them the copies: what ended a search is likely to end the next ones.
    blocks: Blocks,
    /// How many searches ended early behind the copies.
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
    /// takes what came of the objectives so far, from `initial` on, and how much the point lacks in
    /// the next one.
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
            // In the place of the oldest copy.
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

/// The additive epsilon of [`REMOTE`] points of the front: of the first one, and then of the one
/// that is furthest from the points that were the nearest ones so far. With it, for each point of
/// the front, an upper bound on its own.
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

/// Per lane the largest of what `lost` makes of the number of the objective and the value.
fn losses(block: &[[f64; LANES]], lost: impl Fn(usize, f64) -> f64) -> [f64; LANES] {
    let mut losses = [f64::NEG_INFINITY; LANES];
    for (k, column) in block.iter().enumerate() {
        for (loss, &value) in losses.iter_mut().zip(column) {
            *loss = larger(*loss, lost(k, value));
        }
    }
    losses
}

/// The smallest of the values of `n` blocks, and the block and its lane. `values`
/// may be asked twice for a block.
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

/// The search; with the block and the lane that ended it early.
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

/// The smaller of two numbers in one instruction, which `f64::min` is not for the sake of NaN.
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
mod tests {
    use super::*;
    use crate::Direction::{Maximize, Minimize};
    use crate::{dominates, non_dominated};
    use proptest::prelude::*;

    #[test]
    fn published_example() {
        // Example 4 of Ishibuchi et al.: A is better than B, and IGD+ says so where IGD does not.
        let front = [[10.0, 0.0], [6.0, 1.0], [2.0, 2.0], [1.0, 6.0], [0.0, 10.0]];
        let a = [[4.0, 2.0], [3.0, 3.0], [2.0, 4.0]];
        let b = [[8.0, 2.0], [4.0, 4.0], [2.0, 8.0]];
        let d = [Minimize; 2];
        let igd_a = igd_plus(&a, &front, &d).unwrap();
        let igd_b = igd_plus(&b, &front, &d).unwrap();
        assert!((igd_a - 1.482_842_712_474_619).abs() < 1e-14, "{igd_a}");
        assert!((igd_b - 2.260_112_615_949_154).abs() < 1e-14, "{igd_b}");
    }

    #[test]
    fn hand_computed_values() {
        let d = [Maximize, Minimize];
        let front = [[4.0, 1.0], [2.0, 0.0]];
        // (1, 5) lacks 3 and 4 to the first, 1 and 5 to the second.
        let one = [[1.0, 5.0]];
        let expected = (5.0 + 26.0_f64.sqrt()) / 2.0;
        assert_eq!(igd_plus(&one, &front, &d).unwrap(), expected);
        assert_eq!(epsilon_additive(&one, &front, &d).unwrap(), 5.0);
        // Better than both by at least 1 and by exactly 0.5.
        let better = [[5.0, -0.5]];
        assert_eq!(igd_plus(&better, &front, &d).unwrap(), 0.0);
        assert_eq!(epsilon_additive(&better, &front, &d).unwrap(), -0.5);
        // One objective.
        assert_eq!(igd_plus(&[[1.0]], &[[3.0], [0.0]], &[Maximize]).unwrap(), 1.0);
        assert_eq!(epsilon_additive(&[[1.0]], &[[3.0], [0.0]], &[Maximize]).unwrap(), 2.0);
    }

    #[test]
    fn large_sets_agree_with_comparing_every_pair() {
        // Steps of irrational size. Spheres, of which the front may be behind or before the points.
        let sphere = |n: usize, k: usize, first: usize, radius: f64| -> Vec<Vec<f64>> {
            let walk = |i: usize, k: usize| (i as f64 * (2.0 + 3.0 * k as f64).sqrt()).fract();
            let raw = |i| (0..k).map(|k| walk(i, k) + 1e-3).collect::<Vec<f64>>();
            let norm = |p: &[f64]| p.iter().map(|x| x * x).sum::<f64>().sqrt();
            let scaled = |p: Vec<f64>| p.iter().map(|x| x / norm(&p) * radius).collect();
            (first..first + n).map(raw).map(scaled).collect()
        };
        for k in 1..=6 {
            let d = vec![Maximize; k];
            for (radius, same) in [(0.9, false), (1.0, false), (1.1, false), (1.0, true)] {
                let points = sphere(403, k, 1, radius);
                let front = sphere(517, k, if same { 1 } else { 1001 }, 1.0);
                let (mut epsilon, mut distances) = (f64::NEG_INFINITY, 0.0);
                for r in &front {
                    let lost = |a: &[f64]| r.iter().zip(a).map(|(r, a)| r - a).collect::<Vec<_>>();
                    let worst =
                        |a: &Vec<f64>| lost(a).into_iter().fold(f64::NEG_INFINITY, f64::max);
                    epsilon = epsilon.max(points.iter().map(worst).fold(f64::INFINITY, f64::min));
                    let distance =
                        |a: &Vec<f64>| lost(a).iter().map(|l| l.max(0.0).powi(2)).sum::<f64>();
                    distances += points.iter().map(distance).fold(f64::INFINITY, f64::min).sqrt();
                }
                assert_eq!(epsilon_additive(&points, &front, &d).unwrap(), epsilon, "{k}");
                assert_eq!(igd_plus(&points, &front, &d).unwrap(), distances / 517.0, "{k}");
            }
        }
    }

    #[test]
    fn bad_input_is_named() {
        let d = [Maximize, Maximize];
        let good = [vec![1.0, 2.0]];
        let none: [Vec<f64>; 0] = [];
        for indicator in [igd_plus::<Vec<f64>, Vec<f64>>, epsilon_additive] {
            let message = |p: &[Vec<f64>], r: &[Vec<f64>], d: &[Direction]| {
                indicator(p, r, d).unwrap_err().to_string()
            };
            assert!(message(&none, &good, &d).contains("`points` is empty"));
            assert!(message(&good, &none, &d).contains("`reference_front` is empty"));
            assert!(message(&good, &good, &[]).contains("`directions` is empty"));
            let nan = [vec![1.0, 2.0], vec![1.0, f64::NAN]];
            let m = message(&good, &nan, &d);
            assert!(m.contains("objective 1 of `reference_front` (index 1)"), "{m}");
            let short = [vec![1.0, 2.0], vec![1.0]];
            let m = message(&short, &good, &d);
            assert!(m.contains("`points`") && m.contains("index 1"), "{m}");
            assert!(indicator(&[vec![-f64::MAX; 2]], &[vec![f64::MAX; 2]], &d).is_err());
        }
    }

    type Sets = (Vec<Vec<f64>>, Vec<Vec<f64>>, Vec<Direction>);

    fn sets() -> impl Strategy<Value = Sets> {
        (1_usize..=5).prop_flat_map(|k| {
            let point = || prop::collection::vec((-2_i8..7).prop_map(|v| f64::from(v) / 2.0), k);
            let direction = any::<bool>().prop_map(|m| if m { Minimize } else { Maximize });
            (
                prop::collection::vec(point(), 1..30),
                prop::collection::vec(point(), 1..12),
                prop::collection::vec(direction, k),
            )
        })
    }

    proptest! {
        #[test]
        fn the_definitions_hold((points, front, d) in sets()) {
            let losses = |r: &[f64], a: &[f64]| -> Vec<f64> {
                (0..d.len()).map(|k| d[k].gain(r[k], a[k])).collect()
            };
            let mut distances = 0.0;
            let mut epsilon = f64::NEG_INFINITY;
            for r in &front {
                let distance = |a: &Vec<f64>| {
                    losses(r, a).iter().map(|l| l.max(0.0).powi(2)).sum::<f64>().sqrt()
                };
                distances += points.iter().map(distance).fold(f64::INFINITY, f64::min);
                let worst = |a: &Vec<f64>| losses(r, a).into_iter().fold(f64::NEG_INFINITY, f64::max);
                epsilon = epsilon.max(points.iter().map(worst).fold(f64::INFINITY, f64::min));
            }
            let igd = igd_plus(&points, &front, &d).unwrap();
            prop_assert!((igd - distances / front.len() as f64).abs() < 1e-12);
            prop_assert_eq!(epsilon_additive(&points, &front, &d).unwrap(), epsilon);
            // Zero, or not above, exactly where everything is covered.
            let covers = |a: &Vec<f64>, r: &Vec<f64>| a == r || dominates(a, r, &d);
            let covered = front.iter().all(|r| points.iter().any(|a| covers(a, r)));
            prop_assert_eq!(igd == 0.0, covered);
            prop_assert_eq!(epsilon <= 0.0, covered);
        }

        #[test]
        fn only_the_front_of_the_points_counts((points, front, d) in sets()) {
            let kept: Vec<&Vec<f64>> =
                non_dominated(&points, &d).into_iter().map(|i| &points[i]).collect();
            prop_assert_eq!(
                igd_plus(&points, &front, &d).unwrap(), igd_plus(&kept, &front, &d).unwrap());
            prop_assert_eq!(
                epsilon_additive(&points, &front, &d).unwrap(),
                epsilon_additive(&kept, &front, &d).unwrap());
            prop_assert_eq!(igd_plus(&points, &points, &d).unwrap(), 0.0);
            prop_assert_eq!(epsilon_additive(&kept, &kept, &d).unwrap(), 0.0);
        }
    }
}
