//! What rollouts are made with: rewards, and the statistics that turn their scores into z-scores.

use std::path::Path;

use mopo_data::ChatTemplate;
use mopo_eval::ObjectiveStatistics;
use mopo_eval::reward::{Reward, RewardSpec, score_all};
use mopo_lm::{CausalLm, Decoding, GenerationConfig, HeadChoice};
use mopo_ops::FusedBackend;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::RolloutSettings;
use crate::batches::step_seed;
use crate::communicator::Communicator;
use crate::config::{RewardAxis, build_rewards};
use crate::evaluate::KnownStatistics;
use crate::sample::Answerer;
use crate::tokens::load_run_tokenizer;
use crate::{Error, Progress, Result, RunConfig, RunData, RunDir, RunRecord, Silent, Unit};

/// The file of a run with the rewards that it is trained with.
const REWARDS: &str = "rewards.json";

/// Its content.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrainingRewards {
    rewards: Vec<RewardSpec>,
    statistics: Vec<ObjectiveStatistics>,
}

/// All that a rollout needs besides the policy.
pub(crate) struct RolloutInputs {
    /// In the order of the settings' weights.
    pub(crate) rewards: Vec<Box<dyn Reward>>,
    /// One for each; no deviation is 0.
    pub(crate) statistics: Vec<ObjectiveStatistics>,
    /// The template of the prompts, if it is not the model's own.
    pub(crate) template: Option<ChatTemplate>,
}

impl RolloutInputs {
    /// Loads the rewards and the statistics of their scores. Those that nobody gave are measured once, on the
    /// reference's answers to training prompts, and kept in the run.
    ///
    /// # Errors
    /// A reward that cannot be built or refuses a text, or has changed since training began; equal scores.
    #[allow(clippy::too_many_arguments)] // all of a run
    pub(crate) fn load<B: FusedBackend>(
        settings: &RolloutSettings<'_>,
        run: &RunDir,
        config: &RunConfig,
        record: &mut RunRecord,
        base: &CausalLm<B>,
        data: &RunData,
        communicator: &dyn Communicator,
        device: &B::Device,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        settings.target.check_rewards(&config.evaluation)?;
        let names = settings.target.weights();
        let axes: Vec<&RewardAxis> = names
            .iter()
            .filter_map(|(name, _)| {
                config.evaluation.rewards.iter().find(|axis| axis.name == *name)
            })
            .collect();
        let specs: Vec<RewardSpec> = axes.iter().map(|axis| axis.reward.clone()).collect();
        let resolve = |model: &str| Ok(mopo_hub::locate(Path::new(model), None, &mut Silent)?.0);
        let rewards = build_rewards::<B>(axes.iter().copied(), device, &resolve)?;
        let (_, template) = load_run_tokenizer(run, config)?;

        let path = run.join(REWARDS);
        let is_known = communicator.by_first(|| Ok(path.exists()))?;
        let known = match is_known {
            true => {
                record.check(run, &[REWARDS], false)?;
                let known: TrainingRewards = run.read_json(REWARDS)?;
                let same = |i: usize| {
                    let known = known.rewards.get(i).map(RewardSpec::identity);
                    known == Some(specs[i].identity())
                };
                if let Some(i) = (0..specs.len()).find(|&i| !same(i)) {
                    return Err(Error::Config {
                        origin: "`evaluation.rewards`".into(),
                        message: format!(
                            "the reward of `{}` is not the one that training began with ({}): change it back, or start \
                             a new run",
                            axes[i].name,
                            path.display()
                        ),
                    });
                }
                known
            }
            false => {
                let answerer =
                    Answerer { base, params: None, tokenizer: &data.tokenizer, template, device };
                let measure = Measure { settings, config, data, rewards: &rewards, communicator };
                let statistics = match settings.trains_on_pairs {
                    true => vec![],
                    false => measure.statistics(&axes, run, &answerer, progress)?,
                };
                run.check_there()?;
                let found = TrainingRewards { rewards: specs, statistics };
                communicator.once(|| run.write_json(REWARDS, &found))?;
                found
            }
        };
        if !record.has(REWARDS) {
            record.change_together(run, communicator, |record| record.add_file(run, REWARDS))?;
        }
        for known in &known.statistics {
            let ObjectiveStatistics { objective, mean, std, source, .. } = known;
            progress.note(&format!(
                "z-scores of `{objective}`: mean {mean:.4}, std {std:.4}; {source}"
            ));
        }
        Ok(Self { rewards, statistics: known.statistics, template })
    }
}

