//! Two hosts as network namespaces: training over MPI by TCP between them, the link cut in the middle of a step, restored,
//! and the run started again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Outcome;
use super::inputs::Inputs;
use super::processes::{Daemon, Host, has_program, last_lines, output, wait_for};
use super::train::{Runs, lacks_mpi, ranks, wait_for_step, words};

/// The network between both.
const NETWORK: &str = "10.77.0.0/24";
const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
/// How long a rank waits for the other one, in seconds.
const RANK_TIMEOUT: &str = "4";

/// The step of network namespaces.
pub(super) fn run(inputs: &Inputs, dir: &Path) -> Result<Outcome> {
    if let Some(why) = lacks_mpi(&inputs.mopo) {
        return Ok(Outcome::Skipped(why));
    }
    if let Some(missing) = ["ip", "nsenter", "mpirun"].iter().find(|name| !has_program(name)) {
        return Ok(Outcome::Skipped(format!("there is no program {missing}")));
    }
    let dir = dir.join("netns");
    fs::create_dir_all(&dir)?;
    let hosts = Host::new(&dir, "mopo-a").and_then(|a| Ok([a, Host::new(&dir, "mopo-b")?]));
    let hosts = match hosts.and_then(|hosts| link(&hosts).map(|()| hosts)) {
        Ok(hosts) => hosts,
        Err(e) => return Ok(Outcome::Skipped(format!("no two hosts can be made here: {e:#}"))),
    };
    cut(inputs, &dir, &hosts).map(Outcome::Passed)
}

/// Connects both.
fn link([a, b]: &[Host; 2]) -> Result<()> {
    let (first, second) = (a.pid().to_string(), b.pid().to_string());
    output(
        Command::new("ip")
            .args(["link", "add", "name", "eth0", "netns", &first])
            .args(["type", "veth", "peer", "name", "eth0", "netns", &second]),
    )?;
    for (host, address) in [a, b].into_iter().zip(ADDRESSES) {
        let ip = |words: &[&str]| output(host.command(Path::new("ip")).args(words));
        ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["link", "set", "eth0", "up"])?;
    }
    Ok(())
}

fn cut(inputs: &Inputs, dir: &Path, hosts: &[Host; 2]) -> Result<String> {
    let runs = Runs::new(inputs, dir)?;
    let run = dir.join("train");
    // What mpirun calls in place of ssh: a host and a command.
    let agent = dir.join("agent.sh");
    let enter = format!("exec nsenter --target {} --net --uts -- sh -c \"$*\"", hosts[1].pid());
    fs::write(&agent, format!("#!/bin/sh\nshift\n{enter}\n"))?;
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755))?;
    let mpirun = |words: &[String]| {
        let mut command = hosts[0].command(Path::new("mpirun"));
        command.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]);
        command.args(["--host", &ADDRESSES.map(|address| format!("{address}:1")).join(",")]);
        for (name, value) in [
            ("plm", "rsh"),
            ("plm_rsh_agent", &*agent.display().to_string()),
            ("btl", "tcp,self"),
            ("btl_tcp_if_include", NETWORK),
            ("oob_tcp_if_include", NETWORK),
            ("mpi_yield_when_idle", "1"),
        ] {
            command.args(["--mca", name, value]);
        }
        command.arg(&inputs.mopo).arg("train").args(words).current_dir(dir);
        command
    };
    let log = dir.join("mpirun.log");
    let said = || last_lines(&fs::read_to_string(&log).unwrap_or_default(), 20);
    let more =
        ["--out".into(), run.display().to_string(), "--rank-timeout".into(), RANK_TIMEOUT.into()];
    let mut job = Daemon::start(&mut mpirun(&[words(), more.to_vec()].concat()), &log)?;
    wait_for_step(&run, 40).with_context(said)?;
    ensure!(ranks(&inputs.mopo, &run).len() == 2, "there are not 2 ranks");
    let eth0 = |state: &str| {
        output(hosts[0].command(Path::new("ip")).args(["link", "set", "eth0", state]))
    };
    eth0("down")?;
    let clock = Instant::now();
    wait_for("the end of both ranks without a link", Duration::from_secs(60), || {
        Ok(ranks(&inputs.mopo, &run).is_empty().then_some(()))
    })
    .with_context(said)?;
    let seconds = clock.elapsed().as_secs();
    ensure!(!run.join("result.json").exists(), "the run ended before the link was cut");
    eth0("up")?;
    wait_for("the end of mpirun", Duration::from_secs(60), || Ok(job.check(&log).err()))?;
    let resume = ["--resume".to_string(), run.display().to_string()];
    output(&mut mpirun(&resume)).context("the run started again")?;
    runs.check(&run)?;
    Ok(format!(
        "two hosts, the link cut: both ranks had ended after {seconds} s with a limit of {RANK_TIMEOUT} s; restored and \
         started again, training ends with the bits of one process"
    ))
}
