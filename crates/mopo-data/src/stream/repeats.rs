//! Finds texts that occur more than once, among any number, by 128 bits of each.

use std::convert::identity;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::Path;

use super::Sorter;

/// 128 bits of texts and numbers, for comparisons within one run of the program: among 10¹² rows,
/// two different ones collide with a probability of 10⁻¹⁵.
pub(crate) type RowKey = [u64; 2];

/// Makes a [`RowKey`].
pub(crate) struct KeyHasher([DefaultHasher; 2]);

impl KeyHasher {
    pub(crate) fn new() -> Self {
        Self([0, 1].map(|half| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(half);
            hasher
        }))
    }

    /// Lengths are hashed too, so ("ab", "c") ≠ ("a", "bc").
    pub(crate) fn text(mut self, text: &str) -> Self {
        for hasher in &mut self.0 {
            hasher.write_usize(text.len());
            hasher.write(text.as_bytes());
        }
        self
    }

    pub(crate) fn number(mut self, number: u64) -> Self {
        self.0.iter_mut().for_each(|hasher| hasher.write_u64(number));
        self
    }

    pub(crate) fn finish(&self) -> RowKey {
        [self.0[0].finish(), self.0[1].finish()]
    }
}

/// The key of one text.
pub(crate) fn text_key(text: &str) -> RowKey {
    KeyHasher::new().text(text).finish()
}

/// Counts distinct texts and finds the first duplicate, in bounded memory.
pub(crate) struct Repeats {
    keys: Sorter<3>,
    n_texts: u64,
}

/// The result of [`Repeats::finish`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// Number of distinct texts.
    pub(crate) n_distinct: usize,
    /// Index, from 0, of the first duplicate and of the text's first occurrence.
    pub(crate) repeated: Option<(u64, u64)>,
}

impl Repeats {
    /// Keeps what does not fit into a few megabytes in an unnamed file in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { keys: Sorter::new(folder), n_texts: 0 }
    }

    pub(crate) fn push(&mut self, text: &str) -> io::Result<()> {
        let [a, b] = text_key(text);
        self.keys.push([a, b, self.n_texts])?;
        self.n_texts += 1;
        Ok(())
    }

    pub(crate) fn finish(self) -> io::Result<Found> {
        let mut found = Found { n_distinct: 0, repeated: None };
        // A text's first occurrence, and whether its second is still to come.
        let mut group: Option<([u64; 2], u64, bool)> = None;
        self.keys.for_each(identity, |[a, b, place]| {
            match &mut group {
                Some((key, first, alone)) if *key == [a, b] => {
                    if std::mem::take(alone) && found.repeated.is_none_or(|(at, _)| place < at) {
                        found.repeated = Some((place, *first));
                    }
                }
                _ => {
                    group = Some(([a, b], place, true));
                    found.n_distinct += 1;
                }
            }
            Ok(())
        })?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_repetition_is_found(texts in prop::collection::vec("[ab]{0,3}", 0..20)) {
            let mut repeats = Repeats::new(Path::new("."));
            let mut first: HashMap<&str, u64> = HashMap::new();
            let mut repeated = None;
            for (place, text) in (0..).zip(&texts) {
                repeats.push(text).unwrap();
                match first.get(text.as_str()) {
                    Some(at) => repeated = repeated.or(Some((place, *at))),
                    None => { first.insert(text, place); }
                }
            }
            let expected = Found { n_distinct: first.len(), repeated };
            prop_assert_eq!(repeats.finish().unwrap(), expected);
        }
    }

    #[test]
    fn keys_tell_parts_apart() {
        let key = |a, b| KeyHasher::new().text(a).text(b).finish();
        assert_ne!(key("ab", "c"), key("a", "bc"));
        assert_eq!(key("ab", "c"), key("ab", "c"));
        assert_ne!(KeyHasher::new().number(1).finish(), KeyHasher::new().number(2).finish());
    }
}
