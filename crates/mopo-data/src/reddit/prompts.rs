//! Posts as prompts, one row per post.

use std::path::Path;

use serde::Deserialize;

use super::comparisons::without_end;
use super::{FETCH, Info, TldrOptions};
use crate::Result;
use crate::container::Row as RawRow;
use crate::prompts::{Prompt, PromptRead, PromptWriter};
use crate::row::typed;
use crate::source::{Rejected, read_files};
use crate::stream::text_key;
use crate::template::spaced;

const COLUMNS: [&str; 7] =
    ["instruction", "gold_response", "post", "summary", "input_text", "info", "split"];

#[derive(Deserialize)]
struct Dove {
    instruction: String,
    gold_response: String,
}

#[derive(Deserialize)]
struct Filtered {
    post: String,
    summary: Option<String>,
}

#[derive(Deserialize)]
struct Converted {
    input_text: String,
}

#[derive(Deserialize)]
struct Informed {
    info: Info,
    split: Option<String>,
}

struct Row {
    post: String,
    reference: Option<String>,
    split: Option<String>,
}

/// Reads posts, a file or the files of a folder: dove's (`instruction`, `gold_response`), OpenAI's
/// filtered ones (`post`, `summary`), and those of comparisons and scored summaries. The first row
/// of each post becomes a prompt; titles and subreddits are not part of it.
///
/// # Errors
/// Those of [`read_hh`](crate::read_hh).
pub fn read_tldr_prompts(path: &Path, options: &TldrOptions) -> Result<PromptRead> {
    let mut prompts = PromptWriter::new(&options.read.scratch())?;
    let mut read = read_files(path, FETCH, &options.read, &COLUMNS, &mut |place, row| {
        let row = post(row)?;
        let prompt = options.prompt(&row.post, row.split.as_deref())?;
        let key = text_key(&prompt);
        prompts.push(&Prompt {
            id: place.id(),
            source: place.source.into(),
            prompt,
            reference: row.reference.filter(|text| !text.trim().is_empty()),
        })?;
        Ok(key)
    })?;
    let prompts = prompts.finish()?;
    if read.report.used > prompts.len() {
        let n_rows = read.report.used - prompts.len();
        read.report.take_back("an earlier row has the same post", n_rows);
    }
    let read = read.having_made(prompts.len(), path)?;
    Ok(PromptRead { prompts, report: read.report, sources: read.sources })
}

fn post(value: &RawRow<'_>) -> std::result::Result<Row, Rejected> {
    let names = value.names()?;
    let has = |column: &str| names.iter().any(|name| name == column);
    Ok(if has("instruction") {
        let row: Dove = typed(value)?;
        Row { post: row.instruction, reference: Some(spaced(&row.gold_response)), split: None }
    } else if has("post") {
        let row: Filtered = typed(value)?;
        Row { post: row.post, reference: row.summary.as_deref().map(spaced), split: None }
    } else if has("input_text") {
        let row: Converted = typed(value)?;
        Row { post: without_end(&row.input_text).into(), reference: None, split: None }
    } else {
        let row: Informed = typed(value)?;
        Row { post: row.info.post()?.into(), reference: None, split: row.split }
    })
}
