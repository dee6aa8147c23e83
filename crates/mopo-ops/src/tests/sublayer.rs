//! Sub-layers of the families' kinds: hand-written gradients against burn's own of the generic bodies, and against
//! finite differences; generation with stores against whole rows.

use std::sync::Arc;

use super::*;
use crate::sublayer::{attention_forward, feed_forward_forward};
use crate::{
    Activation, AttentionParams, FeedForwardParams, FusedBackend, Gelu, Heads, LinearParams,
    LoraParams, Matrix, NormKind, NormParams, PagedRow, QuantFormat, QuantisedData,
    SublayerContext, attention_with_store,
};

const D: usize = 24;
const DIM: usize = 8;
const FF: usize = 40;
const RANK: usize = 3;

/// What a family's sub-layers have.
#[derive(Clone, Copy)]
struct Family {
    norm: NormKind,
    heads: Heads,
    biases: [bool; 4],
    head_norms: bool,
    post_norm: bool,
    gated: bool,
    /// One layer for queries, keys and values, and one for gate and up.
    joined: bool,
    activation: Activation,
    dropout: bool,
    quantised: bool,
}

fn families() -> [Family; 7] {
    let shared = Heads { keys: 2, ..Heads::new(4) };
    let llama = Family {
        norm: NormKind::Rms,
        heads: shared,
        biases: [false; 4],
        head_norms: false,
        post_norm: false,
        gated: true,
        joined: false,
        activation: Activation::Silu,
        dropout: false,
        quantised: false,
    };
    let qwen_2 = Family { biases: [true, true, true, false], dropout: true, ..llama };
    let gemma = Family {
        norm: NormKind::RmsPlusOne,
        heads: Heads { scale: Some(0.3), window: Some(6), soft_cap: Some(2.0), ..shared },
        head_norms: true,
        post_norm: true,
        activation: Activation::Gelu(Gelu::Tanh),
        ..llama
    };
    let plain = Family {
        norm: NormKind::Layer,
        heads: Heads::new(3),
        biases: [true; 4],
        gated: false,
        activation: Activation::Gelu(Gelu::Erf),
        ..llama
    };
    [
        llama,
        qwen_2,
        Family { head_norms: true, ..llama },
        gemma,
        plain,
        Family { quantised: true, heads: Heads { window: Some(4), ..shared }, ..llama },
        Family { joined: true, ..qwen_2 },
    ]
}

/// A sub-layer's tensors, handed out in turn to whoever builds its parameters: first to count them.
struct Tensors<'a, Bk: Backend> {
    all: &'a [Tensor<Bk, 2>],
    next: usize,
    shapes: Vec<[usize; 2]>,
}

