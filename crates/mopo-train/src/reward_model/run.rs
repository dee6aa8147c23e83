//! The training of a reward model, phase by phase; finished phases are skipped.

use std::fmt;
use std::path::Path;

use burn::module::{AutodiffModule, Module};
use mopo_data::Tokenizer;
use mopo_eval::ScoreStatistics;
use mopo_eval::reward::{Label, ModelReward, ModelSettings, RewardTokenizer, TruncationSide};
use mopo_lm::{
    Classifier, ClassifierShape, DecoderClassifier, DistilBertConfig, Gpt2Config, LoadDtype,
    Pooling,
};
use mopo_ops::{FusedAutodiffBackend, FusedBackend};
use serde::{Deserialize, Serialize};

use super::adapter::ScoreAdapter;
use super::config::{RewardModel, RewardTrainConfig};
use super::data::{self, Texts};
use super::examples::{Example, count_right, cut_alike};
use super::method::RewardTraining;
use super::save::{PADDING, save_model};
use crate::batches::step_seed;
use crate::communicator::Solo;
use crate::config::PhaseConfig;
use crate::fit::Fit;
use crate::models::tokenizer_of;
use crate::run_dir::RunKind;
use crate::run_dir::record::DATA;
use crate::{Error, Progress, Result, RunDir, RunRecord};

/// A share of decided examples that are classified correctly.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeasuredAccuracy {
    /// Share of correct decisions; equal scores of a pair count half.
    pub accuracy: f64,
    /// √(p (1 − p) / n): as for independent examples.
    pub standard_error: f64,
    /// Number of decided examples.
    pub n: usize,
}

impl MeasuredAccuracy {
    fn new(right: f64, n: usize) -> Self {
        let accuracy = right / n.max(1) as f64;
        let standard_error = (accuracy * (1.0 - accuracy) / n.max(1) as f64).sqrt();
        Self { accuracy, standard_error, n }
    }
}

impl fmt::Display for MeasuredAccuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (accuracy, error) = (100.0 * self.accuracy, 100.0 * self.standard_error);
        write!(f, "{accuracy:.1} % ± {error:.1} (n = {})", self.n)
    }
}

/// `result.json` of a training of a reward model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardResult {
    /// The objective.
    pub objective: String,
    /// Number of training examples.
    pub train: usize,
    /// Number of validation examples, used for early stopping.
    pub validation: usize,
    /// Number of held-out examples, used only for `heldout_accuracy`.
    pub heldout: usize,
    /// Number of texts, of all parts, that were truncated.
    pub truncated: usize,
    /// Number of steps, at most the configured one.
    pub steps: usize,
    /// The step whose weights were kept.
    pub best_step: usize,
    /// Their accuracy on the validation examples by which they were chosen, which is optimistic.
    pub validation_accuracy: MeasuredAccuracy,
    /// Their accuracy on the training examples; of a language model, on as many as validate it.
    pub train_accuracy: MeasuredAccuracy,
    /// Their accuracy on the held-out examples.
    pub heldout_accuracy: MeasuredAccuracy,
    /// The baseline's accuracy on the held-out examples.
    pub baseline: MeasuredAccuracy,
    /// The baseline: the longer response (in characters), or the more frequent kind.
    pub baseline_rule: String,
    /// Statistics of the scores of the held-out texts.
    pub scores: ScoreStatistics,
    /// Seconds of this call, since the run was resumed.
    pub seconds: f64,
}

impl fmt::Display for RewardResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { objective, train, validation, heldout, best_step, steps, .. } = self;
        writeln!(
            f,
            "reward model for `{objective}`: {train} training, {validation} validation, {heldout} \
             held-out examples"
        )?;
        writeln!(f, "kept: step {best_step} of {steps}")?;
        for (name, accuracy) in [
            ("training", &self.train_accuracy),
            ("validation", &self.validation_accuracy),
            ("held out", &self.heldout_accuracy),
            (&self.baseline_rule, &self.baseline),
        ] {
            writeln!(f, "  {name:<22} {accuracy}")?;
        }
        let s = &self.scores;
        write!(
            f,
            "held-out scores: mean {:.4}, standard deviation {:.4}, {:.4} to {:.4}",
            s.mean, s.std, s.min, s.max
        )
    }
}

/// Makes the run directory of a training.
///
/// # Errors
/// It exists and is not empty, or cannot be written.
pub fn create_reward_run(
    path: &Path,
    config: &RewardTrainConfig,
    record: &mut RunRecord,
) -> Result<RunDir> {
    RunDir::create_with(path, config.to_toml()?, record, RunKind::RewardModel)
}

