//! UltraFeedback: four completions of each instruction, rated from 1 to 5 on four aspects by a
//! model. Every two completions are a pair.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::container::kind;
use crate::row::{columns, on_scale, typed};
use crate::scored::{PairOptions, Scored, pairs_of};
use crate::source::{
    EMPTY_PROMPT, ReadOptions, Rejected, SourceRead, files_of, nothing_used, read_file,
};
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
    let mut read = SourceRead::default();
    let mut scored = Vec::new();
    let mut n_left_out = 0;
    for file in files_of(path, options.stem.as_deref(), FETCH)? {
        let report = &mut read.report;
        let source = read_file(&file, FETCH, options.strict, report, &mut |place, row| {
            let row: Row = typed(row)?;
            if row.instruction.trim().is_empty() {
                return Err(Rejected::LeftOut(EMPTY_PROMPT));
            }
            let prompt = template.question(&row.instruction)?;
            let (mut responses, mut n_empty) = (Vec::new(), 0);
            for (i, completion) in row.completions.iter().enumerate() {
                let mut scores = Vec::new();
                for aspect in ULTRAFEEDBACK_OBJECTIVES {
                    let column = format!("completions[{i}].annotations.{aspect}.Rating");
                    let score = rating(&completion.annotations, aspect, &column)?;
                    scores.push(on_scale(&column, score, 1.0, 5.0)?);
                }
                if completion.response.trim().is_empty() {
                    n_empty += 1;
                    continue;
                }
                responses.push(Scored {
                    prompt: prompt.clone(),
                    response: template.response(&completion.response),
                    scores,
                    source: place.source.into(),
                    key: format!("{}.{}", place.line, i + 1),
                });
            }
            if responses.iter().map(|r| &r.response).collect::<BTreeSet<_>>().len() < 2 {
                return Err(Rejected::LeftOut("fewer than two different completions"));
            }
            scored.extend(responses);
            n_left_out += n_empty;
            Ok(())
        })?;
        read.sources.push(source);
    }
    read.report.leave_responses_out(EMPTY_COMPLETION, n_left_out);
    let n_objectives = ULTRAFEEDBACK_OBJECTIVES.len();
    read.records = pairs_of(scored, n_objectives, pairs, options.seed, &mut read.report);
    if read.records.is_empty() {
        return Err(nothing_used(path, &read.report));
    }
    Ok(read)
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
