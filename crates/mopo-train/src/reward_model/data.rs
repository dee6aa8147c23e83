//! From a source to the files of a run: examples split by prompt into training, validation and
//! held-out ones, and the tokenizer.

use std::path::Path;

use mopo_core::Objectives;
use mopo_data::{
    LabelledText, PreferenceRecord, PreparedSet, SourceFile, Split, Tokenizer, read_labelled,
    unit_interval, write_atomically,
};
use serde::{Deserialize, Serialize};

use super::config::{RewardModel, RewardTrainConfig, Ties};
use crate::config::TokenizerConfig;
use crate::prepare::prepare_records;
use crate::{Error, Progress, Result, RunDir, RunRecord};

/// The three parts of a split, in the order of their numbers in [0, 1).
pub(crate) const PARTS: [&str; 3] = ["heldout", "validation", "train"];

/// Examples as text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Texts {
    /// Pairs with a label of the objective.
    Pairs(Vec<PreferenceRecord>),
    /// Texts of two kinds.
    Labelled(Vec<LabelledText>),
}

impl Texts {
    /// Number of examples.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Pairs(records) => records.len(),
            Self::Labelled(texts) => texts.len(),
        }
    }

    /// All texts, to train a tokenizer.
    fn all(&self) -> Vec<&str> {
        match self {
            Self::Pairs(records) => {
                records.iter().flat_map(|r| [&*r.prompt, &*r.first, &*r.second]).collect()
            }
            Self::Labelled(texts) => texts.iter().map(|t| t.text.as_str()).collect(),
        }
    }

    /// Splits by the hash of each example's prompt, or of its text.
    fn split(self, config: &RewardTrainConfig) -> [Self; 3] {
        let part = |text: &str| {
            let place = unit_interval(config.seed, text);
            let heldout = config.data.heldout_fraction;
            let validation = heldout + (1.0 - heldout) * config.data.validation_fraction;
            usize::from(place >= heldout) + usize::from(place >= validation)
        };
        match self {
            Self::Pairs(records) => {
                let mut parts = [vec![], vec![], vec![]];
                for record in records {
                    parts[part(&record.prompt)].push(record);
                }
                parts.map(Self::Pairs)
            }
            Self::Labelled(texts) => {
                let mut parts = [vec![], vec![], vec![]];
                for text in texts {
                    parts[part(&text.text)].push(text);
                }
                parts.map(Self::Labelled)
            }
        }
    }

    /// Number of decided examples: pairs that are not ties, and texts.
    fn n_decided(&self) -> usize {
        match self {
            Self::Pairs(r) => r.iter().filter(|r| r.indicators[0] != Some(0.5)).count(),
            Self::Labelled(texts) => texts.len(),
        }
    }

    fn write(self, path: &Path, objective: &Objectives, sources: &[SourceFile]) -> Result<()> {
        match self {
            Self::Pairs(records) => {
                // A prepared set knows two parts; this split has three, by file name.
                let heldout = path.ends_with("heldout.jsonl");
                let split = if heldout { Split::Heldout } else { Split::Train };
                let sources = sources.to_vec();
                PreparedSet::new(objective.clone(), Some(split), sources, vec![], records)?
                    .write(path)?;
            }
            Self::Labelled(texts) => {
                let mut bytes = Vec::new();
                for LabelledText { text, label } in texts {
                    serde_json::to_writer(&mut bytes, &Line { text, label })
                        .map_err(|e| Error::corrupt(path, e.to_string()))?;
                    bytes.push(b'\n');
                }
                write_atomically(path, &bytes)?;
            }
        }
        Ok(())
    }

    pub(crate) fn read(path: &Path, config: &RewardTrainConfig) -> Result<Self> {
        if config.data.pairs.is_some() {
            return Ok(Self::Pairs(PreparedSet::read(path)?.records));
        }
        let text = std::fs::read_to_string(path).map_err(Error::io("reading", path))?;
        let line = |line| {
            let Line { text, label } =
                serde_json::from_str(line).map_err(|e| Error::corrupt(path, e.to_string()))?;
            Ok(LabelledText { text, label })
        };
        Ok(Self::Labelled(text.lines().map(line).collect::<Result<_>>()?))
    }
}

/// A labelled text in a run's files.
#[derive(Serialize, Deserialize)]
struct Line {
    text: String,
    label: u8,
}

