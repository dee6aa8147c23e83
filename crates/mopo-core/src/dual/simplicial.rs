//! A zero of a continuous map of which only values are used: Merrill's restart method on Kuhn's
//! triangulation, with integer labels (Todd, "The Computation of Fixed Points and Applications", 1976).
//! Plains, steps and circling paths, where Newton's method fails, do not mislead it; it converges
//! linearly, and from a bad beginning its path can be longer than is allowed for here. For a few unknowns.

/// Width of the first simplices, as a share of the cap, and how much smaller each next are.
const FIRST_WIDTH: f64 = 0.25;
const FINER: f64 = 0.25;

/// Width at which the search ends, as a share of the cap: about the spacing of numbers there.
const LAST_WIDTH: f64 = 1e-15;

/// Pivots in one grid before the attempt is given up: from a middle that lies far from every solution a
/// path of narrow simplices is long.
const PIVOTS: usize = 20_000;

/// Attempts, each from another point.
const ATTEMPTS: usize = 6;

/// A point of \[0, cap\]^n where λ = clip(λ − F(λ), 0, cap), within the width of the last simplices,
/// and the pivots it took. The search begins at `start`.
///
/// The solutions are the zeros of G(x) = F(clip x) + x − clip x, which points outwards far from the
/// box (the normal map of a variational inequality).
pub(super) fn close_in(
    start: &[f64],
    cap: f64,
    f: &mut dyn FnMut(&[f64]) -> Vec<f64>,
) -> (Vec<f64>, usize) {
    let clip = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| x.clamp(0.0, cap)).collect() };
    let mut normal = |x: &[f64]| -> Vec<f64> {
        let inside = clip(x);
        f(&inside).iter().zip(x.iter().zip(&inside)).map(|(f, (x, i))| f + x - i).collect()
    };
    let mut pivots = 0;
    let mut at = start.to_vec();
    for attempt in 0..ATTEMPTS {
        // From elsewhere the simplices close in elsewhere.
        if attempt > 0 {
            let share = |k: usize| (0.618 * attempt as f64 + 0.414 * k as f64).fract();
            at = (0..start.len()).map(|k| cap * share(k)).collect();
        }
        let mut width = FIRST_WIDTH * cap;
        let mut all = true;
        while all && width > LAST_WIDTH * cap {
            let found = follow(&at, width, &mut normal);
            (at, all) = (found.at, found.all_labels);
            pivots += found.pivots;
            width *= FINER;
        }
        if all {
            break;
        }
    }
    (clip(&at), pivots)
}

/// Where a path of simplices ended.
struct End {
    at: Vec<f64>,
    /// At a simplex that has all labels, and not at the limit of pivots.
    all_labels: bool,
    pivots: usize,
}

/// Follows the path of almost completely labelled simplices in the slab between the map x − `center`,
/// on level 0, and `g`, on level 1, to a simplex of level 1 that has all labels. Says its middle.
fn follow(center: &[f64], width: f64, g: &mut dyn FnMut(&[f64]) -> Vec<f64>) -> End {
    let n = center.len();
    // `center` lies here in the simplex of level 0 that the path begins at, the only one there that
    // has all labels.
    let shares: Vec<f64> = (0..n).map(|i| (n - i) as f64 / (n + 1) as f64).collect();
    let place = |vertex: &[i64]| -> Vec<f64> {
        (0..n).map(|i| center[i] + (vertex[i] as f64 - shares[i]) * width).collect()
    };
    let mut label = |vertex: &[i64]| -> usize {
        match vertex[n] {
            0 => label_of((0..n).map(|i| vertex[i] as f64 - shares[i])),
            _ => label_of(g(&place(vertex))),
        }
    };
    let mut simplex = Simplex { corner: vec![0; n + 1], order: (0..=n).collect() };
    let mut labels: Vec<usize> = (0..=n + 1).map(|i| label(&simplex.vertex(i))).collect();
    let mut new = n + 1;
    for pivots in 1..=PIVOTS {
        let twin = (0..labels.len()).find(|&i| i != new && labels[i] == labels[new]);
        let Some(out) = twin else { break };
        let (next, entered) = simplex.without(out);
        let vertex = next.vertex(entered);
        if !(0..=1).contains(&vertex[n]) {
            // All that stay are of level 1.
            let mut middle = vec![0.0; n];
            for i in (0..=n + 1).filter(|&i| i != out) {
                for (m, x) in middle.iter_mut().zip(place(&simplex.vertex(i))) {
                    *m += x / (n + 1) as f64;
                }
            }
            return End { at: middle, all_labels: true, pivots };
        }
        labels.remove(out);
        labels.insert(entered, label(&vertex));
        (simplex, new) = (next, entered);
    }
    End { at: place(&simplex.vertex(new)), all_labels: false, pivots: PIVOTS }
}

