//! `score`, `generate`, `pareto` and `label` in shards: merged bytes are those of one process, however many shards there
//! are; killed shards go on; and what does not belong together is refused by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{fail, mopo, stderr, succeed, tiny};
use crate::kill_and_resume::kill_once_there;

/// Numbers of shards.
const COUNTS: [usize; 4] = [1, 2, 3, 7];

/// A command in a folder.
fn command(dir: &Path, line: &str) -> Command {
    let mut command = mopo(&line.split_whitespace().collect::<Vec<_>>());
    command.current_dir(dir);
    // Of whatever runs the tests.
    for name in
        ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"]
    {
        command.env_remove(name);
    }
    command
}

/// Runs all shards of a command, the last first, and merges them; returns the bytes of the result.
fn merged(dir: &Path, line: &str, n: usize) -> Vec<u8> {
    let mut files = vec![];
    for i in (1..=n).rev() {
        succeed(&mut command(dir, &format!("{line} --out part-{{shard}} --shard {i}/{n}")));
        files.push(format!("part-{i}-of-{n}"));
    }
    let out = format!("merged-{n}.jsonl");
    succeed(&mut command(dir, &format!("{line} --out {out} --merge {}", files.join(" "))));
    files.iter().for_each(|file| fs::remove_file(dir.join(file)).unwrap());
    fs::read(dir.join(out)).unwrap()
}

/// A tiny run, and prompts of the demo's world.
fn run_and_prompts(n_prompts: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    succeed(tiny(&dir.path().join("run")).args(["--set", "training.steps=4"]));
    let prepare = format!("prepare demo --prompts --n-prompts {n_prompts} --out prompts.jsonl");
    succeed(&mut command(dir.path(), &prepare));
    let text = fs::read_to_string(dir.path().join("prompts.jsonl")).unwrap();
    assert_eq!(text.lines().count(), n_prompts);
    dir
}

#[test]
fn answers_are_the_same_bytes_in_any_number_of_shards() {
    let tmp = run_and_prompts(230);
    let dir = tmp.path();
    let line = "generate run --prompts prompts.jsonl --policy helpful --temperature 1 --max-new-tokens 6 --seed 3";
    succeed(&mut command(dir, &format!("{line} --out whole.jsonl")));
    let whole = fs::read(dir.join("whole.jsonl")).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    assert_eq!(text.lines().count(), 230);
    for (line, prompt) in
        text.lines().zip(fs::read_to_string(dir.join("prompts.jsonl")).unwrap().lines())
    {
        let [line, prompt]: [serde_json::Value; 2] =
            [line, prompt].map(|line| serde_json::from_str(line).unwrap());
        assert_eq!([&line["id"], &line["prompt"]], [&prompt["id"], &prompt["prompt"]]);
        assert!(line["response"].is_string());
    }
    assert!(!dir.join("whole.jsonl.progress").exists());
    for n in COUNTS {
        assert!(merged(dir, line, n) == whole, "{n} shards");
    }
    // More shards than prompts; and the answers do not depend on which others there are.
    let few: String = fs::read_to_string(dir.join("prompts.jsonl"))
        .unwrap()
        .lines()
        .take(3)
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(dir.join("few.jsonl"), few).unwrap();
    let first: String = text.lines().take(3).map(|line| format!("{line}\n")).collect();
    let few = line.replace("prompts.jsonl", "few.jsonl");
    assert_eq!(String::from_utf8(merged(dir, &few, 5)).unwrap(), first);

    // What `mopo score` takes.
    fs::write(dir.join("length.toml"), "kind = 'length'").unwrap();
    succeed(&mut command(dir, "score whole.jsonl --reward length.toml --out scored.jsonl"));

    // A system message has another way to the model.
    let asked =
        format!("{} --system Briefly.", few.replace("--policy helpful", "--weights 0.2,0.3,0.5"));
    succeed(&mut command(dir, &format!("{asked} --out asked.jsonl")));
    assert!(merged(dir, &asked, 4) == fs::read(dir.join("asked.jsonl")).unwrap());
    assert_ne!(fs::read_to_string(dir.join("asked.jsonl")).unwrap(), first);
}

