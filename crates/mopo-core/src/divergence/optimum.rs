//! The optimal policy for a reward that is known for every action.

use super::mix::check_distribution;
use super::solve::{Deficits, Family, normalise, solve};
use super::{Divergence, refuse};
use crate::{Error, Result};

/// The policy that maximises E_π\[r\] − τ D_f(π ‖ π_ref): log-probabilities `[n_actions]`,
/// normalised.
///
/// ```text
/// f'(π/π_ref) = (r − λ)/τ where π > 0,   ≥ where π = 0,   λ such that Σ π = 1.
/// ```
///
/// With a [barrier](Divergence::has_barrier) π > 0 wherever π_ref > 0. Chi-squared cuts off at 0:
/// π = π_ref max(0, 1 + (r − λ)/(2τ)). Total variation moves the mass of every action whose reward
/// is more than τ below the best to the best action (the first of several; with several, and with
/// actions exactly τ below, the optimum is not unique). `log_reference`, `rewards`: `[n_actions]`.
///
/// Complexity: O(n), for chi-squared O(n log n).
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::NonFinite`]: a divergence that does not check, τ that is
/// not positive, a reference that is not normalised, rewards of another length or not finite.
pub fn optimal_policy(
    divergence: Divergence,
    log_reference: &[f64],
    rewards: &[f64],
    tau: f64,
) -> Result<Vec<f64>> {
    divergence.check()?;
    check_distribution("log_reference", "", log_reference)?;
    if !(tau > 0.0 && tau.is_finite()) {
        return Err(refuse("tau", tau, "it must be positive and finite"));
    }
    if rewards.len() != log_reference.len() {
        let expected = format!("log_reference has {} actions", log_reference.len());
        return Err(refuse("rewards", format!("{} long", rewards.len()), expected));
    }
    if let Some(action) = rewards.iter().position(|reward| !reward.is_finite()) {
        return Err(Error::NonFinite(format!("`rewards` at action {action}")));
    }

    let n_actions = rewards.len();
    let actions: Vec<usize> =
        (0..n_actions).filter(|action| log_reference[*action] > f64::NEG_INFINITY).collect();
    let reference: Vec<f64> = actions.iter().map(|action| log_reference[*action]).collect();
    let best = actions.iter().map(|action| rewards[*action]).fold(f64::NEG_INFINITY, f64::max);
    // In units of f'.
    let deficits = |scale: f64| -> Vec<f64> {
        actions.iter().map(|action| (best - rewards[*action]) / tau * scale).collect()
    };
    let by = |family, scale| {
        solve(family, &reference, &Deficits::new(family, deficits(scale)), f64::NAN)
    };
    let optimum = match divergence {
        Divergence::ReverseKl => {
            let mut log_policy = deficits(-1.0);
            log_policy.iter_mut().zip(&reference).for_each(|(log, reference)| *log += reference);
            normalise(&mut log_policy);
            log_policy
        }
        Divergence::ForwardKl => by(Family::Power(1.0), 1.0),
        Divergence::Alpha(a) => by(Family::Power(a), a),
        Divergence::JensenShannon => by(Family::JensenShannon, 1.0),
        Divergence::Jeffreys => by(Family::Jeffreys, 1.0),
        Divergence::TotalVariation => move_mass(&reference, &deficits(1.0)),
        Divergence::ChiSquared => cut_off(&reference, &deficits(1.0)),
    };
    let mut log_policy = vec![f64::NEG_INFINITY; n_actions];
    for (action, value) in actions.iter().zip(optimum) {
        log_policy[*action] = value;
    }
    Ok(log_policy)
}

/// Total variation: each unit of mass that is moved costs ½ at its source and ½ at its destination.
fn move_mass(log_reference: &[f64], deficits: &[f64]) -> Vec<f64> {
    let best = deficits.iter().position(|deficit| *deficit == 0.0).expect("a best action");
    let stays = |action: usize| deficits[action] <= 1.0;
    let mut policy: Vec<f64> = log_reference
        .iter()
        .enumerate()
        .map(|(action, log)| if stays(action) { log.exp() } else { 0.0 })
        .collect();
    let moved: f64 = log_reference
        .iter()
        .enumerate()
        .map(|(action, log)| if stays(action) { 0.0 } else { log.exp() })
        .sum();
    policy[best] += moved;
    let mut log_policy: Vec<f64> = policy.iter().map(|p| p.ln()).collect();
    normalise(&mut log_policy);
    log_policy
}

/// Chi-squared: u = max(0, s − Δ/2) with s such that Σ π_ref u = 1, found by adding actions in the
/// order of their deficits as long as they stay positive.
fn cut_off(log_reference: &[f64], deficits: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..deficits.len()).collect();
    order.sort_by(|a, b| deficits[*a].total_cmp(&deficits[*b]));
    let (mut mass, mut moment, mut level) = (0.0, 0.0, 0.0);
    for action in order {
        let half = deficits[action] / 2.0;
        if mass > 0.0 && level <= half {
            break;
        }
        // It may underflow: such an action is included, but has no effect.
        let weight = log_reference[action].exp();
        mass += weight;
        moment += weight * half;
        level = (1.0 + moment) / mass;
    }
    let mut log_policy: Vec<f64> = log_reference
        .iter()
        .zip(deficits)
        .map(|(log, deficit)| log + (level - deficit / 2.0).max(0.0).ln())
        .collect();
    normalise(&mut log_policy);
    log_policy
}
