//! kill -9: at a random moment, or at a system call that changes a file. What can be resumed must end with the same bits;
//! what cannot must be whole or absent, and work when it is run again.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::bench::{Bench, Known, Trial, Workspace};
use super::compare::{difference, tree};
use super::jobs::Job;
use super::trace::{Call, injected};
use crate::random::Random;

/// Files that grow while a command runs.
const GROW: &[&str] = &["run.json", "metrics.jsonl", "eval_samples.jsonl"];
/// One of so many trials is about `mopo serve`.
const SERVE_EVERY: u64 = 25;

/// How often a command is begun until it is killed before its end.
const ATTEMPTS: i32 = 6;

/// When a command is killed.
enum Moment {
    /// After so many seconds.
    Time(f64),
    /// As it enters this call.
    Call(Call),
}

impl Moment {
    /// Half as late with each attempt.
    fn sooner(&self, attempt: i32) -> Self {
        match self {
            Self::Time(seconds) => Self::Time(seconds * 0.5f64.powi(attempt)),
            Self::Call(call) => {
                Self::Call(Call { nth: (call.nth >> attempt).max(1), ..call.clone() })
            }
        }
    }

    fn class(&self) -> String {
        match self {
            Self::Time(_) => "at a random moment".into(),
            Self::Call(call) => format!("at {}", call.name),
        }
    }

    /// The command, and whether it was killed.
    fn kill(&self, bench: &Bench, job: &Job, space: &Workspace) -> Result<(String, bool)> {
        let run = bench.inputs.run(&job.line, &space.dir);
        let (shown, ended) = match self {
            Self::Time(seconds) => {
                let time = Duration::from_secs_f64(*seconds);
                (format!("{} (killed after {time:?})", run.shown()), run.killed_after(time)?)
            }
            Self::Call(call) => {
                let run = injected(&run, &space.beside("trace"), call, "signal=KILL");
                (run.shown(), run.to_end()?)
            }
        };
        Ok((shown, ended.signal == Some(9)))
    }
}

/// One trial.
pub(super) fn one(bench: &Bench, trial: u64) -> Result<Trial> {
    let mut random = Random::of_trial(bench.seed, "kill", trial);
    if trial % SERVE_EVERY == SERVE_EVERY - 1 {
        return serve(bench, trial, &mut random);
    }
    let jobs = bench.jobs(false);
    let index = jobs[(trial % jobs.len() as u64) as usize];
    let (job, known) = (&bench.jobs[index].0, bench.known(index)?);
    let changing: Vec<&Call> = known.calls.iter().filter(|call| call.changes).collect();
    let moment = match !changing.is_empty() && random.chance(0.5) {
        true => Moment::Call(by_kind(&changing, &mut random).clone()),
        false => Moment::Time(known.seconds * random.unit()),
    };
    // Commands do not always take as long, or their calls in the same threads, as when they were watched: one that was over
    // before is begun anew and killed sooner.
    let mut attempt = 0;
    let (space, shown, mut class) = loop {
        let space = bench.workspace("kill", trial, job)?;
        let (shown, was_killed) = moment.sooner(attempt).kill(bench, job, &space)?;
        attempt += 1;
        if was_killed {
            break (space, shown, moment.class());
        } else if attempt == ATTEMPTS {
            break (space, shown, "ended before it was killed".into());
        }
    };
    bench.say(|| format!("{shown}: {class}"));
    let mut failure = halves(&known, &space)?;
    let mut times = 1;
    while failure.is_none() && times < 3 && random.chance(0.33) {
        let next = bench.inputs.run(job.next(&space.dir), &space.dir);
        let time = Duration::from_secs_f64(known.seconds * random.unit());
        bench.say(|| format!("{} (killed after {time:?})", next.shown()));
        next.killed_after(time)?;
        failure = halves(&known, &space)?;
        times += 1;
    }
    if times > 1 {
        class += ", and again";
    }
    if failure.is_none() {
        failure = bench.continued(job, &known, &space)?;
    }
    Ok(Trial { job: job.name.clone(), class, failure, shown })
}

/// A kind of call, and then one of its calls: else nearly all would be writes.
pub(super) fn by_kind<'a>(calls: &[&'a Call], random: &mut Random) -> &'a Call {
    let kinds: Vec<&str> =
        calls.iter().map(|c| c.name.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    let kind = *random.pick(&kinds);
    let of_kind: Vec<&'a Call> = calls.iter().copied().filter(|call| call.name == kind).collect();
    of_kind[random.below(of_kind.len())]
}

/// A file that is neither as before nor as the undisturbed command leaves it.
pub(super) fn halves(known: &Known, space: &Workspace) -> Result<Option<String>> {
    for (name, hash) in tree(&space.dir)? {
        let last = name.rsplit('/').next().unwrap_or(&name);
        let expected = [known.before.get(&name), known.after.get(&name)];
        if GROW.contains(&last) || expected == [None, None] {
            continue;
        }
        if !expected.contains(&Some(&hash)) {
            return Ok(Some(format!("after the interruption {name} is neither absent nor whole")));
        }
    }
    Ok(None)
}

/// `mopo serve` is killed while it answers: nothing of the run has changed.
fn serve(bench: &Bench, trial: u64, random: &mut Random) -> Result<Trial> {
    let job = Job {
        name: "serve".into(),
        needs: vec!["run-a"],
        line: "serve run-a --port 0".into(),
        resume: None,
        only_reads: false,
    };
    let space = bench.workspace("kill", trial, &job)?;
    let before = tree(&space.dir)?;
    let run = bench.inputs.run(&job.line, &space.dir);
    let mut server = run.start()?;
    let address = loop {
        let printed = server.printed();
        let after = printed.split_once("http://").map(|(_, rest)| rest.to_owned());
        if let Some((address, _)) = after.as_deref().and_then(|rest| rest.split_once('/')) {
            break address.to_owned();
        }
        if server.has_ended()? {
            bail!("mopo serve ended: {printed}");
        }
        sleep(Duration::from_millis(5));
    };
    let time = Duration::from_secs_f64(random.unit() * 0.4);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            // Whatever becomes of the requests: the server dies while it has them.
            scope.spawn(|| while ask(&address).is_ok() {});
        }
        sleep(time);
        server.kill();
    });
    let ended = server.wait(super::process::PATIENCE)?;
    let failure = match ended.signal {
        Some(9) => difference(&before, &tree(&space.dir)?, |_| false),
        _ => Some(format!("it ended before it was killed: {}", ended.complained)),
    };
    Ok(Trial {
        job: job.name,
        class: "at a random moment, while it answers".into(),
        failure,
        shown: run.shown(),
    })
}

/// A request, and its whole answer.
fn ask(address: &str) -> Result<()> {
    let body =
        r#"{"messages":[{"role":"user","content":"How do I boil an egg?"}],"max_tokens":40}"#;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let length = body.len();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer.starts_with("HTTP/1.").then_some(()).context("no answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_kinds_of_calls_are_chosen_as_often_as_frequent_ones() {
        let call =
            |name: &str, nth| Call { name: name.into(), nth, changes: true, file: "out".into() };
        let all: Vec<Call> =
            (1..=99).map(|n| call("write", n)).chain([call("rename", 1)]).collect();
        let mut random = Random::of_trial(0, "kill", 0);
        let all: Vec<&Call> = all.iter().collect();
        let renames = (0..1000).filter(|_| by_kind(&all, &mut random).name == "rename").count();
        assert!((400..600).contains(&renames), "{renames}");
    }
}
