//! Rewards that are functions of the text: they need no model and never fail on a response.

use std::collections::BTreeSet;
use std::path::Path;

use mopo_data::demo;
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::Reward;
use crate::{Error, Result};

/// What a length counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthUnit {
    /// Unicode scalar values.
    Characters,
    /// Runs of characters other than white space.
    #[default]
    Words,
}

impl LengthUnit {
    /// The length of a text.
    pub fn count(self, text: &str) -> usize {
        match self {
            Self::Characters => text.chars().count(),
            Self::Words => mopo_data::n_words(text),
        }
    }
}

/// Which lengths are better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LengthPreference {
    /// The score is the length.
    Longer,
    /// The score is minus the length.
    Shorter,
    /// The score is minus the relative distance to this length: 0 at best.
    Target(u32),
}

/// The length of the response.
#[derive(Debug, Clone)]
pub struct Length {
    name: String,
    unit: LengthUnit,
    preference: LengthPreference,
}

impl Length {
    /// A reward called `name`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for a target of 0; use [`LengthPreference::Shorter`] instead.
    pub fn new(
        name: impl Into<String>,
        unit: LengthUnit,
        preference: LengthPreference,
    ) -> Result<Self> {
        if preference == LengthPreference::Target(0) {
            let expected =
                "a target must be at least 1; leave it out and set `prefer = \"shorter\"`";
            return Err(Error::invalid("target", 0, expected));
        }
        Ok(Self { name: name.into(), unit, preference })
    }
}

impl Reward for Length {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, _prompt: &str, response: &str) -> Result<f32> {
        let length = self.unit.count(response) as f32;
        Ok(match self.preference {
            LengthPreference::Longer => length,
            LengthPreference::Shorter => -length,
            LengthPreference::Target(target) => -(length - target as f32).abs() / target as f32,
        })
    }
}

/// The share of the response's words that are in a list, 0 to 1; 0 for a response without words.
/// Case and punctuation around a word are ignored.
#[derive(Debug, Clone)]
pub struct WordList {
    name: String,
    words: BTreeSet<String>,
    avoid: bool,
}

impl WordList {
    /// A reward called `name`. With `avoid` the score is minus the share: fewer are better.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for an empty list, or an entry of several words.
    pub fn new(name: impl Into<String>, words: &[String], avoid: bool) -> Result<Self> {
        let mut set = BTreeSet::new();
        for entry in words {
            let mut parts = words_of(entry);
            match (parts.next(), parts.next()) {
                (Some(word), None) => set.insert(word),
                (None, _) => continue,
                _ => {
                    let expected = "an entry must be a single word; split it into several";
                    return Err(Error::invalid("words", format!("`{entry}`"), expected));
                }
            };
        }
        if set.is_empty() {
            return Err(Error::invalid("words", "empty", "at least one word is needed"));
        }
        Ok(Self { name: name.into(), words: set, avoid })
    }

    /// The list in a file: one word per line, UTF-8; empty lines and lines that begin with `#` are
    /// ignored.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, else those of [`WordList::new`].
    pub fn from_file(name: impl Into<String>, path: &Path, avoid: bool) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
            action: "read",
            path: path.into(),
            source,
        })?;
        let words: Vec<String> =
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        Self::new(name, &words, avoid).map_err(|e| match e {
            Error::InvalidParameter { value, expected, .. } => {
                Error::InvalidParameter { field: path.display().to_string(), value, expected }
            }
            other => other,
        })
    }
}

fn words_of(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase())
        .filter(|word| !word.is_empty())
}

impl Reward for WordList {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, _prompt: &str, response: &str) -> Result<f32> {
        let (mut all, mut listed) = (0_u32, 0_u32);
        for word in words_of(response) {
            all += 1;
            listed += u32::from(self.words.contains(&word));
        }
        let share = listed as f32 / all.max(1) as f32;
        Ok(if self.avoid { -share } else { share })
    }
}

/// How often a regular expression matches in the response, without overlap.
#[derive(Debug, Clone)]
pub struct Pattern {
    name: String,
    regex: Regex,
    avoid: bool,
}

impl Pattern {
    /// A reward called `name`; `pattern` has the syntax of the crate `regex`, which takes time
    /// linear in
    /// the text. With `avoid` the score is minus the count: fewer are better.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for an invalid regular expression, or for one that matches
    /// an empty text and so everywhere.
    pub fn new(name: impl Into<String>, pattern: &str, avoid: bool) -> Result<Self> {
        let wrong = |expected: String| Error::invalid("pattern", format!("`{pattern}`"), expected);
        let regex = Regex::new(pattern).map_err(|e| wrong(e.to_string()))?;
        if regex.is_match("") {
            return Err(wrong("it must not match an empty text, which is found everywhere".into()));
        }
        Ok(Self { name: name.into(), regex, avoid })
    }
}

