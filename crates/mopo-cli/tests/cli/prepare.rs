//! `mopo prepare` and `mopo config` on every data source, and their errors.

use std::fs;
use std::path::{Path, PathBuf};

use mopo_data::{PreparedSet, read_prompts};

use crate::common::{TINY, fail, mopo, succeed};

/// Source, fixture of `mopo-data`, objectives, pairs.
const SOURCES: &[(&str, &str, usize, usize)] = &[
    ("tldr", "tldr-comparisons.jsonl", 1, 3),
    ("tldr", "tldr-converted.parquet", 1, 2),
    ("tldr-axes", "tldr-axes.parquet", 4, 2),
    ("summeval-op", "summeval-op.jsonl", 7, 4),
    ("trl", "trl-implicit.jsonl", 1, 2),
    ("trl", "trl-messages.parquet", 1, 2),
    ("safe-rlhf", "safe-rlhf.jsonl", 2, 3),
    ("beavertails", "beavertails.parquet", 1, 1),
    ("ultrafeedback", "ultrafeedback.jsonl", 4, 4),
    ("helpsteer", "helpsteer.parquet", 5, 2),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../mopo-data/tests/fixtures").join(name)
}

#[test]
fn every_source_becomes_a_prepared_set() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("pairs.jsonl");
    for (source, file, n_objectives, n_pairs) in SOURCES {
        let mut command = mopo(&["prepare", source, "--strict", "--data"]);
        let said = succeed(command.arg(fixture(file)).arg("--out").arg(&out));
        assert!(said.contains(&format!("({n_pairs} pairs")), "{source}: {said}");
        let set = PreparedSet::read(&out).unwrap();
        assert_eq!(set.header.objectives.len(), *n_objectives, "{source}");
        assert_eq!(set.header.sources[0].path, format!("fixtures/{file}"));
        // The printed section on its own works with --config.
        let section = dir.path().join("section.toml");
        fs::write(&section, succeed(&mut mopo(&["config", source]))).unwrap();
        let before = fs::read(&out).unwrap();
        let mut command = mopo(&["prepare", "--config"]);
        command.arg(&section).arg("--data").arg(fixture(file)).arg("--out").arg(&out);
        succeed(&mut command);
        assert_eq!(fs::read(&out).unwrap(), before, "{source}");
    }
}

#[test]
fn keys_choose_objectives_ties_and_prompts() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.jsonl");
    let mut command = mopo(&["prepare", "helpsteer", "--data"]);
    command.arg(fixture("helpsteer.jsonl")).arg("--out").arg(&out);
    command.args(["--set", "data.objectives=[\"verbosity\",\"correctness\"]"]);
    succeed(command.args(["--set", "data.tie_threshold=2"]));
    let set = PreparedSet::read(&out).unwrap();
    assert_eq!(set.header.objectives.names(), ["verbosity", "correctness"]);
    assert!(set.records.iter().all(|r| r.indicators == [Some(0.5), Some(0.5)]));

    let mut command = mopo(&["prepare", "tldr", "--prompts", "--data"]);
    let said = succeed(command.arg(fixture("tldr-dove.jsonl")).arg("--out").arg(&out));
    assert!(said.contains("2 distinct prompts"), "{said}");
    assert!(read_prompts(&out).unwrap().iter().all(|p| p.reference.is_some()));
    let mut command = mopo(&["prepare", "--prompts", "--n-prompts", "5", "--out"]);
    succeed(command.arg(&out));
    assert_eq!(read_prompts(&out).unwrap().len(), 5);

    // Something else is replaced only on request.
    fs::write(&out, "name = \"mine\"\n").unwrap();
    let prepare = || {
        let mut command = mopo(&["prepare", "--prompts", "--n-prompts", "5", "--out"]);
        command.arg(&out);
        command
    };
    assert!(fail(&mut prepare()).contains("--force"));
    assert_eq!(fs::read_to_string(&out).unwrap(), "name = \"mine\"\n");
    succeed(prepare().arg("--force"));
    assert_eq!(read_prompts(&out).unwrap().len(), 5);
}

