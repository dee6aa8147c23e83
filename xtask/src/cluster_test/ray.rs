//! A Ray of two nodes on this machine: labels as tasks, while one of the nodes dies. Ray listens on all addresses, so it
//! gets a network that has nothing but loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Outcome;
use super::inputs::{Inputs, deploy};
use super::processes::{Daemon, Host, has_program, output, processes, signal, wait_for};

/// The version that this was tried with.
const RAY: &str = "ray==2.60.0";
const PATIENCE: Duration = Duration::from_secs(300);
const N_SHARDS: usize = 4;
/// In a network of its own.
const PORT: u16 = 6379;

/// The step of Ray.
pub(super) fn run(
    inputs: &Inputs,
    python: Option<&Path>,
    no_install: bool,
    dir: &Path,
) -> Result<Outcome> {
    let dir = dir.join("ray");
    fs::create_dir_all(&dir)?;
    let python = match (python, no_install) {
        (Some(python), _) => python.to_path_buf(),
        (None, true) => {
            return Ok(Outcome::Skipped("--no-install, and no --python with Ray".into()));
        }
        (None, false) if !has_program("python3") => {
            return Ok(Outcome::Skipped("there is no python3".into()));
        }
        (None, false) => match environment(&dir) {
            Ok(python) => python,
            Err(e) => return Ok(Outcome::Skipped(format!("Ray cannot be installed: {e:#}"))),
        },
    };
    let host = match Host::new(&dir, "localhost") {
        Ok(host) => host,
        Err(why) => return Ok(Outcome::Skipped(format!("no network namespace: {why:#}"))),
    };
    let session = Session { dir: dir.clone() };
    let result = labels(inputs, &python, &dir, &host);
    drop(session);
    result.map(Outcome::Passed)
}

/// An environment with Ray.
fn environment(dir: &Path) -> Result<PathBuf> {
    let venv = dir.join("venv");
    eprintln!("installing {RAY} into {}", venv.display());
    output(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let python = venv.join("bin/python");
    output(Command::new(&python).args(["-m", "pip", "install", "--quiet", RAY]))?;
    Ok(python)
}

/// What Ray starts has its directory among its words; it is killed with this value.
struct Session {
    dir: PathBuf,
}

impl Session {
    fn of(dir: &Path) -> Vec<u32> {
        let dir = dir.display().to_string();
        processes(|words| words.iter().any(|word| word.contains(&dir)))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for pid in Self::of(&self.dir) {
            let _ = signal("-KILL", pid);
        }
        // Until the directory can be removed.
        let _ = wait_for("the end of Ray", Duration::from_secs(20), || {
            Ok(Self::of(&self.dir).is_empty().then_some(()))
        });
    }
}

fn labels(inputs: &Inputs, python: &Path, dir: &Path, host: &Host) -> Result<String> {
    let address = format!("127.0.0.1:{PORT}");
    let ray = |words: &[&str]| {
        let mut command = host.command(python);
        // As the program `ray` of the environment does.
        command.args(["-m", "ray.scripts.scripts", "start", "--node-ip-address=127.0.0.1"]);
        command.args(["--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats"]);
        command.args(words).current_dir(dir);
        command
    };
    let [port, temp] = [format!("--port={PORT}"), format!("--temp-dir={}", dir.display())];
    output(&mut ray(&["--head", &port, &temp, "--include-dashboard=false"]))?;
    let head = raylets(dir);
    ensure!(head.len() == 1, "the first node has {} raylets", head.len());
    output(&mut ray(&[&format!("--address={address}")]))?;
    let second = wait_for("the second node", PATIENCE, || {
        Ok(raylets(dir).into_iter().find(|pid| !head.contains(pid)))
    })?;
    let out = dir.join("labelled.jsonl");
    let mut driver = host.command(python);
    driver.arg(deploy("ray/shards.py")).arg(N_SHARDS.to_string()).arg(&inputs.mopo);
    driver.args(inputs.label_words(&out)).env("RAY_ADDRESS", &address).current_dir(dir);
    let log = dir.join("driver.log");
    let mut driver = Daemon::start(&mut driver, &log)?;
    let at_work = || {
        driver.check(&log)?;
        // Both nodes are, each at a shard.
        let is_shard = |name: String| name.contains("-of-") && name.ends_with(".progress");
        let entries = fs::read_dir(dir)?.flatten();
        let folders = entries.filter(|entry| is_shard(entry.file_name().to_string_lossy().into()));
        let n = folders.filter(|entry| has_rows(&entry.path())).count();
        Ok((n >= 2).then_some(()))
    };
    wait_for("scores of two shards", PATIENCE, at_work)?;
    let killed = node_of(second)?;
    signal("-KILL", second)?;
    let said = wait_for("the end of all tasks", PATIENCE, || {
        Ok(driver.check(&log).err().map(|end| end.to_string()))
    })?;
    let text = fs::read_to_string(&log)?;
    ensure!(said.contains("exit status: 0"), "{said}");
    let shards: Vec<&str> = text.lines().filter(|line| line.starts_with("shard ")).collect();
    ensure!(shards.len() == N_SHARDS, "there are not {N_SHARDS} shards:\n{text}");
    // One may have ended on it before.
    let elsewhere = shards.iter().filter(|line| !line.contains(&killed)).count();
    ensure!(elsewhere >= N_SHARDS - 1, "shards on the node that was killed:\n{text}");
    ensure!(text.contains("resuming:"), "no shard went on where it was:\n{text}");
    inputs.check_labels(&out)?;
    Ok(format!(
        "labels of {N_SHARDS} shards on two nodes, one of them killed, are those of one process"
    ))
}

fn has_rows(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("rows-"))
}

/// The nodes' main processes.
fn raylets(dir: &Path) -> Vec<u32> {
    let dir = dir.display().to_string();
    processes(|words| {
        words.first().is_some_and(|word| word.ends_with("/raylet"))
            && words.iter().any(|word| word.contains(&dir))
    })
}

/// The identifier that a raylet was started with.
fn node_of(pid: u32) -> Result<String> {
    let words = fs::read(format!("/proc/{pid}/cmdline"))?;
    let words = String::from_utf8_lossy(&words).into_owned();
    let id = words.split('\0').find_map(|word| word.strip_prefix("--node_id="));
    Ok(id.context("a raylet names its node")?.to_owned())
}
