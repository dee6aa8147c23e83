//! Products against sums in f64, in every layout and precision.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// A matrix inside another one, its rows or its columns side by side.
struct Part {
    data: Vec<f32>,
    shape: [usize; 2],
    stride: usize,
    turned: bool,
}

impl Part {
    fn new(rows: usize, columns: usize, turned: bool, rng: &mut ChaCha8Rng) -> Self {
        let shape = if turned { [columns, rows] } else { [rows, columns] };
        let stride = shape[1] + rng.random_range(0..3);
        let data = (0..shape[0] * stride).map(|_| rng.random_range(-1f32..1.0)).collect();
        Self { data, shape, stride, turned }
    }

    fn get(&self) -> MatRef<'_> {
        let [rows, columns] = self.shape;
        let matrix = MatRef::by_rows(&self.data, rows, columns, self.stride);
        if self.turned { matrix.transpose() } else { matrix }
    }
}

type Product = fn(MatMut<'_>, bool, MatRef<'_>, MatRef<'_>, f32, Threads);

fn check(shape: [usize; 3], product: Product, rng: &mut ChaCha8Rng) {
    check_rounded(shape, product, &|_| {}, rng);
}

#[cfg(target_arch = "x86_64")]
fn columnwise(round: fn(f32) -> f32) -> impl Fn(&mut Vec<f32>) {
    move |line| line.iter_mut().for_each(|x| *x = round(*x))
}

/// Compares with sums in f64, for all layouts; `to` is the middle of a larger matrix, whose other elements
/// stay. `round`: what is multiplied instead of the terms of a line of a factor.
fn check_rounded(
    [m, k, n]: [usize; 3],
    product: Product,
    round: &dyn Fn(&mut Vec<f32>),
    rng: &mut ChaCha8Rng,
) {
    for case in 0..16 {
        let [turn_a, turn_b, add, all] = [1, 2, 4, 8].map(|bit| case & bit != 0);
        let (a, b) = (Part::new(m, k, turn_a, rng), Part::new(k, n, turn_b, rng));
        let (a, b) = (a.get(), b.get());
        let lines = |matrix: MatRef<'_>| -> Vec<Vec<f32>> {
            let line = |i| (0..matrix.columns()).map(|j| matrix[(i, j)]).collect();
            let mut lines: Vec<Vec<f32>> = (0..matrix.rows()).map(line).collect();
            lines.iter_mut().for_each(round);
            lines
        };
        let (rows, columns) = (lines(a), lines(b.transpose()));
        let before = Part::new(m + 2, n + 2, false, rng);
        let before = before.get();
        let mut whole: Vec<f32> = (0..m + 2).flat_map(|i| before.row(i).to_vec()).collect();
        let to = MatMut::by_rows(&mut whole, m + 2, n + 2);
        let to = to.take_rows(1..m + 1).take_columns(1..n + 1);
        product(to, add, a, b, 0.5, if all { Threads::All } else { Threads::One });
        for (i, line) in whole.chunks(n + 2).enumerate() {
            for (j, x) in line.iter().enumerate() {
                let old = f64::from(before[(i, j)]);
                let inside = (1..=m).contains(&i) && (1..=n).contains(&j);
                let sum = || -> f64 {
                    let terms = rows[i - 1].iter().zip(&columns[j - 1]);
                    terms.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
                };
                let expected = match inside {
                    true => 0.5 * sum() + if add { old } else { 0.0 },
                    false => old,
                };
                let error = (f64::from(*x) - expected).abs();
                assert!(error < 1e-6 * (k as f64 + 2.0), "{m} {k} {n}, case {case}: {i}, {j}");
            }
        }
    }
}

#[test]
fn products_equal_sums() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let sizes = [0, 1, 2, 7, 16, 33];
    for m in sizes {
        for k in sizes {
            for n in sizes {
                check([m, k, n], multiply, &mut rng);
            }
        }
    }
    for shape in [[1, 600, 40], [70, 130, 97], [97, 1100, 5], [200, 3, 200]] {
        check(shape, multiply, &mut rng);
    }
}