impl<Bk: FusedBackend> Tensors<'_, Bk> {
    /// The next tensor; a random one if there are none yet, to learn the shapes.
    fn take(&mut self, shape: [usize; 2]) -> Tensor<Bk, 2> {
        self.next += 1;
        self.shapes.push(shape);
        match self.all.get(self.next - 1) {
            Some(tensor) => tensor.clone(),
            None => Tensor::zeros(shape, &Default::default()),
        }
    }

    fn row(&mut self, n: usize) -> FloatTensor<Bk> {
        float::<Bk, 1>(self.take([1, n]).reshape([n]))
    }

    fn norm(&mut self, kind: NormKind, n: usize) -> NormParams<Bk> {
        let gamma = self.row(n);
        let beta = (kind == NormKind::Layer).then(|| self.row(n));
        NormParams { kind, gamma, beta, epsilon: 1e-5 }
    }

    fn linear(
        &mut self,
        family: Family,
        [i, o]: [usize; 2],
        bias: bool,
        n: usize,
    ) -> LinearParams<Bk> {
        let weight = self.take([i, o]);
        let weight = match family.quantised {
            false => Matrix::Dense(float(weight)),
            true => {
                let format = QuantFormat::Nf4 { double_quant: false };
                let data = QuantisedData::quantise(&weight.transpose().into_data(), format);
                Matrix::Quantised(data.unwrap().to_device(&Default::default()))
            }
        };
        let bias = bias.then(|| self.row(o));
        let (a, b) = (self.take([i, RANK]), self.take([RANK, o]));
        let dropout = family.dropout.then(|| {
            let mask = random::<Bk, 2>([n, i], 77).greater_elem(-0.5).float();
            float(mask.mul_scalar(1.0 / 0.75))
        });
        let lora = LoraParams { a: float(a), b: float(b), scale: 0.7, dropout };
        LinearParams { weight, bias, lora: Some(lora) }
    }

    fn attention(&mut self, family: Family, n: usize) -> AttentionParams<Bk> {
        let Family { norm, heads, biases, .. } = family;
        let widths = [heads.queries, heads.keys, heads.keys].map(|n| n * DIM);
        let [q, k, v] = widths;
        AttentionParams {
            norm: self.norm(norm, D),
            inputs: match family.joined {
                true => vec![self.linear(family, [D, q + k + v], biases[0], n)],
                false => vec![
                    self.linear(family, [D, q], biases[0], n),
                    self.linear(family, [D, k], biases[1], n),
                    self.linear(family, [D, v], biases[2], n),
                ],
            },
            output: self.linear(family, [q, D], biases[3], n),
            head_norms: family.head_norms.then(|| [self.norm(norm, DIM), self.norm(norm, DIM)]),
            post_norm: family.post_norm.then(|| self.norm(norm, D)),
        }
    }

    fn feed_forward(&mut self, family: Family, n: usize) -> FeedForwardParams<Bk> {
        let bias = family.biases[3];
        FeedForwardParams {
            norm: self.norm(family.norm, D),
            inputs: match (family.gated, family.joined) {
                (false, _) => vec![self.linear(family, [D, FF], bias, n)],
                (true, false) => (0..2).map(|_| self.linear(family, [D, FF], bias, n)).collect(),
                (true, true) => vec![self.linear(family, [D, 2 * FF], bias, n)],
            },
            is_gated: family.gated,
            down: self.linear(family, [FF, D], bias, n),
            activation: family.activation,
            post_norm: family.post_norm.then(|| self.norm(family.norm, D)),
        }
    }
}

fn context<Bk: FusedBackend>(
    family: Family,
    rows: PackedRows,
    checkpoint: bool,
) -> SublayerContext<Bk> {
    let angle = random::<Bk, 2>([rows.n_tokens(), DIM / 2], 5).mul_scalar(3.0);
    SublayerContext {
        cos: float(angle.clone().cos()),
        sin: float(angle.sin()),
        rows: Arc::new(rows),
        heads: family.heads,
        checkpoint,
    }
}

/// Attention or feed-forward, by the node or by the generic body.
fn sublayer<Bk: FusedBackend>(
    family: Family,
    attention: bool,
    tensors: &mut Tensors<'_, Bk>,
    rows: PackedRows,
    (by_hand, checkpoint): (bool, bool),
) -> Tensor<Bk, 2> {
    let n = rows.n_tokens();
    let context = context::<Bk>(family, rows, checkpoint);
    let x = float(tensors.take([n, D]));
    tensor(match (attention, by_hand) {
        (true, true) => Bk::attention_layer(x, &tensors.attention(family, n), &context),
        (true, false) => attention_forward::<Bk>(x, &tensors.attention(family, n), &context),
        (false, true) => Bk::feed_forward_layer(x, &tensors.feed_forward(family, n), checkpoint),
        (false, false) => feed_forward_forward::<Bk>(x, &tensors.feed_forward(family, n)),
    })
}

/// Random tensors for a sub-layer: norms near 1, the rest around 0.
fn tensors(family: Family, attention: bool, rows: &PackedRows) -> Vec<Tensor<B, 2>> {
    let mut shapes = Tensors::<B> { all: &[], next: 0, shapes: vec![] };
    let unquantised = Family { quantised: false, ..family };
    sublayer(unquantised, attention, &mut shapes, rows.clone(), (false, false));
    let all = (0u64..).zip(shapes.shapes);
    all.map(|(i, shape)| match (i, shape) {
        (0, _) => random::<B, 2>(shape, 1).mul_scalar(2.0),
        (_, [1, _]) => random::<B, 2>(shape, 10 + i).add_scalar(1.2),
        _ => random::<B, 2>(shape, 10 + i).mul_scalar(0.4),
    })
    .collect()
}

type Run = (Vec<f32>, Vec<Option<Vec<f32>>>);

