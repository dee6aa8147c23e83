//! Evaluation of policies between the steps of their training, early stopping, and the best policies kept.
//!
//! It draws nothing from the random state of training, so a run with it ends with the same policies as one without,
//! unless it stops early or goes back to the best ones. What it has found is part of checkpoints.

use std::path::Path;

use mopo_core::pareto::{Direction, hypervolume};
use mopo_data::ChatTemplate;
use mopo_eval::reward::{Reward, score_all};
use mopo_lm::{CausalLm, Decoding, GenerationConfig, HeadChoice, PolicyParams};
use mopo_ops::{FusedAutodiffBackend, FusedBackend};
use mopo_report::{MetricKey, Metrics, Quantity};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::heldout_log_probs;
use crate::batches::step_seed;
use crate::checkpoint::{Checkpoint, Parts};
use crate::communicator::Communicator;
use crate::conditioned::Conditioning;
use crate::config::{BEST_METRIC, EVAL_PROMPTS, PhaseConfig, build_rewards};
use crate::fit::{Method, PolicyMethod};
use crate::heldout::log_ratio;
use crate::log_probs::LogProbs;
use crate::optim::{module_from_bytes, module_to_bytes};
use crate::result::{Best, accuracies, mean_log_probs};
use crate::sample::Answerer;
use crate::tokens::load_run_tokenizer;
use crate::{Error, Result, RunConfig, RunData, RunDir, Silent};

/// The file of a run with the answers of every evaluation.
pub(crate) const SAMPLES: &str = "eval_samples.jsonl";
/// Parts of a checkpoint.
const STATE: &str = "evaluation.json";
const POLICIES: &str = "best_policies.bin";

/// What a run is evaluated with.
pub(super) struct Evaluator<'a, B: FusedBackend> {
    phase: &'a PhaseConfig,
    eval_steps: usize,
    frozen: &'a CausalLm<B>,
    run: &'a RunDir,
    data: &'a RunData,
    names: &'a [String],
    conditioning: Option<&'a Conditioning>,
    /// log π_0 of the held-out pairs.
    initial: &'a LogProbs,
    /// The metric by which checkpoints are compared.
    metric: MetricKey,
    samples: Option<Samples>,
    seed: u64,
    communicator: &'a dyn Communicator,
    device: &'a B::Device,
    state: State,
    /// The policies of the best evaluation.
    best: Option<Vec<u8>>,
}

/// A few prompts, and what scores the answers.
struct Samples {
    /// By policy and prompt.
    tokens: Vec<Vec<Vec<u32>>>,
    prompts: Vec<String>,
    rewards: Vec<Box<dyn Reward>>,
    axes: Vec<String>,
    ref_point: Vec<f64>,
    template: Option<ChatTemplate>,
    generation: GenerationConfig,
}

/// What evaluations have found.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    best: Option<Best>,
    /// Evaluations since the best one.
    since: usize,
}

impl<'a, B: FusedBackend> Evaluator<'a, B> {
    /// `None` if the configuration asks for no evaluation.
    ///
    /// # Errors
    /// A reward that cannot be built; a metric that there will not be.
    #[allow(clippy::too_many_arguments)] // all of a run
    pub(super) fn new(
        run: &'a RunDir,
        config: &'a RunConfig,
        data: &'a RunData,
        frozen: &'a CausalLm<B>,
        initial: &'a LogProbs,
        conditioning: Option<&'a Conditioning>,
        communicator: &'a dyn Communicator,
        device: &'a B::Device,
    ) -> Result<Option<Self>> {
        let phase = &config.training;
        let Some(eval_steps) = phase.eval_steps else { return Ok(None) };
        let samples = match phase.eval_prompts.unwrap_or(EVAL_PROMPTS) {
            0 => None,
            n => Some(Samples::new::<B>(n, run, config, data, conditioning, device)?),
        };
        let names = &config.policies;
        let metric = metric(phase, names, data, samples.as_ref().map(|samples| &samples.axes[..]))?;
        Ok(Some(Self {
            phase,
            eval_steps,
            frozen,
            run,
            data,
            names,
            conditioning,
            initial,
            metric,
            samples,
            seed: config.seed,
            communicator,
            device,
            state: State::default(),
            best: None,
        }))
    }

    /// Whether there is an evaluation after so many steps.
    fn is_due(&self, done: usize) -> bool {
        done.is_multiple_of(self.eval_steps) || done == self.phase.steps
    }

