//! A reward minus a price per word or character.

use serde::{Deserialize, Serialize};

use super::{LengthUnit, Reward, RewardSpec};
use crate::{Error, Result};

/// A length correction as a configuration describes it. Exactly one of `per_word` and `per_character`
/// is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthCorrectedSpec {
    /// The price of a word, above 0, in the unit of the reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_word: Option<f64>,
    /// The price of a character, above 0, in the unit of the reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_character: Option<f64>,
    /// As many words or characters are free; 0 by default.
    #[serde(default)]
    pub from: u32,
    /// The name to show; by default the reward's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The reward.
    pub reward: RewardSpec,
}

impl LengthCorrectedSpec {
    /// What is counted, and its price.
    ///
    /// # Errors
    /// Both or neither of the prices; one that is not above 0.
    pub fn price(&self) -> Result<(LengthUnit, f64)> {
        let (unit, field, price) = match (self.per_word, self.per_character) {
            (Some(price), None) => (LengthUnit::Words, "per_word", price),
            (None, Some(price)) => (LengthUnit::Characters, "per_character", price),
            (Some(_), Some(_)) => {
                let expected = "`per_word` is set as well; keep one of the two";
                return Err(Error::invalid("per_character", "set", expected));
            }
            (None, None) => {
                let expected = "one of the two is needed: what a word or a character costs";
                return Err(Error::invalid("per_word` or `per_character", "missing", expected));
            }
        };
        match price.is_finite() && price > 0.0 {
            true => Ok((unit, price)),
            false => Err(Error::invalid(
                field,
                price,
                "it must be a number above 0, in the reward's unit",
            )),
        }
    }
}

/// A reward minus a price for each word or character of the response beyond a length.
pub struct LengthCorrected {
    name: String,
    reward: Box<dyn Reward>,
    unit: LengthUnit,
    price: f64,
    from: u32,
}

impl LengthCorrected {
    /// `reward` minus `price` times the response's length beyond `from`. The name is the reward's unless
    /// another is given.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for a price that is not finite.
    pub fn new(
        name: Option<String>,
        reward: Box<dyn Reward>,
        (unit, price): (LengthUnit, f64),
        from: u32,
    ) -> Result<Self> {
        if !price.is_finite() {
            return Err(Error::invalid("price", price, "it must be a number"));
        }
        let name = name.unwrap_or_else(|| reward.name().to_owned());
        Ok(Self { name, reward, unit, price, from })
    }
}

impl Reward for LengthCorrected {
    fn name(&self) -> &str {
        &self.name
    }

    fn uses_all_cores(&self) -> bool {
        self.reward.uses_all_cores()
    }

    fn notes(&self) -> Vec<String> {
        self.reward.notes()
    }

    fn score(&self, prompt: &str, response: &str) -> Result<f32> {
        Ok(self.score_batch(&[(prompt, response)])?[0])
    }

    fn score_batch(&self, items: &[(&str, &str)]) -> Result<Vec<f32>> {
        let scores = super::checked_scores(self.reward.as_ref(), items)?;
        let corrected = scores.into_iter().zip(items).map(|(score, (_, response))| {
            let length = self.unit.count(response) as f64 - f64::from(self.from);
            (f64::from(score) - self.price * length.max(0.0)) as f32
        });
        Ok(corrected.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> RewardSpec {
        toml::from_str(&format!("kind = 'length_corrected'\n{text}")).unwrap()
    }

    /// How often there is an `a`.
    const REWARD: &str = "reward = { kind = 'regex', pattern = 'a', name = 'as' }";

    #[test]
    fn each_unit_beyond_the_free_ones_costs() {
        let scores = |text: &str| {
            let reward = spec(&format!("{text}\n{REWARD}")).build_function().unwrap();
            let items = [("a a", "a b"), ("", "aa a aa"), ("", ""), ("", "ü")];
            (reward.name().to_owned(), reward.score_batch(&items).unwrap())
        };
        assert_eq!(scores("per_word = 0.5").1, [0.0, 3.5, 0.0, -0.5]);
        assert_eq!(scores("per_word = 1\nfrom = 2"), ("as".into(), vec![1.0, 4.0, 0.0, 0.0]));
        assert_eq!(
            scores("per_character = 0.25\nfrom = 1\nname = 'brief'"),
            ("brief".into(), vec![0.5, 3.5, 0.0, 0.0])
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("", "`per_word` or `per_character` is missing"),
            ("per_word = 1\nper_character = 1", "keep one of the two"),
            ("per_word = 0", "`per_word` is 0"),
            ("per_character = -0.5", "`per_character` is -0.5"),
            ("per_word = inf", "`per_word` is inf"),
        ] {
            let spec = spec(&format!("{text}\n{REWARD}"));
            let said = spec.check().unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
            assert_eq!(spec.build_function().err().unwrap().to_string(), said);
        }
        let inner = spec("per_word = 1\nreward = { kind = 'regex', pattern = '[' }");
        assert!(inner.check().unwrap_err().to_string().contains("`reward`: `pattern`"));
        let text = "kind = 'length_corrected'\nper_token = 1\nreward = { kind = 'length' }";
        let said = toml::from_str::<RewardSpec>(text).unwrap_err().to_string();
        assert!(said.contains("per_token") && said.contains("per_word"), "{said}");
    }
}
