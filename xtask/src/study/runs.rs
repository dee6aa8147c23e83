//! The runs of a study: where they are, what they are called with, and what their evaluations are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::plan::{Filled, Method, Part, folder};
use super::work::{Program, beside};
use super::{Split, Study, sets};

/// A run of a method.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) method: &'a Method,
    pub(super) seed: u64,
    /// Index of its hyper-parameters.
    pub(super) attempt: usize,
    pub(super) part: &'a Part,
    /// An override besides those of the method and the try.
    pub(super) more: Option<&'a str>,
}

impl Study {
    /// The method that a run belongs to, and the part that it is there: another's where one is taken over.
    pub(super) fn owner<'a>(&'a self, run: Run<'a>) -> (&'a Method, Part) {
        match run.more {
            None => self.plan.owner(run.method, run.part),
            Some(_) => (run.method, run.part.clone()),
        }
    }

    /// The directory of a run.
    pub(super) fn place(&self, run: Run<'_>) -> PathBuf {
        let (method, part) = self.owner(run);
        let name = match run.more {
            None => format!("try-{}-{}", run.attempt + 1, folder(&part.label)),
            Some(more) => format!("sensitivity-{}-{}", folder(more), folder(&part.label)),
        };
        self.out.join(format!("seed-{}/{}/{name}", run.seed, folder(&method.name)))
    }

    /// The lock of a run that a method takes over: others may do so at the same time.
    pub(super) fn lock_if_shared(&self, of: Run<'_>) -> Result<Option<File>> {
        let is_own = self.owner(of).0.name == of.method.name;
        (!is_own).then(|| self.locked(&self.shown(&self.place(of)))).transpose()
    }

    /// Trains a run and evaluates it on a split; returns the directory of its results.
    pub(super) fn one(&self, program: &Program, of: Run<'_>, split: Split) -> Result<PathBuf> {
        let run = self.place(of);
        let results = beside(&run, split.name());
        let asked = self.evaluation_args(&run, of.seed, split);
        let _lock = self.lock_if_shared(of)?;
        if self.is_evaluated(&results, &asked)? {
            return Ok(results);
        }
        let args = self.run_args(of)?;
        let shown = self.shown(&run);
        eprintln!("== {} of {shown}", split.name());
        program.train(&args, &run)?;
        if of.more.is_none() {
            self.check_trained(self.owner(of).0, &run)?;
        }
        let part_results = beside(&run, &format!("{}.part", split.name()));
        let mut args = asked.clone();
        args.extend(["--out".into(), part_results.display().to_string()]);
        program.run(&args, &beside(&run, "log"))?;
        self.record_evaluation(&results, &asked)?;
        fs::rename(&part_results, &results)
            .with_context(|| format!("writing {}", results.display()))?;
        Ok(results)
    }

    /// Arguments of a run of a method.
    pub(super) fn run_args(&self, run: Run<'_>) -> Result<Vec<String>> {
        let (method, part) = self.owner(run);
        let Run { seed, attempt, more, .. } = run;
        let runs = |name: &str| self.runs_of(name, seed);
        let filled = Filled { objectives: &self.plan.objectives, part: &part, runs: &runs };
        let tries = method.tried(self.plan.size.n_tries);
        let own = method.set.iter().chain(&tries[attempt]);
        let own = own.map(|set| filled.fill(set)).collect::<Result<Vec<_>>>()?;
        let more = more.map(str::to_string);
        let mut args = self.common(seed);
        args.extend(["--method".into(), method.kind.clone()]);
        args.extend(["--model".into(), self.base(seed).display().to_string()]);
        args.extend(sets(std::iter::once(&"sft.steps=0".to_string()).chain(&own).chain(&more)));
        Ok(args)
    }

    /// Arguments of a run's evaluation, without the place of its results.
    fn evaluation_args(&self, run: &Path, seed: u64, split: Split) -> Vec<String> {
        let size = &self.plan.size;
        let count = match split {
            Split::Validation => size.validation_prompts,
            Split::Test => size.test_prompts,
        };
        [
            "pareto",
            &run.display().to_string(),
            "--prompts",
            &self.prompts(seed, split).display().to_string(),
            "--n-prompts",
            &count.to_string(),
            "--mixture-steps",
            &size.weight_steps.to_string(),
            "--seed",
            &seed.to_string(),
            "--device",
            &self.device,
        ]
        .map(String::from)
        .to_vec()
    }

    /// The finished runs of a method before, by label.
    fn runs_of(&self, name: &str, seed: u64) -> Result<BTreeMap<String, String>> {
        let method = self.plan.method(name).context("checked with the plan")?;
        let attempt = self.chosen(method)?.with_context(|| format!("`{name}` is not done"))?;
        let of = |part: &Part| {
            let run = self.place(Run { method, seed, attempt, part, more: None });
            (part.label.clone(), run.display().to_string())
        };
        Ok(self.plan.parts(method).iter().map(of).collect())
    }
}
