//! Reward models on a language model: an adapter and a linear layer, interrupted and resumed.

use mopo_data::Tokenizer;
use mopo_eval::Reward;
use mopo_eval::reward::{ModelReward, ModelSpec, local_directory};
use mopo_testkit::TestBackend;
use mopo_train::reward_model::{
    RewardTrainConfig, create_reward_run, open_reward_run, train_reward,
};

use super::resume::Cut;
use super::*;

const CONFIG: &str = r#"
name = "reward-demo"
seed = 3
objective = "humor"
[data]
heldout_fraction = 0.2
validation_fraction = 0.2
[data.pairs]
source = "demo"
n_prompts = 40
ties = "half"
[input]
text = "{prompt}{response}"
max_length = 48
truncation_side = "left"
[model.decoder]
hub = "MODEL"
base = "checkpoint"
[lora]
rank = 2
alpha = 4.0
dropout = 0.1
target_modules = "all-linear"
[training]
steps = 8
batch_size = 4
learning_rate = 1e-2
warmup_steps = 2
max_grad_norm = 1.0
weight_decay = 0.0
token_dropout = 0.0
eval_steps = 4
early_stopping_patience = 6
[checkpoints]
save_steps = 3
save_total_limit = 2
"#;

fn config(model: &Path, set: &[&str]) -> RewardTrainConfig {
    let text = CONFIG.replace("MODEL", model.to_str().unwrap());
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    RewardTrainConfig::parse_with(&text, "test", &set).unwrap()
}

fn start(path: &Path, config: &RewardTrainConfig) {
    let mut record = RunRecord::new("test".into(), config.seed, None, false).unwrap();
    create_reward_run(path, config, &mut record).unwrap();
}

fn go_on(
    path: &Path,
    progress: &mut dyn Progress,
) -> Result<mopo_train::reward_model::RewardResult> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (run, config, mut record) = open_reward_run(path)?;
    train_reward::<TestAutodiffBackend>(&run, &config, &mut record, &Default::default(), progress)
}

/// A model directory with a tokenizer.
fn model(dir: &Path) {
    families::directory(dir);
    let texts = ["a few words to learn from, and a joke: what is it? it is a cat."];
    Tokenizer::train(texts.into_iter(), 280).unwrap().save(dir.join("tokenizer.json")).unwrap();
}

#[test]
fn an_interrupted_training_on_a_llama_ends_with_the_same_bytes() {
    let tmp = tempfile::tempdir().unwrap();
    let (base, whole, cut) = (tmp.path().join("base"), tmp.path().join("a"), tmp.path().join("b"));
    model(&base);
    let config = config(&base, &[]);
    start(&whole, &config);
    let result = go_on(&whole, &mut Silent).unwrap();
    assert!(result.train_accuracy.n <= result.heldout && result.best_step > 0, "{result}");
    start(&cut, &config);
    for after in [5, 3] {
        let mut progress = Cut::new("reward_model", after);
        let cut = std::panic::AssertUnwindSafe(|| go_on(&cut, &mut progress));
        assert!(std::panic::catch_unwind(cut).is_err());
    }
    go_on(&cut, &mut Silent).unwrap();
    for name in ["model.safetensors", "config.json", "tokenizer.json", "reward.toml"] {
        let read = |run: &Path| std::fs::read(run.join("model").join(name)).unwrap();
        assert!(read(&whole) == read(&cut), "{name} differs");
    }
    // Checkpoints have what is trained, not the frozen weights.
    let checkpoint = whole.join("checkpoints/reward_model-step-000008/model.bin");
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    assert!(size(&checkpoint) < size(&whole.join("model/model.safetensors")) / 2);

    let spec = ModelSpec {
        path: Some(whole.join("model").to_str().unwrap().into()),
        ..ModelSpec::default()
    };
    let reward =
        ModelReward::<TestBackend>::load(&spec, &local_directory, &Default::default()).unwrap();
    assert_eq!(reward.model().architecture(), "llama");
    assert_eq!(reward.model().labels(), ["humor"]);
    assert!(
        reward.score("tell me", " a joke").unwrap() != reward.score("tell me", " a lie").unwrap()
    );
}

#[test]
fn what_does_not_fit_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    let base = tmp.path().join("base");
    model(&base);
    let refused = |set: &[&str]| config(&base, set).check_files(None).unwrap_err().to_string();
    assert!(refused(&["input.max_length=65"]).contains("64 positions"));
    assert!(refused(&["lora.target_modules=[\"w_pack\"]"]).contains("w_pack"));
    let memory = config(&base, &[]).check_files(Some(1000)).unwrap_err().to_string();
    assert!(
        memory.contains("model.decoder.hub") && memory.contains("of memory are available"),
        "{memory}"
    );
    let text = CONFIG.replace("MODEL", "x");
    let without =
        text[..text.find("[lora]").unwrap()].to_owned() + &text[text.find("[training]").unwrap()..];
    let error = RewardTrainConfig::parse_with(&without, "test", &[]).unwrap_err().to_string();
    assert!(error.contains("add `[lora]`"), "{error}");
}