/// What statistics are measured with.
struct Measure<'a> {
    settings: &'a RolloutSettings<'a>,
    config: &'a RunConfig,
    data: &'a RunData,
    rewards: &'a [Box<dyn Reward>],
    communicator: &'a dyn Communicator,
}

impl Measure<'_> {
    /// The statistics of these axes: given, of the recorded scores, or of the reference's answers.
    fn statistics<B: FusedBackend>(
        &self,
        axes: &[&RewardAxis],
        run: &RunDir,
        answerer: &Answerer<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<Vec<ObjectiveStatistics>> {
        let evaluation = &self.config.evaluation;
        let all: Vec<String> = evaluation.rewards.iter().map(|axis| axis.name.clone()).collect();
        let known = KnownStatistics::new(None, evaluation, &all, run)?.into_inner();
        let of = |axis: &&RewardAxis| {
            let k = all.iter().position(|name| *name == axis.name)?;
            known[k].clone()
        };
        let mut found: Vec<Option<ObjectiveStatistics>> = axes.iter().map(of).collect();
        if found.contains(&None) {
            let (scores, whose) = self.reference_scores(answerer, progress)?;
            for (k, slot) in found.iter_mut().enumerate() {
                if slot.is_none() {
                    let scores = scores.iter().map(|row| row[k]);
                    *slot = Some(ObjectiveStatistics::of(&axes[k].name, scores, &whose)?);
                }
            }
        }
        let found: Vec<ObjectiveStatistics> = found.into_iter().flatten().collect();
        match found.iter().find(|statistics| statistics.std <= 0.0) {
            None => Ok(found),
            Some(ObjectiveStatistics { objective, mean, source, .. }) => Err(Error::Config {
                origin: "`evaluation.rewards`".into(),
                message: format!(
                    "all scores by `{objective}` are {mean}, so they have no z-scores ({source}): give it `statistics`, \
                     or another reward"
                ),
            }),
        }
    }

    /// Scores of the reference's own answers to some training prompts, `[n_prompts][n_rewards]`, and whose they are.
    fn reference_scores<B: FusedBackend>(
        &self,
        answerer: &Answerer<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<(Vec<Vec<f32>>, String)> {
        let seed = step_seed(self.config.seed, "reference scores", 0);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let drawn = self.data.draw_prompts(self.config.evaluation.n_prompts, &mut rng);
        let n = drawn.len();
        let tokens = self.data.tokens_of_prompts(drawn.iter().copied())?;
        let texts = self.data.prompt_texts(drawn)?;
        let generation = GenerationConfig {
            max_new_tokens: self.settings.max_new_tokens,
            temperature: self.settings.temperature,
            seed,
            ..GenerationConfig::default()
        };
        let head = Decoding::from(HeadChoice::Base);
        progress.begin("reference scores", 0, n as u64, Unit::Steps);
        let answers = answerer.answer_together(
            &head,
            &tokens,
            None,
            &generation,
            self.communicator,
            progress,
        )?;
        progress.end("");
        let answers: Vec<String> = answers.into_iter().map(|answer| answer.text).collect();
        let whose = format!(
            "answers of the reference to {n} training prompts (temperature {}, seed {})",
            self.settings.temperature, self.config.seed
        );
        let scores =
            self.communicator.by_first(|| Ok(score_all(self.rewards, &texts, &answers)?))?;
        Ok((scores, whose))
    }
}
