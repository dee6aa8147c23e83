//! Factors that several products share: where products round their factors, these are rounded and packed once.

#[cfg(target_arch = "x86_64")]
use super::product::WORTH_ROUNDING;
use super::product::{Start, Threads, in_precision};
#[cfg(target_arch = "x86_64")]
use super::rounded::{Bf16, Columns, Int8, Rows, multiply_packed};
use super::view::{MatMut, MatRef};
use crate::MatmulPrecision;

/// A factor as products take it.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
enum Packed<B, I> {
    /// In f32, which is packed anew by each product.
    Plain,
    Bf16(B),
    Int8(I),
}

/// On other processors factors are not packed.
#[cfg(not(target_arch = "x86_64"))]
type PackedRows = Packed<(), ()>;
#[cfg(not(target_arch = "x86_64"))]
type PackedColumns = Packed<(), ()>;
#[cfg(target_arch = "x86_64")]
type PackedRows = Packed<Rows<Bf16>, Rows<Int8>>;
#[cfg(target_arch = "x86_64")]
type PackedColumns = Packed<Columns<Bf16>, Columns<Int8>>;

/// The left factor of several products, on one thread each.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Left<'a> {
    matrix: MatRef<'a>,
    precision: MatmulPrecision,
    packed: PackedRows,
}

impl<'a> Left<'a> {
    pub(super) fn new(matrix: MatRef<'a>, precision: MatmulPrecision) -> Self {
        #[cfg(target_arch = "x86_64")]
        // One row is multiplied without rounding.
        let packed = match precision {
            _ if matrix.rows() < 2 || matrix.columns() < WORTH_ROUNDING => Packed::Plain,
            MatmulPrecision::F32 => Packed::Plain,
            MatmulPrecision::Bf16 => Packed::Bf16(Rows::new(matrix, false)),
            MatmulPrecision::Int8 => Packed::Int8(Rows::new(matrix, false)),
        };
        #[cfg(not(target_arch = "x86_64"))]
        let packed = Packed::Plain;
        Self { matrix, precision, packed }
    }

    pub(super) fn precision(&self) -> MatmulPrecision {
        self.precision
    }
}

/// The right factor of several products, on one thread each.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Right<'a> {
    matrix: MatRef<'a>,
    packed: PackedColumns,
}

impl<'a> Right<'a> {
    /// `precision`: the left factors'.
    pub(super) fn new(matrix: MatRef<'a>, precision: MatmulPrecision) -> Self {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = precision;
        #[cfg(target_arch = "x86_64")]
        let packed = match precision {
            _ if matrix.rows().min(matrix.columns()) < WORTH_ROUNDING => Packed::Plain,
            MatmulPrecision::F32 => Packed::Plain,
            MatmulPrecision::Bf16 => Packed::Bf16(Columns::new(matrix)),
            MatmulPrecision::Int8 => Packed::Int8(Columns::new(matrix)),
        };
        #[cfg(not(target_arch = "x86_64"))]
        let packed = Packed::Plain;
        Self { matrix, packed }
    }
}

/// `to = (to if add else 0) + a · b` as [`multiply`](super::product::multiply) has it, to the bit.
///
/// # Panics
/// If the shapes do not fit.
pub(super) fn multiply_shared(to: MatMut<'_>, add: bool, a: &Left<'_>, b: &Right<'_>) {
    let start = Start::there(add);
    #[cfg(target_arch = "x86_64")]
    match (&a.packed, &b.packed) {
        (Packed::Bf16(a), Packed::Bf16(b)) => return multiply_packed(to, start, a, b),
        (Packed::Int8(a), Packed::Int8(b)) => return multiply_packed(to, start, a, b),
        _ => {}
    }
    in_precision(a.precision, to, start, a.matrix, b.matrix, 1.0, Threads::One);
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn shared_factors_give_the_bits_of_others() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let available = |precision: &MatmulPrecision| {
            let has = super::super::precision::available(*precision);
            if !has {
                println!("skipped: {}", super::super::UnsupportedPrecision(*precision));
            }
            has
        };
        for precision in MatmulPrecision::ALL.into_iter().filter(available) {
            // Beside the usual ones: one row, one column, few terms, and no whole panel or block.
            let shapes =
                [[64, 512, 512], [1, 64, 40], [7, 70, 1], [9, 3, 50], [45, 1100, 97], [2, 40, 600]];
            for [m, k, n] in shapes {
                let mut numbers = |n: usize| -> Vec<f32> {
                    (0..n).map(|_| rng.random_range(-1f32..1.0)).collect()
                };
                let (a, b, before) = (numbers(m * k), numbers(k * n), numbers(m * n));
                let a = MatRef::by_rows(&a, m, k, k);
                // The weight of an output layer, and its transpose, are multiplied with.
                for turned in [false, true] {
                    let b = match turned {
                        false => MatRef::by_rows(&b, k, n, n),
                        true => MatRef::by_rows(&b, n, k, k).transpose(),
                    };
                    let (left, right) = (Left::new(a, precision), Right::new(b, precision));
                    for add in [false, true] {
                        let (mut shared, mut own) = (before.clone(), before.clone());
                        multiply_shared(MatMut::by_rows(&mut shared, m, n), add, &left, &right);
                        let to = MatMut::by_rows(&mut own, m, n);
                        in_precision(precision, to, Start::there(add), a, b, 1.0, Threads::One);
                        assert_eq!(shared, own, "{precision:?}, {m} × {k} × {n}, {turned}, {add}");
                        assert_ne!(shared, before);
                    }
                }
            }
        }
    }
}
