//! Log-probabilities under several output layers that differ by low-rank updates, and their gradients, one tile of the
//! vocabulary at a time: the tile's product with the weight is computed once and copied for each layer, in cache.

use burn::backend::Flex;
use burn::tensor::TensorMetadata;
use burn::tensor::ops::FloatTensorOps;
use rayon::prelude::*;

use super::factor::{Left, Right, multiply_shared};
use super::gemm::View;
use super::log_prob::{
    BLOCK, Residuals, TILE, Tile, Tokens, Weight, blocks, capped, check_targets, f32_view,
    shared_precision, slope, task_size,
};
use super::math::sum;
use super::product::{Threads, multiply};
use super::scratch::Scratch;
use super::view::{MatMut, MatRef};
use super::{Kernel, T, contiguous, indices, new, values, vectorised};
use crate::{UpdatedLayers, UpdatedLayersGradients};

/// What tells the layers apart.
struct Updates<'a> {
    n_layers: usize,
    rank: usize,
    /// `[n, K · rank]`.
    inner: &'a [f32],
    /// `[K · rank, vocabulary]`.
    b: MatRef<'a>,
    /// `[K, vocabulary]`; empty without one.
    bias: &'a [f32],
    zeros: [f32; TILE],
    cap: Option<f32>,
}

impl<'a> Updates<'a> {
    fn new(inner: &'a T, b: &'a View, bias: Option<&'a T>, layers: &UpdatedLayers<Flex>) -> Self {
        let (b, n_layers) = (b.get(), layers.n_layers);
        Self {
            n_layers,
            rank: b.rows() / n_layers,
            inner: values(inner),
            b,
            bias: bias.map_or(&[], values),
            zeros: [0.0; TILE],
            cap: layers.soft_cap,
        }
    }

    /// Columns of `inner` and of its gradient.
    fn width(&self) -> usize {
        self.n_layers * self.rank
    }

    /// The part of `inner` of layer `k` for `m` positions from `start` on.
    fn inner(&self, k: usize, start: usize, m: usize) -> MatRef<'_> {
        let (width, from) = (self.width(), k * self.rank);
        let all = MatRef::by_rows(&self.inner[start * width..], m, width, width);
        all.take_columns(from..from + self.rank)
    }

    /// B of layer `k` for `n` tokens from `from` on.
    fn b(&self, k: usize, from: usize, n: usize) -> MatRef<'_> {
        self.b.take_rows(k * self.rank..(k + 1) * self.rank).take_columns(from..from + n)
    }

    /// The bias of layer `k` for `n` tokens from `from` on.
    fn bias(&self, k: usize, from: usize, n: usize) -> &[f32] {
        match self.bias {
            [] => &self.zeros[..n],
            bias => &bias[k * self.b.columns() + from..][..n],
        }
    }

    /// Adds the update of layer `k` to `[m, n]` products with the weight.
    fn add(&self, k: usize, logits: &mut [f32], [start, m]: [usize; 2], [from, n]: [usize; 2]) {
        let to = MatMut::by_rows(logits, m, n);
        multiply(to, true, self.inner(k, start, m), self.b(k, from, n), 1.0, Threads::One);
    }
}

/// For each layer in turn, the products with the weight in a buffer to write to; for the last one where they are.
fn for_each_layer(
    n_layers: usize,
    shared: &mut [f32],
    own: &mut [f32],
    mut run: impl FnMut(usize, &mut [f32]),
) {
    for k in 0..n_layers - 1 {
        let own = &mut own[..shared.len()];
        own.copy_from_slice(shared);
        run(k, own);
    }
    run(n_layers - 1, shared);
}

/// A buffer beside that of the shared products, if several layers need one.
fn own_buffer(n_layers: usize, len: usize) -> Vec<f32> {
    vec![0f32; if n_layers > 1 { len } else { 0 }]
}