/// Opens the run directory of a training.
///
/// # Errors
/// Those of [`RunDir::open`].
pub fn open_reward_run(path: &Path) -> Result<(RunDir, RewardTrainConfig, RunRecord)> {
    let run = RunDir::open_with(path, RunKind::RewardModel)?;
    let config = RewardTrainConfig::from_file(&path.join("config.toml"), &[])?;
    let record = run.read_record(&config)?;
    Ok((run, config, record))
}

/// Runs the remaining phases of a training: data, the loop, the model's directory, `result.json`.
/// As with
/// [`train`](fn@crate::train), the run's lock is taken if the caller does not hold it.
///
/// # Errors
/// Whatever prevents the next step; the run can be resumed after every error but
/// [`Error::NonFinite`].
pub fn train_reward<B: FusedAutodiffBackend>(
    run: &RunDir,
    config: &RewardTrainConfig,
    record: &mut RunRecord,
    device: &B::Device,
    progress: &mut dyn Progress,
) -> Result<RewardResult> {
    let clock = std::time::Instant::now();
    let run = &run.begin_training(record, || config.to_toml())?;
    let dir = config.model.dir()?;
    if let Some(dir) = &dir {
        record.check_model(dir)?;
    }
    if record.hashes.is_empty() {
        if let Some(dir) = &dir {
            record.add_model(dir)?;
            own_tokenizer(config, dir, run)?;
        }
        data::prepare(run, config, record, progress)?;
    }
    record.check(run, DATA, false)?;

    let tokenizer = tokenizer(run, config)?;
    B::seed(device, step_seed(config.seed, "init", 0));
    let model = initial::<B>(config, dir.as_deref(), &tokenizer, device)?;
    let needed = config.data.n_labels();
    if model.labels().len() != needed {
        return Err(Error::Config {
            origin: "`model.hub`".into(),
            message: format!(
                "the model has {} labels ({}), but {needed} are needed: 1 for pairs, 2 for texts of \
                 two kinds",
                model.labels().len(),
                model.labels().join(", ")
            ),
        });
    }
    let settings = settings(config, &model);
    let reward =
        ModelReward::new(&config.objective, model.valid(), tokenizer.clone(), settings.clone())?;
    let [heldout, validation, train] = data::PARTS.map(|part| {
        let path = run.join(&format!("data/{part}.jsonl"));
        // Held-out texts are cut as `mopo score` cuts them.
        let alike = part != "heldout" && matches!(config.model, RewardModel::Decoder(_));
        examples(&reward, Texts::read(&path, config)?, alike)
    });
    let (heldout, validation, train) = (heldout?, validation?, train?);
    let truncated = heldout.truncated + validation.truncated + train.truncated;
    let unreadable = heldout.unreadable + validation.unreadable + train.unreadable;
    progress.note(&format!(
        "{} longer than {} tokens and cut{}",
        match truncated {
            1 => "1 text is".into(),
            n => format!("{n} texts are"),
        },
        config.input.max_length,
        match unreadable {
            0 => String::new(),
            n => format!("; {n} examples without tokens were skipped"),
        }
    ));
    for (name, part) in [("training", &train), ("validation", &validation), ("held-out", &heldout)]
    {
        if part.examples.is_empty() {
            return Err(Error::Config {
                origin: "`data`".into(),
                message: format!(
                    "no {name} example has tokens; the tokenizer does not fit the data"
                ),
            });
        }
    }

    let loop_config = &config.training;
    let (fit_on, stop_on) = (&train.examples, &validation.examples);
    let checkpoints = &config.checkpoints;
    let mut fit = Fit { run, record, phase: &phase(config), checkpoints, communicator: &Solo };
    let (best_model, best, steps) = match (model, &config.lora) {
        (Classifier::Decoder(model), Some(lora)) => {
            let model = model.no_grad();
            let adapter = ScoreAdapter::new(&model, lora, device);
            let frozen = (model.clone(), model.valid());
            let mut method = RewardTraining::new(
                adapter,
                frozen,
                fit_on,
                stop_on,
                loop_config,
                config.seed,
                device,
            );
            let steps = fit.run(&mut method, progress)?;
            let (adapter, best) = method.into_best()?;
            (Classifier::Decoder(adapter.merged(&model.valid())?), best, steps)
        }
        (model, _) => {
            let mut method = RewardTraining::new(
                model,
                ((), ()),
                fit_on,
                stop_on,
                loop_config,
                config.seed,
                device,
            );
            let steps = fit.run(&mut method, progress)?;
            let (model, best) = method.into_best()?;
            (model, best, steps)
        }
    };

    let reward = ModelReward::new(&config.objective, best_model, tokenizer, settings)?;
    let accuracy = |examples: &[Example], logits: &[Vec<f32>]| {
        let (right, n) = count_right(examples, logits);
        MeasuredAccuracy::new(right, n)
    };
    // Scoring thousands of texts with a language model would take as long as the training.
    let measured = match &config.model {
        RewardModel::Decoder(_) => {
            &train.examples[..train.examples.len().min(validation.examples.len())]
        }
        _ => &train.examples[..],
    };
    let label = config.data.label();
    let of_heldout = logits(&reward, &heldout.examples);
    let scores = ScoreStatistics::new(of_heldout.iter().map(|logits| logits[label]));
    let (baseline_rule, baseline) = baseline(&train.examples, &heldout);
    save_model(run, &reward, &scores)?;
    let result = RewardResult {
        objective: config.objective.clone(),
        train: train.examples.len(),
        validation: validation.examples.len(),
        heldout: heldout.examples.len(),
        truncated,
        steps,
        best_step: best.step,
        validation_accuracy: accuracy(&validation.examples, &logits(&reward, &validation.examples)),
        train_accuracy: accuracy(measured, &logits(&reward, measured)),
        heldout_accuracy: accuracy(&heldout.examples, &of_heldout),
        baseline,
        baseline_rule,
        scores,
        seconds: clock.elapsed().as_secs_f64(),
    };
    run.finish(&mut record.clone(), &result)?;
    Ok(result)
}