#[test]
fn a_killed_shard_of_answers_goes_on_and_strangers_are_refused() {
    let tmp = run_and_prompts(600);
    let dir = tmp.path();
    let line = "generate run --prompts prompts.jsonl --temperature 1 --max-new-tokens 40";
    succeed(&mut command(dir, &format!("{line} --out 1.shard --shard 1/2")));
    let second = || command(dir, &format!("{line} --out 2.shard --shard auto/2"));
    let part = dir.join("2.shard.progress/rows-000000000288");
    let killed = |command: &mut Command| kill_once_there(command, &part);
    killed(second().env("JOB_COMPLETION_INDEX", "1"));
    assert!(!dir.join("2.shard").exists(), "it was faster than the kill: give it more prompts");
    let merge =
        |line: &str| command(dir, &format!("{line} --out all.jsonl --merge 1.shard 2.shard"));
    let said = fail(&mut merge(line));
    assert!(said.contains("2.shard: this shard is not finished"), "{said}");
    // Another seed, before anything is there and in the midst of it.
    let said = fail(&mut command(dir, &format!("{line} --seed 1 --out 2.shard --shard 2/2")));
    assert!(said.contains("2.shard.progress") && said.contains("another `sampling`"), "{said}");
    let output = second().env("SLURM_ARRAY_TASK_ID", "2").output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success() && said.contains("resuming:"), "{said}");
    assert!(succeed(second().env("JOB_COMPLETION_INDEX", "1")).contains("nothing to do"));
    succeed(&mut merge(line));
    succeed(&mut command(dir, &format!("{line} --out whole.jsonl")));
    assert!(fs::read(dir.join("all.jsonl")).unwrap() == fs::read(dir.join("whole.jsonl")).unwrap());

    for (line, words) in [
        (format!("{line} --force --seed 1"), "1.shard: shard 1/2 was made with another `sampling`"),
        (
            format!("{line} --force --policy humor"),
            "another `policy` (null, not \"humor\") than this command",
        ),
        (line.to_string(), "all.jsonl exists; replace it with --force"),
    ] {
        let said = fail(&mut merge(&line));
        assert!(said.contains(words), "{line}: {said}");
    }
    let said = fail(&mut command(dir, "generate run --prompt Tea? --shard 1/2"));
    assert!(said.contains("--prompts"), "{said}");
    // One line less is another file of prompts.
    let text = fs::read_to_string(dir.join("prompts.jsonl")).unwrap();
    let less: String = text.lines().skip(1).map(|line| format!("{line}\n")).collect();
    fs::write(dir.join("prompts.jsonl"), less).unwrap();
    let said = fail(merge(line).arg("--force"));
    assert!(said.contains("1.shard") && said.contains("`prompts (their SHA-256)`"), "{said}");
    // And a run with another policy is another model.
    fs::write(dir.join("prompts.jsonl"), text).unwrap();
    succeed(tiny(&dir.join("other")).args(["--set", "training.steps=3"]));
    let said = fail(merge(&line.replace("run", "other")).arg("--force"));
    assert!(said.contains("`model (its SHA-256)`"), "{said}");
    let said = fail(&mut command(dir, &format!("{line} --out 3.shard --shard auto")));
    for name in
        ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"]
    {
        assert!(said.contains(name), "{said}");
    }
}

