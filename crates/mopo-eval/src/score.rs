//! Scores for a file of texts: JSON Lines in, the same lines with scores out.
//!
//! A line is an object with `response` and, if there is one, `prompt`; everything else in it is kept.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use mopo_data::sha256_hex;
use serde_json::{Map, Value};

use crate::{Error, Result, Reward};

/// Texts that a reward gets at once: enough for batches of similar length.
pub const CHUNK: usize = 256;

/// A file of texts, read whole: all its lines are checked before the first is scored.
#[derive(Debug, Clone, PartialEq)]
pub struct TextFile {
    path: PathBuf,
    rows: Vec<TextRow>,
    sha256: String,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
struct TextRow {
    /// In the file, from 1: empty lines are left out.
    line: usize,
    prompt: String,
    response: String,
    fields: Map<String, Value>,
}

impl TextRow {
    fn item(&self) -> (&str, &str) {
        (&self.prompt, &self.response)
    }
}

impl TextFile {
    /// Reads a file of JSON Lines.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] with the line that is not UTF-8, not JSON, or without a
    /// `response`; and for a file without texts.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io = |source| Error::Io { action: "read", path: path.into(), source };
        let mut file = BufReader::new(std::fs::File::open(path).map_err(io)?);
        let (mut rows, mut all, mut bytes) = (vec![], vec![], vec![]);
        for line in 1.. {
            bytes.clear();
            if file.read_until(b'\n', &mut bytes).map_err(io)? == 0 {
                break;
            }
            all.extend_from_slice(&bytes);
            let row = match std::str::from_utf8(&bytes) {
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => row(text, line),
                Err(e) => Err(format!(
                    "is not UTF-8 (byte {} of the line is {:#04x}); convert the file to UTF-8",
                    e.valid_up_to() + 1,
                    bytes[e.valid_up_to()]
                )),
            };
            rows.push(row.map_err(|why| wrong_line(path, line, &why))?);
        }
        if rows.is_empty() {
            let message = "it has no texts; give one JSON object a line, with `response` in it";
            return Err(Error::File { path: path.into(), message: message.into() });
        }
        Ok(Self { path: path.into(), rows, sha256: sha256_hex(&all) })
    }

    /// Texts.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Never: such a file is refused.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The SHA-256 of the file.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Prompts and responses, in order.
    pub fn items(&self) -> Vec<(&str, &str)> {
        self.rows.iter().map(TextRow::item).collect()
    }

    /// Scores all texts with one reward, in order. `advance` hears how many more are done.
    ///
    /// # Errors
    /// [`Error::File`] with the line of a text that cannot be scored, or whose score is not finite.
    pub fn score(&self, reward: &dyn Reward, advance: &mut dyn FnMut(usize)) -> Result<Vec<f32>> {
        let mut scores = Vec::with_capacity(self.rows.len());
        for chunk in self.rows.chunks(CHUNK) {
            let items: Vec<(&str, &str)> = chunk.iter().map(TextRow::item).collect();
            let wrong = |i: usize, why: String| {
                let why = format!("cannot be scored by `{}`: {why}", reward.name());
                wrong_line(&self.path, chunk[i].line, &why)
            };
            let found = reward.score_batch(&items).map_err(|error| match error {
                Error::Text { index, why, .. } => wrong(index, format!("its text {why}")),
                other => other,
            })?;
            assert_eq!(found.len(), chunk.len(), "`{}` gives a score for each", reward.name());
            if let Some(i) = found.iter().position(|score| !score.is_finite()) {
                return Err(wrong(i, format!("the score is {}, no finite number", found[i])));
            }
            scores.extend(found);
            advance(chunk.len());
        }
        Ok(scores)
    }

    /// The lines with `scores`, an object of one number per reward. Other rewards' scores that a line
    /// has already stay.
    ///
    /// # Errors
    /// [`Error::File`] for a line whose `scores` are no object.
    pub fn with_scores(&self, scores: &[(String, Vec<f32>)]) -> Result<String> {
        let mut out = String::new();
        for (i, row) in self.rows.iter().enumerate() {
            let mut fields = row.fields.clone();
            let places = fields.entry("scores").or_insert_with(|| Map::new().into());
            let places = places.as_object_mut().ok_or_else(|| {
                let why = "has `scores` that are no object; remove or rename them";
                wrong_line(&self.path, row.line, why)
            })?;
            for (name, scores) in scores {
                places.insert(name.clone(), number(scores[i]));
            }
            out += &Value::Object(fields).to_string();
            out.push('\n');
        }
        Ok(out)
    }
}

