//! `mopo bench exchange`: how long the ranks of a job take to exchange what a training step does.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::median;
use crate::args::BenchExchangeArgs;
use crate::ranks::Ranks;

/// Longer than any exchange.
const TIME_LIMIT: Duration = Duration::from_secs(600);

/// The measurement.
#[derive(Debug, Serialize)]
struct Line {
    peer: &'static str,
    version: &'static str,
    ranks: usize,
    exchanges: Vec<Exchange>,
}

/// Medians in seconds.
#[derive(Debug, Serialize)]
struct Exchange {
    /// Of a gradient of all parameters.
    bytes: usize,
    /// A round of micro-batches: each rank gets its share of every rank's gradient.
    all_to_all: f64,
    /// After the step: each rank gets all parameters.
    all_gather: f64,
}

pub(super) fn run(args: &BenchExchangeArgs) -> Result<()> {
    let ranks = Ranks::join(TIME_LIMIT)?;
    let result = measure(args, &ranks);
    ranks.end(result)
}

fn measure(args: &BenchExchangeArgs, ranks: &Ranks) -> Result<()> {
    ensure!(args.repeats > 1, "--repeats must be 2 at least: the first is left out");
    let communicator = ranks.communicator();
    let world = communicator.world();
    let mut exchanges = vec![];
    for mebibytes in &args.mebibytes {
        let share = mebibytes * 1024 * 1024 / 4 / world;
        let (mut there, mut back) = (vec![], vec![]);
        for _ in 0..args.repeats {
            let parts = vec![vec![communicator.rank() as f32; share]; world];
            communicator.barrier()?;
            let clock = Instant::now();
            let own = communicator.all_to_all(parts)?.swap_remove(0);
            communicator.barrier()?;
            there.push(clock.elapsed().as_secs_f64());
            let clock = Instant::now();
            let all = communicator.all_gather_f32(&own)?;
            communicator.barrier()?;
            back.push(clock.elapsed().as_secs_f64());
            ensure!(all.len() == share * world, "an exchange lost something");
        }
        exchanges.push(Exchange {
            bytes: 4 * share * world,
            all_to_all: median(&there[1..])?,
            all_gather: median(&back[1..])?,
        });
    }
    if ranks.is_first() {
        let version = env!("CARGO_PKG_VERSION");
        super::print(&Line { peer: "mopo", version, ranks: world, exchanges })?;
    }
    Ok(())
}
