//! Log-probabilities and their gradients against a softmax written with burn's own operations.

use burn::tensor::activation::log_softmax;

use super::*;
use crate::{FusedBackend, Matrix, OutputParams};

#[derive(Clone)]
struct Case {
    hidden: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    bias: Tensor<B, 1>,
    targets: Tensor<B, 1, Int>,
    has_bias: bool,
    soft_cap: Option<f32>,
    grad: Tensor<B, 1>,
}

fn case(n: usize, d: usize, vocab: usize) -> Case {
    Case {
        hidden: random([n, d], 1),
        weight: random::<B, 2>([d, vocab], 2).mul_scalar(2.0),
        bias: random::<B, 1>([vocab], 3).mul_scalar(3.0),
        targets: tokens(n, vocab, 4),
        has_bias: true,
        soft_cap: None,
        grad: random([n], 5),
    }
}

/// Value and gradients of hidden, weight and bias, by burn's own operations or by ours.
fn run(case: &Case, ours: bool, frozen: bool) -> (Vec<f32>, Vec<Option<Vec<f32>>>) {
    let lift = |x: &Tensor<B, 2>| Tensor::<A, 2>::from_inner(x.clone());
    let hidden = lift(&case.hidden).require_grad();
    let (mut weight, mut bias) =
        (lift(&case.weight), Tensor::<A, 1>::from_inner(case.bias.clone()));
    if !frozen {
        (weight, bias) = (weight.require_grad(), bias.require_grad());
    }
    let n = hidden.dims()[0];
    let targets = Tensor::<A, 1, Int>::from_inner(case.targets.clone());
    let out: Tensor<A, 1> = if ours {
        tensor(A::linear_log_prob(
            float(hidden.clone()),
            OutputParams {
                weight: Matrix::Dense(float(weight.clone())),
                bias: case.has_bias.then(|| float(bias.clone())),
                soft_cap: case.soft_cap,
            },
            targets.into_primitive(),
        ))
    } else {
        let mut logits = hidden.clone().matmul(weight.clone());
        if case.has_bias {
            logits = logits + bias.clone().unsqueeze();
        }
        if let Some(cap) = case.soft_cap {
            logits = logits.div_scalar(cap).tanh().mul_scalar(cap);
        }
        log_softmax(logits, 1).gather(1, targets.reshape([n, 1])).reshape([n])
    };
    let loss = (out.clone() * Tensor::from_inner(case.grad.clone())).sum();
    let grads = loss.backward();
    let found = vec![
        hidden.grad(&grads).map(values),
        weight.grad(&grads).map(values),
        bias.grad(&grads).map(values),
    ];
    (values(out.inner()), found)
}

#[test]
fn values_and_gradients_equal_a_softmax() {
    // Below, at and above the tile sizes of the kernels.
    for (n, d, vocab) in [(1, 8, 5), (7, 24, 40), (300, 16, 1024), (530, 20, 2500)] {
        let whole = case(n, d, vocab);
        let capped = Case { soft_cap: Some(2.5), ..case(n, d, vocab) };
        let bare = Case { has_bias: false, soft_cap: Some(4.0), ..case(n, d, vocab) };
        let both = [whole, capped, bare].into_iter().flat_map(|c| [(c.clone(), true), (c, false)]);
        for (case, frozen) in both {
            let (found, gradients) = run(&case, true, frozen);
            let (expected, expected_gradients) = run(&case, false, frozen);
            assert_close(&found, &expected, 3e-6);
            for (i, (found, expected)) in gradients.iter().zip(&expected_gradients).enumerate() {
                match (found, expected) {
                    (Some(found), Some(expected)) => assert_close(found, expected, of_burn(2e-5)),
                    (None, None) => assert!(i > 0 && (frozen || !case.has_bias)),
                    _ => panic!("gradient {i} of {n} × {d} × {vocab}, frozen: {frozen}"),
                }
            }
        }
    }
}

#[test]
fn extreme_logits_stay_finite() {
    let mut case = case(3, 4, 2000);
    case.weight = case.weight.mul_scalar(1e4);
    let (found, _) = run(&case, true, true);
    let (expected, _) = run(&case, false, true);
    assert!(found.iter().all(|x| x.is_finite()));
    assert_close(&found, &expected, 1e-5);
}

#[test]
fn a_weight_stored_by_outputs_gives_the_same() {
    let case = case(20, 12, 1500);
    let transposed = Case {
        weight: {
            let [d, vocab] = case.weight.dims();
            let data = TensorData::new(values(case.weight.clone().transpose()), [vocab, d]);
            Tensor::<B, 2>::from_data(data, &Default::default()).transpose()
        },
        hidden: case.hidden.clone(),
        bias: case.bias.clone(),
        targets: case.targets.clone(),
        has_bias: true,
        soft_cap: None,
        grad: case.grad.clone(),
    };
    for frozen in [true, false] {
        let (a, ga) = run(&case, true, frozen);
        let (b, gb) = run(&transposed, true, frozen);
        assert_close(&a, &b, 2e-6);
        for (a, b) in ga.iter().zip(&gb) {
            if let (Some(a), Some(b)) = (a, b) {
                assert_close(a, b, 1e-5);
            }
        }
    }
}
