//! Scores of single summaries on four axes, from which the pairs of a post follow.

use std::path::Path;

use serde::Deserialize;

use super::{FETCH, Info, TldrOptions};
use crate::row::{nullable, on_scale, typed};
use crate::scored::{Judgements, PairOptions, Scored};
use crate::source::{EMPTY_RESPONSE, SourceRead, not_blank, read_files};
use crate::template::spaced;
use crate::{Result, Sink};

/// The objectives, in the order of the scores (1 to 7).
pub const TLDR_AXES: [&str; 4] = ["overall", "accuracy", "coverage", "coherence"];

const COLUMNS: [&str; 3] = ["info", "summary", "split"];

#[derive(Deserialize)]
struct Row {
    info: Info,
    summary: Summary,
    split: Option<String>,
}

#[derive(Deserialize)]
struct Summary {
    text: String,
    axes: Axes,
}

#[derive(Deserialize)]
struct Axes {
    #[serde(deserialize_with = "nullable")]
    overall: Option<f64>,
    #[serde(deserialize_with = "nullable")]
    accuracy: Option<f64>,
    #[serde(deserialize_with = "nullable")]
    coverage: Option<f64>,
    #[serde(deserialize_with = "nullable")]
    coherence: Option<f64>,
}

/// Reads scored summaries, a file or the files of a folder; the objectives are [`TLDR_AXES`].
/// Scores
/// of several workers for the same summary are averaged; an axis without scores is missing.
///
/// # Errors
/// Those of [`read_hh`](crate::read_hh).
pub fn read_tldr_axes(
    path: &Path,
    options: &TldrOptions,
    pairs: &PairOptions,
    sink: &mut Sink<'_>,
) -> Result<SourceRead> {
    let mut judgements = Judgements::new(&options.read.scratch())?;
    let read = read_files(path, FETCH, &options.read, &COLUMNS, &mut |place, row| {
        let row: Row = typed(row)?;
        let axes = row.summary.axes;
        let values = [axes.overall, axes.accuracy, axes.coverage, axes.coherence];
        let mut scores = Vec::new();
        for (axis, score) in TLDR_AXES.into_iter().zip(values) {
            scores.push(on_scale(&format!("summary.axes.{axis}"), score, 1.0, 7.0)?);
        }
        let prompt = options.prompt(row.info.post()?, row.split.as_deref())?;
        not_blank(&row.summary.text, EMPTY_RESPONSE)?;
        judgements.push(&Scored {
            prompt,
            response: spaced(&row.summary.text),
            scores,
            source: place.source.into(),
            key: place.line.to_string(),
        })
    })?;
    judgements.pairs(read, TLDR_AXES.len(), pairs, options.read.seed, path, sink)
}
