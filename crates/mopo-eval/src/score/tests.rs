//! Scoring files of texts, and invalid files.

use std::path::PathBuf;

use serde_json::Value;

use super::*;
use crate::Reward;
use crate::reward::{Length, LengthPreference, LengthUnit};

/// A file of texts in its own folder.
struct Texts {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Texts {
    fn new(text: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.jsonl");
        std::fs::write(&path, text).unwrap();
        Self { folder, path }
    }

    fn open(&self) -> Result<TextFile> {
        TextFile::open(&self.path, self.folder.path())
    }

    fn scores(&self, reward: &dyn Reward) -> Result<Vec<f32>> {
        let folder = self.folder.path();
        let found = self.open()?.score(&[reward], folder, &mut |_| ())?;
        found[0].0.scores()?.collect()
    }
}

fn words() -> Length {
    Length::new("words", LengthUnit::Words, LengthPreference::Longer).unwrap()
}

#[test]
fn lines_come_back_with_scores() {
    let texts = Texts::new(
        b"{\"id\": 7, \"prompt\": \"p\", \"response\": \"one two\"}\n\n\
          {\"response\": \"a\", \"scores\": {\"other\": 0.1}, \"response\": \"th\\\"ree\"}",
    );
    let file = texts.open().unwrap();
    assert_eq!(file.len(), 2);
    assert_eq!(file.sha256(), mopo_data::sha256_hex(&std::fs::read(&texts.path).unwrap()));
    let mut seen = vec![];
    file.for_each(&mut |prompt, response| {
        seen.push((prompt.to_owned(), response.to_owned()));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, [("p".into(), "one two".into()), (String::new(), "th\"ree".into())]);

    let mut done = 0;
    let folder = texts.folder.path();
    let found = file.score(&[&words(), &Small], folder, &mut |n| done += n).unwrap();
    let [(column, _), (raw, _)] = <[_; 2]>::try_from(found).unwrap();
    assert_eq!(done, 2);
    assert_eq!(column.scores().unwrap().collect::<Result<Vec<_>>>().unwrap(), [2.0, 1.0]);
    let statistics = column.statistics().unwrap();
    assert_eq!(statistics, ScoreStatistics::new([2.0, 1.0].into_iter()));

    let out = folder.join("out.jsonl");
    let mut before = false;
    file.write_with_scores(&out, &["words", "raw"], &[column, raw], &mut || {
        before = !out.exists();
        Ok(())
    })
    .unwrap();
    assert!(before, "it is seen when all is done");
    let text = std::fs::read_to_string(&out).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["id"], 7);
    assert_eq!(lines[0]["scores"]["words"], 2.0);
    assert_eq!(lines[1]["scores"]["other"], 0.1);
    // The digits give the same f32.
    assert!(text.contains("\"raw\":0.1"), "{text}");
    assert_eq!(lines[1]["scores"]["raw"].as_f64().unwrap() as f32, -1e-7);
}

/// 0.1 for texts of two words, −1e-7 for others.
struct Small;
impl Reward for Small {
    fn name(&self) -> &str {
        "raw"
    }
    fn score(&self, _: &str, response: &str) -> Result<f32> {
        Ok(if response.contains(' ') { 0.1 } else { -1e-7 })
    }
}

#[test]
fn texts_of_more_than_one_block_keep_their_order() {
    let line = |i: usize| format!("{{\"response\": \"{}\"}}\n", "x".repeat(i % 97 + 1));
    let texts = Texts::new((0..10_000).map(line).collect::<String>().as_bytes());
    let length = Length::new("l", LengthUnit::Characters, LengthPreference::Longer).unwrap();
    let expected: Vec<f32> = (0..10_000).map(|i| (i % 97 + 1) as f32).collect();
    assert_eq!(texts.scores(&length).unwrap(), expected);
}

#[test]
fn keys_that_are_not_read_cost_no_row_and_stay_as_they_are() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (line, expected) in [
        (r#"{"z":1, "response":"a b"}"#, r#"{"z":1, "response":"a b","scores":{"w":2.0}}"#),
        // Digits that no f64 has, words of Python's json, numbers out of range, half a character.
        (
            r#"{"n":123456789012345678901,"x":1E2,"response":"a"}"#,
            r#"{"n":123456789012345678901,"x":1E2,"response":"a","scores":{"w":1.0}}"#,
        ),
        (
            r#"{"n":[NaN,{"i":-Infinity}],"response":"a NaN"}"#,
            r#"{"n":[NaN,{"i":-Infinity}],"response":"a NaN","scores":{"w":2.0}}"#,
        ),
        (
            r#"{"n":1e999,"s":"\ud800","response":"a"} "#,
            r#"{"n":1e999,"s":"\ud800","response":"a","scores":{"w":1.0}}"#,
        ),
        // Scores that are there already, wherever they are.
        (
            r#"{"scores" : {"v":0.10} , "response":"a", "n":1.50}"#,
            r#"{"scores" : {"v":0.1,"w":1.0} , "response":"a", "n":1.50}"#,
        ),
        (
            r#"{"a":{"scores":3},"response":"\"scores\":","scores":null}"#,
            r#"{"a":{"scores":3},"response":"\"scores\":","scores":{"w":1.0}}"#,
        ),
        (
            r#"{"response":"scores","k":"scores","scores":{"w":7,"}":[{}]}}"#,
            r#"{"response":"scores","k":"scores","scores":{"w":1.0,"}":[{}]}}"#,
        ),
        (
            &format!(r#"{{"deep":{deep},"response":"a"}}"#),
            &format!(r#"{{"deep":{deep},"response":"a","scores":{{"w":1.0}}}}"#),
        ),
        ("\u{feff}{\"response\":\"a\"}\r", "{\"response\":\"a\",\"scores\":{\"w\":1.0}}"),
    ] {
        let texts = Texts::new(format!("{line}\n").as_bytes());
        let (file, folder) = (texts.open().unwrap(), texts.folder.path());
        let scores = [file.score(&[&words()], folder, &mut |_| ()).unwrap().remove(0).0];
        let out = folder.join("out");
        file.write_with_scores(&out, &["w"], &scores, &mut || Ok(())).unwrap();
        let written = std::fs::read_to_string(&out).unwrap();
        assert_eq!(written.chars().take(500).collect::<String>(), {
            let expected = format!("{expected}\n");
            expected.chars().take(500).collect::<String>()
        });
        assert_eq!(written.len(), expected.len() + 1);
    }
    // Bytes that are not UTF-8 in a key that is not read.
    let texts = Texts::new(b"{\"response\":\"a\",\"n\":\"\xff\"}");
    let (file, folder) = (texts.open().unwrap(), texts.folder.path());
    let scores = [file.score(&[&words()], folder, &mut |_| ()).unwrap().remove(0).0];
    file.write_with_scores(&folder.join("out"), &["w"], &scores, &mut || Ok(())).unwrap();
    let written = std::fs::read(folder.join("out")).unwrap();
    assert_eq!(written, b"{\"response\":\"a\",\"n\":\"\xff\",\"scores\":{\"w\":1.0}}\n");
}

#[test]
fn wrong_lines_are_named() {
    for (text, words) in [
        (&b"{\"response\": \"a\"}\n{\"response\": \"\xff\"}\n"[..], "line 2 is not UTF-8 (byte 15"),
        (b"{\"response\": \"a\"}\n\n[1]", "line 3 is not a JSON object"),
        (b"{\"prompt\": \"a\"}", "line 1 has no `response`"),
        (b"{\"prompt\": 7, \"response\": \"a\"}", "has `prompt` 7"),
        (b"{\"response\": 3}", "has `response` 3"),
        (b"{\"response\": \"a\"", "line 1"),
        (b"{\"response\": \"a\"}\n{\"response\": \"a\", \"scores\": 3}", "line 2 has `scores`"),
        (b"\n \xe3\x80\x80\n", "no texts"),
        (b"", "no texts"),
    ] {
        let e = Texts::new(text).open().unwrap_err().to_string();
        assert!(e.contains("texts.jsonl") && e.contains(words), "{e}");
    }
    let folder = tempfile::tempdir().unwrap();
    let e = TextFile::open("not/there.jsonl", folder.path()).unwrap_err().to_string();
    assert!(e.contains("there.jsonl"), "{e}");
}

#[test]
fn a_file_that_changes_meanwhile_is_refused() {
    let texts = Texts::new(b"{\"response\": \"a\"}\n{\"response\": \"b\"}\n");
    let (file, folder) = (texts.open().unwrap(), texts.folder.path());
    let score = || file.score(&[&words()], folder, &mut |_| ());
    let before = [score().unwrap().remove(0).0];
    for changed in ["{\"response\": \"a\"}\n", "{\"response\": \"a\"}\n{\"response\": \"c\"}\n"] {
        std::fs::write(&texts.path, changed).unwrap();
        if changed.lines().count() == 1 {
            let e = score().unwrap_err().to_string();
            assert!(e.contains("texts.jsonl") && e.contains("changed"), "{e}");
        }
        let out = folder.join("out");
        let wrote = file.write_with_scores(&out, &["w"], &before, &mut || Ok(()));
        assert!(wrote.unwrap_err().to_string().contains("changed"));
        assert!(!out.exists());
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_is_scored_as_a_file_is() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|status| status.success()) {
        mopo_testkit::skip!("no program `mkfifo`");
    }
    let file = std::thread::scope(|scope| {
        scope.spawn(|| std::fs::write(&pipe, "{\"response\": \"a b\"}\n").unwrap());
        TextFile::open(&pipe, folder.path()).unwrap()
    });
    let scores = |file: &TextFile| -> Vec<f32> {
        let found = file.score(&[&words()], folder.path(), &mut |_| ()).unwrap();
        found[0].0.scores().unwrap().collect::<Result<_>>().unwrap()
    };
    assert_eq!((scores(&file), scores(&file)), (vec![2.0], vec![2.0]));
}

struct Picky;
impl Reward for Picky {
    fn name(&self) -> &str {
        "picky"
    }
    fn score(&self, _: &str, response: &str) -> Result<f32> {
        match response {
            "nan" => Ok(f32::NAN),
            "inf" => Ok(f32::INFINITY),
            "bad" => Err(Error::Text { reward: "picky".into(), index: 0, why: "is bad".into() }),
            _ => Ok(0.0),
        }
    }
}

#[test]
fn texts_that_have_no_score_are_named_by_their_line() {
    for (text, words) in [
        ("nan", "line 3 cannot be scored by `picky`: the score is NaN"),
        ("inf", "line 3 cannot be scored by `picky`: the score is inf"),
        ("bad", "line 3 cannot be scored by `picky`: its text is bad"),
    ] {
        let lines = format!("{{\"response\": \"a\"}}\n\n{{\"response\": \"{text}\"}}");
        let e = Texts::new(lines.as_bytes()).scores(&Picky).unwrap_err().to_string();
        assert!(e.contains("texts.jsonl") && e.contains(words), "{e}");
    }
}
