//! Parts of a labelling made separately, as files, and how they are merged.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use mopo_data::{Header, Lines, PreferenceRecord, PreparedWriter, Scores};
use mopo_hub::{ShardIndex, check_finished, hex, in_order};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::job::{EachScored, Labelling};
use super::labelled::{LabelWriter, Labelled};
use crate::{Error, Result};

const FORMAT: &str = "mopo-label-shard";
const SCHEMA: u32 = 2;
/// Another version may score otherwise.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The first line of a shard's file. Its records follow with their scores, one per line, and then a [`Seal`].
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct ShardHeader {
    format: String,
    schema: u32,
    /// Version of the program; earlier ones did not say.
    #[serde(default)]
    version: String,
    shard: ShardIndex,
    rows: usize,
    labelling: Labelling,
    /// Header of the input set.
    set: Header,
}

impl ShardHeader {
    /// Whether this program would write it for this part of a labelling.
    pub(super) fn is_of(&self, shard: ShardIndex, labelling: &Labelling) -> bool {
        self.version == VERSION && self.shard == shard && self.labelling == *labelling
    }
}

#[derive(Serialize)]
struct RowRef<'a> {
    record: &'a PreferenceRecord,
    scores: &'a Scores,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    record: PreferenceRecord,
    /// `[n_rewards]` per response.
    scores: Scores,
}

/// The last line of a shard's file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    /// Of all lines before.
    sha256: String,
}

/// Writes lines of JSON and keeps the hash of all of them.
struct SealedLines<'a> {
    file: &'a mut dyn Write,
    hash: Sha256,
}

impl SealedLines<'_> {
    fn push(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.hash.update(&line);
        self.file.write_all(&line)
    }
}

/// A row whose record has been read before.
#[derive(Deserialize)]
struct ScoresOfRow {
    scores: Scores,
}

