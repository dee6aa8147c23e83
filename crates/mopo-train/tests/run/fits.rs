//! Errors of later phases are found before the first step: files of the evaluation, the model's
//! positions, sizes beyond any memory.

use mopo_eval::reward::local_directory;
use mopo_train::config::Replaced;

use super::*;

const ROOMY: Option<u64> = Some(1 << 50);

fn refused(config: &RunConfig, memory: Option<u64>) -> String {
    config.check_files(&local_directory, memory).unwrap_err().to_string()
}

#[test]
fn a_configuration_whose_files_are_there_passes() {
    tiny(&[]).check_files(&local_directory, ROOMY).unwrap();
    tiny(&[]).check_files(&local_directory, None).unwrap();
}

#[test]
fn rewards_must_be_there_before_training() {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mopo-eval/tests/reward/fixtures");
    let words = dir.path().join("words.txt");
    std::fs::write(&words, "# nothing\n").unwrap();
    let model = |name: &str, keys: &str| {
        let path = fixtures.join(name);
        format!(
            "{{kind=\"model\",path={:?},text=\"{{response}}\",pooling=\"last_token\",label=0,\
             max_length=16,truncation_side=\"left\"{keys}}}",
            path.to_str().unwrap()
        )
    };
    let good = model("gpt2", "");
    for (reward, says) in [
        ("{kind=\"model\",path=\"no-such-folder\"}".to_string(), "no-such-folder"),
        (format!("{{kind=\"model\",path={:?}}}", dir.path().to_str().unwrap()), "text"),
        (good.replace("label=0", "label=7"), "label"),
        (good.replace("max_length=16", "max_length=100000"), "max_length"),
        (good.replace("last_token", "cls"), "pooling"),
        (model("gpt2", ",architecture=\"bart\""), "model_type"),
        ("{kind=\"word_list\",file=\"no-such-list.txt\"}".into(), "no-such-list.txt"),
        (format!("{{kind=\"word_list\",file={:?}}}", words.to_str().unwrap()), "words.txt"),
    ] {
        let axes = format!(
            "evaluation.rewards=[{{name=\"broken\",ref_point=0.0,reward={reward}}},\
             {{name=\"b\",ref_point=0.0,reward={{kind=\"demo\",objective_idx=1}}}}]"
        );
        let e = refused(&tiny(&[&axes]), None);
        assert!(e.contains("`broken`") && e.contains(says), "{says}: {e}");
    }
    let axes = format!(
        "evaluation.rewards=[{{name=\"a\",ref_point=0.0,reward={good}}},\
         {{name=\"b\",ref_point=0.0,reward={{kind=\"demo\",objective_idx=1}}}}]"
    );
    tiny(&[&axes]).check_files(&local_directory, None).unwrap();
    let one = "evaluation.rewards=[{name=\"alone\",ref_point=0.0,\
               reward={kind=\"demo\",objective_idx=1}}]";
    assert!(refused(&tiny(&[one]), None).contains("has only `alone`"));
}

#[test]
fn models_that_no_memory_holds_are_refused_by_their_key() {
    let large = tiny(&["model.scratch.hidden_size=4096", "model.scratch.num_hidden_layers=40"]);
    let e = refused(&large, Some(4 << 30));
    assert!(e.contains("[model.scratch]") && e.contains("billion") && e.contains("GB"), "{e}");
    large.check_files(&local_directory, None).unwrap();
    let e = refused(&tiny(&["lora.rank=60000"]), Some(100 << 20));
    assert!(e.contains("`lora.rank`"), "{e}");
    // What fits is accepted.
    tiny(&[]).check_files(&local_directory, Some(16 << 20)).unwrap();
}

/// A finished run's base and tokenizer as a separate model, with 48 positions.
fn model() -> (tempfile::TempDir, PathBuf) {
    let (tmp, run) = finished(&["training.steps=1"]);
    std::fs::copy(run.join("tokenizer.json"), run.join("warm_start/tokenizer.json")).unwrap();
    let model = run.join("warm_start");
    (tmp, model)
}

