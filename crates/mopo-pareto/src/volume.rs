//! Volumes of unions of boxes that reach from the origin to points with positive coordinates.
//!
//! Dominated points and duplicates need no special care: they add exactly nothing.

use crate::boxes::{self, Filter, Sweep};
use crate::staircase::{Staircase, replace};

/// The volume under `rows`, of `n_objectives` values each.
pub(crate) fn volume(rows: Vec<f64>, n_objectives: usize) -> f64 {
    match n_objectives {
        0 => 0.0,
        1 => rows.into_iter().fold(0.0, f64::max),
        2 => area(uncovered(&rows)),
        3 => volume_3d(uncovered(&rows)),
        4 => {
            let mut points: Vec<[f64; 4]> = uncovered(&rows);
            points.sort_unstable_by_key(|p| !p[3].to_bits());
            Front3d::default().volume_4d(&points)
        }
        k => {
            let all: Vec<&[f64]> = rows.chunks_exact(k).collect();
            let mut order = above_largest(&all);
            order.sort_unstable_by_key(|row| !row[k - 1].to_bits());
            let mut sorted = order.concat();
            let mut recursion = Recursion::new(k);
            if order.len() < all.len() {
                // Where one point covers others, further ones may do so.
                recursion.volume(&mut sorted, k)
            } else {
                recursion.volume_of_front(&sorted, k)
            }
        }
    }
}

/// The points as arrays, without most of those that others cover.
fn uncovered<const K: usize>(rows: &[f64]) -> Vec<[f64; K]> {
    above_largest(rows.as_chunks().0)
}

/// The points without those that the largest box covers, which in a cloud are nearly all and need
/// not be sorted.
fn above_largest<P: AsRef<[f64]> + Copy>(rows: &[P]) -> Vec<P> {
    let box_of = |row: &P| row.as_ref().iter().product::<f64>();
    let Some(largest) = rows.iter().max_by(|a, b| box_of(a).total_cmp(&box_of(b))) else {
        return Vec::new();
    };
    let mut kept = Vec::with_capacity(rows.len());
    kept.push(*largest);
    kept.extend(
        rows.iter().filter(|row| row.as_ref().iter().zip(largest.as_ref()).any(|(v, l)| v > l)),
    );
    kept
}

/// A sweep along the first objective, from the best down: O(n log n).
fn area(mut points: Vec<[f64; 2]>) -> f64 {
    points.sort_unstable_by_key(|p| !p[0].to_bits()); // positive numbers: the order of the bits
    let mut height = 0.0;
    let mut area = 0.0;
    for &[x, y] in &points {
        if y > height {
            area += x * (y - height);
            height = y;
        }
    }
    area
}

/// Slices along the third objective, from the best down: each slice is the staircase of the points
/// seen so far, times its height. O(n log n) comparisons.
fn volume_3d(mut points: Vec<[f64; 3]>) -> f64 {
    points.sort_unstable_by_key(|p| !p[2].to_bits());
    let mut stairs = Staircase::default();
    let mut area = 0.0;
    let mut volume = 0.0;
    for (i, &[x, y, z]) in points.iter().enumerate() {
        area += stairs.add(x, y);
        let below = points.get(i + 1).map_or(0.0, |next| next[2]);
        volume += area * (z - below);
    }
    volume
}

/// A three-dimensional front that grows point by point.
///
/// In the order of the last objective it gives a four-dimensional volume: what a point adds to
/// those before it lies entirely below its own last coordinate. The idea is that of HV4D+
/// (Guerreiro
/// and Fonseca 2018); the data structure is a plain list, in the order of z, that is scanned.
#[derive(Debug, Default)]
struct Front3d {
    // Mutually non-dominated and distinct; z descends.
    x: Vec<f64>,
    y: Vec<f64>,
    z: Vec<f64>,
    // For one addition: the outline, and the indices of points that the new one hides.
    outline: Vec<(f64, f64)>,
    hidden: Vec<usize>,
}

impl Front3d {
    /// The volume under four-dimensional points in descending order of the last objective. O(n)
    /// scans of the front for n points.
    fn volume_4d(&mut self, points: &[[f64; 4]]) -> f64 {
        for column in [&mut self.x, &mut self.y, &mut self.z] {
            column.clear();
        }
        points.iter().map(|&[x, y, z, w]| self.add(x, y, z) * w).sum()
    }

