//! Each kernel against the generic body; each gradient against burn's own of the generic body.

use super::*;
use crate::{FusedBackend, Heads, Init, Matrix, OutputParams, PackedRows, PagedRow, generic};

#[test]
fn products_equal_the_generic_body() {
    for (m, k, n) in [(1, 130, 140), (5, 200, 100), (8, 33, 700), (40, 30, 20), (200, 64, 300)] {
        let a = random::<B, 2>([m, k], 1);
        let b = random::<B, 2>([k, n], 2);
        let (at, bt) = (a.clone().transpose(), b.clone().transpose());
        // The same matrices, stored the other way round.
        let again = |x: Tensor<B, 2>| {
            let [rows, columns] = x.dims();
            Tensor::<B, 2>::from_data(
                TensorData::new(values(x), [rows, columns]),
                &Default::default(),
            )
        };
        let init = || Init {
            add: Some(float(random::<B, 2>([m, n], 3))),
            bias: Some(float(random::<B, 1>([n], 4))),
        };
        for init in [Init::zero, || Init::add(None)].map(|f| f()).into_iter().chain([init()]) {
            let expected = generic::linear::gemm::<B>(
                init.clone(),
                0.5,
                float(a.clone()),
                false,
                float(b.clone()),
                false,
            );
            let expected = host::<B>(expected);
            for (x, turn_x) in [(a.clone(), false), (at.clone(), true), (again(at.clone()), true)] {
                for (y, turn_y) in
                    [(b.clone(), false), (bt.clone(), true), (again(bt.clone()), true)]
                {
                    let found =
                        B::gemm(init.clone(), 0.5, float(x.clone()), turn_x, float(y), turn_y);
                    assert_close(&host::<B>(found), &expected, 2e-6);
                }
            }
        }
    }
}

#[test]
fn views_into_a_larger_tensor_are_read_where_they_are() {
    let x = random::<B, 2>([40, 50], 1);
    let part = x.clone().narrow(0, 3, 30).narrow(1, 7, 20);
    let w = random::<B, 2>([20, 10], 2);
    let expected = values(part.clone().matmul(w.clone()));
    let found = B::gemm(Init::zero(), 1.0, float(part), false, float(w), false);
    assert_close(&host::<B>(found), &expected, 2e-6);
}

#[test]
fn half_precision_weights_are_read_as_they_are() {
    use burn::tensor::DType;
    if !B::supports_dtype(&Default::default(), DType::BF16) {
        mopo_testkit::skip!("this backend has no bfloat16");
    }
    let half = random::<B, 2>([70, 1100], 2).cast(DType::BF16);
    let whole = Matrix::<B>::Dense(float(half.clone().cast(DType::F32)));
    let x = random::<B, 2>([9, 70], 1);
    let g = random::<B, 2>([9, 1100], 3);
    for half in [half.clone(), half.transpose().clone().transpose()] {
        let half = Matrix::<B>::Dense(float(half));
        let product = |w| host::<B>(B::weight_matmul(Init::zero(), float(x.clone()), w, false));
        assert_close(&product(&half), &product(&whole), 2e-6);
        let back = |w| host::<B>(B::weight_matmul(Init::zero(), float(g.clone()), w, true));
        assert_close(&back(&half), &back(&whole), 2e-6);
    }
}

#[test]
fn log_probabilities_under_a_half_precision_output_layer() {
    use burn::tensor::DType;
    if !B::supports_dtype(&Default::default(), DType::BF16) {
        mopo_testkit::skip!("this backend has no bfloat16");
    }
    // More than one tile of the vocabulary.
    let (n, d, vocab) = (300, 20, 2500);
    let half = random::<B, 2>([d, vocab], 2).cast(DType::BF16);
    let whole = half.clone().cast(DType::F32);
    let turned = half.clone().transpose().clone().transpose();
    let [expected, found, turned] = [whole, half, turned].map(|weight| {
        let weight = Matrix::<A>::Dense(float(Tensor::<A, 2>::from_inner(weight)));
        let hidden = Tensor::<A, 2>::from_inner(random([n, d], 5)).require_grad();
        let targets: Tensor<A, 1, Int> = tokens(n, vocab, 7);
        let layer = OutputParams { weight, bias: None, soft_cap: Some(1.5) };
        let out = A::linear_log_prob(float(hidden.clone()), layer, targets.into_primitive());
        let out: Tensor<A, 1> = tensor(out);
        let grads = (out.clone() * Tensor::from_inner(random([n], 8))).sum().backward();
        [values(out), values(hidden.grad(&grads).unwrap())]
    });
    for found in [found, turned] {
        for (found, expected) in found.iter().zip(&expected) {
            assert_close(found, expected, 1e-5);
        }
    }
}

