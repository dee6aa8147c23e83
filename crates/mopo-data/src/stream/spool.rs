//! Rows that are needed again in another order, on disk instead of in memory.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes read at once if consecutive rows are requested.
const WINDOW_BYTES: usize = 1 << 16;

/// Location of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RowAt {
    pub(crate) offset: u64,
    pub(crate) n_bytes: u64,
}

/// Receives rows.
pub(crate) struct Spool<T> {
    file: BufWriter<File>,
    line: Vec<u8>,
    end: u64,
    rows: PhantomData<fn(T)>,
}

impl<T: Serialize> Spool<T> {
    /// An unnamed file in `folder`.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let file = BufWriter::with_capacity(WINDOW_BYTES, tempfile::tempfile_in(folder)?);
        Ok(Self { file, line: vec![], end: 0, rows: PhantomData })
    }

    /// Adds a row, as a line of JSON.
    pub(crate) fn push(&mut self, row: &T) -> io::Result<RowAt> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, row)?;
        self.line.push(b'\n');
        self.file.write_all(&self.line)?;
        let at = RowAt { offset: self.end, n_bytes: self.line.len() as u64 };
        self.end += at.n_bytes;
        if self.line.capacity() > 1 << 20 {
            self.line = vec![];
        }
        Ok(at)
    }

    pub(crate) fn finish(self) -> io::Result<Spooled<T>> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Spooled { file, window: vec![], window_at: 0, rows: PhantomData })
    }
}

/// Returns rows.
#[derive(Debug)]
pub(crate) struct Spooled<T> {
    file: File,
    window: Vec<u8>,
    window_at: u64,
    rows: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Spooled<T> {
    pub(crate) fn row(&mut self, at: RowAt) -> io::Result<T> {
        Ok(serde_json::from_slice(self.line(at)?)?)
    }

    /// The row's line of JSON, line feed included.
    pub(crate) fn line(&mut self, RowAt { offset, n_bytes }: RowAt) -> io::Result<&[u8]> {
        let n_bytes = n_bytes as usize;
        let end = self.window_at + self.window.len() as u64;
        if offset < self.window_at || offset + n_bytes as u64 > end {
            // If the next request begins within what was read before, the following ones probably
            // do too.
            let follows = (self.window_at..=end).contains(&offset);
            self.window.resize(if follows { n_bytes.max(WINDOW_BYTES) } else { n_bytes }, 0);
            let mut n_read = 0;
            while n_read < self.window.len() {
                match self.file.read_at(&mut self.window[n_read..], offset + n_read as u64)? {
                    0 => break,
                    n => n_read += n,
                }
            }
            self.window.truncate(n_read);
            self.window_at = offset;
        }
        let start = (offset - self.window_at) as usize;
        self.window.get(start..start + n_bytes).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_back_in_any_order(
            (rows, order) in prop::collection::vec(".{0,9}|[a-z]{70000}", 1..20)
                .prop_flat_map(|rows| { let n = rows.len(); (Just(rows), prop::collection::vec(0..n, 40)) }),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut spool = Spool::new(folder.path()).unwrap();
            let at: Vec<RowAt> = rows.iter().map(|row| spool.push(row).unwrap()).collect();
            let mut spooled: Spooled<String> = spool.finish().unwrap();
            for i in (0..rows.len()).chain(order) {
                prop_assert_eq!(&spooled.row(at[i]).unwrap(), &rows[i]);
            }
        }
    }
}
