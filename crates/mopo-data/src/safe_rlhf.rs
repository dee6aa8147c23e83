//! PKU-SafeRLHF: pairs with two labels, which response is better (here `helpful`) and which is safer
//! (`harmless`); and BeaverTails, single responses that are safe or not.

use std::path::Path;

use serde::Deserialize;

use crate::row::{nullable, typed};
use crate::scored::{Judgements, PairOptions, Scored};
use crate::source::{
    EMPTY_PROMPT, EMPTY_RESPONSE, EQUAL_RESPONSES, Pairs, ReadOptions, Rejected, SourceRead,
    not_blank, read_files,
};
use crate::{ChatTemplate, Indicator, Result, Sink};

/// The objectives of [`read_safe_rlhf`].
pub const SAFE_RLHF_OBJECTIVES: [&str; 2] = ["helpful", "harmless"];
/// The objective of [`read_beavertails`].
pub const BEAVERTAILS_OBJECTIVES: [&str; 1] = ["harmless"];
const FETCH: &str = "download the data as described in datasets/safe-rlhf/README.md";

const COLUMNS: [&str; 7] = [
    "prompt",
    "response_0",
    "response_1",
    "better_response_id",
    "safer_response_id",
    "is_response_0_safe",
    "is_response_1_safe",
];
const BEAVERTAILS_COLUMNS: [&str; 3] = ["prompt", "response", "is_safe"];

#[derive(Deserialize)]
struct Row {
    prompt: String,
    response_0: String,
    response_1: String,
    #[serde(deserialize_with = "nullable")]
    better_response_id: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    safer_response_id: Option<i64>,
    is_response_0_safe: Option<bool>,
    is_response_1_safe: Option<bool>,
}

/// Reads a file or the files of a folder; the objectives are [`SAFE_RLHF_OBJECTIVES`]. The order of
/// the responses is the publisher's, which says nothing about the labels. A row whose safer
/// response
/// is marked unsafe while the other is marked safe contradicts itself and is skipped.
///
/// # Errors
/// Those of [`read_hh`](crate::read_hh).
pub fn read_safe_rlhf(
    path: &Path,
    options: &ReadOptions,
    template: ChatTemplate,
    sink: &mut Sink<'_>,
) -> Result<SourceRead> {
    let mut pairs = Pairs::new(sink);
    let read = read_files(path, FETCH, options, &COLUMNS, &mut |place, row| {
        let row: Row = typed(row)?;
        let helpful = indicator("better_response_id", row.better_response_id)?;
        let harmless = indicator("safer_response_id", row.safer_response_id)?;
        not_blank(&row.prompt, EMPTY_PROMPT)?;
        not_blank(&row.response_0, EMPTY_RESPONSE)?;
        not_blank(&row.response_1, EMPTY_RESPONSE)?;
        let first = template.response(&row.response_0);
        let second = template.response(&row.response_1);
        if first == second {
            return Err(Rejected::LeftOut(EQUAL_RESPONSES));
        }
        if helpful.is_none() && harmless.is_none() {
            return Err(Rejected::LeftOut("both labels are missing"));
        }
        let contradicts = match (row.is_response_0_safe, row.is_response_1_safe) {
            (Some(true), Some(false)) => harmless == Some(0.0),
            (Some(false), Some(true)) => harmless == Some(1.0),
            _ => false,
        };
        if contradicts {
            return Err(Rejected::LeftOut("the safer response is the unsafe one"));
        }
        let indicators = vec![helpful, harmless];
        pairs.push(place, [template.question(&row.prompt)?, first, second], indicators, None)
    })?;
    pairs.finish(read, path)
}

/// The number of the preferred response as an indicator.
fn indicator(column: &str, id: Option<i64>) -> std::result::Result<Indicator, String> {
    match id {
        None => Ok(None),
        Some(0) => Ok(Some(1.0)),
        Some(1) => Ok(Some(0.0)),
        Some(other) => Err(format!("`{column}` is {other}; it must be 0, 1 or null")),
    }
}

#[derive(Deserialize)]
struct Judged {
    prompt: String,
    response: String,
    is_safe: bool,
}

/// Reads BeaverTails, a file or the files of a folder; the objective is [`BEAVERTAILS_OBJECTIVES`].
/// The score of a response is the share of its judgements that call it safe.
///
/// # Errors
/// Those of [`read_hh`](crate::read_hh).
pub fn read_beavertails(
    path: &Path,
    options: &ReadOptions,
    template: ChatTemplate,
    pairs: &PairOptions,
    sink: &mut Sink<'_>,
) -> Result<SourceRead> {
    let mut judgements = Judgements::new(&options.scratch())?;
    let read = read_files(path, FETCH, options, &BEAVERTAILS_COLUMNS, &mut |place, row| {
        let row: Judged = typed(row)?;
        not_blank(&row.prompt, EMPTY_PROMPT)?;
        not_blank(&row.response, EMPTY_RESPONSE)?;
        judgements.push(&Scored {
            prompt: template.question(&row.prompt)?,
            response: template.response(&row.response),
            scores: vec![Some(f64::from(u8::from(row.is_safe)))],
            source: place.source.into(),
            key: place.line.to_string(),
        })
    })?;
    judgements.pairs(read, BEAVERTAILS_OBJECTIVES.len(), pairs, options.seed, path, sink)
}
