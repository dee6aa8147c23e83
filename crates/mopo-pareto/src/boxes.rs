//! The region that a growing set of points leaves uncovered, as disjoint boxes, and the points of a
//! set that others cover.

/// How many points are compared at once.
const LANES: usize = 8;

/// The memory that boxes may take; what their lists have reserved may be twice as much.
const MOST_BYTES: usize = 64 << 20;

/// A sweep along the last objective, for a number of objectives that only the implementation knows.
pub(crate) trait Sweep {
    /// The volume under `rows`, in descending order of their last objective, and the number of rows
    /// that it is of: not all if too many boxes would be needed.
    fn volume(&mut self, rows: &[f64]) -> (f64, usize);
}

/// The sweep for a number of objectives, from five to eight: beyond, slicing first is faster.
pub(crate) fn sweep(n_objectives: usize) -> Option<Box<dyn Sweep>> {
    // A corner and as many indices.
    let size = (n_objectives - 1) * (size_of::<f64>() + size_of::<u32>());
    sweep_with_at_most(n_objectives, MOST_BYTES / size)
}

pub(crate) fn sweep_with_at_most(n_objectives: usize, most: usize) -> Option<Box<dyn Sweep>> {
    Some(match n_objectives {
        5 => Box::new(Uncovered::<4>::new(most)),
        6 => Box::new(Uncovered::<5>::new(most)),
        7 => Box::new(Uncovered::<6>::new(most)),
        8 => Box::new(Uncovered::<7>::new(most)),
        _ => return None,
    })
}

/// The part of `D`-dimensional space with positive coordinates that no point covers, where a point
/// covers what lies between the origin and itself.
///
/// It is the union of the orthants above *lower corners*. A corner has its coordinate j from a
/// point, the *definer* of axis j, whose other coordinates are larger than the corner's. Of each
/// orthant a box is kept such that the boxes are disjoint and nothing is missing: along axis j it
/// reaches up to the smallest coordinate j of the definers of earlier axes. A new point replaces
/// each corner below it by up to `D` corners, each with the new point as the definer of one axis.
///
/// Source: Lacour, Klamroth and Fonseca, *A Box Decomposition Algorithm to Compute the Hypervolume
/// Indicator* (2017); its local upper bounds are the corners here, since we maximise. Where
/// coordinates are equal, the later point counts as larger.
struct Uncovered<const D: usize> {
    corners: Corners<D>,
    /// Per corner and axis, the index of the definer in `points`.
    definers: Vec<[u32; D]>,
    /// First the definers of the origin: for each axis one with 0 there and otherwise with the
    /// largest coordinates of all points. No box reaches further, and no corner is so far out.
    points: Vec<[f64; D]>,
    /// During one addition: the corners below the new point.
    below: Vec<u32>,
    most: usize,
}

impl<const D: usize> Sweep for Uncovered<D> {
    fn volume(&mut self, rows: &[f64]) -> (f64, usize) {
        self.clear(rows);
        let mut volume = 0.0;
        for (i, row) in rows.chunks_exact(D + 1).enumerate() {
            if self.definers.len() > self.most {
                return (volume, i);
            }
            let (point, height) = row.split_first_chunk().expect("D coordinates and a height");
            // What a point adds to those before it lies entirely below its own last coordinate.
            volume += self.add(point) * height[0];
        }
        (volume, rows.len() / (D + 1))
    }
}

impl<const D: usize> Uncovered<D> {
    /// Without memory yet.
    fn new(most: usize) -> Self {
        Self {
            corners: Corners { blocks: Vec::new() },
            definers: Vec::new(),
            points: Vec::new(),
            below: Vec::new(),
            most,
        }
    }

    /// Back to no points, of which `rows` are to come: everything is above one corner, the origin.
    fn clear(&mut self, rows: &[f64]) {
        let mut largest = [0.0; D];
        for row in rows.chunks_exact(D + 1) {
            for (largest, &value) in largest.iter_mut().zip(row) {
                *largest = if value > *largest { value } else { *largest };
            }
        }
        self.corners.blocks.clear();
        self.definers.clear();
        self.points.clear();
        for axis in 0..D {
            let mut point = largest;
            point[axis] = 0.0;
            self.points.push(point);
        }
        self.push([0.0; D], std::array::from_fn(|axis| axis as u32));
    }

    /// Adds a point and returns the volume that it newly covers.
    fn add(&mut self, point: &[f64; D]) -> f64 {
        let mut below = std::mem::take(&mut self.below);
        self.corners.below(point, &mut below);
        let new = self.points.len() as u32;
        let mut volume = 0.0;
        // From the last one, so that what takes the place of a removed corner has been seen or need
        // not be.
        for (seen, &i) in below.iter().rev().enumerate() {
            let i = i as usize;
            let (own, rest) = self.cut(i, point);
            if seen == 0 {
                // An equal point, or a larger one with a common coordinate, came before: nothing is
                // above these corners and below this point.
                if own == 0.0 && below.iter().all(|&i| self.cut(i as usize, point).0 == 0.0) {
                    break;
                }
                self.points.push(*point);
            }
            volume += own;
            // The axes that the point can define: there, all other definers are above it.
            let mut axes = 0_u32;
            for j in 0..D {
                axes |= u32::from(point[j] < rest[j]) << j;
            }
            if axes == 0 {
                self.swap_remove(i);
                continue;
            }
            let (corner, definers) = (self.corners.get(i), self.definers[i]);
            let mut place = i;
            loop {
                let axis = axes.trailing_zeros() as usize;
                self.corners.blocks[place / LANES][axis][place % LANES] = point[axis];
                self.definers[place][axis] = new;
                axes &= axes - 1;
                if axes == 0 {
                    break;
                }
                place = self.definers.len();
                self.push(corner, definers);
            }
        }
        self.below = below;
        volume
    }

