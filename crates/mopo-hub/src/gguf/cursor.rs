//! Reads the header of a GGUF file. Each length and count is compared with the rest of the file
//! before memory is allocated for it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::{Error, Result};

/// Maximum size of a header. Those of vocabularies of 262,144 tokens have 20 MB.
const MAX_HEADER: u64 = 128 << 20;

pub(super) struct Cursor<'a> {
    path: &'a Path,
    input: BufReader<&'a File>,
    /// The length of the file.
    n_bytes: u64,
    at: u64,
    /// What is being read, for errors: "metadata `a.b`".
    pub(super) place: String,
}

impl<'a> Cursor<'a> {
    /// At the beginning of a file of `n_bytes`.
    pub(super) fn new(path: &'a Path, file: &'a File, n_bytes: u64) -> Self {
        Self { path, input: BufReader::new(file), n_bytes, at: 0, place: "its head".into() }
    }

    /// The number of bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    pub(super) fn corrupt(&self, reason: String) -> Error {
        corrupt(self.path, self.n_bytes, reason)
    }

    /// The next `N` bytes.
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.claim(N as u64)?;
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(Error::io("read", self.path))?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    pub(super) fn bool(&mut self) -> Result<bool> {
        let [byte] = self.bytes()?;
        self.check_bool(byte)
    }

    pub(super) fn check_bool(&self, byte: u8) -> Result<bool> {
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.corrupt(format!("{}: a truth value is {byte}", self.place))),
        }
    }

    /// A number of `things` that take at least `size` bytes each, all of which the rest of the file
    /// has room for.
    pub(super) fn count(&mut self, size: u64, things: &str) -> Result<usize> {
        let n = self.u64()?;
        let room = self.n_bytes - self.at;
        if n.checked_mul(size).is_none_or(|needed| needed > room) {
            return Err(self.corrupt(format!(
                "{} should have {n} {things}, but only {room} bytes follow",
                self.place
            )));
        }
        self.check_size(n * size)?;
        Ok(n as usize)
    }

    /// As many bytes as the number before them says.
    pub(super) fn counted_bytes(&mut self) -> Result<Vec<u8>> {
        let n = self.count(1, "bytes")?;
        self.many(n, 1)
    }

    /// `n` items of `size` bytes each; `n` comes from [`count`](Self::count).
    pub(super) fn many(&mut self, n: usize, size: usize) -> Result<Vec<u8>> {
        let n_bytes = n.saturating_mul(size);
        self.claim(n_bytes as u64)?;
        let mut bytes = vec![0; n_bytes];
        self.input.read_exact(&mut bytes).map_err(Error::io("read", self.path))?;
        Ok(bytes)
    }

    /// A string, with its length before it.
    pub(super) fn string(&mut self) -> Result<String> {
        let bytes = self.counted_bytes()?;
        String::from_utf8(bytes)
            .map_err(|_| self.corrupt(format!("{}: a string is not UTF-8", self.place)))
    }

    /// Moves the position after `n` bytes, which must be there.
    fn claim(&mut self, n: u64) -> Result<()> {
        if n > self.n_bytes - self.at {
            return Err(self.corrupt(format!("it ends within {}", self.place)));
        }
        self.check_size(n)?;
        self.at += n;
        Ok(())
    }

    fn check_size(&self, n: u64) -> Result<()> {
        if n > MAX_HEADER.saturating_sub(self.at) {
            let reason = format!("its header has more than the limit of {MAX_HEADER} bytes");
            return Err(self.corrupt(reason));
        }
        Ok(())
    }
}

/// [`Error::CorruptTensors`] for a GGUF file.
pub(super) fn corrupt(path: &Path, n_bytes: u64, reason: String) -> Error {
    Error::CorruptTensors { path: path.into(), n_bytes, kind: "GGUF", reason }
}
