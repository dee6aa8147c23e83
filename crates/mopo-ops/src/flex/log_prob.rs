//! Log-probabilities of tokens and their gradients, one tile of the vocabulary at a time: logits
//! stay in cache and are never written to memory. The log-sum-exp and the gradient are accumulated
//! with a running maximum.

use burn::backend::Flex;
use burn::tensor::{DType, TensorMetadata};
use rayon::prelude::*;

use super::by_output::{ByOutput, Half};
use super::factor::{Left, Right, multiply_shared};
use super::gemm::View;
use super::math::{exp, largest, sum, tanh};
use super::precision::matmul_precision;
use super::product::{Threads, multiply_finely};
use super::quant::Reader;
use super::scratch::Scratch;
use super::view::{MatMut, MatRef};
use super::{Kernel, T, contiguous, indices, new, values, vectorised};
use crate::{MatmulPrecision, Matrix, OutputParams};

/// Tokens of the vocabulary per tile.
pub(super) const TILE: usize = 512;
/// Maximum number of positions per task.
const POSITIONS: usize = 512;

pub(super) struct Tile<'a> {
    /// `[positions, tile]`: products, and afterwards exp(logit − running maximum), times the slope of
    /// the cap.
    pub(super) logits: &'a mut [f32],
    pub(super) bias: &'a [f32],
    pub(super) cap: Option<f32>,
    /// For each position: running maximum, and sum of exponentials relative to it.
    pub(super) running: &'a mut [(f32, f32)],
    /// `[positions, features]` to rescale when a maximum moves; may be empty.
    pub(super) sums: &'a mut [f32],
}

impl Kernel for Tile<'_> {
    #[inline(always)]
    fn run(self) {
        let Tile { logits, bias, cap, running, sums } = self;
        let (n, d) = (bias.len(), sums.len() / running.len());
        for (i, (line, (top, total))) in logits.chunks_exact_mut(n).zip(running).enumerate() {
            for (x, b) in line.iter_mut().zip(bias) {
                *x += b;
            }
            if let Some(cap) = cap {
                line.iter_mut().for_each(|x| *x = cap * tanh(*x / cap));
            }
            let new_top = top.max(largest(line));
            if new_top > *top {
                let shrink = exp(*top - new_top);
                *total *= shrink;
                for x in &mut sums[i * d..(i + 1) * d] {
                    *x *= shrink;
                }
                *top = new_top;
            }
            match cap {
                None => {
                    line.iter_mut().for_each(|x| *x = exp(*x - new_top));
                    *total += sum(n, |j| line[j]);
                }
                Some(cap) => {
                    *total += sum(n, |j| exp(line[j] - new_top));
                    line.iter_mut().for_each(|x| *x = exp(*x - new_top) * slope(*x, cap));
                }
            }
        }
    }
}

/// The derivative of a capped logit z: 1 − (z / cap)².
#[inline(always)]
pub(super) fn slope(logit: f32, cap: f32) -> f32 {
    1.0 - (logit / cap) * (logit / cap)
}

/// A logit as the softmax takes it.
pub(super) fn capped(logit: f32, cap: Option<f32>) -> f32 {
    cap.map_or(logit, |cap| cap * tanh(logit / cap))
}