#[test]
fn a_models_own_positions_count() {
    let (tmp, model) = model();
    let on = |model: &Path, more: &[&str]| {
        let set: Vec<String> =
            TINY.iter().chain(&["sft.steps=0"]).chain(more).map(|s| s.to_string()).collect();
        let parts = Replaced { model: Some(model), method: None };
        RunConfig::parse_replaced(preset_text("demo").unwrap(), "demo", &set, parts)
    };
    let with_model = |more: &[&str]| on(&model, more);
    // The shape that the model replaces is ignored: too few positions and nonsense do not matter.
    for shape in ["max_position_embeddings=3", "num_attention_heads=7", "hidden_size=100000000"] {
        let config = with_model(&[&format!("model.scratch.{shape}")]).unwrap();
        config.check_files(&local_directory, ROOMY).unwrap();
    }
    let config = with_model(&["data.max_response_tokens=25"]).unwrap();
    let e = refused(&config, None);
    assert!(e.contains("49 positions") && e.contains("config.json is 48"), "{e}");
    let config = with_model(&["evaluation.max_new_tokens=48"]).unwrap();
    assert!(refused(&config, None).contains("evaluation.max_new_tokens"));
    // In a run its tokenizer serves, elsewhere the model needs one of its own.
    std::fs::remove_file(model.join("tokenizer.json")).unwrap();
    with_model(&[]).unwrap().check_files(&local_directory, ROOMY).unwrap();
    let alone = tmp.path().join("alone");
    copy(&model, &alone);
    let e = refused(&on(&alone, &[]).unwrap(), None);
    assert!(e.contains("tokenizer.json"), "{e}");
}

/// The model with another number of positions, as models from elsewhere may have.
fn set_positions(model: &Path, from: usize, to: usize) {
    let path = model.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let line = |n: usize| format!("\"max_position_embeddings\": {n}");
    assert!(text.contains(&line(from)), "{text}");
    std::fs::write(&path, text.replace(&line(from), &line(to))).unwrap();
}

#[test]
fn pairs_and_prompts_beyond_the_positions_are_errors_before_the_first_step() {
    let (_tmp, of_run) = model();
    let dir = tempfile::tempdir().unwrap();
    // Not in its run, whose record says what it was.
    let model = dir.path().join("model");
    copy(&of_run, &model);
    for (name, positions, more, says) in [
        ("pairs", 8, &[][..], "pairs have more tokens"),
        ("answers", 47, &["evaluation.max_new_tokens=46"], "evaluation.max_new_tokens"),
    ] {
        let run = dir.path().join(name);
        let mut config = tiny(&[&["sft.steps=0"], more].concat());
        config.model.source = mopo_train::config::ModelSource::Hub(model.clone());
        config.tokenizer = mopo_train::config::TokenizerConfig::File(model.join("tokenizer.json"));
        set_positions(&model, 48, positions);
        new_run(&run, &config);
        let e = go_on(&run, &mut Silent).unwrap_err().to_string();
        assert!(e.contains(says) && e.contains(&format!("{positions}")), "{e}");
        assert!(!run.join("metrics.jsonl").exists() && !run.join("checkpoints").exists());
        set_positions(&model, positions, 48);
    }
}

#[test]
fn scores_that_the_data_lacks_are_missed_before_the_first_step() {
    let dir = tempfile::tempdir().unwrap();
    let axes = "evaluation.rewards=[{name=\"helpful\",ref_point=0.0,reward={kind=\"length\"}},\
                {name=\"brevity\",ref_point=0.0,reward={kind=\"length\",prefer=\"shorter\"}}]";
    let run = dir.path().join("run");
    new_run(&run, &tiny(&["evaluation.z_scores=labels", axes]));
    let e = go_on(&run, &mut Silent).unwrap_err().to_string();
    assert!(e.contains("evaluation.z_scores") && e.contains("brevity"), "{e}");
    assert!(!run.join("metrics.jsonl").exists());
}
