//! Ranges of single values. Messages name the key, its value, and the accepted range.

use std::ops::RangeInclusive;

/// More steps than this are a typing error.
pub(crate) const MAX_STEPS: usize = 1_000_000_000;
/// Maximum number of pairs, texts or passes per step.
pub(crate) const MAX_BATCH: usize = 65_536;
/// Maximum number of tokens of a prompt or a response.
pub(crate) const MAX_TOKENS: usize = 1_048_576;
/// Maximum for configured numbers of prompts, pairs or texts.
pub(crate) const MAX_COUNT: usize = 100_000_000;
/// Maximum size of a vocabulary.
pub(crate) const MAX_VOCABULARY: usize = 1_000_000;

/// Result of a check.
pub(crate) type Checked = std::result::Result<(), String>;

/// A whole number within bounds (inclusive).
pub(crate) fn count(key: &str, value: usize, range: RangeInclusive<usize>) -> Checked {
    match range.contains(&value) {
        true => Ok(()),
        false => Err(format!(
            "`{key}` is {value}; it must be a whole number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// A positive number in the range of f32, in which models compute.
pub(crate) fn positive(key: &str, value: f64) -> Checked {
    let held = f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX);
    match held.contains(&value) {
        true => Ok(()),
        false => Err(format!("`{key}` is {value}; it must be a number > 0, up to 3.4e38")),
    }
}

/// A number of at least 0 in the range of f32.
pub(crate) fn not_negative(key: &str, value: f64) -> Checked {
    match (0.0..=f64::from(f32::MAX)).contains(&value) {
        true => Ok(()),
        false => Err(format!("`{key}` is {value}; it must be a number ≥ 0, up to 3.4e38")),
    }
}

/// A number within bounds (inclusive).
pub(crate) fn within(key: &str, value: f64, range: RangeInclusive<f64>) -> Checked {
    match range.contains(&value) {
        true => Ok(()),
        false => {
            Err(format!("`{key}` is {value}; it must lie in [{}, {}]", range.start(), range.end()))
        }
    }
}

/// A fraction strictly between 0 and 1.
pub(crate) fn fraction(key: &str, value: f64) -> Checked {
    match value > 0.0 && value < 1.0 {
        true => Ok(()),
        false => Err(format!("`{key}` is {value}; it must lie between 0 and 1, and be neither")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_lies_in_no_range() {
        for value in [f64::NAN, -1.0, f64::INFINITY, f64::NEG_INFINITY, 1e39] {
            for checked in [
                positive("k", value),
                not_negative("k", value),
                within("k", value, 0.0..=1.0),
                fraction("k", value),
            ] {
                assert!(checked.unwrap_err().contains("`k` is"), "{value}");
            }
        }
        assert!(positive("k", 0.0).is_err() && not_negative("k", 0.0).is_ok());
        assert!(count("k", 0, 1..=3).unwrap_err().contains("from 1 to 3"));
        assert!(count("k", 3, 1..=3).is_ok() && within("k", 1.0, 0.0..=1.0).is_ok());
    }
}
