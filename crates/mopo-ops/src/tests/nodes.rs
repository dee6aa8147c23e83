//! Operations of sequential blocks: values against definitions, gradients against burn's own.

use std::sync::Arc;

use super::*;
use crate::{FusedBackend, Gelu, Heads, PackedRows};

/// Gradients of the sum of `f(inputs) · grad` with respect to every input.
fn gradients(
    inputs: &[Tensor<B, 2>],
    grad: &Tensor<B, 2>,
    f: impl Fn(Vec<Tensor<A, 2>>) -> Tensor<A, 2>,
) -> Vec<Vec<f32>> {
    let inputs: Vec<_> =
        inputs.iter().map(|x| Tensor::<A, 2>::from_inner(x.clone()).require_grad()).collect();
    let loss = (f(inputs.clone()) * Tensor::from_inner(grad.clone())).sum();
    let grads = loss.backward();
    inputs.iter().map(|x| values(x.grad(&grads).unwrap())).collect()
}

fn flat<Bk: Backend>(x: Tensor<Bk, 2>) -> FloatTensor<Bk> {
    float(x.reshape([-1]) as Tensor<Bk, 1>)
}

#[test]
fn a_linear_layer_and_its_gradients() {
    let (n, d, out) = (30, 24, 40);
    let shapes = [[n, d], [d, out], [1, out], [n, out]];
    let inputs: Vec<_> = (0u64..).zip(shapes).map(|(i, s)| random::<B, 2>(s, i)).collect();
    let grad = random::<B, 2>([n, out], 9);
    let ours = |with_add: bool| {
        gradients(&inputs, &grad, |x| {
            let [x, w, b, add] = x.try_into().unwrap();
            let add_used = add.clone() * if with_add { 1.0 } else { 0.0 };
            let y = A::linear_op(with_add.then(|| float(add)), float(x), float(w), flat(b));
            tensor::<A, 2>(y) + add_used.clone() - add_used
        })
    };
    let theirs = |with_add: bool| {
        gradients(&inputs, &grad, |x| {
            let [x, w, b, add] = x.try_into().unwrap();
            x.matmul(w) + b + add * if with_add { 1.0 } else { 0.0 }
        })
    };
    for with_add in [false, true] {
        for (found, expected) in ours(with_add).iter().zip(theirs(with_add)) {
            assert_close(found, &expected, 5e-6);
        }
    }
    let [x, w, b, add] = inputs.try_into().unwrap();
    let expected = values(x.clone().matmul(w.clone()) + b.clone() + add.clone());
    let found = B::linear_op(Some(float(add)), float(x), float(w), flat(b));
    assert_close(&host::<B>(found), &expected, 3e-6);
}

#[test]
fn both_forms_of_gelu_and_their_gradients() {
    let x = random::<B, 2>([50, 70], 1).mul_scalar(6.0);
    let grad = random::<B, 2>([50, 70], 2);
    let exact = |x: f64| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()));
    let expected: Vec<f32> =
        values(x.clone()).into_iter().map(|x| exact(f64::from(x)) as f32).collect();
    let found = host::<B>(B::gelu_op(float(x.clone()), Gelu::Erf));
    assert_close(&found, &expected, 5e-7);
    for form in [Gelu::Tanh, Gelu::Erf] {
        let found = gradients(std::slice::from_ref(&x), &grad, |x| {
            tensor(A::gelu_op(float(x[0].clone()), form))
        });
        let expected = gradients(std::slice::from_ref(&x), &grad, |x| {
            let x = float(x[0].clone());
            tensor(match form {
                Gelu::Tanh => crate::generic::elementwise::gelu::<A>(x),
                Gelu::Erf => crate::generic::elementwise::gelu_erf::<A>(x),
            })
        });
        assert_close(&found[0], &expected[0], 3e-6);
    }
    // The slope in another way: differences of the definition.
    let found = values(tensor::<B, 2>(B::gelu_erf_backward(float(x.clone()), float(grad.clone()))));
    let slopes =
        values(x).into_iter().map(f64::from).map(|x| (exact(x + 1e-4) - exact(x - 1e-4)) / 2e-4);
    let expected: Vec<f32> = values(grad).iter().zip(slopes).map(|(g, s)| g * s as f32).collect();
    assert_close(&found, &expected, 2e-6);
}

#[test]
fn selected_rows_and_their_gradient() {
    let x = random::<B, 2>([9, 24], 1);
    let at = Tensor::<B, 1, Int>::from_data([3, 8, 3, 0, 3], &Default::default());
    let grad = random::<B, 2>([5, 24], 2);
    let found = gradients(std::slice::from_ref(&x), &grad, |x| {
        tensor(A::select_rows_op(float(x[0].clone()), at.clone().into_primitive()))
    });
    let expected = gradients(std::slice::from_ref(&x), &grad, |x| {
        x[0].clone().select(0, Tensor::from_inner(at.clone()))
    });
    assert_eq!(found, expected);
    let selected = host::<B>(B::select_rows_op(float(x.clone()), at.clone().into_primitive()));
    assert_eq!(selected, values(x.select(0, at)));
    // No rows at all.
    let (none, at) = (Tensor::<B, 2>::zeros([0, 24], &Default::default()), Vec::<i32>::new());
    let at = Tensor::<B, 1, Int>::from_data(at.as_slice(), &Default::default());
    let found = host::<B>(B::scatter_rows(float(none), at.into_primitive(), 2));
    assert_eq!(found, [0.0; 48]);
}