impl Reward for Pattern {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, _prompt: &str, response: &str) -> Result<f32> {
        let count = self.regex.find_iter(response).count() as f32;
        Ok(if self.avoid && count > 0.0 { -count } else { count })
    }
}

/// One of the demo world's known rewards: the ground truth of its preference labels.
#[derive(Debug, Clone)]
pub struct DemoReward {
    name: String,
    objective_idx: usize,
}

impl DemoReward {
    /// The demo world's reward `objective_idx`, shown as `name`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if the demo world has no such objective.
    pub fn new(name: impl Into<String>, objective_idx: usize) -> Result<Self> {
        let n_objectives = demo::objectives().len();
        if objective_idx >= n_objectives {
            let expected = format!("the demo has the objectives 0 to {}", n_objectives - 1);
            return Err(Error::invalid("objective_idx", objective_idx, expected));
        }
        Ok(Self { name: name.into(), objective_idx })
    }
}

impl Reward for DemoReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, prompt: &str, response: &str) -> Result<f32> {
        Ok(demo::rewards(prompt, response)[self.objective_idx])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|&w| w.to_owned()).collect()
    }

    #[test]
    fn length_counts_what_it_says() {
        let score = |unit, preference, text| {
            Length::new("length", unit, preference).unwrap().score("", text).unwrap()
        };
        assert_eq!(score(LengthUnit::Words, LengthPreference::Longer, " two  words\n"), 2.0);
        assert_eq!(score(LengthUnit::Characters, LengthPreference::Longer, "né"), 2.0);
        assert_eq!(score(LengthUnit::Words, LengthPreference::Shorter, "a b c"), -3.0);
        assert_eq!(score(LengthUnit::Words, LengthPreference::Target(4), "a b c"), -0.25);
        assert_eq!(score(LengthUnit::Words, LengthPreference::Target(2), "a b"), 0.0);
        assert!(Length::new("l", LengthUnit::Words, LengthPreference::Target(0)).is_err());
    }

    #[test]
    fn word_list_is_a_share() {
        let polite = WordList::new("polite", &list(&["please", "Thanks"]), false).unwrap();
        assert_eq!(polite.score("", "PLEASE, and \"thanks\"!").unwrap(), 2.0 / 3.0);
        assert_eq!(polite.score("", "  ... ").unwrap(), 0.0);
        let rude = WordList::new("rude", &list(&["bad"]), true).unwrap();
        assert_eq!(rude.score("", "bad good").unwrap(), -0.5);
        assert!(WordList::new("w", &list(&["two words"]), false).is_err());
        assert!(WordList::new("w", &list(&["", "--"]), false).is_err());
    }

    #[test]
    fn word_list_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("words.txt");
        std::fs::write(&path, "# polite words\nplease\n\nthanks\n").unwrap();
        let polite = WordList::from_file("polite", &path, false).unwrap();
        assert_eq!(polite.score("", "thanks a lot mate").unwrap(), 0.25);
        let e = WordList::from_file("x", &dir.path().join("no.txt"), false).unwrap_err();
        assert!(e.to_string().contains("no.txt"), "{e}");
        std::fs::write(&path, "# nothing\n").unwrap();
        let e = WordList::from_file("x", &path, false).unwrap_err();
        assert!(e.to_string().contains("words.txt"), "{e}");
    }

    #[test]
    fn a_pattern_is_counted() {
        let questions = Pattern::new("questions", r"\?", false).unwrap();
        assert_eq!(questions.score("why?", "Who? Where?!").unwrap(), 2.0);
        let numbers = Pattern::new("numbers", r"(?i)\bno\.? \d+", true).unwrap();
        assert_eq!(numbers.score("", "No. 12 and no 3").unwrap(), -2.0);
        assert_eq!(numbers.score("", "").unwrap().to_bits(), 0.0_f32.to_bits());
        for (pattern, expected) in [("(", "unclosed"), ("a*", "empty text")] {
            let e = Pattern::new("p", pattern, false).unwrap_err().to_string();
            assert!(e.contains("pattern") && e.contains(expected), "{e}");
        }
    }

    #[test]
    fn demo_has_three_objectives() {
        assert!(DemoReward::new("third", 2).unwrap().score("p", "r").unwrap().is_finite());
        assert!(DemoReward::new("fourth", 3).is_err());
    }
}
