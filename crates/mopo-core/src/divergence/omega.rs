//! Wright's ω on the real line, the inverse of Jeffreys' derivative.

/// ω(x) > 0 with ω + log ω = x, to a few units in the last place; 0 where it underflows.
///
/// A start from the expansion around −∞, 1 or ∞, then steps of fourth order of Fritsch, Shafer and
/// Crowley. Source: Lawrence, Corless and Jeffrey, *Algorithm 917: Complex double-precision
/// evaluation of the Wright ω function* (2012), on the real line.
pub(super) fn wright(x: f64) -> f64 {
    if x < -40.0 {
        return x.exp();
    }
    if x > 1e18 {
        return x;
    }
    let mut w = if x < -2.0 {
        let t = x.exp();
        t * (1.0 - t * (1.0 - t * (1.5 - t * (8.0 / 3.0))))
    } else if x < 1.0 + std::f64::consts::PI {
        let d = x - 1.0;
        1.0 + d * (0.5 + d * (1.0 / 16.0 - d * (1.0 / 192.0 + d * (1.0 / 3072.0))))
    } else {
        let log = x.ln();
        x - log + log / x
    };
    // Two steps suffice from each start; the bound only makes termination obvious.
    for _ in 0..4 {
        let r = x - w - w.ln();
        let s = 1.0 + w;
        let t = s * (s + r * (2.0 / 3.0));
        let step = r / s * ((t - r / 2.0) / (t - r));
        w += w * step;
        // The next step would be about its fourth power.
        if step.abs() < 1e-4 {
            break;
        }
    }
    w
}

/// log(1/ω(x)), also where ω under- or overflows: the l with e^{−l} − l = x.
pub(super) fn log_reciprocal(x: f64) -> f64 {
    let w = wright(x);
    if w < 1.0 { w - x } else { -w.ln() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn omega_solves_its_equation_everywhere() {
        let mut x = -600.0;
        while x < 600.0 {
            let (w, l) = (wright(x), log_reciprocal(x));
            // The relative error of ω is the residual over 1 + ω.
            let residual = (w + w.ln() - x) / (1.0 + w);
            assert!(residual.abs() < 4e-16 * (1.0 + x.abs()), "ω({x}) = {w}: {residual:e}");
            let residual = ((-l).exp() - l - x) / (1.0 + x.abs());
            assert!(residual.abs() < 1e-15, "log 1/ω({x}) = {l}: {residual:e}");
            x += 0.0173;
        }
        // The omega constant.
        assert!((wright(0.0) - 0.567_143_290_409_783_8).abs() < 1e-16);
        assert_eq!(wright(1.0), 1.0);
        for x in [-1e300, -1e5, 1e5, 1e17, 1e300] {
            let l = log_reciprocal(x);
            let expected = if x < 0.0 { -x } else { -(x - x.ln()).ln() };
            assert!((l / expected - 1.0).abs() < 1e-9, "{x}: {l}");
        }
    }
}