/// Attention written out, row by row, for rows of (queries, keys) that see everything.
fn plain_attention(
    q: Tensor<A, 2>,
    k: Tensor<A, 2>,
    v: Tensor<A, 2>,
    lengths: &[[usize; 2]],
    heads: usize,
) -> Tensor<A, 2> {
    let d = q.dims()[1];
    let dim = d / heads;
    let (mut from, mut keys_from) = (0, 0);
    let mut rows = vec![];
    for &[n, keys] in lengths {
        let part =
            |x: &Tensor<A, 2>, from, n, h| x.clone().narrow(0, from, n).narrow(1, h * dim, dim);
        let of_heads = (0..heads).map(|h| {
            let (q, k) = (part(&q, from, n, h), part(&k, keys_from, keys, h));
            let scores = q.matmul(k.transpose()) / (dim as f64).sqrt();
            burn::tensor::activation::softmax(scores, 1).matmul(part(&v, keys_from, keys, h))
        });
        rows.push(Tensor::cat(of_heads.collect(), 1));
        from += n;
        keys_from += keys;
    }
    Tensor::cat(rows, 0)
}

#[test]
fn attention_over_whole_rows_and_across_and_its_gradients() {
    let heads = 2;
    let square = [5, 1, 70, 130].map(|n| [n, n]);
    let across = [[3, 8], [70, 2], [1, 150], [66, 66]];
    for (lengths, rows) in [
        (square, PackedRows::bidirectional(square.map(|[n, _]| n))),
        (across, PackedRows::across(across)),
    ] {
        let (n, n_keys) = (rows.n_tokens(), rows.n_keys());
        let inputs: Vec<_> = [(n, 1), (n_keys, 2), (n_keys, 3)]
            .map(|(n, seed)| random::<B, 2>([n, heads * 12], seed).mul_scalar(2.0))
            .into();
        let grad = random::<B, 2>([n, heads * 12], 4);
        let rows = Arc::new(rows);
        let fused = |x: Vec<Tensor<A, 2>>| {
            let [q, k, v] = x.try_into().unwrap();
            tensor::<A, 2>(A::attention_op(float(q), float(k), float(v), &rows, &Heads::new(heads)))
        };
        let plain = |x: Vec<Tensor<A, 2>>| {
            let [q, k, v] = x.try_into().unwrap();
            plain_attention(q, k, v, &lengths, heads)
        };
        let lift = || inputs.iter().map(|x| Tensor::from_inner(x.clone())).collect::<Vec<_>>();
        assert_close(&values(fused(lift())), &values(plain(lift())), 3e-6);
        for (found, expected) in
            gradients(&inputs, &grad, fused).iter().zip(gradients(&inputs, &grad, plain))
        {
            assert_close(found, &expected, of_burn(5e-6));
        }
        // The generic bodies, which other backends use.
        let [q, k, v] = [0, 1, 2].map(|i| float(inputs[i].clone()));
        let found = crate::generic::attention::forward::<B>(q, k, v, &rows, &Heads::new(heads));
        assert_close(&host::<B>(found), &values(plain(lift())), 3e-6);
        let [q, k, v] = [0, 1, 2].map(|i| float(inputs[i].clone()));
        let found = crate::generic::attention::backward::<B>(
            q,
            k,
            v,
            float(grad.clone()),
            &rows,
            &Heads::new(heads),
        );
        for (found, expected) in found.into_iter().zip(gradients(&inputs, &grad, plain)) {
            assert_close(&host::<B>(found), &expected, of_burn(5e-6));
        }
        let seen = rows.rows().iter().map(|row| {
            let keys = row.key_run().len;
            (0..row.len())
                .flat_map(|i| (0..keys).map(move |j| (i, j)))
                .filter(|(i, j)| row.sees(*i, *j))
                .count()
        });
        assert_eq!(rows.n_scores(), seen.sum::<usize>());
    }
}

/// Scores of a text must not depend on what else is in the batch: a product of more than a few
/// lines gives each line the same bits, whatever the other lines are.
#[test]
fn a_line_of_a_product_does_not_depend_on_the_others() {
    for (k, n) in [(24, 24), (96, 50), (600, 96), (768, 768)] {
        let w = random::<B, 2>([k, n], 1);
        let b = random::<B, 2>([1, n], 2);
        let x = random::<B, 2>([200, k], 3);
        let of = |from: usize, len: usize| {
            let x = float(x.clone().narrow(0, from, len));
            host::<B>(B::linear_op(None, x, float(w.clone()), flat(b.clone())))
        };
        let all = of(0, 200);
        for (from, len) in [(0, 17), (3, 18), (100, 31), (77, 64), (10, 150), (199 - 16, 17)] {
            assert!(of(from, len) == all[from * n..(from + len) * n], "{k} × {n}: {from}, {len}");
        }
    }
}