/// 0 where no coordinate is positive, otherwise 1 and the index of the largest.
fn label_of(values: impl IntoIterator<Item = f64>) -> usize {
    let mut best = (0.0, 0);
    for (i, x) in values.into_iter().enumerate() {
        if x > best.0 {
            best = (x, i + 1);
        }
    }
    best.1
}

/// A simplex of Kuhn's triangulation: from its corner along the axes, one after the other.
struct Simplex {
    corner: Vec<i64>,
    order: Vec<usize>,
}

impl Simplex {
    /// Vertex `i`, of 0 to the number of axes.
    fn vertex(&self, i: usize) -> Vec<i64> {
        let mut vertex = self.corner.clone();
        self.order[..i].iter().for_each(|&axis| vertex[axis] += 1);
        vertex
    }

    /// The neighbour that has all vertices but `i`, and the place of its own one.
    fn without(&self, i: usize) -> (Self, usize) {
        let (mut corner, mut order) = (self.corner.clone(), self.order.clone());
        let last = order.len();
        if i == 0 {
            corner[order[0]] += 1;
            order.rotate_left(1);
            (Self { corner, order }, last)
        } else if i == last {
            order.rotate_right(1);
            corner[order[0]] -= 1;
            (Self { corner, order }, 0)
        } else {
            order.swap(i - 1, i);
            (Self { corner, order }, i)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solve(n: usize, f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
        let (at, _) = close_in(&vec![0.0; n], 50.0, &mut |at| f(at));
        let there = f(&at);
        for (x, f) in at.iter().zip(&there) {
            let moved = (x - f).clamp(0.0, 50.0);
            assert!((moved - x).abs() < 1e-9, "{at:?}: {there:?}");
        }
        at
    }

    #[test]
    fn it_finds_roots_and_limits() {
        let at = solve(1, |x| vec![x[0] - 12.3]);
        assert!((at[0] - 12.3).abs() < 1e-12);
        let at = solve(3, |x| vec![x[0] - 7.0 + 0.1 * x[1], x[1] + 1.0, x[2] - 60.0]);
        assert!((at[0] - 7.0).abs() < 1e-10 && at[1] == 0.0 && at[2] == 50.0, "{at:?}");
    }

    /// Steps along −F would turn around the root forever.
    #[test]
    fn it_finds_the_centre_of_circles() {
        let at = solve(2, |x| vec![x[1] - 31.0, 17.0 - x[0]]);
        assert!((at[0] - 17.0).abs() < 1e-9 && (at[1] - 31.0).abs() < 1e-9, "{at:?}");
    }

    /// Flat but for a slope 1e-3 wide.
    #[test]
    fn it_stops_on_slopes_between_plains() {
        let step = |x: f64| (x * 1e3).tanh();
        let at = solve(2, |x| vec![step(x[0] + x[1] - 41.0) * 0.3 + 0.1, step(x[1] - x[0]) + 0.2]);
        assert!((at[0] + at[1] - 41.0).abs() < 1e-2, "{at:?}");
        solve(3, |x| vec![0.1 - step(x[2] - 3.0), step(x[0] - 9.0), step(x[1] - x[0])]);
    }
}