/// Texts, and rewards: two functions and a model.
fn texts(n: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let model =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../mopo-eval/tests/reward/fixtures/gpt2");
    let reward = format!(
        "kind = 'model'\nname = 'kind'\npath = '{}'\ntext = '{{prompt}}{{response}}'\npooling = 'last_token'\n\
         label = 0\nmax_length = 128\ntruncation_side = 'right'\n",
        model.display()
    );
    fs::write(dir.path().join("model.toml"), reward).unwrap();
    fs::write(dir.path().join("length.toml"), "kind = 'length'").unwrap();
    fs::write(dir.path().join("words.toml"), "kind = 'word_list'\nwords = ['tea', 'pot']\n")
        .unwrap();
    let line = |i: usize| {
        let response =
            ["tea ", "in a pot ", "no "].iter().cycle().skip(i % 3).take(i % 11 + 1).copied();
        format!(
            "{{\"id\": {i}, \"response\": \"{}\", \"scores\": {{\"old\": 0.5}}}}\n",
            response.collect::<String>()
        )
    };
    fs::write(dir.path().join("texts.jsonl"), (0..n).map(line).collect::<String>()).unwrap();
    dir
}

#[test]
fn scores_are_the_same_bytes_in_any_number_of_shards() {
    // Eight units of 256 texts, the last of one text.
    let tmp = texts(7 * 256 + 1);
    let dir = tmp.path();
    let functions = "score texts.jsonl --reward length.toml --reward words.toml";
    succeed(&mut command(dir, &format!("{functions} --out whole.jsonl")));
    for n in [1, 2, 3, 7, 12] {
        assert!(
            merged(dir, functions, n) == fs::read(dir.join("whole.jsonl")).unwrap(),
            "{n} shards"
        );
    }
    let record = |name: &str| {
        let text = fs::read_to_string(dir.join(name)).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        for reward in record["rewards"].as_array_mut().unwrap() {
            reward["seconds"].take();
        }
        record
    };
    assert_eq!(record("whole.jsonl.record.json"), record("merged-3.jsonl.record.json"));

    // With a model between functions.
    let tmp = texts(300);
    let dir = tmp.path();
    let all = "score texts.jsonl --reward length.toml --reward model.toml --reward words.toml";
    succeed(&mut command(dir, &format!("{all} --out whole.jsonl")));
    for n in [2, 3] {
        assert!(merged(dir, all, n) == fs::read(dir.join("whole.jsonl")).unwrap(), "{n} shards");
    }
}

#[test]
fn a_killed_shard_of_scores_goes_on_and_strangers_are_refused() {
    let tmp = texts(4096);
    let dir = tmp.path();
    let line = "score texts.jsonl --reward model.toml --reward length.toml";
    let shard = |i: usize| command(dir, &format!("{line} --out {i}.shard --shard {i}/2"));
    let part = dir.join("1.shard.progress/rewards-0.progress/rows-000000000000");
    kill_once_there(&mut shard(1), &part);
    assert!(!dir.join("1.shard").exists(), "it was faster than the kill: give it more texts");
    let before = fs::metadata(&part).unwrap().modified().unwrap();
    let progress = dir.join("1.shard.progress");
    let lock = mopo_train::DirLock::acquire(&progress).unwrap();
    assert!(fail(&mut shard(1)).contains("is writing to it"));
    drop(lock);
    assert_eq!(fs::metadata(&part).unwrap().modified().unwrap(), before, "it was scored again");
    succeed(&mut shard(1));
    assert!(!progress.exists());
    succeed(&mut shard(2));
    let merge =
        |line: &str| command(dir, &format!("{line} --out all.jsonl --merge 1.shard 2.shard"));
    succeed(&mut merge(line));
    succeed(&mut command(dir, &format!("{line} --out whole.jsonl")));
    assert!(fs::read(dir.join("all.jsonl")).unwrap() == fs::read(dir.join("whole.jsonl")).unwrap());

    let said = fail(&mut merge("score texts.jsonl --reward length.toml --force"));
    assert!(
        said.contains("1.shard: shard 1/2 was made with another `rewards` than this command"),
        "{said}"
    );
    fs::write(dir.join("texts.jsonl"), "{\"response\": \"tea\"}\n").unwrap();
    let said = fail(merge(line).arg("--force"));
    assert!(said.contains("`texts (their SHA-256)`"), "{said}");
    fs::write(dir.join("taken"), "mine").unwrap();
    let said = fail(&mut command(dir, &format!("{line} --out taken --shard 1/2")));
    assert!(said.contains("taken") && said.contains("--force"), "{said}");
    assert_eq!(fs::read_to_string(dir.join("taken")).unwrap(), "mine");
}

