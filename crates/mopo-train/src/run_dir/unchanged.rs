//! Refuses a run whose configuration was changed, and compares a run with what would be started now.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use toml::Value;

use super::record::{BASE, POLICY, RECORD};
use super::{CONFIG, RunDir, RunRecord};
use crate::config::{ConfigFile, ModelSource, read_with};
use crate::models::model_dir;
use crate::{Error, Result, RunConfig, tokens};

/// The section that no trained file depends on: defaults of `mopo pareto`.
const FREE: &str = "evaluation";

/// Compares a configuration with the recorded one, value by value: comments, order and former names
/// of keys make no difference.
///
/// # Errors
/// Names the first key that differs, with both values.
pub(super) fn check<T: ConfigFile>(path: &Path, config: &T, record: &RunRecord) -> Result<()> {
    let Some(text) = &record.config else {
        return Ok(());
    };
    let begun: T =
        read_with(text, &format!("recorded in {}", path.with_file_name(RECORD).display()), &[])?;
    let [mut found, mut begun] = [leaves(path, config)?, leaves(path, &begun)?];
    for leaves in [&mut found, &mut begun] {
        leaves.retain(|key, _| key != FREE && !key.starts_with(&format!("{FREE}.")));
    }
    let changed = found.keys().chain(begun.keys()).find(|key| found.get(*key) != begun.get(*key));
    let Some(key) = changed else {
        return Ok(());
    };
    let words = |value: Option<&String>| value.map_or("absent".to_string(), String::clone);
    Err(Error::Config {
        origin: path.display().to_string(),
        message: format!(
            "`{key}` is {}, but the run was started with {}; a run cannot continue with another \
             configuration: change it back, or start a new run with --config",
            words(found.get(key)),
            words(begun.get(key))
        ),
    })
}

/// Every value by its path.
fn leaves<T: ConfigFile>(path: &Path, config: &T) -> Result<BTreeMap<String, String>> {
    let table = toml::Table::try_from(config)
        .map_err(|e| Error::corrupt(path, format!("it cannot be written as TOML: {e}")))?;
    let mut out = BTreeMap::new();
    add_leaves(Value::Table(table), "", &mut out);
    Ok(out)
}

fn add_leaves(value: Value, path: &str, out: &mut BTreeMap<String, String>) {
    let below = |key: &str| match path {
        "" => key.to_string(),
        path => format!("{path}.{key}"),
    };
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                add_leaves(value, &below(&key), out);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            for (i, value) in items.into_iter().enumerate() {
                add_leaves(value, &below(&i.to_string()), out);
            }
        }
        value => {
            out.insert(path.into(), value.to_string());
        }
    }
}

impl RunDir {
    /// Checks that a run, finished or not, is the one that `asked` and `start` would begin now: configuration, device,
    /// data, base model and the policies of other runs. A run that was moved together with the runs that it names is
    /// the same.
    ///
    /// # Errors
    /// Names what differs.
    pub fn check_asked(&self, asked: &RunConfig, start: &RunRecord) -> Result<()> {
        let record = RunRecord::read(&self.join(RECORD))?;
        let path = self.join(CONFIG);
        let text = match &record.config {
            Some(text) => text.clone(),
            None => fs::read_to_string(&path).map_err(Error::io("reading", &path))?,
        };
        let begun: RunConfig = read_with(&text, &path.display().to_string(), &[])?;
        let [mut begun, asked_leaves] = [leaves(&path, &begun)?, leaves(&path, asked)?];
        let moved = Moved::of(&record, self.path());
        for value in begun.values_mut() {
            *value = moved.now(value);
        }
        let differs = |what: &str, found: &str, expected: &str| Error::Run {
            path: self.path().into(),
            message: format!("{what} of the run is {found}, and would now be {expected}"),
        };
        let words = |value: Option<&String>| value.map_or("absent".to_string(), String::clone);
        let mut keys = begun.keys().chain(asked_leaves.keys());
        if let Some(key) = keys.find(|key| begun.get(*key) != asked_leaves.get(*key)) {
            let [found, expected] = [begun.get(key), asked_leaves.get(key)].map(words);
            return Err(differs(&format!("`{key}`"), &found, &expected));
        }
        let data = |record: &RunRecord| match &record.data {
            Some(path) => path.display().to_string(),
            None => "none".into(),
        };
        let strict = |record: &RunRecord| record.strict.to_string();
        for (what, found, expected) in [
            ("the device", record.device.clone(), start.device.clone()),
            ("the data", moved.now(&data(&record)), data(start)),
            ("`--strict`", strict(&record), strict(start)),
        ] {
            if found != expected {
                return Err(differs(what, &found, &expected));
            }
        }
        self.check_base(asked, &record)?;
        for (input, sha256) in &record.inputs {
            // What is no longer there is not needed any more.
            let input = PathBuf::from(moved.now(input));
            if input.is_file() && mopo_hub::file_sha256(&input)? != *sha256 {
                return Err(Error::Run {
                    path: self.path().into(),
                    message: format!(
                        "its data was read from {}, which has changed since",
                        input.display()
                    ),
                });
            }
        }
        for (run, sha256) in &record.others {
            let run = PathBuf::from(moved.now(run));
            if Self::policy_sha256(&run)? != *sha256 {
                return Err(Error::Run {
                    path: self.path().into(),
                    message: format!(
                        "it was trained with the policy that {} had then, which is now another one",
                        run.display()
                    ),
                });
            }
        }
        Ok(())
    }

