//! Rivals whose steps are not those of DPO on a table: KTO, SimPO, SACPO, RACO, and the worst case over mixtures.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};

use super::problem::Problem;
use super::rivals::Sample;
use super::{MethodRow, MethodSettings, weights};
use crate::Result;
use crate::bandit::learner::{by_context, host};
use crate::bandit::learner_dpo::{PairBatch, descend};
use crate::bandit::{LearnerConfig, PairPolicy, learn_pairs};
use crate::conflict::conflict_averse;
use crate::divergence::{Divergence, worst_case};
use crate::pairwise::{KtoWeights, dpo_loss, kto_loss, simpo_loss};

/// c of RACO, as published.
const CORRECTION: f64 = 0.4;
/// γ of SimPO.
const MARGIN: f64 = 1.0;
/// Probabilities below count as this where their logarithm is a reference.
const LEAST: f64 = 1e-30;

/// All of them on one data set; `singles` are the two DPO policies, trained with `beta`.
pub(super) fn rows<B: AutodiffBackend>(
    sample: &Sample<'_>,
    settings: &MethodSettings,
    singles: [&[f64]; 2],
    beta: f64,
    device: &B::Device,
    progress: &mut dyn FnMut(),
) -> Result<Vec<MethodRow>> {
    let (problem, config) = (sample.problem, settings.learner());
    let mut rows = Vec::new();
    let mut add = |method, parameter: f64, policy: &[f64]| {
        rows.push(MethodRow::new(problem, method, sample.seed, [parameter, beta], policy));
    };
    add("worst_case", f64::NAN, &worst_mixture(problem, singles));

    let objectives = [0, 1].map(|k| sample.table(beta, move |p| Some(f64::from(p.indicators[k]))));
    let kto = learn_kto::<B>(sample, &objectives, &config, device, progress);
    let simpo = learn_simpo::<B>(sample, &objectives, MARGIN, &config, device, progress);
    for (name, singles) in [("kto", &kto), ("simpo", &simpo)] {
        for w in weights(settings.n_points) {
            let merged = problem.mixture(Divergence::ReverseKl, [&singles[0], &singles[1]], w)?;
            add(name, w, &merged);
        }
    }

    // The second objective after the first, and the other way round.
    let mut second = objectives.clone();
    second.reverse();
    for (table, before) in second.iter_mut().zip(singles) {
        let log_ratio = |p: &f64| (p.max(LEAST) * problem.n_actions as f64).ln() as f32;
        table.shift = before.iter().map(log_ratio).collect();
    }
    let shape = [problem.n_cells(), problem.n_actions];
    let last = learn_pairs::<B>(
        shape,
        &sample.pairs.cells,
        &second,
        Divergence::ReverseKl,
        &config,
        device,
        &mut |_| progress(),
    );
    for (first, last) in singles.into_iter().zip(&last) {
        for w in weights(settings.n_points) {
            let merged = problem.mixture(Divergence::ReverseKl, [first, last], w)?;
            add("sacpo", w, &merged);
        }
    }

    let all = weights(settings.n_points);
    let raco = learn_raco::<B>(sample, &objectives, &all, &config, device, progress);
    for (w, policy) in all.iter().zip(&raco) {
        add("raco", *w, policy);
    }
    Ok(rows)
}

/// In each context the mixture by the weights at which it is closest to both policies ([`worst_case`]).
fn worst_mixture(problem: &Problem, policies: [&[f64]; 2]) -> Vec<f64> {
    let n = problem.n_actions;
    let mut mixed = Vec::with_capacity(problem.n_cells());
    for at in (0..problem.n_cells()).step_by(n) {
        let logs = policies.map(|p| p[at..at + n].iter().map(|p| p.ln()).collect::<Vec<f64>>());
        let w = worst_case(&[&logs[0], &logs[1]]);
        let mass = |y: usize| -> f64 {
            let used = logs.iter().zip(&w).filter(|(_, w)| **w > 0.0);
            used.map(|(log, w)| w * log[y]).sum::<f64>().exp()
        };
        let mass: Vec<f64> = (0..n).map(mass).collect();
        let total: f64 = mass.iter().sum();
        mixed.extend(mass.into_iter().map(|m| m / total));
    }
    mixed
}

/// [`kto_loss`] with equal weights, whose reference point is the table's own KL from uniform, exactly.
fn learn_kto<B: AutodiffBackend>(
    sample: &Sample<'_>,
    tables: &[PairPolicy],
    config: &LearnerConfig,
    device: &B::Device,
    progress: &mut dyn FnMut(),
) -> Vec<Vec<f64>> {
    let problem = sample.problem;
    let (n_cells, n_actions) = (problem.n_cells(), problem.n_actions);
    let kto = KtoWeights { desirable: 1.0, undesirable: 1.0 };
    learn_by::<B>(sample, tables, config, device, progress, &|batch, log_policy| {
        let kl = host(log_policy.clone().inner().exp());
        let kl: Vec<f32> = kl.chunks(n_cells).map(|policy| problem.kl(policy) as f32).collect();
        let kl = Tensor::<B, 2>::from_data(TensorData::new(kl, [tables.len(), 1]), device);
        let above = log_policy.add_scalar((n_actions as f64).ln()) - kl;
        // β is in the rewards.
        let [first, second] = batch.rewards(above);
        kto_loss(first, second, batch.indicators.clone(), batch.mass.clone(), 0.0, 1.0, kto)
    })
}