#[test]
fn a_run_trains_on_a_source() {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..40)
        .map(|i| {
            format!(
                "{{\"prompt\": \"Question {i}?\", \"response_0\": \"No {i}.\", \"response_1\": \
                 \"Yes {i}.\", \"better_response_id\": {}, \"safer_response_id\": {}}}\n",
                i % 2,
                i % 3 % 2
            )
        })
        .collect();
    fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
    let demo = succeed(&mut mopo(&["config", "demo"]));
    let section = succeed(&mut mopo(&["config", "safe-rlhf"]));
    let (_, section) = section.split_once("[data]").unwrap();
    let (before, rest) = demo.split_once("[data]").unwrap();
    let (_, after) = rest.split_once("[tokenizer]").unwrap();
    let text = format!("{before}[data]{section}\n[tokenizer]{after}");
    fs::write(dir.path().join("my.toml"), text).unwrap();
    let mut command = mopo(&["train", "--config", "my.toml", "--data", "rows.jsonl"]);
    command.current_dir(dir.path()).args(["--out", "run"]);
    for set in TINY.iter().filter(|set| !set.starts_with("data.n_prompts")) {
        command.args(["--set", set]);
    }
    command.args(["--set", "policies=[\"helpful\",\"harmless\"]"]);
    command.args(["--set", "data.max_prompt_tokens=64", "--set", "data.max_response_tokens=64"]);
    command.args(["--set", "training.steps=2", "--set", "sft.steps=1"]);
    succeed(command.args(["--set", "evaluation.mixture_steps=0"]));
    let set = PreparedSet::read(dir.path().join("run/data/train.jsonl")).unwrap();
    assert_eq!(set.header.objectives.names(), ["helpful", "harmless"]);
    assert_eq!(set.header.sources[0].rows, 40);

    // Other prompts than the held-out ones, of which two were trained on.
    let line = |i: usize, prompt: &str| {
        format!("{{\"id\": \"{i}\", \"source\": \"made\", \"prompt\": {prompt:?}}}\n")
    };
    let trained: Vec<&str> = set.records.iter().take(2).map(|r| r.prompt.as_str()).collect();
    assert_ne!(trained[0], trained[1]);
    let prompts = ["New?", trained[0], "Newer?", trained[1]];
    let lines: String = prompts.iter().enumerate().map(|(i, p)| line(i, p)).collect();
    fs::write(dir.path().join("prompts.jsonl"), lines).unwrap();
    let mut command = mopo(&["pareto", "run", "--prompts", "prompts.jsonl", "--n-prompts", "9"]);
    let output = command.current_dir(dir.path()).output().unwrap();
    let said = crate::common::stderr(&output);
    assert!(output.status.success() && said.contains("there are only 4 given ones"), "{said}");
    assert!(said.contains("2 of the 4 prompts of prompts.jsonl"), "{said}");
    let samples = fs::read_to_string(dir.path().join("run/pareto/samples.jsonl")).unwrap();
    assert!(samples.contains("Newer?"));
}

#[test]
fn wrong_sources_are_answered_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.jsonl");
    fs::write(&rows, "{\"question\":\"a\"}\n").unwrap();
    fs::write(dir.path().join("empty.jsonl"), "").unwrap();
    let fixture = |name: &str| fixture(name).display().to_string();
    let (axes, brotli) = (fixture("tldr-axes.jsonl"), fixture("brotli.parquet"));
    for (args, expected) in [
        (&["prepare", "tldrr"][..], &["tldrr", "summeval-op"][..]),
        (&["prepare", "tldr"], &["Reddit TL;DR", "--data"]),
        (&["prepare", "demo", "--data", "rows.jsonl"], &["reads no files"]),
        (&["prepare", "tldr", "--data", "absent"], &["absent does not exist", "datasets/tldr"]),
        (&["prepare", "tldr", "--data", "empty.jsonl"], &["empty.jsonl", "is empty"]),
        (&["prepare", "helpsteer", "--data", "rows.jsonl"], &["rows.jsonl:1", "`question`"]),
        (&["prepare", "tldr", "--data", &axes], &["`tldr_axes`"]),
        (&["prepare", "trl", "--data", &brotli], &["brotli", "snappy"]),
        (&["prepare", "tldr", "--data", "rows.jsonl", "--out", "rows.jsonl"], &["same file"]),
        (
            &["prepare", "tldr", "--data", &axes, "--set", "data.tie_threshold=1"],
            &["data.tie_threshold", "\"summeval_op\""],
        ),
        (
            &["prepare", "safe-rlhf", "--data", &axes, "--set", "data.objectives=[\"humor\"]"],
            &["`humor`", "helpful, harmless"],
        ),
        (&["prepare", "safe-rlhf", "--data", &axes], &["tldr-axes.jsonl:1", "datasets/safe-rlhf"]),
        (&["train", "tldr"], &["data source", "mopo config tldr"]),
    ] {
        let said = fail(mopo(args).current_dir(dir.path()));
        for part in expected {
            assert!(said.contains(part), "{args:?}: `{part}` is not in:\n{said}");
        }
    }
    assert_eq!(fs::read_to_string(&rows).unwrap(), "{\"question\":\"a\"}\n");
}
