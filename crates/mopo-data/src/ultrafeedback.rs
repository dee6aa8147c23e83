//! UltraFeedback: four completions of each instruction, rated from 1 to 5 on four aspects by a
//! model. Every two completions are a pair.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::container::kind;
use crate::row::{columns, on_scale, typed};
use crate::scored::{Judged, PairOptions, with_pairs};
use crate::source::{EMPTY_PROMPT, ReadOptions, SourceRead, not_blank, read_files};
use crate::{ChatTemplate, Result};

/// The objectives: the aspects, as the file calls them.
pub const ULTRAFEEDBACK_OBJECTIVES: [&str; 4] =
    ["helpfulness", "honesty", "instruction_following", "truthfulness"];
const EMPTY_COMPLETION: &str = "the completion is empty";
const FETCH: &str = "fetch the data as datasets/ultrafeedback/README.md says";

#[derive(Deserialize)]
struct Row {
    instruction: String,
    completions: Vec<Completion>,
}

#[derive(Deserialize)]
struct Completion {
    response: String,
    annotations: Value,
}

/// Reads a file or the files of a folder; the objectives are [`ULTRAFEEDBACK_OBJECTIVES`]. A rating
/// `N/A` is missing. Empty completions give no pair.
///
/// # Errors
/// Those of [`read_hh`](crate::read_hh).
pub fn read_ultrafeedback(
    path: &Path,
    options: &ReadOptions,
    template: ChatTemplate,
    pairs: &PairOptions,
) -> Result<SourceRead> {
    let mut judged = Judged::default();
    let mut read = read_files(path, FETCH, options, &mut |place, row| {
        let row: Row = typed(row)?;
        not_blank(&row.instruction, EMPTY_PROMPT)?;
        let prompt = template.question(&row.instruction)?;
        let mut responses = Vec::new();
        for (i, completion) in row.completions.iter().enumerate() {
            let mut scores = Vec::new();
            for aspect in ULTRAFEEDBACK_OBJECTIVES {
                let column = format!("completions[{i}].annotations.{aspect}.Rating");
                let score = rating(&completion.annotations, aspect, &column)?;
                scores.push(on_scale(&column, score, 1.0, 5.0)?);
            }
            let response = template.response(&completion.response);
            responses.push(((!completion.response.trim().is_empty()).then_some(response), scores));
        }
        judged.add_row(place, &prompt, responses, "fewer than two different completions")
    })?;
    read.report.leave_responses_out(EMPTY_COMPLETION, judged.n_empty);
    with_pairs(read, judged.scored, ULTRAFEEDBACK_OBJECTIVES.len(), pairs, options.seed, path)
}

/// A rating is text in the file: `"4"`, or `"N/A"`.
fn rating(
    annotations: &Value,
    aspect: &str,
    column: &str,
) -> std::result::Result<Option<f64>, String> {
    let Some(annotation) = annotations.get(aspect) else {
        return Err(format!("there is no `{column}`; {}", columns(annotations)));
    };
    match annotation.get("Rating") {
        Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64()),
        Some(Value::String(text)) if text.trim() == "N/A" => Ok(None),
        Some(Value::String(text)) => match text.trim().parse() {
            Ok(score) => Ok(Some(score)),
            Err(_) => Err(format!("`{column}` is `{text}`, neither a number nor `N/A`")),
        },
        Some(other) => Err(format!("`{column}` is {}, not a number", kind(other))),
        None if annotation.is_null() => Ok(None),
        None => Err(format!("there is no `{column}`; {}", columns(annotation))),
    }
}
