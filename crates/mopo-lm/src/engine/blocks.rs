//! The blocks of the cache: which are free, which belong to whom, and which hold the beginning of a prompt that another
//! request may share.

use std::collections::{BTreeMap, HashMap};

use super::row::Lane;
use crate::layers::BLOCK_TOKENS;

/// A full block of a prompt: what it was computed from. Two blocks with equal keys hold the same numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) lane: Lane,
    /// The serial number of the block before it; `None` at the beginning.
    pub(super) parent: Option<u64>,
    pub(super) tokens: [u32; BLOCK_TOKENS],
}

/// A block that others may share.
#[derive(Debug, Clone)]
struct Published {
    key: Key,
    /// Never used again, so that no block is found by way of one that is gone.
    serial: u64,
    /// When it was last released: its place in `unused`.
    released: u64,
}

/// All blocks. A request first reserves as many as it can ever need, so that no running request has to wait.
#[derive(Debug)]
pub(super) struct Blocks {
    free: Vec<u32>,
    /// How many sequences use each block.
    users: Vec<u32>,
    published: Vec<Option<Published>>,
    by_key: HashMap<Key, u32>,
    /// Published blocks without users, by the time of their release: they are taken when none is free.
    unused: BTreeMap<u64, u32>,
    /// Blocks that are promised.
    reserved: usize,
    /// Counts releases and published blocks.
    clock: u64,
    /// One more than the largest number of a block that was ever taken.
    extent: usize,
}

impl Blocks {
    pub(super) fn new(n: usize) -> Self {
        Self {
            free: (0..n as u32).rev().collect(),
            users: vec![0; n],
            published: vec![None; n],
            by_key: HashMap::new(),
            unused: BTreeMap::new(),
            reserved: 0,
            clock: 0,
            extent: 0,
        }
    }

    /// How many blocks there are.
    pub(super) fn total(&self) -> usize {
        self.users.len()
    }

    /// How many blocks hold keys and values of running requests.
    pub(super) fn in_use(&self) -> usize {
        self.total() - self.free.len() - self.unused.len()
    }

    /// How many blocks there must be room for: low numbers are taken first.
    pub(super) fn extent(&self) -> usize {
        self.extent
    }

    /// Promises `n` blocks, if there are so many.
    pub(super) fn reserve(&mut self, n: usize) -> bool {
        let enough = self.free.len() + self.unused.len() >= self.reserved + n;
        if enough {
            self.reserved += n;
        }
        enough
    }

    /// Takes a promise back.
    pub(super) fn unreserve(&mut self, n: usize) {
        self.reserved -= n;
    }

    /// A promised block.
    pub(super) fn take(&mut self) -> u32 {
        self.reserved -= 1;
        let block = self.free.pop().unwrap_or_else(|| {
            let (_, block) = self.unused.pop_first().expect("it was reserved");
            self.forget(block);
            block
        });
        self.users[block as usize] = 1;
        self.extent = self.extent.max(block as usize + 1);
        block
    }

    /// A published block, shared, and its serial number. It replaces a promised one.
    pub(super) fn share(&mut self, key: &Key) -> Option<(u32, u64)> {
        let block = *self.by_key.get(key)?;
        let published = self.published[block as usize].as_ref().expect("found by its key");
        let serial = published.serial;
        if self.users[block as usize] == 0 {
            self.unused.remove(&published.released);
        }
        self.users[block as usize] += 1;
        self.reserved -= 1;
        Some((block, serial))
    }

    /// Whether a block with this key is published.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.by_key.contains_key(key)
    }

    /// Lets others share a block that is full. Returns the serial number of the block with that key, which may be
    /// another's.
    pub(super) fn publish(&mut self, block: u32, key: Key) -> u64 {
        if let Some(other) = self.by_key.get(&key) {
            return self.published[*other as usize].as_ref().expect("found by its key").serial;
        }
        self.clock += 1;
        let serial = self.clock;
        self.by_key.insert(key.clone(), block);
        self.published[block as usize] = Some(Published { key, serial, released: 0 });
        serial
    }

    /// Gives up a sequence's blocks.
    pub(super) fn release(&mut self, blocks: &[u32]) {
        // Ends first: the beginning of a prompt is what others share.
        for block in blocks.iter().rev() {
            let users = &mut self.users[*block as usize];
            *users -= 1;
            if *users > 0 {
                continue;
            }
            match &mut self.published[*block as usize] {
                None => self.free.push(*block),
                Some(published) => {
                    self.clock += 1;
                    published.released = self.clock;
                    self.unused.insert(self.clock, *block);
                }
            }
        }
    }

    fn forget(&mut self, block: u32) {
        if let Some(published) = self.published[block as usize].take() {
            self.by_key.remove(&published.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parent: Option<u64>, token: u32) -> Key {
        Key { lane: Lane::Base, parent, tokens: [token; BLOCK_TOKENS] }
    }

    #[test]
    fn blocks_are_promised_taken_and_given_back() {
        let mut blocks = Blocks::new(3);
        assert!(blocks.reserve(2) && !blocks.reserve(2) && blocks.reserve(1));
        let taken = [blocks.take(), blocks.take()];
        assert_eq!((taken, blocks.in_use(), blocks.extent()), ([0, 1], 2, 2));
        blocks.unreserve(1);
        blocks.release(&taken);
        assert!(blocks.in_use() == 0 && blocks.reserve(3) && !blocks.reserve(1));
    }

    #[test]
    fn published_blocks_are_shared_until_their_place_is_needed() {
        let mut blocks = Blocks::new(3);
        assert!(blocks.reserve(2));
        let [first, second] = [blocks.take(), blocks.take()];
        let serial = blocks.publish(first, key(None, 1));
        blocks.publish(second, key(Some(serial), 2));
        // The same beginning, computed again: the first one counts.
        assert!(blocks.reserve(1));
        let double = blocks.take();
        assert_eq!(blocks.publish(double, key(None, 1)), serial);
        blocks.release(&[double]);

        // Shared while in use, and afterwards.
        assert!(blocks.reserve(1));
        assert_eq!(blocks.share(&key(None, 1)), Some((first, serial)));
        blocks.release(&[first, second]);
        assert_eq!(blocks.in_use(), 1);
        assert!(blocks.reserve(1));
        assert_eq!(blocks.share(&key(Some(serial), 2)).unwrap().0, second);
        assert!(blocks.share(&key(Some(serial), 3)).is_none());
        assert!(blocks.share(&key(None, 2)).is_none());
        blocks.release(&[first, second]);

        // The end goes first; what follows one that is gone is not found again.
        assert!(blocks.reserve(2));
        assert_eq!([blocks.take(), blocks.take()], [double, second]);
        assert!(blocks.has(&key(None, 1)) && !blocks.has(&key(Some(serial), 2)));
        assert!(blocks.reserve(1) && !blocks.reserve(1));
        assert_eq!(blocks.take(), first);
        assert!(!blocks.has(&key(None, 1)));
        let again = blocks.publish(first, key(None, 1));
        assert_ne!(again, serial);
    }
}
