//! The part of Thrift's compact protocol needed to check a Parquet file's headers before memory is
//! allocated.

/// Maximum number of nested structures; Parquet's have four levels.
const MAX_DEPTH: usize = 16;

/// Why a header cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Broken {
    /// More bytes are needed.
    Short,
    /// No more bytes would help.
    Invalid,
}

type Result<T> = std::result::Result<T, Broken>;

/// Kinds of values, with the protocol's numbers.
pub(super) const I32: u8 = 5;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCT: u8 = 12;

/// Reads from the beginning of some bytes.
pub(super) struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Compact<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Number of bytes read so far.
    pub(super) fn n_read(&self) -> usize {
        self.at
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = *self.bytes.get(self.at).ok_or(Broken::Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn skip_bytes(&mut self, n_bytes: u64) -> Result<()> {
        let left = (self.bytes.len() - self.at) as u64;
        if n_bytes > left {
            return Err(Broken::Short);
        }
        self.at += n_bytes as usize;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Broken::Invalid)
    }

    /// A signed number of any width.
    pub(super) fn int(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Number of elements of a list, and their kind.
    pub(super) fn list(&mut self) -> Result<(u64, u8)> {
        let head = self.byte()?;
        let n_elements = match head >> 4 {
            15 => self.varint()?,
            few => u64::from(few),
        };
        Ok((n_elements, head & 0x0f))
    }

    /// Calls `take` with the number and kind of each field of a structure; it reads the value, or
    /// returns that it did not.
    pub(super) fn fields(
        &mut self,
        take: &mut dyn FnMut(&mut Self, i64, u8) -> Result<bool>,
    ) -> Result<()> {
        self.fields_at(0, take)
    }

    fn fields_at(
        &mut self,
        depth: usize,
        take: &mut dyn FnMut(&mut Self, i64, u8) -> Result<bool>,
    ) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Broken::Invalid);
        }
        let mut number = 0i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            number = match head >> 4 {
                0 => self.int()?,
                step => number.wrapping_add(i64::from(step)),
            };
            if !take(self, number, head & 0x0f)? {
                self.skip(head & 0x0f, depth, true)?;
            }
        }
    }

    /// Skips a value. Booleans take a byte in lists, and none in fields.
    fn skip(&mut self, kind: u8, depth: usize, in_field: bool) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Broken::Invalid);
        }
        match kind {
            1 | 2 if in_field => Ok(()),
            1..=3 => self.skip_bytes(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.skip_bytes(8),
            8 => {
                let n_bytes = self.varint()?;
                self.skip_bytes(n_bytes)
            }
            LIST | 10 => {
                let (n_elements, kind) = self.list()?;
                (0..n_elements).try_for_each(|_| self.skip(kind, depth + 1, false))
            }
            11 => {
                let n_entries = self.varint()?;
                if n_entries == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                (0..n_entries).try_for_each(|_| {
                    self.skip(kinds >> 4, depth + 1, false)?;
                    self.skip(kinds & 0x0f, depth + 1, false)
                })
            }
            STRUCT => self.fields_at(depth + 1, &mut |_, _, _| Ok(false)),
            13 => self.skip_bytes(16),
            _ => Err(Broken::Invalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_found_behind_others() {
        // 1: i32 -3; 3: list of two i32; 4: true; 20 (written out): binary "ab"; 21: i32 300
        let bytes = [0x15, 5, 0x29, 0x25, 2, 4, 0x11, 0x08, 40, 2, b'a', b'b', 0x15, 0xd8, 4, 0, 9];
        let mut compact = Compact::new(&bytes);
        let mut found = vec![];
        compact
            .fields(&mut |compact, number, kind| {
                if kind == I32 {
                    found.push((number, compact.int()?));
                }
                Ok(kind == I32)
            })
            .unwrap();
        assert_eq!(found, [(1, -3), (21, 300)]);
        assert_eq!(compact.n_read(), bytes.len() - 1);
        for cut in 0..bytes.len() - 1 {
            let cut = Compact::new(&bytes[..cut]).fields(&mut |_, _, _| Ok(false));
            assert_eq!(cut, Err(Broken::Short));
        }
        let deep = [vec![0x1c; 100_000], vec![0; 100_000]].concat();
        let found = Compact::new(&deep).fields(&mut |_, _, _| Ok(false));
        assert_eq!(found, Err(Broken::Invalid));
        // More elements than bytes, each of which takes one.
        let long = [0x19, 0xf3, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
        let found = Compact::new(&long).fields(&mut |_, _, _| Ok(false));
        assert_eq!(found, Err(Broken::Short));
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes: Vec<u8>) {
            let _ = Compact::new(&bytes).fields(&mut |_, _, _| Ok(false));
        }
    }
}
