//! Finished stages of a pipeline, and how long each took: `line.json` beside their output.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::files::write_whole;
use crate::machine::{date_and_commit, machine};

/// A stage that has ended well.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Done {
    pub(super) stage: String,
    pub(super) what: String,
    /// Of the last part alone, if it was interrupted.
    pub(super) seconds: f64,
    /// Whether it resumed what an earlier call had left.
    pub(super) resumed: bool,
}

/// The seed of the pipeline whose record is at `path`, for another that uses its labels.
///
/// # Errors
/// No record there; one that was asked for other data, another model or size; one that has not labelled yet.
pub(super) fn labels_seed(path: &Path, asked: &Value) -> Result<u64> {
    let wrong = || format!("{} is damaged; pass another --labels-of", path.display());
    let text = fs::read_to_string(path).with_context(|| {
        format!("reading {}; --labels-of is the --out of another pipeline", path.display())
    })?;
    let other: Value = serde_json::from_str(&text).with_context(wrong)?;
    for key in ["data", "model", "smoke", "quick"] {
        ensure!(
            other["asked"][key] == asked[key],
            "{} was asked for {key} = {}, this one for {}: --labels-of is a pipeline with the same flags",
            path.display(),
            other["asked"][key],
            asked[key]
        );
    }
    let of = &other["asked"]["labels_of"];
    ensure!(of.is_null(), "{} uses the labels of {of}: pass that as --labels-of", path.display());
    let stages = other["stages"].as_array().with_context(wrong)?;
    ensure!(
        stages.iter().any(|stage| stage["stage"] == "label"),
        "{} has not labelled its pairs yet; let it go on first",
        path.display()
    );
    other["asked"]["seed"].as_u64().with_context(wrong)
}

/// The record of a pipeline, written after each stage.
pub(super) struct LineRecord {
    path: PathBuf,
    /// What the pipeline was asked for, and where and when it began.
    head: Value,
    done: Vec<Done>,
}

impl LineRecord {
    /// The record at `path`, which must have been asked for the same, or a new one.
    pub(super) fn open(path: &Path, asked: &Value) -> Result<Self> {
        if !path.exists() {
            let head = json!({
                "asked": asked,
                "machine": machine(),
                "began": date_and_commit(),
            });
            return Ok(Self { path: path.into(), head, done: vec![] });
        }
        let wrong = || {
            format!("{} is damaged; remove the directory, or pass another --out", path.display())
        };
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let mut head: Value = serde_json::from_str(&text).with_context(wrong)?;
        ensure!(
            head["asked"] == *asked,
            "{} belongs to another pipeline ({}); this one is {asked}: pass the same flags, or another --out",
            path.display(),
            head["asked"]
        );
        let stages = head.as_object_mut().and_then(|head| head.remove("stages"));
        let stages = stages.as_ref().and_then(Value::as_array).with_context(wrong)?;
        let done = stages.iter().map(Done::parse).collect::<Option<_>>().with_context(wrong)?;
        Ok(Self { path: path.into(), head, done })
    }

    pub(super) fn is_done(&self, stage: &str) -> bool {
        self.done.iter().any(|done| done.stage == stage)
    }

    /// Adds a stage, in the place of an earlier run of it, and writes the record.
    pub(super) fn add(&mut self, done: Done) -> Result<()> {
        self.done.retain(|other| other.stage != done.stage);
        self.done.push(done);
        let mut whole = self.head.clone();
        whole["stages"] = self.done.iter().map(Done::to_json).collect();
        write_whole(&self.path, &format!("{whole:#}\n"))
    }

    /// The stages with their times, in Markdown.
    pub(super) fn table(&self) -> String {
        let head = |key: &str| self.head[key].as_str().unwrap_or("unknown").to_string();
        let mut text = format!("{}\n{}\n\n", head("began"), head("machine"));
        text.push_str("| stage | seconds | |\n|---|--:|---|\n");
        for Done { stage, what, seconds, resumed } in &self.done {
            let note = if *resumed { "; **resumed: only the rest is timed**" } else { "" };
            text.push_str(&format!("| {stage} | {seconds:.0} | {what}{note} |\n"));
        }
        let total: f64 = self.done.iter().map(|done| done.seconds).sum();
        text.push_str(&format!("| all | {total:.0} | {:.1} minutes |\n", total / 60.0));
        text
    }
}

impl Done {
    fn parse(value: &Value) -> Option<Self> {
        Some(Self {
            stage: value["stage"].as_str()?.into(),
            what: value["what"].as_str()?.into(),
            seconds: value["seconds"].as_f64()?,
            resumed: value["resumed"].as_bool()?,
        })
    }

    fn to_json(&self) -> Value {
        json!({
            "stage": self.stage,
            "what": self.what,
            "seconds": self.seconds,
            "resumed": self.resumed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(stage: &str, seconds: f64, resumed: bool) -> Done {
        Done { stage: stage.into(), what: "something".into(), seconds, resumed }
    }

    #[test]
    fn a_record_is_read_back_and_refuses_another_pipeline() {
        let folder = std::env::temp_dir().join(format!("mopo-line-record-{}", std::process::id()));
        let path = folder.join("line.json");
        let asked = json!({ "seed": 1 });
        let mut record = LineRecord::open(&path, &asked).unwrap();
        assert!(!record.is_done("label"));
        record.add(done("label", 60.0, false)).unwrap();
        record.add(done("train", 30.0, true)).unwrap();
        let mut again = LineRecord::open(&path, &asked).unwrap();
        assert_eq!(again.done, record.done);
        assert!(again.is_done("label") && again.is_done("train"));
        assert!(again.table().contains("| all | 90 | 1.5 minutes |"), "{}", again.table());
        assert!(again.table().contains("| train | 30 | something; **resumed"));
        again.add(done("label", 10.0, false)).unwrap();
        assert_eq!(again.done.len(), 2);

        assert_eq!(labels_seed(&path, &json!({ "seed": 2 })).unwrap(), 1);
        let error =
            labels_seed(&path, &json!({ "seed": 2, "quick": true })).unwrap_err().to_string();
        assert!(error.contains("quick = null, this one for true"), "{error}");
        let error = LineRecord::open(&path, &json!({ "seed": 2 })).err().unwrap().to_string();
        assert!(error.contains("another pipeline") && error.contains("--out"), "{error}");
        fs::write(&path, "{").unwrap();
        let error = LineRecord::open(&path, &asked).err().unwrap().to_string();
        assert!(error.contains("is damaged"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
