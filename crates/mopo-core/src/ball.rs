//! The radius ε of the KL ball over which the lower bound minimises.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The size of the adversary's ball.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BallTable", into = "BallTable")]
pub enum Ball {
    /// ε itself, in nats (the paper uses 0.15 for any number of responses).
    Radius(f64),
    /// A confidence c in (0.5, 1): ε = χ²₁(2c − 1)/(2N) for N responses, the radius of generalised
    /// empirical likelihood for which the one-sided bound holds with probability about c.
    Confidence(f64),
}

/// As it is written: a table with one of the two.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BallTable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    radius: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confidence: Option<f64>,
}

impl TryFrom<BallTable> for Ball {
    type Error = &'static str;

    fn try_from(table: BallTable) -> std::result::Result<Self, Self::Error> {
        match (table.radius, table.confidence) {
            (Some(radius), None) => Ok(Self::Radius(radius)),
            (None, Some(confidence)) => Ok(Self::Confidence(confidence)),
            (None, None) => Err("`ball` needs `radius` or `confidence`"),
            (Some(_), Some(_)) => Err("`ball` has both `radius` and `confidence`: keep one"),
        }
    }
}

impl From<Ball> for BallTable {
    fn from(ball: Ball) -> Self {
        match ball {
            Ball::Radius(radius) => Self { radius: Some(radius), confidence: None },
            Ball::Confidence(confidence) => Self { radius: None, confidence: Some(confidence) },
        }
    }
}

impl Ball {
    /// Checks the range.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for a negative radius or a confidence outside (0.5, 1).
    pub fn check(&self) -> Result<()> {
        let (field, value, ok, expected) = match *self {
            Ball::Radius(r) => {
                ("mopo.ball.radius", r, r.is_finite() && r >= 0.0, "must be a number ≥ 0, in nats")
            }
            Ball::Confidence(c) => {
                ("mopo.ball.confidence", c, c > 0.5 && c < 1.0, "must lie between 0.5 and 1")
            }
        };
        if ok {
            return Ok(());
        }
        Err(Error::InvalidParameter { field, value: value.to_string(), expected: expected.into() })
    }

    /// ε for `n_responses` responses, in nats.
    pub fn radius(&self, n_responses: usize) -> f64 {
        match *self {
            Ball::Radius(r) => r,
            // The χ²₁ quantile at 2c − 1 is the square of the normal quantile at c.
            Ball::Confidence(c) => normal_quantile(c).powi(2) / (2.0 * n_responses.max(1) as f64),
        }
    }
}

/// Φ⁻¹(p) for p in (0, 1): Newton steps on erfc from a logistic start; exact to about 1e-12.
pub(crate) fn normal_quantile(p: f64) -> f64 {
    // Work in the lower tail, where erfc keeps its relative precision.
    if p > 0.5 {
        return -normal_quantile(1.0 - p);
    }
    let mut x = (p / (1.0 - p)).ln() / 1.702;
    for _ in 0..60 {
        let cdf = 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
        let pdf = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        // Newton on log Φ, which is concave: no overshoot in the tail.
        let step = cdf * (cdf / p).ln() / pdf;
        x -= step;
        if step.abs() < 1e-13 * x.abs().max(1.0) {
            break;
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_agree_with_published_values() {
        for (p, z) in [
            (0.5, 0.0),
            (0.95, 1.6448536269514722),
            (0.975, 1.959963984540054),
            (0.999, 3.090232306167813),
            (1e-6, -4.753424308822899),
        ] {
            assert!((normal_quantile(p) - z).abs() < 1e-9, "{p}: {}", normal_quantile(p));
        }
    }

    #[test]
    fn a_confidence_shrinks_with_the_number_of_responses() {
        let ball = Ball::Confidence(0.95);
        // χ²₁(0.9) = 2.7055
        assert!((ball.radius(1000) - 2.705543454095404 / 2000.0).abs() < 1e-9);
        assert_eq!(Ball::Radius(0.15).radius(7), 0.15);
        for bad in [Ball::Confidence(0.5), Ball::Confidence(1.0), Ball::Radius(-1.0)] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(Ball::Radius(f64::NAN).check().is_err());
    }
}
