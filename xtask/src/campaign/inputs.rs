//! The smallest inputs that every command can work on: data, runs of several methods, a reward model, exports.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::jobs::Method;
use super::process::Run;

/// The demo, as small as it trains: a block of width 16, four steps, a checkpoint after each.
pub(super) const TINY: &str = "--set data.n_prompts=12 --set data.heldout_fraction=0.3 --set tokenizer.vocab_size=300 \
    --set model.scratch.hidden_size=16 --set model.scratch.intermediate_size=32 \
    --set model.scratch.num_hidden_layers=1 --set model.scratch.num_attention_heads=2 \
    --set sft.batch_size=2 --set training.steps=4 --set training.batch_size=2 --set checkpoints.save_steps=1 \
    --set evaluation.n_prompts=3 --set evaluation.n_clusters=2 --set evaluation.max_new_tokens=4 \
    --set evaluation.mixture_steps=2";
/// Rewards by which the answers of an untrained model differ, without a space.
pub(super) const REWARDS: &str = r#"--set evaluation.rewards=[{name="helpful",ref_point=-20.0,reward={kind="length",prefer="shorter"}},{name="harmless",ref_point=0.0,reward={kind="word_list",words=["e","the","a","to"]}},{name="humor",ref_point=0.0,reward={kind="length",prefer="longer"}}]"#;

const LABEL_REWARDS: &str = r#"[[objectives]]
name = "helpful"
tie_threshold = 0.05
reward = { kind = "demo", objective_idx = 0 }
[[objectives]]
name = "brief"
temperature = 5
reward = { kind = "length", prefer = "shorter" }
[[objectives]]
name = "funny"
temperature = 1
reward = { kind = "model", path = "rm/model" }
"#;

const REWARD_MODEL: &str = r#"name = "reward"
seed = 3
objective = "humor"
[data]
heldout_fraction = 0.2
validation_fraction = 0.2
[data.pairs]
source = "demo"
n_prompts = 20
ties = "half"
[input]
text = "{prompt}{response}"
max_length = 48
truncation_side = "left"
[tokenizer]
vocab_size = 300
[model.gpt2]
n_embd = 16
n_layer = 1
n_head = 2
[training]
steps = 6
batch_size = 4
learning_rate = 1e-2
warmup_steps = 2
max_grad_norm = 1.0
weight_decay = 0.1
token_dropout = 0.1
eval_steps = 2
early_stopping_patience = 6
[checkpoints]
save_steps = 2
save_total_limit = 2
"#;

const STUDY: &str = r#"{"title":"Tiny","reference":"MOPO","methods":[
{"name":"MOPO","runs":[{"seed":0,"results":"run-a/pareto"}]},
{"name":"DPO","runs":[{"seed":0,"label":"helpful","results":"run-h/pareto"},{"seed":0,"label":"harmless","results":"run-s/pareto"}]}]}
"#;

/// A chat template as models bring it, to be read with the exported model.
const TEMPLATE: &str =
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:";

/// A directory of inputs, by their names in it.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) mopo: PathBuf,
    pub(super) dir: PathBuf,
    /// All that the program has.
    pub(super) methods: Vec<Method>,
}

