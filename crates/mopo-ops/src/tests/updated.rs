//! Log-probabilities under output layers with low-rank updates against a softmax of burn's own operations, layer by layer.

use burn::tensor::activation::log_softmax;
use burn::tensor::backend::Backend as _;
use burn::tensor::{DType, FloatDType};

use super::*;
use crate::{
    FusedBackend, Matrix, OutputParams, QuantFormat, QuantisedData, UpdatedLayers,
    UpdatedLayersGradients, generic,
};

#[derive(Clone)]
struct Case {
    hidden: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    /// `[features, K · rank]`.
    a: Tensor<B, 2>,
    b: Tensor<B, 2>,
    bias: Option<Tensor<B, 2>>,
    targets: Tensor<B, 1, Int>,
    soft_cap: Option<f32>,
    n_layers: usize,
    grad: Tensor<B, 2>,
}

fn case(n: usize, d: usize, vocab: usize, n_layers: usize, rank: usize) -> Case {
    Case {
        hidden: random([n, d], 1),
        weight: random::<B, 2>([d, vocab], 2).mul_scalar(2.0),
        a: random([d, n_layers * rank], 3),
        b: random([n_layers * rank, vocab], 4),
        bias: Some(random::<B, 2>([n_layers, vocab], 5).mul_scalar(3.0)),
        targets: tokens(n, vocab, 6),
        soft_cap: None,
        n_layers,
        grad: random([n_layers, n], 7),
    }
}

/// Value and gradients of hidden, A, B and bias, by burn's own operations or by ours.
fn run(case: &Case, ours: bool) -> (Vec<f32>, Vec<Option<Vec<f32>>>) {
    let leaf = |x: &Tensor<B, 2>| Tensor::<A, 2>::from_inner(x.clone()).require_grad();
    let (hidden, a, b) = (leaf(&case.hidden), leaf(&case.a), leaf(&case.b));
    let bias = case.bias.as_ref().map(leaf);
    let weight = Tensor::<A, 2>::from_inner(case.weight.clone());
    let n = hidden.dims()[0];
    let targets = Tensor::<A, 1, Int>::from_inner(case.targets.clone());
    let inner = hidden.clone().matmul(a.clone());
    let out: Tensor<A, 2> = if ours {
        tensor(A::updated_log_prob(
            float(hidden.clone()),
            float(inner),
            UpdatedLayers {
                n_layers: case.n_layers,
                weight: Matrix::Dense(float(weight)),
                b: float(b.clone()),
                bias: bias.clone().map(float),
                soft_cap: case.soft_cap,
            },
            targets.into_primitive(),
        ))
    } else {
        let rank = a.dims()[1] / case.n_layers;
        let of_layer = |k: usize| {
            let inner = inner.clone().narrow(1, k * rank, rank);
            let update = inner.matmul(b.clone().narrow(0, k * rank, rank));
            let mut logits = hidden.clone().matmul(weight.clone()) + update;
            if let Some(bias) = &bias {
                logits = logits + bias.clone().narrow(0, k, 1);
            }
            if let Some(cap) = case.soft_cap {
                logits = logits.div_scalar(cap).tanh().mul_scalar(cap);
            }
            let all = log_softmax(logits, 1);
            all.gather(1, targets.clone().reshape([n, 1])).reshape([1, n])
        };
        Tensor::cat((0..case.n_layers).map(of_layer).collect(), 0)
    };
    let loss = (out.clone() * Tensor::from_inner(case.grad.clone())).sum();
    let grads = loss.backward();
    let found = vec![
        hidden.grad(&grads).map(values),
        a.grad(&grads).map(values),
        b.grad(&grads).map(values),
        bias.and_then(|bias| bias.grad(&grads)).map(values),
    ];
    (values(out.inner()), found)
}