    /// Checks that the model of a configuration is the one that the run began with.
    fn check_base(&self, asked: &RunConfig, record: &RunRecord) -> Result<()> {
        let (ModelSource::Hub(model), false) = (&asked.model.source, record.model.is_empty())
        else {
            return Ok(());
        };
        let dir = model_dir(model)?;
        let Some(run) = run_of_base(&dir) else { return record.check_model(&dir) };
        // Recorded there, and so not computed from all weights each time.
        let theirs = RunRecord::read(&run.join(RECORD))?;
        let is_same = |(name, sha256): (&String, &String)| {
            theirs.hashes.get(&format!("{BASE}{name}")) == Some(sha256)
        };
        match record.model.iter().all(is_same) {
            true => Ok(()),
            false => Err(Error::Run {
                path: self.path().into(),
                message: format!(
                    "it began with the SFT model that {} had then, which is now another one",
                    run.display()
                ),
            }),
        }
    }

    /// Checks a base model that is the SFT model of a run, with the run's tokenizer, against that run's record. Any other
    /// model has none.
    ///
    /// # Errors
    /// Names the file that was replaced or damaged.
    pub(crate) fn check_origin(dir: &Path) -> Result<()> {
        let Some(path) = run_of_base(dir).filter(|run| run.join(RECORD).exists()) else {
            return Ok(());
        };
        let record = RunRecord::read(&path.join(RECORD))?;
        let run = Self { path: path.into(), lock: None };
        record.check(&run, &[&[BASE], &tokens::FILES[..]].concat(), true)
    }

    /// One hash over the policies of another run.
    pub(crate) fn policy_sha256(run: &Path) -> Result<String> {
        let record = RunRecord::read(&run.join(RECORD))?;
        Ok(record.folder_sha256(POLICY))
    }
}

/// The run whose SFT model a directory is.
fn run_of_base(dir: &Path) -> Option<&Path> {
    dir.parent().filter(|run| dir.ends_with(BASE) && RunDir::is_run(run))
}

/// Where a run and its neighbours were when it was started, and where they are now.
struct Moved {
    then_now: Option<(String, String)>,
}

impl Moved {
    fn of(record: &RunRecord, now: &Path) -> Self {
        let mut command = record.command.iter();
        let out = command.by_ref().find(|word| *word == "--out").and_then(|_| command.next());
        let [then, now] = [out.map(Path::new), Some(now)]
            .map(|path| path.and_then(|path| std::path::absolute(path).ok()));
        let roots = then.zip(now).map(|(mut then, mut now)| {
            while then.file_name().is_some() && then.file_name() == now.file_name() {
                then.pop();
                now.pop();
            }
            (then.display().to_string(), now.display().to_string())
        });
        Self { then_now: roots.filter(|(then, now)| then != now && then != "/") }
    }

    /// A path, or a value with a path, as it is now.
    fn now(&self, value: &str) -> String {
        match &self.then_now {
            Some((then, now)) => value.replace(&format!("{then}/"), &format!("{now}/")),
            None => value.into(),
        }
    }
}
