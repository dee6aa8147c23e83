//! Log-probabilities of tokens and their gradients, one tile of the vocabulary at a time: logits
//! stay in cache and are never written to memory. The log-sum-exp and the gradient are accumulated
//! with a running maximum.

use burn::backend::Flex;
use burn::tensor::{DType, TensorMetadata};
use rayon::prelude::*;

use super::by_output::{ByOutput, Half};
use super::gemm::View;
use super::math::{exp, largest, sum, tanh};
use super::product::{Threads, multiply, multiply_finely};
use super::quant::Reader;
use super::view::{MatMut, MatRef};
use super::{Kernel, T, contiguous, indices, new, values, vectorised};
use crate::{Matrix, OutputParams};

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

/// With a weight in f32, in bfloat16, or quantised with scales in f32.
pub(super) fn forward(
    hidden: T,
    layer: &OutputParams<Flex>,
    targets: T,
    with_gradient: bool,
) -> (T, Option<T>) {
    let hidden = contiguous(hidden);
    let [n, d] = hidden.shape().dims();
    let [_, vocab] = layer.weight.shape();
    let view = f32_view(&layer.weight);
    let weight = Weight::new(view.as_ref(), &layer.weight);
    let (bias, cap) = (bias_of(layer, vocab), layer.soft_cap);
    let (bias, targets) = (values(&bias), indices(targets));
    check_targets(&targets, vocab);
    let mut log_probs = vec![0f32; n];
    let mut gradient = vec![0f32; if with_gradient { n * d } else { 0 }];
    let size = task_size(n);
    // Without gradients, every task gets an empty slice.
    let gradients: Vec<&mut [f32]> = match with_gradient {
        true => gradient.chunks_mut(size * d).collect(),
        false => (0..n.div_ceil(size)).map(|_| Default::default()).collect(),
    };
    let tasks = values(&hidden)
        .par_chunks(size * d)
        .zip(targets.par_chunks(size))
        .zip(log_probs.par_chunks_mut(size))
        .zip(gradients);
    tasks.for_each(|(((hidden, targets), log_probs), sums)| {
        let m = targets.len();
        let hidden = MatRef::by_rows(hidden, m, d, d);
        let mut running = vec![(f32::NEG_INFINITY, 0f32); m];
        let mut chosen = vec![0f32; m];
        let mut scratch = vec![0f32; m * TILE.min(vocab)];
        let mut buffer = vec![];
        for from in (0..vocab).step_by(TILE) {
            let n = TILE.min(vocab - from);
            let logits = &mut scratch[..m * n];
            let part = weight.tokens(from, n, &mut buffer);
            let to = MatMut::by_rows(logits, m, n);
            multiply(to, false, hidden, part, 1.0, Threads::One);
            for (i, target) in targets.iter().enumerate() {
                if (from..from + n).contains(target) {
                    chosen[i] = capped(logits[i * n + target - from] + bias[*target], cap);
                }
            }
            let bias = &bias[from..from + n];
            vectorised(Tile { logits, bias, cap, running: &mut running, sums });
            if with_gradient {
                let logits = MatRef::by_rows(logits, m, n, n);
                let to = MatMut::by_rows(sums, m, d);
                multiply(to, true, logits, part.transpose(), 1.0, Threads::One);
            }
        }
        for i in 0..m {
            let (top, total) = running[i];
            log_probs[i] = chosen[i] - top - total.ln();
            if with_gradient {
                let line = &mut sums[i * d..(i + 1) * d];
                let own = cap.map_or(1.0, |cap| slope(chosen[i], cap));
                let own_weight = weight.tokens(targets[i], 1, &mut buffer);
                for (x, w) in line.iter_mut().zip(own_weight.column(0)) {
                    *x = own * w - *x / total;
                }
            }
        }
    });
    (new(log_probs, [n]), with_gradient.then(|| new(gradient, [n, d])))
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
    // Blocks of equal size: each packs the tile's weights anew.
    let block = n.div_ceil(n.div_ceil(BLOCK).max(1)).max(1);
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
                for start in (0..n).step_by(block) {
                    let m = block.min(n - start);
                    let hidden = all.take_rows(start..start + m);
                    let logits = &mut scratch[..m * size];
                    let to = MatMut::by_rows(logits, m, size);
                    multiply(to, false, hidden, part, 1.0, Threads::One);
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
                    let to = MatMut::by_rows(to, m, d);
                    multiply(to, true, logits, part.transpose(), 1.0, Threads::One);
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