/// The loop's schedule in the form that [`Fit`] needs.
fn phase(config: &RewardTrainConfig) -> PhaseConfig {
    let t = &config.training;
    PhaseConfig {
        steps: t.steps,
        batch_size: t.batch_size,
        gradient_accumulation_steps: 1,
        learning_rate: t.learning_rate,
        warmup_steps: t.warmup_steps,
        max_grad_norm: t.max_grad_norm,
        ..PhaseConfig::default()
    }
}

/// The run's own `tokenizer.json`: trained here, or that of the model's directory with its
/// settings.
fn tokenizer(run: &RunDir, config: &RewardTrainConfig) -> Result<RewardTokenizer> {
    let input = &config.input;
    let path = run.join("tokenizer.json");
    Ok(RewardTokenizer::from_file(path, input.max_length, input.truncation_side)?)
}

/// The tokenizer of the model at `dir`, as the run's own.
fn own_tokenizer(config: &RewardTrainConfig, dir: &Path, run: &RunDir) -> Result<()> {
    match &config.model {
        RewardModel::Decoder(_) => {
            let tokenizer = Tokenizer::load(tokenizer_of(dir.into()))?;
            Ok(tokenizer.save(run.join("tokenizer.json"))?)
        }
        _ => {
            let RewardTrainConfig { input, .. } = config;
            let architecture = ClassifierShape::read(dir)?.architecture;
            let (max_length, side) = (input.max_length, input.truncation_side);
            let tokenizer = RewardTokenizer::load(dir, architecture, max_length, side)?;
            Ok(tokenizer.save(run.path())?)
        }
    }
}

/// The model before training: that at `dir`, a fresh `score` on it, or one with random weights.
fn initial<B: FusedAutodiffBackend>(
    config: &RewardTrainConfig,
    dir: Option<&Path>,
    tokenizer: &RewardTokenizer,
    device: &B::Device,
) -> Result<Classifier<B>> {
    let (vocab, positions) = (tokenizer.vocab_size(), config.input.max_length);
    let pad_token_id = PADDING.iter().find_map(|name| tokenizer.id(name));
    let labels = match &config.data.pairs {
        Some(_) => vec![config.objective.clone()],
        None => vec![format!("not_{}", config.objective), config.objective.clone()],
    };
    Ok(match (&config.model, dir) {
        (RewardModel::Distilbert(s), _) => Classifier::DistilBert(
            DistilBertConfig {
                max_position_embeddings: positions,
                hidden_dim: s.hidden_dim,
                pad_token_id,
                labels: labels.clone(),
                ..DistilBertConfig::new(vocab, s.dim, s.n_layers, s.n_heads, labels.len())
            }
            .init(device),
        ),
        (RewardModel::Gpt2(s), _) => Classifier::Gpt2(
            Gpt2Config {
                n_positions: positions,
                pad_token_id,
                labels: labels.clone(),
                ..Gpt2Config::new(vocab, s.n_embd, s.n_layer, s.n_head, labels.len())
            }
            .init(device),
        ),
        (RewardModel::Hub(_), Some(dir)) => Classifier::load(dir, LoadDtype::F32, device)?,
        (RewardModel::Decoder(model), Some(dir)) => {
            let options = model.base.load_options();
            let model = DecoderClassifier::fresh(dir, labels, options, device)?;
            Classifier::Decoder(model.with_pad_token(pad_token_id))
        }
        (RewardModel::Hub(_) | RewardModel::Decoder(_), None) => {
            unreachable!("such a model has a directory")
        }
    })
}