    /// Evaluates policies after `done` steps. `is_compared`: whether they may be the best ones.
    fn evaluate(
        &mut self,
        done: usize,
        is_compared: bool,
        policies: &PolicyParams<B>,
        metrics: &mut Metrics,
    ) -> Result<()> {
        let name = "evaluation";
        let after = heldout_log_probs(
            self.frozen,
            policies,
            self.data,
            self.names,
            self.conditioning,
            name,
            self.device,
            self.communicator,
            &mut Silent,
        )?;
        let objectives = self.data.objectives.names();
        let mut all = vec![];
        for (policy, log_probs) in self.names.iter().zip(&after) {
            let of = |i: usize| log_ratio(log_probs, self.initial, i);
            let found = accuracies(&self.data.heldout_labels, of, objectives.len());
            let own = objectives.iter().position(|objective| objective == policy);
            for (k, (objective, accuracy)) in objectives.iter().zip(&found).enumerate() {
                let Some(accuracy) = accuracy else { continue };
                metrics.set(Quantity::EVAL_ACCURACY.between(policy, objective), accuracy.share);
                if own.is_none_or(|own| own == k) {
                    all.push(accuracy.share);
                }
                if let Some(means) = mean_log_probs(&self.data.heldout_labels, log_probs, k) {
                    let both = [Quantity::EVAL_CHOSEN_LOG_PROB, Quantity::EVAL_REJECTED_LOG_PROB];
                    for (quantity, mean) in both.into_iter().zip(means) {
                        metrics.set(quantity.between(policy, objective), mean);
                    }
                }
            }
        }
        if !all.is_empty() {
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            metrics.set(Quantity::EVAL_ACCURACY, mean);
        }
        if let Some(samples) = &self.samples {
            let rows = self.answer(samples, done, policies, metrics)?;
            self.communicator.once(|| self.write(done, &rows))?;
        }
        if !is_compared {
            return Ok(());
        }
        let value = metrics.get(self.metric.clone()).expect("checked before training");
        match &self.state.best {
            Some(best) if value <= best.value => self.state.since += 1,
            _ => {
                let metric = self.metric.to_string();
                self.state = State { best: Some(Best { step: done, metric, value }), since: 0 };
                if self.phase.load_best_model_at_end {
                    self.best = Some(module_to_bytes::<B, _>(policies)?);
                }
            }
        }
        Ok(())
    }

    /// Answers of every policy, with their scores among the metrics; the rows of the file.
    fn answer(
        &self,
        samples: &Samples,
        done: usize,
        policies: &PolicyParams<B>,
        metrics: &mut Metrics,
    ) -> Result<Vec<Value>> {
        let answerer = Answerer {
            base: self.frozen,
            params: Some(policies),
            tokenizer: &self.data.tokenizer,
            template: samples.template,
            device: self.device,
        };
        // The same numbers at every evaluation: what changes is the policy.
        let seed = step_seed(self.seed, "evaluation", 0);
        let generation = GenerationConfig { seed, ..samples.generation.clone() };
        let ids: Vec<u64> = (0..samples.prompts.len() as u64).collect();
        let (mut means, mut rows) = (vec![], vec![]);
        for (h, policy) in self.names.iter().enumerate() {
            let head = if self.conditioning.is_some() { 0 } else { h };
            let decoding = Decoding::from(HeadChoice::Policy(head));
            let (tokens, rng) = (&samples.tokens[h], Some(&ids[..]));
            let answers = answerer.answer_together(
                &decoding,
                tokens,
                rng,
                &generation,
                self.communicator,
                &mut Silent,
            )?;
            let texts: Vec<String> = answers.into_iter().map(|answer| answer.text).collect();
            let score = || Ok(score_all(&samples.rewards, &samples.prompts, &texts)?);
            let scores: Vec<Vec<f32>> = self.communicator.by_first(score)?;
            let mean = |k: usize| {
                let sum: f64 = scores.iter().map(|row| f64::from(row[k])).sum();
                sum / scores.len() as f64
            };
            let mean: Vec<f64> = (0..samples.axes.len()).map(mean).collect();
            for (axis, mean) in samples.axes.iter().zip(&mean) {
                metrics.set(Quantity::EVAL_SCORE.between(policy, axis), *mean);
            }
            means.push(mean);
            for ((prompt, response), scores) in samples.prompts.iter().zip(&texts).zip(&scores) {
                let scores: serde_json::Map<String, Value> =
                    samples.axes.iter().cloned().zip(scores.iter().map(|x| json!(x))).collect();
                rows.push(json!({
                    "step": done,
                    "policy": policy,
                    "prompt": prompt,
                    "response": response,
                    "scores": scores,
                }));
            }
        }
        let directions = vec![Direction::Maximize; samples.axes.len()];
        let volume = hypervolume(&means, &samples.ref_point, &directions).map_err(|e| {
            Error::Config { origin: "`evaluation.rewards`".into(), message: e.to_string() }
        })?;
        metrics.set(Quantity::EVAL_HYPERVOLUME, volume);
        Ok(rows)
    }