pub(super) fn forward(hidden: T, inner: T, layers: &UpdatedLayers<Flex>, targets: T) -> T {
    let (hidden, inner) = (contiguous(hidden), contiguous(inner));
    let [n, d] = hidden.shape().dims();
    let (view, b) = (f32_view(&layers.weight), View::new(layers.b.clone(), false));
    let weight = Weight::new(view.as_ref(), &layers.weight);
    let bias = layers.bias.clone().map(contiguous);
    let updates = Updates::new(&inner, &b, bias.as_ref(), layers);
    let (n_layers, vocab) = (updates.n_layers, updates.b.columns());
    let targets = indices(targets);
    check_targets(&targets, vocab);
    let size = task_size(n);
    let precision = shared_precision(size);
    let mut tasks: Vec<Task<'_>> = targets
        .par_chunks(size)
        .zip(values(&hidden).par_chunks(size * d))
        .enumerate()
        .map(|(task, (targets, hidden))| {
            let m = targets.len();
            Task {
                start: task * size,
                targets,
                hidden: Left::new(MatRef::by_rows(hidden, m, d, d), precision),
                running: vec![(f32::NEG_INFINITY, 0f32); n_layers * m],
                chosen: vec![0f32; n_layers * m],
            }
        })
        .collect();
    weight.for_each_group(precision, false, |parts| {
        tasks
            .par_iter_mut()
            .for_each(|task| parts.iter().for_each(|part| task.add(part, &updates)));
    });
    let found = tasks.into_par_iter().map(|task| {
        let both = task.chosen.iter().zip(&task.running);
        both.map(|(chosen, (top, total))| chosen - top - total.ln()).collect()
    });
    let found: Vec<Vec<f32>> = found.collect();
    let mut log_probs = Vec::with_capacity(n_layers * n);
    for k in 0..n_layers {
        for of in &found {
            let m = of.len() / n_layers;
            log_probs.extend_from_slice(&of[k * m..(k + 1) * m]);
        }
    }
    new(log_probs, [n_layers, n])
}

/// Some of the positions.
struct Task<'a> {
    /// The first one.
    start: usize,
    targets: &'a [usize],
    /// `[positions, features]`.
    hidden: Left<'a>,
    /// `[K, positions]`: running maximum and sum, and the target's logit.
    running: Vec<(f32, f32)>,
    chosen: Vec<f32>,
}

impl Task<'_> {
    fn add(&mut self, part: &Tokens<'_>, updates: &Updates<'_>) {
        let Self { start, targets, hidden, running, chosen } = self;
        let Tokens { from, n, weight, .. } = part;
        let (from, n, m) = (*from, *n, targets.len());
        let shared = &mut Scratch::of(m * n)[..];
        let own = &mut Scratch::of(if updates.n_layers > 1 { m * n } else { 0 })[..];
        multiply_shared(MatMut::by_rows(shared, m, n), false, hidden, weight);
        for_each_layer(updates.n_layers, shared, own, |k, logits| {
            updates.add(k, logits, [*start, m], [from, n]);
            let (bias, cap) = (updates.bias(k, from, n), updates.cap);
            let chosen = &mut chosen[k * m..(k + 1) * m];
            for (i, target) in targets.iter().enumerate() {
                if (from..from + n).contains(target) {
                    let j = target - from;
                    chosen[i] = capped(logits[i * n + j] + bias[j], cap);
                }
            }
            let running = &mut running[k * m..(k + 1) * m];
            vectorised(Tile { logits, bias, cap, running, sums: &mut [] });
        });
    }
}

/// `to += from`.
struct Add<'a> {
    to: &'a mut [f32],
    from: &'a [f32],
}

impl Kernel for Add<'_> {
    #[inline(always)]
    fn run(self) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to += from;
        }
    }
}

/// What a layer's gradient at each position takes.
struct Places {
    /// The log-sum-exp, and the gradient of the log-probability.
    positions: Vec<(f32, f32)>,
    /// The slope of the cap at the target.
    slopes: Vec<f32>,
}

