//! The commands that are tried, what they read and write, and how one continues after an interruption.

use std::path::Path;

use anyhow::{Context, Result};

use super::inputs::{REWARDS, TINY};

/// A command.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) name: String,
    /// Inputs, by their names.
    pub(super) needs: Vec<&'static str>,
    pub(super) line: String,
    /// What continues it, once there is a run to resume. Without it, the same command is given again.
    pub(super) resume: Option<&'static str>,
    /// It is about what it reads; interrupting it is tried with another job.
    pub(super) only_reads: bool,
}

/// A method of `mopo train`.
#[derive(Debug, Clone)]
pub(super) struct Method {
    pub(super) name: String,
    /// What makes its section small.
    pub(super) own: String,
    /// Whether it combines finished runs, and trains nothing.
    pub(super) combines: bool,
}

/// Values of keys that a section may have, where the usual ones take long or name what is not there.
const SMALL: &[(&str, &str)] = &[
    ("reference_lag", "2"),
    ("max_new_tokens", "8"),
    ("group_size", "4"),
    ("runs", r#"{helpful="run-h",harmless="run-s"}"#),
];

impl Method {
    /// A method, from the section that `mopo config` prints of it.
    pub(super) fn new(name: &str, printed: &str) -> Result<Self> {
        let table: toml::Table = printed.parse().with_context(|| format!("mopo config {name}"))?;
        let section = table.get(name).and_then(toml::Value::as_table);
        let section = section.with_context(|| format!("mopo config {name}: no [{name}]"))?;
        let known = SMALL.iter().filter(|(key, _)| section.contains_key(*key));
        let own: Vec<String> =
            known.map(|(key, value)| format!("--set {name}.{key}={value}")).collect();
        let combines = section.contains_key("runs");
        Ok(Self { name: name.into(), own: own.join(" "), combines })
    }
}

/// A run does not remember where the cache is, which is the machine's.
pub(super) const RESUME: &str = "train --resume out --no-cache";

/// Seconds that a rank waits for another. A run records its command, so one process has it too.
pub(super) const RANK_TIMEOUT: u64 = 5;

/// A run with a log-prob cache, whose files another one finds.
pub(super) fn cached() -> String {
    format!(
        "train demo {TINY} {REWARDS} --cache cache --set sft.steps=2 --set mopo.reference_lag=2"
    )
}

/// `mopo train` with a method.
pub(super) fn train(method: &Method) -> Job {
    let Method { name, own, .. } = method;
    let (needs, base) = match method.combines {
        true => (vec!["run-b", "run-h", "run-s"], "--model run-b --set sft.steps=0"),
        false => (vec![], "--set sft.steps=2"),
    };
    Job {
        name: format!("train {name}"),
        needs,
        line: format!(
            "train demo --method {name} {TINY} {REWARDS} --no-cache {base} {own} --rank-timeout {RANK_TIMEOUT} --out out"
        ),
        resume: Some(RESUME),
        only_reads: false,
    }
}

/// Whether this machine has what products in int8 take.
fn has_int8() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// All of them.
pub(super) fn all(methods: &[Method]) -> Vec<Job> {
    let mut all: Vec<Job> = methods.iter().map(train).collect();
    let mut add = |name: &str, needs: &[&'static str], line: &str, resume| {
        let needs = needs.to_vec();
        all.push(Job { name: name.into(), needs, line: line.into(), resume, only_reads: false });
    };
    add(
        "train mopo, cache, evaluations",
        &[],
        &format!(
            "{} --set training.eval_steps=2 --set training.load_best_model_at_end=true --out out",
            cached()
        ),
        Some("train --resume out --cache cache"),
    );
    add(
        "train mopo, heads of low rank",
        &[],
        &format!(
            "train demo {TINY} {REWARDS} --no-cache --set head_rank=2 --set sft.steps=2 --set mopo.reference_lag=2 --out out"
        ),
        Some(RESUME),
    );
    add(
        "train on a prepared set",
        &["pairs.jsonl", "train.toml"],
        "train --config train.toml --data pairs.jsonl --no-cache --out out",
        Some(RESUME),
    );
    add(
        "train on a model",
        &["hf"],
        &format!(
            "train demo {TINY} {REWARDS} --no-cache --model hf --set sft.steps=1 --set mopo.reference_lag=2 --out out"
        ),
        Some(RESUME),
    );
    add(
        "reward train",
        &["reward.toml"],
        "reward train --config reward.toml --out out",
        Some("reward train --resume out"),
    );
    let mut narrow = vec![("train mopo, nf4", "--set model.base=nf4")];
    if has_int8() {
        let int8 = "--set model.base=int8-output --set model.matmul_precision=int8";
        narrow.push(("train mopo, int8", int8));
    }
    for (name, base) in narrow {
        let line = format!(
            "train demo {TINY} {REWARDS} --no-cache --set sft.lora=true --set sft.steps=2 --set mopo.reference_lag=2 {base} --out out"
        );
        add(name, &[], &line, Some(RESUME));
    }
    let short = "--max-new-tokens 6 --prompts prompts.jsonl --out out.jsonl";
    for (name, needs, line) in [
        (
            "label",
            &["pairs.jsonl", "rewards.toml", "rm"][..],
            "label pairs.jsonl --rewards rewards.toml --out out.jsonl",
        ),
        ("pareto", &["run-b"], "pareto run-b"),
        ("report", &["run-a", "run-h"], "report run-a run-h --names a,h --out out"),
        (
            "study",
            &["study.json", "run-a", "run-h", "run-s"],
            "study study.json --out out --resamples 50",
        ),
        ("score", &["texts.jsonl", "rm"], "score texts.jsonl --model rm/model --out out.jsonl"),
        (
            "score --merge",
            &["texts.jsonl", "rm", "1.scores", "2.scores"],
            "score texts.jsonl --model rm/model --merge 1.scores 2.scores --out out.jsonl",
        ),
        ("win-rate", &["run-a"], "win-rate run-a --out out"),
        ("prepare", &[], "prepare demo --set data.n_prompts=12 --out out.jsonl"),
        (
            "prepare --prompts",
            &[],
            "prepare demo --set data.n_prompts=12 --prompts --n-prompts 4 --out out.jsonl",
        ),
        (
            "label --shard",
            &["pairs.jsonl", "rewards.toml", "rm"],
            "label pairs.jsonl --rewards rewards.toml --shard 1/2 --out out.shard",
        ),
        ("label --merge", &["1.shard", "2.shard"], "label --merge 1.shard 2.shard --out out.jsonl"),
        (
            "generate from a run",
            &["run-b", "prompts.jsonl"],
            &format!("generate run-b --weights 0.4,0.3,0.3 {short}"),
        ),
        (
            "generate from an export",
            &["export", "prompts.jsonl"],
            &format!("generate export --policy humor {short}"),
        ),
        ("generate from a model", &["hf", "prompts.jsonl"], &format!("generate hf {short}")),
        (
            "generate from a GGUF file",
            &["model.gguf", "prompts.jsonl"],
            &format!("generate model.gguf {short}"),
        ),
        ("export a policy", &["run-b"], "export run-b --policy helpful --out out"),
        ("export a policy, bf16", &["run-b"], "export run-b --policy humor --dtype bf16 --out out"),
        ("export --all", &["run-b"], "export run-b --all --out out"),
    ] {
        add(name, needs, line, None);
    }
    for kind in ["F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_0", "Q4_K"] {
        let line = format!("export run-b --policy helpful --gguf {kind} --out out.gguf");
        add(&format!("export --gguf {kind}"), &["run-b"], &line, None);
    }
    let reads = |name: &str, needs: &[&'static str], line: &str| Job {
        name: name.into(),
        needs: needs.to_vec(),
        line: line.into(),
        resume: None,
        only_reads: true,
    };
    all.extend([
        reads("train --resume", &["cut"], "train --resume cut --no-cache"),
        reads("train ppo --resume", &["ppo-cut"], "train --resume ppo-cut --no-cache"),
        reads("train with a cache", &["cache"], &format!("{} --out out", cached())),
        reads("reward train --resume", &["rm-cut"], "reward train --resume rm-cut"),
        reads(
            "generate from a small GGUF file",
            &["small.gguf", "prompts.jsonl"],
            &format!("generate small.gguf {short}"),
        ),
        reads(
            "train on labels",
            &["labelled.jsonl", "labelled.jsonl.labels.json", "train.toml"],
            r#"train --config train.toml --data labelled.jsonl --set policies=["helpful","brief","funny"] --no-cache --out out"#,
        ),
    ]);
    all
}

impl Job {
    /// What to type after an interruption.
    pub(super) fn next(&self, dir: &Path) -> &str {
        match self.resume {
            // The last file of a start; before, the start is given again.
            Some(resume) if dir.join("out/config.toml").exists() => resume,
            _ => &self.line,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_every_command_of_the_issue_is_there() {
        let all = all(&[Method::new("dpo", "[dpo]").unwrap()]);
        let mut names: Vec<&str> = all.iter().map(|job| job.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for command in [
            "train",
            "reward train",
            "label",
            "pareto",
            "report",
            "export",
            "study",
            "score",
            "generate",
            "prepare",
        ] {
            let start = format!("{command} ");
            assert!(
                all.iter().any(|job| !job.only_reads && job.line.starts_with(&start)),
                "{command}"
            );
        }
    }

    #[test]
    fn a_methods_section_says_what_its_run_needs() {
        let method = |name, text| Method::new(name, text).unwrap();
        assert_eq!(method("dpo", "[dpo]\nbeta = 0.1\n").own, "");
        let mopo = method("mopo", "[mopo]\nreference_lag = 50\ntau = 1.0\n");
        assert_eq!((mopo.own.as_str(), mopo.combines), ("--set mopo.reference_lag=2", false));
        let soups = method("soups", "[soups]\nruns = { a = \"x\" }\n");
        assert!(soups.combines && train(&soups).needs.contains(&"run-s"), "{soups:?}");
        assert!(train(&soups).line.contains("soups.runs={helpful=\"run-h\""));
        assert!(Method::new("dpo", "[mopo]\n").is_err() && Method::new("dpo", "[").is_err());
    }

    #[test]
    fn a_run_is_resumed_once_there_is_one() {
        let dir = std::env::temp_dir().join(format!("mopo-campaign-jobs-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("out")).unwrap();
        let job = train(&Method::new("dpo", "[dpo]").unwrap());
        assert_eq!(job.next(&dir), job.line);
        std::fs::write(dir.join("out/run.json"), "{}").unwrap();
        assert_eq!(job.next(&dir), job.line);
        std::fs::write(dir.join("out/config.toml"), "").unwrap();
        assert_eq!(job.next(&dir), RESUME);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
