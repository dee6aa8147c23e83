//! A file of texts, read as often as rewards need it.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use mopo_data::Lines;
use mopo_hub::SavedRows;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::column::ColumnWriter;
use super::line::{Text, check, is_empty, text, with_scores};
use super::{CHUNK, ScoreColumn};
use crate::{Error, Result, Reward};

/// Number of lines, or of their bytes up to a whole chunk, that are read before they are parsed on all cores.
const BLOCK_LINES: usize = 16 * CHUNK;
const BLOCK_BYTES: usize = 8 << 20;

/// A file of texts whose lines have all been checked.
#[derive(Debug)]
pub struct TextFile {
    path: PathBuf,
    /// Input that cannot be read twice (a pipe) is copied to an unnamed file.
    copy: Option<File>,
    n_texts: usize,
    sha256: String,
}

/// A line that is not empty, and its number from 1.
type Numbered = (usize, Vec<u8>);

/// Receives line numbers and, for each, prompt and response.
type EachTexts<'a> = dyn FnMut(&[usize], &[(&str, &str)]) -> Result<()> + 'a;

impl TextFile {
    /// Reads a file of JSON Lines once, to check it. Input that cannot be read twice is copied to
    /// `folder`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] with the line that is not UTF-8, not JSON, has no `response`,
    /// or has
    /// `scores` that are not an object; and for a file without texts.
    pub fn open(path: impl AsRef<Path>, folder: &Path) -> Result<Self> {
        let path = path.as_ref();
        let io = |source| Error::Io { action: "read", path: path.into(), source };
        let file = File::open(path).map_err(io)?;
        let copy = match file.metadata().map_err(io)?.is_file() {
            true => None,
            false => {
                let copied = tempfile::tempfile_in(folder).and_then(|mut copy| {
                    std::io::copy(&mut &file, &mut copy)?;
                    Ok(copy)
                });
                Some(copied.map_err(io)?)
            }
        };
        let mut this = Self { path: path.into(), copy, n_texts: 0, sha256: String::new() };
        let mut n_texts = 0;
        this.sha256 = this.for_each_block(true, &mut |lines| {
            let wrong: Vec<_> = lines.par_iter().map(|(_, line)| check(line).err()).collect();
            for ((number, _), wrong) in lines.iter().zip(wrong) {
                wrong.map_or(Ok(()), |why| Err(this.wrong(*number, &why)))?;
            }
            n_texts += lines.len();
            Ok(())
        })?;
        if n_texts == 0 {
            let message = "it has no texts; give one JSON object per line, with a `response`";
            return Err(Error::File { path: path.into(), message: message.into() });
        }
        this.n_texts = n_texts;
        Ok(this)
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.n_texts
    }

    /// Always false: files without texts are refused.
    pub fn is_empty(&self) -> bool {
        self.n_texts == 0
    }

    /// The SHA-256 of the file.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Calls `each` with every prompt and response, in order.
    ///
    /// # Errors
    /// Those of `each`; [`Error::Io`]; [`Error::File`] for a file that has changed since it was
    /// opened.
    pub fn for_each(&self, each: &mut dyn FnMut(&str, &str) -> Result<()>) -> Result<()> {
        self.for_each_text(&mut |_, items| {
            items.iter().try_for_each(|(prompt, response)| each(prompt, response))
        })
    }

    /// Scores all texts with some rewards, in order, in one pass. `advance` is called with the
    /// number of newly
    /// scored texts. The scores are kept in unnamed files in `folder`; each column comes with the
    /// seconds that
    /// its reward took.
    ///
    /// # Errors
    /// [`Error::File`] with the line of a text that cannot be scored, or whose score is not finite,
    /// and
    /// for a file that has changed since it was opened.
    pub fn score(
        &self,
        rewards: &[&dyn Reward],
        folder: &Path,
        advance: &mut dyn FnMut(usize),
    ) -> Result<Vec<(ScoreColumn, f64)>> {
        let columns = rewards.iter().map(|_| Ok((ColumnWriter::new(folder)?, 0.0)));
        let mut columns = columns.collect::<Result<Vec<_>>>()?;
        self.for_each_text(&mut |numbers, items| {
            for (reward, (column, seconds)) in rewards.iter().zip(&mut columns) {
                let clock = Instant::now();
                let found = self.chunk_scores(*reward, numbers, items)?;
                *seconds += clock.elapsed().as_secs_f64();
                column.push(&found)?;
            }
            advance(items.len());
            Ok(())
        })?;
        columns.into_iter().map(|(column, seconds)| Ok((column.finish()?, seconds))).collect()
    }

