//! The contribution of each point of a set to its hypervolume.

use crate::Direction;
use crate::Result;
use crate::points::{Descending, Gains, too_large};
use crate::staircase::replace;
use crate::volume::{Recursion, limit};

/// The exclusive contribution of each point, in the order of `points`: the hypervolume of all of
/// them minus that of all others, in the product of the objectives' units. **Larger means that
/// more is lost without the point.**
///
/// A dominated point contributes 0. So does **each** of several equal points, because the others
/// remain when one is removed. So does a point that is not strictly better than `ref_point` in all
/// objectives. A dominated point remains when the one that dominates it is removed, and lowers
/// that one's contribution, by definition; for contributions within the front, pass
/// only the front. (In moocore this is `hv_contributions(…, ignore_dominated=False)`, which
/// however returns 0 for values below about 1.5e-8.)
///
/// Computed as volumes that only this point covers, not as differences of hypervolumes: up to
/// three objectives as sums of boxes, so small contributions keep their digits; beyond, as the
/// point's own box minus what the others cover of it, so the rounding error is relative to that
/// box. None
/// is negative, and those that are 0 by definition are exactly 0.
///
/// Complexity for n points and K objectives: O(n log n) for K ≤ 2; O(n log n) comparisons for K = 3
/// if no point dominates another (a sweep over a staircase in an array, with boxes for what only
/// one step covers), O(n²) at worst; beyond, n hypervolumes, each of the others limited to
/// the point's box. Source: Emmerich and Fonseca, *Computing Hypervolume Contributions in Low
/// Dimensions* (2011), for the boxes; While, Bradstreet and Barone (2012) beyond.
///
/// # Errors
/// Those of [`hypervolume`](super::hypervolume).
pub fn hypervolume_contributions<P: AsRef<[f64]>>(
    points: &[P],
    ref_point: &[f64],
    directions: &[Direction],
) -> Result<Vec<f64>> {
    const WHAT: &str = "a hypervolume contribution";
    let gains = Gains::new(points, ref_point, directions, WHAT)?;
    let own = match directions.len() {
        1 => in_two_dimensions(gains.values.iter().map(|&y| [1.0, y]).collect()),
        2 => in_two_dimensions(gains.rows().collect()),
        3 => in_three_dimensions(gains.rows().collect()),
        n_objectives => by_cutting(&gains.values, n_objectives),
    };
    let mut contributions = vec![0.0; points.len()];
    for (&i, &volume) in gains.indices.iter().zip(&own) {
        if !volume.is_finite() {
            return Err(too_large(WHAT));
        }
        contributions[i as usize] = volume;
    }
    Ok(contributions)
}

/// A sweep along the first objective, from the best down: each slice belongs to the highest point
/// so far, as far as it rises above the second highest.
fn in_two_dimensions(points: Vec<[f64; 2]>) -> Vec<f64> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_unstable_by_key(|&i| !points[i][0].to_bits());
    let mut own = vec![0.0; points.len()];
    let (mut highest, mut second, mut owner) = (0.0, 0.0, 0);
    for (at, &i) in order.iter().enumerate() {
        let [x, y] = points[i];
        if y > highest {
            (highest, second, owner) = (y, highest, i);
        } else if y > second {
            second = y;
        }
        let next = order.get(at + 1).map_or(0.0, |&j| points[j][0]);
        own[owner] += (x - next) * (highest - second);
    }
    own
}

/// A sweep along the third objective, from the best down, over the staircase of the points so far.
fn in_three_dimensions(points: Vec<[f64; 3]>) -> Vec<f64> {
    let mut order: Vec<(u64, u32)> =
        points.iter().zip(0..).map(|(p, i)| (!p[2].to_bits(), i)).collect();
    order.sort_unstable();
    let mut sweep = Sweep { own: vec![0.0; points.len()], ..Sweep::default() };
    for (_, i) in order {
        let [x, y, z] = points[i as usize];
        sweep.add(x, y, z, i);
    }
    for step in std::mem::take(&mut sweep.steps) {
        sweep.close(step, 0.0);
    }
    sweep.own
}

/// A part of a slice that only one step covers: from `bottom` up to the step, since `top`.
#[derive(Debug, Clone, Copy)]
struct Strip {
    left: f64,
    right: f64,
    bottom: f64,
    /// The third coordinate at which this part was opened.
    top: f64,
}

/// A step of the staircase: x ascends, y descends.
#[derive(Debug, Clone, Copy)]
struct Step {
    x: f64,
    y: f64,
    owner: u32,
    /// The index of its list of strips.
    strips: u32,
}

#[derive(Debug, Default)]
struct Sweep {
    steps: Vec<Step>,
    /// What only this step covers, per step, from left to right; the bottoms descend.
    strips: Vec<Vec<Strip>>,
    /// Unused lists.
    free: Vec<u32>,
    own: Vec<f64>,
}

