//! Processes that are started here, and end with this one; and processes that others start for it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// A program in the background; it is ended with this value.
#[derive(Debug)]
pub(super) struct Daemon(Child);

impl Daemon {
    /// Starts it, with its output in a file.
    pub(super) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::create(log).with_context(|| format!("writing {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self(child))
    }

    /// Fails if it has ended.
    pub(super) fn check(&mut self, log: &Path) -> Result<()> {
        if let Some(status) = self.0.try_wait()? {
            let text = fs::read_to_string(log).unwrap_or_default();
            bail!("it has ended ({status}):\n{}", last_lines(&text, 20));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // With a chance to end its own processes.
        let _ = signal("-TERM", self.0.id());
        let patience = Instant::now();
        while patience.elapsed() < Duration::from_secs(10) {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A host with a name and a network of its own, which has nothing but loopback: for programs that would listen on all
/// addresses of the machine.
#[derive(Debug)]
pub(super) struct Host {
    pid: u32,
    is_root: bool,
    _holder: Daemon,
}

impl Host {
    /// Makes it. The process that holds it writes into `dir`.
    pub(super) fn new(dir: &Path, name: &str) -> Result<Self> {
        let is_root = output(Command::new("id").arg("-u"))?.trim() == "0";
        let log = dir.join(format!("{name}.log"));
        let mut command = Command::new("unshare");
        command.args(["--net", "--uts"]);
        if !is_root {
            command.args(["--user", "--map-root-user"]);
        }
        let up = dir.join(format!("{name}.up"));
        let script = "ip link set lo up && hostname \"$1\" && touch \"$0\" && exec sleep infinity";
        command.args(["--", "sh", "-c", script]).arg(&up).arg(name);
        let mut holder = Daemon::start(&mut command, &log)?;
        wait_for("a network namespace", Duration::from_secs(10), || {
            holder.check(&log)?;
            Ok(up.exists().then_some(()))
        })?;
        Ok(Self { pid: holder.0.id(), is_root, _holder: holder })
    }

    /// The process that holds it.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// A command on this host.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--uts"]);
        if !self.is_root {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }
}

/// Sends a signal to a process.
pub(super) fn signal(signal: &str, pid: u32) -> Result<()> {
    output(Command::new("kill").args([signal, &pid.to_string()])).map(drop)
}

/// The processes whose words fit.
pub(crate) fn processes(fits: impl Fn(&[String]) -> bool) -> Vec<u32> {
    let mut found = vec![];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> = line
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        if pid != std::process::id() && fits(&words) {
            found.push(pid);
        }
    }
    found
}

/// Waits until something is there.
pub(super) fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut is_there: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let clock = Instant::now();
    loop {
        if let Some(found) = is_there()? {
            return Ok(found);
        }
        ensure!(clock.elapsed() < patience, "{what}: not within {} s", patience.as_secs());
        sleep(Duration::from_millis(50));
    }
}

/// Runs a command to its end and returns what it printed; one that fails is an error with what it said.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let args: Vec<&OsStr> = command.get_args().collect();
    let line = args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {name}"))?;
    let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    ensure!(
        output.status.success(),
        "{name} {line}: {}:\n{}",
        output.status,
        last_lines(&said, 20)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Refuses processes that listen where other machines could reach them, as far as `ss` can tell.
pub(super) fn check_loopback(name: &str, ours: &[u32]) -> Result<()> {
    let Ok(list) = output(Command::new("ss").args(["-H", "-l", "-t", "-n", "-p"])) else {
        return Ok(());
    };
    for line in list.lines() {
        let is_ours = ours.iter().any(|pid| line.contains(&format!("pid={pid},")));
        let address = line.split_whitespace().nth(3).unwrap_or_default();
        let is_loopback = address.starts_with("127.") || address.starts_with("[::1]");
        ensure!(!is_ours || is_loopback, "{name} listens on {address}, not only on loopback");
    }
    Ok(())
}

/// Whether there is a program of this name.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|dir| dir.join(name).is_file())
}

/// The end of a text.
pub(crate) fn last_lines(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_ends_with_its_value_and_its_end_is_noticed() {
        let log = std::env::temp_dir().join(format!("mopo-daemon-{}", std::process::id()));
        let mut daemon = Daemon::start(Command::new("sleep").arg("1017"), &log).unwrap();
        daemon.check(&log).unwrap();
        let is_it = |words: &[String]| words.len() > 1 && words[0] == "sleep" && words[1] == "1017";
        // A process that has just become another program has no words for a moment.
        let found = wait_for("its words", Duration::from_secs(10), || {
            Ok(Some(processes(is_it)).filter(|found| !found.is_empty()))
        })
        .unwrap();
        assert_eq!(found, [daemon.0.id()]);
        drop(daemon);
        assert!(processes(is_it).is_empty());
        let mut short =
            Daemon::start(Command::new("sh").args(["-c", "echo why; exit 3"]), &log).unwrap();
        let why =
            wait_for("its end", Duration::from_secs(10), || Ok(short.check(&log).err())).unwrap();
        assert!(why.to_string().contains("why"), "{why}");
        let never = wait_for("nothing", Duration::ZERO, || Ok(None::<()>)).unwrap_err().to_string();
        assert!(never.contains("nothing"), "{never}");
        fs::remove_file(&log).unwrap();
    }
}