    /// Scores the rows of a shard that are not saved yet, and saves them: the scores of all `rewards`, one list for each
    /// text. `seconds` are the rewards' own, and get what they take.
    ///
    /// # Errors
    /// Those of [`score`](Self::score); [`Error::Hub`] if they cannot be saved.
    pub(super) fn score_rows(
        &self,
        rewards: &[&dyn Reward],
        rows: &Range<usize>,
        saved: &mut SavedRows,
        seconds: &mut [f64],
        advance: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let mut start = 0;
        let sha256 = self.for_each_block(true, &mut |lines| {
            let here = start..start + lines.len();
            start = here.end;
            if here.end <= rows.start || here.start >= rows.end {
                return Ok(());
            }
            let texts = self.parsed(lines)?;
            let items: Vec<(&str, &str)> =
                texts.iter().map(|text| (&*text.prompt, &*text.response)).collect();
            let numbers: Vec<usize> = lines.iter().map(|(number, _)| *number).collect();
            let mut compute = |rows: Range<usize>| {
                let own = rows.start - here.start..rows.end - here.start;
                let mut scores = vec![vec![]; own.len()];
                for (reward, seconds) in rewards.iter().zip(&mut *seconds) {
                    let clock = Instant::now();
                    let found =
                        self.chunk_scores(*reward, &numbers[own.clone()], &items[own.clone()])?;
                    *seconds += clock.elapsed().as_secs_f64();
                    scores.iter_mut().zip(found).for_each(|(scores, score)| scores.push(score));
                }
                let as_line = |scores: &Vec<f32>| {
                    serde_json::to_string(scores)
                        .map_err(|source| Error::Json { what: "scores".into(), source })
                };
                scores.iter().map(as_line).collect::<Result<Vec<String>>>()
            };
            saved.fill_within(here.clone(), &mut compute, advance)
        })?;
        if sha256 == self.sha256 { Ok(()) } else { Err(self.changed()) }
    }

    /// The scores of some texts, whose first is the first of a chunk, by one reward.
    fn chunk_scores(
        &self,
        reward: &dyn Reward,
        numbers: &[usize],
        items: &[(&str, &str)],
    ) -> Result<Vec<f32>> {
        let batch = |items: &[(&str, &str)]| reward.score_batch(items);
        let found: Vec<Result<Vec<f32>>> = match reward.uses_all_cores() {
            true => items.chunks(CHUNK).map(batch).collect(),
            false => items.par_chunks(CHUNK).map(batch).collect(),
        };
        let mut scores = Vec::with_capacity(items.len());
        for (found, numbers) in found.into_iter().zip(numbers.chunks(CHUNK)) {
            let wrong = |i: usize, why: String| {
                let why = format!("cannot be scored by `{}`: {why}", reward.name());
                self.wrong(numbers[i], &why)
            };
            let found = found.map_err(|error| match error {
                Error::Text { index, why, .. } => wrong(index, format!("its text {why}")),
                other => other,
            })?;
            assert_eq!(found.len(), numbers.len(), "`{}` scores each text", reward.name());
            if let Some(i) = found.iter().position(|score| !score.is_finite()) {
                let why = format!("the score is {}, which is not finite", found[i]);
                return Err(wrong(i, why));
            }
            scores.extend(found);
        }
        Ok(scores)
    }

