//! TRL's preference types: `chosen` and `rejected` with the prompt in a separate column or as their
//! common prefix, as plain text or as messages.

use std::fmt;
use std::path::Path;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::container::Row as RawRow;
use crate::row::{listed, there, typed};
use crate::source::{
    EMPTY_PROMPT, EMPTY_RESPONSE, EQUAL_RESPONSES, OneObjective, Pairs, ReadOptions, Rejected,
    SourceRead, not_blank, read_files, swapped,
};
use crate::{ChatTemplate, Message, Result, Scores, Sink};

/// The objective of a file without a configured one.
pub const TRL_OBJECTIVES: [&str; 1] = ["preference"];
const FETCH: &str = "see the columns in datasets/trl/README.md";

const COLUMNS: [&str; 5] = ["prompt", "chosen", "rejected", "score_chosen", "score_rejected"];

#[derive(Deserialize)]
struct Row {
    prompt: Option<Said>,
    #[serde(default, deserialize_with = "there")]
    chosen: Option<Said>,
    #[serde(default, deserialize_with = "there")]
    rejected: Option<Said>,
    score_chosen: Option<f64>,
    score_rejected: Option<f64>,
}

/// Content of a column of texts or messages.
enum Said {
    Text(String),
    Messages(Vec<Message>),
    /// Something else, in words.
    Other(&'static str),
}

impl Said {
    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Messages(_) => "a list",
            Self::Other(kind) => kind,
        }
    }
}

impl<'de> Deserialize<'de> for Said {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(SaidVisitor)
    }
}

struct SaidVisitor;

impl<'de> Visitor<'de> for SaidVisitor {
    type Value = Said;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text or messages")
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Said, E> {
        Ok(Said::Text(text.into()))
    }

