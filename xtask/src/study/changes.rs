//! What is already in a study's directory, compared with what the study asks for now: a run that was made otherwise is
//! refused by its name, or made again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::plan::{Method, Part, folder};
use super::runs::Run;
use super::tries::settings;
use super::work::beside;
use super::{Split, Study};
use crate::cargo::root;
use crate::files::write_whole;
use crate::program::by_itself;

/// Results of versions that did not record how they were made.
const UNRECORDED: &str = "was made before such things were recorded, and is taken as it is";

impl Study {
    /// Checks the SFT model of a seed, if there is one. All of the seed is made again with it.
    pub(super) fn check_base(&self, seed: u64, args: &[String]) -> Result<()> {
        let base = self.base(seed);
        let Some(why) = self.changed(args, &base)? else { return Ok(()) };
        self.may_redo(&base, &why)?;
        let all = self.out.join(format!("seed-{seed}"));
        fs::remove_dir_all(&all).with_context(|| format!("removing {}", all.display()))
    }

    /// Checks that a method's hyper-parameters, if they were chosen, were chosen among these tries, and the runs of all
    /// tries.
    pub(super) fn check_tries(
        &self,
        method: &Method,
        parts: &[Part],
        tries: &[Vec<String>],
    ) -> Result<()> {
        let first = self.plan.size.seeds[0];
        let path = self.choice(method);
        if let Ok(text) = fs::read_to_string(&path) {
            let known: Value = serde_json::from_str(&text)
                .with_context(|| format!("{} is damaged", path.display()))?;
            let known: Vec<&str> = (known.as_array().into_iter().flatten())
                .filter_map(|one| one["settings"].as_str())
                .collect();
            let asked: Vec<String> = tries.iter().map(|one| settings(one)).collect();
            if known != asked {
                let [known, asked] = [known.join(" | "), asked.join(" | ")];
                self.may_redo(&path, &format!("it has the tries {known}, which are now {asked}"))?;
                self.forget_choice(method)?;
            }
        }
        for attempt in 0..tries.len() {
            for part in parts {
                self.check_run(Run { method, seed: first, attempt, part, more: None })?;
            }
        }
        Ok(())
    }

    /// Checks a run, if it was begun.
    pub(super) fn check_run(&self, of: Run<'_>) -> Result<()> {
        let run = self.place(of);
        let _lock = self.lock_if_shared(of)?;
        if !run.join("run.json").exists() {
            return Ok(());
        }
        match self.changed(&self.run_args(of)?, &run)? {
            None => Ok(()),
            Some(why) => {
                self.may_redo(&run, &why)?;
                self.forget_run(self.owner(of).0, of.seed, &run)
            }
        }
    }

    /// Whether a run was evaluated like this.
    pub(super) fn is_evaluated(&self, results: &Path, asked: &[String]) -> Result<bool> {
        if !results.join("report.json").exists() {
            return Ok(false);
        }
        let record = beside(results, "asked.json");
        let Ok(text) = fs::read_to_string(&record) else {
            eprintln!("warning: {} {UNRECORDED}", self.shown(results));
            self.record_evaluation(results, asked)?;
            return Ok(true);
        };
        let found: Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged: remove it", record.display()))?;
        let expected = self.recorded(asked);
        if found == expected {
            return Ok(true);
        }
        self.may_redo(results, &format!("it is {found}, and would now be {expected}"))?;
        remove(results)?;
        Ok(false)
    }

    /// Writes down how results are made.
    pub(super) fn record_evaluation(&self, results: &Path, asked: &[String]) -> Result<()> {
        let text = format!("{}\n", self.recorded(asked));
        write_whole(&beside(results, "asked.json"), &text)
    }

    /// Arguments that do not depend on where the study is.
    fn recorded(&self, args: &[String]) -> Value {
        let out = self.out.display().to_string();
        let args: Vec<String> = args.iter().map(|arg| arg.replace(&out, "STUDY")).collect();
        json!({ "args": args })
    }

