//! Posts as prompts, one row per post.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::comparisons::without_end;
use super::{FETCH, Info, TldrOptions};
use crate::prompts::{Prompt, PromptRead};
use crate::row::typed;
use crate::source::{Rejected, files_of, nothing_used, read_file};
use crate::template::spaced;
use crate::{ReadReport, Result};

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
/// filtered ones (`post`, `summary`), and those of comparisons and scored summaries. The first row of
/// each post becomes a prompt; titles and subreddits are no part of it.
///
/// # Errors
/// Those of [`read_hh`](crate::read_hh).
pub fn read_tldr_prompts(path: &Path, options: &TldrOptions) -> Result<PromptRead> {
    let mut report = ReadReport::default();
    let (mut prompts, mut sources) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let strict = options.read.strict;
    for file in files_of(path, options.read.stem.as_deref(), FETCH)? {
        sources.push(read_file(&file, FETCH, strict, &mut report, &mut |place, row| {
            let row = post(row)?;
            let prompt = options.prompt(&row.post, row.split.as_deref())?;
            if !seen.insert(prompt.clone()) {
                return Err(Rejected::LeftOut("an earlier row has the same post"));
            }
            prompts.push(Prompt {
                id: place.id(),
                source: place.source.into(),
                prompt,
                reference: row.reference.filter(|text| !text.trim().is_empty()),
            });
            Ok(())
        })?);
    }
    report.made = prompts.len();
    if prompts.is_empty() {
        return Err(nothing_used(path, &report));
    }
    Ok(PromptRead { prompts, report, sources })
}

fn post(value: &Value) -> std::result::Result<Row, Rejected> {
    let has = |column: &str| value.get(column).is_some();
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