    fn visit_string<E>(self, text: String) -> std::result::Result<Said, E> {
        Ok(Said::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Said, A::Error> {
        let mut messages = Vec::new();
        while let Some(message) = list.next_element()? {
            messages.push(message);
        }
        Ok(Said::Messages(messages))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Said, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Said::Other("an object"))
    }

    fn visit_unit<E>(self) -> std::result::Result<Said, E> {
        Ok(Said::Other("null"))
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Said, E> {
        Ok(Said::Other("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<Said, E> {
        Ok(Said::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<Said, E> {
        Ok(Said::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Said, E> {
        Ok(Said::Other("a number"))
    }
}

/// A row as prompt, preferred and other response.
struct Oriented {
    prompt: String,
    /// The prompt's messages, if the row has messages.
    messages: Option<Vec<Message>>,
    chosen: String,
    rejected: String,
}

/// Reads a file or the files of a folder, which label objective `objective_idx` of `n_objectives`.
///
/// - Plain text is taken verbatim. An implicit prompt is the longest common prefix of `chosen` and
///   `rejected` that ends before white space, so that no word is split.
/// - Messages become text by `template`, and are kept beside it. An implicit prompt is the messages that both share. The
///   response must be one message of the assistant; other rows are counted and skipped.
/// - If both `score_chosen` and `score_rejected` exist, they are kept; equal scores make the pair
///   a tie, and a pair whose scores contradict its order is skipped.
///
/// # Errors
/// Those of [`read_hh`](crate::read_hh).
pub fn read_trl(
    path: &Path,
    objective_idx: usize,
    n_objectives: usize,
    options: &ReadOptions,
    template: ChatTemplate,
    sink: &mut Sink<'_>,
) -> Result<SourceRead> {
    let objective = OneObjective::new(objective_idx, n_objectives)?;
    let mut pairs = Pairs::new(sink);
    let read = read_files(path, FETCH, options, &COLUMNS, &mut |place, row| {
        let columns: Row = typed(row)?;
        let scores = (columns.score_chosen, columns.score_rejected);
        let Oriented { prompt, messages, chosen, rejected } = oriented(row, columns, template)?;
        if chosen == rejected {
            return Err(Rejected::LeftOut(EQUAL_RESPONSES));
        }
        not_blank(&prompt, EMPTY_PROMPT)?;
        not_blank(&chosen, EMPTY_RESPONSE)?;
        not_blank(&rejected, EMPTY_RESPONSE)?;
        let scores = match scores {
            (Some(a), Some(b)) => Some((score("score_chosen", a)?, score("score_rejected", b)?)),
            _ => None,
        };
        let preferred = match scores {
            Some((chosen, rejected)) if chosen < rejected => {
                return Err(Rejected::LeftOut("the scores contradict chosen and rejected"));
            }
            Some((chosen, rejected)) if chosen == rejected => 0.5,
            _ => 1.0,
        };
        let swap = swapped(options.seed, &prompt, &chosen, &rejected);
        let turn = |(a, b)| if swap { (b, a) } else { (a, b) };
        let (first, second) = if swap { (rejected, chosen) } else { (chosen, rejected) };
        // A record has the scores of all objectives or none.
        let scores = scores.filter(|_| n_objectives == 1).map(turn);
        let scores = scores.map(|(a, b)| Scores { first: vec![a], second: vec![b] });
        let indicators = objective.indicators(if swap { 1.0 - preferred } else { preferred });
        pairs.push_conversation(place, [prompt, first, second], messages, indicators, scores)
    })?;
    pairs.finish(read, path)
}

fn oriented(
    row: &RawRow<'_>,
    columns: Row,
    template: ChatTemplate,
) -> std::result::Result<Oriented, Rejected> {
    let missing = |name: &str| -> std::result::Result<Said, String> {
        Err(format!("there is no column `{name}`; {}", listed(&row.names()?)))
    };
    let chosen = columns.chosen.map_or_else(|| missing("chosen"), Ok)?;
    let rejected = columns.rejected.map_or_else(|| missing("rejected"), Ok)?;
    match (columns.prompt, chosen, rejected) {
        (None, Said::Text(mut chosen), Said::Text(mut rejected)) => {
            let at = common_prompt(&chosen, &rejected);
            let prompt = chosen[..at].into();
            chosen.drain(..at);
            rejected.drain(..at);
            Ok(Oriented { prompt, messages: None, chosen, rejected })
        }
        (Some(Said::Text(prompt)), Said::Text(chosen), Said::Text(rejected)) => {
            Ok(Oriented { prompt, messages: None, chosen, rejected })
        }
        (prompt, Said::Messages(chosen), Said::Messages(rejected)) => {
            // Some publishers have the question as text and whole dialogues.
            let prompt = match prompt {
                Some(Said::Text(text)) if chosen.first().is_some_and(|m| m.role != "user") => {
                    vec![Message { role: "user".into(), content: text }]
                }
                None | Some(Said::Text(_)) => vec![],
                Some(Said::Messages(messages)) => messages,
                Some(Said::Other(kind)) => {
                    return Err(format!("`prompt` is {kind}, not text or messages").into());
                }
            };
            from_messages(prompt, &chosen, &rejected, template)
        }
        (prompt, chosen, rejected) => Err(format!(
            "`prompt` is {}, `chosen` {}, `rejected` {}; expected text in all, or lists of messages",
            prompt.as_ref().map_or("not there", Said::kind),
            chosen.kind(),
            rejected.kind()
        )
        .into()),
    }
}

fn from_messages(
    mut prompt: Vec<Message>,
    chosen: &[Message],
    rejected: &[Message],
    template: ChatTemplate,
) -> std::result::Result<Oriented, Rejected> {
    let n_common = if prompt.is_empty() {
        chosen.iter().zip(rejected).take_while(|(a, b)| a == b).count()
    } else {
        0
    };
    if n_common == chosen.len() && n_common == rejected.len() {
        return Err(Rejected::LeftOut(EQUAL_RESPONSES));
    }
    prompt.extend(chosen[..n_common].iter().cloned());
    let ([chosen], [rejected]) = (&chosen[n_common..], &rejected[n_common..]) else {
        return Err(Rejected::LeftOut("a response is not one message"));
    };
    if chosen.role != "assistant" || rejected.role != "assistant" {
        return Err(Rejected::LeftOut("a response is not the assistant's"));
    }
    not_blank(&chosen.content, EMPTY_RESPONSE)?;
    not_blank(&rejected.content, EMPTY_RESPONSE)?;
    Ok(Oriented {
        prompt: template.prompt(&prompt)?,
        messages: Some(prompt),
        chosen: template.response(&chosen.content),
        rejected: template.response(&rejected.content),
    })
}

/// Where the longest common prefix ends that is followed by white space in both texts.
fn common_prompt(chosen: &str, rejected: &str) -> usize {
    let mut at = 0;
    for ((i, a), b) in chosen.char_indices().zip(rejected.chars()) {
        if a != b {
            break;
        }
        if a.is_whitespace() {
            at = i;
        }
    }
    at
}

fn score(column: &str, score: f64) -> std::result::Result<f32, String> {
    let narrow = score as f32;
    if narrow.is_finite() { Ok(narrow) } else { Err(format!("`{column}` is {score}, too large")) }
}
