//! A job of two ranks of which one is killed: the other ends within seconds, and the job that is started again ends with
//! the bits of one process.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::bench::{Bench, Trial, Workspace};
use super::compare::{difference, tree};
use super::inputs::words;
use super::jobs::{Method, RANK_TIMEOUT, train};
use super::process::{PATIENCE, Run};
use crate::random::Random;

/// How soon all of a job must have ended.
const SOON: Duration = Duration::from_secs(RANK_TIMEOUT + 10);

/// Why this is not tried here.
pub(super) fn lacks(mopo: &Path) -> Option<String> {
    if !super::has_program("mpirun") {
        return Some("there is no mpirun".into());
    }
    crate::cluster_test::lacks_mpi(mopo)
}

/// One trial.
pub(super) fn one(bench: &Bench, trial: u64, random: &mut Random) -> Result<Trial> {
    let methods: Vec<&Method> =
        bench.inputs.methods.iter().filter(|method| !method.combines).collect();
    let method = *random.pick(&methods);
    let name = format!("train {}, two ranks", method.name);
    if lacks(&bench.inputs.mopo).is_some() {
        return Ok(Trial {
            job: name,
            class: "not tried here".into(),
            failure: None,
            shown: String::new(),
        });
    }
    let index = bench
        .jobs
        .iter()
        .position(|(job, _)| job.name == format!("train {}", method.name))
        .unwrap_or(0);
    let (job, known) = (train(method), bench.known(index)?);
    let space = bench.workspace("faults", trial, &job)?;
    let run = ranks(bench, &job.line, &space);
    let mut started = run.start()?;
    let clock = Instant::now();
    // Once both are there; a run of two ranks takes a few times as long as one of one.
    while own_ranks(&started, bench).len() < 2
        && !started.has_ended()?
        && clock.elapsed() < PATIENCE
    {
        sleep(Duration::from_millis(2));
    }
    // Mostly once they train, which is long after their start.
    let late = random.chance(0.7);
    let config = space.dir.join("out/config.toml");
    while late && !config.exists() && !started.has_ended()? && clock.elapsed() < PATIENCE {
        sleep(Duration::from_millis(2));
    }
    sleep(Duration::from_secs_f64(random.unit() * known.seconds * 1.5));
    let pids = own_ranks(&started, bench);
    let killed = pids.get(random.below(pids.len().max(1))).copied();
    if let Some(pid) = killed {
        // It may have ended meanwhile.
        let _ = std::process::Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .stderr(std::process::Stdio::null())
            .status();
    }
    let clock = Instant::now();
    let ended = started.wait(PATIENCE)?;
    let seconds = clock.elapsed();
    bench.say(|| {
        format!("{}: {:?} after {seconds:?}\n{}", run.shown(), ended.code, ended.complained)
    });
    let mut failure = match () {
        () if ended.complained.contains("panicked at") => {
            Some(format!("a panic: {}", ended.complained))
        }
        () if seconds > SOON => Some(format!("the job ended {} s after a rank", seconds.as_secs())),
        () => None,
    };
    let class = match (ended.succeeded(), killed) {
        (false, Some(_)) => "lost peer: the job ended",
        _ => "lost peer: ended before it was killed",
    };
    if failure.is_none() {
        let line = job.next(&space.dir);
        let both = random.chance(0.5);
        let next =
            if both { ranks(bench, line, &space) } else { bench.inputs.run(line, &space.dir) };
        let ended = next.to_end()?;
        failure = match ended.succeeded() {
            false => Some(format!("afterwards `{}` fails: {}", next.shown(), ended.complained)),
            true => difference(&known.after, &tree(&space.dir)?, |_| false),
        };
    }
    Ok(Trial { job: name, class: class.into(), failure, shown: run.shown() })
}

/// `mpirun -n 2 mopo …`.
fn ranks(bench: &Bench, line: &str, space: &Workspace) -> Run {
    let wrapper =
        ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"];
    let mut run = Run::new(&bench.inputs.mopo, &words(line), &space.dir).wrapped(wrapper);
    for (name, value) in crate::cluster_test::MPI {
        run = run.with_env(name, value);
    }
    run
}

/// The ranks that this job has started.
fn own_ranks(started: &super::process::Started, bench: &Bench) -> Vec<u32> {
    let mopo = bench.inputs.mopo.display().to_string();
    let ours = crate::cluster_test::processes(|words| words.first() == Some(&mopo));
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    ours.into_iter().filter(|pid| parent(*pid) == Some(started.pid())).collect()
}