#[test]
fn values_and_gradients_equal_a_softmax_of_each_layer() {
    // Below, at and above the tile sizes of the kernels.
    for (n, d, vocab, n_layers, rank) in
        [(1, 8, 5, 1, 1), (7, 24, 40, 3, 2), (300, 16, 1024, 2, 4), (530, 20, 1300, 2, 3)]
    {
        let whole = case(n, d, vocab, n_layers, rank);
        let capped = Case { soft_cap: Some(2.5), ..whole.clone() };
        let bare = Case { bias: None, soft_cap: Some(4.0), ..whole.clone() };
        for case in [whole, capped, bare] {
            let (found, gradients) = run(&case, true);
            let (expected, expected_gradients) = run(&case, false);
            assert_close(&found, &expected, 3e-6);
            for (i, (found, expected)) in gradients.iter().zip(&expected_gradients).enumerate() {
                match (found, expected) {
                    (Some(found), Some(expected)) => assert_close(found, expected, of_burn(2e-5)),
                    (None, None) => assert!(i == 3 && case.bias.is_none()),
                    _ => panic!("gradient {i} of {n} × {d} × {vocab}"),
                }
            }
        }
    }
}

#[test]
fn layers_without_an_update_are_the_weight() {
    let case = case(9, 12, 700, 2, 3);
    let layers = UpdatedLayers {
        n_layers: 2,
        weight: Matrix::Dense(float(case.weight.clone())),
        b: float(Tensor::<B, 2>::zeros([6, 700], &Default::default())),
        bias: None,
        soft_cap: None,
    };
    let inner = float(case.hidden.clone().matmul(case.a));
    let targets = case.targets.into_primitive();
    let found = host::<B>(B::updated_log_prob(
        float(case.hidden.clone()),
        inner,
        layers.clone(),
        targets.clone(),
    ));
    let plain = OutputParams { weight: layers.weight, bias: None, soft_cap: None };
    let expected = host::<B>(B::linear_log_prob(float(case.hidden), plain, targets));
    assert_close(&found[..9], &expected, 1e-6);
    assert_close(&found[9..], &expected, 1e-6);
}

#[test]
fn weights_in_bfloat16_and_in_blocks_are_read_as_they_are() {
    let case = case(40, 64, 900, 2, 4);
    let inner = case.hidden.clone().matmul(case.a.clone());
    let format = QuantFormat::Nf4 { double_quant: false };
    let quantised =
        QuantisedData::quantise(&case.weight.clone().transpose().to_data(), format).unwrap();
    let mut forms = vec![Matrix::Quantised(quantised.to_device::<B>(&Default::default()))];
    if B::supports_dtype(&Default::default(), DType::BF16) {
        forms.push(Matrix::Dense(float(case.weight.clone().cast(FloatDType::BF16))));
    }
    for weight in forms {
        let layers = UpdatedLayers::<B> {
            n_layers: 2,
            weight,
            b: float(case.b.clone()),
            bias: case.bias.clone().map(float),
            soft_cap: None,
        };
        let (hidden, inner) = (float(case.hidden.clone()), float(inner.clone()));
        let (targets, grad) = (case.targets.clone().into_primitive(), float(case.grad.clone()));
        let log_probs =
            B::updated_log_prob_forward(hidden.clone(), inner.clone(), &layers, targets.clone());
        let expected =
            generic::updated::forward::<B>(hidden.clone(), inner.clone(), &layers, targets.clone());
        assert_close(&host::<B>(log_probs.clone()), &host::<B>(expected.clone()), 3e-6);
        let all = |of: UpdatedLayersGradients<B>| {
            [of.hidden, of.inner, of.b, of.bias.expect("with one")].map(host::<B>)
        };
        let found = all(B::updated_log_prob_backward(
            hidden.clone(),
            inner.clone(),
            &layers,
            targets.clone(),
            log_probs,
            grad.clone(),
        ));
        let expected =
            all(generic::updated::backward::<B>(hidden, inner, &layers, targets, expected, grad));
        for (found, expected) in found.iter().zip(&expected) {
            assert_close(found, expected, of_burn(2e-5));
        }
    }
}