/// The files of a folder, without those of shards.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let read =
        |path: PathBuf| (path.strip_prefix(dir).unwrap().to_path_buf(), fs::read(&path).unwrap());
    paths.filter(|path| path.is_file()).map(read).collect()
}

#[test]
fn a_front_is_the_same_bytes_in_any_number_of_shards() {
    let tmp = run_and_prompts(70);
    let dir = tmp.path();
    let line = "pareto run --prompts prompts.jsonl --n-prompts 70 --temperature 1 --out front";
    succeed(&mut command(dir, line));
    let whole = files(&dir.join("front"));
    assert!(
        whole.contains_key(Path::new("index.html")) && whole.contains_key(Path::new("report.json"))
    );
    let again = || {
        fs::remove_dir_all(dir.join("front")).unwrap();
        fs::create_dir(dir.join("front")).unwrap();
    };
    // Seven policies, three rows of prompts each: 21 rows.
    for n in [1, 2, 3, 7, 24] {
        again();
        for i in 1..=n {
            succeed(&mut command(dir, &format!("{line} --shard {i}/{n}")));
        }
        succeed(&mut command(dir, &format!("{line} --merge")));
        assert!(files(&dir.join("front")) == whole, "{n} shards");
    }
    again();
    let first_row = dir.join("front/shards/1-of-2.jsonl.progress/rows-000000000000");
    kill_once_there(&mut command(dir, &format!("{line} --shard 1/2")), &first_row);
    succeed(&mut command(dir, &format!("{line} --shard 2/2")));
    let said = fail(&mut command(dir, &format!("{line} --merge")));
    assert!(said.contains("not finished") || said.contains("missing: 1/2"), "{said}");
    succeed(&mut command(dir, &format!("{line} --shard 1/2")));
    let said = fail(&mut command(dir, &format!("{line} --seed 5 --merge")));
    assert!(said.contains("was made with another"), "{said}");
    succeed(&mut command(
        dir,
        &format!("{line} --merge front/shards/2-of-2.jsonl front/shards/1-of-2.jsonl"),
    ));
    assert!(files(&dir.join("front")) == whole);
}

#[test]
fn labels_are_the_same_bytes_in_any_number_of_shards() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let rewards = "[[objectives]]\nname = 'brief'\ntemperature = 5\nreward = { kind = 'length', prefer = 'shorter' }\n";
    fs::write(dir.join("rewards.toml"), rewards).unwrap();
    let config =
        succeed(&mut mopo(&["config", "demo"])).replace("n_prompts = 1200", "n_prompts = 30");
    fs::write(dir.join("demo.toml"), config).unwrap();
    succeed(&mut command(dir, "prepare --config demo.toml --out set.jsonl"));
    let line = "label set.jsonl --rewards rewards.toml";
    succeed(&mut command(dir, &format!("{line} --out whole.jsonl")));
    let whole = fs::read(dir.join("whole.jsonl")).unwrap();
    let n_rows = whole.iter().filter(|byte| **byte == b'\n').count() - 1;
    for n in COUNTS.into_iter().chain([n_rows + 2]) {
        for i in 1..=n {
            let shard = format!("{line} --out part-{{shard}} --shard auto");
            let mut shard = command(dir, &shard);
            shard.env("OMPI_COMM_WORLD_RANK", (i - 1).to_string());
            succeed(shard.env("OMPI_COMM_WORLD_SIZE", n.to_string()));
        }
        let parts: Vec<String> = (1..=n).map(|i| format!("part-{i}-of-{n}")).collect();
        succeed(&mut command(dir, &format!("label --out merged-{n} --merge {}", parts.join(" "))));
        assert!(fs::read(dir.join(format!("merged-{n}"))).unwrap() == whole, "{n} shards");
    }
}