    /// The volume of the box of corner `i` below `point`, and for each axis the smallest coordinate
    /// of the definers of the others.
    #[inline(always)]
    fn cut(&self, i: usize, point: &[f64; D]) -> (f64, [f64; D]) {
        let corner = self.corners.get(i);
        let mut top = *point;
        let mut rest = [f64::INFINITY; D];
        for (axis, &definer) in self.definers[i].iter().enumerate() {
            let definer = &self.points[definer as usize];
            for j in 0..D {
                if j != axis {
                    rest[j] = smaller(definer[j], rest[j]);
                }
                if j > axis {
                    top[j] = smaller(definer[j], top[j]);
                }
            }
        }
        let mut volume = 1.0;
        for j in 0..D {
            volume *= top[j] - corner[j];
        }
        (volume, rest)
    }

    #[inline(always)]
    fn push(&mut self, corner: [f64; D], definers: [u32; D]) {
        let i = self.definers.len();
        if i.is_multiple_of(LANES) {
            self.corners.blocks.push([[f64::INFINITY; LANES]; D]);
        }
        self.corners.set(i, corner);
        self.definers.push(definers);
    }

    fn swap_remove(&mut self, i: usize) {
        self.definers.swap_remove(i);
        let last = self.definers.len();
        self.corners.set(i, self.corners.get(last));
        self.corners.set(last, [f64::INFINITY; D]);
        if last.is_multiple_of(LANES) {
            self.corners.blocks.pop();
        }
    }
}

/// Lower corners in blocks with a row per coordinate. The rest of the last block is infinite, and
/// so below no point.
struct Corners<const D: usize> {
    blocks: Vec<[[f64; LANES]; D]>,
}

impl<const D: usize> Corners<D> {
    #[inline(always)]
    fn get(&self, i: usize) -> [f64; D] {
        let block = &self.blocks[i / LANES];
        std::array::from_fn(|j| block[j][i % LANES])
    }

    #[inline(always)]
    fn set(&mut self, i: usize, corner: [f64; D]) {
        let block = &mut self.blocks[i / LANES];
        for (row, value) in block.iter_mut().zip(corner) {
            row[i % LANES] = value;
        }
    }

    /// Lists the corners at most as large as `point` in every coordinate.
    #[inline(always)]
    fn below(&self, point: &[f64; D], indices: &mut Vec<u32>) {
        indices.clear();
        for (b, block) in self.blocks.iter().enumerate() {
            let excess = excess(block.iter().zip(point).map(|(row, &p)| row.map(|v| v - p)));
            if least(excess) <= 0.0 {
                let mut lanes = 0;
                for (i, &excess) in excess.iter().enumerate() {
                    lanes |= u32::from(excess <= 0.0) << i;
                }
                while lanes != 0 {
                    indices.push((b * LANES) as u32 + lanes.trailing_zeros());
                    lanes &= lanes - 1;
                }
            }
        }
    }
}

/// The largest difference per lane. Differences and maxima become vector instructions, and different
/// numbers never have the difference 0.
#[inline(always)]
fn excess(differences: impl Iterator<Item = [f64; LANES]>) -> [f64; LANES] {
    let mut excess = [f64::NEG_INFINITY; LANES];
    for row in differences {
        for (excess, difference) in excess.iter_mut().zip(row) {
            *excess = if difference > *excess { difference } else { *excess };
        }
    }
    excess
}

#[inline(always)]
fn least(mut values: [f64; LANES]) -> f64 {
    for half in [LANES / 2, LANES / 4, LANES / 8] {
        for i in 0..half {
            values[i] = smaller(values[i + half], values[i]);
        }
    }
    values[0]
}

#[inline(always)]
fn smaller(a: f64, b: f64) -> f64 {
    if a < b { a } else { b }
}

/// Removes rows that others cover, equal ones but for the first included.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// The rows kept without their last value, in blocks of a row of lanes per objective. Unused lanes
    /// cover nothing.
    blocks: Vec<[f64; LANES]>,
}

impl Filter {
    /// `rows` must be in descending order of the last objective.
    pub(crate) fn retain_uncovered(&mut self, rows: &mut Vec<f64>, n_objectives: usize) {
        let (k, d) = (n_objectives, n_objectives - 1);
        self.blocks.clear();
        let mut kept = 0;
        for i in 0..rows.len() / k {
            let row = &rows[i * k..][..d];
            let covers = |block: &[[f64; LANES]]| {
                least(excess(block.iter().zip(row).map(|(lanes, &r)| lanes.map(|v| r - v)))) <= 0.0
            };
            if self.blocks.chunks_exact(d).any(covers) {
                continue;
            }
            if kept % LANES == 0 {
                self.blocks.resize(self.blocks.len() + d, [f64::NEG_INFINITY; LANES]);
            }
            let start = self.blocks.len() - d;
            for (lanes, &value) in self.blocks[start..].iter_mut().zip(row) {
                lanes[kept % LANES] = value;
            }
            rows.copy_within(i * k..(i + 1) * k, kept * k);
            kept += 1;
        }
        rows.truncate(kept * k);
    }
}