/// For each layer. The log-sum-exp is the logit of the target less its log-probability; `log_probs` and their gradient
/// are `[K, n]`.
fn places(
    updates: &Updates<'_>,
    weight: &Weight<'_>,
    hidden: MatRef<'_>,
    targets: &[usize],
    (log_probs, grad): (&[f32], &[f32]),
) -> Vec<Places> {
    let n = targets.len();
    // The product with the target's weight, which is the same for all layers.
    let shared: Vec<f32> = (0..n)
        .into_par_iter()
        .map_init(Vec::new, |buffer, i| {
            let (line, column) = (hidden.row(i), weight.tokens(targets[i], 1, buffer));
            sum(line.len(), |j| line[j] * column[(j, 0)])
        })
        .collect();
    let of_layer = |k: usize| {
        let logits = (0..n).map(|i| {
            let (inner, b) = (updates.inner(k, i, 1), updates.b(k, targets[i], 1));
            let own: f32 = (0..updates.rank).map(|j| inner[(0, j)] * b[(j, 0)]).sum();
            capped(shared[i] + own + updates.bias(k, targets[i], 1)[0], updates.cap)
        });
        let at = |logit: f32, i: usize| (logit - log_probs[k * n + i], grad[k * n + i]);
        let slope = |logit| updates.cap.map_or(1.0, |cap| slope(logit, cap));
        let logits: Vec<f32> = logits.collect();
        Places {
            positions: logits.iter().enumerate().map(|(i, logit)| at(*logit, i)).collect(),
            slopes: logits.into_iter().map(slope).collect(),
        }
    };
    (0..updates.n_layers).map(of_layer).collect()
}

/// Gradients of a run of tiles; those of hidden states and of `inner` are sums over its tokens.
struct Part {
    hidden: Vec<f32>,
    inner: Vec<f32>,
}

