//! Parts of a labelling that were made apart, as files, and how they become one again.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mopo_data::{Header, PreferenceRecord, PreparedSet, Scores, write_atomically};
use serde::{Deserialize, Serialize};

use super::config::LabelConfig;
use super::finish::LabelSet;
use super::score::BATCH_PAIRS;
use crate::{Error, Result};

const FORMAT: &str = "mopo-label-shard";
const SCHEMA: u32 = 1;

/// What decides every bit of a labelled set, beside the pairs themselves.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Labelling {
    /// Objectives, rewards, rules.
    pub config: LabelConfig,
    /// Whether labels that are there stay.
    pub keep: bool,
    /// SHA-256 of the prepared set that is labelled ([`PreparedSet::hash`]).
    pub input_sha256: String,
    /// SHA-256 of rewards and rules ([`LabelConfig::hash`]).
    pub rewards_sha256: String,
}

/// One of several parts, written `i/n`, from 1.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(try_from = "String", into = "String")]
pub struct ShardIndex {
    index: usize,
    of: usize,
}

impl ShardIndex {
    /// The rows of this part of a set of `n_rows`: whole batches in file order, the parts as equal
    /// as batches allow. A part may be empty where there are fewer batches than parts.
    pub fn rows(self, n_rows: usize) -> Range<usize> {
        let n_batches = n_rows.div_ceil(BATCH_PAIRS);
        let end = |i: usize| (i * n_batches / self.of * BATCH_PAIRS).min(n_rows);
        end(self.index - 1)..end(self.index)
    }
}

impl FromStr for ShardIndex {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts =
            text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Self { index, of }),
            _ => Err(format!(
                "`{text}` is no shard: write i/n with i from 1 to n, e.g. 1/4 for the first of four"
            )),
        }
    }
}

impl TryFrom<String> for ShardIndex {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<ShardIndex> for String {
    fn from(shard: ShardIndex) -> Self {
        shard.to_string()
    }
}

impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// The first line of a shard's file. Its records follow with their scores, one a line.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct ShardHeader {
    format: String,
    schema: u32,
    shard: ShardIndex,
    rows: usize,
    labelling: Labelling,
    /// Of the whole set, as it was before.
    set: Header,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    record: PreferenceRecord,
    /// `[n_rewards]` a side.
    scores: Scores,
}

/// The scored rows of one part of a labelling.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Which part.
    pub index: ShardIndex,
    /// Of which labelling.
    pub labelling: Labelling,
    /// The header of the set that is labelled.
    pub header: Header,
    /// The rows of this part, as they were before.
    pub records: Vec<PreferenceRecord>,
    /// Their scores, `[n_rewards]` a side.
    pub scores: Vec<Scores>,
}

impl Shard {
    /// Writes the shard, atomically.
    ///
    /// # Errors
    /// [`Error::Data`] if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let header = ShardHeader {
            format: FORMAT.into(),
            schema: SCHEMA,
            shard: self.index,
            rows: self.records.len(),
            labelling: self.labelling.clone(),
            set: self.header.clone(),
        };
        let written = "plain structs of strings and numbers are always JSON";
        let mut bytes = serde_json::to_vec(&header).expect(written);
        bytes.push(b'\n');
        for (record, scores) in self.records.iter().zip(&self.scores) {
            let row = Row { record: record.clone(), scores: scores.clone() };
            serde_json::to_writer(&mut bytes, &row).expect(written);
            bytes.push(b'\n');
        }
        Ok(write_atomically(path, &bytes)?)
    }

    /// Reads and checks a shard.
    ///
    /// # Errors
    /// [`Error::Labels`] with file and line for what is no shard, was cut short or changed.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Io {
            action: "read",
            path: path.into(),
            source,
        })?;
        let wrong = |line: usize, why: String| {
            Error::labels(path, format!("line {line}: {why}; label this shard again"))
        };
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let mut lines = text.split(|&byte| byte == b'\n').enumerate();
        let first = lines.next().map_or(&[][..], |(_, line)| line);
        let value: serde_json::Value = serde_json::from_slice(first).unwrap_or_default();
        if value["format"] != FORMAT || value["schema"] != SCHEMA {
            let why = "this is no shard of a labelling; give the files that `mopo label --shard` \
                       wrote";
            return Err(Error::labels(path, why));
        }
        let header: ShardHeader =
            serde_json::from_value(value).map_err(|e| wrong(1, e.to_string()))?;
        let n_rewards = header.labelling.config.objectives.len();
        let (mut records, mut scores) = (Vec::new(), Vec::new());
        for (i, line) in lines {
            let row: Row = serde_json::from_slice(line).map_err(|e| wrong(i + 1, e.to_string()))?;
            row.record.check(&header.set.objectives).map_err(|e| wrong(i + 1, e.to_string()))?;
            if [&row.scores.first, &row.scores.second].iter().any(|side| side.len() != n_rewards) {
                return Err(wrong(i + 1, format!("there are not {n_rewards} scores a side")));
            }
            records.push(row.record);
            scores.push(row.scores);
        }
        if records.len() != header.rows {
            let (found, promised) = (records.len(), header.rows);
            let why = format!("the first line promises {promised} rows, the file holds {found}");
            return Err(wrong(records.len() + 1, why));
        }
        let ShardHeader { shard: index, labelling, set, .. } = header;
        Ok(Self { index, labelling, header: set, records, scores })
    }
}