fn run(
    family: Family,
    attention: bool,
    all: &[Tensor<B, 2>],
    tracked: &dyn Fn(usize) -> bool,
    how: (bool, bool),
) -> Run {
    let rows = rows();
    let lift = |x: &Tensor<B, 2>| Tensor::<A, 2>::from_inner(x.clone());
    let all: Vec<_> = all
        .iter()
        .enumerate()
        .map(|(i, x)| if tracked(i) { lift(x).require_grad() } else { lift(x) })
        .collect();
    let mut tensors = Tensors { all: &all, next: 0, shapes: vec![] };
    let n = rows.n_tokens();
    let y = sublayer(family, attention, &mut tensors, rows, how);
    let grad = Tensor::<A, 2>::from_inner(random::<B, 2>([n, D], 6));
    let grads = (y.clone() * grad).sum().backward();
    (values(y.inner()), all.iter().map(|x| x.grad(&grads).map(values)).collect())
}

#[test]
fn hand_written_gradients_equal_those_of_the_generic_bodies() {
    for (which, family) in families().into_iter().enumerate() {
        for attention in [true, false] {
            let all = tensors(family, attention, &rows());
            // Everything; low-rank updates with and without x; what is no update and not x.
            let is_lora = |i: usize| all[i].dims().contains(&RANK);
            let sets: [&dyn Fn(usize) -> bool; 4] =
                [&|_| true, &|i| i == 0 || is_lora(i), &is_lora, &|i| i > 0 && !is_lora(i)];
            for tracked in sets {
                // A quantised weight is a constant.
                let constant =
                    |i: usize| family.quantised && i > 0 && !is_lora(i) && all[i].dims()[0] > 1;
                let tracked = |i: usize| tracked(i) && !constant(i);
                let (expected, expected_gradients) =
                    run(family, attention, &all, &tracked, (false, false));
                for checkpoint in [false, true] {
                    let (found, gradients) =
                        run(family, attention, &all, &tracked, (true, checkpoint));
                    assert_close(&found, &expected, 5e-6);
                    for (i, (found, expected)) in
                        gradients.iter().zip(&expected_gradients).enumerate()
                    {
                        assert_eq!(found.is_some(), tracked(i), "family {which}, tensor {i}");
                        if let (Some(found), Some(expected)) = (found, expected) {
                            let distance = distance(found, expected);
                            assert!(
                                distance < of_burn(3e-5),
                                "family {which}, tensor {i}: {distance}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let rows = || PackedRows::new([[3, 4, 2], [2, 0, 5]]);
    for family in [1, 3, 4, 6].map(|i| families()[i]) {
        for attention in [true, false] {
            let all = tensors(family, attention, &rows());
            let grad = random::<B, 2>([rows().n_tokens(), D], 6);
            let loss = |all: &[Tensor<B, 2>]| -> f64 {
                let mut tensors = Tensors { all, next: 0, shapes: vec![] };
                let y = values(sublayer(family, attention, &mut tensors, rows(), (true, false)));
                y.iter().zip(values(grad.clone())).map(|(y, g)| f64::from(*y) * f64::from(g)).sum()
            };
            let lifted: Vec<_> =
                all.iter().map(|x| Tensor::<A, 2>::from_inner(x.clone()).require_grad()).collect();
            let mut tensors = Tensors { all: &lifted, next: 0, shapes: vec![] };
            let y = sublayer(family, attention, &mut tensors, rows(), (true, false));
            let grads = (y * Tensor::from_inner(grad.clone())).sum().backward();
            for (i, x) in lifted.iter().enumerate() {
                let direction = values(random::<B, 2>(all[i].dims(), 900 + i as u64));
                let gradient = values(x.grad(&grads).unwrap());
                let along: f64 = gradient
                    .iter()
                    .zip(&direction)
                    .map(|(g, d)| f64::from(*g) * f64::from(*d))
                    .sum();
                let step = 2e-3;
                let at = |sign: f32| {
                    let mut all = all.clone();
                    let moved: Vec<f32> = values(all[i].clone())
                        .iter()
                        .zip(&direction)
                        .map(|(x, d)| x + sign * step * d)
                        .collect();
                    let data = TensorData::new(moved, all[i].dims());
                    all[i] = Tensor::from_data(data, &Default::default());
                    loss(&all)
                };
                let difference = (at(1.0) - at(-1.0)) / (2.0 * f64::from(step));
                assert!(
                    (difference - along).abs() < 1e-2 * along.abs().max(1.0),
                    "tensor {i}: {along} by hand, {difference} by differences"
                );
            }
        }
    }
}

#[test]
fn generation_with_a_store_equals_whole_rows() {
    for family in families() {
        let lens = [7, 12, 1];
        let rows = PackedRows::new(lens.map(|n| [n, 0, 0]));
        let all = tensors(Family { dropout: false, ..family }, true, &rows);
        let family = Family { dropout: false, ..family };
        let whole = {
            let mut tensors = Tensors { all: &all, next: 0, shapes: vec![] };
            values(sublayer(family, true, &mut tensors, rows.clone(), (true, false)))
        };
        let mut tensors = Tensors { all: &all, next: 0, shapes: vec![] };
        let x = tensors.take([rows.n_tokens(), D]);
        let params = tensors.attention(family, rows.n_tokens());
        let context = context::<B>(family, rows.clone(), false);
        let part = |x: FloatTensor<B>, which: &[i32]| {
            let which = Tensor::<B, 1, Int>::from_data(which, &Default::default());
            float(tensor::<B, 2>(x).select(0, which))
        };
        let places: Vec<(usize, usize)> =
            (0..3).flat_map(|row| (0..lens[row]).map(move |p| (row, p))).collect();
        let of = |last: bool| -> Vec<i32> {
            let all = places.iter().enumerate();
            all.filter(|(_, (row, p))| (p + 1 == lens[*row]) == last)
                .map(|(i, _)| i as i32)
                .collect()
        };
        // One block of 20 tokens each.
        let paged = |last: bool| -> Vec<PagedRow> {
            let row = |i: usize| PagedRow {
                queries: if last { 1 } else { lens[i] - 1 },
                len: if last { lens[i] } else { lens[i] - 1 },
                blocks: vec![i as u32],
                is_prompt: !last,
            };
            (0..3).map(row).collect()
        };
        let store =
            || float(Tensor::<B, 3>::zeros([3, 20, family.heads.keys * DIM], &Default::default()));
        let sub = |which: &[i32], rows: PackedRows| SublayerContext {
            cos: part(context.cos.clone(), which),
            sin: part(context.sin.clone(), which),
            rows: Arc::new(rows),
            ..context.clone()
        };
        let (first, last) = (of(false), of(true));
        let shorter = PackedRows::new(lens.map(|n| [n - 1, 0, 0]));
        let input = part(float(x.clone()), &first);
        let context_of_first = sub(&first, shorter);
        let stores = [store(), store()];
        let (_, stores) =
            attention_with_store::<B>(input, &params, &context_of_first, stores, &paged(false));
        let one = sub(&last, PackedRows::new([[1, 0, 0]; 3]));
        let input = part(float(x), &last);
        let (y, _) = attention_with_store::<B>(input, &params, &one, stores, &paged(true));
        let expected: Vec<f32> = last
            .iter()
            .flat_map(|i| whole[*i as usize * D..(*i as usize + 1) * D].to_vec())
            .collect();
        assert_close(&host::<B>(y), &expected, 5e-6);
    }
}

/// One layer for all results is the layers side by side.
#[test]
fn joined_layers_are_separate_ones_side_by_side() {
    let separate = Family { biases: [true; 4], ..families()[0] };
    let joined = Family { joined: true, ..separate };
    for attention in [true, false] {
        let all = tensors(separate, attention, &rows());
        // x and the norm; weight, bias, A and B of each input; the rest.
        let n = if attention { 3 } else { 2 };
        let (head, rest) = all.split_at(2);
        let (inputs, rest) = rest.split_at(4 * n);
        let part = |j: usize| inputs.iter().skip(j).step_by(4).cloned().collect::<Vec<_>>();
        // The same A for all of them.
        let a = part(2)[0].clone();
        let mut same = inputs.to_vec();
        same.iter_mut().skip(2).step_by(4).for_each(|x| *x = a.clone());
        let side_by_side = [part(0), part(1), vec![a], part(3)].map(|all| Tensor::cat(all, 1));
        let run = |family, inputs: &[Tensor<B, 2>]| {
            let all = [head, inputs, rest].concat();
            let mut tensors = Tensors { all: &all, next: 0, shapes: vec![] };
            values(sublayer(family, attention, &mut tensors, rows(), (true, false)))
        };
        assert_close(&run(joined, &side_by_side), &run(separate, &same), 5e-6);
    }
}
