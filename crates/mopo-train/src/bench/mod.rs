//! Timed training steps on given batches, with the real methods but no run directory. Only for
//! `mopo bench train`; not part of the crate's API.

mod work;

use std::time::Instant;

use burn::module::AutodiffModule;
use burn::tensor::backend::Backend;
use burn::tensor::{ElementConversion, Tensor, TensorData};
use mopo_core::mopo::cloning_loss;
use mopo_core::pairwise::dpo_loss;
use mopo_core::{MopoConfig, Objectives};
use mopo_data::PairTokens;
use mopo_lm::{
    AdapterSharing, CausalLm, Decoder, LoraAdapter, LoraConfig, PackedBatch, PolicyHeads,
    PolicyParams, sequence_log_probs,
};
use mopo_ops::{FusedAutodiffBackend, FusedBackend};
use mopo_report::Quantity;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::work::{PassWork, Sizes};
use crate::communicator::Solo;
use crate::config::PhaseConfig;
use crate::log_probs::{LogProbs, all_log_probs, batch_log_probs, to_tensor};
use crate::methods::mopo::{Mopo, Setup};
use crate::optim::Trainer;
use crate::pairwise::pair_log_probs;
use crate::{Error, Pairs, Result, Silent};

/// Adam's learning rate in every measured step, the MOPO paper's.
const LEARNING_RATE: f64 = 1.87e-4;

/// β of DPO.
const BETA: f64 = 0.1;

/// τ of MOPO, the paper's.
const TAU: f64 = 0.08;

/// The measured step. All train a LoRA of rank 16 and alpha 32 on the six linear layers of every
/// block, without dropout and without gradient clipping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BenchMethod {
    /// DPO with β 0.1 and the first response preferred; the output layer is frozen.
    Dpo(BenchReference),
    /// Cloning of the first response, each token with equal weight; no reference, the output layer
    /// is frozen.
    Clone,
    /// MOPO with τ 0.08 and a policy with a trained output layer for each objective of the pairs,
    /// which are those of [`bench_objectives`].
    Mopo(BenchWindow),
}

/// When DPO computes the reference's log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BenchReference {
    /// In every step.
    OnTheFly,
    /// For all pairs, before timing starts.
    Cached,
}

/// Position of a MOPO step in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BenchWindow {
    /// Before the first refresh: the reference is the initial policy, all ratios are 1.
    First,
    /// After a refresh: the reference is a snapshot, so the batch must be scored with it.
    Later,
}

/// A measurement by [`bench_steps`].
#[derive(Debug, Clone, Copy)]
pub struct StepBench {
    /// The step.
    pub method: BenchMethod,
    /// Number of steps, each on the next `batch_size` pairs.
    pub steps: usize,
    /// Pairs per step.
    pub batch_size: usize,
    /// Seed of the adapter's matrices A.
    pub seed: u64,
    /// MOPO: train heads as updates of this rank, with the adapter's scale; without it their whole weights.
    pub head_rank: Option<usize>,
}

impl StepBench {
    /// The pairs of a step, in the given order.
    fn batch(&self, step: usize) -> Vec<usize> {
        (step * self.batch_size..(step + 1) * self.batch_size).collect()
    }
}

/// One measured step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepMeasurement {
    /// The loss before the step's update.
    pub loss: f64,
    /// Time of the whole step: batch, reference, forward, backward, update.
    pub seconds: f64,
    /// Tokens of the differentiated pass, without padding; a shared prompt counts once.
    pub tokens: usize,
    /// Positions of that pass where an output layer is applied, summed over policies.
    pub outputs: usize,
    /// Floating-point operations that the step needs: matrix products, 2 per multiply-add, without
    /// anything that an implementation repeats.
    pub operations: f64,
}

/// `n` objectives of a pair that disagree: the pair's own preference; the shorter response (1 if
/// the first one has fewer tokens, 0 if it has more, 0.5 if they are equal); and any others by
/// sums of token ids, modulo a number of their own. Rows of [`Pairs::labels`].
pub fn bench_objectives(pair: &PairTokens, n: usize) -> [Vec<Option<f32>>; 2] {
    let label = |k: usize| {
        let sign = match k {
            0 => return 1.0,
            1 => pair.second.len().cmp(&pair.first.len()),
            _ => {
                let value = |ids: &[u32]| {
                    ids.iter().map(|id| u64::from(*id)).sum::<u64>() % (2 * k as u64 + 3)
                };
                value(&pair.first).cmp(&value(&pair.second))
            }
        };
        0.5 + 0.5 * f32::from(sign as i8)
    };
    let first: Vec<f32> = (0..n).map(label).collect();
    [0, 1].map(|r| first.iter().map(|x| Some(if r == 0 { *x } else { 1.0 - x })).collect())
}

