//! One compared pair of responses, with an indicator per objective.

use mopo_core::Objectives;
use serde::{Deserialize, Serialize};

use crate::stream::{KeyHasher, RowKey};
use crate::{Error, Message, Result};

/// A label for one objective: `None` is missing, 1 means that the first response is preferred, 0
/// the second, 0.5 a tie; anything between is a soft label (a probability).
pub type Indicator = Option<f32>;

/// A reward model's (or a person's) absolute score of each response, per objective.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// `[n_objectives]` scores of the first response; larger is better.
    pub first: Vec<f32>,
    /// `[n_objectives]` scores of the second response.
    pub second: Vec<f32>,
}

/// A prompt, two different responses, and which of them each objective prefers.
///
/// ```
/// use mopo_core::Objectives;
/// use mopo_data::PreferenceRecord;
///
/// let record = PreferenceRecord {
///     id: "mine:1".into(),
///     source: "mine".into(),
///     prompt: "\n\nHuman: How do I boil an egg?\n\nAssistant:".into(),
///     messages: None,
///     first: " Seven minutes.".into(),
///     second: " Who knows.".into(),
///     indicators: vec![Some(1.0), None], // the first is more helpful; nobody said which is funnier
///     scores: None,
/// };
/// record.check(&Objectives::new(["helpful", "humor"])?)?;
/// let error = record.check(&Objectives::new(["helpful"])?).unwrap_err();
/// assert!(error.to_string().contains("mine:1"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct PreferenceRecord {
    /// Unique within a set; readers use `source:line`.
    pub id: String,
    /// Where the pair came from, for information.
    pub source: String,
    /// Everything before the responses, verbatim; for dialogues it ends in `\n\nAssistant:`.
    pub prompt: String,
    /// The same as the source's messages, where it has some: a model with its own chat template is
    /// prompted with these, put into that template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// One response, verbatim (dialogue responses start with a space).
    pub first: String,
    /// The other response.
    pub second: String,
    /// `[n_objectives]`, in the order of the set's objectives.
    pub indicators: Vec<Indicator>,
    /// The scores behind the indicators, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<Scores>,
}

/// The indicator implied by two scores: 1, 0, or 0.5 if they differ by no more than
/// `tie_threshold`. Antisymmetric: swapping the scores gives 1 minus it.
pub fn indicator_of_scores(first: f32, second: f32, tie_threshold: f32) -> f32 {
    let difference = first - second;
    if difference.abs() <= tie_threshold {
        0.5
    } else if difference > 0.0 {
        1.0
    } else {
        0.0
    }
}

impl PreferenceRecord {
    /// A key of texts and labels, independent of the file.
    pub(crate) fn key(&self) -> RowKey {
        let texts = KeyHasher::new().text(&self.prompt).text(&self.first).text(&self.second);
        let label = |indicator: &Indicator| indicator.map_or(u64::MAX, |i| u64::from(i.to_bits()));
        self.indicators.iter().fold(texts, |key, i| key.number(label(i))).finish()
    }