/// The gradient that burn finds for `f` at `x`, for the sum of products with `grad`.
fn by_autodiff<const D: usize>(
    x: Tensor<B, D>,
    grad: Tensor<B, 2>,
    f: impl Fn(Tensor<A, D>) -> Tensor<A, 2>,
) -> Vec<f32> {
    let x = Tensor::<A, D>::from_inner(x).require_grad();
    let loss = (f(x.clone()) * Tensor::from_inner(grad)).sum();
    values(x.grad(&loss.backward()).unwrap())
}

#[test]
fn gelu_and_its_gradient() {
    let x = random::<B, 2>([50, 700], 1).mul_scalar(6.0);
    let grad = random::<B, 2>([50, 700], 2);
    let found = host::<B>(B::gelu_tanh(float(x.clone())));
    let expected: Vec<f32> = values(x.clone())
        .into_iter()
        .map(f64::from)
        .map(|x| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            (0.5 * x * (1.0 + u.tanh())) as f32
        })
        .collect();
    assert_close(&found, &expected, 5e-7);
    let found = host::<B>(B::gelu_tanh_backward(float(x.clone()), float(grad.clone())));
    let expected = by_autodiff(x, grad, |x| tensor(generic::elementwise::gelu::<A>(float(x))));
    assert_close(&found, &expected, 3e-6);
}

#[test]
fn a_layer_norm_is_that_of_the_numbers() {
    let (n, d) = (11, 37);
    let x = random::<B, 2>([n, d], 5);
    let (gamma, beta) = (random::<B, 1>([d], 6), random::<B, 1>([d], 7));
    let (g, b) = (values(gamma.clone()), values(beta.clone()));
    let expected: Vec<f32> = values(x.clone())
        .chunks(d)
        .flat_map(|line| {
            let mean = line.iter().map(|x| f64::from(*x)).sum::<f64>() / d as f64;
            let square = |x: &f32| (f64::from(*x) - mean).powi(2);
            let deviation = (line.iter().map(square).sum::<f64>() / d as f64 + 1e-5).sqrt();
            let unit = |x: f32| (f64::from(x) - mean) / deviation;
            line.iter()
                .zip(&g)
                .zip(&b)
                .map(move |((x, g), b)| unit(*x) as f32 * g + b)
                .collect::<Vec<_>>()
        })
        .collect();
    let (x, gamma, beta) = (float(x), float(gamma), float(beta));
    let generic = generic::norm::forward::<B>(x.clone(), gamma.clone(), beta.clone(), 1e-5);
    assert_close(&host::<B>(generic), &expected, 2e-6);
    assert_close(&host::<B>(B::layer_norm_forward(x, gamma, beta, 1e-5)), &expected, 2e-6);
}

#[test]
fn layer_norm_and_its_gradient() {
    for d in [24, 96, 130, 600] {
        let x = random::<B, 2>([70, d], 1).mul_scalar(3.0).add_scalar(1.0);
        let (gamma, beta) = (random::<B, 1>([d], 2), random::<B, 1>([d], 3));
        let grad = random::<B, 2>([70, d], 4);
        let with =
            |x| (float::<B, 2>(x), float::<B, 1>(gamma.clone()), float::<B, 1>(beta.clone()));
        let (a, g, b) = with(x.clone());
        let found = host::<B>(B::layer_norm_forward(a, g, b, 1e-5));
        let (a, g, b) = with(x.clone());
        let expected = host::<B>(generic::norm::forward::<B>(a, g, b, 1e-5));
        assert_close(&found, &expected, 2e-6);

        // The same numbers, in as many tasks as it may be.
        let found = B::layer_norm_parameter_gradients(float(x.clone()), float(grad.clone()), 1e-5);
        let expected =
            generic::norm::parameter_gradients::<B>(float(x.clone()), float(grad.clone()), 1e-5);
        assert_eq!(found.map(host::<B>), expected.map(host::<B>));

        let init = random::<B, 2>([70, d], 5);
        let (a, g, _) = with(x.clone());
        let found = host::<B>(B::layer_norm_backward(
            Some(float(init.clone())),
            a,
            g,
            float(grad.clone()),
            1e-5,
        ));
        let expected = by_autodiff(x, grad, |x| {
            let lift = |x: &Tensor<B, 1>| float(Tensor::<A, 1>::from_inner(x.clone()));
            tensor(generic::norm::forward::<A>(float(x), lift(&gamma), lift(&beta), 1e-5))
        });
        let expected: Vec<f32> =
            expected.iter().zip(values(init)).map(|(x, init)| x + init).collect();
        assert_close(&found, &expected, 5e-6);
    }
}

