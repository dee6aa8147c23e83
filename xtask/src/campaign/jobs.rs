//! The commands that are tried, what they read and write, and how one continues after an interruption.

use std::path::Path;

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

/// Every method of `mopo train`, with what its section needs here.
pub(super) const METHODS: &[(&str, &str)] = &[
    ("mopo", "--set mopo.reference_lag=2"),
    ("dpo", ""),
    ("ipo", ""),
    ("f_dpo", ""),
    ("simpo", ""),
    ("kto", ""),
    ("modpo", ""),
    ("ric", ""),
    ("dpa", ""),
    ("can", ""),
    ("sacpo", ""),
    ("raco", ""),
    ("ppo", "--set ppo.max_new_tokens=8"),
    ("grpo", "--set grpo.max_new_tokens=8 --set grpo.group_size=4"),
    ("ham", ""),
    ("rewarded_soups", SOUPS),
    ("multi_objective_decoding", DECODING),
];
const SOUPS: &str = r#"--set rewarded_soups.runs={helpful="run-h",harmless="run-s"}"#;
const DECODING: &str = r#"--set multi_objective_decoding.runs={helpful="run-h",harmless="run-s"}"#;

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

/// Whether a method combines finished runs, and trains nothing.
pub(super) fn combines(method: &str) -> bool {
    ["rewarded_soups", "multi_objective_decoding"].contains(&method)
}

/// `mopo train` with a method.
pub(super) fn train(method: &str) -> Job {
    let own = METHODS.iter().find(|(name, _)| *name == method).map_or("", |(_, own)| own);
    let (needs, base) = match combines(method) {
        true => (vec!["run-b", "run-h", "run-s"], "--model run-b --set sft.steps=0"),
        false => (vec![], "--set sft.steps=2"),
    };
    Job {
        name: format!("train {method}"),
        needs,
        line: format!(
            "train demo --method {method} {TINY} {REWARDS} --no-cache {base} {own} --rank-timeout {RANK_TIMEOUT} --out out"
        ),
        resume: Some(RESUME),
        only_reads: false,
    }
}

/// All of them.
pub(super) fn all() -> Vec<Job> {
    let mut all: Vec<Job> = METHODS.iter().map(|(method, _)| train(method)).collect();
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
        let all = all();
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
    fn all_methods_of_the_program_are_tried() {
        let folder = crate::cargo::root().join("docs/methods");
        for page in std::fs::read_dir(folder).unwrap() {
            let file = page.unwrap().file_name().into_string().unwrap();
            let name = file.trim_end_matches(".md").replace('-', "_");
            // Every run of a method has it.
            if name == "sft" {
                continue;
            }
            assert!(METHODS.iter().any(|(method, _)| *method == name), "{name}");
        }
        assert!(METHODS.iter().any(|(method, _)| *method == "mopo"));
    }

    #[test]
    fn a_run_is_resumed_once_there_is_one() {
        let dir = std::env::temp_dir().join(format!("mopo-campaign-jobs-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("out")).unwrap();
        let job = train("dpo");
        assert_eq!(job.next(&dir), job.line);
        std::fs::write(dir.join("out/run.json"), "{}").unwrap();
        assert_eq!(job.next(&dir), job.line);
        std::fs::write(dir.join("out/config.toml"), "").unwrap();
        assert_eq!(job.next(&dir), RESUME);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
