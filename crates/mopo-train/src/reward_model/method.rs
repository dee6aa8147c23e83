//! The training of a reward model in steps, with early stopping.

use burn::module::{AutodiffModule, Module};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{ElementConversion, Tensor};
use mopo_lm::{Classifier, TokenRow};
use mopo_ops::{FusedAutodiffBackend, FusedBackend};
use mopo_report::{Metrics, Quantity};
use serde::{Deserialize, Serialize};

use super::config::TrainingConfig;
use super::examples::{Example, count_right, mean_loss, step_rng};
use crate::batches::{BatchOrder, step_seed};
use crate::checkpoint::{Checkpoint, Parts};
use crate::communicator::Solo;
use crate::fit::Method;
use crate::optim::{Trainer, module_from_bytes};
use crate::{Error, Result};

pub(crate) const PHASE: &str = "reward_model";

/// Quality of a model on examples that it is not trained on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Evaluation {
    /// Mean loss per example.
    pub(crate) loss: f64,
    /// Number of correct decisions; equal scores count half.
    pub(crate) right: f64,
    /// Number of decided examples.
    pub(crate) decided: usize,
}

impl Evaluation {
    /// Share of the decided examples that are classified correctly.
    pub(crate) fn accuracy(&self) -> f64 {
        self.right / self.decided.max(1) as f64
    }

    /// Whether this is better than `other`: in accuracy, or with equal accuracy in loss.
    fn beats(&self, other: &Self) -> bool {
        (self.accuracy(), -self.loss) > (other.accuracy(), -other.loss)
    }
}

/// State of early stopping.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Best {
    /// Step at which the best model was found.
    pub(crate) step: usize,
    /// Its evaluation on the validation examples.
    pub(crate) evaluation: Evaluation,
    /// Number of evaluations since.
    pub(crate) since: usize,
}

/// What is trained of a reward model, with what else its logits need.
pub(crate) trait Scorer<B: FusedBackend>: Module<B> {
    /// The part that stays as it is.
    type Frozen;

    /// Logits of texts, `[n_rows, n_labels]`.
    fn logits(&self, frozen: &Self::Frozen, rows: &[TokenRow]) -> Tensor<B, 2>;
}

impl<B: FusedBackend> Scorer<B> for Classifier<B> {
    type Frozen = ();

    fn logits(&self, (): &(), rows: &[TokenRow]) -> Tensor<B, 2> {
        self.forward(rows)
    }
}

/// A [`Scorer`] that can be trained; its frozen part exists with gradients and without.
pub(crate) trait TrainedScorer<B: FusedAutodiffBackend>:
    AutodiffModule<B, InnerModule = Self::Inner> + Scorer<B>
{
    /// Without gradients.
    type Inner: Scorer<B::InnerBackend>;
}

impl<B, M> TrainedScorer<B> for M
where
    B: FusedAutodiffBackend,
    M: AutodiffModule<B> + Scorer<B>,
    M::InnerModule: Scorer<B::InnerBackend>,
{
    type Inner = M::InnerModule;
}

/// The frozen part of a scorer with gradients, and without.
pub(crate) type Frozen<B, M> = (
    <M as Scorer<B>>::Frozen,
    <<M as TrainedScorer<B>>::Inner as Scorer<<B as AutodiffBackend>::InnerBackend>>::Frozen,
);

/// The state of the training.
pub(crate) struct RewardTraining<'a, B: FusedAutodiffBackend, M: TrainedScorer<B>> {
    trainer: Trainer<'a, B, M>,
    frozen: Frozen<B, M>,
    train: &'a [Example],
    validation: &'a [Example],
    order: BatchOrder,
    config: &'a TrainingConfig,
    seed: u64,
    /// With the weights of the best model.
    best: Option<(Best, Vec<u8>)>,
    device: B::Device,
}

impl<'a, B: FusedAutodiffBackend, M: TrainedScorer<B>> RewardTraining<'a, B, M> {
    pub(crate) fn new(
        model: M,
        frozen: Frozen<B, M>,
        train: &'a [Example],
        validation: &'a [Example],
        config: &'a TrainingConfig,
        seed: u64,
        device: &B::Device,
    ) -> Self {
        let lengths = train.iter().map(Example::n_tokens).collect();
        let order = BatchOrder::new(lengths, config.batch_size, step_seed(seed, PHASE, 0));
        Self {
            trainer: Trainer::new(model, &Solo),
            frozen,
            train,
            validation,
            order,
            config,
            seed,
            best: None,
            device: device.clone(),
        }
    }

    /// The model that was best on the validation examples, with its evaluation.
    pub(crate) fn into_best(self) -> Result<(M::Inner, Best)> {
        let (best, bytes) = self.best.expect("the last step evaluates");
        let model = self.trainer.module().clone();
        let model = module_from_bytes::<B, _>(model, &bytes, &self.device)?;
        Ok((model.valid(), best))
    }

