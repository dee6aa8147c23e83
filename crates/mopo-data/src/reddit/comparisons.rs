//! Comparisons of two summaries of a post, in OpenAI's form or the converted one.

use std::path::Path;

use serde::Deserialize;

use super::{FETCH, Info, TldrOptions};
use crate::container::Row as RawRow;
use crate::row::typed;
use crate::source::{
    EMPTY_RESPONSE, EQUAL_RESPONSES, OneObjective, Pairs, Rejected, SourceRead, not_blank,
    read_files,
};
use crate::template::spaced;
use crate::{Result, Sink};

/// The objective of a file without a configured one: which summary people preferred.
pub const TLDR_OBJECTIVES: [&str; 1] = ["preference"];
/// What the converted form appends to the post.
const CONVERTED_END: &str = " [summary]: ";

const COLUMNS: [&str; 7] =
    ["info", "summaries", "choice", "split", "input_text", "candidate_0", "candidate_1"];

#[derive(Deserialize)]
struct Comparison {
    info: Info,
    summaries: [Summary; 2],
    choice: i64,
    split: Option<String>,
}

#[derive(Deserialize)]
struct Summary {
    text: String,
}

#[derive(Deserialize)]
struct Converted {
    input_text: String,
    candidate_0: String,
    candidate_1: String,
    choice: i64,
}

/// A row of either form.
struct Row {
    post: String,
    split: Option<String>,
    first: String,
    second: String,
    choice: i64,
}

/// Reads comparisons, a file or the files of a folder, which label objective `objective_idx` of
/// `n_objectives`. The columns tell which form a file has. The order of the summaries is the
/// publisher's, which says nothing about the label. A post may have several comparisons, and a pair
/// several workers: each row is a pair.
///
/// # Errors
/// Those of [`read_hh`](crate::read_hh).
pub fn read_tldr(
    path: &Path,
    objective_idx: usize,
    n_objectives: usize,
    options: &TldrOptions,
    sink: &mut Sink<'_>,
) -> Result<SourceRead> {
    let objective = OneObjective::new(objective_idx, n_objectives)?;
    let mut pairs = Pairs::new(sink);
    let read = read_files(path, FETCH, &options.read, &COLUMNS, &mut |place, row| {
        let row = comparison(row)?;
        let prompt = options.prompt(&row.post, row.split.as_deref())?;
        not_blank(&row.first, EMPTY_RESPONSE)?;
        not_blank(&row.second, EMPTY_RESPONSE)?;
        let (first, second) = (spaced(&row.first), spaced(&row.second));
        if first == second {
            return Err(Rejected::LeftOut(EQUAL_RESPONSES));
        }
        let indicators = objective.indicators(if row.choice == 0 { 1.0 } else { 0.0 });
        pairs.push(place, [prompt, first, second], indicators, None)
    })?;
    pairs.finish(read, path)
}

fn comparison(value: &RawRow<'_>) -> std::result::Result<Row, Rejected> {
    let names = value.names()?;
    let has = |column: &str| names.iter().any(|name| name == column);
    let row = if has("input_text") || has("candidate_0") {
        let row: Converted = typed(value)?;
        Row {
            post: without_end(&row.input_text).into(),
            split: None,
            first: row.candidate_0,
            second: row.candidate_1,
            choice: row.choice,
        }
    } else if has("summary") && !has("summaries") {
        return Err(
            "it has only one summary and no comparison; read scores by axis with the source \
             `tldr_axes`"
                .to_string()
                .into(),
        );
    } else if has("gold_response") {
        return Err(
            "it has a reference summary but no comparison; read such posts as prompts with \
                    `mopo prepare tldr --prompts`"
                .to_string()
                .into(),
        );
    } else {
        let row: Comparison = typed(value)?;
        let [first, second] = row.summaries.map(|summary| summary.text);
        let post = row.info.post()?.into();
        Row { post, split: row.split, first, second, choice: row.choice }
    };
    match row.choice {
        0 | 1 => Ok(row),
        other => Err(format!("`choice` is {other}; it must be 0 or 1").into()),
    }
}

/// The post of a converted row.
pub(super) fn without_end(input: &str) -> &str {
    input.strip_suffix(CONVERTED_END).unwrap_or(input)
}