impl Inputs {
    /// Makes them, in some seconds.
    pub(super) fn new(mopo: &Path, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mut this = Self { mopo: mopo.into(), dir: dir.into(), methods: Vec::new() };
        for line in this.made("config --list")?.lines() {
            if let Some(name) = line.strip_prefix("method ") {
                let printed = this.made(&format!("config {name}"))?;
                this.methods.push(Method::new(name, &printed)?);
            }
        }
        let write = |name: &str, text: &str| fs::write(dir.join(name), text);
        write("rewards.toml", LABEL_REWARDS)?;
        write("reward.toml", REWARD_MODEL)?;
        write("study.json", STUDY)?;
        let short = "--max-new-tokens 6 --prompts prompts.jsonl";
        for line in [
            "prepare demo --set data.n_prompts=12 --out pairs.jsonl",
            "prepare demo --set data.n_prompts=12 --prompts --n-prompts 4 --out prompts.jsonl",
            "reward train --config reward.toml --out rm",
            "label pairs.jsonl --rewards rewards.toml --out labelled.jsonl",
            &format!(
                "train demo {TINY} {REWARDS} --no-cache --set sft.steps=2 --set mopo.reference_lag=2 --out run-b"
            ),
        ] {
            this.made(line)?;
        }
        copy(&dir.join("run-b"), &dir.join("run-a"))?;
        // From the SFT model of that run, for methods that combine runs.
        for (name, objective) in [("run-h", "helpful"), ("run-s", "harmless")] {
            this.made(&format!(
                "train demo --method dpo --model run-b {TINY} {REWARDS} --no-cache --set sft.steps=0 \
                 --set dpo.objective={objective} --out {name}"
            ))?;
        }
        for line in [
            "pareto run-a",
            "pareto run-h",
            "pareto run-s",
            "export run-b --policy helpful --out hf",
            "export run-b --all --out export",
            "export run-b --policy helpful --gguf F32 --out model.gguf",
            "export run-b --policy helpful --gguf Q4_K --out small.gguf",
            &format!("generate run-b {short} --out texts.jsonl"),
        ] {
            this.made(line)?;
        }
        write("hf/chat_template.jinja", TEMPLATE)?;
        for i in 1..=2 {
            this.made(&format!(
                "label pairs.jsonl --rewards rewards.toml --shard {i}/2 --out {i}.shard"
            ))?;
            this.made(&format!(
                "score texts.jsonl --model rm/model --shard {i}/2 --out {i}.scores"
            ))?;
        }
        this.made(&format!("{} --out cached", super::jobs::cached()))?;
        let ppo = this.methods.iter().find(|method| method.name == "ppo");
        this.made(&super::jobs::train(ppo.context("there is no method ppo")?).line)?;
        fs::rename(dir.join("out"), dir.join("ppo"))?;
        // Runs that were interrupted before their last checkpoint.
        this.cut("run-b", "cut", "mopo-step-000004", &["result.json", "policy"])?;
        this.cut("ppo", "ppo-cut", "ppo-step-000004", &["result.json", "policy"])?;
        this.cut("rm", "rm-cut", "reward_model-step-000006", &["result.json", "model"])?;
        // What a person writes: a whole configuration, with the prepared set as its data.
        let text = fs::read_to_string(dir.join("run-b/config.toml"))?;
        let mut config: toml::Table = text.parse().context("a run's config.toml")?;
        config.insert("data".into(), toml::Value::Table(prepared_data()));
        write("train.toml", &config.to_string())?;
        Ok(this)
    }

    /// Runs `mopo LINE` here, and returns what it says.
    fn made(&self, line: &str) -> Result<String> {
        let ended = self.run(line, &self.dir).to_end()?;
        ensure!(ended.succeeded(), "mopo {line}: {:?}\n{}", ended.code, ended.complained);
        Ok(ended.said)
    }

    /// `mopo LINE` in a directory.
    pub(super) fn run(&self, line: &str, dir: &Path) -> Run {
        Run::new(&self.mopo, &words(line), dir)
    }

    fn cut(&self, whole: &str, cut: &str, last: &str, results: &[&str]) -> Result<()> {
        let cut = self.dir.join(cut);
        copy(&self.dir.join(whole), &cut)?;
        fs::remove_dir_all(cut.join("checkpoints").join(last))?;
        for name in results {
            remove(&cut.join(name))?;
        }
        Ok(())
    }

    /// A new directory with these inputs.
    pub(super) fn copied(&self, names: &[&str], to: &Path) -> Result<()> {
        remove(to)?;
        fs::create_dir_all(to)?;
        names.iter().try_for_each(|name| copy(&self.dir.join(name), &to.join(name)))
    }
}

/// The `[data]` of a configuration that reads a prepared set.
pub(super) fn prepared_data() -> toml::Table {
    let text = "source = \"prepared\"\nheldout_fraction = 0.3\nmax_prompt_tokens = 48\nmax_response_tokens = 80\n";
    text.parse().unwrap_or_default()
}

/// The words of a line.
pub(super) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(String::from).collect()
}

/// Copies a file or a directory.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Removes a file or a directory, if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.with_context(|| format!("removing {}", path.display()))
}