    fn evaluate(&mut self, step: usize, metrics: &mut Metrics) -> Result<()> {
        let model = self.trainer.module().valid();
        let batch = self.config.batch_size;
        let evaluation = evaluate(&model, &self.frozen.1, self.validation, batch);
        metrics.set(Quantity::LOSS.of("validation"), evaluation.loss);
        metrics.set(Quantity::ACCURACY.of("validation"), evaluation.accuracy());
        match &mut self.best {
            Some((best, _)) if !evaluation.beats(&best.evaluation) => best.since += 1,
            _ => {
                let best = Best { step: step + 1, evaluation, since: 0 };
                self.best = Some((best, self.trainer.module_bytes()?));
            }
        }
        Ok(())
    }
}

impl<B: FusedAutodiffBackend, M: TrainedScorer<B>> Method for RewardTraining<'_, B, M> {
    fn phase(&self) -> &'static str {
        PHASE
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let clock = std::time::Instant::now();
        let seed = step_seed(self.seed, PHASE, step);
        B::seed(&self.device, seed);
        let mut rng = step_rng(seed);
        let examples: Vec<Example> = self
            .order
            .batch(step)
            .into_iter()
            .map(|i| self.train[i].with_tokens_dropped(self.config.token_dropout, &mut rng))
            .collect();
        let n_tokens: usize = examples.iter().map(Example::n_tokens).sum();
        let found = self.trainer.passes(1, |model, _| {
            let logits = model.logits(&self.frozen.0, &rows(&examples));
            let loss = mean_loss(&examples, logits);
            let value = loss.clone().into_scalar().elem::<f64>();
            Ok((Some(loss), value))
        })?;
        let loss_value = found.iter().sum();
        let norm = self.trainer.step(learning_rate, self.config.max_grad_norm)?;
        self.trainer.decay(learning_rate * self.config.weight_decay);
        let mut metrics =
            Metrics::from([(Quantity::LOSS, loss_value), (Quantity::GRADIENT_NORM, norm)]);
        metrics.set_trained_tokens(n_tokens, clock.elapsed());
        if (step + 1).is_multiple_of(self.config.eval_steps) || step + 1 == self.config.steps {
            self.evaluate(step, &mut metrics)?;
        }
        Ok(metrics)
    }

    fn finished(&self) -> bool {
        self.best
            .as_ref()
            .is_some_and(|(best, _)| best.since >= self.config.early_stopping_patience)
    }

    fn headline(&self, m: &Metrics) -> String {
        let best = self.best.as_ref().map_or(String::new(), |(best, _)| {
            let accuracy = 100.0 * best.evaluation.accuracy();
            format!("  validation {accuracy:.1} % at step {}", best.step)
        });
        let of = |quantity: Quantity| m.get(quantity).unwrap_or(f64::NAN);
        let (loss, norm) = (of(Quantity::LOSS), of(Quantity::GRADIENT_NORM));
        format!("loss {loss:.3}  |grad| {norm:.2}{best}")
    }

    fn non_finite(&self) -> Result<Option<&'static str>> {
        self.trainer.non_finite()
    }

    fn save(&self) -> Result<Parts> {
        let mut parts = Parts::from([
            ("model.bin".into(), self.trainer.module_bytes()?),
            ("optimizer.bin".into(), self.trainer.optimizer_bytes()?),
        ]);
        if let Some((best, bytes)) = &self.best {
            let json = serde_json::to_vec_pretty(best)
                .map_err(|e| Error::corrupt("early_stopping.json".as_ref(), e.to_string()))?;
            parts.insert("early_stopping.json".into(), json);
            parts.insert("best.bin".into(), bytes.clone());
        }
        Ok(parts)
    }

    fn load(&mut self, c: &Checkpoint) -> Result<()> {
        self.trainer.restore(c.part("model.bin")?, c.part("optimizer.bin")?, &self.device)?;
        self.best = match c.parts.get("early_stopping.json") {
            Some(json) => {
                let best = serde_json::from_slice(json).map_err(|e| {
                    Error::corrupt(&c.path.join("early_stopping.json"), e.to_string())
                })?;
                Some((best, c.part("best.bin")?.to_vec()))
            }
            None => None,
        };
        Ok(())
    }
}

/// The texts of some examples, in order.
fn rows(examples: &[Example]) -> Vec<TokenRow> {
    examples.iter().flat_map(Example::rows).cloned().collect()
}

fn values<B: FusedBackend>(logits: Tensor<B, 2>) -> Vec<Vec<f32>> {
    let [_, n_labels] = logits.dims();
    let values: Vec<f32> = logits.into_data().iter::<f32>().collect();
    values.chunks(n_labels).map(<[f32]>::to_vec).collect()
}

/// Loss and accuracy over examples; not empty.
pub(crate) fn evaluate<B: FusedBackend, M: Scorer<B>>(
    model: &M,
    frozen: &M::Frozen,
    examples: &[Example],
    batch: usize,
) -> Evaluation {
    let (mut loss, mut right, mut decided) = (0.0, 0.0, 0);
    for chunk in examples.chunks(batch) {
        let logits = model.logits(frozen, &rows(chunk));
        let mean: f64 = mean_loss(chunk, logits.clone()).into_scalar().elem();
        loss += mean * chunk.len() as f64;
        let (more_right, more_decided) = count_right(chunk, &values(logits));
        (right, decided) = (right + more_right, decided + more_decided);
    }
    Evaluation { loss: loss / examples.len() as f64, right, decided }
}
