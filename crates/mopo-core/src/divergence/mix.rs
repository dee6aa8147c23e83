//! The exact mixture of policies for preference weights, per token.

use super::solve::{
    Deficits, Family, add_exp, log_softplus, normalise, softplus, solve, subtract_exp,
};
use super::{Divergence, refuse};
use crate::log_space::log_sum_exp;
use crate::{Error, Result};

/// Tolerance for log Σ exp of a distribution, which should be 0: `f32` softmaxes over a large
/// vocabulary are within it.
const NORMALISED: f64 = 1e-4;

/// The policy π that is optimal for the reward Σ_k α_k r_k, if each π_k is optimal for r_k (all with
/// the same strength τ of D_f(· ‖ π_ref)): log-probabilities `[n_actions]`, normalised, of
///
/// ```text
/// f'(π/π_ref) = Σ_k α_k f'(π_k/π_ref) − c,   c such that Σ π = 1.
/// ```
///
/// Reverse KL gives π ∝ Π π_k^{α_k} (the reference cancels), the others the root of a monotone
/// function of one variable. `log_policies`: one slice `[n_actions]` for each policy, normalised
/// log-probabilities; `log_reference`: `[n_actions]`; `preference_weights`: `[n_policies]` on the
/// simplex (α).
///
/// Zeros (−∞): an action of reference 0 has probability 0, and so has one that a policy of positive
/// weight gives 0. Policies that are equal, or a single one of positive weight, come back as they
/// are. Where Σ_k α_k f'(π_k/π_ref) is so large at every action that it swallows f'(π/π_ref),
/// policies nearly without a common action, the last digits of the policies decide.
///
/// Complexity: O(K n) and some 5 passes over n. Source: the problem's own stationarity condition;
/// Shi et al., *Decoding-Time Language Model Alignment with Multiple Objectives* (2024).
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::NonFinite`] with field and remedy: a divergence that does
/// not [check](Divergence::check) or has no barrier, lengths that do not fit, weights that are
/// negative or whose sum differs from 1 by more than 1e-6, tables that are not log-probabilities
/// (log Σ exp further than 1e-4 from 0), no action that all policies and the reference allow.
pub fn mix(
    divergence: Divergence,
    log_policies: &[&[f64]],
    log_reference: &[f64],
    preference_weights: &[f64],
) -> Result<Vec<f64>> {
    divergence.check_mixable()?;
    let n_actions = log_reference.len();
    check_distribution("log_reference", "", log_reference)?;
    check_weights(preference_weights, log_policies.len())?;
    for (k, policy) in log_policies.iter().enumerate() {
        if policy.len() != n_actions {
            let value = format!("{} long for policy {k}", policy.len());
            let expected = format!("log_reference has {n_actions} actions; use one vocabulary");
            return Err(refuse("log_policies", value, expected));
        }
        check_distribution("log_policies", &format!(" of policy {k}"), policy)?;
    }

    let sum: f64 = preference_weights.iter().sum();
    let parts: Vec<(&[f64], f64)> = log_policies
        .iter()
        .zip(preference_weights)
        .filter(|(_, weight)| **weight > 0.0)
        .map(|(policy, weight)| (*policy, weight / sum))
        .collect();
    let allowed = |action: &usize| {
        log_reference[*action] > f64::NEG_INFINITY
            && parts.iter().all(|(policy, _)| policy[*action] > f64::NEG_INFINITY)
    };
    let actions: Vec<usize> = (0..n_actions).filter(allowed).collect();
    if actions.is_empty() {
        return Err(refuse(
            "log_policies",
            "without an action to which all of positive weight, and log_reference, give more than 0",
            "the mixture has probability 0 wherever one of them has; give the weight to fewer \
             policies, or policies that were trained from this reference",
        ));
    }

    // Equal policies are their own mixture, unless they use actions that the reference excludes.
    let first = parts[0].0;
    let equal = parts.iter().all(|(policy, _)| *policy == first);
    if equal
        && (0..n_actions)
            .all(|i| log_reference[i] > f64::NEG_INFINITY || first[i] == log_reference[i])
    {
        return Ok(first.to_vec());
    }

    let reference: Vec<f64> = actions.iter().map(|action| log_reference[*action]).collect();
    let mixed = match divergence {
        Divergence::ReverseKl => geometric_mean(&parts, &actions),
        Divergence::ForwardKl => by_power(1.0, &parts, &actions, &reference),
        Divergence::Alpha(a) => by_power(a, &parts, &actions, &reference),
        Divergence::JensenShannon => by_jensen_shannon(&parts, &actions, &reference),
        Divergence::Jeffreys => by_jeffreys(&parts, &actions, &reference),
        Divergence::TotalVariation | Divergence::ChiSquared => unreachable!("no barrier"),
    };
    let mut log_policy = vec![f64::NEG_INFINITY; n_actions];
    for (action, value) in actions.iter().zip(mixed) {
        log_policy[*action] = value;
    }
    Ok(log_policy)
}

/// Policies of positive weight, weights with sum 1.
type Parts<'a> = [(&'a [f64], f64)];

/// Ratios beyond e^±this go through logarithms.
const PLAIN: f64 = 500.0;

fn geometric_mean(parts: &Parts, actions: &[usize]) -> Vec<f64> {
    let mean = |action: &usize| parts.iter().map(|(policy, weight)| weight * policy[*action]).sum();
    let mut log_policy: Vec<f64> = actions.iter().map(mean).collect();
    normalise(&mut log_policy);
    log_policy
}

/// Σ_k α_k of a function of the log-ratio l = log π_k/π_ref, for each action; and whether any |l|
/// exceeds [`PLAIN`].
fn average(
    parts: &Parts,
    actions: &[usize],
    reference: &[f64],
    function: impl Fn(f64) -> f64,
) -> (Vec<f64>, bool) {
    let mut extreme = false;
    let mut out = vec![0.0; actions.len()];
    for (policy, weight) in parts {
        for ((out, action), reference) in out.iter_mut().zip(actions).zip(reference) {
            let l = policy[*action] - reference;
            extreme |= l.abs() > PLAIN;
            *out += weight * function(l);
        }
    }
    (out, extreme)
}

/// log Σ_k α_k e^{function(l)} for each action.
fn log_average(
    parts: &Parts,
    actions: &[usize],
    reference: &[f64],
    function: impl Fn(f64) -> f64,
) -> Vec<f64> {
    let of = |(action, reference): (&usize, &f64)| {
        log_sum_exp(
            parts
                .iter()
                .map(|(policy, weight)| weight.ln() + function(policy[*action] - reference)),
        )
    };
    actions.iter().zip(reference).map(of).collect()
}

fn minimum(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Differences to the minimum.
fn above_minimum(mut values: Vec<f64>) -> Vec<f64> {
    let min = minimum(&values);
    values.iter_mut().for_each(|value| *value -= min);
    values
}

/// The same for logarithms.
fn log_above_minimum(mut logs: Vec<f64>) -> Vec<f64> {
    let min = minimum(&logs);
    logs.iter_mut().for_each(|log| *log = subtract_exp(*log, min));
    logs
}

/// u^{−a} = Σ α_k u_k^{−a} + const.
fn by_power(a: f64, parts: &Parts, actions: &[usize], reference: &[f64]) -> Vec<f64> {
    let family = Family::Power(a);
    // Less 1, so that a small order keeps its digits.
    let (powers, extreme) = average(parts, actions, reference, |l| (-a * l).exp_m1());
    // The first guess is c = 0, here and below: it suits policies that differ little.
    let (deficits, start) = if extreme {
        let logs = log_average(parts, actions, reference, |l| -a * l);
        let start = -minimum(&logs) / a;
        (Deficits::from_log(family, log_above_minimum(logs)), start)
    } else {
        let start = -minimum(&powers).ln_1p() / a;
        (Deficits::new(family, above_minimum(powers)), start)
    };
    solve(family, reference, &deficits, start)
}

/// log(1 + 1/u) = Σ α_k log(1 + 1/u_k) + const.
fn by_jensen_shannon(parts: &Parts, actions: &[usize], reference: &[f64]) -> Vec<f64> {
    let family = Family::JensenShannon;
    let (values, extreme) = average(parts, actions, reference, |l| softplus(-l));
    let (deficits, min) = if extreme {
        let logs = log_average(parts, actions, reference, |l| log_softplus(-l));
        (Deficits::from_log(family, log_above_minimum(logs)), minimum(&values))
    } else {
        let min = minimum(&values);
        (Deficits::new(family, above_minimum(values)), min)
    };
    solve(family, reference, &deficits, -min.exp_m1().ln())
}

/// 1/u − log u = Σ α_k (1/u_k − log u_k) + const.
fn by_jeffreys(parts: &Parts, actions: &[usize], reference: &[f64]) -> Vec<f64> {
    let family = Family::Jeffreys;
    let (values, extreme) = average(parts, actions, reference, |l| (-l).exp_m1() - l);
    let start = Divergence::Jeffreys.log_inverse_derivative(-minimum(&values));
    let deficits = if extreme {
        // 1/u may overflow but the logarithms cannot: their largest average, a constant, makes
        // both terms positive.
        let logs = average(parts, actions, reference, |l| l).0;
        let max = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let reciprocals = log_average(parts, actions, reference, |l| -l);
        let sums = reciprocals.iter().zip(&logs).map(|(r, l)| add_exp(*r, (max - l).ln()));
        Deficits::from_log(family, log_above_minimum(sums.collect()))
    } else {
        Deficits::new(family, above_minimum(values))
    };
    solve(family, reference, &deficits, start.unwrap_or(f64::NAN))
}

/// Checks a table of log-probabilities; `whose` follows the field in messages.
pub(super) fn check_distribution(field: &'static str, whose: &str, logs: &[f64]) -> Result<()> {
    let remedy = "give normalised log-probabilities, as log-softmax makes them";
    if logs.is_empty() {
        return Err(refuse(field, format!("empty{whose}"), "there must be at least one action"));
    }
    if let Some(action) = logs.iter().position(|log| log.is_nan()) {
        let what = format!("`{field}`{whose} at action {action} (it is NaN; {remedy})");
        return Err(Error::NonFinite(what));
    }
    let total = log_sum_exp(logs.iter().copied());
    if total.is_nan() || total.abs() > NORMALISED {
        let value = format!("a table{whose} with log Σ exp = {total}");
        return Err(refuse(field, value, format!("it must be 0; {remedy}")));
    }
    Ok(())
}

fn check_weights(weights: &[f64], n_policies: usize) -> Result<()> {
    let remedy = "give one weight ≥ 0 for each policy, with sum 1";
    let refuse = |value: String| Err(refuse("preference_weights", value, remedy));
    if n_policies == 0 {
        return Err(super::refuse("log_policies", "empty", "there must be at least one policy"));
    }
    if weights.len() != n_policies {
        return refuse(format!("{} long for {n_policies} policies", weights.len()));
    }
    if let Some(k) = weights.iter().position(|weight| !weight.is_finite() || *weight < 0.0) {
        return refuse(format!("{} at policy {k}", weights[k]));
    }
    let sum: f64 = weights.iter().sum();
    if (sum - 1.0).abs() > 1e-6 {
        return refuse(format!("{weights:?} with sum {sum}"));
    }
    Ok(())
}
