//! Rewards: what scores a response.

mod ensemble;
mod fingerprint;
mod function;
mod http;
mod length_corrected;
mod model;
mod part;
mod program;
mod settings;
mod spec;
mod template;
mod tokenizer;

pub use ensemble::{Combination, Combine, Ensemble, EnsembleSpec, MemberSpec, MemberStatistics};
pub use http::{HttpReward, HttpSpec};
pub use length_corrected::{LengthCorrected, LengthCorrectedSpec};
pub use model::{ModelReward, Resolver, local_directory};
pub use part::part;
pub use program::{Program, ProgramSpec};
pub use settings::{Label, MODEL_PRESETS, ModelSettings, ModelSpec, SETTINGS_FILE};
pub use tokenizer::{RewardTokenizer, TruncationSide};

pub use function::{DemoReward, Length, LengthPreference, LengthUnit, Pattern, WordList};
pub use spec::{Prefer, RewardSpec};

use crate::{Error, Result};

/// A score for a response to a prompt. **Larger is better**, raw (never rounded or squashed), and
/// independent of anything else that is scored.
///
/// ```
/// use mopo_eval::reward::{Reward, score_all};
///
/// struct Questions;
///
/// impl Reward for Questions {
///     fn name(&self) -> &str {
///         "asks back"
///     }
///     fn score(&self, _prompt: &str, response: &str) -> mopo_eval::Result<f32> {
///         Ok(response.matches('?').count() as f32)
///     }
/// }
///
/// let prompts = ["Tea or coffee?".to_string()];
/// let scores = score_all(&[Box::new(Questions)], &prompts, &["Which tea? Black?".to_string()])?;
/// assert_eq!(scores, [[2.0]]);
/// # Ok::<(), mopo_eval::Error>(())
/// ```
pub trait Reward: Send + Sync {
    /// The name for figures and tables.
    fn name(&self) -> &str;

    /// The score of `response` to `prompt`.
    ///
    /// # Errors
    /// Whatever prevents a finite score.
    fn score(&self, prompt: &str, response: &str) -> Result<f32>;

    /// The scores of `(prompt, response)` items, in order. A score does not depend on what else is
    /// in the batch (for a model, up to rounding on some devices).
    ///
    /// # Errors
    /// Those of [`Reward::score`].
    fn score_batch(&self, items: &[(&str, &str)]) -> Result<Vec<f32>> {
        let items = items.iter().enumerate();
        items
            .map(|(i, (prompt, response))| self.score(prompt, response).map_err(|e| e.at(i)))
            .collect()
    }

    /// Whether one call uses all cores, as a model does: callers then do not score on several
    /// threads at once.
    fn uses_all_cores(&self) -> bool {
        false
    }

    /// Notes for the user on the scores so far: that texts were truncated, for instance.
    fn notes(&self) -> Vec<String> {
        vec![]
    }
}

/// Scores each response with each reward: `[n_prompts][n_objectives]`, in the order of `rewards`.
///
/// Complexity: one call of [`Reward::score_batch`] per reward.
///
/// # Errors
/// [`Error::Length`] if there is not one response per prompt; [`Error::NonFinite`] names the reward
/// and the prompt with a NaN or an infinity.
pub fn score_all(
    rewards: &[Box<dyn Reward>],
    prompts: &[String],
    responses: &[String],
) -> Result<Vec<Vec<f32>>> {
    if prompts.len() != responses.len() {
        return Err(Error::Length {
            field: "responses".into(),
            found: responses.len(),
            expected: prompts.len(),
            reason: "one response per prompt",
        });
    }
    let items: Vec<(&str, &str)> =
        prompts.iter().map(String::as_str).zip(responses.iter().map(String::as_str)).collect();
    let mut scores = vec![Vec::with_capacity(rewards.len()); items.len()];
    for reward in rewards {
        let found = reward.score_batch(&items)?;
        assert_eq!(found.len(), items.len(), "reward `{}` gives a score for each", reward.name());
        for (i, (score, scores)) in found.into_iter().zip(&mut scores).enumerate() {
            if !score.is_finite() {
                let field = format!("score of reward `{}` for prompt {i}", reward.name());
                return Err(Error::NonFinite { field, value: score.into() });
            }
            scores.push(score);
        }
    }
    Ok(scores)
}

/// The scores of a reward that is part of another: one for each item, all finite.
fn checked_scores(reward: &dyn Reward, items: &[(&str, &str)]) -> Result<Vec<f32>> {
    let scores = reward.score_batch(items)?;
    if scores.len() != items.len() {
        return Err(Error::Length {
            field: format!("scores of reward `{}`", reward.name()),
            found: scores.len(),
            expected: items.len(),
            reason: "one score per response",
        });
    }
    match scores.iter().position(|score| !score.is_finite()) {
        None => Ok(scores),
        Some(index) => Err(Error::Text {
            reward: reward.name().to_owned(),
            index,
            why: format!("got the score {}, which is not a finite number", scores[index]),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;
    impl Reward for Broken {
        fn name(&self) -> &str {
            "broken"
        }
        fn score(&self, _: &str, _: &str) -> Result<f32> {
            Ok(f32::NAN)
        }
    }

    #[test]
    fn scores_are_checked() {
        let prompts = ["p".to_owned()];
        let rewards: Vec<Box<dyn Reward>> = vec![Box::new(Broken)];
        let e = score_all(&rewards, &prompts, &["r".to_owned()]).unwrap_err().to_string();
        assert!(e.contains("`broken` for prompt 0"), "{e}");
        assert!(score_all(&rewards, &prompts, &[]).is_err());
        assert_eq!(score_all(&[], &prompts, &["r".to_owned()]).unwrap(), [Vec::<f32>::new()]);
    }
}