#[test]
fn rotary_equals_the_generic_body_and_turns_back() {
    let x = random::<B, 2>([45, 3 * 16], 1);
    for half in [3, 8] {
        let angle = random::<B, 2>([45, half], 2).mul_scalar(3.0);
        let (cos, sin) = (angle.clone().cos(), angle.sin());
        let rotate = |x: FloatTensor<B>, inverse| {
            B::rotary(x, float(cos.clone()), float(sin.clone()), 3, inverse)
        };
        let found = rotate(float(x.clone()), false);
        let expected = generic::elementwise::rotary::<B>(
            float(x.clone()),
            float(cos.clone()),
            float(sin.clone()),
            3,
            false,
        );
        assert_close(&host::<B>(found.clone()), &host::<B>(expected), 1e-6);
        assert_close(&host::<B>(rotate(found, true)), &values(x.clone()), 1e-6);
    }
}

/// Heads as in phi, with groups, with a window shorter and longer than a tile, and with a soft cap.
fn heads() -> [Heads; 5] {
    let shared = Heads { keys: 2, ..Heads::new(6) };
    [
        Heads::new(2),
        shared,
        Heads { window: Some(5), ..Heads::new(2) },
        Heads { window: Some(80), scale: Some(0.4), ..shared },
        Heads { keys: 1, window: Some(7), soft_cap: Some(1.5), ..shared },
    ]
}

/// Attention written out in f64, for rows that see themselves.
fn plain_attention(q: &[f32], k: &[f32], v: &[f32], rows: &PackedRows, heads: &Heads) -> Vec<f32> {
    let (width, key_width) = (q.len() / rows.n_tokens(), k.len() / rows.n_tokens());
    let dim = width / heads.queries;
    let mut out = vec![];
    for row in rows.rows() {
        for query in 0..row.len() {
            for head in 0..heads.queries {
                let q = &q[(row.start + query) * width + head * dim..][..dim];
                let of = |x: &[f32], key: usize, j: usize| {
                    let at = (row.start + key) * key_width + head / heads.group() * dim + j;
                    f64::from(x[at])
                };
                let position =
                    |i: usize| if i < row.prompt + row.first { i } else { i - row.first };
                let seen = (0..=query).filter(|key| {
                    let other = query >= row.prompt + row.first
                        && (row.prompt..row.prompt + row.first).contains(key);
                    !other && position(query) - position(*key) < heads.window.unwrap_or(usize::MAX)
                });
                let mut weights: Vec<(usize, f64)> = seen
                    .map(|key| {
                        let product: f64 = (0..dim).map(|j| f64::from(q[j]) * of(k, key, j)).sum();
                        let scale = heads.scale.map_or((dim as f64).powf(-0.5), f64::from);
                        let cap = |x: f64| {
                            heads.soft_cap.map_or(x, |c| f64::from(c) * (x / f64::from(c)).tanh())
                        };
                        (key, cap(product * scale).exp())
                    })
                    .collect();
                let total: f64 = weights.iter().map(|w| w.1).sum();
                weights.iter_mut().for_each(|w| w.1 /= total);
                out.extend((0..dim).map(|j| {
                    weights.iter().map(|(key, w)| w * of(v, *key, j)).sum::<f64>() as f32
                }));
            }
        }
    }
    out
}