    /// Adds the point and returns the added volume.
    fn add(&mut self, x: f64, y: f64, z: f64) -> f64 {
        let above = self.z.partition_point(|&q| q > z);
        let (left, floor) = arms(&self.x[..above], &self.y[..above], x, y);
        if left >= x {
            return 0.0; // covered
        }
        // The part of [0, x]×[0, y] that the points above cover: all up to `left` and up to
        // `floor`, and a staircase in the rest. `outline` runs from (left, y) to (x, floor) along
        // its steps.
        self.outline.clear();
        self.outline.extend([(left, y), (x, floor)]);
        for (&qx, &qy) in self.x[..above].iter().zip(&self.y[..above]) {
            if qx > left && qy > floor {
                add_to_outline(&mut self.outline, qx, qy);
            }
        }
        let mut open = open_area(&self.outline);
        let (mut left, mut floor) = (left, floor);
        // Downwards, the points below cover more and more of it.
        let mut volume = 0.0;
        let mut top = z;
        self.hidden.clear();
        for i in above..self.z.len() {
            let (qx, qy) = (self.x[i], self.y[i]);
            if qx <= left || qy <= floor {
                continue;
            }
            let (reach_x, reach_y) = (qx >= x, qy >= y);
            if reach_x && reach_y {
                if self.z[i] == z {
                    return 0.0; // covered, and then nothing can be hidden
                }
                volume += open * (top - self.z[i]);
                top = 0.0;
                break;
            }
            if qx <= x && qy <= y {
                self.hidden.push(i);
            }
            if add_to_outline(&mut self.outline, qx.min(x), qy.min(y)) {
                volume += open * (top - self.z[i]);
                top = self.z[i];
                open = open_area(&self.outline);
                left = self.outline[0].0;
                floor = self.outline[self.outline.len() - 1].1;
            }
        }
        volume += open * top;
        let columns = [(&mut self.x, x), (&mut self.y, y), (&mut self.z, z)];
        for (column, value) in columns {
            insert(column, above, value, &self.hidden);
        }
        volume
    }
}

/// How far along each axis the points cover [0, x]×[0, y] fully: the largest first coordinate of
/// those that reach y, and the largest second coordinate of those that reach x.
fn arms(xs: &[f64], ys: &[f64], x: f64, y: f64) -> (f64, f64) {
    // Four separate maxima, which the compiler turns into vector instructions.
    let mut left = [0.0_f64; 4];
    let mut floor = [0.0_f64; 4];
    let mut widen = |lane: usize, qx: f64, qy: f64| {
        let reach = if qy >= y { qx } else { 0.0 };
        left[lane] = if reach > left[lane] { reach } else { left[lane] };
        let reach = if qx >= x { qy } else { 0.0 };
        floor[lane] = if reach > floor[lane] { reach } else { floor[lane] };
    };
    let (x_blocks, x_rest) = xs.as_chunks::<4>();
    let (y_blocks, y_rest) = ys.as_chunks::<4>();
    for (qx, qy) in x_blocks.iter().zip(y_blocks) {
        for lane in 0..4 {
            widen(lane, qx[lane], qy[lane]);
        }
    }
    for (&qx, &qy) in x_rest.iter().zip(y_rest) {
        widen(0, qx, qy);
    }
    (left.into_iter().fold(0.0, f64::max), floor.into_iter().fold(0.0, f64::max))
}

/// Removes the corner (x, y) from the open region above `outline`; false if it is not in it. The
/// corner must lie to the right of the outline's first point.
fn add_to_outline(outline: &mut Vec<(f64, f64)>, x: f64, y: f64) -> bool {
    let mut at = 1;
    while outline[at].0 < x {
        at += 1;
    }
    if outline[at].1 >= y {
        return false;
    }
    let mut first = at;
    while first > 0 && outline[first - 1].1 <= y {
        first -= 1;
    }
    let last = at + usize::from(outline[at].0 == x);
    replace(outline, first, last, (x, y));
    true
}

/// The area between the outline and the corner that it goes round.
fn open_area(outline: &[(f64, f64)]) -> f64 {
    let top = outline[0].1;
    outline.windows(2).map(|w| (w[1].0 - w[0].0) * (top - w[1].1)).sum()
}

/// Puts `value` at `at` and removes the values at the ascending positions `hidden`, none before
/// `at`.
fn insert(column: &mut Vec<f64>, at: usize, value: f64, hidden: &[usize]) {
    let Some((&first, others)) = hidden.split_first() else {
        column.insert(at, value);
        return;
    };
    column.copy_within(at..first, at + 1);
    column[at] = value;
    for (i, &gap) in others.iter().enumerate() {
        let end = others.get(i + 1).map_or(column.len(), |&next| next);
        column.copy_within(gap + 1..end, gap - i);
    }
    column.truncate(column.len() - others.len());
}

