//! The block's hand-written gradients against burn's own of the generic bodies, and against finite
//! differences.

use std::sync::Arc;

use super::*;
use crate::block::forward;
use crate::{
    BlockContext, BlockParams, FusedBackend, LinearParams, LoraParams, Matrix, QuantFormat,
    QuantisedData,
};

const D: usize = 24;
const FF: usize = 40;
const RANK: usize = 3;
const HEADS: usize = 2;

/// Which of a block's tensors need gradients: x, and by kind.
#[derive(Clone, Copy)]
struct Tracked {
    x: bool,
    base: bool,
    lora: bool,
}

struct Setup {
    rows: Arc<PackedRows>,
    /// x, gamma, beta, then weight, bias, A, B, mask of each linear layer.
    tensors: Vec<Tensor<B, 2>>,
    cos: Tensor<B, 2>,
    sin: Tensor<B, 2>,
    grad: Tensor<B, 2>,
    dropout: bool,
    /// Linear layers without an update.
    bare: Vec<usize>,
    /// Linear layers whose weight is quantised, and so constant.
    quantised: Vec<usize>,
}

fn setup(rows: PackedRows, dropout: bool, bare: Vec<usize>) -> Setup {
    let n = rows.n_tokens();
    let mut tensors = vec![
        random::<B, 2>([n, D], 1).mul_scalar(2.0),
        random::<B, 2>([1, D], 2).add_scalar(1.5),
        random::<B, 2>([1, D], 3),
    ];
    for i in 0..6u64 {
        let (inputs, outputs) = [(D, D), (D, D), (D, D), (D, D), (D, FF), (FF, D)][i as usize];
        let seed = 10 * (i + 1);
        tensors.push(random::<B, 2>([inputs, outputs], seed).mul_scalar(0.4));
        tensors.push(random::<B, 2>([1, outputs], seed + 1));
        tensors.push(random::<B, 2>([inputs, RANK], seed + 2).mul_scalar(0.5));
        tensors.push(random::<B, 2>([RANK, outputs], seed + 3).mul_scalar(0.5));
        let mask = random::<B, 2>([n, inputs], seed + 4).greater_elem(-0.5).float();
        tensors.push(mask.mul_scalar(1.0 / 0.75));
    }
    let angle = random::<B, 2>([n, 4], 5).mul_scalar(3.0);
    Setup {
        rows: Arc::new(rows),
        tensors,
        cos: angle.clone().cos(),
        sin: angle.sin(),
        grad: random([n, D], 6),
        dropout,
        bare,
        quantised: vec![],
    }
}

impl Setup {
    /// Whether a tensor needs a gradient.
    fn tracked(&self, which: Tracked) -> Vec<bool> {
        (0..self.tensors.len())
            .map(|i| match i {
                0 => which.x,
                1 | 2 => which.base,
                _ => match (i - 3) % 5 {
                    0 => which.base && !self.quantised.contains(&((i - 3) / 5)),
                    1 => which.base,
                    2 | 3 => which.lora && !self.bare.contains(&((i - 3) / 5)),
                    _ => false,
                },
            })
            .collect()
    }

    fn parts<Bk: FusedBackend>(
        &self,
        tensors: &[Tensor<Bk, 2>],
        lift: impl Fn(&Tensor<B, 2>) -> Tensor<Bk, 2>,
        checkpoint: bool,
    ) -> (FloatTensor<Bk>, BlockParams<Bk>, BlockContext<Bk>) {
        let flat = |i: usize| {
            let [_, n] = tensors[i].dims();
            float::<Bk, 1>(tensors[i].clone().reshape([n]))
        };
        let linear = |i: usize| {
            let at = 3 + 5 * i;
            let lora = || LoraParams {
                a: float(tensors[at + 2].clone()),
                b: float(tensors[at + 3].clone()),
                scale: 0.7,
                dropout: self.dropout.then(|| float(tensors[at + 4].clone())),
            };
            let weight = tensors[at].clone();
            LinearParams {
                weight: match self.quantised.contains(&i) {
                    false => Matrix::Dense(float(weight)),
                    true => {
                        let format = QuantFormat::Nf4 { double_quant: i.is_multiple_of(2) };
                        let data = weight.transpose().into_data();
                        let data = QuantisedData::quantise(&data, format).unwrap();
                        Matrix::Quantised(data.to_device(&Default::default()))
                    }
                },
                bias: Some(flat(at + 1)),
                lora: (!self.bare.contains(&i)).then(lora),
            }
        };
        let params =
            BlockParams { gamma: flat(1), beta: flat(2), linears: std::array::from_fn(linear) };
        let context = BlockContext {
            rows: self.rows.clone(),
            cos: float(lift(&self.cos)),
            sin: float(lift(&self.sin)),
            n_heads: HEADS,
            epsilon: 1e-5,
            checkpoint,
        };
        (float(tensors[0].clone()), params, context)
    }

