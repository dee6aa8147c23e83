//! The same requests to llama.cpp's server on the same GGUF file, in turns with `mopo serve`.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Load, Options, Server, client, load, quantile};
use crate::bench_train::report::number;

/// How long the server may take to load a model.
const START: Duration = Duration::from_secs(120);
/// Tokens of the cache for each of its slots.
const CONTEXT: usize = 2048;

/// Starts llama.cpp's server with a slot for each client.
pub(super) fn start(program: &Path, options: &Options, log: &Path) -> Result<Server> {
    let errors = fs::File::create(log).with_context(|| log.display().to_string())?;
    // Free a moment ago; nobody else asks for it here.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let threads = std::thread::available_parallelism()?.to_string();
    let mut command = Command::new(program);
    command.arg("-m").arg(&options.model).args([
        "--host",
        "127.0.0.1",
        "--port",
        &port.to_string(),
    ]);
    command.args(["-t", &threads, "-tb", &threads, "-np", &options.clients.to_string()]);
    command.args(["-c", &(CONTEXT * options.clients).to_string()]);
    let process = command.stdout(Stdio::null()).stderr(errors).spawn();
    let process = process.with_context(|| program.display().to_string())?;
    let mut server = Server { process, address: format!("127.0.0.1:{port}") };
    let began = Instant::now();
    while client::get(&server.address, "/health").is_err() {
        let ended = server.process.try_wait()?.is_some();
        ensure!(
            !ended && began.elapsed() < START,
            "{} does not start: see {}",
            program.display(),
            log.display()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(server)
}

/// A turn of one of the servers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    ours: bool,
    clients: usize,
    pieces_per_second: f64,
    /// Medians in seconds.
    first: f64,
    between: f64,
}

/// Rounds of one client and of all of them, each with both servers.
pub(super) fn turns(
    ours: &Server,
    theirs: &Server,
    requests: &[Value],
    options: &Options,
) -> Result<Vec<Turn>> {
    let mut turns = vec![];
    for round in 1..=options.rounds {
        for clients in [1, options.clients] {
            for (is_ours, server) in [(true, ours), (false, theirs)] {
                let found = load(&server.address, requests, None, clients, options.seconds);
                ensure!(found.failures.is_empty(), "{}", found.failures[0]);
                let turn = Turn::new(is_ours, clients, &found);
                eprintln!("round {round}: {turn:?}");
                turns.push(turn);
            }
        }
    }
    Ok(turns)
}

impl Turn {
    fn new(ours: bool, clients: usize, load: &Load) -> Self {
        let median = |mut values: Vec<f64>| quantile(&mut values, 0.5);
        Self {
            ours,
            clients,
            pieces_per_second: load.pieces() as f64 / load.seconds,
            first: median(load.answers.iter().map(|answer| answer.first).collect()),
            between: median(
                load.answers.iter().flat_map(|answer| answer.between.clone()).collect(),
            ),
        }
    }
}

/// Medians over rounds, and their ratios.
pub(super) fn table(turns: &[Turn], options: &Options) -> String {
    let median = |ours: bool, clients: usize, of: fn(&Turn) -> f64| {
        let own = turns.iter().filter(|turn| turn.ours == ours && turn.clients == clients);
        quantile(&mut own.map(of).collect::<Vec<f64>>(), 0.5)
    };
    let mut page = format!(
        "\nGreedy, streamed, at most {} new tokens; {} rounds of {} s for each server and number of clients, in turns; \
         medians over rounds. A piece of text is a token, or several that make a character.\n\n\
         | clients | server | pieces per second | ms to the first | ms between |\n|--:|---|--:|--:|--:|\n",
        options.new_tokens, options.rounds, options.seconds
    );
    for clients in [1, options.clients] {
        for (ours, name) in [(true, "mopo serve"), (false, "llama.cpp")] {
            page += &format!(
                "| {clients} | {name} | {} | {} | {} |\n",
                number(median(ours, clients, |turn| turn.pieces_per_second)),
                number(1e3 * median(ours, clients, |turn| turn.first)),
                number(1e3 * median(ours, clients, |turn| turn.between)),
            );
        }
        let ratio = |of: fn(&Turn) -> f64| median(true, clients, of) / median(false, clients, of);
        page += &format!(
            "| {clients} | **ratio** | **{}** | {} | {} |\n",
            number(ratio(|turn| turn.pieces_per_second)),
            number(ratio(|turn| turn.first)),
            number(ratio(|turn| turn.between)),
        );
    }
    page += "\nEvery turn: (clients, ours, pieces per second)\n\n```\n";
    for turn in turns {
        page += &format!("{} {} {}\n", turn.clients, turn.ours, number(turn.pieces_per_second));
    }
    page + "```\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{BenchCommand, bench};

    #[test]
    fn ratios_are_of_medians() {
        let Ok(BenchCommand::Serve(options)) = bench("serve", &["--model", "/m", "--clients", "8"])
        else {
            panic!()
        };
        let turn = |ours, clients, pieces_per_second| Turn {
            ours,
            clients,
            pieces_per_second,
            first: 0.2,
            between: 0.1,
        };
        let turns = [
            turn(true, 1, 30.0),
            turn(false, 1, 20.0),
            turn(true, 8, 9.0),
            turn(true, 8, 50.0),
            turn(true, 8, 40.0),
            turn(false, 8, 80.0),
        ];
        let table = table(&turns, &options);
        for line in [
            "| 1 | **ratio** | **1.50** | 1.00 | 1.00 |",
            "| 8 | mopo serve | 40.0 |",
            "| 8 | **ratio** | **0.500** |",
        ] {
            assert!(table.contains(line), "{table}");
        }
    }
}
