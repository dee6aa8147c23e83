//! The tokens of pairs: in memory, or made again from a prepared set whenever they are needed, so that a set may be larger
//! than memory.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mopo_data::{
    LengthLimits, PairTokens, PreferenceRecord, Tokenizer, TruncationReport, tokenize,
};

use crate::{Error, Result};

/// Tokens of pairs by their index.
#[derive(Debug, Clone)]
pub struct TokenStore(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Memory(Vec<PairTokens>),
    File(Arc<PairFile>),
}

/// A prepared set whose records are found by their place in the file.
#[derive(Debug)]
struct PairFile {
    file: File,
    path: PathBuf,
    /// Where each record's line begins, and where the last one ends.
    offsets: Vec<u64>,
    /// Tokens of the prompt and both responses of each.
    lengths: Vec<[u32; 3]>,
    tokenizer: Tokenizer,
    limits: LengthLimits,
}

impl From<Vec<PairTokens>> for TokenStore {
    fn from(tokens: Vec<PairTokens>) -> Self {
        Self(Kind::Memory(tokens))
    }
}

impl TokenStore {
    /// Goes through a prepared set once, and keeps of each record where it is and how long it is. `each` sees every
    /// record.
    ///
    /// # Errors
    /// The file cannot be read, or a line is no record; those of the tokenizer.
    pub(crate) fn open(
        path: &Path,
        tokenizer: &Tokenizer,
        limits: &LengthLimits,
        mut each: impl FnMut(&PreferenceRecord),
    ) -> Result<(Self, TruncationReport)> {
        let io = |action: &'static str| Error::io(action, path);
        let file = File::open(path).map_err(io("opening"))?;
        let mut reader =
            BufReader::with_capacity(1 << 16, file.try_clone().map_err(io("opening"))?);
        let mut line = Vec::new();
        // The header.
        let mut at = reader.read_until(b'\n', &mut line).map_err(io("reading"))? as u64;
        let (mut offsets, mut lengths) = (vec![at], vec![]);
        let mut report = TruncationReport::default();
        loop {
            line.clear();
            let n = reader.read_until(b'\n', &mut line).map_err(io("reading"))?;
            if n == 0 {
                break;
            }
            at += n as u64;
            let record = parsed(path, &line)?;
            let (tokens, cut) = tokenize(std::slice::from_ref(&record), tokenizer, limits)?;
            report.pairs += cut.pairs;
            report.prompts += cut.prompts;
            report.responses += cut.responses;
            report.identical += cut.identical;
            lengths.push(tokens[0].parts().map(|part| part.len() as u32));
            offsets.push(at);
            each(&record);
        }
        let pairs = PairFile {
            file,
            path: path.into(),
            offsets,
            lengths,
            tokenizer: tokenizer.clone(),
            limits: *limits,
        };
        Ok((Self(Kind::File(Arc::new(pairs))), report))
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kind::Memory(tokens) => tokens.len(),
            Kind::File(pairs) => pairs.lengths.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of a pair.
    ///
    /// # Errors
    /// The file can no longer be read.
    pub fn get(&self, pair: usize) -> Result<Cow<'_, PairTokens>> {
        match &self.0 {
            Kind::Memory(tokens) => Ok(Cow::Borrowed(&tokens[pair])),
            Kind::File(pairs) => pairs.tokens(pair).map(Cow::Owned),
        }
    }

    /// The texts of a pair whose tokens are not in memory; `None` if they are.
    ///
    /// # Errors
    /// The file can no longer be read.
    pub(crate) fn record(&self, pair: usize) -> Result<Option<PreferenceRecord>> {
        match &self.0 {
            Kind::Memory(_) => Ok(None),
            Kind::File(pairs) => pairs.record(pair).map(Some),
        }
    }

    /// The tokens of all pairs.
    pub fn iter(&self) -> impl Iterator<Item = Result<Cow<'_, PairTokens>>> {
        (0..self.len()).map(|pair| self.get(pair))
    }

    /// Tokens of a pair's prompt and of both responses.
    pub fn lengths(&self, pair: usize) -> [usize; 3] {
        match &self.0 {
            Kind::Memory(tokens) => tokens[pair].parts().map(<[u32]>::len),
            Kind::File(pairs) => pairs.lengths[pair].map(|n| n as usize),
        }
    }

    /// The same of all pairs.
    pub(crate) fn all_lengths(&self) -> impl Iterator<Item = [usize; 3]> {
        (0..self.len()).map(|pair| self.lengths(pair))
    }

    /// The tokens in memory, to change them; `None` if they are not there.
    pub(crate) fn in_memory_mut(&mut self) -> Option<&mut Vec<PairTokens>> {
        match &mut self.0 {
            Kind::Memory(tokens) => Some(tokens),
            Kind::File(_) => None,
        }
    }

    /// The tokens in memory; `None` if they are not there.
    pub(crate) fn in_memory(&self) -> Option<&[PairTokens]> {
        match &self.0 {
            Kind::Memory(tokens) => Some(tokens),
            Kind::File(_) => None,
        }
    }
}

impl PairFile {
    fn record(&self, pair: usize) -> Result<PreferenceRecord> {
        let (start, end) = (self.offsets[pair], self.offsets[pair + 1]);
        let mut line = vec![0; (end - start) as usize];
        self.file.read_exact_at(&mut line, start).map_err(Error::io("reading", &self.path))?;
        parsed(&self.path, &line)
    }

    fn tokens(&self, pair: usize) -> Result<PairTokens> {
        let record = self.record(pair)?;
        let (mut tokens, _) =
            tokenize(std::slice::from_ref(&record), &self.tokenizer, &self.limits)?;
        let tokens = tokens.swap_remove(0);
        match tokens.parts().map(|part| part.len() as u32) == self.lengths[pair] {
            true => Ok(tokens),
            false => Err(Error::corrupt(
                &self.path,
                format!("record {} was changed during training", pair + 1),
            )),
        }
    }
}

fn parsed(path: &Path, line: &[u8]) -> Result<PreferenceRecord> {
    serde_json::from_slice(line)
        .map_err(|e| Error::corrupt(path, format!("a line is no record: {e}")))
}