/// Runs the steps on the pairs in order, from a fresh adapter that changes nothing. `base` is
/// frozen.
///
/// # Errors
/// Fewer pairs than the steps need, 0 steps or pairs per step, pairs that the model cannot take.
pub fn bench_steps<B: FusedAutodiffBackend>(
    base: &CausalLm<B>,
    pairs: &Pairs,
    bench: &StepBench,
    device: &B::Device,
) -> Result<Vec<StepMeasurement>> {
    let needed = bench.steps * bench.batch_size;
    if needed == 0 || pairs.len() < needed {
        return Err(Error::Config {
            origin: "bench".into(),
            message: format!(
                "{} steps of {} pairs need between 1 and {} pairs, the number available",
                bench.steps,
                bench.batch_size,
                pairs.len()
            ),
        });
    }
    let lora = LoraConfig { dropout: 0.0, ..LoraConfig::default() };
    let shape = base.shape();
    let sizes = Sizes { model: &shape, lora: &lora, head_rank: bench.head_rank };
    match bench.method {
        BenchMethod::Mopo(window) => bench_mopo(base, pairs, bench, window, sizes, device),
        method => {
            let reference = match method {
                BenchMethod::Dpo(BenchReference::Cached) => {
                    Reference::Cached(initial(&base.valid(), pairs, device)?)
                }
                BenchMethod::Dpo(_) => Reference::OnTheFly(Box::new(base.valid())),
                _ => Reference::None,
            };
            let mut step = AdapterStep {
                base,
                trainer: Trainer::new(
                    drawn_here(lora.init::<B>(&shape, device), bench.seed, device),
                    &Solo,
                ),
                pairs,
                reference,
                device,
            };
            measure::<B>(bench, device, &mut step, &sizes)
        }
    }
}

/// A fresh adapter whose matrices A are drawn by the processor, so that all devices begin with the same one: their own
/// random numbers differ.
fn drawn_here<B: FusedAutodiffBackend>(
    mut adapter: LoraAdapter<B>,
    seed: u64,
    device: &B::Device,
) -> LoraAdapter<B> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let pairs = adapter.layers.iter_mut().flat_map(|layer| layer.pairs.iter_mut().flatten());
    for pair in pairs {
        let [inputs, rank] = pair.a.val().dims();
        let bound = (inputs as f32).powf(-0.5);
        let values: Vec<f32> =
            (0..inputs * rank).map(|_| rng.random_range(-bound..bound)).collect();
        let data = TensorData::new(values, [inputs, rank]);
        pair.a = pair.a.clone().map(|_| Tensor::from_data(data, device).require_grad());
    }
    adapter
}

/// log π_0 of the pairs.
fn initial<B: FusedBackend>(
    base: &CausalLm<B>,
    pairs: &Pairs,
    device: &B::Device,
) -> Result<LogProbs> {
    Ok(all_log_probs(base, None, pairs, "initial policy", device, &Solo, &mut Silent)?
        .swap_remove(0))
}

/// A measured step.
trait Step {
    /// Makes the given step with these pairs. Returns the loss before the update.
    fn run(&mut self, step: usize, indices: &[usize]) -> Result<f64>;

    /// The differentiated pass, and the operations of the last step with these pairs.
    fn work(&self, indices: &[usize], sizes: &Sizes<'_>) -> Result<(PassWork, f64)>;
}

/// Times every step, without counting operations.
fn measure<B: Backend>(
    bench: &StepBench,
    device: &B::Device,
    measured: &mut impl Step,
    sizes: &Sizes<'_>,
) -> Result<Vec<StepMeasurement>> {
    (0..bench.steps)
        .map(|step| {
            let indices = bench.batch(step);
            let clock = Instant::now();
            let loss = measured.run(step, &indices)?;
            // Nothing to wait for on the CPU; on other devices the update may still be running.
            let _ = B::sync(device);
            let seconds = clock.elapsed().as_secs_f64();
            let (PassWork { tokens, outputs, .. }, operations) = measured.work(&indices, sizes)?;
            Ok(StepMeasurement { loss, seconds, tokens, outputs, operations })
        })
        .collect()
}

/// Only a LoRA, on a frozen model with its frozen output layer: DPO or cloning.
struct AdapterStep<'a, B: FusedAutodiffBackend> {
    base: &'a CausalLm<B>,
    trainer: Trainer<'a, B, LoraAdapter<B>>,
    pairs: &'a Pairs,
    reference: Reference<B::InnerBackend>,
    device: &'a B::Device,
}