pub(super) fn backward(
    hidden: T,
    inner: T,
    layers: &UpdatedLayers<Flex>,
    targets: T,
    log_probs: T,
    grad: T,
) -> UpdatedLayersGradients<Flex> {
    let (hidden, inner) = (contiguous(hidden), contiguous(inner));
    let [n, d] = hidden.shape().dims();
    let (view, b) = (f32_view(&layers.weight), View::new(layers.b.clone(), false));
    let weight = Weight::new(view.as_ref(), &layers.weight);
    let bias = layers.bias.clone().map(contiguous);
    let updates = Updates::new(&inner, &b, bias.as_ref(), layers);
    let (n_layers, width, vocab) = (updates.n_layers, updates.width(), updates.b.columns());
    let (log_probs, grad) = (contiguous(log_probs), contiguous(grad));
    let (log_probs, grad, targets) = (values(&log_probs), values(&grad), indices(targets));
    check_targets(&targets, vocab);
    let all = MatRef::by_rows(values(&hidden), n, d, d);

    let places = places(&updates, &weight, all, &targets, (log_probs, grad));

    // Each tile of the vocabulary has its own part of the gradients of B and the biases; those of hidden states are
    // summed over a fixed number of runs of tiles.
    let tiles = vocab.div_ceil(TILE);
    let runs = rayon::current_num_threads().min(tiles).max(1);
    let run = tiles.div_ceil(runs) * TILE;
    let block = n.div_ceil(n.div_ceil(BLOCK).max(1)).max(1);
    let precision = shared_precision(block);
    let rows: Vec<Left<'_>> =
        blocks(all, block).into_par_iter().map(|rows| Left::new(rows, precision)).collect();
    // By tokens, since runs of them are written side by side.
    let mut d_b = vec![0f32; vocab * width];
    let mut d_bias = vec![0f32; vocab * n_layers];
    let parts: Vec<Part> = d_b
        .par_chunks_mut(run * width)
        .zip(d_bias.par_chunks_mut(run * n_layers))
        .enumerate()
        .map(|(i, (d_b, d_bias))| {
            let mut part = Part { hidden: vec![0f32; n * d], inner: vec![0f32; n * width] };
            let mut scratch = vec![0f32; block * TILE];
            let mut own = own_buffer(n_layers, scratch.len());
            let mut total = own_buffer(n_layers, scratch.len());
            let mut buffer = vec![];
            let tiles = d_b.chunks_mut(TILE * width).zip(d_bias.chunks_mut(TILE * n_layers));
            for (j, (d_b, d_bias)) in tiles.enumerate() {
                let (from, size) = (i * run + j * TILE, d_bias.len() / n_layers);
                let weights = weight.tokens(from, size, &mut buffer);
                let [weights, transposed] =
                    [weights, weights.transpose()].map(|part| Right::new(part, precision));
                for (start, rows) in (0..n).step_by(block).zip(&rows) {
                    let m = block.min(n - start);
                    let shared = &mut scratch[..m * size];
                    multiply_shared(MatMut::by_rows(shared, m, size), false, rows, &weights);
                    for_each_layer(n_layers, shared, &mut own, |k, logits| {
                        updates.add(k, logits, [start, m], [from, size]);
                        let Places { positions, slopes } = &places[k];
                        let positions = &positions[start..start + m];
                        let (bias, cap) = (updates.bias(k, from, size), updates.cap);
                        vectorised(Residuals { logits, bias, cap, positions });
                        for (i, target) in targets[start..start + m].iter().enumerate() {
                            if (from..from + size).contains(target) {
                                logits[i * size + target - from] +=
                                    positions[i].1 * slopes[start + i];
                            }
                        }
                        if !updates.bias.is_empty() {
                            let mut sums = [0f32; TILE];
                            let sums = &mut sums[..size];
                            for from in logits.chunks_exact(size) {
                                vectorised(Add { to: sums, from });
                            }
                            for (to, sum) in d_bias.chunks_exact_mut(n_layers).zip(&*sums) {
                                to[k] += sum;
                            }
                        }
                        let columns = k * updates.rank..(k + 1) * updates.rank;
                        let residuals = MatRef::by_rows(logits, m, size, size);
                        let to = MatMut::by_rows(d_b, size, width).take_columns(columns.clone());
                        let inner = updates.inner(k, start, m);
                        multiply(to, true, residuals.transpose(), inner, 1.0, Threads::One);
                        let to = &mut part.inner[start * width..(start + m) * width];
                        let to = MatMut::by_rows(to, m, width).take_columns(columns);
                        let b = updates.b(k, from, size);
                        multiply(to, true, residuals, b.transpose(), 1.0, Threads::One);
                        if n_layers > 1 {
                            let total = &mut total[..m * size];
                            match k {
                                0 => total.copy_from_slice(logits),
                                _ => vectorised(Add { to: total, from: logits }),
                            }
                        }
                    });
                    let total = if n_layers > 1 { &total } else { &scratch };
                    let total = MatRef::by_rows(total, m, size, size);
                    let to = &mut part.hidden[start * d..(start + m) * d];
                    let total = Left::new(total, precision);
                    multiply_shared(MatMut::by_rows(to, m, d), true, &total, &transposed);
                }
            }
            part
        })
        .collect();
    let mut parts = parts.into_iter();
    let mut sums = parts.next().unwrap_or(Part { hidden: vec![], inner: vec![] });
    for part in parts {
        vectorised(Add { to: &mut sums.hidden, from: &part.hidden });
        vectorised(Add { to: &mut sums.inner, from: &part.inner });
    }
    let turned = |x: Vec<f32>, columns: usize| Flex::float_transpose(new(x, [vocab, columns]));
    UpdatedLayersGradients {
        hidden: new(sums.hidden, [n, d]),
        inner: new(sums.inner, [n, width]),
        b: turned(d_b, width),
        bias: layers.bias.is_some().then(|| turned(d_bias, n_layers)),
    }
}