#[test]
fn attention_and_its_gradient() {
    let rows = rows();
    let n = rows.n_tokens();
    for heads in heads() {
        let (width, key_width) = (heads.queries * 24, heads.keys * 24);
        let tensors = [(width, 1), (key_width, 2), (key_width, 3), (width, 4)];
        let [q, k, v, grad] =
            tensors.map(|(width, seed)| random::<B, 2>([n, width], seed).mul_scalar(2.0));
        let inputs = || [&q, &k, &v].map(|x| float(x.clone()));
        let [a, b, c] = inputs();
        let found = host::<B>(B::packed_attention(a, b, c, &rows, &heads));
        let plain = [&q, &k, &v].map(|x| values(x.clone()));
        let expected = plain_attention(&plain[0], &plain[1], &plain[2], &rows, &heads);
        assert_close(&found, &expected, 3e-6);
        let [a, b, c] = inputs();
        let generic = host::<B>(generic::attention::forward::<B>(a, b, c, &rows, &heads));
        assert_close(&generic, &expected, 3e-6);

        let [a, b, c] = inputs();
        let found = B::packed_attention_backward(a, b, c, float(grad.clone()), &rows, &heads);
        for (i, found) in found.into_iter().enumerate() {
            let x = [&q, &k, &v][i].clone();
            let expected = by_autodiff(x, grad.clone(), |x| {
                let mut all = [&q, &k, &v].map(|x| Tensor::<A, 2>::from_inner(x.clone()));
                all[i] = x;
                let [q, k, v] = all.map(float);
                tensor(generic::attention::forward::<A>(q, k, v, &rows, &heads))
            });
            assert_close(&host::<B>(found), &expected, of_burn(5e-6));
        }
        // And the generic gradient, which other backends use.
        let [a, b, c] = inputs();
        let generic =
            generic::attention::backward::<B>(a, b, c, float(grad.clone()), &rows, &heads);
        let [a, b, c] = inputs();
        let native = B::packed_attention_backward(a, b, c, float(grad), &rows, &heads);
        for (a, b) in native.into_iter().zip(generic) {
            assert_close(&host::<B>(a), &host::<B>(b), 5e-6);
        }
    }
}

#[test]
fn a_token_sees_only_the_prompt_and_its_own_response() {
    let rows = PackedRows::new([[4, 5, 6]]);
    let d = 8;
    let [q, k, v] = [1, 2, 3].map(|seed| random::<B, 2>([15, d], seed));
    let out = |v: Tensor<B, 2>| {
        host::<B>(B::packed_attention(
            float(q.clone()),
            float(k.clone()),
            float(v),
            &rows,
            &Heads::new(1),
        ))
    };
    let before = out(v.clone());
    for key in 0..15 {
        let mut changed = values(v.clone());
        changed[key * d..(key + 1) * d].iter_mut().for_each(|x| *x += 1.0);
        let changed = Tensor::from_data(TensorData::new(changed, [15, d]), &Default::default());
        let after = out(changed);
        for query in 0..15 {
            let span = query * d..(query + 1) * d;
            assert_eq!(
                before[span.clone()] != after[span],
                rows.rows()[0].sees(query, key),
                "query {query}, key {key}"
            );
        }
    }
    assert_eq!(rows.n_scores(), 9 * 10 / 2 + 6 * 4 + 6 * 7 / 2);
}

/// Three sequences in blocks of 4 tokens that lie anywhere, and a store of each tensor's tokens.
struct Paged {
    rows: PackedRows,
    blocks: [Vec<u32>; 3],
}

const PAGED_LENS: [usize; 3] = [7, 133, 1];

impl Paged {
    fn new() -> Self {
        let rows = PackedRows::new(PAGED_LENS.map(|n| [n, 0, 0]));
        let blocks =
            [vec![13, 0], (1..37).rev().filter(|i| *i != 5 && *i != 13).collect(), vec![5]];
        Self { rows, blocks }
    }

    /// The rows when the last `queries` tokens of each are new, as far as there are any.
    fn paged(&self, queries: usize, is_prompt: bool) -> Vec<PagedRow> {
        let all = PAGED_LENS.into_iter().zip(&self.blocks);
        all.map(|(len, blocks)| PagedRow {
            queries: queries.min(len),
            len,
            blocks: blocks.clone(),
            is_prompt,
        })
        .collect()
    }

    fn store(&self, x: &Tensor<B, 2>) -> crate::KvStore<B> {
        let empty = Tensor::<B, 3>::full([37, 4, x.dims()[1]], 9.0, &Default::default());
        let at: Vec<_> =
            self.paged(usize::MAX, true).iter().flat_map(|row| row.new_places(4)).collect();
        let by_kernel = B::kv_write(float(empty.clone()), float(x.clone()), &at);
        let generic = generic::paged::write::<B>(float(empty), float(x.clone()), &at);
        assert_eq!(host::<B>(by_kernel.clone()), host::<B>(generic));
        by_kernel
    }
}

