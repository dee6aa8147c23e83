//! The page of a campaign: what was done how often, and what failed.

use std::collections::BTreeMap;

use serde_json::json;

use super::bench::Trial;
use super::{Done, bytes};
use crate::measured::About;

const INTRODUCTION: &str = "What the program does when it is killed, when the machine fails it, when a byte of its files has changed, and when it is \
given odd numbers. `cargo xtask campaign` draws all of it from a seed; a failure is repeated by `--repeat PART:TRIAL`.";

/// How a part is to be read.
fn about(word: &str) -> String {
    match word {
        "kill" => "Commands on tiny inputs, killed with SIGKILL at a random moment or when they enter a system call that changes one \
            of their files; some of them a second and a third time. Then what can be resumed is resumed, and the rest is \
            given again. A trial passes if afterwards every file has the bytes of the undisturbed command (but for \
            what a clock puts there), nothing is left over, and no file was half-written in between."
            .into(),
        "faults" => "A system call fails once (ENOSPC, EIO; by strace), the file system is full or read-only, the address space is \
            limited, the clock goes back, one of two ranks is killed. A trial passes if the command ends with one error \
            that says why and names the file, or is not affected, and if afterwards it ends with the bytes of the \
            undisturbed one."
            .into(),
        "bytes" => format!(
            "One byte of a file that a command reads is changed. A trial passes if the command says so by the file's \
             name, or if its result is the same. These files have no checksum, as they are the user's or a log; another \
             letter there may be another result, without a panic or a hang:\n\n| file | why |\n|---|---|\n{}",
            bytes::table()
        ),
        "numbers" => "One or two keys of a configuration get an extreme value, or the training set is degenerate, with every method. A trial \
            passes if there is one error, or if all numbers in metrics.jsonl and all weights are finite. No \
            panic, and no run over 60 s."
            .into(),
        _ => "Inputs of the fuzz targets: no panic, no abort, no input over 10 s, none over 1 GB.".into(),
    }
}

/// The whole page.
pub(super) fn page(head: &About, seed: u64, done: &[Done], missing: &[String]) -> String {
    let mut page = format!("# Campaign\n\n{INTRODUCTION}\n\n{}", head.head("The campaign"));
    page += &format!("- Seed: {seed}.\n");
    for why in missing {
        page += &format!("- Not tried: {why}.\n");
    }
    page += "\n| part | trials | failures | seconds |\n|---|--:|--:|--:|\n";
    for part in done {
        let trials = match part.inputs.is_empty() {
            true => part.trials.len() as u64,
            false => part.inputs.iter().sum(),
        };
        page += &format!(
            "| {} | {trials} | {} | {:.0} |\n",
            part.word,
            part.failures().count(),
            part.seconds
        );
    }
    for part in done {
        page += &format!("\n## {}\n\n{}\n\n", part.word, about(part.word).trim_end());
        page += &match part.inputs.is_empty() {
            true => tables(&part.trials),
            false => inputs(part),
        };
        let failures: Vec<String> = part
            .failures()
            .map(|(n, t)| {
                format!(
                    "- `{}:{n}` {} ({}): {}\n",
                    part.word,
                    t.job,
                    t.class,
                    t.failure.as_deref().unwrap_or("")
                )
            })
            .collect();
        if !failures.is_empty() {
            page += &format!("\nFailures:\n\n{}", failures.concat());
        }
    }
    page + &format!("\n## Counts\n\n```json\n{}```\n", raw(done))
}

fn inputs(part: &Done) -> String {
    let rows = part.trials.iter().zip(&part.inputs);
    let rows = rows.map(|((_, t), n)| {
        format!("| {} | {n} | {} |\n", t.job, if t.failure.is_some() { "yes" } else { "–" })
    });
    format!("| target | inputs | found something |\n|---|--:|---|\n{}", rows.collect::<String>())
}

/// How often each thing was done, and how often to what.
fn tables(trials: &[(u64, Trial)]) -> String {
    let table = |title: &str, key: fn(&Trial) -> &str| {
        let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
        for (_, trial) in trials {
            let count = counts.entry(key(trial)).or_default();
            count[0] += 1;
            count[1] += usize::from(trial.failure.is_some());
        }
        let rows =
            counts.iter().map(|(name, [all, failed])| format!("| {name} | {all} | {failed} |\n"));
        format!("| {title} | trials | failures |\n|---|--:|--:|\n{}", rows.collect::<String>())
    };
    format!("{}\n{}", table("what was done", |t| &t.class), table("to what", |t| &t.job))
}

/// The counts of every pair of both, a line each.
fn raw(done: &[Done]) -> String {
    let mut lines = String::new();
    for part in done {
        let mut counts: BTreeMap<(&str, &str), [usize; 2]> = BTreeMap::new();
        for (_, trial) in &part.trials {
            let count = counts.entry((&trial.job, &trial.class)).or_default();
            count[0] += 1;
            count[1] += usize::from(trial.failure.is_some());
        }
        for ((job, class), [trials, failures]) in counts {
            let line = json!({ "part": part.word, "job": job, "class": class, "trials": trials, "failures": failures });
            lines += &format!("{line}\n");
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_counts_failures_and_the_commit() {
        let trial = |job: &str, class: &str, failure: Option<&str>| Trial {
            job: job.into(),
            class: class.into(),
            failure: failure.map(String::from),
            shown: String::new(),
        };
        let trials = vec![
            (0, trial("train dpo", "at write", None)),
            (1, trial("label", "at write", Some("out.jsonl differs"))),
            (2, trial("label", "at rename", None)),
        ];
        let fuzz = vec![(0, trial("gguf", "inputs", None))];
        let done = [
            Done { word: "kill", trials, seconds: 12.4, inputs: vec![] },
            Done { word: "fuzz", trials: fuzz, seconds: 1.0, inputs: vec![5000] },
        ];
        let head = About {
            command: "cargo xtask campaign 1".into(),
            when: "2026-11-29, commit abc".into(),
            machine: ["a".into(), "b".into()],
        };
        let page = page(&head, 19, &done, &["a lost peer: there is no mpirun".into()]);
        for part in [
            "commit abc",
            "| kill | 3 | 1 | 12 |",
            "| fuzz | 5000 | 0 | 1 |",
            "| at write | 2 | 1 |",
            "| label | 2 | 1 |",
            "- `kill:1` label (at write): out.jsonl differs",
            "Not tried: a lost peer",
            "| gguf | 5000 | – |",
            "{\"class\":\"at rename\",\"failures\":0,\"job\":\"label\",\"part\":\"kill\",\"trials\":1}",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }
}
