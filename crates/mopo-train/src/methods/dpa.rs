//! Directional preference alignment (DPA): the prompt has a direction in the space of rewards, and the policy learns the
//! response that goes farthest along it (Wang et al., 2024, arXiv 2402.18571; docs/methods/dpa.md).

use mopo_core::Objectives;
use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::batches::step_seed;
use crate::conditioned::{
    Aim, ConditionedTraining, Conditioning, ScoreStatistics, Told, check_known, check_objectives,
    direction_note,
};
use crate::{Progress, Result, RunData};

/// DPA on the recorded responses: the best of each pair along directions that are drawn anew in every step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpaConfig {
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

impl MethodSection for DpaConfig {
    const TEXT: &'static str = r#"[method]
kind = "dpa"

[dpa]
train_head = false
"#;

    fn check_section(&self, policies: &[String]) -> Result<()> {
        check_objectives("dpa", policies)
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

    fn changes_prompts(&self) -> bool {
        true
    }

    fn conditioning(&self, policies: &[String], _: &RunData) -> Result<Option<Conditioning>> {
        Ok(Some(Conditioning::new(policies, Aim::Direction)))
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let of = |name: &String| {
            let k = context.data.objectives.index_of(name)?;
            Ok((k, ScoreStatistics::of(&context.data.train, k, name)?))
        };
        let statistics = context.policies.iter().map(of).collect::<Result<Vec<_>>>()?;
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
        let training = ConditionedTraining { phase: "dpa", train_head: self.train_head, rows };
        training.run(context, fit, progress)
    }
}

/// Uniform on the unit vectors without negative entries.
fn direction(n: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut normal = || {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        ((-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()).abs()
    };
    let all: Vec<f64> = (0..n).map(|_| normal()).collect();
    let norm = all.iter().map(|x| x * x).sum::<f64>().sqrt();
    match norm > 0.0 {
        true => all.into_iter().map(|x| x / norm).collect(),
        false => vec![(n as f64).sqrt().recip(); n],
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

    #[test]
    fn directions_are_unit_vectors_without_a_preferred_axis() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let all: Vec<_> = (0..4000).map(|_| direction(3, &mut rng)).collect();
        for v in &all {
            assert!(v.iter().all(|x| *x >= 0.0));
            assert!((v.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-9);
        }
        for k in 0..3 {
            // E|x| on the sphere in three dimensions is 1/2.
            let mean = all.iter().map(|v| v[k]).sum::<f64>() / all.len() as f64;
            assert!((mean - 0.5).abs() < 0.02, "{mean}");
        }
    }
}
