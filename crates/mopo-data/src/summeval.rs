//! SummEval-OP: summaries of product reviews, each with seven human scores from 1 to 5. Every two
//! summaries of a product make a pair with an indicator per score.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::row::{on_scale, typed};
use crate::scored::{Judgements, PairOptions};
use crate::source::{EMPTY_PROMPT, ReadOptions, SourceRead, not_blank, read_files};
use crate::template::spaced;
use crate::{Result, Sink};

/// The objectives, in the order of the scores.
pub const SUMMEVAL_OBJECTIVES: [&str; 7] = [
    "fluency",
    "coherence",
    "relevance",
    "faithfulness",
    "aspect_coverage",
    "sentiment_consistency",
    "specificity",
];
/// Their names in the file.
const DIMENSIONS: [&str; 7] = [
    "Fluency",
    "Coherence",
    "Relevance",
    "Faithfulness",
    "Aspect Coverage",
    "Sentiment Consistency",
    "Specificity",
];
const EMPTY_SUMMARY: &str = "the summary is empty";
const INSTRUCTION: &str = "Generate a summary of these reviews of a product.";
const FETCH: &str = "download the data as described in datasets/summeval-op/README.md";

const COLUMNS: [&str; 2] = ["reviews", "summaries"];

#[derive(Deserialize)]
struct Row {
    reviews: BTreeMap<String, String>,
    summaries: BTreeMap<String, Summary>,
}

#[derive(Deserialize)]
struct Summary {
    summary: String,
    dimensions: BTreeMap<String, Option<f64>>,
}

/// Reads a file or the files of a folder; the objectives are [`SUMMEVAL_OBJECTIVES`].
///
/// The prompt asks for a summary of the reviews, in the form of the TL;DR prompts. Scores are
/// kept, and `null` is a missing one; empty summaries give no pair. A hash of the seed and the
/// texts decides which summary of a pair comes first.
///
/// # Errors
/// Those of [`read_hh`](crate::read_hh).
pub fn read_summeval_op(
    path: &Path,
    options: &ReadOptions,
    pairs: &PairOptions,
    sink: &mut Sink<'_>,
) -> Result<SourceRead> {
    let mut judgements = Judgements::new(&options.scratch())?;
    let mut read = read_files(path, FETCH, options, &COLUMNS, &mut |place, row| {
        let row: Row = typed(row)?;
        let mut reviews: Vec<_> = row.reviews.into_iter().collect();
        // rev2 before rev10.
        reviews.sort_by_key(|(name, _)| (name.len(), name.clone()));
        let reviews: Vec<String> = reviews.into_iter().map(|(_, text)| text).collect();
        let reviews = reviews.join("\n\n");
        not_blank(&reviews, EMPTY_PROMPT)?;
        let prompt = format!("### Instruction: {INSTRUCTION} ### Input: {reviews} ### Response:");
        let mut responses = Vec::new();
        for (policy, summary) in row.summaries {
            let mut scores = Vec::new();
            for name in DIMENSIONS {
                let column = format!("summaries.{policy}.dimensions.{name}");
                let score = *summary
                    .dimensions
                    .get(name)
                    .ok_or_else(|| format!("there is no `{column}`"))?;
                scores.push(on_scale(&column, score, 1.0, 5.0)?);
            }
            let response = spaced(&summary.summary);
            responses.push(((!summary.summary.trim().is_empty()).then_some(response), scores));
        }
        judgements.push_row(place, &prompt, responses, "fewer than two different summaries")
    })?;
    read.report.leave_responses_out(EMPTY_SUMMARY, judgements.n_empty());
    judgements.pairs(read, SUMMEVAL_OBJECTIVES.len(), pairs, options.seed, path, sink)
}