/// Puts the shards of one labelling together, in any order of files.
///
/// # Errors
/// [`Error::Labels`] names the file: a shard that stands there twice, one that is missing, one of
/// another number of shards, of another set or with other rewards; and if what they hold together is
/// not the set that was labelled.
pub fn merge_shards(paths: &[PathBuf]) -> Result<LabelSet> {
    let mut shards = Vec::with_capacity(paths.len());
    for path in paths {
        shards.push((path, Shard::read(path)?));
    }
    let Some((first_path, first)) = shards.first() else {
        return Err(Error::invalid("--merge", "empty", "give the file of every shard"));
    };
    for (path, shard) in &shards[1..] {
        let (one, other) = (&first.labelling, &shard.labelling);
        let differs = if one.input_sha256 != other.input_sha256 {
            "labels another set"
        } else if one.rewards_sha256 != other.rewards_sha256 {
            "was labelled with other rewards or rules"
        } else if one != other || first.header != shard.header {
            "was labelled with other settings (--keep, or the set's header)"
        } else if first.index.of != shard.index.of {
            "is of another number of shards"
        } else {
            continue;
        };
        let message = format!(
            "shard {} {differs} than {} (shard {}); give the shards of one labelling alone",
            shard.index,
            first_path.display(),
            first.index
        );
        return Err(Error::labels(path, message));
    }
    let of = first.index.of;
    let labelling = first.labelling.clone();
    let header = first.header.clone();
    shards.sort_by_key(|(_, shard)| shard.index.index);
    for pair in shards.windows(2) {
        if pair[0].1.index == pair[1].1.index {
            let message = format!(
                "shard {} stands there twice, the other time as {}; give each once",
                pair[1].1.index,
                pair[0].0.display()
            );
            return Err(Error::labels(pair[1].0, message));
        }
    }
    let there: Vec<usize> = shards.iter().map(|(_, shard)| shard.index.index).collect();
    let missing: Vec<String> =
        (1..=of).filter(|i| !there.contains(i)).map(|i| format!("{i}/{of}")).collect();
    if !missing.is_empty() {
        let message = format!(
            "the labelling has {of} shards, but these are missing: {}; give their files too",
            missing.join(", ")
        );
        return Err(Error::labels(shards[0].0, message));
    }
    let (mut records, mut scores) = (Vec::new(), Vec::new());
    for (_, shard) in shards {
        records.extend(shard.records);
        scores.extend(shard.scores);
    }
    let set = PreparedSet { header, records };
    if set.hash() != labelling.input_sha256 {
        let message = "together the shards do not hold the set that was labelled (its SHA-256 is \
                       another): one was changed; label the shards again";
        return Err(Error::labels(&paths[0], message));
    }
    let PreparedSet { header, records } = set;
    Ok(LabelSet { labelling, header, records, scores })
}
