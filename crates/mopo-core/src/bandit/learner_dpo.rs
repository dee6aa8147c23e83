//! Softmax policies over tables trained with [`dpo_loss`], one per objective.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Int, Tensor, TensorData};

use super::learner::{Adam, by_context, fall, host};
use super::{Comparison, Comparisons, LearnerConfig};
use crate::pairwise::dpo_loss;

/// Trains one table policy per objective of `data` with [`dpo_loss`] on all pairs at once, with a
/// uniform reference. Returns π(y|x) per cell for each of them.
///
/// * `mass`: weight of each pair per objective; 0 excludes it. Normalised.
/// * `beta`: β per objective.
///
/// # Panics
/// If `mass` or `beta` do not fit the data.
pub fn learn_dpo<B: AutodiffBackend>(
    data: &Comparisons,
    mass: &[Vec<f32>],
    beta: &[f64],
    config: &LearnerConfig,
    device: &B::Device,
    progress: &mut dyn FnMut(usize),
) -> Vec<Vec<f64>> {
    let (p, n) = (data.n_objectives(), data.pairs().len());
    assert!(mass.len() == p && beta.len() == p && mass.iter().all(|m| m.len() == n));
    let (a, c) = (data.n_actions(), data.n_contexts() * data.n_actions());
    let inner =
        |values: Vec<f32>| Tensor::<B, 2>::from_data(TensorData::new(values, [p, n]), device);
    let cells = |of: &dyn Fn(&Comparison) -> usize| {
        let row: Vec<i32> = data.pairs().iter().map(|q| (q.context * a + of(q)) as i32).collect();
        Tensor::<B, 2, Int>::from_data(TensorData::new(row.repeat(p), [p, n]), device)
    };
    let (first, second) = (cells(&|q| q.first), cells(&|q| q.second));
    let indicators =
        inner((0..p).flat_map(|k| data.pairs().iter().map(move |q| q.indicators[k])).collect());
    let share = |m: &Vec<f32>| {
        let total: f32 = m.iter().sum::<f32>().max(f32::MIN_POSITIVE);
        m.iter().map(|x| x / total).collect::<Vec<f32>>()
    };
    let mass = inner(mass.iter().flat_map(share).collect());
    // β goes into the margin, so that one loss serves all rows: h is scaled per row.
    let scale: Vec<f32> = beta.iter().map(|b| *b as f32).collect();
    let scale = Tensor::<B, 2>::from_data(TensorData::new(scale, [p, 1]), device);
    let mut adam = Adam::<B::InnerBackend>::new([p, c], device);
    let mut logits = Tensor::<B::InnerBackend, 2>::zeros([p, c], device);
    for step in 0..config.steps {
        let leaf = Tensor::<B, 2>::from_inner(logits.clone()).require_grad();
        // The uniform reference is the same constant in both, and cancels.
        let scores = by_context(leaf.clone(), a) * scale.clone();
        let loss = dpo_loss(
            scores.clone().gather(1, first.clone()),
            scores.gather(1, second.clone()),
            indicators.clone(),
            mass.clone(),
            1.0,
        );
        let gradients = loss.backward();
        let gradient = leaf.grad(&gradients).expect("the logits are in the loss");
        logits = adam.step(logits, gradient, config.learning_rate * fall(step, config.steps));
        progress(step + 1);
    }
    host(by_context(logits, a).exp()).chunks(c).map(<[f64]>::to_vec).collect()
}
