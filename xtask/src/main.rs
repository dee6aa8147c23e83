//! The project's commands, for people and CI: `cargo xtask help`. It never links burn, so
//! it builds in seconds; commands that need a model run the `mopo` binary.

mod bench_pareto;
mod bench_score;
mod bench_train;
mod cargo;
mod ci;
mod machine;
mod matrix;
mod measured;
mod real_line;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask <command> [-- arguments]

  train    mopo train: data, SFT, MOPO (release build); see `cargo xtask train -- --help`
  pareto   mopo pareto: generates, scores, draws the front (release build)
  bandit   mopo bandit: the synthetic experiments with exact solutions; `cargo xtask bandit`
           lists them
  bench    the criterion benchmarks of mopo-core and mopo-pareto; arguments go to `cargo bench`
  bench pareto [--python PATH]
           the Pareto tools against moocore, in turns; makes a Python environment in target/
  bench train [--peers] [--python PATH | --make-venv DIR] [--rounds N] [--out FILE]
           the training step and generation; with --peers against TRL, PyTorch and transformers,
           in turns; see `cargo xtask bench train --help`
  bench score [--python PATH] [--rounds N] [--out FILE]
           scoring with a reward model; with --python against transformers, in turns;
           see `cargo xtask bench score --help`
  real-line --data DIR
           the full pipeline on HH-RLHF: reward models, labels, SFT, MOPO, front, page;
           see `cargo xtask real-line --help`
  matrix   runs the tests on every backend, and reports what was skipped and why
  tidy     checks layout rules: crate edges, file lengths, headers
  ci       runs what CI runs (.ci/run): format, clippy, tests, a tiny run from data to figure
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let mut rest: Vec<String> = args.collect();
    if rest.first().is_some_and(|a| a == "--") {
        rest.remove(0);
    }
    match command.as_deref() {
        Some(name @ ("train" | "pareto" | "bandit")) => cargo::mopo(name, &rest),
        Some("bench") if rest.first().is_some_and(|a| a == "pareto") => {
            bench_pareto::run(&rest[1..])
        }
        Some("bench") if rest.first().is_some_and(|a| a == "train") => bench_train::run(&rest[1..]),
        Some("bench") if rest.first().is_some_and(|a| a == "score") => bench_score::run(&rest[1..]),
        Some("bench") => cargo::bench(&["mopo-core", "mopo-pareto"], &rest),
        Some("real-line") => real_line::run(&rest),
        Some("matrix") => matrix::run(&rest),
        Some("tidy") => tidy::run(),
        Some("ci") => ci::run(&rest),
        None | Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        Some(other) => bail!("unknown command `cargo xtask {other}`\n\n{HELP}"),
    }
}
