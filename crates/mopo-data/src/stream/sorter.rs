//! Sorts more numbers than fit into memory: sorted runs in an unnamed file, then merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes in memory before a run is written.
const HELD_BYTES: usize = 8 << 20;
/// Bytes in memory per run while merging.
const MERGE_BYTES: usize = 1 << 15;

/// Sorts entries of `N` numbers, first by the first.
pub(crate) struct Sorter<const N: usize> {
    folder: PathBuf,
    held: Vec<[u64; N]>,
    most: usize,
    runs: Option<Runs>,
}

struct Runs {
    file: BufWriter<File>,
    /// The end of each run, in entries.
    ends: Vec<u64>,
}

impl<const N: usize> Sorter<N> {
    const ENTRY_BYTES: usize = 8 * N;

    /// A sorter that needs no file below 8 MiB; beyond, an unnamed one in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self::holding(folder, HELD_BYTES / Self::ENTRY_BYTES)
    }

    fn holding(folder: &Path, most: usize) -> Self {
        Self { folder: folder.into(), held: Vec::new(), most, runs: None }
    }

    pub(crate) fn push(&mut self, entry: [u64; N]) -> io::Result<()> {
        if self.held.len() == self.most {
            self.write_run()?;
        }
        self.held.push(entry);
        Ok(())
    }

    fn write_run(&mut self) -> io::Result<()> {
        let runs = match &mut self.runs {
            Some(runs) => runs,
            none => none.insert(Runs {
                file: BufWriter::with_capacity(1 << 16, tempfile::tempfile_in(&self.folder)?),
                ends: vec![],
            }),
        };
        self.held.sort_unstable();
        for number in self.held.iter().flatten() {
            runs.file.write_all(&number.to_le_bytes())?;
        }
        let start = runs.ends.last().copied().unwrap_or(0);
        runs.ends.push(start + self.held.len() as u64);
        self.held.clear();
        Ok(())
    }

    /// Calls `each` with all entries in order.
    ///
    /// # Errors
    /// Those of the file, converted by `io`, and those of `each`.
    pub(crate) fn for_each<E>(
        mut self,
        io: impl Fn(io::Error) -> E,
        mut each: impl FnMut([u64; N]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.runs.is_none() {
            self.held.sort_unstable();
            return self.held.into_iter().try_for_each(each);
        }
        self.write_run().map_err(&io)?;
        self.held = Vec::new();
        let Some(Runs { mut file, ends }) = self.runs else { return Ok(()) };
        file.flush().map_err(&io)?;
        let file = file.get_ref();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let mut runs: Vec<Run<N>> =
            starts.zip(&ends).map(|(at, &end)| Run { at, end, held: vec![], next: 0 }).collect();
        let mut heads = BinaryHeap::new();
        for (i, run) in runs.iter_mut().enumerate() {
            if let Some(entry) = run.next(file).map_err(&io)? {
                heads.push(Reverse((entry, i)));
            }
        }
        while let Some(mut head) = heads.peek_mut() {
            let Reverse((entry, i)) = *head;
            match runs[i].next(file).map_err(&io)? {
                Some(entry) => *head = Reverse((entry, i)),
                None => {
                    std::collections::binary_heap::PeekMut::pop(head);
                }
            }
            each(entry)?;
        }
        Ok(())
    }
}

/// The rest of a run.
struct Run<const N: usize> {
    /// Position in the file, in entries.
    at: u64,
    end: u64,
    held: Vec<[u64; N]>,
    next: usize,
}

impl<const N: usize> Run<N> {
    fn next(&mut self, file: &File) -> io::Result<Option<[u64; N]>> {
        if self.next == self.held.len() {
            let n_entries = (self.end - self.at).min((MERGE_BYTES / (8 * N)) as u64);
            if n_entries == 0 {
                return Ok(None);
            }
            let mut bytes = vec![0; n_entries as usize * 8 * N];
            file.read_exact_at(&mut bytes, self.at * 8 * N as u64)?;
            let number = |bytes: &[u8]| u64::from_le_bytes(std::array::from_fn(|i| bytes[i]));
            self.held.clear();
            self.held.extend(
                bytes
                    .chunks_exact(8 * N)
                    .map(|entry| std::array::from_fn(|i| number(&entry[8 * i..8 * i + 8]))),
            );
            self.at += n_entries;
            self.next = 0;
        }
        self.next += 1;
        Ok(Some(self.held[self.next - 1]))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::identity;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_come_back_in_order(
            entries in prop::collection::vec(prop::array::uniform2(0u64..9), 0..60), most in 1usize..70,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::holding(folder.path(), most);
            for entry in &entries {
                sorter.push(*entry).unwrap();
            }
            let mut found = vec![];
            sorter.for_each(identity, |entry| { found.push(entry); Ok(()) }).unwrap();
            let mut expected = entries;
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
            // No file is left, and none has a name meanwhile.
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn runs_longer_than_a_read_are_merged() {
        let folder = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::holding(folder.path(), 5000);
        (0..20_000u64).for_each(|i| sorter.push([i * 7919 % 20_000, i, 0]).unwrap());
        let mut next = 0;
        sorter
            .for_each(identity, |[number, ..]| {
                assert_eq!(number, next);
                next += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(next, 20_000);
    }
}
