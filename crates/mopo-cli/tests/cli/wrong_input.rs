//! Errors of users: each message says what, where, and what to do.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::common::{fail, mopo, tiny};

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn hh_rows(n: usize) -> String {
    (0..n)
        .map(|i| {
            format!(
                "{{\"chosen\": \"\\n\\nHuman: q{i}\\n\\nAssistant: yes {i}\", \
                 \"rejected\": \"\\n\\nHuman: q{i}\\n\\nAssistant: no {i}\"}}\n"
            )
        })
        .collect()
}

#[test]
fn names_and_flags() {
    for (args, expected) in [
        (&["train", "dmeo"][..], &["dmeo", "demo, hh-small, paper"][..]),
        (&["train", "hh-small"], &["--data", "helpful-base"]),
        (&["train", "demo", "--data", "x"], &["--data", "hh-small"]),
        (&["train", "--set", "mopo.tua=1"], &["tua", "tau"]),
        (&["train", "--set", "mopo.tau=-1"], &["mopo.tau", "> 0"]),
        (&["train", "--set", "policies=[\"kind\"]"], &["kind", "helpful, harmless, humor"]),
        (&["train", "demo-dpo", "--set", "dpo.beta=0"], &["dpo.beta", "> 0"]),
        (&["train", "demo-dpo", "--set", "dpo.objective=kind"], &["policies", "kind"]),
        (&["train", "demo-dpo", "--set", "mopo.tau=1"], &["mopo", "[dpo]"]),
        (&["train", "--resume", "no-such-run"], &["no-such-run", "config.toml"]),
        (&["pareto", "no-such-run"], &["no-such-run"]),
        (&["config", "big"], &["big", "paper"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let said = fail(mopo(args).current_dir(dir.path()));
        for part in expected {
            assert!(said.contains(part), "{args:?}: `{part}` is not in:\n{said}");
        }
        let left = dir.path().join("runs");
        let runs = fs::read_dir(&left).map_or(0, |entries| entries.count());
        assert_eq!(runs, 0, "{args:?} left a run behind");
    }
}

#[test]
fn devices() {
    let said = mopo(&["train", "--device", "tpu"]).output().unwrap();
    assert!(crate::common::stderr(&said).contains("flex"));
    if cfg!(not(feature = "ndarray")) {
        let said = fail(&mut mopo(&["train", "--device", "ndarray"]));
        assert!(said.contains("--features ndarray"), "{said}");
    }
    // Without the feature, and with it but without a driver, CUDA is an error with a remedy. With a
    // device this test has nothing to check.
    if cfg!(not(feature = "cuda")) || !Path::new("/dev/nvidia0").exists() {
        let said = fail(&mut mopo(&["train", "--device", "cuda"]));
        assert!(said.contains("--device flex"), "{said}");
    }
    // No machine has so many adapters, and the loader of Vulkan finds no driver in a file that is not there.
    let said = fail(&mut mopo(&["train", "--device", "wgpu:99"]));
    assert!(said.contains("--device flex"), "{said}");
    if cfg!(not(target_os = "macos")) {
        let mut train = mopo(&["train", "--device", "wgpu"]);
        let said = fail(train.envs(["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].map(|v| (v, "/none"))));
        assert!(said.contains("--device wgpu:0") && said.contains("--device flex"), "{said}");
    }
}

#[test]
fn configurations() {
    let dir = tempfile::tempdir().unwrap();
    let preset = String::from_utf8(mopo(&["config", "demo"]).output().unwrap().stdout).unwrap();
    for (from, to, expected) in [
        ("tau = 0.2\n", "", &["tau", "missing"][..]),
        ("tau = 0.2", "tua = 0.2", &["tua", "line"]),
        ("seed = 0", "seed = \"x\"", &["seed", "line"]),
        ("[lora]", "[lora", &["line"]),
        ("rank = 16", "rank = 0", &["rank"]),
    ] {
        assert!(preset.contains(from), "{from}");
        let file = dir.path().join("my.toml");
        write(&file, preset.replacen(from, to, 1).as_bytes());
        let said = fail(mopo(&["train", "--config", "my.toml"]).current_dir(dir.path()));
        assert!(said.contains("my.toml"), "{said}");
        for part in expected {
            assert!(said.contains(part), "`{part}` is not in:\n{said}");
        }
    }
}

#[test]
fn data() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("hh");
    let train = |strict: bool| {
        let mut command = mopo(&["train", "hh-small", "--data", "hh", "--out", "run"]);
        command.current_dir(dir.path());
        if strict {
            command.arg("--strict");
        }
        command
    };
    let good = hh_rows(20);
    write(&root.join("helpful-base/test.jsonl"), good.as_bytes());

    let said = fail(&mut train(false));
    assert!(said.contains("harmless-base"), "{said}");

    write(&root.join("harmless-base/test.jsonl"), b"");
    let said = fail(&mut train(false));
    assert!(said.contains("harmless-base"), "{said}");

    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(hh_rows(500).as_bytes()).unwrap();
    let whole = gz.finish().unwrap();
    fs::remove_file(root.join("harmless-base/test.jsonl")).unwrap();
    write(&root.join("harmless-base/test.jsonl.gz"), &whole[..whole.len() / 2]);
    let said = fail(&mut train(false));
    assert!(said.contains("test.jsonl.gz"), "{said}");

    fs::remove_file(root.join("harmless-base/test.jsonl.gz")).unwrap();
    write(&root.join("harmless-base/test.jsonl"), format!("{good}{{\"chosen\": 3}}\n").as_bytes());
    let said = fail(&mut train(true));
    assert!(said.contains("test.jsonl") && said.contains("21"), "{said}");
    assert!(!dir.path().join("run").exists(), "a run whose data cannot be read leaves nothing");
}

#[test]
fn tokenizers_that_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    crate::common::succeed(
        tiny(&run).args(["--set", "sft.steps=1"]).args(["--set", "training.steps=1"]),
    );
    // The trained model has 300 entries, a tokenizer trained on the same text 400.
    let base = run.join("warm_start");
    let file = dir.path().join("my.toml");
    let preset = String::from_utf8(mopo(&["config", "demo"]).output().unwrap().stdout).unwrap();
    let (before, rest) = preset.split_once("[model]").unwrap();
    let (_, rest) = rest.split_once("[model.scratch]").unwrap();
    let (_, after) = rest.split_once("\n\n").unwrap();
    let text = format!("{before}[model]\nhub = {:?}\n\n{after}", base.to_str().unwrap());
    write(&file, text.replacen("vocab_size = 768", "vocab_size = 400", 1).as_bytes());
    let out = dir.path().join("other");
    let said = fail(mopo(&["train", "--config"]).arg(&file).arg("--out").arg(&out));
    assert!(said.contains("300") && said.contains("400"), "{said}");
}

#[test]
fn an_output_never_replaces_an_input() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write(&at("texts.jsonl"), b"{\"prompt\": \"tea?\", \"response\": \"Boil the water.\"}\n");
    write(&at("length.toml"), b"kind = \"length\"\n");
    write(
        &at("rewards.toml"),
        b"[[objectives]]\nname = \"a\"\ntie_threshold = 0.0\nreward = { kind = \"length\" }\n",
    );
    let run = |args: &[&str]| {
        let mut command = mopo(args);
        command.current_dir(dir.path());
        command
    };
    let data = ["prepare", "demo", "--set", "data.n_prompts=40", "--out", "set.jsonl"];
    crate::common::succeed(&mut run(&data));
    std::os::unix::fs::symlink("texts.jsonl", at("link.jsonl")).unwrap();
    for (args, input) in [
        (
            &["score", "--reward", "length.toml", "texts.jsonl", "--force", "--out"][..],
            "texts.jsonl",
        ),
        (&["score", "--reward", "length.toml", "link.jsonl", "--force", "--out"], "texts.jsonl"),
        (&["score", "--reward", "length.toml", "texts.jsonl", "--force", "--out"], "length.toml"),
        (&["label", "set.jsonl", "--rewards", "rewards.toml", "--force", "--out"], "rewards.toml"),
        (&["label", "set.jsonl", "--rewards", "rewards.toml", "--force", "--out"], "set.jsonl"),
    ] {
        let before = fs::read(at(input)).unwrap();
        let said = fail(run(args).arg(input));
        assert!(said.contains("the same file as") && said.contains(input), "{args:?}: {said}");
        assert_eq!(fs::read(at(input)).unwrap(), before);
    }
}

#[test]
fn run_directories() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    write(&run.join("notes.txt"), b"mine");
    let said = fail(&mut tiny(&run));
    assert!(said.contains("not empty"), "{said}");
    assert_eq!(fs::read(run.join("notes.txt")).unwrap(), b"mine");
}

#[test]
fn each_error_cause_is_printed_once() {
    let said =
        fail(&mut mopo(&["score", "--reward", "humor", "no.jsonl", "--out", "scores.jsonl"]));
    assert_eq!(said.matches("No such file").count(), 1, "{said}");
}

#[test]
fn no_command_overwrites_what_it_reads_or_works_for_a_place_that_holds_no_file() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let row = r#"{"prompt": "p\n", "chosen": "yes yes", "rejected": "no"}"#;
    for (name, text) in [
        ("data/rows.jsonl", row),
        ("length.toml", "kind = 'length'"),
        (
            "labels.toml",
            "[[objectives]]\nname = 'l'\ntie_threshold = 1.0\nreward = { kind = 'length' }",
        ),
        ("texts.jsonl", r#"{"response": "a"}"#),
        ("b.record.json", r#"{"response": "a"}"#),
    ] {
        write(&dir.join(name), text.as_bytes());
    }
    let run = |args: &[&str]| mopo(args).current_dir(dir).output().unwrap();
    let prepare = ["prepare", "trl", "--data", "data/rows.jsonl", "--out"];
    assert!(run(&[&prepare[..], &["pairs.jsonl"]].concat()).status.success());
    assert!(run(&[&prepare[..], &["c.labels.json"]].concat()).status.success());
    fs::hard_link(dir.join("texts.jsonl"), dir.join("hard")).unwrap();
    std::os::unix::fs::symlink("pairs.jsonl", dir.join("soft")).unwrap();
    fs::create_dir(dir.join("folder")).unwrap();
    let files = || -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let mut files: Vec<_> = ["", "data", "folder"]
            .iter()
            .flat_map(|name| fs::read_dir(dir.join(name)).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = files();
    let score = ["score", "--reward", "length.toml", "--force", "texts.jsonl", "--out"];
    let label = ["label", "pairs.jsonl", "--rewards", "labels.toml", "--force", "--out"];
    let folder = ["prepare", "trl", "--data", "data", "--out"];
    for (command, out, words) in [
        (&score[..], "texts.jsonl", "the same file"),
        (&score, "hard", "the same file"),
        (&score, "length.toml", "the same file"),
        (&score, "folder", "it is a directory"),
        (&score, "new/", "name a file"),
        (&score, "texts.jsonl/x", "not a directory"),
        (&["score", "--reward", "length.toml", "b.record.json", "--out"], "b", "the same file"),
        (&label, "pairs.jsonl", "the same file"),
        (&label, "soft", "the same file"),
        (&label, "labels.toml", "the same file"),
        (&label, "folder", "it is a directory"),
        (&["label", "c.labels.json", "--rewards", "labels.toml", "--out"], "c", "the same file"),
        (&["label", "--merge", "pairs.jsonl", "--force", "--out"], "soft", "the same file"),
        (&prepare, "data/rows.jsonl", "the same file"),
        (&prepare, "folder", "it is a directory"),
        (&folder, "data/rows.jsonl", "whose files are read"),
        (&folder, "data/new.jsonl", "whose files are read"),
        (
            &[&folder[..4], &["--prompts", "--out"]].concat(),
            "data/new.jsonl",
            "whose files are read",
        ),
    ] {
        let said = fail(mopo(&[command, &[out]].concat()).current_dir(dir));
        assert!(said.contains(words), "{command:?} {out}: {said}");
        assert!(files() == before, "{command:?} {out}");
    }
    for args in [
        &["bandit", "fronts", "--n-pairs", "1000000000000"][..],
        &["bandit", "structures", "--seeds", "1000000000000"],
        &["bandit", "constraints", "--terms", "1000000000000"],
        &["bench", "matmul", "--hidden", "1000000000000"],
        &["bench", "matmul", "--threads", "1000000000000"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
