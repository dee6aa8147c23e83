//! Every command and flag of `cargo xtask`. The options of a benchmark are in its own file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{
    bench_dpo, bench_generate, bench_growth, bench_ranks, bench_score, bench_serve, bench_shards,
    bench_train, campaign, cluster_test, device_check, models, real_line, study,
};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build mopo in release mode and run `mopo train`; `cargo xtask train --help` lists its flags
    #[command(disable_help_flag = true)]
    Train(Forwarded),
    /// The same with `mopo pareto`: generate answers, score them and draw the front
    #[command(disable_help_flag = true)]
    Pareto(Forwarded),
    /// The same with `mopo bandit`: run a synthetic experiment, or list them
    #[command(disable_help_flag = true)]
    Bandit(Forwarded),
    /// Run the criterion benchmarks, or compare with other implementations
    Bench(Bench),
    /// Run the full pipeline on HH-RLHF: reward models, labels, SFT, MOPO, front, page
    RealLine(real_line::Options),
    /// Train every method at one budget, and compare their fronts
    Study(study::Options),
    /// Start Slurm and Ray on this machine, and compare what they end with with one process
    ClusterTest(cluster_test::Options),
    /// Check a device (tests, parity with the CPU, speed) in eight minutes, with one JSON file at the end
    DeviceCheck(device_check::Options),
    /// Kill the program, take its disk away, change bytes of its files, thousands of times
    Campaign(campaign::Options),
    /// Fetch two published models for the tests that compare with llama.cpp and transformers
    Models(models::Options),
    /// Run the tests on every backend, and report what was skipped and why
    Matrix {
        /// Only these backends [default: all]
        #[arg(value_parser = ["flex", "ndarray", "cuda", "wgpu"])]
        backends: Vec<String>,
    },
    /// Check the layout rules: dependencies between crates, file lengths, headers, documents
    Tidy,
    /// Check dependencies against deny.toml: licences, duplicate and yanked versions
    Deny,
    /// Rewrite THIRD_PARTY.md, the notice of third-party licences
    Licences {
        /// Also write the texts of all licences to this file, to ship with the program
        #[arg(long, value_name = "FILE")]
        texts: Option<PathBuf>,
    },
    /// Run what CI runs (.ci/run)
    Ci,
}

/// What is passed on to another program unchanged.
#[derive(Debug, Args)]
pub(crate) struct Forwarded {
    /// Arguments for mopo
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) what: Option<BenchCommand>,
    /// Arguments for `cargo bench` of mopo-core and mopo-pareto
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Compare the Pareto tools with moocore
    Pareto {
        /// Python with the packages in crates/mopo-pareto/tests/moocore/requirements.txt [default: an
        /// environment created in target/]
        #[arg(long, value_name = "PATH")]
        python: Option<PathBuf>,
    },
    /// Time the training step and generation; with --peers, compare with TRL, PyTorch and transformers
    Train(Box<bench_train::Options>),
    /// Time a step of DPO on a published model; with --python, compare with TRL
    Dpo(Box<bench_dpo::Options>),
    /// Time the generation from a GGUF file; compare with llama.cpp and transformers
    Generate(Box<bench_generate::Options>),
    /// Time the scoring of texts by a reward model; with --python, compare with transformers
    Score(bench_score::Options),
    /// Time a training step by 1 and 2 ranks over MPI, and exchanges by size; what that says of a cluster
    Ranks(bench_ranks::Options),
    /// Time training steps of growing size: pairs, length, objectives, threads
    Growth(bench_growth::Options),
    /// Label with one process and with shards at the same time
    Shards(bench_shards::Options),
    /// Let many clients ask `mopo serve` at once: latencies, memory, and whether each answer is the right one
    Serve(bench_serve::Options),
}

/// A whole number above 0.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "it must be a whole number above 0".into())
}

/// Minutes, of a month at most.
pub(crate) fn minutes(text: &str) -> Result<f64, String> {
    const MOST: f64 = 31.0 * 24.0 * 60.0;
    let minutes = text.parse().ok().filter(|m: &f64| *m > 0.0 && *m <= MOST);
    minutes.ok_or_else(|| format!("minutes must be a number above 0, up to {MOST}"))
}

/// A path that means the same to a process that runs elsewhere.
pub(crate) fn absolute(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|e| e.to_string())
}

/// For tests: `cargo xtask bench WHAT ARGS`.
#[cfg(test)]
pub(crate) fn bench(what: &str, args: &[&str]) -> Result<BenchCommand, String> {
    let words = [&["cargo xtask", "bench", what], args].concat();
    match Cli::try_parse_from(words).map_err(|e| e.to_string())?.command {
        Command::Bench(Bench { what: Some(what), .. }) => Ok(what),
        other => panic!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        let words = ["cargo xtask"].into_iter().chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.command).map_err(|e| e.to_string())
    }

    #[test]
    fn the_definitions_are_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn what_is_for_mopo_or_cargo_is_passed_on_as_it_is() {
        for line in ["train demo --out x --set a=1", "train -- demo --out x --set a=1"] {
            let Ok(Command::Train(forwarded)) = parse(line) else { panic!("{line}") };
            assert_eq!(forwarded.args, ["demo", "--out", "x", "--set", "a=1"]);
        }
        let Ok(Command::Pareto(forwarded)) = parse("pareto --help") else { panic!() };
        assert_eq!(forwarded.args, ["--help"]);
        for line in
            ["bench mopo_step --save-baseline now", "bench -- mopo_step --save-baseline now"]
        {
            let Ok(Command::Bench(Bench { what: None, args })) = parse(line) else {
                panic!("{line}")
            };
            assert_eq!(args, ["mopo_step", "--save-baseline", "now"]);
        }
    }

    #[test]
    fn wrong_commands_and_flags_are_named() {
        for (line, word) in [
            ("trian", "trian"),
            ("tidy --fix", "--fix"),
            ("ci fast", "fast"),
            ("matrix metal", "metal"),
            ("bench pareto --rounds 3", "--rounds"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
