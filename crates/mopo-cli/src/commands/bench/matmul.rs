//! `mopo bench matmul`: the rate at which this machine multiplies matrices of f32, with the library
//! that flex's kernels use: the peak rate for comparison with a training step.

use std::time::{Duration, Instant};

use anyhow::Result;
use mopo_train::config::BaseFormat;
use serde::Serialize;

use super::{Program, median};
use crate::args::{BenchCommon, BenchMatmulArgs};
use crate::device::Device;

/// A shape is multiplied again until that much time has gone by …
const AT_LEAST: Duration = Duration::from_millis(1500);

/// … and at least so often.
const REPEATS: usize = 5;

/// The measurement.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    program: Program,
    /// The better of the two square shapes.
    gflops_per_second: f64,
    shapes: Vec<Shape>,
}

/// `[rows, inner] · [inner, columns]`.
#[derive(Debug, Serialize)]
struct Shape {
    name: String,
    rows: usize,
    inner: usize,
    columns: usize,
    /// Median.
    gflops_per_second: f64,
}

pub(super) fn run(args: BenchMatmulArgs) -> Result<()> {
    let common = BenchCommon {
        threads: args.threads,
        device: Device::Flex,
        base: BaseFormat::F32,
        precision: args.precision.clone(),
    };
    super::begin(&common)?;
    let (n, d, f) = (args.tokens, args.hidden, args.ffn);
    let mut shapes = Vec::new();
    for (name, [rows, inner, columns]) in [
        ("square 1024".to_string(), [1024; 3]),
        ("square 2048".to_string(), [2048; 3]),
        ("q, k, v, dense".to_string(), [n, d, d]),
        ("fc1".to_string(), [n, d, f]),
        ("fc2".to_string(), [n, f, d]),
        ("output layer".to_string(), [args.outputs, d, args.vocab]),
        ("output layer, back".to_string(), [args.outputs, args.vocab, d]),
        ("LoRA's A".to_string(), [n, d, 16]),
        ("LoRA's B".to_string(), [n, 16, d]),
    ] {
        let n_values = rows as u64 * inner as u64 + inner as u64 * columns as u64;
        let n_bytes = 4 * (n_values + rows as u64 * columns as u64);
        let what = || format!("{name} ([{rows}, {inner}] · [{inner}, {columns}])");
        mopo_hub::check_memory(n_bytes, what, "choose smaller sizes")?;
        let rate = rate(rows, inner, columns)?;
        shapes.push(Shape { name, rows, inner, columns, gflops_per_second: rate });
    }
    let best = shapes[..2].iter().fold(0.0f64, |best, s| best.max(s.gflops_per_second));
    super::print(&Line { program: Program::new(&common), gflops_per_second: best, shapes })
}

/// Billions of operations a second, 2 for each multiply-add: the median of single products.
fn rate(rows: usize, inner: usize, columns: usize) -> Result<f64> {
    let once = || mopo_ops::matmul_rate(rows, columns, inner, 1);
    once(); // starts the threads
    let mut rates = Vec::new();
    let start = Instant::now();
    while rates.len() < REPEATS || start.elapsed() < AT_LEAST {
        rates.push(once());
    }
    median(&rates)
}
