//! A killed and resumed run ends like an uninterrupted one; and what comes after training.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{fail, mopo, stderr, succeed, tiny};

/// metrics.jsonl without the timings.
pub(crate) fn metrics(run: &Path) -> Vec<String> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let fields = line.trim_matches(['{', '}']).split(',');
            let kept: Vec<&str> =
                fields.filter(|f| !f.starts_with("\"tokens_per_second\"")).collect();
            kept.join(",")
        })
        .collect()
}

pub(crate) fn assert_same_run(a: &Path, b: &Path) {
    for file in [
        "warm_start/model.safetensors",
        "initial_log_probs.safetensors",
        "policy/adapter_model.safetensors",
        "policy/heads.safetensors",
    ] {
        assert_eq!(fs::read(a.join(file)).unwrap(), fs::read(b.join(file)).unwrap(), "{file}");
    }
    assert_eq!(metrics(a), metrics(b));
}

/// Starts a command and kills it as soon as `file` exists.
pub(crate) fn kill_once_there(command: &mut std::process::Command, file: &Path) {
    let mut child = command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let patience = Instant::now();
    while !file.exists() {
        assert!(patience.elapsed() < Duration::from_secs(300), "{} never came", file.display());
        if child.try_wait().unwrap().is_some() {
            break; // faster than this loop: the comparison below still holds
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = child.kill(); // SIGKILL: no time to tidy up
    child.wait().unwrap();
}

#[test]
fn killed_runs_end_at_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    succeed(&mut tiny(&whole));

    kill_once_there(&mut tiny(&cut), &cut.join("checkpoints/warm_start-step-000003"));
    let resume = |cut: &Path| {
        let mut command = mopo(&["train", "--resume"]);
        command.arg(cut);
        command
    };
    kill_once_there(&mut resume(&cut), &cut.join("checkpoints/mopo-step-000006"));
    kill_once_there(&mut resume(&cut), &cut.join("checkpoints/mopo-step-000021"));
    succeed(&mut resume(&cut));
    assert_same_run(&whole, &cut);

    // Resuming a finished run changes nothing and says so.
    let said = succeed(&mut resume(&cut));
    assert!(said.contains("already finished"), "{said}");

    // What comes after training.
    let mut pareto = mopo(&["pareto"]);
    succeed(pareto.arg(&whole));
    for file in
        ["index.html", "front.svg", "front.png", "front.csv", "samples.jsonl", "report.json"]
    {
        assert!(fs::metadata(whole.join("pareto").join(file)).unwrap().len() > 0, "{file}");
    }
    let ask = |extra: &[&str]| {
        let mut command = mopo(&["generate"]);
        command.arg(&whole).args(["--prompt", "How do I make tea?", "--max-new-tokens", "4"]);
        command.args(extra);
        command
    };
    for extra in [&["--policy", "helpful"][..], &["--weights", "0.2,0.3,0.5"], &[]] {
        assert!(succeed(&mut ask(extra)).contains("How do I make tea?"));
    }
    let said = fail(&mut ask(&["--policy", "helpfull"]));
    assert!(said.contains("helpful, harmless, humor"), "{said}");
    let said = fail(&mut ask(&["--weights", "0.9,0.9,0.9"]));
    assert!(said.contains("sum"), "{said}");
}

/// Also with the base in bfloat16.
#[test]
fn runs_with_products_in_bfloat16_resume_at_the_same_bits() {
    #[cfg(target_arch = "x86_64")]
    let here = std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let here = false;
    let set = ["model.matmul_precision=bf16", "model.base=bf16"];
    resumes_with_products_in("AVX512-BF16", here, &set);
}

/// Also with the base in int8.
#[test]
fn runs_with_products_in_int8_resume_at_the_same_bits() {
    #[cfg(target_arch = "x86_64")]
    let here = std::arch::is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    let here = false;
    let set = ["model.matmul_precision=int8", "model.base=int8-output", "sft.lora=true"];
    resumes_with_products_in("AVX512-VNNI", here, &set);
}

/// `here`: whether the processor has these instructions; without them there is an error instead.
fn resumes_with_products_in(instructions: &str, here: bool, set: &[&str]) {
    let chosen: Vec<&str> = set.iter().flat_map(|set| ["--set", *set]).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    if !here {
        let said = fail(tiny(&path("whole")).args(&chosen));
        assert!(said.contains(instructions) && said.contains("\"f32\""), "{said}");
        assert!(!path("whole").exists());
        println!("skipped: products of lower precision: no {instructions} here");
        return;
    }
    let [exact, whole, cut] = ["exact", "whole", "cut"].map(path);
    succeed(&mut tiny(&exact));
    succeed(tiny(&whole).args(&chosen));
    kill_once_there(tiny(&cut).args(&chosen), &cut.join("checkpoints/mopo-step-000006"));
    succeed(mopo(&["train", "--resume"]).arg(&cut));
    assert_same_run(&whole, &cut);
    // Another cache than the exact run's beside it: log-probabilities are not the same.
    let log_probs = |run: &Path| fs::read(run.join("initial_log_probs.safetensors")).unwrap();
    assert_ne!(log_probs(&whole), log_probs(&exact));

    // A finished run answers in f32, and on request in what it was trained in.
    let precision = set[0].trim_start_matches("model.matmul_precision=");
    for extra in [&[][..], &["--base", "int8-output", "--matmul-precision", precision]] {
        let mut command = mopo(&["generate", "--prompt", "How do I make tea?"]);
        let said = succeed(command.arg(&whole).args(extra));
        assert!(said.contains("How do I make tea?"), "{said}");
    }
    let mut pareto = mopo(&["pareto", "--matmul-precision", precision]);
    succeed(pareto.arg(&whole));
    let written = |name: &str| fs::read_to_string(whole.join("pareto").join(name)).unwrap();
    let report: serde_json::Value = serde_json::from_str(&written("report.json")).unwrap();
    let recorded = report.pointer("/record/matmul_precision");
    assert_eq!(recorded.and_then(serde_json::Value::as_str), Some(precision));
    assert!(written("index.html").contains(&format!("products in {precision}")));
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_an_error_and_the_run_resumes_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    succeed(&mut tiny(&whole));

    // A limit on file size, with its signal ignored, makes writes fail as on a full disk. The
    // limit, in blocks of 512 bytes, is large enough for the data but not for the growing metrics
    // or a checkpoint.
    let data = ["data/train.jsonl", "data/heldout.jsonl", "tokenizer.json"]
        .map(|f| fs::metadata(whole.join(f)).unwrap().len());
    let metrics = fs::metadata(whole.join("metrics.jsonl")).unwrap().len();
    let limit = data.into_iter().max().unwrap() / 512 + 8;
    assert!(limit * 512 < metrics.max(200_000), "nothing would be cut off");
    let inner = tiny(&cut);
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\"")])
        .arg(inner.get_program())
        .args(inner.get_args())
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(said.contains("--resume") && said.contains(cut.to_str().unwrap()), "{said}");

    succeed(mopo(&["train", "--resume"]).arg(&cut));
    assert_same_run(&whole, &cut);
}
