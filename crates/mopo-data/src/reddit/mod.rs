//! Reddit TL;DR: posts, and summaries that people compared ([`read_tldr`]) or scored
//! ([`read_tldr_axes`]); and prompts without pairs ([`read_tldr_prompts`]).
//!
//! Supports OpenAI's files (`summarize_from_feedback`), the form into which others have converted
//! its
//! comparisons, and dove's posts with a reference summary.

mod axes;
mod comparisons;
mod prompts;

use serde::{Deserialize, Serialize};

pub use axes::{TLDR_AXES, read_tldr_axes};
pub use comparisons::{TLDR_OBJECTIVES, read_tldr};
pub use prompts::read_tldr_prompts;

use crate::ReadOptions;
use crate::source::{EMPTY_PROMPT, Rejected, not_blank};

const FETCH: &str = "download the data as described in datasets/tldr/README.md";
const BEFORE: &str = "### Instruction: Generate a one-sentence summary of this post. ### Input: ";
const AFTER: &str = " ### Response:";

/// The prompt that asks for a summary of a post, which it contains verbatim. A summary follows it
/// after a space.
pub fn tldr_prompt(post: &str) -> String {
    format!("{BEFORE}{post}{AFTER}")
}

/// A number of characters strictly between two others.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct CharacterRange {
    /// The lower limit, excluded.
    pub above: usize,
    /// The upper limit, excluded.
    pub below: usize,
}

impl CharacterRange {
    /// Whether the text's number of characters (Unicode scalar values) is between the limits.
    pub fn contains(&self, text: &str) -> bool {
        let n_characters = text.chars().count();
        self.above < n_characters && n_characters < self.below
    }
}

/// How TL;DR data is read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TldrOptions {
    /// Files, strictness, seed.
    pub read: ReadOptions,
    /// Only rows of this `split` (`train`, `valid1`, `valid2`, …); rows without one are kept.
    pub split: Option<String>,
    /// Only posts of such a length; the usual protocol has 100 < characters < 1,200.
    pub post_characters: Option<CharacterRange>,
}

impl TldrOptions {
    /// The prompt, unless the row is skipped.
    fn prompt(&self, post: &str, split: Option<&str>) -> std::result::Result<String, Rejected> {
        if let (Some(wanted), Some(found)) = (&self.split, split)
            && wanted != found
        {
            return Err(Rejected::LeftOut("it belongs to another split"));
        }
        not_blank(post, EMPTY_PROMPT)?;
        if self.post_characters.is_some_and(|range| !range.contains(post)) {
            return Err(Rejected::LeftOut("the post is shorter or longer than `post_characters`"));
        }
        Ok(tldr_prompt(post))
    }
}

/// What was summarised.
#[derive(Deserialize)]
struct Info {
    post: Option<String>,
    article: Option<String>,
}

impl Info {
    /// The post; OpenAI's files also have news articles.
    fn post(&self) -> std::result::Result<&str, Rejected> {
        match (&self.post, &self.article) {
            (Some(post), _) => Ok(post),
            (None, Some(_)) => Err(Rejected::LeftOut("a news article, not a post")),
            (None, None) => Err(Rejected::Malformed("`info` has no `post`".into())),
        }
    }
}

#[cfg(test)]
mod tests;
