//! A Slurm of one node on this machine: its configuration, its daemons, its jobs.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::processes::{Daemon, check_loopback, last_lines, output, processes, wait_for};

/// Programs of Debian's packages [`PACKAGES`].
pub(super) const PROGRAMS: [&str; 6] =
    ["munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol"];
pub(super) const PACKAGES: [&str; 2] = ["slurm-wlm", "munge"];

/// A Slurm that runs; it is stopped with this value.
#[derive(Debug)]
pub(super) struct Slurm {
    dir: PathBuf,
    // Stopped in this order.
    _slurmd: Daemon,
    _slurmctld: Daemon,
    _munged: Daemon,
}

impl Slurm {
    /// Starts all daemons, in a directory, and waits until the node takes jobs.
    pub(super) fn start(dir: &Path) -> Result<Self> {
        for folder in ["state", "spool"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let said = |program: &str, args: &[&str]| -> Result<String> {
            Ok(output(Command::new(program).args(args))?.trim().to_owned())
        };
        let (host, user) = (said("hostname", &["-s"])?, said("id", &["-un"])?);
        // Both ports are free now; all other ones Slurm chooses itself.
        let [a, b] = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let ports = [a.local_addr()?.port(), b.local_addr()?.port()];
        drop((a, b));
        // Two ranks need two of them, whether there are or not.
        let cores = std::thread::available_parallelism().map_or(1, usize::from).max(2);
        let text = configuration(dir, &host, &user, ports, cores);
        let path = dir.join("slurm.conf");
        fs::write(&path, text)?;

        let key = dir.join("munge.key");
        fs::write(&key, random(1024)?)?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o400))?;
        let log = |name: &str| dir.join(format!("{name}.log"));
        let at = |flag: &str, name: &str| format!("--{flag}={}", dir.join(name).display());
        // Forced, since a temporary directory is writable by others.
        let mut munged = Command::new("munged");
        munged.args(["--foreground", "--force"]).arg(at("key-file", "munge.key"));
        munged.arg(at("socket", "munge.socket")).arg(at("pid-file", "munge.pid"));
        munged.arg(at("log-file", "munge.log")).arg(at("seed-file", "munge.seed"));
        let mut munged = Daemon::start(&mut munged, &log("munged"))?;
        wait_for("munge's socket", Duration::from_secs(20), || {
            munged.check(&log("munged")).context("munged")?;
            Ok(dir.join("munge.socket").exists().then_some(()))
        })?;
        let mut slurmctld = Command::new("slurmctld");
        let mut slurmctld =
            Daemon::start(slurmctld.args(["-D", "-i", "-f"]).arg(&path), &log("slurmctld"))?;
        let mut slurmd = Command::new("slurmd");
        let mut slurmd = Daemon::start(slurmd.args(["-D", "-f"]).arg(&path), &log("slurmd"))?;
        let is_idle = || {
            slurmctld.check(&log("slurmctld")).context("slurmctld")?;
            slurmd.check(&log("slurmd")).context("slurmd")?;
            let mut sinfo = client(dir, "sinfo");
            // It takes a moment until anyone answers.
            let state = output(sinfo.args(["-h", "-o", "%t"])).unwrap_or_default();
            Ok((state.trim() == "idle").then_some(()))
        };
        wait_for("an idle node of Slurm", Duration::from_secs(60), is_idle)?;
        let this =
            Self { dir: dir.into(), _slurmd: slurmd, _slurmctld: slurmctld, _munged: munged };
        this.check_loopback()?;
        Ok(this)
    }

    /// A client's command, with this Slurm's configuration.
    pub(super) fn client(&self, program: &str) -> Command {
        client(&self.dir, program)
    }

    /// Waits until no job is there any more; fails if one cannot end well.
    pub(super) fn wait(&self, patience: Duration) -> Result<()> {
        let is_done = || {
            let jobs = output(self.client("squeue").args(["-h", "-a", "-o", "%i %T %r"]))?;
            if jobs.contains("DependencyNeverSatisfied") {
                bail!("a job that others wait for has failed:\n{jobs}");
            }
            Ok(jobs.trim().is_empty().then_some(()))
        };
        wait_for("the end of all jobs", patience, is_done).with_context(|| {
            let queue = output(self.client("squeue").arg("-a")).unwrap_or_default();
            let log = fs::read_to_string(self.dir.join("slurmctld.log")).unwrap_or_default();
            format!("{queue}\n{}", last_lines(&log, 20))
        })
    }

    /// Refuses daemons that can be reached from other machines.
    fn check_loopback(&self) -> Result<()> {
        let ours =
            processes(|words| words.iter().any(|word| Path::new(word).starts_with(&self.dir)));
        check_loopback("Slurm", &ours)
    }
}

fn client(dir: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("SLURM_CONF", dir.join("slurm.conf")).current_dir(dir);
    command
}

/// Everything on loopback and in one directory.
fn configuration(dir: &Path, host: &str, user: &str, ports: [u16; 2], cores: usize) -> String {
    let dir = dir.display();
    let [controller, node] = ports;
    format!(
        "ClusterName=mopo
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits until its credentials have expired: minutes, by default.
AuthInfo=socket={dir}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
# Fewer cores than there are, or more, as the next line but one says.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"
    )
}

/// Bytes that nobody can guess.
fn random(n: usize) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = vec![0; n];
    fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes))?;
    Ok(bytes)
}