#[test]
fn attention_to_blocks_is_that_within_the_sequence() {
    let paged = Paged::new();
    for heads in heads() {
        let (d, key_d) = (heads.queries * 8, heads.keys * 8);
        let n = paged.rows.n_tokens();
        let tensors = [(d, 1), (key_d, 2), (key_d, 3)];
        let [q, k, v] = tensors.map(|(d, seed)| random::<B, 2>([n, d], seed));
        let [fq, fk, fv] = [&q, &k, &v].map(|x| float(x.clone()));
        let whole = host::<B>(B::packed_attention(fq, fk, fv, &paged.rows, &heads));
        let (keys, stored) = (paged.store(&k), paged.store(&v));
        for is_prompt in [true, false] {
            let mut all: Vec<(Vec<usize>, Vec<f32>)> = vec![];
            // One query each, some, and all of them.
            for queries in [1, 3, 40, 133] {
                let rows = paged.paged(queries, is_prompt);
                let which = paged.rows.rows().iter().zip(&rows).flat_map(|(row, paged)| {
                    let end = row.start + row.len();
                    end - paged.queries..end
                });
                let which: Vec<usize> = which.collect();
                let expected: Vec<f32> =
                    which.iter().flat_map(|i| whole[i * d..(i + 1) * d].to_vec()).collect();
                // Two more tokens, of no row.
                let ids: Vec<i32> = which.iter().map(|i| *i as i32).chain([0, 0]).collect();
                let ids = Tensor::<B, 1, Int>::from_data(ids.as_slice(), &Default::default());
                let queries = || float(q.clone().select(0, ids.clone()));
                let expected = [expected, vec![0.0; 2 * d]].concat();
                let found = host::<B>(B::attention_paged(queries(), &keys, &stored, &rows, &heads));
                assert_close(&found, &expected, 3e-6);
                let generic =
                    generic::paged::attention::<B>(queries(), &keys, &stored, &rows, &heads);
                assert_close(&host::<B>(generic), &expected, 3e-6);
                all.push((which, found));
            }
            // The same bits, whatever else is asked.
            let (of_all, whole) = &all[3];
            for (which, found) in &all[..3] {
                for (i, at) in which.iter().enumerate() {
                    let place = of_all.iter().position(|other| other == at).unwrap();
                    assert_eq!(found[i * d..(i + 1) * d], whole[place * d..(place + 1) * d]);
                }
            }
        }
    }
}

/// Generation relies on it: a token's products must not depend on what else is in the batch.
#[test]
fn a_lines_product_has_the_same_bits_whatever_the_number_of_lines() {
    for [k, n] in [[24, 16], [576, 16], [16, 576], [200, 130], [130, 1000], [45, 131]] {
        let x = random::<B, 2>([40, k], 1);
        let by_rows = random::<B, 2>([k, n], 2);
        let by_columns = random::<B, 2>([n, k], 3).transpose();
        for weight in [by_rows, by_columns] {
            let weight = Matrix::Dense(float(weight));
            let of = |from: usize, m: usize| {
                let x = float(x.clone().narrow(0, from, m));
                let init = Init { add: None, bias: None };
                host::<B>(B::weight_matmul(init, x, &weight, false))
            };
            let single: Vec<Vec<f32>> = (0..40).map(|i| of(i, 1)).collect();
            for m in 2..=16 {
                assert_eq!(of(5, m), single[5..5 + m].concat(), "{m} lines of {k}, {n}");
            }
            // Many lines go through another kernel, whose bits do not depend on the number either.
            let all = of(0, 40);
            for (from, m) in [(0, 17), (3, 17), (1, 33)] {
                assert_eq!(of(from, m), all[from * n..(from + m) * n], "{m} lines of {k}, {n}");
            }
        }
    }
}