/// Source of the reference's log-probabilities.
enum Reference<B: Backend> {
    /// None, for cloning.
    None,
    OnTheFly(Box<CausalLm<B>>),
    Cached(LogProbs),
}

impl<B: FusedAutodiffBackend> AdapterStep<'_, B> {
    /// Cloning uses only the first responses.
    fn pack(&self, indices: &[usize]) -> Result<PackedBatch> {
        let both = !matches!(self.reference, Reference::None);
        self.pairs.pack(indices, &vec![[true, both]; indices.len()])
    }
}

impl<B: FusedAutodiffBackend> Step for AdapterStep<'_, B> {
    fn run(&mut self, _: usize, indices: &[usize]) -> Result<f64> {
        let (base, device) = (self.base, self.device);
        let n = indices.len();
        let reference = match &self.reference {
            Reference::None => None,
            Reference::Cached(all) => Some(indices.iter().map(|&i| all[i]).collect::<LogProbs>()),
            Reference::OnTheFly(inner) => {
                Some(batch_log_probs(inner, None, self.pairs, indices, device)?.swap_remove(0))
            }
        };
        let batch = self.pack(indices)?;
        let loss = |adapter: &LoraAdapter<B>| match &reference {
            None => {
                let hidden = base.hidden_states_packed(&batch.inputs::<B>(device), Some(adapter));
                let responses = batch.responses_at(0);
                let log_probs = sequence_log_probs(hidden, &base.lm_head(), &batch, &responses);
                let weights = Tensor::full([n], 1.0 / n_outputs(&batch) as f64, device);
                cloning_loss(weights, log_probs)
            }
            Some(reference) => {
                let reference: Vec<f32> = [0, 1]
                    .into_iter()
                    .flat_map(|r| reference.iter().map(move |of| of[r]))
                    .collect();
                let log_ratio = pair_log_probs(base, adapter, &base.lm_head(), &batch)
                    - to_tensor(&reference, device);
                let (first, second) =
                    (log_ratio.clone().narrow(0, 0, n), log_ratio.narrow(0, n, n));
                let mass = Tensor::full([n], 1.0 / n as f64, device);
                dpo_loss(first, second, Tensor::ones([n], device), mass, BETA)
            }
        };
        let found = self.trainer.passes(1, |adapter, _| {
            let loss = loss(adapter);
            let value = loss.clone().into_scalar().elem::<f64>();
            Ok((Some(loss), value))
        })?;
        self.trainer.step(LEARNING_RATE, 0.0)?;
        Ok(found[0])
    }

    fn work(&self, indices: &[usize], sizes: &Sizes<'_>) -> Result<(PassWork, f64)> {
        let batch = self.pack(indices)?;
        let work = PassWork::new(&batch, n_outputs(&batch));
        let mut operations = sizes.forward(work, true) + sizes.backward(work, false);
        if matches!(self.reference, Reference::OnTheFly(_)) {
            operations += sizes.forward(work, false);
        }
        Ok((work, operations))
    }
}

/// Response tokens of a batch.
fn n_outputs(batch: &PackedBatch) -> usize {
    batch.responses.iter().map(|t| t.targets.len()).sum()
}

