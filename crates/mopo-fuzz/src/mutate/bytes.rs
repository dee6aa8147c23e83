//! Changes of binary files: bytes, integers of all widths, texts with their length before them, pieces that move.

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use super::{Dice, n_changes, part};

/// Integers at which something ends: signs, widths, sizes of memory.
const NUMBERS: [u64; 28] = [
    0,
    1,
    2,
    3,
    7,
    8,
    31,
    32,
    64,
    100,
    127,
    128,
    255,
    256,
    1 << 12,
    (1 << 15) - 1,
    1 << 16,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 36,
    1 << 48,
    (1 << 61) + 1,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX,
];

pub(super) fn change(bytes: &mut Vec<u8>, other: &[u8], words: &[&str], dice: &mut Dice) {
    for _ in 0..n_changes(dice) {
        once(bytes, other, words, dice);
    }
}

pub(super) fn once(bytes: &mut Vec<u8>, other: &[u8], words: &[&str], dice: &mut Dice) {
    if bytes.is_empty() {
        bytes.extend((0..dice.random_range(0..64)).map(|_| dice.random::<u8>()));
        return;
    }
    // Most of what counts is at one end of a file.
    let n = bytes.len();
    let at = match dice.random_range(0..4) {
        0 => dice.random_range(0..n.min(64)),
        1 => n - 1 - dice.random_range(0..n.min(512)),
        _ => dice.random_range(0..n),
    };
    match dice.random_range(0..14) {
        0 => bytes[at] ^= 1 << dice.random_range(0..8),
        1 => bytes[at] = dice.random(),
        2 => bytes[at] = *[0, 1, 0x7f, 0x80, 0xff, b' ', b'\n', b'"'].choose(dice).unwrap(),
        3 => bytes[at] = bytes[at].wrapping_add(*[1, 2, 255, 254, 16].choose(dice).unwrap()),
        4..7 => number(bytes, at, dice),
        7 => {
            let piece: Vec<u8> = (0..dice.random_range(1..9)).map(|_| dice.random()).collect();
            bytes.splice(at..at, piece);
        }
        8 => drop(bytes.drain(part(n, dice))),
        9 => {
            let piece = bytes[part(n, dice)].to_vec();
            bytes.splice(at..at, piece);
        }
        10 if !other.is_empty() => {
            let piece = other[part(other.len(), dice)].to_vec();
            let end = if dice.random_bool(0.5) { at } else { (at + piece.len()).min(n) };
            bytes.splice(at..end, piece);
        }
        11 => bytes.truncate(at),
        12 => counted_text(bytes, at, words, dice),
        _ => {
            let word = words.choose(dice).map_or(&b""[..], |word| word.as_bytes());
            let end = if dice.random_bool(0.5) { at } else { (at + word.len()).min(n) };
            bytes.splice(at..end, word.iter().copied());
        }
    }
}

/// Writes an integer over the bytes at a place, or changes the one that is there a little.
fn number(bytes: &mut [u8], at: usize, dice: &mut Dice) {
    let width = *[1, 2, 4, 4, 8, 8].choose(dice).unwrap();
    // Aligned or not: formats without padding have integers anywhere.
    let at = if dice.random_bool(0.5) { at / width * width } else { at };
    let Some(place) = bytes.get_mut(at..at + width) else { return };
    let mut old = [0; 8];
    old[..width].copy_from_slice(place);
    let old = u64::from_le_bytes(old);
    let new = match dice.random_range(0..4) {
        0 => old.wrapping_add(dice.random_range(1..17)),
        1 => old.wrapping_sub(dice.random_range(1..17)),
        _ => *NUMBERS.choose(dice).unwrap(),
    };
    let mut new = new.to_le_bytes();
    if dice.random_bool(0.1) {
        new[..width].reverse();
    }
    place.copy_from_slice(&new[..width]);
}

/// Exchanges a text behind its length in eight bytes for a word, with the word's length.
fn counted_text(bytes: &mut Vec<u8>, from: usize, words: &[&str], dice: &mut Dice) {
    let length = |at: usize| -> Option<usize> {
        let n = u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?);
        let n = usize::try_from(n).ok().filter(|n| (1..4096).contains(n))?;
        let text = bytes.get(at + 8..at + 8 + n)?;
        text.iter().all(|b| *b >= b' ').then_some(n)
    };
    let found = (from..bytes.len().min(from + 512)).find_map(|at| Some((at, length(at)?)));
    let Some((at, n)) = found else { return };
    let word = words.choose(dice).copied().unwrap_or("x").as_bytes();
    let whole = [&(word.len() as u64).to_le_bytes(), word].concat();
    bytes.splice(at..at + 8 + n, whole);
}

/// Bytes that compress to nothing.
pub(super) fn filler(dice: &mut Dice) -> Vec<u8> {
    let mut bytes = vec![0; dice.random_range(0..4096)];
    if dice.random_bool(0.5) {
        dice.fill_bytes(&mut bytes);
    }
    bytes
}
