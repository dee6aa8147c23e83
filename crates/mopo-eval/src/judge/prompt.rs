//! What a judge is asked: a text with the prompt and both answers in their places.

use mopo_report::Verdict;

use crate::{Error, Result};

/// The built-in text.
const DEFAULT: &str = include_str!("default-prompt.txt");
/// Where the criterion goes.
const CRITERION: &str = "{criterion}";

/// The text that a judge is asked, with the places of the prompt and of both answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgePrompt {
    /// With the criterion in its place.
    template: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Prompt,
    A,
    B,
}

/// A comparison: the prompt, and the answers in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// The prompt that both answer.
    pub prompt: &'a str,
    /// The answer shown first.
    pub a: &'a str,
    /// The answer shown second.
    pub b: &'a str,
}

impl JudgePrompt {
    /// The built-in text with a criterion, such as `Which answer is more helpful?`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for an empty criterion.
    pub fn with_criterion(criterion: &str) -> Result<Self> {
        Self::new(DEFAULT, Some(criterion))
    }

    /// A text of one's own with `{prompt}`, `{a}` and `{b}`, and `{criterion}` if there is one. Other braces are left as
    /// they are.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names a place that is missing, or a criterion that is missing or has no place.
    pub fn new(template: &str, criterion: Option<&str>) -> Result<Self> {
        let criterion = criterion.map(str::trim);
        match (criterion, template.contains(CRITERION)) {
            (Some(""), _) => {
                let expected = "say by what the judge should compare the answers";
                return Err(Error::invalid("criterion", "empty", expected));
            }
            (None, true) => {
                let expected = "the judge's prompt has a place {criterion} for one";
                return Err(Error::invalid("criterion", "not given", expected));
            }
            (Some(given), false) => {
                let expected = "the judge's prompt has no place {criterion} for it; add one, or leave the criterion out";
                return Err(Error::invalid("criterion", given, expected));
            }
            _ => {}
        }
        let mut places = vec![("{prompt}", Piece::Prompt), ("{a}", Piece::A), ("{b}", Piece::B)];
        for (place, _) in &places {
            if !template.contains(place) {
                let expected =
                    format!("it has no place {place}; it needs {{prompt}}, {{a}} and {{b}}");
                return Err(Error::invalid("prompt", "incomplete", expected));
            }
        }
        if let Some(criterion) = criterion {
            places.push((CRITERION, Piece::Text(criterion.into())));
        }
        let mut pieces = vec![];
        let mut rest = template.trim_end();
        // One pass: what a text contains is never a place.
        while let Some((start, place, piece)) = places
            .iter()
            .filter_map(|(place, piece)| Some((rest.find(place)?, place, piece)))
            .min_by_key(|(start, ..)| *start)
        {
            pieces.extend([Piece::Text(rest[..start].into()), piece.clone()]);
            rest = &rest[start + place.len()..];
        }
        pieces.push(Piece::Text(rest.into()));
        let mut prompt = Self { template: String::new(), pieces };
        prompt.template = prompt.fill(&Question { prompt: "{prompt}", a: "{a}", b: "{b}" });
        Ok(prompt)
    }

    /// The text with the criterion and the places of the others.
    pub fn template(&self) -> &str {
        &self.template
    }

    /// The text about one comparison.
    pub fn fill(&self, question: &Question<'_>) -> String {
        let text = |piece: &'_ Piece| -> String {
            match piece {
                Piece::Text(text) => text.clone(),
                Piece::Prompt => question.prompt.into(),
                Piece::A => question.a.into(),
                Piece::B => question.b.into(),
            }
        };
        self.pieces.iter().map(text).collect()
    }
}

/// Reads an answer: its last line must be `A`, `B` or `TIE`, alone and in capitals.
pub fn read_verdict(answer: &str) -> Verdict {
    match answer.trim_end().lines().next_back().map(str::trim) {
        Some("A") => Verdict::A,
        Some("B") => Verdict::B,
        Some("TIE") => Verdict::Tie,
        _ => Verdict::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_put_into_their_places_once() {
        let prompt = JudgePrompt::new(
            "{criterion} {\"x\": {prompt}}\n1 {a}\n2 {b} {a}\n",
            Some(" By {b}? "),
        );
        let prompt = prompt.unwrap();
        assert_eq!(prompt.template(), "By {b}? {\"x\": {prompt}}\n1 {a}\n2 {b} {a}");
        let question = Question { prompt: "{a}", a: "{criterion}", b: "b" };
        assert_eq!(prompt.fill(&question), "By {b}? {\"x\": {a}}\n1 {criterion}\n2 b {criterion}");
    }

    #[test]
    fn the_built_in_text_has_every_place() {
        let prompt = JudgePrompt::with_criterion("Which answer is shorter?").unwrap();
        let filled = prompt.fill(&Question { prompt: "«P»", a: "«A»", b: "«B»" });
        for part in ["Which answer is shorter?", "«P»", "«A»", "«B»"] {
            assert_eq!(filled.matches(part).count(), 1, "{part}: {filled}");
        }
        assert!(!filled.contains('{') && filled.find("«A»") < filled.find("«B»"), "{filled}");
    }

    #[test]
    fn what_a_text_lacks_is_named() {
        let refused = |template: &str, criterion| {
            JudgePrompt::new(template, criterion).unwrap_err().to_string()
        };
        for place in ["{prompt}", "{a}", "{b}"] {
            let said = refused(&"{prompt} {a} {b}".replace(place, ""), None);
            assert!(said.contains(&format!("no place {place}")), "{said}");
        }
        assert!(refused(DEFAULT, None).contains("{criterion}"));
        assert!(refused(DEFAULT, Some("  ")).contains("empty"));
        assert!(refused("{prompt} {a} {b}", Some("x")).contains("no place {criterion}"));
    }

    #[test]
    fn verdicts_stand_alone_on_the_last_line() {
        for (answer, expected) in [
            ("A", Verdict::A),
            ("Both are fine, but B is shorter.\n\nB\n", Verdict::B),
            ("B\nNo:\r\n  TIE \r\n\n", Verdict::Tie),
            ("", Verdict::Unreadable),
            ("a", Verdict::Unreadable),
            ("A.", Verdict::Unreadable),
            ("**A**", Verdict::Unreadable),
            ("Answer: A", Verdict::Unreadable),
            ("A or B", Verdict::Unreadable),
            ("A\nbecause it is shorter", Verdict::Unreadable),
        ] {
            assert_eq!(read_verdict(answer), expected, "{answer:?}");
        }
    }
}
