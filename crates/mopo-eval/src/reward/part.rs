//! A reward that is one of several.

use super::Reward;
use crate::{Error, Result};

struct Part {
    place: String,
    reward: Box<dyn Reward>,
}

/// A reward whose errors of scoring say where it stands: `place` is its key, in words that fit into brackets.
pub fn part(place: impl Into<String>, reward: Box<dyn Reward>) -> Box<dyn Reward> {
    Box::new(Part { place: place.into(), reward })
}

impl Part {
    fn placed(&self, error: Error) -> Error {
        let place = &self.place;
        match error {
            // What was asked for is kept, which callers say in their own words.
            Error::Text { reward, index, why } => {
                Error::Text { reward, index, why: format!("({place}) {why}") }
            }
            source => Error::Within { place: place.clone(), source: Box::new(source) },
        }
    }
}

impl Reward for Part {
    fn name(&self) -> &str {
        self.reward.name()
    }

    fn score(&self, prompt: &str, response: &str) -> Result<f32> {
        self.reward.score(prompt, response).map_err(|e| self.placed(e))
    }

    fn score_batch(&self, items: &[(&str, &str)]) -> Result<Vec<f32>> {
        self.reward.score_batch(items).map_err(|e| self.placed(e))
    }

    fn uses_all_cores(&self) -> bool {
        self.reward.uses_all_cores()
    }

    fn notes(&self) -> Vec<String> {
        self.reward.notes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Refuses;

    impl Reward for Refuses {
        fn name(&self) -> &str {
            "picky"
        }

        fn score(&self, prompt: &str, _: &str) -> Result<f32> {
            Err(match prompt {
                "text" => Error::Text { reward: "picky".into(), index: 0, why: "is bad".into() },
                _ => Error::invalid("x", 1, "it must not be"),
            })
        }
    }

    #[test]
    fn errors_say_where_the_reward_stands() {
        let part = part("rewards[1]", Box::new(Refuses));
        assert_eq!(part.name(), "picky");
        let e = part.score_batch(&[("text", "")]).unwrap_err().to_string();
        assert_eq!(e, "reward `picky`: text 0 (rewards[1]) is bad");
        let e = part.score("other", "").unwrap_err().to_string();
        assert!(e.starts_with("`rewards[1]`: ") && e.contains("must not be"), "{e}");
    }
}