/// Volumes in four and more dimensions; one level per number of objectives, to reuse its memory.
pub(crate) struct Recursion {
    filter: Filter,
    front: Front3d,
    levels: Vec<Level>,
}

struct Level {
    /// None if there are so many objectives that slices are always better.
    sweep: Option<Box<dyn Sweep>>,
    /// The non-dominated points so far, without their last objective, in descending order of the
    /// objective that is then last.
    front: Vec<f64>,
    /// The front limited to the box of one point.
    limited: Vec<f64>,
}

impl Recursion {
    /// For at least four objectives.
    pub(crate) fn new(n_objectives: usize) -> Self {
        let levels = (5..=n_objectives).rev();
        let level = |k| Level { sweep: boxes::sweep(k), front: Vec::new(), limited: Vec::new() };
        Self {
            filter: Filter::default(),
            front: Front3d::default(),
            levels: levels.map(level).collect(),
        }
    }

    /// The volume under `rows`, in descending order of the last objective. Rows that others cover
    /// are removed.
    pub(crate) fn volume(&mut self, rows: &mut Vec<f64>, n_objectives: usize) -> f64 {
        if n_objectives > 4 && rows.len() / n_objectives > few(n_objectives) {
            self.filter.retain_uncovered(rows, n_objectives);
        }
        self.volume_of_front(rows, n_objectives)
    }

    /// The same for rows of which few or none cover another.
    fn volume_of_front(&mut self, rows: &[f64], n_objectives: usize) -> f64 {
        volume_nd(rows, n_objectives, &mut self.levels, &mut self.front, &mut self.filter)
    }
}

/// The number of rows up to which slices are faster than a decomposition into boxes, measured with
/// fronts and clouds of 10 to 100 points in 5 to 10 dimensions.
fn few(n_objectives: usize) -> usize {
    6 * (n_objectives - 5) + 4
}

/// By boxes, or by slices where there are few rows, many objectives, or too many boxes.
fn volume_nd(
    rows: &[f64],
    k: usize,
    levels: &mut [Level],
    front_3d: &mut Front3d,
    filter: &mut Filter,
) -> f64 {
    if k == 4 {
        return front_3d.volume_4d(rows.as_chunks().0);
    }
    let [level, deeper @ ..] = levels else { unreachable!("a level for each objective after 4") };
    let n = rows.len() / k;
    let (mut total, done) = match &mut level.sweep {
        Some(sweep) if n > few(k) => sweep.volume(rows),
        _ => (0.0, 0),
    };
    if done == n {
        return total;
    }
    // What a point adds to those before it lies entirely below its own last coordinate, so it is
    // that coordinate times a volume of one dimension less: its own box there, minus what the others
    // cover of it (While, Bradstreet and Barone 2012).
    let last = k - 1;
    level.front.clear();
    for (i, row) in rows.chunks_exact(k).enumerate() {
        let (row, height) = (&row[..last], row[last]);
        level.limited.clear();
        if !limit(&level.front, row, &mut level.limited) {
            continue;
        }
        if i >= done {
            if last > 4 && level.limited.len() / last > few(last) {
                filter.retain_uncovered(&mut level.limited, last);
            }
            let own: f64 = row.iter().product();
            let covered = volume_nd(&level.limited, last, deeper, front_3d, filter);
            total += height * (own - covered);
        }
        insert_row(&mut level.front, row);
    }
    total
}

/// Appends each of `others`, limited to the box of `row`; false if one of them covers it.
pub(crate) fn limit(others: &[f64], row: &[f64], limited: &mut Vec<f64>) -> bool {
    for other in others.chunks_exact(row.len()) {
        let mut covers = true;
        limited.extend(other.iter().zip(row).map(|(&o, &r)| {
            covers &= o >= r;
            if o < r { o } else { r }
        }));
        if covers {
            return false;
        }
    }
    true
}

/// Inserts a row that is not covered into a front in descending order of the last objective, and
/// removes what it covers.
fn insert_row(front: &mut Vec<f64>, row: &[f64]) {
    let k = row.len();
    let mut kept = 0;
    let mut at = None;
    for i in 0..front.len() / k {
        let other = &front[i * k..][..k];
        if at.is_none() && other[k - 1] <= row[k - 1] {
            at = Some(kept);
        }
        if at.is_none() || other.iter().zip(row).any(|(o, r)| o > r) {
            front.copy_within(i * k..(i + 1) * k, kept * k);
            kept += 1;
        }
    }
    front.truncate(kept * k);
    let at = at.unwrap_or(kept) * k;
    front.splice(at..at, row.iter().copied());
}

#[cfg(test)]
mod tests;
