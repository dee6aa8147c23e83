//! What the engines get to do, and what one process makes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::processes::output;
use crate::cargo::root;

/// Pairs of the demo's world, which take some seconds per shard.
const N_PROMPTS: &str = "data.n_prompts=240";
/// Scores a response by its length, slowly: whoever kills is to find it at work.
const SLOW: &str = "import json, sys, time\n\
                    for line in sys.stdin:\n    \
                    time.sleep(0.012)\n    \
                    print(len(json.loads(line)[\"response\"]), flush=True)\n";
const REWARDS: &str = "[[objectives]]\nname = \"helpful\"\ntie_threshold = 0.05\n\
                       reward = { kind = \"demo\", objective_idx = 0 }\n\
                       [[objectives]]\nname = \"brief\"\ntemperature = 5\n\
                       reward = { kind = \"program\", command = [\"python3\", \"SLOW\"] }\n";
/// Ends of the names of a labelled set's files.
const LABELLED: [&str; 2] = ["", ".labels.json"];

/// Programs, and files in one directory.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) mopo: PathBuf,
    dir: PathBuf,
}

impl Inputs {
    /// Writes the inputs, and labels them in one process.
    pub(super) fn new(mopo: &Path, dir: &Path) -> Result<Self> {
        let this = Self { mopo: mopo.into(), dir: dir.join("inputs") };
        fs::create_dir_all(&this.dir)?;
        let slow = this.path("slow.py");
        fs::write(&slow, SLOW)?;
        fs::write(this.path("rewards.toml"), REWARDS.replace("SLOW", &slow.display().to_string()))?;
        let mut prepare = Command::new(mopo);
        prepare.args(["prepare", "demo", "--set", N_PROMPTS, "--out"]);
        output(prepare.arg(this.path("pairs.jsonl")))?;
        output(Command::new(mopo).args(this.label_words(&this.path("whole.jsonl"))))?;
        Ok(this)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The words of `mopo label`, to this file.
    pub(super) fn label_words(&self, out: &Path) -> Vec<String> {
        let shown = |path: PathBuf| path.display().to_string();
        let [set, rewards] = ["pairs.jsonl", "rewards.toml"].map(|name| shown(self.path(name)));
        ["label", &set, "--rewards", &rewards, "--out", &out.display().to_string()]
            .map(String::from)
            .to_vec()
    }

    /// Refuses labels that differ in a byte from those of one process.
    pub(super) fn check_labels(&self, found: &Path) -> Result<()> {
        for end in LABELLED {
            let with_end = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
            check_same(&with_end(&self.path("whole.jsonl")), &with_end(found))?;
        }
        Ok(())
    }
}

/// A script of `deploy/`.
pub(super) fn deploy(name: &str) -> PathBuf {
    root().join("deploy").join(name)
}

/// Refuses a file that differs in a byte.
pub(super) fn check_same(expected: &Path, found: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    ensure!(
        read(expected)? == read(found)?,
        "{} is not what one process writes ({})",
        found.display(),
        expected.display()
    );
    Ok(())
}
