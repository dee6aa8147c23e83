//! From a valid input to a damaged one: what is changed depends on the format, and all of it follows from a seed.

mod bytes;
mod packed;
mod text;

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) use packed::zip_of;

/// The random numbers of one input.
pub(crate) type Dice = ChaCha8Rng;

/// How inputs of a target are made of its seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text of any kind: JSON, TOML, Jinja, lines.
    Text,
    /// Rows of JSON, in text, an array or gzip; Parquet if the seed is.
    Rows,
    /// Numbers and texts with their length before them.
    Binary,
    /// A header of JSON with its length before it, then bytes.
    Safetensors,
    /// An archive of stored files; one of them is changed and the archive made again.
    Zip,
    /// A head, and a body of JSON whose length the head tells.
    Http,
}

/// Longest input, but for seeds that are longer.
const MOST_BYTES: usize = 1 << 17;

/// The input of a target with this number: the same for the same seed, number and seeds of the target.
pub(crate) fn input(
    form: Form,
    seeds: &[Vec<u8>],
    words: &[&str],
    target: &str,
    seed: u64,
    number: u64,
) -> Vec<u8> {
    let mut dice = dice(target, seed, number);
    let Some(chosen) = seeds.choose(&mut dice) else { return vec![] };
    let other = seeds.choose(&mut dice).unwrap_or(chosen);
    let mut made = chosen.clone();
    let most = MOST_BYTES.max(made.len());
    match form {
        Form::Text => text::change(&mut made, other, words, &mut dice),
        Form::Rows if made.starts_with(b"PAR1") => {
            bytes::change(&mut made, other, words, &mut dice);
        }
        Form::Rows => {
            text::change(&mut made, other, words, &mut dice);
            packed::rows(&mut made, &mut dice);
        }
        Form::Binary => bytes::change(&mut made, other, words, &mut dice),
        Form::Safetensors => packed::safetensors(&mut made, words, &mut dice),
        Form::Zip => packed::zip(&mut made, words, &mut dice),
        Form::Http => packed::http(&mut made, other, words, &mut dice),
    }
    made.truncate(most);
    made
}

fn dice(target: &str, seed: u64, number: u64) -> Dice {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&number.to_le_bytes());
    key[16..24].copy_from_slice(&mopo_hub::fnv1a(target.bytes()).to_le_bytes());
    Dice::from_seed(key)
}

/// The number of changes: mostly few, since an input that is wrong in many places is refused at the first.
fn n_changes(dice: &mut Dice) -> usize {
    let mut n = 1;
    while n < 12 && dice.random_bool(0.45) {
        n += 1;
    }
    n
}

/// A part of `0..n`, mostly short.
fn part(n: usize, dice: &mut Dice) -> std::ops::Range<usize> {
    if n == 0 {
        return 0..0;
    }
    let from = dice.random_range(0..n);
    let most = if dice.random_bool(0.8) { 16 } else { n };
    from..from + dice.random_range(1..=most.min(n - from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_follow_from_seed_and_number_and_differ() {
        let seeds = vec![b"{\"a\": [1, 2.5, \"tea\"], \"b\": {\"c\": null}}\n".to_vec()];
        for form in [Form::Text, Form::Rows, Form::Binary, Form::Safetensors, Form::Zip, Form::Http]
        {
            let make = |seed, number| input(form, &seeds, &["word"], "x", seed, number);
            let made: Vec<_> = (0..200).map(|number| make(1, number)).collect();
            assert_eq!(made, (0..200).map(|number| make(1, number)).collect::<Vec<_>>());
            let distinct: std::collections::BTreeSet<_> = made.iter().collect();
            assert!(distinct.len() > 100, "{form:?}: {}", distinct.len());
            assert!(made.iter().zip(0..).any(|(one, number)| *one != make(2, number)));
        }
    }
}