    /// Adds rows to the file of answers, without what a process has written that came further.
    fn write(&self, done: usize, rows: &[Value]) -> Result<()> {
        let text = std::fs::read_to_string(self.run.join(SAMPLES)).unwrap_or_default();
        let is_before = |line: &&str| {
            let row: Option<Value> = serde_json::from_str(line).ok();
            row.and_then(|row| row["step"].as_u64()).is_some_and(|step| step < done as u64)
        };
        let before = text.lines().filter(is_before).map(str::to_string);
        let lines: Vec<String> = before.chain(rows.iter().map(Value::to_string)).collect();
        self.run.write(SAMPLES, (lines.join("\n") + "\n").as_bytes())
    }

    fn is_over(&self) -> bool {
        self.phase.early_stopping_patience.is_some_and(|patience| self.state.since >= patience)
    }

    /// What to say at the end: that training stopped early, and which evaluation's policies the run ends with.
    pub(super) fn notes(&self) -> Vec<String> {
        let best = self.state.best.as_ref().filter(|_| self.phase.load_best_model_at_end);
        let Some(Best { step, metric, value }) = best else { return Vec::new() };
        let stopped = match self.phase.early_stopping_patience {
            Some(patience) if self.is_over() => {
                format!(
                    "training stopped after {patience} evaluations without a better `{metric}`; "
                )
            }
            _ => String::new(),
        };
        vec![format!("{stopped}the policies are those of step {step}, with `{metric}` {value:.4}")]
    }

    /// What the run ends with: the best policies if it is to, else those that were `trained`. Also the best evaluation.
    ///
    /// # Errors
    /// Damaged bytes.
    pub(super) fn end(self, trained: PolicyParams<B>) -> Result<(PolicyParams<B>, Option<Best>)> {
        let policies = match &self.best {
            Some(bytes) => module_from_bytes::<B, _>(trained, bytes, self.device)?,
            None => trained,
        };
        Ok((policies, self.state.best))
    }
}

impl Samples {
    fn new<B: FusedBackend>(
        n: usize,
        run: &RunDir,
        config: &RunConfig,
        data: &RunData,
        conditioning: Option<&Conditioning>,
        device: &B::Device,
    ) -> Result<Self> {
        let settings = &config.evaluation;
        let resolve = |model: &str| Ok(mopo_hub::locate(Path::new(model), None, &mut Silent)?.0);
        let rewards = build_rewards::<B>(&settings.rewards, device, &resolve)?;
        let (_, template) = load_run_tokenizer(run, config)?;
        let prompts: Vec<String> = data.heldout_prompts.iter().take(n).cloned().collect();
        let of = |h: usize| -> Result<Vec<Vec<u32>>> {
            let note = conditioning.map(|conditioning| conditioning.corner(h));
            (0..prompts.len()).map(|i| data.heldout_prompt_tokens(i, note.as_deref())).collect()
        };
        let tokens = (0..config.policies.len()).map(of).collect::<Result<_>>()?;
        Ok(Self {
            tokens,
            prompts,
            rewards,
            axes: settings.rewards.iter().map(|axis| axis.name.clone()).collect(),
            ref_point: settings.rewards.iter().map(|axis| axis.ref_point).collect(),
            template,
            generation: GenerationConfig {
                max_new_tokens: settings.max_new_tokens,
                temperature: settings.temperature,
                top_p: settings.top_p,
                ..GenerationConfig::default()
            },
        })
    }
}

/// Checks the metric by which checkpoints are compared before any work.
///
/// # Errors
/// It is none of those that evaluations of this run have.
pub(super) fn check_metric(config: &RunConfig, data: &RunData) -> Result<()> {
    let phase = &config.training;
    if phase.eval_steps.is_none() {
        return Ok(());
    }
    let axes = config.evaluation.rewards.iter().map(|axis| axis.name.clone());
    let axes: Vec<String> = axes.collect();
    let has_samples = phase.eval_prompts.unwrap_or(EVAL_PROMPTS) > 0;
    metric(phase, &config.policies, data, has_samples.then_some(&axes[..])).map(drop)
}