/// The weight of an output layer, `[features, vocabulary]`.
pub(super) enum Weight<'a> {
    F32(MatRef<'a>),
    /// Converted where they are needed.
    Half(Half<'a>),
    Quantised(Reader<'a>),
}

/// A dense matrix in f32.
pub(super) fn f32_view(weight: &Matrix<Flex>) -> Option<View> {
    match weight {
        Matrix::Dense(weight) if weight.dtype() == DType::F32 => {
            Some(View::new(weight.clone(), false))
        }
        _ => None,
    }
}

impl<'a> Weight<'a> {
    /// `view` is the matrix's own [`f32_view`].
    pub(super) fn new(view: Option<&'a View>, weight: &'a Matrix<Flex>) -> Self {
        match (view, weight) {
            (Some(view), _) => Self::F32(view.get()),
            (None, Matrix::Dense(weight)) => Self::Half(Half::new(weight)),
            (None, Matrix::Quantised(weight)) => Self::Quantised(Reader::new(weight)),
        }
    }
}

/// A tile of the vocabulary: `n` tokens from `from` on.
pub(super) struct Tokens<'a> {
    pub(super) from: usize,
    pub(super) n: usize,
    /// `[features, n]`.
    pub(super) weight: Right<'a>,
    /// `[n, features]`, for gradients.
    transposed: Option<Right<'a>>,
}

impl Weight<'_> {
    /// The weights of `n` tokens from `from` on, in `buffer` unless they are f32 already.
    pub(super) fn tokens<'a>(
        &'a self,
        from: usize,
        n: usize,
        buffer: &'a mut Vec<f32>,
    ) -> MatRef<'a> {
        match self {
            Self::F32(weight) => weight.take_columns(from..from + n),
            Self::Half(weight) => converted(weight, from, n, buffer),
            Self::Quantised(weight) => converted(weight, from, n, buffer),
        }
    }

    fn shape(&self) -> [usize; 2] {
        match self {
            Self::F32(weight) => [weight.rows(), weight.columns()],
            Self::Half(weight) => weight.shape(),
            Self::Quantised(weight) => weight.shape(),
        }
    }

    /// Calls `run` with all tiles, a few at a time: what they are converted and rounded to is shared by all positions.
    pub(super) fn for_each_group(
        &self,
        precision: MatmulPrecision,
        with_gradient: bool,
        mut run: impl FnMut(&[Tokens<'_>]),
    ) {
        let [_, vocab] = self.shape();
        let starts: Vec<usize> = (0..vocab).step_by(TILE).collect();
        let as_it_stands = matches!(self, Self::F32(_)) && precision == MatmulPrecision::F32;
        let group = if as_it_stands { starts.len() } else { 2 * rayon::current_num_threads() };
        let mut buffers = vec![vec![]; group.min(starts.len())];
        for starts in starts.chunks(group.max(1)) {
            let part = |(from, buffer): (&usize, _)| {
                let (from, n) = (*from, TILE.min(vocab - from));
                let tokens = self.tokens(from, n, buffer);
                let weight = Right::new(tokens, precision);
                let transposed = with_gradient.then(|| Right::new(tokens.transpose(), precision));
                Tokens { from, n, weight, transposed }
            };
            let parts: Vec<Tokens<'_>> = starts.par_iter().zip(&mut buffers).map(part).collect();
            run(&parts);
            // By the threads that will have their memory again.
            parts.into_par_iter().for_each(drop);
        }
    }
}

/// The weights of `n` tokens from `from` on as f32, in `buffer`.
fn converted<'a>(
    weight: &impl ByOutput,
    from: usize,
    n: usize,
    buffer: &'a mut Vec<f32>,
) -> MatRef<'a> {
    let [d, _] = weight.shape();
    buffer.resize(n * d, 0.0);
    for (i, line) in buffer.chunks_exact_mut(d.max(1)).enumerate() {
        weight.read(from + i, line);
    }
    MatRef::by_rows(buffer, n, d, d).transpose()
}

/// The layer's bias, or zeros.
fn bias_of(layer: &OutputParams<Flex>, vocab: usize) -> T {
    match &layer.bias {
        Some(bias) => contiguous(bias.clone()),
        None => new(vec![0f32; vocab], [vocab]),
    }
}

pub(super) fn check_targets(targets: &[usize], vocab: usize) {
    assert!(targets.iter().all(|id| *id < vocab), "a target beyond the vocabulary of {vocab}");
}

/// Number of positions per task: tasks of equal size, the same number for each thread.
pub(super) fn task_size(n: usize) -> usize {
    let threads = rayon::current_num_threads();
    let rounds = n.div_ceil(threads * POSITIONS).max(1);
    n.div_ceil(threads * rounds).max(1)
}

/// The precision of products that share factors, of so many positions each: one position alone is not rounded, and
/// nothing need be packed for it.
pub(super) fn shared_precision(positions: usize) -> MatmulPrecision {
    if positions < 2 { MatmulPrecision::F32 } else { matmul_precision() }
}

/// With a weight in f32, in bfloat16, or quantised with scales in f32.
pub(super) fn forward(
    hidden: T,
    layer: &OutputParams<Flex>,
    targets: T,
    with_gradient: bool,
) -> (T, Option<T>) {
    let hidden = contiguous(hidden);
    let [n, d] = hidden.shape().dims();
    if n == 0 {
        return (new(vec![], [0]), with_gradient.then(|| new(vec![], [0, d])));
    }
    let [_, vocab] = layer.weight.shape();
    let view = f32_view(&layer.weight);
    let weight = Weight::new(view.as_ref(), &layer.weight);
    let (bias, cap) = (bias_of(layer, vocab), layer.soft_cap);
    let (bias, targets) = (values(&bias), indices(targets));
    check_targets(&targets, vocab);
    let mut log_probs = vec![0f32; n];
    let mut gradient = vec![0f32; if with_gradient { n * d } else { 0 }];
    let size = task_size(n);
    let precision = shared_precision(size);
    // Without gradients, every task gets an empty slice.
    let gradients: Vec<&mut [f32]> = match with_gradient {
        true => gradient.chunks_mut(size * d).collect(),
        false => (0..n.div_ceil(size)).map(|_| Default::default()).collect(),
    };
    let mut tasks: Vec<Task<'_>> = values(&hidden)
        .par_chunks(size * d)
        .zip(targets.par_chunks(size))
        .zip(log_probs.par_chunks_mut(size))
        .zip(gradients)
        .map(|(((hidden, targets), log_probs), sums)| {
            let m = targets.len();
            Task {
                hidden: Left::new(MatRef::by_rows(hidden, m, d, d), precision),
                targets,
                log_probs,
                sums,
                running: vec![(f32::NEG_INFINITY, 0f32); m],
                chosen: vec![0f32; m],
            }
        })
        .collect();
    weight.for_each_group(precision, with_gradient, |parts| {
        let add = |task: &mut Task<'_>| parts.iter().for_each(|part| task.add(part, bias, cap));
        tasks.par_iter_mut().for_each(add);
    });
    tasks.into_par_iter().for_each(|task| task.finish(&weight, cap));
    (new(log_probs, [n]), with_gradient.then(|| new(gradient, [n, d])))
}

