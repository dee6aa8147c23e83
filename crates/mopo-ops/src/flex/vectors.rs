//! Products with one row, one column or one term, which are loops over vectors.

use super::Kernel;
use super::view::{MatMut, MatRef};

/// Scalar products of a line with other lines.
pub(super) struct Dots<'a> {
    pub(super) to: &'a mut [f32],
    pub(super) add: bool,
    pub(super) line: MatRef<'a>,
    pub(super) alpha: f32,
    pub(super) columns: MatRef<'a>,
}

impl Kernel for Dots<'_> {
    #[inline(always)]
    fn run(self) {
        // Four vectors of the machine's width, as faer's kernels have.
        match lanes() {
            16 => self.sums_of::<64>(),
            _ => self.sums_of::<32>(),
        }
    }
}

/// Numbers in a vector of the machine.
#[inline(always)]
fn lanes() -> usize {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        return 16;
    }
    8
}

impl Dots<'_> {
    #[inline(always)]
    fn sums_of<const SUMS: usize>(self) {
        let Dots { to, add, line, alpha, columns } = self;
        let line: Vec<f32> = (0..line.columns()).map(|i| line[(0, i)]).collect();
        let (line, line_rest) = line.as_chunks::<SUMS>();
        for (j, to) in to.iter_mut().enumerate() {
            let (column, rest) = columns.row(j).as_chunks::<SUMS>();
            let mut sums = [0f32; SUMS];
            for (a, b) in line.iter().zip(column) {
                for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                    *sum = a.mul_add(*b, *sum);
                }
            }
            for ((sum, a), b) in sums.iter_mut().zip(line_rest).zip(rest) {
                *sum = a.mul_add(*b, *sum);
            }
            // Vectors in pairs; then the one that is left is halved again and again.
            let lanes = SUMS / 4;
            for i in 0..lanes {
                sums[i] = (sums[i] + sums[lanes + i]) + (sums[2 * lanes + i] + sums[3 * lanes + i]);
            }
            let mut n = lanes;
            while n > 1 {
                n /= 2;
                let (left, right) = sums.split_at_mut(n);
                left.iter_mut().zip(right).for_each(|(a, b)| *a += *b);
            }
            *to = if add { *to } else { 0.0 } + alpha * sums[0];
        }
    }
}

/// Lines times the numbers of a line, summed in order onto what is there.
pub(super) struct Axpys<'a> {
    pub(super) to: &'a mut [f32],
    pub(super) add: bool,
    pub(super) line: MatRef<'a>,
    pub(super) alpha: f32,
    pub(super) rows: MatRef<'a>,
}

impl Kernel for Axpys<'_> {
    #[inline(always)]
    fn run(self) {
        let Axpys { to, add, line, alpha, rows } = self;
        if !add {
            to.fill(0.0);
        }
        for j in 0..rows.rows() {
            let x = alpha * line[(0, j)];
            for (to, y) in to.iter_mut().zip(rows.row(j)) {
                *to = y.mul_add(x, *to);
            }
        }
    }
}

/// The product of a column and a row.
pub(super) struct Outer<'a> {
    pub(super) to: MatMut<'a>,
    pub(super) add: bool,
    pub(super) column: MatRef<'a>,
    pub(super) alpha: f32,
    pub(super) row: &'a [f32],
}

impl Kernel for Outer<'_> {
    #[inline(always)]
    fn run(self) {
        let Outer { mut to, add, column, alpha, row } = self;
        for i in 0..to.rows() {
            let x = alpha * column[(i, 0)];
            let to = to.row_mut(i).iter_mut().zip(row);
            if add {
                to.for_each(|(to, y)| *to = y.mul_add(x, *to));
            } else {
                to.for_each(|(to, y)| *to = x * y);
            }
        }
    }
}