/// [`simpo_loss`] with a margin γ: an action is a response of one token.
fn learn_simpo<B: AutodiffBackend>(
    sample: &Sample<'_>,
    tables: &[PairPolicy],
    margin: f64,
    config: &LearnerConfig,
    device: &B::Device,
    progress: &mut dyn FnMut(),
) -> Vec<Vec<f64>> {
    learn_by::<B>(sample, tables, config, device, progress, &|batch, log_policy| {
        // β is in the rewards.
        let [first, second] = batch.rewards(log_policy);
        simpo_loss(first, second, batch.indicators.clone(), batch.mass.clone(), 1.0, margin)
    })
}

/// A loss of the tables' log-probabilities, `[n_tables, n_cells]`, on a data set's pairs.
type TableLoss<'a, B> = &'a dyn Fn(&PairBatch<B>, Tensor<B, 2>) -> Tensor<B, 1>;

/// Tables trained with a loss from uniform ones.
fn learn_by<B: AutodiffBackend>(
    sample: &Sample<'_>,
    tables: &[PairPolicy],
    config: &LearnerConfig,
    device: &B::Device,
    progress: &mut dyn FnMut(),
    loss: TableLoss<'_, B>,
) -> Vec<Vec<f64>> {
    let (n_cells, n_actions) = (sample.problem.n_cells(), sample.problem.n_actions);
    let batch = PairBatch::<B>::new(n_cells, &sample.pairs.cells, tables, device);
    let gradient = |logits: Tensor<B::InnerBackend, 2>| {
        let leaf = Tensor::<B, 2>::from_inner(logits).require_grad();
        let gradients = loss(&batch, by_context(leaf.clone(), n_actions)).backward();
        leaf.grad(&gradients).expect("the logits are in the loss")
    };
    descend::<B>([tables.len(), n_cells], n_actions, config, device, gradient, &mut |_| progress())
}