fn wrong_line(path: &Path, line: usize, why: &str) -> Error {
    Error::File { path: path.into(), message: format!("line {line} {why}") }
}

fn row(text: &str, line: usize) -> std::result::Result<TextRow, String> {
    let fields: Map<String, Value> = serde_json::from_str(text)
        .map_err(|e| format!("is no JSON object ({e}); each line must be one"))?;
    let text = |key: &str| match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("has the {key} {other}, which must be text")),
    };
    let response = text("response")?.ok_or("has no `response`: the text that is scored")?;
    let prompt = text("prompt")?.unwrap_or_default();
    Ok(TextRow { line, prompt, response, fields })
}

/// The shortest digits that mean this f32.
fn number(score: f32) -> Value {
    let digits: f64 = score.to_string().parse().expect("digits of a number");
    digits.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::{Length, LengthPreference, LengthUnit};

    fn read(text: &[u8]) -> Result<TextFile> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("texts.jsonl");
        std::fs::write(&path, text).unwrap();
        TextFile::read(path)
    }

    #[test]
    fn lines_come_back_with_scores() {
        let file = read(
            b"{\"id\": 7, \"prompt\": \"p\", \"response\": \"one two\"}\n\n\
              {\"response\": \"three\", \"scores\": {\"other\": 0.1}}",
        )
        .unwrap();
        assert_eq!(file.len(), 2);
        let length = Length::new("words", LengthUnit::Words, LengthPreference::Longer).unwrap();
        let mut done = 0;
        let scores = file.score(&length, &mut |n| done += n).unwrap();
        assert_eq!((scores.as_slice(), done), (&[2.0, 1.0][..], 2));
        let columns = [("words".to_owned(), scores), ("raw".to_owned(), vec![0.1, -1e-7])];
        let text = file.with_scores(&columns).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines[0]["id"], 7);
        assert_eq!(lines[0]["scores"]["words"], 2.0);
        assert_eq!(lines[1]["scores"]["other"], 0.1);
        // The digits mean the same f32.
        assert!(text.contains(":0.1,"), "{text}");
        assert_eq!(lines[1]["scores"]["raw"].as_f64().unwrap() as f32, -1e-7);
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, words) in [
            (
                &b"{\"response\": \"a\"}\n{\"response\": \"\xff\"}\n"[..],
                "line 2 is not UTF-8 (byte 15",
            ),
            (b"{\"response\": \"a\"}\n\n[1]", "line 3 is no JSON object"),
            (b"{\"prompt\": \"a\"}", "line 1 has no `response`"),
            (b"{\"response\": 3}", "has the response 3"),
            (b"{\"response\": \"a\"", "line 1"),
            (b"\n\n", "no texts"),
        ] {
            let e = read(text).unwrap_err().to_string();
            assert!(e.contains("texts.jsonl") && e.contains(words), "{e}");
        }
        assert!(TextFile::read("not/there.jsonl").unwrap_err().to_string().contains("there.jsonl"));
        let file = read(b"{\"response\": \"a\", \"scores\": 3}").unwrap();
        let e = file.with_scores(&[("x".into(), vec![1.0])]).unwrap_err().to_string();
        assert!(e.contains("line 1 has `scores`"), "{e}");
    }

    struct Picky;
    impl Reward for Picky {
        fn name(&self) -> &str {
            "picky"
        }
        fn score(&self, _: &str, response: &str) -> Result<f32> {
            match response {
                "nan" => Ok(f32::NAN),
                "bad" => {
                    Err(Error::Text { reward: "picky".into(), index: 0, why: "is bad".into() })
                }
                _ => Ok(0.0),
            }
        }
    }

    #[test]
    fn texts_that_have_no_score_are_named_by_their_line() {
        for (text, words) in
            [("nan", "line 3"), ("bad", "line 3 cannot be scored by `picky`: its text is bad")]
        {
            let lines = format!("{{\"response\": \"a\"}}\n\n{{\"response\": \"{text}\"}}");
            let e = read(lines.as_bytes()).unwrap().score(&Picky, &mut |_| ()).unwrap_err();
            let e = e.to_string();
            assert!(e.contains("texts.jsonl") && e.contains("`picky`") && e.contains(words), "{e}");
        }
    }
}