/// The steps of [`Mopo`] itself.
fn bench_mopo<B: FusedAutodiffBackend>(
    base: &CausalLm<B>,
    pairs: &Pairs,
    bench: &StepBench,
    window: BenchWindow,
    sizes: Sizes<'_>,
    device: &B::Device,
) -> Result<Vec<StepMeasurement>> {
    let n_policies = pairs.labels[0][0].len();
    let objectives = Objectives::new((0..n_policies).map(|k| format!("objective-{k}")))?;
    let primaries: Vec<usize> = (0..n_policies).collect();
    // With a lag of whole epochs, the step after it refreshes and uses the first batch again.
    let config = MopoConfig { tau: TAU, reference_lag: bench.steps, ..MopoConfig::default() };
    let phase = PhaseConfig {
        steps: bench.steps,
        batch_size: bench.batch_size,
        gradient_accumulation_steps: 1,
        learning_rate: LEARNING_RATE,
        warmup_steps: 0,
        max_grad_norm: 0.0,
        ..PhaseConfig::default()
    };
    let initial_log_probs = initial(&base.valid(), pairs, device)?;
    let setup = Setup {
        config: &config,
        phase: &phase,
        objectives: &objectives,
        primaries: &primaries,
        pairs,
        initial_log_probs: &initial_log_probs,
        seed: bench.seed,
    };
    let mut params =
        PolicyParams::init(base, sizes.lora, n_policies, AdapterSharing::Shared, device);
    params.adapters =
        params.adapters.into_iter().map(|of| drawn_here(of, bench.seed, device)).collect();
    if let Some(rank) = bench.head_rank {
        let scale = sizes.lora.alpha / sizes.lora.rank as f64;
        B::seed(device, bench.seed);
        params.heads = PolicyHeads::updates_of(&base.lm_head(), n_policies, rank, scale);
    }
    let mut method = Mopo::new(base, params, setup, &Solo, device);
    let first = match window {
        BenchWindow::First => 0,
        BenchWindow::Later => {
            // So that the snapshot differs from the initial policy.
            let begun = method.begin_step(0)?;
            method.step_on(begun, &[bench.batch(0)], 0, LEARNING_RATE)?;
            bench.steps
        }
    };
    let mut step = MopoStep { method, pairs, first, window, needed: Vec::new() };
    measure::<B>(bench, device, &mut step, &sizes)
}

/// Steps of MOPO, starting with a given one.
struct MopoStep<'a, B: FusedAutodiffBackend> {
    method: Mopo<'a, B>,
    pairs: &'a Pairs,
    /// Number of the first step.
    first: usize,
    window: BenchWindow,
    /// Which responses of the last batch each policy needed.
    needed: Vec<Vec<bool>>,
}