/// Reads the source and writes the run's `data/` and `tokenizer.json`; the record with their hashes
/// comes last.
pub(crate) fn prepare(
    run: &RunDir,
    config: &RewardTrainConfig,
    record: &mut RunRecord,
    progress: &mut dyn Progress,
) -> Result<()> {
    let (texts, sources) = read(config, record, progress)?;
    let objective = Objectives::new([config.objective.as_str()])?;
    let n = texts.len();
    let parts = texts.split(config);
    let counts: Vec<String> =
        PARTS.iter().zip(&parts).map(|(name, part)| format!("{} {name}", part.len())).collect();
    if parts.iter().any(|part| part.n_decided() == 0) {
        return Err(Error::Config {
            origin: "`data`".into(),
            message: format!(
                "the split of {n} examples gives {}; each part needs decided ones: change \
                 `data.heldout_fraction` or `data.validation_fraction`, or provide more data",
                counts.join(", ")
            ),
        });
    }
    progress.note(&format!("{n} examples: {}", counts.join(", ")));
    let [_, _, train] = &parts;
    match (&config.model, &config.tokenizer) {
        (RewardModel::Hub(_) | RewardModel::Decoder(_), _) | (_, None) => {}
        (_, Some(TokenizerConfig::Train(size))) => {
            let path = run.join("tokenizer.json");
            Tokenizer::train(train.all().into_iter(), *size)?.save(&path)?;
            if config.model.architecture() == "distilbert" {
                surround(&path)?;
            }
        }
        (_, Some(TokenizerConfig::File(file))) => {
            let path = crate::models::tokenizer_file(file)?;
            let bytes = std::fs::read(&path).map_err(Error::io("reading", &path))?;
            run.write("tokenizer.json", &bytes)?;
        }
    }
    let mut written = Vec::new();
    for (name, part) in PARTS.iter().zip(parts) {
        let name = format!("data/{name}.jsonl");
        let path = run.join(&name);
        part.write(&path, &objective, &sources)?;
        written.push(name);
    }
    if run.join("tokenizer.json").exists() {
        written.push("tokenizer.json".into());
    }
    // The record comes last: once it has hashes, the data is complete.
    for name in written {
        record.add_file(run, &name)?;
    }
    run.write_record(record)
}

/// DistilBERT classifies a special token at the start of the text: a tokenizer trained here uses
/// the end of text for it, and adds it at the end as well.
fn surround(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).map_err(Error::io("reading", path))?;
    let mut json: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| Error::corrupt(path, e.to_string()))?;
    let id = Tokenizer::load(path)?.end_of_text();
    let token = serde_json::json!([mopo_data::END_OF_TEXT, id]);
    json["post_processor"] =
        serde_json::json!({ "type": "BertProcessing", "sep": token, "cls": token });
    let bytes = serde_json::to_vec(&json).map_err(|e| Error::corrupt(path, e.to_string()))?;
    Ok(write_atomically(path, &bytes)?)
}

fn read(
    config: &RewardTrainConfig,
    record: &RunRecord,
    progress: &mut dyn Progress,
) -> Result<(Texts, Vec<SourceFile>)> {
    if let Some(data) = &config.data.texts {
        let path = record.data.as_deref().ok_or_else(|| Error::Config {
            origin: "`data.texts`".into(),
            message: "labelled texts need a file; pass it with --data".into(),
        })?;
        let read = read_labelled(path, &data.text, &data.label, &data.positive, record.strict)?;
        progress.note(&format!("labelled texts\n{}", read.report));
        return Ok((Texts::Labelled(read.texts), vec![read.source]));
    }
    let Some(pairs) = &config.data.pairs else {
        unreachable!("a checked configuration has pairs or texts")
    };
    let (set, notes) =
        prepare_records(&pairs.source, record.data.as_deref(), config.seed, record.strict)?;
    for note in &notes {
        progress.note(note);
    }
    let objective = set
        .header
        .objectives
        .index_of(&config.objective)
        .map_err(|e| Error::Config { origin: "`objective`".into(), message: e.to_string() })?;
    let (n, mut missing, mut ties) = (set.records.len(), 0, 0);
    let mut records = Vec::new();
    for mut record in set.records {
        let Some(indicator) = record.indicators[objective] else {
            missing += 1;
            continue;
        };
        ties += usize::from(indicator == 0.5);
        if indicator == 0.5 && pairs.ties == Ties::LeaveOut {
            continue;
        }
        record.indicators = vec![Some(indicator)];
        record.scores = None;
        records.push(record);
    }
    let what = match pairs.ties {
        Ties::Half => "trained on as half a preference each way",
        Ties::LeaveOut => "skipped",
    };
    progress.note(&format!(
        "{n} pairs: {missing} without a label of `{}` skipped; {ties} ties, {what}",
        config.objective
    ));
    Ok((Texts::Pairs(records), set.header.sources))
}