/// A DPO loss for each objective, whose gradients are combined by [`conflict_averse`]: a table for each weight of the
/// first objective.
fn learn_raco<B: AutodiffBackend>(
    sample: &Sample<'_>,
    objectives: &[PairPolicy; 2],
    weights: &[f64],
    config: &LearnerConfig,
    device: &B::Device,
    progress: &mut dyn FnMut(),
) -> Vec<Vec<f64>> {
    let (n_cells, n_actions) = (sample.problem.n_cells(), sample.problem.n_actions);
    let batches = objectives.each_ref().map(|one| {
        let tables = vec![one.clone(); weights.len()];
        PairBatch::<B>::new(n_cells, &sample.pairs.cells, &tables, device)
    });
    let gradient = |logits: Tensor<B::InnerBackend, 2>| {
        let slopes = batches.each_ref().map(|batch| {
            let leaf = Tensor::<B, 2>::from_inner(logits.clone()).require_grad();
            let log_ratio = by_context(leaf.clone(), n_actions).add_scalar((n_actions as f64).ln());
            let [first, second] = batch.rewards(log_ratio);
            let loss = dpo_loss(first, second, batch.indicators.clone(), batch.mass.clone(), 1.0);
            let gradients = loss.backward();
            leaf.grad(&gradients).expect("the logits are in the loss")
        });
        let values = slopes.each_ref().map(|slope| host(slope.clone()));
        let mut factors = [Vec::new(), Vec::new()];
        for (row, w) in weights.iter().enumerate() {
            let of = |k: usize| &values[k][row * n_cells..(row + 1) * n_cells];
            let dot =
                |a: usize, b: usize| -> f64 { of(a).iter().zip(of(b)).map(|(x, y)| x * y).sum() };
            let gram = [0, 1].map(|a| vec![dot(a, 0), dot(a, 1)]);
            let found = conflict_averse(&gram, &[*w, 1.0 - w], CORRECTION, true);
            factors.iter_mut().zip(found.factors).for_each(|(of, f)| of.push(f as f32));
        }
        let column = |values: Vec<f32>| {
            Tensor::<B::InnerBackend, 2>::from_data(
                TensorData::new(values, [weights.len(), 1]),
                device,
            )
        };
        let [first, second] = slopes;
        let [a, b] = factors.map(column);
        first * a + second * b
    };
    let shape = [weights.len(), n_cells];
    descend::<B>(shape, n_actions, config, device, gradient, &mut |_| progress())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bandit::ToySet;
    use crate::bandit::comparisons::MergedPairs;
    use mopo_testkit::TestAutodiffBackend as B;

    const BETA: f64 = 0.3;

    fn settings() -> MethodSettings {
        let mut settings = MethodSettings { n_points: 3, steps: 300, ..Default::default() };
        (settings.sets, settings.structures, settings.n_pairs) = (vec![ToySet::A], vec![], 2000);
        settings
    }

    /// Rows of set A, and its DPO policies.
    fn found() -> (Vec<MethodRow>, Vec<MethodRow>) {
        let settings = settings();
        let problem = Problem::of_toy(ToySet::A);
        let data = problem.data(settings.n_pairs, settings.labels, 1).unwrap();
        let pairs = MergedPairs::new(&data);
        let sample = Sample { problem: &problem, data: &data, pairs: &pairs, seed: None, kl: 0.5 };
        let tables = [0, 1].map(|k| sample.table(BETA, move |p| Some(f64::from(p.indicators[k]))));
        let dpo = learn_pairs::<B>(
            [problem.n_cells(), problem.n_actions],
            &pairs.cells,
            &tables,
            Divergence::ReverseKl,
            &settings.learner(),
            &Default::default(),
            &mut |_| (),
        );
        let mut tell = || ();
        let singles = [&dpo[0][..], &dpo[1]];
        let device = Default::default();
        let rows = rows::<B>(&sample, &settings, singles, BETA, &device, &mut tell).unwrap();
        let own = singles.map(|one| MethodRow::new(&problem, "dpo", None, [f64::NAN, BETA], one));
        (rows, own.to_vec())
    }

    #[test]
    fn without_a_margin_simpo_is_dpo_from_uniform() {
        let problem = Problem::of_toy(ToySet::A);
        let data = problem.data(2000, settings().labels, 1).unwrap();
        let pairs = MergedPairs::new(&data);
        let sample = Sample { problem: &problem, data: &data, pairs: &pairs, seed: None, kl: 0.5 };
        let tables = [sample.table(BETA, |p| Some(f64::from(p.indicators[0])))];
        let (config, device) = (settings().learner(), Default::default());
        let simpo = |margin| {
            learn_simpo::<B>(&sample, &tables, margin, &config, &device, &mut || ()).remove(0)
        };
        let dpo = learn_pairs::<B>(
            [problem.n_cells(), problem.n_actions],
            &pairs.cells,
            &tables,
            Divergence::ReverseKl,
            &config,
            &device,
            &mut |_| (),
        );
        let apart =
            |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum() };
        assert!(apart(&simpo(0.0), &dpo[0]) < 1e-3);
        assert!(apart(&simpo(MARGIN), &dpo[0]) > 1e-2);
    }

    #[test]
    fn corners_are_dpo_where_a_method_has_no_other_there() {
        let (rows, dpo) = found();
        let at = |method: &str, i: usize| {
            rows.iter().filter(|row| row.method == method).nth(i).unwrap().reward
        };
        let near = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).abs() + (a[1] - b[1]).abs() < 1e-3;
        // Weights ascend: RACO with all of it on one objective has nothing to correct.
        assert!(near(at("raco", 0), dpo[1].reward) && near(at("raco", 2), dpo[0].reward));
        // SACPO's first stage alone, in both orders.
        assert!(near(at("sacpo", 2), dpo[0].reward) && near(at("sacpo", 5), dpo[1].reward));
        // Its second stage moves to the other objective.
        let (first, last) = (at("sacpo", 2), at("sacpo", 0));
        assert!(last[1] > first[1] && last[0] < first[0], "{first:?} {last:?}");
        // KTO on the first objective raises it, and on the second that.
        let (second, first) = (at("kto", 0), at("kto", 2));
        assert!(first[0] > second[0] && second[1] > first[1], "{first:?} {second:?}");
        // SimPO's margin takes it further than DPO.
        let (second, first) = (at("simpo", 0), at("simpo", 2));
        assert!(first[0] > dpo[0].reward[0] + 1e-3, "{first:?} {dpo:?}");
        assert!(second[1] > dpo[1].reward[1] + 1e-3, "{second:?} {dpo:?}");
        let [worst, dpo] = [at("worst_case", 0), dpo[0].reward];
        assert!(worst[1] > dpo[1], "{worst:?} {dpo:?}");
    }

    #[test]
    fn the_worst_mixture_is_as_far_from_both() {
        let problem = Problem::of_toy(ToySet::A);
        let n = problem.n_actions as f64;
        // Probabilities that ascend in one policy and descend in the other.
        let ascending: Vec<f64> = (0..problem.n_cells())
            .map(|cell| (1 + cell % problem.n_actions) as f64 / (n * (n + 1.0) / 2.0))
            .collect();
        let mut descending = ascending.clone();
        descending.chunks_mut(problem.n_actions).for_each(<[f64]>::reverse);
        let mixed = worst_mixture(&problem, [&ascending, &descending]);
        for chunk in mixed.chunks(problem.n_actions) {
            assert!((chunk.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let mirrored = chunk.iter().zip(chunk.iter().rev());
            assert!(mirrored.clone().all(|(a, b)| (a - b).abs() < 1e-4), "{chunk:?}");
        }
    }
}
