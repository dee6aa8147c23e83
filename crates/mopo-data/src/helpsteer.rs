//! HelpSteer and HelpSteer2: responses with five scores from 0 to 4, one response per row. Every
//! two responses to a prompt make a pair.

use std::path::Path;

use serde::Deserialize;

use crate::row::{nullable, on_scale, typed};
use crate::scored::{Judgements, PairOptions, Scored};
use crate::source::{EMPTY_PROMPT, EMPTY_RESPONSE, ReadOptions, SourceRead, not_blank, read_files};
use crate::{ChatTemplate, Result, Sink};

/// The objectives, in the order of the scores. The last two measure quantity, not quality.
pub const HELPSTEER_OBJECTIVES: [&str; 5] =
    ["helpfulness", "correctness", "coherence", "complexity", "verbosity"];
const FETCH: &str = "download the data as described in datasets/helpsteer/README.md";

const COLUMNS: [&str; 7] =
    ["prompt", "response", "helpfulness", "correctness", "coherence", "complexity", "verbosity"];

#[derive(Deserialize)]
struct Row {
    prompt: String,
    response: String,
    #[serde(deserialize_with = "nullable")]
    helpfulness: Option<f64>,
    #[serde(deserialize_with = "nullable")]
    correctness: Option<f64>,
    #[serde(deserialize_with = "nullable")]
    coherence: Option<f64>,
    #[serde(deserialize_with = "nullable")]
    complexity: Option<f64>,
    #[serde(deserialize_with = "nullable")]
    verbosity: Option<f64>,
}

/// Reads a file or the files of a folder; the objectives are [`HELPSTEER_OBJECTIVES`].
///
/// # Errors
/// Those of [`read_hh`](crate::read_hh).
pub fn read_helpsteer(
    path: &Path,
    options: &ReadOptions,
    template: ChatTemplate,
    pairs: &PairOptions,
    sink: &mut Sink<'_>,
) -> Result<SourceRead> {
    let mut judgements = Judgements::new(&options.scratch())?;
    let read = read_files(path, FETCH, options, &COLUMNS, &mut |place, row| {
        let row: Row = typed(row)?;
        let values =
            [row.helpfulness, row.correctness, row.coherence, row.complexity, row.verbosity];
        let mut scores = Vec::new();
        for (column, score) in HELPSTEER_OBJECTIVES.into_iter().zip(values) {
            scores.push(on_scale(column, score, 0.0, 4.0)?);
        }
        not_blank(&row.prompt, EMPTY_PROMPT)?;
        not_blank(&row.response, EMPTY_RESPONSE)?;
        judgements.push(&Scored {
            prompt: template.question(&row.prompt)?,
            response: template.response(&row.response),
            scores,
            source: place.source.into(),
            key: place.line.to_string(),
        })
    })?;
    judgements.pairs(read, HELPSTEER_OBJECTIVES.len(), pairs, options.seed, path, sink)
}
