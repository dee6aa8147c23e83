//! TRL's preference types: `chosen` and `rejected` with the prompt in a column of its own or as
//! their common beginning, as plain text or as messages.

use std::path::Path;

use serde_json::Value;

use crate::container::kind;
use crate::row::{columns, typed};
use crate::source::{
    EMPTY_PROMPT, EMPTY_RESPONSE, EQUAL_RESPONSES, OneObjective, ReadOptions, Rejected, SourceRead,
    not_blank, read_files, swapped,
};
use crate::{ChatTemplate, Message, PreferenceRecord, Result, Scores};

/// The objective of a file for which no other is named.
pub const TRL_OBJECTIVES: [&str; 1] = ["preference"];
const FETCH: &str = "datasets/trl/README.md says what the columns are";

/// A row as prompt, preferred and other response.
struct Oriented {
    prompt: String,
    chosen: String,
    rejected: String,
}

/// Reads a file or the files of a folder, which label objective `objective_idx` of `n_objectives`.
///
/// - Plain text is taken verbatim. An implicit prompt is the longest common beginning of `chosen` and
///   `rejected` that ends before white space, so that no word is split.
/// - Messages become text by `template`. An implicit prompt is the messages that both share. The
///   response must be one message of the assistant; others are counted and left out.
/// - Where both `score_chosen` and `score_rejected` are there, they are kept; equal ones make the pair
///   a tie, and a pair whose scores contradict its order is left out.
///
/// # Errors
/// Those of [`read_hh`](crate::read_hh).
pub fn read_trl(
    path: &Path,
    objective_idx: usize,
    n_objectives: usize,
    options: &ReadOptions,
    template: ChatTemplate,
) -> Result<SourceRead> {
    let objective = OneObjective::new(objective_idx, n_objectives)?;
    let mut records = Vec::new();
    let read = read_files(path, FETCH, options, &mut |place, row| {
        let Oriented { prompt, chosen, rejected } = oriented(row, template)?;
        if chosen == rejected {
            return Err(Rejected::LeftOut(EQUAL_RESPONSES));
        }
        not_blank(&prompt, EMPTY_PROMPT)?;
        not_blank(&chosen, EMPTY_RESPONSE)?;
        not_blank(&rejected, EMPTY_RESPONSE)?;
        let scores = match (score(row, "score_chosen")?, score(row, "score_rejected")?) {
            (Some(chosen), Some(rejected)) => Some((chosen, rejected)),
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
        records.push(PreferenceRecord {
            id: place.id(),
            source: place.source.into(),
            prompt,
            first,
            second,
            indicators: objective.indicators(if swap { 1.0 - preferred } else { preferred }),
            scores: scores.map(|(a, b)| Scores { first: vec![a], second: vec![b] }),
        });
        Ok(())
    })?;
    read.with_records(records, path)
}

fn oriented(row: &Value, template: ChatTemplate) -> std::result::Result<Oriented, Rejected> {
    let column = |name: &str| {
        row.get(name).ok_or_else(|| format!("there is no column `{name}`; {}", columns(row)))
    };
    let prompt = row.get("prompt").filter(|prompt| !prompt.is_null());
    match (prompt, column("chosen")?, column("rejected")?) {
        (None, Value::String(chosen), Value::String(rejected)) => {
            let at = common_prompt(chosen, rejected);
            Ok(Oriented {
                prompt: chosen[..at].into(),
                chosen: chosen[at..].into(),
                rejected: rejected[at..].into(),
            })
        }
        (Some(Value::String(prompt)), Value::String(chosen), Value::String(rejected)) => {
            Ok(Oriented { prompt: prompt.clone(), chosen: chosen.clone(), rejected: rejected.clone() })
        }
        (prompt, chosen @ Value::Array(_), rejected @ Value::Array(_)) => {
            let (chosen, rejected) = (messages("chosen", chosen)?, messages("rejected", rejected)?);
            // Some publishers give the question as text beside whole dialogues.
            let prompt = match prompt {
                Some(Value::String(text)) if chosen.first().is_some_and(|m| m.role != "user") => {
                    vec![Message { role: "user".into(), content: text.clone() }]
                }
                None | Some(Value::String(_)) => vec![],
                Some(list @ Value::Array(_)) => messages("prompt", list)?,
                Some(other) => {
                    return Err(format!("`prompt` is {}, not text or messages", kind(other)).into());
                }
            };
            from_messages(prompt, &chosen, &rejected, template)
        }
        (prompt, chosen, rejected) => Err(format!(
            "`prompt` is {}, `chosen` {}, `rejected` {}; expected text in all, or lists of messages",
            prompt.map_or("not there", kind),
            kind(chosen),
            kind(rejected)
        )
        .into()),
    }
}

fn messages(column: &str, list: &Value) -> std::result::Result<Vec<Message>, String> {
    typed(list).map_err(|why| format!("`{column}`: {why}"))
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
        chosen: template.response(&chosen.content),
        rejected: template.response(&rejected.content),
    })
}

/// Where the longest common beginning ends that is followed by white space in both texts.
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

fn score(row: &Value, column: &str) -> std::result::Result<Option<f32>, String> {
    match row.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64().map(|score| score as f32) {
            Some(score) if score.is_finite() => Ok(Some(score)),
            _ => Err(format!("`{column}` is {}, not a number", kind(value))),
        },
    }
}
