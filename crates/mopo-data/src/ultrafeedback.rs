//! UltraFeedback: four completions for each instruction, rated from 1 to 5 on four aspects by a
//! model. Every two completions make a pair.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::row::{kind, on_scale, there, typed};
use crate::scored::{Judgements, PairOptions};
use crate::source::{EMPTY_PROMPT, ReadOptions, SourceRead, not_blank, read_files};
use crate::{ChatTemplate, Result, Sink};

/// The objectives: the aspects, named as in the file.
pub const ULTRAFEEDBACK_OBJECTIVES: [&str; 4] =
    ["helpfulness", "honesty", "instruction_following", "truthfulness"];
const EMPTY_COMPLETION: &str = "the completion is empty";
const FETCH: &str = "download the data as described in datasets/ultrafeedback/README.md";

const COLUMNS: [&str; 2] = ["instruction", "completions"];

#[derive(Deserialize)]
struct Row {
    instruction: String,
    completions: Vec<Completion>,
}

#[derive(Deserialize)]
struct Completion {
    response: String,
    annotations: Annotations,
}

/// The aspects, in the order of the objectives.
#[derive(Deserialize)]
struct Annotations {
    #[serde(default, deserialize_with = "there")]
    helpfulness: Option<Option<Annotation>>,
    #[serde(default, deserialize_with = "there")]
    honesty: Option<Option<Annotation>>,
    #[serde(default, deserialize_with = "there")]
    instruction_following: Option<Option<Annotation>>,
    #[serde(default, deserialize_with = "there")]
    truthfulness: Option<Option<Annotation>>,
}

/// Only the rating of an aspect.
#[derive(Deserialize)]
struct Annotation {
    #[serde(rename = "Rating", default, deserialize_with = "there")]
    rating: Option<Value>,
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
    sink: &mut Sink<'_>,
) -> Result<SourceRead> {
    let mut judgements = Judgements::new(&options.scratch())?;
    let mut read = read_files(path, FETCH, options, &COLUMNS, &mut |place, row| {
        let row: Row = typed(row)?;
        not_blank(&row.instruction, EMPTY_PROMPT)?;
        let prompt = template.question(&row.instruction)?;
        let mut responses = Vec::new();
        for (i, completion) in row.completions.iter().enumerate() {
            let mut scores = Vec::new();
            let Annotations { helpfulness, honesty, instruction_following, truthfulness } =
                &completion.annotations;
            let aspects = [helpfulness, honesty, instruction_following, truthfulness];
            for (aspect, annotation) in ULTRAFEEDBACK_OBJECTIVES.into_iter().zip(aspects) {
                let column = format!("completions[{i}].annotations.{aspect}.Rating");
                let score = rating(annotation.as_ref(), &column)?;
                scores.push(on_scale(&column, score, 1.0, 5.0)?);
            }
            let response = template.response(&completion.response);
            responses.push(((!completion.response.trim().is_empty()).then_some(response), scores));
        }
        judgements.push_row(place, &prompt, responses, "fewer than two different completions")
    })?;
    read.report.leave_responses_out(EMPTY_COMPLETION, judgements.n_empty());
    judgements.pairs(read, ULTRAFEEDBACK_OBJECTIVES.len(), pairs, options.seed, path, sink)
}

/// A rating is text in the file: `"4"`, or `"N/A"`.
fn rating(
    annotation: Option<&Option<Annotation>>,
    column: &str,
) -> std::result::Result<Option<f64>, String> {
    let missing = || Err(format!("there is no `{column}`"));
    let Some(annotation) = annotation else { return missing() };
    let Some(annotation) = annotation else { return Ok(None) };
    match &annotation.rating {
        None => missing(),
        Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64()),
        Some(Value::String(text)) if text.trim() == "N/A" => Ok(None),
        Some(Value::String(text)) => match text.trim().parse() {
            Ok(score) => Ok(Some(score)),
            Err(_) => Err(format!("`{column}` is `{text}`, neither a number nor `N/A`")),
        },
        Some(other) => Err(format!("`{column}` is {}, not a number", kind(other))),
    }
}
