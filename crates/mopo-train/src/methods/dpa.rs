//! Directional preference alignment (DPA): the prompt has a direction in the space of rewards, and the policy learns the
//! response that goes farthest along it (Wang et al., 2024, arXiv 2402.18571; docs/methods/dpa.md).

use mopo_core::Objectives;
use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::batches::step_seed;
use crate::conditioned::{
    Aim, ConditionedTraining, Conditioning, Online, OnlineRounds, Rule, Told, check_known,
    check_objectives, direction, direction_note, statistics_of,
};
use crate::rollouts::RolloutSettings;
use crate::{Progress, Result, RunData};

/// DPA on the recorded responses: the best of each pair along directions that are drawn anew in every step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpaConfig {
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
    /// Rounds on its own answers, at the end of training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<OnlineRounds>,
}

impl MethodSection for DpaConfig {
    const TEXT: &'static str = r#"[method]
kind = "dpa"

[dpa]
train_head = false
# Rounds on its own answers, scored by the [[evaluation.rewards]] named like the policies: the best of `answers` to each
# prompt along its direction is learnt. None without the section.
# [dpa.online]
# rounds = 2
# share = 0.2
# prompts = 128
# answers = 4
# temperature = 1.0
# max_new_tokens = 72
"#;
    const OPTIONAL: &'static [&'static str] = &["dpa.online"];

    fn needs_initial_log_probs(&self) -> bool {
        false
    }

    fn check_section(&self, policies: &[String]) -> Result<()> {
        check_objectives("dpa", policies)?;
        self.online.as_ref().map_or(Ok(()), |online| online.check("dpa"))
    }

    fn check_new(&self, steps: usize) -> Result<()> {
        self.online.as_ref().map_or(Ok(()), |online| online.check_steps("dpa", steps))
    }

    fn check_labels(
        &self,
        policies: &[String],
        objectives: &Objectives,
        _: &[&[Option<f32>]],
    ) -> Result<()> {
        check_known(policies, objectives)
    }

    fn needs_scores(&self) -> bool {
        true
    }

    fn rollouts<'a>(&'a self, policies: &'a [String]) -> Option<RolloutSettings<'a>> {
        Some(self.online.as_ref()?.rollouts("dpa.online", policies))
    }

    fn changes_prompts(&self) -> bool {
        true
    }

    fn conditioning(&self, policies: &[String], _: &RunData) -> Result<Option<Conditioning>> {
        Ok(Some(Conditioning::new(policies, Aim::Direction)))
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let data = context.data;
        let statistics = statistics_of(context.policies, &data.objectives, data)?;
        let (scores, seed) = (&context.data.train.scores, context.seed);
        let rows = |pair: usize, step: usize| {
            let of = scores[pair].as_ref().expect("every pair has scores");
            let z = [0, 1].map(|r| -> Vec<f64> {
                statistics.iter().map(|(k, statistics)| statistics.z(of[r][*k])).collect()
            });
            let mut rng = ChaCha8Rng::seed_from_u64(step_seed(seed, "dpa direction", step));
            rng.set_stream(pair as u64);
            [0, 1].map(|_| told(&z, &direction(statistics.len(), &mut rng)))
        };
        let online = Online::new(self.online.as_ref(), || Rule::Direction, &statistics, &context);
        let train_head = self.train_head;
        let training = ConditionedTraining { phase: "dpa", train_head, rows, online };
        training.run(context, fit, progress)
    }
}

/// The response with the larger ⟨direction, z⟩, the first of equal ones, and the direction as its note.
fn told(z: &[Vec<f64>; 2], direction: &[f64]) -> Told {
    let along = |of: &[f64]| of.iter().zip(direction).map(|(z, v)| z * v).sum::<f64>();
    let response = usize::from(along(&z[1]) > along(&z[0]));
    Told { response, note: direction_note(direction) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_response_along_the_direction_is_learnt() {
        let z = [vec![1.0, -1.0], vec![-0.5, 2.0]];
        for (direction, response) in [([1.0, 0.0], 0), ([0.0, 1.0], 1), ([0.9, 0.1], 0)] {
            assert_eq!(told(&z, &direction).response, response);
        }
        assert_eq!(told(&z, &[0.6, 0.8]).note, "<rm1_weight> 0.60 <rm2_weight> 0.80");
        assert_eq!(told(&[vec![1.0], vec![1.0]], &[1.0]).response, 0);
    }
}
