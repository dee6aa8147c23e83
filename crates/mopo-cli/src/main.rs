//! The `mopo` command: parses arguments, picks a device, calls the libraries, prints.

mod args;
mod commands;
mod device;
mod memory;
mod output;
mod progress;
mod ranks;
mod signals;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use args::{Cli, Command};
use clap::Parser;

use crate::output::errln;

// Training allocates and frees many tensors of few sizes; mimalloc reuses them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An error with its causes, without those that the message already contains.
fn message(error: &anyhow::Error) -> String {
    let mut causes = error.chain().map(ToString::to_string);
    let mut message = causes.next().unwrap_or_default();
    for cause in causes.filter(|cause| !cause.is_empty()) {
        if !message.contains(&cause) {
            message += &format!(": {cause}");
        }
    }
    message
}

fn main() -> ExitCode {
    memory::keep_freed();
    signals::survive_file_limits();
    let command = Cli::parse().command;
    let filter = tracing_subscriber::EnvFilter::try_from_env("MOPO_LOG").unwrap_or_else(|_| {
        // A server's log has a line for each request.
        let is_server = matches!(command, Command::Serve(_));
        tracing_subscriber::EnvFilter::new(if is_server { "warn,mopo_serve=info" } else { "warn" })
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .log_internal_errors(false)
        .with_target(false)
        .init();
    let result = match command {
        Command::Train(args) => commands::train::run(args),
        Command::Pareto(args) => commands::pareto::run(args),
        Command::Score(args) => commands::score::run(args),
        Command::Report(args) => commands::report::run(args),
        Command::Study(args) => commands::study::run(&args),
        Command::WinRate(args) => commands::win_rate::run(args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Serve(args) => commands::serve::run(args),
        Command::Export(args) => commands::export::run(args),
        Command::Prepare(args) => commands::prepare::run(args),
        Command::Label(args) => commands::label::run(args),
        Command::Reward(args) => commands::reward::run(args),
        Command::Bandit(args) => commands::bandit::run(args),
        Command::Config(args) => commands::config::run(&args),
        Command::Bench(args) => commands::bench::run(args),
    };
    let written = output::finish().context("cannot write to standard output");
    match result.and(written) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            errln!("error: {}", message(&e));
            ExitCode::FAILURE
        }
    }
}
