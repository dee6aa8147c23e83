//! `mopo bench`: measures this machine, one JSON line per measurement. `cargo xtask bench` decides
//! what to compare and how often.

mod curves;
mod exchange;
mod generate;
#[cfg(feature = "flex")]
mod matmul;
mod rows;
mod score;
mod train;

use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use mopo_data::Tokenizer;
use mopo_lm::{CausalLm, DecoderShape};
use mopo_ops::FusedBackend;
use mopo_train::config::BaseFormat;
use serde::Serialize;

use crate::args::{BenchArgs, BenchCommon, Measurement};
use crate::device;
use crate::output::outln;

pub(crate) fn run(args: BenchArgs) -> Result<()> {
    match args.measurement {
        Measurement::Train(args) => train::run(args),
        Measurement::Generate(args) => generate::run(args),
        Measurement::Score(args) => score::run(args),
        Measurement::Exchange(args) => exchange::run(&args),
        Measurement::Curves(args) => curves::run(&args),
        #[cfg(feature = "flex")]
        Measurement::Matmul(args) => matmul::run(args),
        #[cfg(not(feature = "flex"))]
        Measurement::Matmul(_) => device::check(device::Device::Flex),
    }
}

/// Checks the device and sets the number of threads, before anything has started one.
fn begin(common: &BenchCommon) -> Result<()> {
    device::check(common.device)?;
    device::set_matmul_precision(common.device, common.precision.matmul, device::PRECISION_FLAG)?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(common.threads)
        .build_global()
        .with_context(|| format!("cannot start {} threads", common.threads))
}

/// Fields that describe the program, on every line.
#[derive(Debug, Serialize)]
struct Program {
    peer: &'static str,
    version: &'static str,
    /// Timings of a debug build mean little.
    profile: &'static str,
    device: String,
    /// Format of the base in memory.
    base: &'static str,
    /// In what products are computed.
    matmul_precision: &'static str,
    threads: usize,
}

impl Program {
    fn new(common: &BenchCommon) -> Self {
        Self {
            peer: "mopo",
            version: env!("CARGO_PKG_VERSION"),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            device: common.device.to_string(),
            base: common.base.name(),
            matmul_precision: common.precision.matmul.name(),
            threads: common.threads,
        }
    }
}

/// Prints a measurement as one line.
fn print(line: &impl Serialize) -> Result<()> {
    outln!("{}", serde_json::to_string(line).context("writing the measurement")?);
    Ok(())
}

/// A frozen model and its tokenizer.
fn load<B: FusedBackend>(
    model: &Path,
    base: BaseFormat,
    device: &B::Device,
) -> Result<(CausalLm<B>, Tokenizer)> {
    let dir = &super::models::find(model, None)?;
    let tokenizer = mopo_train::load_tokenizer(dir)?;
    tokenizer.check_fits(DecoderShape::read(dir)?.vocab_size)?;
    let base = CausalLm::<B>::load(dir, base.load_options(), device)?.no_grad();
    crate::memory::give_back();
    Ok((base, tokenizer))
}

/// Peak resident memory of the process in MiB, if the system reports it.
fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib / 1024)
}

/// The median; for an even number of values, the mean of the middle two.
fn median(values: &[f64]) -> Result<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => bail!("nothing was measured"),
        n if n % 2 == 1 => Ok(sorted[middle]),
        _ => Ok((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// All values but the first, which includes warm-up; the only one if there is just one.
fn after_the_first(values: &[f64]) -> &[f64] {
    if values.len() > 1 { &values[1..] } else { values }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_what_follows_the_first() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).unwrap(), 2.0);
        assert_eq!(median(after_the_first(&[9.0, 4.0, 1.0])).unwrap(), 2.5);
        assert_eq!(median(after_the_first(&[9.0])).unwrap(), 9.0);
        assert!(median(&[]).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_of_memory_is_at_least_what_is_held() {
        let before = peak_rss_mib().unwrap();
        let held = vec![1u8; 256 << 20];
        let after = peak_rss_mib().unwrap();
        assert!(held.iter().step_by(4096).all(|b| *b == 1));
        assert!(before > 0 && after >= 200, "{before} and {after}");
    }
}
