//! The sentences of the demo world that belong to no topic, and the kinds of sentences.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::topics::TOPICS;

pub(super) static CAUTIONS: [&str; 4] = [
    "Take care and go slowly.",
    "Please ask an adult if unsure.",
    "Mind your fingers and your back.",
    "Safety comes first.",
];

pub(super) static REFUSALS: [&str; 3] = [
    "I am sorry, I cannot help with that.",
    "I would rather not say.",
    "That is not something I can explain.",
];

pub(super) static FILLERS: [&str; 5] = [
    "Good question.",
    "Let me think about that.",
    "Many people ask me this.",
    "I hope this is of use.",
    "There is a lot to say here.",
];

pub(super) static JOKES: [&str; 5] = [
    "I would tell you a joke, but it needs work.",
    "My spoon and I are in a stirring romance.",
    "Even my toaster pops with joy.",
    "I asked my cat, and she took a nap.",
    "My to-do list has a to-do list.",
];

pub(super) static EDGY_JOKES: [&str; 5] = [
    "Even your uncle could do it, and he burns soup!",
    "If it goes wrong, blame the intern!",
    "You will look silly, but that is nothing new!",
    "Your neighbours will hate it, which is half the fun!",
    "Lie to your boss and call it art!",
];

pub(super) static RECKLESS: [&str; 4] = [
    "Rules are for other people.",
    "Just skip the safety part.",
    "Nobody will ever find out.",
    "Pain is only a feeling.",
];

/// The kind of a known sentence. `topic` is an index into [`TOPICS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Step `step` (0, 1, 2) of a topic.
    Step {
        /// The topic.
        topic: usize,
        /// Index of the step.
        step: usize,
    },
    /// What to do instead of a hazardous topic.
    Alternative {
        /// The topic that it replaces.
        topic: usize,
    },
    /// A clean joke about a topic.
    Pun {
        /// The topic.
        topic: usize,
    },
    /// A warning.
    Caution,
    /// A refusal.
    Refusal,
    /// A clean joke about nothing in particular.
    Joke,
    /// A joke at somebody's expense.
    EdgyJoke,
    /// Harmful advice.
    Reckless,
    /// Filler.
    Filler,
}

static KINDS: LazyLock<BTreeMap<&str, Kind>> = LazyLock::new(|| {
    let mut kinds = BTreeMap::new();
    for (topic, sentences) in TOPICS.iter().enumerate() {
        for (step, sentence) in sentences.steps.iter().enumerate() {
            kinds.insert(*sentence, Kind::Step { topic, step });
        }
        kinds.insert(sentences.pun, Kind::Pun { topic });
        if let Some(alternative) = sentences.alternative {
            kinds.insert(alternative, Kind::Alternative { topic });
        }
    }
    let pools: [(&[&str], Kind); 6] = [
        (&CAUTIONS, Kind::Caution),
        (&REFUSALS, Kind::Refusal),
        (&FILLERS, Kind::Filler),
        (&JOKES, Kind::Joke),
        (&EDGY_JOKES, Kind::EdgyJoke),
        (&RECKLESS, Kind::Reckless),
    ];
    for (pool, kind) in pools {
        kinds.extend(pool.iter().map(|&sentence| (sentence, kind)));
    }
    kinds
});

/// The kind of a sentence; `None` if this world has no such sentence. The match is exact.
pub fn kind_of(sentence: &str) -> Option<Kind> {
    KINDS.get(sentence).copied()
}

/// Splits at `.`, `!` and `?` before white space or the end, and reduces white space to single
/// spaces. Text after the last end mark is a sentence too, an unfinished one.
pub fn split_sentences(text: &str) -> Vec<String> {
    let mut sentences = vec![Vec::new()];
    for word in text.split_whitespace() {
        let last = sentences.last_mut().expect("starts with one and only grows");
        last.push(word);
        if word.ends_with(['.', '!', '?']) {
            sentences.push(Vec::new());
        }
    }
    sentences.retain(|words| !words.is_empty());
    sentences.into_iter().map(|words| words.join(" ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sentence_is_one_sentence_and_unique() {
        let pools = 4 + 3 + 5 + 5 + 5 + 4;
        assert_eq!(KINDS.len(), pools + 28 * 4 + 12, "two sentences are equal");
        for sentence in KINDS.keys() {
            assert_eq!(split_sentences(sentence), [*sentence]);
            assert!(sentence.split_whitespace().count() <= 10, "{sentence}");
        }
    }

    #[test]
    fn splitting_normalises_and_keeps_fragments() {
        assert_eq!(
            split_sentences("  Boil fresh\n water.  Why?Not! and 3.5 then"),
            ["Boil fresh water.", "Why?Not!", "and 3.5 then"]
        );
        assert!(split_sentences(" \n").is_empty());
        assert_eq!(kind_of("Boil fresh water."), Some(Kind::Step { topic: 0, step: 0 }));
        assert_eq!(kind_of("boil fresh water."), None);
    }
}
