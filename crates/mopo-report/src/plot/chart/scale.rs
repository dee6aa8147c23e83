//! Linear and logarithmic scales: ranges, tick values and their texts.

use super::super::axis::{Axis, number};
use super::AxisSpec;
use crate::{Error, Result};

/// Beyond this, differences of two values could overflow.
const LARGEST: f64 = 1e300;
/// Range of powers of ten that are written out.
const PLAIN: std::ops::RangeInclusive<i32> = -3..=3;

/// A scale of values over pixels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    /// Of the values, or of their decimal logarithms.
    axis: Axis,
    log: bool,
}

impl Scale {
    /// The scale for `spec`, around `values` if it has no range.
    pub(super) fn new(
        spec: &AxisSpec,
        field: &str,
        values: impl Iterator<Item = f64>,
    ) -> Result<Self> {
        if let Some((low, high)) = spec.range {
            let found = || format!("({low}, {high})");
            if !(low.abs() <= LARGEST && high.abs() <= LARGEST && low < high) {
                return Err(Error::invalid(
                    field,
                    found(),
                    "its low end must be below its high end",
                ));
            }
            if spec.log && low <= 0.0 {
                let expected = "both ends must be above 0 on a logarithmic axis";
                return Err(Error::invalid(field, found(), expected));
            }
            let (low, high) = if spec.log { (low.log10(), high.log10()) } else { (low, high) };
            // Ranges that f64 cannot resolve have no ticks.
            if high - low <= 1e-9 * low.abs().max(high.abs()).max(1e-280) {
                return Err(Error::invalid(field, found(), "its ends must differ by more"));
            }
            return Ok(Self { axis: Axis { low, high }, log: spec.log });
        }
        let mut axis = Axis::around(values.filter_map(|v| transform(v, spec.log)));
        let (size, span) = (axis.low.abs().max(axis.high.abs()), axis.high - axis.low);
        if span <= 1e-9 * size.max(1e-280) {
            axis = Axis::around([axis.low + span / 2.0]);
        }
        Ok(Self { axis, log: spec.log })
    }

    /// Whether such an axis can show `value`, within its range or not.
    pub(super) fn can_show(&self, value: f64) -> bool {
        transform(value, self.log).is_some()
    }

    /// The position of `value`, in pixels from `start` to `end` or beyond; `None` if it cannot be
    /// shown.
    pub(super) fn place(&self, value: f64, start: f64, end: f64) -> Option<f64> {
        let at = self.axis.place(transform(value, self.log)?, start, end);
        at.is_finite().then_some(at)
    }

    /// The pixel of a tick of [`Scale::ticks`].
    pub(super) fn place_tick(&self, tick: f64, start: f64, end: f64) -> f64 {
        self.axis.place(tick, start, end)
    }

    /// Whether 0 lies inside a linear axis, not at its end.
    pub(super) fn crosses_zero(&self) -> bool {
        !self.log && self.axis.low < 0.0 && self.axis.high > 0.0
    }

    /// About `n` ticks: their positions for [`Scale::place_tick`], and their texts.
    pub(super) fn ticks(&self, n: usize) -> Vec<(f64, String)> {
        if self.log { self.log_ticks(n + 2) } else { linear_ticks(&self.axis, n) }
    }

    /// Positions of the unlabelled marks that make a logarithmic axis recognisable.
    pub(super) fn minor(&self) -> Vec<f64> {
        if !self.log || self.axis.high - self.axis.low > 8.0 {
            return Vec::new();
        }
        self.between(&[1, 2, 3, 4, 5, 6, 7, 8, 9]).into_iter().map(|t| t.0).collect()
    }

    /// At most `most` ticks: 1, 2 and 5 times powers of ten; or only powers if these would be too
    /// many; or, within less than half a decade, round values.
    fn log_ticks(&self, most: usize) -> Vec<(f64, String)> {
        let named = |ticks: Vec<(f64, u32, i32)>| -> Vec<(f64, String)> {
            ticks.into_iter().map(|(at, digit, power)| (at, log_label(digit, power))).collect()
        };
        let fine = self.between(&[1, 2, 5]);
        let powers = self.between(&[1]);
        if fine.len() < 3 {
            let values =
                Axis { low: 10_f64.powf(self.axis.low), high: 10_f64.powf(self.axis.high) };
            let round = linear_ticks(&values, most.saturating_sub(2));
            let placed = round.into_iter().filter(|(v, _)| *v > 0.0);
            return placed.map(|(v, text)| (v.log10(), text)).collect();
        }
        if fine.len() <= most || powers.len() < 2 {
            return named(fine);
        }
        // Multiples of a stride, so that 1 is among them if possible.
        let stride = powers.len().div_ceil(most.max(1)).max(1) as i32;
        named(powers.into_iter().filter(|(_, _, power)| power % stride == 0).collect())
    }

