//! The page of results: what ran, and the figures of each target.

use std::fmt::Write;
use std::process::Command;

use crate::{Report, targets};

/// The page about reports of one commit, in Markdown. What was found and mended is for people to add.
pub fn page(reports: &[Report]) -> String {
    let mut all = Report::default();
    let seeds: Vec<String> = reports.iter().map(|report| report.seed.to_string()).collect();
    reports.iter().cloned().for_each(|report| all.merge(report));
    let n: u64 = all.targets.iter().map(|target| target.inputs).sum();
    let n_found: usize = all.targets.iter().map(|target| target.found.len()).sum();
    let seconds: f64 = all.targets.iter().map(|target| target.seconds).sum();
    let mut text = format!(
        "# Fuzzing\n\n{n} inputs for {} readers in {:.0} seconds of a core, {n_found} of them wrong: a panic, the end of the \
         process, more than {} s or {} MiB, or a result that contradicts itself. Recorded at commit {}; {}; \
         seeds {}.\n\n",
        all.targets.len(),
        seconds,
        crate::SECONDS,
        crate::MEMORY >> 20,
        commit(),
        machine(),
        seeds.join(", "),
    );
    text += "| target | reads | inputs | read without an error | seconds | inputs per second | found |\n|---|---|---:|---:|---:|---:|---:|\n";
    let known = targets();
    for target in &all.targets {
        let reads =
            known.iter().find(|known| known.name == target.name).map_or("", |known| known.reads);
        let share = 100.0 * target.accepted as f64 / target.inputs.max(1) as f64;
        let rate = target.inputs as f64 / target.seconds.max(1e-9);
        writeln!(
            text,
            "| `{}` | {reads} | {} | {share:.0} % | {:.0} | {rate:.0} | {} |",
            target.name,
            target.inputs,
            target.seconds,
            target.found.len()
        )
        .expect("a string takes all");
    }
    text
}

fn commit() -> String {
    let git = |args: &[&str]| -> Option<String> {
        let out =
            Command::new("git").args(args).output().ok().filter(|out| out.status.success())?;
        Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".into())
}

/// Processor and number of cores.
fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let n = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {n} cores", name.map_or("a processor", |(_, name)| name))
}