    /// What of a run is not as `mopo train` with these arguments would make it; `None` if nothing or if it is not begun.
    fn changed(&self, args: &[String], run: &Path) -> Result<Option<String>> {
        if !run.join("run.json").exists() {
            return Ok(None);
        }
        let mut command = Command::new(&self.program.mopo);
        command.arg("train").args(args).arg("--verify").arg("--out").arg(run);
        by_itself(&mut command).current_dir(root()).stdin(Stdio::null());
        let ended = command
            .output()
            .with_context(|| format!("starting {}", self.program.mopo.display()))?;
        let said = String::from_utf8_lossy(&ended.stderr);
        match ended.status.code() {
            Some(0) => Ok(None),
            Some(1) => {
                // After warnings.
                let cause = said.split_once("error: ").map_or(&*said, |(_, cause)| cause);
                Ok(Some(cause.trim().to_owned()))
            }
            _ => bail!("`mopo train {} --verify` failed: {said}", args.join(" ")),
        }
    }

    /// Refuses what was made otherwise, unless it may be made again.
    fn may_redo(&self, path: &Path, why: &str) -> Result<()> {
        ensure!(
            self.redo,
            "{} was made with other settings: {why}\nCall it again with --redo to remove it and make it again, with \
             what depends on it; or pass another --out.",
            self.shown(path)
        );
        eprintln!("== again: {}: {why}", self.shown(path));
        Ok(())
    }

    /// Removes a run, its evaluations, the choice that was made by them, and the runs of other methods that read it.
    fn forget_run(&self, method: &Method, seed: u64, run: &Path) -> Result<()> {
        for split in [Split::Validation, Split::Test] {
            let results = beside(run, split.name());
            remove(&beside(&results, "asked.json"))?;
            remove(&results)?;
        }
        for ending in ["log", "cost.json"] {
            remove(&beside(run, ending))?;
        }
        let name = run.display().to_string();
        remove(run)?;
        // What only shows the influence of a parameter has no part in it.
        let is_tried =
            run.file_name().is_some_and(|name| name.to_string_lossy().starts_with("try-"));
        if seed == self.plan.size.seeds[0] && is_tried {
            self.forget_choice(method)?;
            for other in &self.plan.methods {
                if other.corners_of.as_ref() == Some(&method.name) {
                    self.forget_choice(other)?;
                }
            }
        }
        for other in &self.plan.methods {
            if !other.depends_on().contains(&&*method.name) {
                continue;
            }
            let place = self.out.join(format!("seed-{seed}/{}", folder(&other.name)));
            for dependent in runs_in(&place)? {
                let config = dependent.join("config.toml");
                let reads = fs::read_to_string(&config).is_ok_and(|text| {
                    ["\"", "/"].iter().any(|end| text.contains(&format!("{name}{end}")))
                });
                if reads {
                    eprintln!("== again: {}, which reads it", self.shown(&dependent));
                    self.forget_run(other, seed, &dependent)?;
                }
            }
        }
        Ok(())
    }

    /// Removes which try of a method is the best.
    fn forget_choice(&self, method: &Method) -> Result<()> {
        let choice = self.choice(method);
        remove(&choice.with_file_name("validation"))?;
        remove(&choice)
    }

    pub(super) fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.out).unwrap_or(path).display().to_string()
    }
}

/// The runs in a method's folder.
fn runs_in(place: &Path) -> Result<Vec<PathBuf>> {
    if !place.exists() {
        return Ok(vec![]);
    }
    let mut found = vec![];
    for entry in fs::read_dir(place).with_context(|| format!("reading {}", place.display()))? {
        let path = entry?.path();
        if path.join("run.json").exists() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> Result<()> {
    let done = match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    done.with_context(|| format!("removing {}", path.display()))
}

#[cfg(test)]
mod tests;
