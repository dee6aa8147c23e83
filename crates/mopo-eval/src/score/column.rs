//! The scores of one reward, on disk: four bytes per text.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::{Error, FirstPass, Result, ScoreStatistics};

/// Scores in the order of their texts, in an unnamed file.
#[derive(Debug)]
pub struct ScoreColumn {
    folder: PathBuf,
    file: File,
    first: FirstPass,
    n: usize,
}

impl ScoreColumn {
    /// The scores in order, from the first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn scores(&self) -> Result<impl Iterator<Item = Result<f32>>> {
        let io = |source| Error::Io { action: "read in", path: self.folder.clone(), source };
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut file = BufReader::with_capacity(1 << 16, file);
        Ok((0..self.n).map(move |_| {
            let mut bytes = [0; 4];
            file.read_exact(&mut bytes).map_err(io)?;
            Ok(f32::from_le_bytes(bytes))
        }))
    }

    /// Statistics of all scores.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn statistics(&self) -> Result<ScoreStatistics> {
        let mut second = self.first.second();
        for score in self.scores()? {
            second.push(score?);
        }
        Ok(second.finish())
    }
}

/// A column being written.
pub(super) struct ColumnWriter {
    folder: PathBuf,
    file: BufWriter<File>,
    first: FirstPass,
    n: usize,
}

impl ColumnWriter {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(|source| Error::Io {
            action: "write into",
            path: folder.into(),
            source,
        })?;
        let file = BufWriter::with_capacity(1 << 16, file);
        Ok(Self { folder: folder.into(), file, first: FirstPass::default(), n: 0 })
    }

    pub(super) fn push(&mut self, scores: &[f32]) -> Result<()> {
        for &score in scores {
            self.first.push(score);
            self.file.write_all(&score.to_le_bytes()).map_err(|source| self.failed(source))?;
        }
        self.n += scores.len();
        Ok(())
    }

    pub(super) fn finish(self) -> Result<ScoreColumn> {
        let Self { folder, file, first, n } = self;
        match file.into_inner() {
            Ok(file) => Ok(ScoreColumn { folder, file, first, n }),
            Err(e) => Err(Error::Io { action: "write into", path: folder, source: e.into_error() }),
        }
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::Io { action: "write into", path: self.folder.clone(), source }
    }
}
