//! Numbers on the command line, with their ranges.

pub(super) fn number(
    text: &str,
    fits: impl Fn(f64) -> bool,
    expected: &str,
) -> Result<f64, String> {
    text.trim().parse().ok().filter(|x| fits(*x)).ok_or_else(|| expected.to_owned())
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    number(text, |x| x.is_finite() && x > 0.0, "it must be a number above 0")
}

pub(super) fn margin(text: &str) -> Result<f64, String> {
    number(text, |x| x.is_finite() && x >= 0.0, "it must be a number of at least 0")
}

pub(super) fn temperature(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..=100.0).contains(&x), "it must lie in [0, 100], where 0 is greedy")
}

pub(super) fn top_p(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "it must lie in (0, 1]")
}

pub(super) fn min_p(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..=1.0).contains(&x), "it must lie in [0, 1]")
}

pub(super) fn above_0(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0 && x.is_finite(), "it must be finite and above 0")
}

pub(super) fn finite(text: &str) -> Result<f64, String> {
    number(text, f64::is_finite, "it must be finite")
}

pub(super) fn fraction(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..1.0).contains(&x), "it must lie in [0, 1)")
}

pub(super) fn relaxation(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "it must lie in (0, 1]")
}

pub(super) fn integer(
    text: &str,
    fits: impl Fn(usize) -> bool,
    expected: &str,
) -> Result<usize, String> {
    text.trim().parse().ok().filter(|n| fits(*n)).ok_or_else(|| expected.to_owned())
}

/// For what costs time only. Products of two such numbers are numbers still.
pub(super) fn count(text: &str) -> Result<usize, String> {
    at_most::<1_000_000_000>(text)
}

/// For what costs memory or threads: an allocation that fails ends the process.
pub(super) fn at_most<const MOST: usize>(text: &str) -> Result<usize, String> {
    integer(
        text,
        |n| n > 0 && n <= MOST,
        &format!("it must be a whole number above 0, at most {MOST}"),
    )
}

pub(super) fn whole(text: &str) -> Result<usize, String> {
    integer(text, |_| true, "it must be a whole number of at least 0")
}

/// A seed that a configuration can hold: TOML's integers are signed.
pub(super) fn seed(text: &str) -> Result<u64, String> {
    const LARGEST: u64 = i64::MAX as u64;
    let seed = text.trim().parse().ok().filter(|seed| *seed <= LARGEST);
    seed.ok_or_else(|| format!("it must be a whole number from 0 to {LARGEST}"))
}

pub(super) fn grid(text: &str) -> Result<usize, String> {
    integer(text, |n| n > 1 && n <= 1000, "it must be a whole number above 1, at most 1000")
}

pub(super) fn policies(text: &str) -> Result<usize, String> {
    integer(text, |n| (2..=64).contains(&n), "it must be a whole number from 2 to 64")
}

pub(super) fn even_count(text: &str) -> Result<usize, String> {
    let expected =
        "it must be an even number above 0, at most 1000000: a comparison has two responses";
    integer(text, |n| n > 0 && n <= 1_000_000 && n % 2 == 0, expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_any_machine_are_refused() {
        assert_eq!(count("3"), Ok(3));
        for text in ["0", "-1", "1e3", "1000000001", "18446744073709551616", "x", ""] {
            assert!(count(text).unwrap_err().contains("at most 1000000000"), "{text}");
        }
        assert_eq!(at_most::<5>("5"), Ok(5));
        assert!(at_most::<5>("6").unwrap_err().contains("at most 5"));
        assert_eq!((even_count("1000000"), grid("1000")), (Ok(1_000_000), Ok(1000)));
        for refused in [even_count("1000002"), even_count("3"), grid("1001"), grid("1")] {
            assert!(refused.is_err());
        }
    }
}
