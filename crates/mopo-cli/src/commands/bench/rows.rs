//! Input of a measurement: the pairs of a JSON Lines file that fit.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mopo_data::{PairTokens, Tokenizer};
use serde::Deserialize;

/// One line of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    prompt: String,
    chosen: String,
    rejected: String,
}

/// The first `n` pairs whose prompt and response, encoded as one text, have fewer than `max_len`
/// tokens. The result has prompts and responses encoded separately; responses end with the
/// end-of-text token.
pub(super) fn read(
    path: &Path,
    tokenizer: &Tokenizer,
    max_len: usize,
    n: usize,
) -> Result<Vec<PairTokens>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the pairs {}", path.display()))?;
    let mut out = Vec::new();
    let mut rows = 0;
    for (i, line) in text.lines().enumerate() {
        if out.len() == n {
            break;
        }
        rows += 1;
        let row: Row = serde_json::from_str(line).with_context(|| {
            format!(
                "{}, line {}: expected {{\"prompt\": …, \"chosen\": …, \"rejected\": …}}",
                path.display(),
                i + 1
            )
        })?;
        let mut fits = true;
        for response in [&row.chosen, &row.rejected] {
            fits &= tokenizer.encode(&format!("{}{response}", row.prompt))?.len() < max_len;
        }
        if fits {
            let response = |text: &str| -> Result<Vec<u32>> {
                let mut ids = tokenizer.encode(text)?;
                ids.push(tokenizer.end_of_text());
                Ok(ids)
            };
            out.push(PairTokens {
                prompt: tokenizer.encode(&row.prompt)?,
                first: response(&row.chosen)?,
                second: response(&row.rejected)?,
            });
        }
    }
    ensure!(
        out.len() == n,
        "{}: {} of its {rows} pairs have fewer than {max_len} tokens, but {n} are needed; use a longer \
         file or a larger --max-len",
        path.display(),
        out.len()
    );
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_that_fit_in_file_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.jsonl");
        let line = |prompt: &str, chosen: &str| {
            format!("{{\"prompt\":\"{prompt}\",\"chosen\":\"{chosen}\",\"rejected\":\"z\"}}\n")
        };
        let text = line("ab", "cdefg") + &line("ab", "cd") + &line("x", "y") + &line("x", "w");
        std::fs::write(&path, &text).unwrap();
        // Bytes are tokens.
        let tokenizer = Tokenizer::train(["abc"].into_iter(), 257).unwrap();
        let pairs = read(&path, &tokenizer, 5, 2).unwrap();
        assert_eq!(tokenizer.decode(&pairs[0].first).unwrap(), "cd");
        assert_eq!(tokenizer.decode(&pairs[1].prompt).unwrap(), "x");
        assert_eq!(pairs[1].second.last(), Some(&tokenizer.end_of_text()));
        let error = read(&path, &tokenizer, 5, 4).unwrap_err().to_string();
        assert!(error.contains("3 of its 4") && error.contains("--max-len"), "{error}");
        std::fs::write(&path, text + "{}\n").unwrap();
        let error = read(&path, &tokenizer, 5, 4).unwrap_err().to_string();
        assert!(error.contains("line 5"), "{error}");
    }
}