#[test]
fn silu_and_its_gradient() {
    let x = random::<B, 2>([50, 70], 1).mul_scalar(9.0);
    let grad = random::<B, 2>([50, 70], 2);
    let sigma = |x: f64| 1.0 / (1.0 + (-x).exp());
    let of = |f: &dyn Fn(f64) -> f64| -> Vec<f32> {
        values(x.clone()).into_iter().map(|x| f(f64::from(x)) as f32).collect()
    };
    let expected = of(&|x| x * sigma(x));
    assert_close(&host::<B>(B::silu(float(x.clone()))), &expected, 1e-6);
    assert_close(&host::<B>(generic::elementwise::silu::<B>(float(x.clone()))), &expected, 1e-6);
    let slopes = of(&|x| sigma(x) * (1.0 + x * (1.0 - sigma(x))));
    let expected: Vec<f32> =
        slopes.iter().zip(values(grad.clone())).map(|(slope, g)| slope * g).collect();
    let both = || (float(x.clone()), float(grad.clone()));
    let (a, g) = both();
    assert_close(&host::<B>(B::silu_backward(a, g)), &expected, 2e-6);
    let (a, g) = both();
    let generic = generic::elementwise::silu_backward::<B>(a, g);
    assert_close(&host::<B>(generic), &expected, 2e-6);
    // Far out.
    let far = Tensor::<B, 2>::from_data([[-200.0, 200.0]], &Default::default());
    assert_eq!(host::<B>(B::silu(float(far)))[1], 200.0);
}

#[test]
fn an_rms_norm_and_its_gradients() {
    for (n, d, plus_one) in [(70, 24, false), (600, 96, true), (3, 130, true)] {
        let x = random::<B, 2>([n, d], 1).mul_scalar(3.0).add_scalar(1.0);
        let gamma = random::<B, 1>([d], 2);
        let (grad, init) = (random::<B, 2>([n, d], 3), random::<B, 2>([n, d], 4));
        let weights: Vec<f64> =
            values(gamma.clone()).iter().map(|g| f64::from(*g) + f64::from(plus_one)).collect();
        let expected: Vec<f32> = values(x.clone())
            .chunks(d)
            .flat_map(|line| {
                let square: f64 = line.iter().map(|x| f64::from(*x).powi(2)).sum();
                let root = (square / d as f64 + 1e-5).sqrt();
                line.iter().zip(&weights).map(move |(x, w)| (f64::from(*x) / root * w) as f32)
            })
            .collect();
        let with = || (float::<B, 2>(x.clone()), float::<B, 1>(gamma.clone()));
        let (a, g) = with();
        assert_close(&host::<B>(B::rms_norm_forward(a, g, 1e-5, plus_one)), &expected, 2e-6);
        let (a, g) = with();
        let generic = generic::norm::rms_forward::<B>(a, g, 1e-5, plus_one);
        assert_close(&host::<B>(generic), &expected, 2e-6);

        // Both gradients by burn's own of the generic body.
        let lift = |x: &Tensor<B, 1>| Tensor::<A, 1>::from_inner(x.clone());
        let by_burn = by_autodiff(x.clone(), grad.clone(), |x| {
            let gamma = float(lift(&gamma));
            tensor(generic::norm::rms_forward::<A>(float(x), gamma, 1e-5, plus_one))
        });
        let expected: Vec<f32> =
            by_burn.iter().zip(values(init.clone())).map(|(x, init)| x + init).collect();
        let arguments = || (Some(float(init.clone())), float(grad.clone()));
        let ((a, g), (start, d_y)) = (with(), arguments());
        let found = B::rms_norm_backward(start, a, g, d_y, 1e-5, plus_one);
        assert_close(&host::<B>(found), &expected, of_burn(5e-6));
        let ((a, g), (start, d_y)) = (with(), arguments());
        let found = generic::norm::rms_backward::<B>(start, a, g, d_y, 1e-5, plus_one);
        assert_close(&host::<B>(found), &expected, of_burn(5e-6));
        let row = gamma.clone().reshape([1, d]);
        let expected = by_autodiff(row, grad.clone(), |gamma| {
            let x = float(Tensor::<A, 2>::from_inner(x.clone()));
            let gamma = float::<A, 1>(gamma.reshape([d]));
            tensor(generic::norm::rms_forward::<A>(x, gamma, 1e-5, plus_one))
        });
        let both = || (float(x.clone()), float(grad.clone()));
        let (a, g) = both();
        let found = B::rms_norm_parameter_gradient(a, g, 1e-5);
        assert_close(&host::<B>(found), &expected, of_burn(5e-6));
        let (a, g) = both();
        let found = generic::norm::rms_parameter_gradient::<B>(a, g, 1e-5);
        assert_close(&host::<B>(found), &expected, of_burn(5e-6));
    }
}