/// Writes a shard of `n_rows` rows, atomically.
///
/// # Errors
/// Those of `rows`; [`Error::Hub`] if the file cannot be written.
pub(super) fn write_shard(
    path: &Path,
    index: ShardIndex,
    labelling: &Labelling,
    set: &Header,
    n_rows: usize,
    rows: impl FnOnce(&mut EachScored<'_>) -> Result<()>,
) -> Result<()> {
    let header = ShardHeader {
        format: FORMAT.into(),
        schema: SCHEMA,
        version: VERSION.into(),
        shard: index,
        rows: n_rows,
        labelling: labelling.clone(),
        set: set.clone(),
    };
    // Errors of the rows are kept apart from those of the file.
    let mut wrong = None;
    let written = mopo_hub::write_atomically_with(path, |file| {
        let mut lines = SealedLines { file, hash: Sha256::new() };
        lines.push(&header)?;
        let mut full = None;
        let given = rows(&mut |record, scores| {
            lines.push(&RowRef { record: &record, scores }).map_err(|source| {
                full = Some(source);
                Error::labels(path, "the shard cannot be written")
            })
        });
        match (given, full) {
            (_, Some(source)) => Err(source),
            (Err(error), None) => {
                wrong = Some(error);
                Err(std::io::Error::other("its rows"))
            }
            (Ok(()), None) => {
                let sha256 = hex(&lines.hash.finalize_reset());
                lines.push(&Seal { sha256 })
            }
        }
    });
    match wrong {
        Some(error) => Err(error),
        None => Ok(written?),
    }
}

/// A shard whose first line has been read.
pub(super) struct ShardFile {
    path: PathBuf,
    header: ShardHeader,
}

impl ShardFile {
    /// Reads and checks the first line.
    ///
    /// # Errors
    /// [`Error::Labels`] if it is not a shard; [`Error::Io`].
    pub(super) fn open(path: &Path) -> Result<Self> {
        check_finished(path)?;
        let mut lines = lines(path)?;
        let first = lines.next_line()?.map_or(&[][..], |(_, line)| line);
        let value: serde_json::Value = serde_json::from_slice(first).unwrap_or_default();
        if value["format"] == FORMAT && value["schema"] == 1 {
            let why = "an earlier version of the program wrote this shard; label it again";
            return Err(Error::labels(path, why));
        }
        if value["format"] != FORMAT || value["schema"] != SCHEMA {
            let why = "this is not a shard; give the files that `mopo label --shard` wrote";
            return Err(Error::labels(path, why));
        }
        let header = serde_json::from_value(value).map_err(|e| wrong(path, 1, e.to_string()))?;
        Ok(Self { path: path.into(), header })
    }

    pub(super) fn header(&self) -> &ShardHeader {
        &self.header
    }

    /// Rows with their scores, checked. The last item is an error if their number is not that of the first line, or if a
    /// byte of the file has changed.
    ///
    /// # Errors
    /// [`Error::Io`]; an item is [`Error::Labels`] with file and line for truncated or changed
    /// rows.
    pub(super) fn rows(&self) -> Result<impl Iterator<Item = Result<(PreferenceRecord, Scores)>>> {
        let n_rewards = self.header.labelling.config.objectives.len();
        let objectives = &self.header.set.objectives;
        self.parsed(move |line| {
            let row: Row = serde_json::from_slice(line).map_err(|e| e.to_string())?;
            row.record.check(objectives).map_err(|e| e.to_string())?;
            if [&row.scores.first, &row.scores.second]
                .iter()
                .any(|scores| scores.len() != n_rewards)
            {
                return Err(format!("there are not {n_rewards} scores per response"));
            }
            Ok((row.record, row.scores))
        })
    }

    /// The scores of rows that have been checked before.
    fn scores(&self) -> Result<impl Iterator<Item = Result<Scores>>> {
        self.parsed(|line| {
            let row: ScoresOfRow = serde_json::from_slice(line).map_err(|e| e.to_string())?;
            Ok(row.scores)
        })
    }

    fn parsed<T>(
        &self,
        parse: impl Fn(&[u8]) -> std::result::Result<T, String>,
    ) -> Result<impl Iterator<Item = Result<T>>> {
        let promised = self.header.rows;
        let mut lines = lines(&self.path)?;
        let mut hash = Sha256::new();
        let first = lines.next_line()?.map_or(&[][..], |(_, line)| line);
        hash.update(first);
        hash.update(b"\n");
        let (mut found, mut ended) = (0, false);
        let mut next = move || {
            let here = found + 2;
            let Some((number, line)) = lines.next_line()? else {
                let why = format!(
                    "the file ends here, after {found} rows of {promised} and without its hash"
                );
                return Err(wrong(&self.path, here, why));
            };
            if found == promised {
                let seal: Option<Seal> = serde_json::from_slice(line).ok();
                let is_whole = seal.is_some_and(|seal| seal.sha256 == hex(&hash.finalize_reset()));
                return match is_whole && lines.next_line()?.is_none() {
                    true => Ok(None),
                    false => {
                        let why = "the file was changed: its hash (SHA-256) is another than here";
                        Err(wrong(&self.path, here, why.into()))
                    }
                };
            }
            found += 1;
            hash.update(line);
            hash.update(b"\n");
            parse(line).map(Some).map_err(|why| wrong(&self.path, number, why))
        };
        Ok(std::iter::from_fn(move || {
            let item = if ended { None } else { next().transpose() };
            ended = !matches!(item, Some(Ok(_)));
            item
        }))
    }
}

fn lines(path: &Path) -> Result<Lines<Box<dyn BufRead + Send>>> {
    let io = |source| Error::Io { action: "read", path: path.into(), source };
    let file = BufReader::with_capacity(1 << 16, File::open(path).map_err(io)?);
    Ok(Lines::new(path, Box::new(file)))
}

fn wrong(path: &Path, line: usize, why: String) -> Error {
    Error::labels(path, format!("line {line}: {why}; label this shard again"))
}

/// The shards of one labelling, whose first lines agree.
pub struct ShardFiles {
    /// In the order of their rows.
    files: Vec<ShardFile>,
}

impl ShardFiles {
    /// Reads the first lines of the shards of one labelling, in any order.
    ///
    /// # Errors
    /// [`Error::Labels`] names the file: a duplicate or missing shard, or one of
    /// another number of shards, another set or other rewards.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            files.push(ShardFile::open(path)?);
        }
        let Some(first) = files.first() else {
            return Err(Error::invalid("--merge", "empty", "give the file of every shard"));
        };
        for shard in &files[1..] {
            let (a, b) = (&first.header, &shard.header);
            let (one, other) = (&a.labelling, &b.labelling);
            let differs = if one.input_sha256 != other.input_sha256 {
                "labels another set"
            } else if one.rewards_sha256 != other.rewards_sha256 {
                "was labelled with other rewards or rules"
            } else if one != other || a.set != b.set {
                "was labelled with other settings (--keep, or the set's header)"
            } else if a.version != b.version {
                "was labelled by another version of the program"
            } else {
                continue;
            };
            let message = format!(
                "shard {} {differs} than {} (shard {}); give only the shards of one labelling",
                b.shard,
                first.path.display(),
                a.shard
            );
            return Err(Error::labels(&shard.path, message));
        }
        Ok(Self { files: in_order(files, |file| (file.header.shard, &file.path))? })
    }

    /// Which labelling this is.
    pub fn labelling(&self) -> &Labelling {
        &self.files[0].header.labelling
    }

    /// Number of pairs of all shards, according to their first lines.
    pub fn n_pairs(&self) -> usize {
        self.files.iter().map(|file| file.header.rows).fold(0, usize::saturating_add)
    }

    /// The labelled set, equal to that of an unsharded labelling. Until it is written its records
    /// are in an unnamed file in `folder`.
    ///
    /// # Errors
    /// [`Error::Labels`] with file and line for changed or truncated rows; and if the
    /// shards together do not contain the input set.
    pub fn merge(&self, folder: &Path) -> Result<Labelled> {
        let before = &self.files[0].header.set;
        let mut writer = LabelWriter::new(folder, self.labelling(), before)?;
        // Writes the input set again, to compare its hash.
        let mut unlabelled = PreparedWriter::new(folder, before.objectives.clone())?;
        for file in &self.files {
            for row in file.rows()? {
                let (record, scores) = row?;
                unlabelled.push(&record)?;
                writer.push(record, &scores)?;
            }
        }
        let Header { split, sources, notes, .. } = before.clone();
        let found = unlabelled.finish(split, sources, notes)?.hash()?;
        if found != self.labelling().input_sha256 {
            // Each is as it was written.
            let message = "the shards together are not the set that was labelled (their SHA-256 differs); label the \
                           shards again, all with one program";
            return Err(Error::labels(&self.files[0].path, message));
        }
        writer.finish(|each| {
            for file in &self.files {
                for scores in file.scores()? {
                    each(&scores?);
                }
            }
            Ok(())
        })
    }
}
