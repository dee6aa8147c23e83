//! The project's own commands, for people and for CI: `cargo xtask help`. It never links burn, so
//! it builds in seconds; what needs a model is a run of the `mopo` binary.
//!
//! It is a library for its place: its doc tests, of which there are none, are the last of `cargo test
//! --workspace`, and `.cargo/rustdoc` lists the skipped tests after them.

mod args;
mod bench_dpo;
mod bench_generate;
mod bench_growth;
mod bench_pareto;
mod bench_ranks;
mod bench_score;
mod bench_serve;
mod bench_shards;
mod bench_train;
mod campaign;
mod cargo;
mod ci;
mod cluster_test;
mod deny;
mod dependencies;
mod device_check;
mod files;
mod licences;
mod machine;
mod matrix;
mod measured;
mod models;
mod program;
mod random;
mod real_line;
mod study;
mod tidy;
mod tiny;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use args::{Bench, BenchCommand, Cli, Command};

/// The command line, to its exit code.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    // As given, for the pages that show the command: without the program and its two commands.
    let words = || std::env::args().skip(3).collect::<Vec<_>>();
    match command {
        Command::Train(forwarded) => program::run("train", &forwarded.args),
        Command::Pareto(forwarded) => program::run("pareto", &forwarded.args),
        Command::Bandit(forwarded) => program::run("bandit", &forwarded.args),
        Command::Bench(Bench { what: None, args }) => {
            cargo::bench(&["mopo-core", "mopo-pareto"], &args)
        }
        Command::Bench(Bench { what: Some(what), .. }) => match what {
            BenchCommand::Pareto { python } => bench_pareto::run(python),
            BenchCommand::Train(options) => bench_train::run(options.checked()?, &words()),
            BenchCommand::Dpo(options) => bench_dpo::run(&options, &words()),
            BenchCommand::Generate(options) => bench_generate::run(&options, &words()),
            BenchCommand::Score(options) => bench_score::run(&options, &words()),
            BenchCommand::Ranks(options) => bench_ranks::run(&options, &words()),
            BenchCommand::Growth(options) => bench_growth::run(&options, &words()),
            BenchCommand::Shards(options) => bench_shards::run(&options, &words()),
            BenchCommand::Serve(options) => bench_serve::run(&options, &words()),
        },
        Command::RealLine(options) => real_line::run(options),
        Command::Study(options) => {
            study::run(&options, &std::env::args().skip(2).collect::<Vec<_>>())
        }
        Command::ClusterTest(options) => cluster_test::run(&options),
        Command::DeviceCheck(options) => device_check::run(&options),
        Command::Campaign(options) => {
            campaign::run(&options, &std::env::args().skip(2).collect::<Vec<_>>())
        }
        Command::Models(options) => models::run(&options),
        Command::Matrix { backends } => matrix::run(&backends),
        Command::Tidy => tidy::run(),
        Command::Deny => deny::run(),
        Command::Licences { texts } => licences::run(texts.as_deref()),
        Command::Ci => ci::run(),
    }
}

/// Reads and checks a study (`cargo xtask study`), and fills in the overrides of its runs. Only for whoever tries inputs.
///
/// # Errors
/// What is wrong with it.
#[doc(hidden)]
pub fn check_study(text: &str) -> Result<()> {
    study::check(text)
}
