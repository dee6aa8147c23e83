//! f-divergences: f, its derivative and inverse, the optimum under each, and the exact mixture of
//! policies (docs/math.md, section 6).
//!
//! The optimum of max_π E_π\[r\] − τ D_f(π ‖ π_ref) satisfies f'(π/π_ref) = (r − λ)/τ wherever π > 0.
//! If f'(u) → −∞ as u → 0 (a *barrier*), π > 0 everywhere, so that policies determine their rewards
//! up to a constant, and the optimum of any mixed reward follows from the policies: [`mix`]. Without
//! a barrier it does not (`cargo run -p mopo-core --example no_barrier`).
//!
//! Everything is `f64` on the host, and in logarithms: policies come as log-softmax.

mod form;
mod function;
mod mix;
mod omega;
mod optimum;
mod solve;
mod worst_case;

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};
pub use mix::mix;
pub use optimum::optimal_policy;
pub use worst_case::worst_case;

/// D_f(p ‖ q) = Σ_i q_i f(p_i/q_i) for a convex f with f(1) = 0.
///
/// | | f(u) | f'(u) | barrier |
/// |---|---|---|---|
/// | `reverse_kl` | u log u | log u + 1 | yes |
/// | `forward_kl` | −log u | −1/u | yes |
/// | `jensen_shannon` | u log u − (u+1) log((u+1)/2) | log(2u/(1+u)) | yes |
/// | `alpha:a`, 0 < a < 1 | (u^{1−a} − (1−a)u − a)/(a(a−1)) | (1 − u^{−a})/a | yes |
/// | `jeffreys` | (u − 1) log u | log u + 1 − 1/u | yes |
/// | `total_variation` | ½\|u − 1\| | ±½ | no |
/// | `chi_squared` | (u − 1)² | 2(u − 1) | no |
///
/// With p the policy and q the reference, `reverse_kl` is KL(π ‖ π_ref). `jensen_shannon` is twice
/// the divergence that is bounded by log 2. Methods of a value that does not [`check`](Self::check)
/// return meaningless numbers. In files it is its name, such as `alpha:0.5`; `{ alpha = 0.5 }` is read, too.
///
/// ```
/// use mopo_core::divergence::Divergence;
///
/// let divergence: Divergence = "alpha:0.5".parse()?;
/// assert_eq!(divergence, Divergence::Alpha(0.5));
/// assert_eq!(divergence.derivative(4.0), 1.0);
/// assert_eq!(divergence.inverse_derivative(1.0), Some(4.0));
/// # Ok::<(), mopo_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Divergence {
    /// KL(p ‖ q). The default.
    #[default]
    ReverseKl,
    /// KL(q ‖ p).
    ForwardKl,
    /// KL(p ‖ m) + KL(q ‖ m), m = (p + q)/2.
    JensenShannon,
    /// The α-divergence for 0 < a < 1: between reverse KL (a → 0) and forward KL (a → 1).
    Alpha(f64),
    /// KL(p ‖ q) + KL(q ‖ p).
    Jeffreys,
    /// ½ Σ |p − q|.
    TotalVariation,
    /// Pearson's χ²: Σ (p − q)²/q.
    ChiSquared,
}

impl Divergence {
    /// One of each kind, with a = 0.5 for the α-divergence: for documentation and command lines.
    pub const ALL: [Self; 7] = [
        Self::ReverseKl,
        Self::ForwardKl,
        Self::JensenShannon,
        Self::Alpha(0.5),
        Self::Jeffreys,
        Self::TotalVariation,
        Self::ChiSquared,
    ];

    /// Checks the order of the α-divergence.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for an order outside (0, 1).
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::Alpha(a) if !(a > 0.0 && a < 1.0) => Err(refuse(
                "divergence",
                self.to_string(),
                "alpha's order must lie strictly between 0 and 1; its limits are called \
                 reverse_kl (0) and forward_kl (1)",
            )),
            _ => Ok(()),
        }
    }

    /// Whether f'(u) → −∞ as u → 0: the optimum under this divergence gives no action probability
    /// 0, and policies can be [mixed](mix()).
    pub fn has_barrier(&self) -> bool {
        !matches!(self, Self::TotalVariation | Self::ChiSquared)
    }

    /// Like [`check`](Self::check), and requires a barrier.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] that says why policies cannot be mixed under this divergence.
    pub fn check_mixable(&self) -> Result<()> {
        self.check()?;
        if self.has_barrier() {
            return Ok(());
        }
        Err(refuse(
            "divergence",
            self.to_string(),
            format!(
                "policies can only be mixed under a divergence with a barrier (f'(u) → −∞ as \
                 u → 0); without one an optimal policy can give an action probability 0 whatever \
                 its exact reward is, so nothing determines the optimum of the mixed reward (A.2); \
                 choose one of {}",
                names(Self::has_barrier)
            ),
        ))
    }
}

/// The error for `field`.
fn refuse(field: &'static str, value: impl ToString, expected: impl Into<String>) -> Error {
    Error::InvalidParameter { field, value: value.to_string(), expected: expected.into() }
}

fn names(wanted: impl Fn(&Divergence) -> bool) -> String {
    let wanted = Divergence::ALL.iter().filter(|divergence| wanted(divergence));
    wanted.map(Divergence::to_string).collect::<Vec<_>>().join(", ")
}

/// The name that [`FromStr`] reads: `reverse_kl`, …, `alpha:0.5`, ….
impl fmt::Display for Divergence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReverseKl => out.write_str("reverse_kl"),
            Self::ForwardKl => out.write_str("forward_kl"),
            Self::JensenShannon => out.write_str("jensen_shannon"),
            Self::Alpha(a) => write!(out, "alpha:{a}"),
            Self::Jeffreys => out.write_str("jeffreys"),
            Self::TotalVariation => out.write_str("total_variation"),
            Self::ChiSquared => out.write_str("chi_squared"),
        }
    }
}

impl FromStr for Divergence {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let order = name.strip_prefix("alpha:").and_then(|order| order.parse().ok());
        let named = || Self::ALL.into_iter().find(|divergence| divergence.to_string() == name);
        let divergence = order.map(Self::Alpha).or_else(named).ok_or_else(|| {
            let known = names(|_| true);
            let expected = format!("the divergences are {known} (any order between 0 and 1)");
            refuse("divergence", name, expected)
        })?;
        divergence.check().map(|()| divergence)
    }
}
