//! No barrier, no decoding: `cargo run -p mopo-core --example no_barrier`.
//!
//! A decoding rule sees policies π_1, π_2, each optimal for a reward of its own, and is to return
//! the optimum of the mixed reward α_1 r_1 + α_2 r_2. Take two worlds that differ in one reward of
//! one action, r_1 at the third, which is so poor in both that π_1 avoids it. If f'(0) is finite,
//! avoiding can mean probability 0 exactly, where the reward leaves no trace: both worlds show the
//! rule the same policies. But π_2 likes the third action, so the mixed optima differ, and any rule
//! is wrong in one of the worlds by at least half of their distance. This is the theorem of A.2 in
//! its smallest case.
//!
//! With a barrier the third action keeps a probability that tells the worlds apart, and `mix` is
//! exact in both. `tests/divergence` asserts what this prints.

use mopo_core::Result;
use mopo_core::divergence::{Divergence, mix, optimal_policy};

/// r_1 in either world.
pub const FIRST_REWARDS: [[f64; 3]; 2] = [[1.0, 0.25, -3.0], [1.0, 0.25, -10.0]];
/// r_2 in both worlds.
pub const SECOND_REWARDS: [f64; 3] = [0.0, 0.5, 4.0];
/// α.
pub const WEIGHTS: [f64; 2] = [0.5, 0.5];
/// τ, the strength of the divergence from the reference, which is uniform.
pub const TAU: f64 = 1.0;

/// One world under one divergence: log-probabilities of the three actions.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// π_1 and π_2, all that a decoding rule can see.
    pub policies: [Vec<f64>; 2],
    /// The optimum of the mixed reward, which it should return.
    pub optimum: Vec<f64>,
    /// What `mix` makes of the policies; `None` without a barrier.
    pub mixture: Option<Vec<f64>>,
}

/// Both worlds under one divergence.
///
/// # Errors
/// An invalid divergence.
pub fn worlds(divergence: Divergence) -> Result<[World; 2]> {
    let reference = [-(3f64.ln()); 3];
    let optimal = |rewards: &[f64]| optimal_policy(divergence, &reference, rewards, TAU);
    let world = |first: &[f64; 3]| -> Result<World> {
        let policies = [optimal(first)?, optimal(&SECOND_REWARDS)?];
        let mixed: Vec<f64> = first
            .iter()
            .zip(SECOND_REWARDS)
            .map(|(first, second)| WEIGHTS[0] * first + WEIGHTS[1] * second)
            .collect();
        let mixture = match divergence.has_barrier() {
            true => Some(mix(divergence, &[&policies[0], &policies[1]], &reference, &WEIGHTS)?),
            false => None,
        };
        Ok(World { policies, optimum: optimal(&mixed)?, mixture })
    };
    Ok([world(&FIRST_REWARDS[0])?, world(&FIRST_REWARDS[1])?])
}

/// ½ Σ |p − q| of two tables of log-probabilities.
pub fn distance(p: &[f64], q: &[f64]) -> f64 {
    0.5 * p.iter().zip(q).map(|(p, q)| (p.exp() - q.exp()).abs()).sum::<f64>()
}

fn show(log_policy: &[f64]) -> String {
    let shown = |log: &f64| match log.exp() {
        p if p == 0.0 || p >= 1e-4 => format!("{p:<9.4}"),
        p => format!("{p:<9.1e}"),
    };
    log_policy.iter().map(shown).collect()
}

fn main() -> Result<()> {
    println!("Three actions, a uniform reference, τ = {TAU}, weights {WEIGHTS:?}.");
    for (name, first) in ["A", "B"].iter().zip(FIRST_REWARDS) {
        println!("World {name}: r_1 = {first:?}, r_2 = {SECOND_REWARDS:?}");
    }
    for barrier in [false, true] {
        println!("\n{}", if barrier { "== With a barrier" } else { "== Without a barrier" });
        for divergence in Divergence::ALL.into_iter().filter(|d| d.has_barrier() == barrier) {
            let worlds = worlds(divergence)?;
            println!("\n{divergence}");
            for (name, world) in ["A", "B"].iter().zip(&worlds) {
                println!("  {name}: π_1      {}", show(&world.policies[0]));
                println!("     π_2      {}", show(&world.policies[1]));
                println!("     optimum  {}", show(&world.optimum));
                if let Some(mixture) = &world.mixture {
                    let error = distance(mixture, &world.optimum);
                    println!("     mixture  {} off by {error:.1e}", show(mixture));
                }
            }
            let [a, b] = &worlds;
            let apart = distance(&a.optimum, &b.optimum);
            if a.policies == b.policies {
                println!(
                    "  The same policies, optima {apart:.4} apart: whatever a rule returns, it is \
                     off by {:.4} or more in one world.",
                    apart / 2.0
                );
            } else {
                let visible = (a.policies[0][2] - b.policies[0][2]).abs();
                println!(
                    "  The worlds differ in log π_1(3) by {visible:.4}, optima {apart:.4} apart."
                );
            }
        }
    }
    Ok(())
}