    /// Checks lengths, ranges and that there is something to compare.
    ///
    /// # Errors
    /// [`Error::Record`] names the record, the field and the accepted values: the number of
    /// indicators or scores is not `objectives.len()`, an indicator is outside [0, 1], a
    /// score is not finite, an id, prompt or response is empty, the messages ask for no response, or
    /// both responses are equal.
    pub fn check(&self, objectives: &Objectives) -> Result<()> {
        let wrong = |field, why: String| Err(Error::Record { id: self.id.clone(), field, why });
        for (field, text) in [
            ("id", &self.id),
            ("prompt", &self.prompt),
            ("first", &self.first),
            ("second", &self.second),
        ] {
            if text.trim().is_empty() {
                return wrong(field, "it is empty; give it text or remove the record".into());
            }
        }
        if let Some(messages) = &self.messages
            && messages.last().is_none_or(|last| last.role == "assistant")
        {
            let why = "it must end with a message to be answered; add one or remove the field";
            return wrong("messages", why.into());
        }
        if self.first == self.second {
            return wrong("second", "it equals `first`; remove identical pairs".into());
        }
        let n_objectives = objectives.len();
        let expected = format!("{n_objectives} ({})", objectives.names().join(", "));
        if self.indicators.len() != n_objectives {
            let found = self.indicators.len();
            return wrong("indicators", format!("it has {found} entries, expected {expected}"));
        }
        for (objective_idx, indicator) in self.indicators.iter().enumerate() {
            if let Some(value) = indicator
                && !(0.0..=1.0).contains(value)
            {
                let name = objectives.name(objective_idx);
                return wrong(
                    "indicators",
                    format!(
                        "{value} for `{name}` is not in [0, 1] (1: first preferred, 0: second, \
                         0.5: tie, null: missing)"
                    ),
                );
            }
        }
        if let Some(scores) = &self.scores {
            for values in [&scores.first, &scores.second] {
                if values.len() != n_objectives {
                    let found = values.len();
                    return wrong("scores", format!("{found} entries, expected {expected}"));
                }
                if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                    return wrong("scores", format!("{value} is not a finite number"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> PreferenceRecord {
        PreferenceRecord {
            id: "a:1".into(),
            source: "a".into(),
            prompt: "\n\nHuman: Hi\n\nAssistant:".into(),
            messages: None,
            first: " one".into(),
            second: " two".into(),
            indicators: vec![Some(1.0), None],
            scores: None,
        }
    }

    #[test]
    fn check_names_record_and_field() {
        let objectives = Objectives::new(["helpful", "harmless"]).unwrap();
        record().check(&objectives).unwrap();
        type Edit = fn(&mut PreferenceRecord);
        let cases: [(&str, Edit); 9] = [
            ("`messages`: it must end", |r| r.messages = Some(vec![])),
            ("`first`: it is empty", |r| r.first = "  ".into()),
            ("equals `first`", |r| r.second = r.first.clone()),
            ("1 entries, expected 2 (helpful, harmless)", |r| r.indicators = vec![None]),
            ("1.5 for `helpful`", |r| r.indicators[0] = Some(1.5)),
            ("NaN for `harmless`", |r| r.indicators[1] = Some(f32::NAN)),
            ("`scores`: 0 entries", |r| {
                r.scores = Some(Scores { first: vec![0.0, 1.0], second: vec![] });
            }),
            ("not a finite", |r| {
                r.scores = Some(Scores { first: vec![0.0, f32::NAN], second: vec![0.0, 0.0] });
            }),
            ("`id`", |r| r.id.clear()),
        ];
        for (expected, edit) in cases {
            let mut wrong = record();
            edit(&mut wrong);
            let error = wrong.check(&objectives).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let mut json = serde_json::to_value(record()).unwrap();
        json["chosen"] = "x".into();
        let error = serde_json::from_value::<PreferenceRecord>(json).unwrap_err().to_string();
        assert!(error.contains("unknown field `chosen`"), "{error}");
    }

    proptest! {
        #[test]
        fn json_round_trip(
            texts in prop::array::uniform5(any::<String>()),
            indicators in prop::collection::vec(prop::option::of(0.0f32..=1.0), 0..4),
            scores in prop::option::of(prop::collection::vec(-1e30f32..1e30, 0..4)),
            turns in prop::option::of(prop::collection::vec(any::<(String, String)>(), 0..3)),
        ) {
            let [id, source, prompt, first, second] = texts;
            let scores = scores.map(|s| Scores { first: s.clone(), second: s });
            let message = |(role, content)| Message { role, content };
            let messages = turns.map(|turns| turns.into_iter().map(message).collect());
            let record =
                PreferenceRecord { id, source, prompt, messages, first, second, indicators, scores };
            let json = serde_json::to_string(&record).unwrap();
            prop_assert!(!json.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<PreferenceRecord>(&json).unwrap(), record);
        }

        #[test]
        fn indicators_are_antisymmetric(a in -2.0f32..2.0, b in -2.0f32..2.0, tie in 0.0f32..0.5) {
            prop_assert_eq!(
                indicator_of_scores(a, b, tie),
                1.0 - indicator_of_scores(b, a, tie)
            );
        }
    }
}