/// Other processors' kernels, which only here run on x86.
#[test]
fn portable_products_equal_sums() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for shape in [[1, 1, 1], [2, 7, 3], [16, 33, 7], [70, 130, 97]] {
        check(shape, portable, &mut rng);
    }
}

/// A product's function, if this machine has the instructions; otherwise says that a test is skipped.
#[cfg(target_arch = "x86_64")]
fn rounding(precision: MatmulPrecision) -> Option<Product> {
    if !super::super::precision::available(precision) {
        println!("skipped: {}", super::super::UnsupportedPrecision(precision));
        return None;
    }
    Some(match precision {
        MatmulPrecision::F32 => multiply,
        MatmulPrecision::Bf16 => in_format::<rounded::Bf16>,
        MatmulPrecision::Int8 => in_format::<rounded::Int8>,
    })
}

#[cfg(target_arch = "x86_64")]
fn in_format<F: rounded::Format>(
    to: MatMut<'_>,
    add: bool,
    a: MatRef<'_>,
    b: MatRef<'_>,
    alpha: f32,
    threads: Threads,
) {
    rounded::multiply::<F>(to, Start::there(add), a, b, alpha, threads);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn bf16_products_equal_sums_of_rounded_factors() {
    let Some(product) = rounding(MatmulPrecision::Bf16) else { return };
    let round = |x| half::bf16::from_f32(x).to_f32();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for m in [1, 2, 12, 33] {
        for k in [1, 2, 31, 32, 33, 70] {
            for n in [1, 15, 16, 17, 32, 70] {
                check_rounded([m, k, n], product, &columnwise(round), &mut rng);
            }
        }
    }
    for shape in [[70, 1100, 97], [500, 40, 300], [30, 600, 550]] {
        check_rounded(shape, product, &columnwise(round), &mut rng);
    }
}

/// Of each 64 terms, rotated, multiples of a 127th of the largest.
#[cfg(target_arch = "x86_64")]
fn to_int8(line: &mut Vec<f32>) {
    line.resize(line.len().next_multiple_of(64), 0.0);
    for block in line.as_chunks_mut().0 {
        rounded::rotate(block);
        let largest = block.iter().fold(0f32, |top, x| top.max(x.abs()));
        let (factor, scale) = (127.0 / largest, largest / 127.0);
        block.iter_mut().for_each(|x| *x = (*x * factor).round_ties_even() * scale / 8.0);
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn int8_products_equal_sums_of_rounded_blocks() {
    let Some(product) = rounding(MatmulPrecision::Int8) else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for m in [1, 5, 6, 7, 33] {
        for k in [1, 3, 4, 63, 64, 65, 130] {
            for n in [1, 15, 16, 17, 32, 70] {
                check_rounded([m, k, n], product, &to_int8, &mut rng);
            }
        }
    }
    for shape in [[70, 1100, 97], [500, 40, 300], [30, 600, 550]] {
        check_rounded(shape, product, &to_int8, &mut rng);
    }
}

/// A row has the same bits whatever is beside it and however many threads there are.
#[test]
#[cfg(target_arch = "x86_64")]
fn rows_of_rounded_products_do_not_depend_on_others() {
    for product in [MatmulPrecision::Bf16, MatmulPrecision::Int8].into_iter().filter_map(rounding) {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let (a, b) = (Part::new(450, 1500, false, &mut rng), Part::new(1500, 290, true, &mut rng));
        let part = |rows: std::ops::Range<usize>, columns: std::ops::Range<usize>, threads| {
            let mut out = vec![0.0; rows.len() * columns.len()];
            let to = MatMut::by_rows(&mut out, rows.len(), columns.len());
            let (a, b) = (a.get().take_rows(rows), b.get().take_columns(columns));
            product(to, false, a, b, 1.0, threads);
            out
        };
        let all = part(0..450, 0..290, Threads::All);
        assert_eq!(all, part(0..450, 0..290, Threads::One));
        for row in [0, 11, 200, 449] {
            let one = part(row..row + 1, 0..290, Threads::One);
            assert_eq!(one, all[row * 290..][..290]);
            assert_eq!(part(row..row + 1, 40..77, Threads::One), one[40..77]);
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn what_is_not_finite_stays_so() {
    for product in [MatmulPrecision::Bf16, MatmulPrecision::Int8].into_iter().filter_map(rounding) {
        for bad in [f32::NAN, f32::INFINITY, f32::from_bits(0x7fff_ffff)] {
            // The factor with the number, and the other one; then the other way round.
            for (place, finite) in [([47, 0], 0), ([0, 13], 1)] {
                let (mut a, mut b, mut out) = ([1f32; 80], [1f32; 80], [0f32; 4]);
                match place {
                    [at, 0] => a[at] = bad,
                    [_, at] => b[at] = bad,
                }
                let (a, b) = (MatRef::by_rows(&a, 2, 40, 40), MatRef::by_rows(&b, 40, 2, 2));
                product(MatMut::by_rows(&mut out, 2, 2), false, a, b, 1.0, Threads::One);
                let cells = if finite == 0 { [0, 1] } else { [0, 2] };
                for (i, x) in out.into_iter().enumerate() {
                    match cells.contains(&i) {
                        true => assert!((x - 40.0).abs() < 0.5, "{x}"),
                        false => assert!(!x.is_finite(), "{out:?}"),
                    }
                }
            }
        }
    }
}

/// In new memory, of which nothing may be read.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_product_onto_a_line_is_one_onto_rows_of_it() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    for precision in [MatmulPrecision::Bf16, MatmulPrecision::Int8] {
        if rounding(precision).is_none() {
            continue;
        }
        for [m, k, n] in [[2, 32, 32], [70, 1100, 97], [300, 40, 33]] {
            let mut part = |rows, columns, turned| Part::new(rows, columns, turned, &mut rng);
            let (a, b, line) = (part(m, k, false), part(k, n, true), part(1, n, false));
            let (a, b, line) = (a.get(), b.get(), line.get().row(0));
            for threads in [Threads::One, Threads::All] {
                let run = |mut out: Vec<f32>, start| {
                    let to = MatMut::by_rows(&mut out, m, n);
                    in_precision(precision, to, start, a, b, 0.5, threads);
                    out
                };
                assert!(takes_line(precision, k, n));
                let onto_line = run(vec![f32::NAN; m * n], Start::Line(line));
                assert_eq!(onto_line, run(line.repeat(m), Start::There));
                let alone = run(vec![f32::NAN; m * n], Start::Zeros);
                assert_eq!(alone, run(vec![0.0; m * n], Start::There));
            }
        }
    }
}

/// Blocks of zeros and of numbers whose inverse is none.
#[test]
#[cfg(target_arch = "x86_64")]
fn tiny_blocks_are_zeros_in_int8() {
    let Some(product) = rounding(MatmulPrecision::Int8) else { return };
    for tiny in [0.0, 1e-37, -1e-42] {
        let mut a = [1f32; 128];
        a[..64].fill(tiny);
        let (b, mut out) = ([2f32; 256], [1f32; 2]);
        let (a, b) = (MatRef::by_rows(&a, 1, 128, 128), MatRef::by_rows(&b, 128, 2, 2));
        product(MatMut::by_rows(&mut out, 1, 2), true, a, b, 1.0, Threads::One);
        // The other block is 64 ones, rounded.
        assert!(out.iter().all(|x| (x - 129.0).abs() < 2.0), "{out:?}");
    }
}

#[test]
#[should_panic(expected = "matrices of 2 × 3 and 2 × 3")]
fn shapes_must_fit() {
    let (data, mut out) = ([0.0; 6], [0.0; 6]);
    let a = MatRef::by_rows(&data, 2, 3, 3);
    multiply(MatMut::by_rows(&mut out, 2, 3), false, a, a, 1.0, Threads::One);
}