/// The metric by which checkpoints are compared. `axes`: the rewards of samples, if there are any.
///
/// # Errors
/// It is none of those that evaluations of this run have.
fn metric(
    phase: &PhaseConfig,
    names: &[String],
    data: &RunData,
    axes: Option<&[String]>,
) -> Result<MetricKey> {
    let asked = phase.metric_for_best_model.as_deref().unwrap_or(BEST_METRIC);
    let objectives = data.objectives.names();
    let is_decided =
        |k: usize| data.heldout_labels.iter().any(|row| row[k].is_some_and(|label| label != 0.5));
    let mut known: Vec<MetricKey> = vec![];
    for policy in names {
        let own = objectives.iter().position(|objective| objective == policy);
        for (k, objective) in objectives.iter().enumerate().filter(|(k, _)| is_decided(*k)) {
            known.push(Quantity::EVAL_ACCURACY.between(policy, objective));
            if own.is_none_or(|own| own == k) && known[0] != Quantity::EVAL_ACCURACY.into() {
                known.insert(0, Quantity::EVAL_ACCURACY.into());
            }
        }
    }
    if let Some(axes) = axes {
        known.push(Quantity::EVAL_HYPERVOLUME.into());
        let scores = names.iter().flat_map(|policy| {
            axes.iter().map(move |axis| Quantity::EVAL_SCORE.between(policy, axis))
        });
        known.extend(scores);
    }
    let found = asked.parse().ok().filter(|key| known.contains(key));
    found.ok_or_else(|| Error::Config {
        origin: "`training.metric_for_best_model`".into(),
        message: format!(
            "it is `{asked}`, which no evaluation of this run has; they have {}",
            known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ),
    })
}

/// A method whose policies are evaluated between its steps.
pub(super) struct Evaluated<'a, 'e, B: FusedAutodiffBackend> {
    pub(super) method: &'a mut dyn PolicyMethod<B>,
    pub(super) evaluator: &'a mut Evaluator<'e, B::InnerBackend>,
}

impl<B: FusedAutodiffBackend> Method for Evaluated<'_, '_, B> {
    fn phase(&self) -> &'static str {
        self.method.phase()
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let mut metrics = self.method.step(step, learning_rate)?;
        let done = step + 1;
        if self.evaluator.is_due(done) {
            let (is_compared, policies) =
                (done > self.method.compared_after(), self.method.policies().merged());
            self.evaluator.evaluate(done, is_compared, &policies, &mut metrics)?;
        }
        Ok(metrics)
    }

    fn learning_rate(&self, phase: &PhaseConfig, step: usize) -> f64 {
        self.method.learning_rate(phase, step)
    }

    fn finished(&self) -> bool {
        self.method.finished() || self.evaluator.is_over()
    }

    fn headline(&self, metrics: &Metrics) -> String {
        let best =
            self.evaluator.state.best.as_ref().map(|best| {
                format!("  best {} {:.4} at step {}", best.metric, best.value, best.step)
            });
        format!("{}{}", self.method.headline(metrics), best.unwrap_or_default())
    }

    fn non_finite(&self) -> Result<Option<&'static str>> {
        self.method.non_finite()
    }

    fn save(&self) -> Result<Parts> {
        let mut parts = self.method.save()?;
        let state = serde_json::to_vec_pretty(&self.evaluator.state)
            .map_err(|e| Error::corrupt(STATE.as_ref(), e.to_string()))?;
        parts.insert(STATE.into(), state);
        if let Some(bytes) = &self.evaluator.best {
            parts.insert(POLICIES.into(), bytes.clone());
        }
        Ok(parts)
    }

    fn load(&mut self, c: &Checkpoint) -> Result<()> {
        self.method.load(c)?;
        self.evaluator.state = serde_json::from_slice(c.part(STATE)?)
            .map_err(|e| Error::corrupt(&c.path.join(STATE), e.to_string()))?;
        let is_kept = self.evaluator.phase.load_best_model_at_end;
        self.evaluator.best = match is_kept && self.evaluator.state.best.is_some() {
            true => Some(c.part(POLICIES)?.to_vec()),
            false => None,
        };
        Ok(())
    }
}