/// Some of the positions.
struct Task<'a> {
    /// `[positions, features]`.
    hidden: Left<'a>,
    targets: &'a [usize],
    log_probs: &'a mut [f32],
    /// `[positions, features]`: for gradients, sums over the vocabulary of exp(logit − running maximum) · weight, in
    /// the end the gradients; otherwise empty.
    sums: &'a mut [f32],
    /// See [`Tile::running`].
    running: Vec<(f32, f32)>,
    /// The target's logit.
    chosen: Vec<f32>,
}

impl Task<'_> {
    fn add(&mut self, part: &Tokens<'_>, bias: &[f32], cap: Option<f32>) {
        let Self { hidden, targets, sums, running, chosen, .. } = self;
        let Tokens { from, n, weight, transposed } = part;
        let (from, n, m) = (*from, *n, targets.len());
        let bias = &bias[from..from + n];
        let logits = &mut Scratch::of(m * n)[..];
        multiply_shared(MatMut::by_rows(logits, m, n), false, hidden, weight);
        for (i, target) in targets.iter().enumerate() {
            if (from..from + n).contains(target) {
                let own = target - from;
                chosen[i] = capped(logits[i * n + own] + bias[own], cap);
            }
        }
        vectorised(Tile { logits, bias, cap, running, sums });
        if let Some(transposed) = transposed {
            let logits = Left::new(MatRef::by_rows(logits, m, n, n), hidden.precision());
            let d = sums.len() / m;
            multiply_shared(MatMut::by_rows(sums, m, d), true, &logits, transposed);
        }
    }

    fn finish(self, weight: &Weight<'_>, cap: Option<f32>) {
        let d = self.sums.len() / self.targets.len();
        let mut buffer = vec![];
        for (i, target) in self.targets.iter().enumerate() {
            let (top, total) = self.running[i];
            self.log_probs[i] = self.chosen[i] - top - total.ln();
            if d > 0 {
                let line = &mut self.sums[i * d..(i + 1) * d];
                let own = cap.map_or(1.0, |cap| slope(self.chosen[i], cap));
                let own_weight = weight.tokens(*target, 1, &mut buffer);
                for (x, w) in line.iter_mut().zip(own_weight.column(0)) {
                    *x = own * w - *x / total;
                }
            }
        }
    }
}

pub(super) struct Residuals<'a> {
    /// `[positions, tile]`: products; becomes grad · (onehot − probability).
    pub(super) logits: &'a mut [f32],
    pub(super) bias: &'a [f32],
    pub(super) cap: Option<f32>,
    /// For each position: log-sum-exp, gradient.
    pub(super) positions: &'a [(f32, f32)],
}

impl Kernel for Residuals<'_> {
    #[inline(always)]
    fn run(self) {
        let Residuals { logits, bias, cap, positions } = self;
        let n = bias.len();
        for (line, (normaliser, grad)) in logits.chunks_exact_mut(n).zip(positions) {
            match cap {
                None => {
                    for (x, b) in line.iter_mut().zip(bias) {
                        *x = -grad * exp(*x + b - normaliser);
                    }
                }
                Some(cap) => {
                    for (x, b) in line.iter_mut().zip(bias) {
                        let logit = cap * tanh((*x + b) / cap);
                        *x = -grad * exp(logit - normaliser) * slope(logit, cap);
                    }
                }
            }
        }
    }
}

/// Maximum number of positions per block in the backward pass.
pub(super) const BLOCK: usize = 512;

