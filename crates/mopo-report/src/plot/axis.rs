//! Axes: ranges, round tick values and the numbers beside them.

/// A linear axis of values over pixels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Axis {
    /// The smallest axis that contains `values` (finite) with some margin; never empty.
    pub(super) fn around(values: impl IntoIterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for v in values.into_iter().filter(|v| v.is_finite()) {
            low = low.min(v);
            high = high.max(v);
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        Self { low, high }.padded(0.07)
    }

    fn padded(self, share: f64) -> Self {
        let span = self.high - self.low;
        // A single value still needs an axis that f64 can resolve.
        let pad = if span > 0.0 { span * share } else { (self.low.abs() * 0.05).max(0.05) };
        Self { low: self.low - pad, high: self.high + pad }
    }

    pub(super) fn contains(&self, value: f64) -> bool {
        value >= self.low && value <= self.high
    }

    /// The position of `value`, in pixels from `start` (at `low`) to `end` (at `high`).
    pub(super) fn place(&self, value: f64, start: f64, end: f64) -> f64 {
        start + (value - self.low) / (self.high - self.low) * (end - start)
    }

    /// About `n` round values within the axis, with their texts.
    pub(super) fn ticks(&self, n: usize) -> Vec<(f64, String)> {
        let raw = (self.high - self.low) / n.max(1) as f64;
        let power = 10_f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .map(|m| m * power)
            .find(|&s| s >= raw * 0.999)
            .unwrap_or(10.0 * power);
        // 2.5 needs one digit more than its power of ten.
        let scale = step.log10().floor();
        let quarter = (step / 10_f64.powf(scale) - 2.5).abs() < 1e-6;
        let digits = (-scale + if quarter { 1.0 } else { 0.0 }).max(0.0) as usize;
        // The tolerance keeps ends such as 0.3, which is slightly below 3 steps of 0.1.
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last)
            .map(|i| {
                let value = i as f64 * step;
                (value, number(value, digits))
            })
            .collect()
    }
}

/// `value` with `digits` decimals and a true minus sign; far from 1, in powers of ten.
pub(crate) fn number(value: f64, digits: usize) -> String {
    let text = if value != 0.0 && (value.abs() >= 1e6 || digits > 6) {
        format!("{value:.2e}")
    } else {
        format!("{value:.digits$}")
    };
    let zero = text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.');
    if zero { text.trim_start_matches('-').to_owned() } else { text.replace('-', "−") }
}

/// `value` with about three significant digits.
pub(crate) fn short(value: f64) -> String {
    if value == 0.0 { "0".into() } else { number(value, digits(value)) }
}

/// The number of decimals with which [`short`] shows `value`.
fn digits(value: f64) -> usize {
    if value == 0.0 {
        return 2;
    }
    (2.0 - value.abs().log10().floor()).clamp(0.0, 8.0) as usize
}

/// The standard error of `mean` with the mean's decimals, or more if it would come out as 0.
pub(crate) fn short_error(error: f64, mean: f64) -> String {
    let digits = digits(mean);
    if error < 0.5 * 0.1_f64.powi(digits as i32) { short(error) } else { number(error, digits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let texts = |low, high, n| -> Vec<String> {
            Axis { low, high }.ticks(n).into_iter().map(|t| t.1).collect()
        };
        assert_eq!(texts(0.0, 1.0, 5), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(texts(-1.2, 1.2, 4), ["−1", "0", "1"]);
        assert_eq!(texts(0.0, 1.0, 4), ["0.00", "0.25", "0.50", "0.75", "1.00"]);
        assert_eq!(texts(101.0, 139.0, 4), ["110", "120", "130"]);
        assert_eq!(texts(0.0, 0.3, 3), ["0.0", "0.1", "0.2", "0.3"]);
    }

    #[test]
    fn axes_are_never_empty() {
        for values in [vec![], vec![3.0], vec![0.0, f64::NAN], vec![-7.0; 3]] {
            let axis = Axis::around(values);
            assert!(axis.high > axis.low && !axis.ticks(4).is_empty());
        }
        assert_eq!(Axis { low: 0.0, high: 2.0 }.place(1.0, 100.0, 0.0), 50.0);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(0.41234), "0.412");
        assert_eq!(short(-12.345), "−12.3");
        assert_eq!(short(1234.5), "1234");
        assert_eq!(number(-0.0001, 2), "0.00");
        assert_eq!(short(0.0), "0");
        assert_eq!(short_error(0.00917, 0.669), "0.009");
        assert_eq!(short_error(0.00021, 0.669), "0.000210");
        assert_eq!(short_error(0.0, 0.669), "0");
    }
}