/// The settings for using the trained model.
fn settings<B: FusedBackend>(config: &RewardTrainConfig, model: &Classifier<B>) -> ModelSettings {
    ModelSettings {
        name: Some(config.objective.clone()),
        text: config.input.text.clone(),
        pair: None,
        prompt_prefix: None,
        prompt_suffix: None,
        response_prefix: config.input.response_prefix.clone(),
        pooling: Pooling::of(model.architecture())[0],
        label: Label::Index(config.data.label()),
        sign: 1,
        max_length: config.input.max_length,
        truncation_side: config.input.truncation_side,
        pad_token_id: None,
        statistics: None,
    }
}

/// The examples of a part as the model's input.
struct Part {
    examples: Vec<Example>,
    /// For each pair, whether its first response is the longer one, in characters (½ if neither).
    longer: Vec<f64>,
    truncated: usize,
    unreadable: usize,
}

/// The examples of some texts; with `alike` both texts of a pair begin at the same token of their prompt.
fn examples<B: FusedBackend>(reward: &ModelReward<B>, texts: Texts, alike: bool) -> Result<Part> {
    let mut part = Part { examples: vec![], longer: vec![], truncated: 0, unreadable: 0 };
    match texts {
        Texts::Pairs(records) => {
            for r in records {
                let read = |response| reward.cut_tokens(&r.prompt, response);
                let (Ok((mut first, first_cut)), Ok((mut second, second_cut))) =
                    (read(&r.first), read(&r.second))
                else {
                    part.unreadable += 1;
                    continue;
                };
                part.truncated += usize::from(first_cut > 0) + usize::from(second_cut > 0);
                if alike && reward.settings().truncation_side == TruncationSide::Left {
                    cut_alike(&mut first, &mut second, first_cut, second_cut);
                }
                let lengths = [&r.first, &r.second].map(|text| text.chars().count());
                part.longer.push(match lengths[0].cmp(&lengths[1]) {
                    std::cmp::Ordering::Less => 0.0,
                    std::cmp::Ordering::Equal => 0.5,
                    std::cmp::Ordering::Greater => 1.0,
                });
                let indicator = r.indicators[0].ok_or_else(|| Error::Run {
                    path: "data".into(),
                    message: format!("record `{}` has no label; start a new run", r.id),
                })?;
                part.examples.push(Example::Pair { first, second, indicator });
            }
        }
        Texts::Labelled(texts) => {
            for t in texts {
                let Ok((row, cut)) = reward.cut_tokens("", &t.text) else {
                    part.unreadable += 1;
                    continue;
                };
                part.truncated += usize::from(cut > 0);
                part.examples.push(Example::Text { row, label: usize::from(t.label) });
            }
        }
    }
    Ok(part)
}

/// The logits of every text of the examples, in order; each depends only on its text.
fn logits<B: FusedBackend>(reward: &ModelReward<B>, examples: &[Example]) -> Vec<Vec<f32>> {
    let rows: Vec<_> = examples.iter().flat_map(Example::rows).cloned().collect();
    reward.logits(&rows)
}

/// The accuracy of a rule that uses only lengths, or frequencies.
fn baseline(train: &[Example], heldout: &Part) -> (String, MeasuredAccuracy) {
    let ones = |examples: &[Example]| {
        examples.iter().filter(|e| matches!(e, Example::Text { label: 1, .. })).count()
    };
    if let Some(Example::Text { .. }) = train.first() {
        let (n, positive) = (heldout.examples.len(), ones(&heldout.examples));
        let right = if 2 * ones(train) >= train.len() { positive } else { n - positive };
        return ("the more frequent kind".into(), MeasuredAccuracy::new(right as f64, n));
    }
    let (mut right, mut n) = (0.0, 0);
    for (example, longer) in heldout.examples.iter().zip(&heldout.longer) {
        if let Example::Pair { indicator, .. } = example
            && *indicator != 0.5
        {
            n += 1;
            right += if *indicator > 0.5 { *longer } else { 1.0 - longer };
        }
    }
    ("the longer response".into(), MeasuredAccuracy::new(right, n))
}