/// The rows of a matrix, so many at a time.
pub(super) fn blocks(all: MatRef<'_>, rows: usize) -> Vec<MatRef<'_>> {
    let starts = (0..all.rows()).step_by(rows);
    starts.map(|start| all.take_rows(start..all.rows().min(start + rows))).collect()
}

pub(super) fn backward(
    hidden: T,
    weight: &T,
    layer: &OutputParams<Flex>,
    targets: T,
    log_probs: T,
    grad: T,
) -> ([T; 2], Option<T>) {
    let hidden = contiguous(hidden);
    let [n, d] = hidden.shape().dims();
    let view = View::new(weight.clone(), false);
    let weight = view.get();
    let (bias, cap) = (bias_of(layer, weight.columns()), layer.soft_cap);
    let (log_probs, grad) = (contiguous(log_probs), contiguous(grad));
    let (bias, targets) = (values(&bias), indices(targets));
    let vocab = bias.len();
    let all = MatRef::by_rows(values(&hidden), n, d, d);

    // The log-sum-exp from the result of the forward pass: logit of the target − its
    // log-probability. Then the slope of the cap at the target.
    let (positions, slopes): (Vec<(f32, f32)>, Vec<f32>) = (0..n)
        .into_par_iter()
        .map(|i| {
            let line = &values(&hidden)[i * d..(i + 1) * d];
            let column = weight.take_columns(targets[i]..targets[i] + 1);
            let logit = capped(sum(d, |j| line[j] * column[(j, 0)]) + bias[targets[i]], cap);
            let position = (logit - values(&log_probs)[i], values(&grad)[i]);
            (position, cap.map_or(1.0, |cap| slope(logit, cap)))
        })
        .unzip();

    // Each tile of the vocabulary has its own part of the weight's gradient; the gradients of the
    // hidden states are summed over a fixed number of runs of tiles.
    let tiles = vocab.div_ceil(TILE);
    let runs = rayon::current_num_threads().min(tiles).max(1);
    let run = tiles.div_ceil(runs) * TILE;
    // Blocks of equal size.
    let block = n.div_ceil(n.div_ceil(BLOCK).max(1)).max(1);
    let precision = shared_precision(block);
    let rows: Vec<Left<'_>> =
        blocks(all, block).into_par_iter().map(|rows| Left::new(rows, precision)).collect();
    let mut d_weight = vec![0f32; vocab * d];
    let mut d_bias = vec![0f32; vocab];
    let parts: Vec<Vec<f32>> = d_weight
        .par_chunks_mut(run * d)
        .zip(d_bias.par_chunks_mut(run))
        .enumerate()
        .map(|(i, (d_weight, d_bias))| {
            let mut d_hidden = vec![0f32; n * d];
            let mut scratch = vec![0f32; block * TILE];
            let tiles = d_weight.chunks_mut(TILE * d).zip(d_bias.chunks_mut(TILE));
            for (j, (d_weight, d_bias)) in tiles.enumerate() {
                let (from, size) = (i * run + j * TILE, d_bias.len());
                let part = weight.take_columns(from..from + size);
                let [part, transposed] =
                    [part, part.transpose()].map(|part| Right::new(part, precision));
                for (start, (hidden, packed)) in
                    (0..n).step_by(block).zip(blocks(all, block).into_iter().zip(&rows))
                {
                    let m = hidden.rows();
                    let logits = &mut scratch[..m * size];
                    multiply_shared(MatMut::by_rows(logits, m, size), false, packed, &part);
                    let positions = &positions[start..start + m];
                    let bias = &bias[from..from + size];
                    vectorised(Residuals { logits, bias, cap, positions });
                    for (i, target) in targets[start..start + m].iter().enumerate() {
                        if (from..from + size).contains(target) {
                            logits[i * size + target - from] += positions[i].1 * slopes[start + i];
                        }
                    }
                    for line in logits.chunks_exact(size) {
                        d_bias.iter_mut().zip(line).for_each(|(sum, x)| *sum += x);
                    }
                    let logits = MatRef::by_rows(logits, m, size, size);
                    let to = MatMut::by_rows(d_weight, size, d);
                    multiply_finely(to, start > 0, logits.transpose(), hidden, 1.0, Threads::One);
                    let to = &mut d_hidden[start * d..(start + m) * d];
                    let logits = Left::new(logits, precision);
                    multiply_shared(MatMut::by_rows(to, m, d), true, &logits, &transposed);
                }
            }
            d_hidden
        })
        .collect();
    let mut parts = parts.into_iter();
    let mut d_hidden = parts.next().unwrap_or_default();
    for part in parts {
        d_hidden.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    // [vocabulary, features] in memory, returned as [features, vocabulary].
    let d_weight = Flex::transposed(new(d_weight, [vocab, d]));
    let d_bias = layer.bias.is_some().then(|| new(d_bias, [vocab]));
    ([new(d_hidden, [n, d]), d_weight], d_bias)
}

trait Transposed {
    fn transposed(x: T) -> T;
}

impl Transposed for Flex {
    fn transposed(x: T) -> T {
        use burn::tensor::ops::FloatTensorOps;
        Self::float_transpose(x)
    }
}