impl Sweep {
    fn add(&mut self, x: f64, y: f64, z: f64, owner: u32) {
        let at = self.steps.partition_point(|s| s.x < x);
        if let Some(&step) = self.steps.get(at)
            && step.y >= y
        {
            // Covered. If by a single step, that one loses this corner; otherwise none does.
            if self.steps.get(at + 1).is_none_or(|next| next.y < y) {
                self.cut(step, x, y, z);
            }
            return;
        }
        let mut first = at;
        while first > 0 && self.steps[first - 1].y <= y {
            first -= 1;
        }
        let last = at + usize::from(self.steps.get(at).is_some_and(|s| s.x == x));
        // Where the new point reaches, its neighbours no longer cover alone.
        if first > 0 {
            self.cut(self.steps[first - 1], f64::INFINITY, y, z);
        }
        if let Some(&step) = self.steps.get(last) {
            self.cut(step, x, f64::INFINITY, z);
        }
        // At first, all that it adds is its own.
        let slot = self.free.pop().unwrap_or_else(|| {
            self.strips.push(Vec::new());
            self.strips.len() as u32 - 1
        });
        let mut strips = std::mem::take(&mut self.strips[slot as usize]);
        let mut left = if first > 0 { self.steps[first - 1].x } else { 0.0 };
        for i in first..last {
            let hidden = self.steps[i];
            strips.push(Strip { left, right: hidden.x, bottom: hidden.y, top: z });
            left = hidden.x;
            self.close(hidden, z);
        }
        if left < x {
            let bottom = self.steps.get(last).map_or(0.0, |s| s.y);
            strips.push(Strip { left, right: x, bottom, top: z });
        }
        self.strips[slot as usize] = strips;
        replace(&mut self.steps, first, last, Step { x, y, owner, strips: slot });
    }

    /// Removes [0, x]×[0, y] from what only `step` covers, from `z` down.
    fn cut(&mut self, step: Step, x: f64, y: f64, z: f64) {
        let strips = &mut self.strips[step.strips as usize];
        let Some(from) = strips.iter().position(|s| s.bottom < y) else { return };
        let reached = strips[from..].iter().take_while(|s| s.left < x).count();
        if reached == 0 {
            return;
        }
        let to = from + reached;
        let (leftmost, rightmost) = (strips[from].left, strips[to - 1]);
        self.own[step.owner as usize] += closed(&strips[from..to], step.y, z);
        // The remainder: the part above the corner, and the part beside it.
        let above = Strip { left: leftmost, right: rightmost.right.min(x), bottom: y, top: z };
        let beside = Strip { left: x, top: z, ..rightmost };
        let mut kept = from;
        if y < step.y {
            strips[kept] = above;
            kept += 1;
        }
        if rightmost.right > x {
            if kept == to {
                strips.insert(kept, beside);
                return;
            }
            strips[kept] = beside;
            kept += 1;
        }
        strips.drain(kept..to);
    }

    /// Ends at `z` everything that only `step` covers.
    fn close(&mut self, step: Step, z: f64) {
        let strips = &mut self.strips[step.strips as usize];
        self.own[step.owner as usize] += closed(strips, step.y, z);
        strips.clear();
        self.free.push(step.strips);
    }
}

/// The volume of strips below a roof, from where each was opened down to `z`.
fn closed(strips: &[Strip], roof: f64, z: f64) -> f64 {
    strips.iter().map(|s| (s.right - s.left) * (roof - s.bottom) * (s.top - z)).sum()
}

/// Each point's box, minus the hypervolume of the others limited to it.
fn by_cutting(rows: &[f64], k: usize) -> Vec<f64> {
    let points: Vec<&[f64]> = rows.chunks_exact(k).collect();
    let mut own = vec![0.0; points.len()];
    let relevant = relevant(&points, k);
    // The order that the recursion needs.
    let mut order: Vec<usize> = (0..relevant.len()).collect();
    order.sort_unstable_by_key(|&i| !points[relevant[i].idx][k - 1].to_bits());
    let sorted: Vec<f64> = order.iter().flat_map(|&i| points[relevant[i].idx]).copied().collect();
    let mut recursion = Recursion::new(k);
    let mut limited = Vec::new();
    for (at, &i) in order.iter().enumerate() {
        let Relevant { idx, covered } = relevant[i];
        if covered {
            continue;
        }
        limited.clear();
        let (before, rest) = sorted.split_at(at * k);
        if limit(before, points[idx], &mut limited) && limit(&rest[k..], points[idx], &mut limited)
        {
            let volume: f64 = points[idx].iter().product();
            // Rounding may make a tiny remainder negative.
            let open = volume - recursion.volume(&mut limited, k);
            own[idx] = if open < 0.0 { 0.0 } else { open };
        }
    }
    own
}