    /// The multiples of powers of ten in range: (logarithm, digit, power).
    fn between(&self, digits: &[u32]) -> Vec<(f64, u32, i32)> {
        let (low, high) = (self.axis.low - 1e-9, self.axis.high + 1e-9);
        (low.floor() as i32..=high.floor() as i32)
            .flat_map(|power| digits.iter().map(move |&digit| (digit, power)))
            .map(|(digit, power)| (f64::from(digit).log10() + f64::from(power), digit, power))
            .filter(|(at, _, _)| *at >= low && *at <= high)
            .collect()
    }
}

fn transform(value: f64, log: bool) -> Option<f64> {
    if value.is_nan() || value.abs() > LARGEST || (log && value <= 0.0) {
        None
    } else if log {
        Some(value.log10())
    } else {
        Some(value)
    }
}

fn log_label(digit: u32, power: i32) -> String {
    if PLAIN.contains(&power) {
        let digits = (-power).max(0) as usize;
        number(f64::from(digit) * 10_f64.powi(power), digits)
    } else {
        format!("{digit}e{power}").replace('-', "−")
    }
}

/// Ticks of a linear axis, with as many decimals as needed to distinguish them; large and tiny ones
/// all with the same power of ten.
fn linear_ticks(axis: &Axis, n: usize) -> Vec<(f64, String)> {
    let mut ticks = axis.ticks(n);
    let largest = ticks.iter().map(|t| t.0.abs()).fold(0.0, f64::max);
    let step = if ticks.len() > 1 { ticks[1].0 - ticks[0].0 } else { largest };
    let plain = (1e-3..1e5).contains(&largest);
    let power = if plain || largest == 0.0 { 0.0 } else { largest.log10().floor() };
    let unit = 10_f64.powf(power);
    // Short texts are correct already, and the smallest numbers have no unit to divide by.
    if (plain && step >= 1e-5) || largest == 0.0 || unit == 0.0 {
        return ticks;
    }
    let exact = |digits: i32| {
        let grain = 10_f64.powi(-digits);
        ticks.iter().all(|(v, _)| {
            let mantissa = v / unit;
            (mantissa - (mantissa / grain).round() * grain).abs() < 1e-3 * step / unit
        })
    };
    let digits = (0..17).find(|&d| exact(d)).unwrap_or(17) as usize;
    for (value, text) in &mut ticks {
        let mantissa = format!("{:.digits$}", *value / unit);
        *text = if mantissa.chars().all(|c| matches!(c, '0' | '.' | '-')) {
            "0".to_owned()
        } else if power == 0.0 {
            mantissa.replace('-', "−")
        } else {
            format!("{mantissa}e{power}").replace('-', "−")
        };
    }
    ticks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(spec: &AxisSpec, n: usize) -> Vec<String> {
        let scale = Scale::new(spec, "x.range", std::iter::empty()).unwrap();
        scale.ticks(n).into_iter().map(|t| t.1).collect()
    }

    #[test]
    fn ticks_of_a_log_axis_are_powers_of_ten_with_2_and_5_in_a_short_range() {
        let of = |low, high| texts(&AxisSpec::log("").within(low, high), 5);
        assert_eq!(of(0.01, 100.0), ["0.01", "0.1", "1", "10", "100"]);
        assert_eq!(of(0.02, 1.0), ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
        assert_eq!(of(100.0, 1e5), ["100", "1000", "1e4", "1e5"]);
        assert_eq!(of(3e-6, 2e-4), ["5e−6", "1e−5", "2e−5", "5e−5", "1e−4", "2e−4"]);
        assert_eq!(of(2.5, 4.0), ["2.5", "3.0", "3.5", "4.0"]);
        let far = of(1e-12, 1e12);
        assert!(far.len() <= 7 && far.contains(&"1".to_owned()), "{far:?}");
    }

    #[test]
    fn ticks_are_where_their_texts_say() {
        let scale =
            Scale::new(&AxisSpec::log("").within(0.01, 100.0), "x", [].into_iter()).unwrap();
        assert_eq!(scale.place(1.0, 0.0, 100.0), Some(50.0));
        for (at, text) in scale.ticks(5) {
            let value: f64 = text.parse().unwrap();
            let apart = scale.place_tick(at, 0.0, 100.0) - scale.place(value, 0.0, 100.0).unwrap();
            assert!(apart.abs() < 1e-9, "{text}");
        }
    }

    #[test]
    fn large_and_tiny_linear_ticks_share_a_power() {
        let of = |low, high| texts(&AxisSpec::linear("").within(low, high), 4);
        assert_eq!(of(0.0, 2e6), ["0", "0.5e6", "1.0e6", "1.5e6", "2.0e6"]);
        assert_eq!(of(0.0, 4e-5), ["0", "1e−5", "2e−5", "3e−5", "4e−5"]);
        assert_eq!(of(0.0, 1.0), ["0.00", "0.25", "0.50", "0.75", "1.00"]);
        assert_eq!(
            of(-1.00001, -1.00000),
            ["−1.0000100", "−1.0000075", "−1.0000050", "−1.0000025", "−1.0000000"]
        );
        assert_eq!(of(0.0, 20_000.0), ["0", "5000", "10000", "15000", "20000"]);
    }

    #[test]
    fn values_without_a_place_have_none() {
        let values = [f64::NAN, f64::INFINITY, -1.0, 0.0, 0.1, 10.0];
        let scale = Scale::new(&AxisSpec::log(""), "x", values.into_iter()).unwrap();
        let shown: Vec<bool> = values.iter().map(|&v| scale.can_show(v)).collect();
        assert_eq!(shown, [false, false, false, false, true, true]);
        // Only visible values determine the range.
        let (low, high) =
            (scale.place(0.1, 0.0, 1.0).unwrap(), scale.place(10.0, 0.0, 1.0).unwrap());
        assert!(low > 0.0 && low < 0.1 && high > 0.9 && high < 1.0, "{low} {high}");
    }

    #[test]
    fn impossible_ranges_are_refused_by_name() {
        let nan = f64::NAN;
        for (spec, remedy) in [
            (AxisSpec::linear("").within(1.0, 1.0), "below"),
            (AxisSpec::linear("").within(nan, 1.0), "below"),
            (AxisSpec::linear("").within(1.0, 1.0 + 1e-15), "differ"),
            (AxisSpec::log("").within(0.0, 1.0), "above 0"),
        ] {
            let message = Scale::new(&spec, "panels[0].x.range", [].into_iter()).unwrap_err();
            let message = message.to_string();
            assert!(message.contains("panels[0].x.range") && message.contains(remedy), "{message}");
        }
    }

    proptest! {
        #[test]
        fn values_close_together_have_distinct_ticks(
            power in -20_i32..20,
            offset in -1.0_f64..1.0,
            spread in -8_i32..1,
            log: bool,
        ) {
            let low = offset * 10_f64.powi(power);
            let high = low + low.abs() * 10_f64.powi(spread);
            let spec = AxisSpec { log, ..AxisSpec::linear("") };
            let scale = Scale::new(&spec, "x", [low, high].into_iter()).unwrap();
            let ticks = scale.ticks(4);
            prop_assert!(ticks.len() >= 2, "{ticks:?}");
            for pair in ticks.windows(2) {
                prop_assert!(pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1, "{ticks:?}");
            }
        }

        #[test]
        fn any_values_give_a_few_distinct_ticks(
            values in proptest::collection::vec(proptest::num::f64::ANY, 0..6),
            log: bool,
            n in 1_usize..8,
        ) {
            let spec = AxisSpec { log, ..AxisSpec::linear("") };
            let scale = Scale::new(&spec, "x", values.into_iter()).unwrap();
            let ticks = scale.ticks(n);
            prop_assert!(ticks.len() <= 2 * n + 3, "{ticks:?}");
            for pair in ticks.windows(2) {
                prop_assert!(pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1, "{ticks:?}");
            }
        }
    }
}
