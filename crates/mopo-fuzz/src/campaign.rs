//! All targets for some time, or some number of inputs, over several processes; and what came of it.

use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::watch::{Done, watched};
use crate::worker::{Inputs, corpus_files};
use crate::{Target, targets};

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Seconds by the clock, the same for each target.
    Seconds(f64),
    /// Inputs of all targets together, shared out by what each takes.
    Inputs(u64),
}

/// Which inputs are run.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// How much.
    pub amount: Amount,
    /// The seed of all inputs.
    pub seed: u64,
    /// Only these targets; empty: all.
    pub only: Vec<String>,
    /// Number of processes at a time.
    pub jobs: usize,
}

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Seed of the input; 0 for a file.
    pub seed: u64,
    /// Number of the input, or of the file.
    pub number: u64,
    /// What happened.
    pub what: String,
}

/// What came of a target.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TargetReport {
    /// Its name.
    pub name: String,
    /// Number of inputs.
    pub inputs: u64,
    /// Number of those that were read without an error.
    pub accepted: u64,
    /// Seconds of all processes.
    pub seconds: f64,
    /// What was wrong.
    pub found: Vec<Found>,
}

/// What came of a campaign.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Processes at a time.
    pub jobs: usize,
    /// Seconds by the clock.
    pub seconds: f64,
    /// The targets.
    pub targets: Vec<TargetReport>,
}

impl Report {
    /// Whether anything is wrong.
    pub fn has_findings(&self) -> bool {
        self.targets.iter().any(|target| !target.found.is_empty())
    }

    /// Adds another report, target by target.
    pub fn merge(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.jobs = self.jobs.max(other.jobs);
        for target in other.targets {
            match self.targets.iter_mut().find(|known| known.name == target.name) {
                None => self.targets.push(target),
                Some(known) => {
                    known.inputs += target.inputs;
                    known.accepted += target.accepted;
                    known.seconds += target.seconds;
                    known.found.extend(target.found);
                }
            }
        }
    }
}

/// The targets of these names, or all.
fn chosen(only: &[String]) -> Result<Vec<Target>> {
    let all = targets();
    for name in only {
        let names: Vec<&str> = all.iter().map(|target| target.name).collect();
        ensure!(
            names.contains(&name.as_str()),
            "no target is called `{name}`; there are {}",
            names.join(", ")
        );
    }
    Ok(all
        .into_iter()
        .filter(|target| only.is_empty() || only.iter().any(|name| name == target.name))
        .collect())
}

impl Campaign {
    /// Runs it in processes of `program`, this binary; `tell` is called with what came of each target's share.
    ///
    /// # Errors
    /// An unknown target, or a process that cannot be started.
    pub fn run(&self, program: &Path, tell: &(dyn Fn(&TargetReport) + Sync)) -> Result<Report> {
        let targets = chosen(&self.only)?;
        let all_work: f64 = targets.iter().map(|target| target.rate).sum();
        let jobs = self.jobs.max(1) as u64;
        let inputs = |target: &Target, job: u64| -> Inputs {
            let (end, seconds) = match self.amount {
                Amount::Seconds(seconds) => (u64::MAX / 2, Some(seconds / targets.len() as f64)),
                Amount::Inputs(n) => ((n as f64 * target.rate / all_work).ceil() as u64, None),
            };
            Inputs::Made { seed: self.seed, first: job, step: jobs, end, seconds }
        };
        self.shared(program, &targets, &|target, job| Ok(inputs(target, job)), tell)
    }

    /// Runs the files of a corpus (`DIR/TARGET/FILE`), all of them whatever the amount.
    ///
    /// # Errors
    /// A folder that belongs to no target; those of [`run`](Self::run).
    pub fn run_corpus(
        &self,
        program: &Path,
        dir: &Path,
        tell: &(dyn Fn(&TargetReport) + Sync),
    ) -> Result<Report> {
        let targets = chosen(&self.only)?;
        for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            ensure!(
                crate::target(&name).is_some(),
                "{}: no target is called `{name}`",
                dir.display()
            );
        }
        let jobs = self.jobs.max(1);
        let files = |target: &Target, job: u64| -> Result<Inputs> {
            let paths = corpus_files(dir, target.name)?
                .into_iter()
                .skip(job as usize)
                .step_by(jobs)
                .collect();
            Ok(Inputs::Files { paths, first: 0 })
        };
        self.shared(program, &targets, &files, tell)
    }

    /// Each job goes through all targets, and does its share of each.
    fn shared(
        &self,
        program: &Path,
        targets: &[Target],
        share: &(dyn Fn(&Target, u64) -> Result<Inputs> + Sync),
        tell: &(dyn Fn(&TargetReport) + Sync),
    ) -> Result<Report> {
        let jobs = self.jobs.max(1);
        let began = Instant::now();
        let names = targets
            .iter()
            .map(|target| TargetReport { name: target.name.into(), ..Default::default() });
        let reports =
            Mutex::new(Report { seed: self.seed, jobs, seconds: 0.0, targets: names.collect() });
        let job = |job: usize| -> Result<()> {
            for i in 0..targets.len() {
                // Jobs are at different targets, so that a slow one slows not all of them.
                let target = &targets[(i + job * targets.len() / jobs) % targets.len()];
                let inputs = share(target, job as u64)?;
                if matches!(&inputs, Inputs::Files { paths, .. } if paths.is_empty()) {
                    continue;
                }
                let began = Instant::now();
                let Done { n_inputs, n_accepted, found } = watched(program, target.name, inputs)?;
                let report = TargetReport {
                    name: target.name.into(),
                    inputs: n_inputs,
                    accepted: n_accepted,
                    seconds: began.elapsed().as_secs_f64(),
                    found,
                };
                tell(&report);
                let mut reports = reports.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                reports.merge(Report { targets: vec![report], jobs, ..Default::default() });
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..jobs).map(|j| scope.spawn(move || job(j))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("it returns its errors"))
        })?;
        let mut report = reports.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        report.seconds = began.elapsed().as_secs_f64();
        Ok(report)
    }
}