/// A point that is relevant for contributions.
struct Relevant {
    idx: usize,
    /// Another one is at least as good everywhere, or equal and earlier: it contributes nothing.
    covered: bool,
}

/// The points that fewer than two others cover, where earlier points cover later equal ones.
/// Without any single one of them, the remaining ones cover all other points.
fn relevant(points: &[&[f64]], k: usize) -> Vec<Relevant> {
    let sorted = Descending::new(points, &vec![Direction::Maximize; k]);
    let mut relevant: Vec<Relevant> = Vec::new();
    for &idx in &sorted.indices {
        let idx = idx as usize;
        let covers = |r: &&Relevant| points[r.idx].iter().zip(points[idx]).all(|(a, b)| a >= b);
        let n_covering = relevant.iter().filter(covers).take(2).count();
        if n_covering < 2 {
            relevant.push(Relevant { idx, covered: n_covering == 1 });
        }
    }
    relevant
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Direction::{Maximize, Minimize};
    use crate::{dominates, hypervolume};
    use proptest::prelude::*;

    #[test]
    fn hand_computed_values() {
        let contributions = |points: &[Vec<f64>]| {
            let k = points[0].len();
            hypervolume_contributions(points, &vec![0.0; k], &vec![Maximize; k]).unwrap()
        };
        assert_eq!(contributions(&[vec![3.0], vec![1.0], vec![-1.0]]), [2.0, 0.0, 0.0]);
        // Steps: (1, 3), (2, 2), (3, 1) each add a unit square alone.
        let stairs = [vec![1.0, 3.0], vec![2.0, 2.0], vec![3.0, 1.0]];
        assert_eq!(contributions(&stairs), [1.0; 3]);
        // A copy takes it from both; a dominated point takes its share from the dominating one.
        let mut more = stairs.to_vec();
        more.extend([vec![1.0, 3.0], vec![1.5, 1.5]]);
        assert_eq!(contributions(&more), [0.0, 0.75, 1.0, 0.0, 0.0]);
        for k in 3..=6 {
            // 2 along one axis and 1 along the others: each adds a unit cube.
            let star: Vec<Vec<f64>> =
                (0..k).map(|i| (0..k).map(|j| if i == j { 2.0 } else { 1.0 }).collect()).collect();
            assert_eq!(contributions(&star), vec![1.0; k]);
            let mut more = star.clone();
            more.extend([star[0].clone(), vec![1.0; k], vec![-1.0; k]]);
            let mut expected = vec![1.0; k];
            expected[0] = 0.0;
            expected.extend([0.0; 3]);
            assert_eq!(contributions(&more), expected);
        }
    }

    #[test]
    fn three_copies_still_cover_what_is_below() {
        let copies = vec![vec![2.0; 4], vec![2.0; 4], vec![2.0; 4], vec![1.0; 4]];
        let own = hypervolume_contributions(&copies, &[0.0; 4], &[Maximize; 4]).unwrap();
        assert_eq!(own, [0.0; 4]);
    }

    #[test]
    fn bad_input_is_an_error() {
        let d = [Maximize, Minimize];
        let e = hypervolume_contributions(&[[1.0, 2.0], [f64::NAN, 0.0]], &[0.0; 2], &d);
        assert!(e.unwrap_err().to_string().contains("objective 0 of `points` (index 1)"));
        assert!(hypervolume_contributions(&[[f64::MAX; 2]], &[-1.0, 0.0], &[Maximize; 2]).is_err());
        assert!(hypervolume_contributions::<[f64; 0]>(&[], &[], &[]).is_err());
        assert!(hypervolume_contributions::<[f64; 2]>(&[], &[0.0; 2], &d).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn contributions_are_differences_of_hypervolumes(
            points in (1_usize..=6).prop_flat_map(|k| {
                // A coarse grid, so that ties, duplicates and dominated points are frequent.
                let point = prop::collection::vec((-1_i8..6).prop_map(f64::from), k);
                prop::collection::vec(point, 1..14)
            }),
            minimised in prop::collection::vec(any::<bool>(), 6),
        ) {
            let k = points[0].len();
            let d: Vec<_> =
                minimised[..k].iter().map(|&m| if m { Minimize } else { Maximize }).collect();
            let ref_point: Vec<f64> =
                minimised[..k].iter().map(|&m| if m { 5.0 } else { 0.0 }).collect();
            let all = hypervolume(&points, &ref_point, &d).unwrap();
            let own = hypervolume_contributions(&points, &ref_point, &d).unwrap();
            for (i, &contribution) in own.iter().enumerate() {
                let mut others = points.clone();
                let point = others.remove(i);
                let without = hypervolume(&others, &ref_point, &d).unwrap();
                // Integers: nothing is rounded.
                prop_assert_eq!(contribution, all - without);
                if others.iter().any(|o| *o == point || dominates(o, &point, &d)) {
                    prop_assert_eq!(contribution, 0.0);
                }
            }
        }
    }
}