impl<B: FusedAutodiffBackend> Step for MopoStep<'_, B> {
    fn run(&mut self, step: usize, indices: &[usize]) -> Result<f64> {
        let step = self.first + step;
        let begun = self.method.begin_step(step)?;
        let made = self.method.step_on(begun, &[indices.to_vec()], step, LEARNING_RATE)?;
        self.needed = made.needed;
        Ok(made.metrics.get(Quantity::LOSS).unwrap_or(f64::NAN))
    }

    fn work(&self, indices: &[usize], sizes: &Sizes<'_>) -> Result<(PassWork, f64)> {
        let needed = &self.needed;
        let any = |response: usize| needed.iter().any(|policy| policy[response]);
        let keep: Vec<[bool; 2]> =
            (0..indices.len()).map(|i| [any(2 * i), any(2 * i + 1)]).collect();
        let batch = self.pairs.pack(indices, &keep)?;
        let outputs = batch.responses.iter().map(|t| {
            let policies = needed.iter().filter(|policy| policy[2 * t.pair + t.in_pair]).count();
            policies * t.targets.len()
        });
        let work = PassWork::new(&batch, outputs.sum());
        let mut operations = sizes.forward(work, true) + sizes.backward(work, true);
        if self.window == BenchWindow::Later {
            let batch = self.pairs.pack(indices, &vec![[true, true]; indices.len()])?;
            let outputs = needed.len() * n_outputs(&batch);
            operations += sizes.forward(PassWork::new(&batch, outputs), true);
        }
        Ok((work, operations))
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use mopo_lm::PhiConfig;
    use mopo_testkit::TestAutodiffBackend as B;

    use super::*;

    fn base() -> CausalLm<B> {
        let config = PhiConfig {
            vocab_size: 11,
            hidden_size: 8,
            intermediate_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            max_position_embeddings: 32,
            ..PhiConfig::phi_1_5()
        };
        B::seed(&Default::default(), 3);
        CausalLm::from(config.init(&Default::default())).no_grad()
    }

    fn pairs() -> Pairs {
        let tokens: Vec<PairTokens> = (0..4u32)
            .map(|i| PairTokens {
                prompt: (1..4 + i).collect(),
                first: (2..4 + i).collect(),
                second: vec![9, 8, 7, i],
            })
            .collect();
        let labels = tokens.iter().map(|pair| bench_objectives(pair, 2)).collect();
        Pairs::without_scores(tokens, labels)
    }

    fn steps(base: &CausalLm<B>, method: BenchMethod) -> Vec<StepMeasurement> {
        let bench = StepBench { method, steps: 2, batch_size: 2, seed: 0, head_rank: None };
        bench_steps(base, &pairs(), &bench, &Default::default()).unwrap()
    }

    #[test]
    fn the_first_loss_of_dpo_is_log_two_and_the_second_is_not() {
        let base = base();
        let fly = steps(&base, BenchMethod::Dpo(BenchReference::OnTheFly));
        let cached = steps(&base, BenchMethod::Dpo(BenchReference::Cached));
        for steps in [&fly, &cached] {
            assert!((steps[0].loss - 2f64.ln()).abs() < 1e-6, "{steps:?}");
            assert!((steps[1].loss - 2f64.ln()).abs() > 1e-7, "{steps:?}");
        }
        assert_eq!(fly[0].tokens, cached[0].tokens);
        assert!(fly[0].operations > cached[0].operations, "the reference's pass is work too");
    }

    #[test]
    fn the_first_loss_of_cloning_is_the_mean_over_tokens() {
        let (base, pairs) = (base(), pairs());
        let all = initial(&base.valid(), &pairs, &Default::default()).unwrap();
        let tokens = pairs.tokens.lengths(0)[1] + pairs.tokens.lengths(1)[1];
        let mean = -f64::from(all[0][0] + all[1][0]) / tokens as f64;
        let steps = steps(&base, BenchMethod::Clone);
        assert!((steps[0].loss - mean).abs() < 1e-5, "{} and {mean}", steps[0].loss);
    }

    #[test]
    fn a_later_window_scores_the_batch_under_the_snapshot() {
        let base = base();
        let first = steps(&base, BenchMethod::Mopo(BenchWindow::First));
        let later = steps(&base, BenchMethod::Mopo(BenchWindow::Later));
        assert!(later[0].operations > first[0].operations);
        assert!(first.iter().chain(&later).all(|s| s.loss.is_finite() && s.tokens > 0));
        assert_ne!(first[0].loss, later[0].loss);
    }

    #[test]
    fn the_shorter_response_is_preferred_by_the_second_objective() {
        let rows = bench_objectives(&pairs().tokens.get(0).unwrap(), 2); // 2 and 4 tokens
        assert_eq!(rows, [vec![Some(1.0), Some(1.0)], vec![Some(0.0), Some(0.0)]]);
        let rows = bench_objectives(&pairs().tokens.get(2).unwrap(), 2); // 4 and 4
        assert_eq!(rows, [vec![Some(1.0), Some(0.5)], vec![Some(0.0), Some(0.5)]]);
    }

    #[test]
    fn each_policy_adds_its_output_layer() {
        let base = base();
        let bench = StepBench {
            method: BenchMethod::Mopo(BenchWindow::Later),
            steps: 2,
            batch_size: 2,
            seed: 0,
            head_rank: None,
        };
        let operations = [2, 3, 5].map(|n| {
            let tokens: Vec<PairTokens> =
                (0..4).map(|i| pairs().tokens.get(i).unwrap().into_owned()).collect();
            let labels = tokens.iter().map(|pair| bench_objectives(pair, n)).collect();
            let pairs = Pairs::without_scores(tokens, labels);
            let steps = bench_steps(&base, &pairs, &bench, &Default::default()).unwrap();
            assert!(steps.iter().all(|step| step.loss.is_finite()));
            // Heads of low rank have the same first loss, since they change nothing yet, for less work.
            let bench = StepBench {
                head_rank: Some(2),
                method: BenchMethod::Mopo(BenchWindow::First),
                ..bench
            };
            let whole = StepBench { head_rank: None, ..bench };
            let [low, whole] = [bench, whole]
                .map(|bench| bench_steps(&base, &pairs, &bench, &Default::default()).unwrap());
            assert!((low[0].loss / whole[0].loss - 1.0).abs() < 1e-5);
            assert_ne!(low[1].loss, whole[1].loss);
            steps[1].operations
        });
        assert!(operations[0] < operations[1] && operations[1] < operations[2], "{operations:?}");
    }

    #[test]
    fn more_steps_than_pairs_are_refused() {
        let bench = StepBench {
            method: BenchMethod::Clone,
            steps: 3,
            batch_size: 2,
            seed: 0,
            head_rank: None,
        };
        let error = bench_steps(&base(), &pairs(), &bench, &Default::default()).unwrap_err();
        assert!(error.to_string().contains("4 pairs"), "{error}");
    }
}
