//! Rewards of a run, which score answers.

use std::path::Path;

use mopo_data::{ChatTemplate, Message};
use mopo_eval::reward::{Resolver, score_all};
use mopo_eval::{Reward, RewardSpec};
use mopo_ops::FusedBackend;
use mopo_train::{RunDir, load_run_tokenizer};

use crate::engine::{Prompt, Refusal};
use crate::error::Result;

/// A response to score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreItem {
    /// What it answers.
    pub prompt: Prompt,
    /// The answer.
    pub response: String,
}

/// What scores responses; larger is better. It is called on a thread of its own, one call at a time.
pub trait TextScorer: Send + Sync {
    /// Names of the rewards.
    fn names(&self) -> Vec<String>;

    /// `[n_items][n_rewards]`: all finite.
    ///
    /// # Errors
    /// A conversation that has no form for the rewards, or a reward that fails.
    fn score(&self, items: &[ScoreItem]) -> std::result::Result<Vec<Vec<f32>>, Refusal>;
}

/// The rewards that a run's configuration names for its evaluation.
pub struct RunScorer {
    names: Vec<String>,
    rewards: Vec<Box<dyn Reward>>,
    /// The form in which the run's data has prompts and responses.
    template: ChatTemplate,
}

impl std::fmt::Debug for RunScorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunScorer").field("names", &self.names).finish_non_exhaustive()
    }
}

impl RunScorer {
    /// Loads the rewards of a run; `None` for anything else. `resolve` finds the models of rewards.
    ///
    /// # Errors
    /// A damaged run, or a reward that cannot be built.
    pub fn open<B: FusedBackend>(
        path: &Path,
        device: &B::Device,
        resolve: Resolver<'_>,
    ) -> Result<Option<Self>> {
        if !RunDir::is_run(path) {
            return Ok(None);
        }
        let (run, config, _) = RunDir::open(path)?;
        let (_, template) = load_run_tokenizer(&run, &config)?;
        let axes = config.evaluation.rewards;
        let rewards =
            RewardSpec::build_all::<B>(axes.iter().map(|axis| &axis.reward), device, resolve)?;
        let names = axes.into_iter().map(|axis| axis.name).collect();
        Ok(Some(Self { names, rewards, template: template.unwrap_or(ChatTemplate::Dialogue) }))
    }
}

impl TextScorer for RunScorer {
    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn score(&self, items: &[ScoreItem]) -> std::result::Result<Vec<Vec<f32>>, Refusal> {
        let (mut prompts, mut responses) = (vec![], vec![]);
        for item in items {
            let prompt = match &item.prompt {
                Prompt::Text(text) => {
                    self.template.ask(text).map_err(|why| Refusal::invalid("prompt", why))
                }
                Prompt::Chat(messages) => rendered(self.template, messages)
                    .map_err(|why| Refusal::invalid("messages", why)),
            };
            prompts.push(prompt?);
            responses.push(self.template.response(&item.response));
        }
        score_all(&self.rewards, &prompts, &responses).map_err(|e| match e {
            mopo_eval::Error::Text { index, .. } => {
                Refusal::invalid(&format!("input[{index}]"), e.to_string())
            }
            e => Refusal::internal(format!("the rewards cannot score this: {e}")),
        })
    }
}

/// A conversation in the form of the run's data. A template of single questions takes the last one.
fn rendered(template: ChatTemplate, messages: &[Message]) -> std::result::Result<String, String> {
    match (template, messages) {
        (ChatTemplate::Plain, [.., last]) => Ok(last.content.clone()),
        _ => template.prompt(messages),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_are_scored_in_the_form_of_the_data() {
        struct Echo;
        impl Reward for Echo {
            fn name(&self) -> &str {
                "echo"
            }
            fn score(&self, prompt: &str, response: &str) -> mopo_eval::Result<f32> {
                if response == " Refuse." {
                    let (reward, why) = ("echo".into(), "is not to its taste".into());
                    return Err(mopo_eval::Error::Text { reward, index: 0, why });
                }
                let is_form = prompt == "\n\nHuman: Tea?\n\nAssistant:" && response == " Yes.";
                Ok(f32::from(u8::from(is_form)))
            }
        }
        let scorer = RunScorer {
            names: vec!["echo".into()],
            rewards: vec![Box::new(Echo)],
            template: ChatTemplate::Dialogue,
        };
        let asked = |content: &str| {
            Prompt::Chat(vec![Message { role: "user".into(), content: content.into() }])
        };
        let item = |prompt, response: &str| ScoreItem { prompt, response: response.into() };
        let found = scorer.score(&[
            item(asked("Tea?"), "Yes."),
            item(asked("Tea?"), "No."),
            item(Prompt::Text("\n\nHuman: Tea?\n\nAssistant:".into()), " Yes."),
            item(Prompt::Text("Tea?".into()), "Yes."),
        ]);
        assert_eq!(found.unwrap(), [[1.0], [0.0], [1.0], [1.0]]);
        let e = scorer.score(&[item(asked("Tea?"), "Yes."), item(asked("Tea?"), "Refuse.")]);
        assert_eq!(e.unwrap_err().param.as_deref(), Some("input[1]"));
        let e = scorer.score(&[item(Prompt::Chat(vec![]), "Yes.")]).unwrap_err();
        assert_eq!(e.param.as_deref(), Some("messages"));
    }
}
