//! Every command and flag of `cargo xtask`. The options of a benchmark stand in its own file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{bench_score, bench_train, real_line};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train in a release build: `mopo train`; try `cargo xtask train --help`
    #[command(disable_help_flag = true)]
    Train(Forwarded),
    /// Generate, score and draw the front in a release build: `mopo pareto`
    #[command(disable_help_flag = true)]
    Pareto(Forwarded),
    /// Run the synthetic experiments in a release build: `mopo bandit`, which lists them
    #[command(disable_help_flag = true)]
    Bandit(Forwarded),
    /// Run the criterion benchmarks, or compare with another implementation
    Bench(Bench),
    /// Run the full pipeline on HH-RLHF: reward models, labels, SFT, MOPO, front, page
    RealLine(real_line::Options),
    /// Run the tests on every backend, and say what was skipped and why
    Matrix {
        /// These backends alone
        #[arg(value_parser = ["flex", "ndarray", "cuda"])]
        backends: Vec<String>,
    },
    /// Check the layout rules: crate edges, file lengths, headers, documents
    Tidy,
    /// Check dependencies as deny.toml says: licences, duplicate versions, yanked versions
    Deny,
    /// Write THIRD_PARTY.md, the notice of what the program contains of others
    Licences {
        /// Also write the texts of all their licences to this file, to ship with the program
        #[arg(long, value_name = "FILE")]
        texts: Option<PathBuf>,
    },
    /// Run what CI runs (.ci/run)
    Ci,
}

/// What goes to another program as it is.
#[derive(Debug, Args)]
pub(crate) struct Forwarded {
    /// Arguments of `mopo`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) what: Option<BenchCommand>,
    /// Arguments of `cargo bench` for mopo-core and mopo-pareto
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Time the Pareto tools against moocore, in turns
    Pareto {
        /// An interpreter that has what crates/mopo-pareto/tests/moocore/requirements.txt lists [default:
        /// one made in target/]
        #[arg(long, value_name = "PATH")]
        python: Option<PathBuf>,
    },
    /// Time the training step and generation; with --peers against TRL, PyTorch and transformers, in turns
    Train(Box<bench_train::Options>),
    /// Time the scores of a reward model; with --python against transformers, in turns
    Score(bench_score::Options),
}

/// A whole number above 0.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "it must be a whole number above 0".into())
}

/// A path that means the same to a process that runs elsewhere.
pub(crate) fn absolute(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|e| e.to_string())
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