    /// Writes the lines with `scores`, an object with one number per reward, to `out`, whole or not
    /// at all.
    /// Scores of other rewards are kept. `before` is called when everything is written
    /// but not yet visible.
    ///
    /// # Errors
    /// [`Error::Hub`] if it cannot be written; those of `before`; [`Error::File`] for a file that
    /// has
    /// changed since it was opened.
    pub fn write_with_scores(
        &self,
        out: &Path,
        names: &[&str],
        columns: &[ScoreColumn],
        before: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut columns = columns.iter().map(ScoreColumn::scores).collect::<Result<Vec<_>>>()?;
        let failed = |source| Error::Io { action: "write", path: out.into(), source };
        // Errors of the lines are kept apart from those of the file.
        let mut wrong = None;
        let written =
            mopo_hub::write_atomically_with(out, |file| {
                let lines = self.for_each_block(true, &mut |lines| {
                    let mut scores = Vec::with_capacity(lines.len());
                    for _ in lines {
                        let row = columns
                            .iter_mut()
                            .map(|column| column.next().unwrap_or_else(|| Err(self.changed())));
                        scores.push(row.collect::<Result<Vec<f32>>>()?);
                    }
                    let written: Vec<_> = lines
                        .par_iter()
                        .zip(&scores)
                        .map(|((_, line), scores)| with_scores(line, names, scores))
                        .collect();
                    for ((number, _), line) in lines.iter().zip(written) {
                        let line = line.map_err(|why| self.wrong(*number, &why))?;
                        file.write_all(&line).map_err(failed)?;
                    }
                    Ok(())
                });
                let done = lines.and_then(|sha256| {
                    if sha256 == self.sha256 { before() } else { Err(self.changed()) }
                });
                done.map_err(|error| {
                    wrong = Some(error);
                    std::io::Error::other("its lines")
                })
            });
        match wrong {
            Some(error) => Err(error),
            None => Ok(written?),
        }
    }

    /// The texts of some lines, which were checked when the file was opened.
    fn parsed<'a>(&self, lines: &'a [Numbered]) -> Result<Vec<Text<'a>>> {
        let texts: Vec<_> =
            lines.par_iter().map(|(_, line)| text(line).map_err(|_| self.changed())).collect();
        texts.into_iter().collect()
    }

    /// Calls `each` with line numbers and texts, block by block.
    fn for_each_text(&self, each: &mut EachTexts<'_>) -> Result<()> {
        // A changed file is noticed when its lines are written.
        let mut n_texts = 0;
        self.for_each_block(false, &mut |lines| {
            n_texts += lines.len();
            let texts = self.parsed(lines)?;
            let items: Vec<(&str, &str)> =
                texts.iter().map(|text| (&*text.prompt, &*text.response)).collect();
            let numbers: Vec<usize> = lines.iter().map(|(number, _)| *number).collect();
            each(&numbers, &items)
        })?;
        if n_texts == self.n_texts { Ok(()) } else { Err(self.changed()) }
    }

    /// Calls `each` with the lines that are not blank, block by block; returns the SHA-256 of the
    /// file if it is `hashed`.
    fn for_each_block(
        &self,
        hashed: bool,
        each: &mut dyn FnMut(&[Numbered]) -> Result<()>,
    ) -> Result<String> {
        let io = |source| Error::Io { action: "read", path: self.path.clone(), source };
        let file = match &self.copy {
            Some(copy) => {
                let mut copy = copy.try_clone().map_err(io)?;
                copy.seek(SeekFrom::Start(0)).map_err(io)?;
                copy
            }
            None => File::open(&self.path).map_err(io)?,
        };
        let hash = Rc::new(RefCell::new(Sha256::new()));
        let file = Hashed { file, hash: hashed.then(|| hash.clone()) };
        let mut lines = Lines::new(&self.path, BufReader::with_capacity(1 << 16, file));
        let (mut block, mut n_bytes) = (Vec::new(), 0);
        while let Some((number, mut line)) = lines.next_line()? {
            // Some editors mark UTF-8.
            if number == 1 {
                line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
            }
            if is_empty(line) {
                continue;
            }
            n_bytes += line.len();
            block.push((number, line.to_vec()));
            // Blocks are whole chunks, so that a text is scored with the same others in whatever part of the work.
            let is_full = block.len() == BLOCK_LINES || n_bytes >= BLOCK_BYTES;
            if is_full && block.len().is_multiple_of(CHUNK) {
                each(&block)?;
                block.clear();
                n_bytes = 0;
            }
        }
        if !block.is_empty() {
            each(&block)?;
        }
        Ok(mopo_hub::hex(&hash.take().finalize()))
    }

    fn wrong(&self, line: usize, why: &str) -> Error {
        Error::File { path: self.path.clone(), message: format!("line {line} {why}") }
    }

    fn changed(&self) -> Error {
        let message = "it changed while it was scored; run the command again".into();
        Error::File { path: self.path.clone(), message }
    }
}

/// A file whose bytes may be hashed while they are read.
struct Hashed {
    file: File,
    hash: Option<Rc<RefCell<Sha256>>>,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n_bytes = self.file.read(buffer)?;
        if let Some(hash) = &self.hash {
            hash.borrow_mut().update(&buffer[..n_bytes]);
        }
        Ok(n_bytes)
    }
}