    /// Value and gradients, by the hand-written node or by the generic bodies.
    fn run(
        &self,
        which: Tracked,
        by_hand: bool,
        checkpoint: bool,
    ) -> (Vec<f32>, Vec<Option<Vec<f32>>>) {
        let lift = |x: &Tensor<B, 2>| Tensor::<A, 2>::from_inner(x.clone());
        let tensors: Vec<Tensor<A, 2>> = self
            .tensors
            .iter()
            .zip(self.tracked(which))
            .map(|(x, tracked)| if tracked { lift(x).require_grad() } else { lift(x) })
            .collect();
        let (x, params, context) = self.parts::<A>(&tensors, lift, checkpoint);
        let y: Tensor<A, 2> = tensor(if by_hand {
            A::parallel_block(x, params, &context)
        } else {
            forward::<A>(x, &params, &context, false).0
        });
        let grads = (y.clone() * lift(&self.grad)).sum().backward();
        let found = tensors.iter().map(|x| x.grad(&grads).map(values)).collect();
        (values(y.inner()), found)
    }

    /// `Σ grad · y`, in f64.
    fn loss(&self, tensors: &[Tensor<B, 2>]) -> f64 {
        let (x, params, context) = self.parts::<B>(tensors, Clone::clone, false);
        let y = host::<B>(B::parallel_block(x, params, &context));
        y.iter().zip(values(self.grad.clone())).map(|(y, g)| f64::from(*y) * f64::from(g)).sum()
    }
}

const ALL: [Tracked; 4] = [
    Tracked { x: true, base: false, lora: true },
    Tracked { x: false, base: false, lora: true },
    Tracked { x: true, base: true, lora: true },
    Tracked { x: false, base: true, lora: false },
];

#[test]
fn hand_written_gradients_equal_those_of_the_generic_bodies() {
    for (dropout, bare, quantised) in [
        (false, vec![], vec![]),
        (true, vec![], vec![]),
        (false, vec![1, 4], vec![]),
        (true, vec![0, 3], vec![]),
        (true, vec![2], vec![0, 1, 2, 3, 4, 5]),
        (false, vec![], vec![1, 4]),
    ] {
        let setup = Setup { quantised, ..setup(rows(), dropout, bare) };
        for which in ALL {
            let (expected, expected_gradients) = setup.run(which, false, false);
            for checkpoint in [false, true] {
                let (found, gradients) = setup.run(which, true, checkpoint);
                assert_close(&found, &expected, 3e-6);
                let tracked = setup.tracked(which);
                for (i, (found, expected)) in gradients.iter().zip(&expected_gradients).enumerate()
                {
                    assert_eq!(found.is_some(), tracked[i], "tensor {i}");
                    if let (Some(found), Some(expected)) = (found, expected) {
                        let distance = distance(found, expected);
                        assert!(distance < of_burn(2e-5), "tensor {i}: {distance}");
                    }
                }
            }
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let setup = setup(PackedRows::new([[3, 4, 2], [2, 0, 5]]), false, vec![]);
    let which = ALL[2];
    let (_, gradients) = setup.run(which, true, false);
    for (i, gradient) in gradients.iter().enumerate() {
        let Some(gradient) = gradient else { continue };
        // Along a random direction: one number per tensor.
        let direction = values(random::<B, 2>(setup.tensors[i].dims(), 900 + i as u64));
        let along: f64 =
            gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
        let step = 4e-3;
        let at = |sign: f32| {
            let mut tensors = setup.tensors.clone();
            let moved: Vec<f32> = values(tensors[i].clone())
                .iter()
                .zip(&direction)
                .map(|(x, d)| x + sign * step * d)
                .collect();
            tensors[i] =
                Tensor::from_data(TensorData::new(moved, tensors[i].dims()), &Default::default());
            setup.loss(&tensors)
        };
        let difference = (at(1.0) - at(-1.0)) / (2.0 * f64::from(step));
        let size = along.abs().max(1.0);
        assert!(
            (difference - along).abs() < 5e-3 * size,
            "tensor {i}: {along} by hand, {difference} by differences"
        );
    }
}
