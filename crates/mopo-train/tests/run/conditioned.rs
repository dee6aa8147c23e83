//! Policies that are told in the prompt what to aim at: RiC and DPA.

use std::path::Path;

use mopo_data::with_note;
use mopo_lm::{GenerationConfig, HeadChoice};
use mopo_testkit::TestBackend;
use mopo_train::config::{Replaced, preset_text};
use mopo_train::{ExportChoice, ExportSource, RunConfig, RunDir, Sampler, Silent};
use serde_json::Value;

use super::{assert_resumable, finished_with, go_on, message, metric, new_run, tiny_method};

const PROMPTS: usize = 5;

fn prompts() -> Vec<String> {
    (0..PROMPTS).map(|i| format!("\n\nHuman: What about {i}?\n\nAssistant:")).collect()
}

fn sampler(run: &Path) -> Sampler<TestBackend> {
    Sampler::open(run, &Default::default()).unwrap()
}

fn answers(sampler: &Sampler<TestBackend>, head: HeadChoice, prompts: &[String]) -> Vec<String> {
    let settings = GenerationConfig { max_new_tokens: 8, temperature: 0.0, ..Default::default() };
    sampler.answer(head, prompts, &settings, &mut Silent).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Enough steps that the prompt's note matters.
fn trained(kind: &str, more: &[&str]) -> RunConfig {
    tiny_method(kind, &[&["training.steps=30", "training.learning_rate=2e-2"], more].concat())
}

#[test]
fn scores_of_the_training_set_become_targets() {
    let (_tmp, run) = finished_with(&trained("ric", &[]));
    let loss = metric(&run, "ric", "loss");
    assert!(loss.last() < loss.first(), "{loss:?}");
    let told = json(&run.join("policy/conditioning.json"));
    assert_eq!(told["objectives"], serde_json::json!(["helpful", "harmless", "humor"]));
    for k in 0..3 {
        let [low, high] = [0, 1].map(|i| told["aim"]["scores"]["range"][k][i].as_f64().unwrap());
        assert!(low < -3.4 && high > 3.4);
        assert!(told["aim"]["scores"]["statistics"][k]["std"].as_f64().unwrap() > 0.0);
    }
    // A held-out accuracy for each objective's own aim.
    assert_eq!(json(&run.join("result.json"))["policies"].as_array().unwrap().len(), 3);

    let sampler = sampler(&run);
    assert_eq!(sampler.policies(), ["helpful", "harmless", "humor"]);
    let corner = answers(&sampler, HeadChoice::Policy(1), &prompts());
    let weights = HeadChoice::Mixture(vec![0.0, 1.0, 0.0]);
    assert_eq!(answers(&sampler, weights, &prompts()), corner);
    // What it is told is text in the prompt and nothing else.
    let aimed: Vec<(String, f64)> =
        ["helpful", "harmless", "humor"].map(|name| (name.to_string(), 1.5)).to_vec();
    let aimed = Sampler::<TestBackend>::open(&run, &Default::default()).unwrap().aimed_at(&aimed);
    let told = answers(&aimed.unwrap(), HeadChoice::Policy(0), &prompts());
    let note = "<rm1_score> 1.5 <rm2_score> 1.5 <rm3_score> 1.5";
    let noted: Vec<String> = prompts().iter().map(|prompt| with_note(prompt, note)).collect();
    std::fs::remove_file(run.join("policy/conditioning.json")).unwrap();
    let e = Sampler::<TestBackend>::open(&run, &Default::default()).unwrap_err().to_string();
    assert!(e.contains("conditioning.json"), "{e}");
    let record = run.join("run.json");
    let mut hashes = json(&record);
    hashes["hashes"].as_object_mut().unwrap().remove("policy/conditioning.json");
    std::fs::write(&record, hashes.to_string()).unwrap();
    let plain = Sampler::<TestBackend>::open(&run, &Default::default()).unwrap();
    assert_eq!(answers(&plain, HeadChoice::Policy(0), &noted), told);
}

/// The note has room of its own, so that the question is read.
#[test]
fn the_question_stays_beside_what_is_told() {
    let (_tmp, run) = finished_with(&trained("ric", &[]));
    let sampler = sampler(&run);
    let settings = GenerationConfig { max_new_tokens: 8, temperature: 1.0, ..Default::default() };
    let answers = |prompts: &[String]| {
        let head = HeadChoice::Policy(0);
        sampler.answer(head, prompts, &settings, &mut Silent).unwrap()
    };
    let question = |what: &str| vec![format!("\n\nHuman: {what}?\n\nAssistant:")];
    let (tea, bread) = (answers(&question("Tea")), answers(&question("Bread")));
    assert_ne!(tea, bread);
    // Cut at the left like a prompt without a note: what is before the last 24 tokens is not read.
    let long = |what: &str| question(&format!("{what} {}", "and so on ".repeat(30)));
    assert_eq!(answers(&long("Tea")), answers(&long("Bread")));
    // Where it leaves no room for an answer, the run says so before it begins.
    let short = tiny_method("ric", &["model.scratch.max_position_embeddings=64"]);
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &short);
    let e = message(go_on(&run, &mut Silent)).1;
    assert!(e.contains("data.max_prompt_tokens") && e.contains("what the method tells"), "{e}");
}

#[test]
fn observed_ranges_and_other_maps_are_kept_with_the_run() {
    let set =
        ["ric.target_range=observed", "ric.targets=linear", "policies=[\"humor\", \"helpful\"]"];
    let (_tmp, run) = finished_with(&tiny_method("ric", &set));
    let told = json(&run.join("policy/conditioning.json"));
    let scores = &told["aim"]["scores"];
    assert_eq!((&told["objectives"][0], &scores["map"]), (&"humor".into(), &"linear".into()));
    assert!(scores["range"][0][1].as_f64().unwrap() < 3.4);
    let e = sampler(&run).aimed_at(&[("humor".into(), 3.9), ("helpful".into(), 0.0)]);
    assert!(e.unwrap_err().to_string().contains("outside"));
}

#[test]
fn runs_with_conditioned_prompts_resume_and_export() {
    assert_resumable(&tiny_method("ric", &["training.batch_size=4"]));
    // Room for whole prompts: an export knows no limit.
    let room = ["model.scratch.max_position_embeddings=192", "data.max_prompt_tokens=100"];
    let set = ["training.batch_size=4", "dpa.train_head=true"];
    let config = tiny_method("dpa", &[room, set].concat());
    assert_resumable(&config);
    let (tmp, run) = finished_with(&config);
    let out = tmp.path().join("export");
    let source = ExportSource::open(&run).unwrap();
    source
        .export::<TestBackend>(ExportChoice::All, None, &out, false, &Default::default())
        .unwrap();
    let (own, exported) = (sampler(&run), sampler(&out));
    assert!(exported.is_conditioned());
    let half = HeadChoice::Mixture(vec![0.5, 0.5, 0.0]);
    let longer = [8, 16].map(|_| prompts()).concat();
    assert_eq!(answers(&own, half.clone(), &longer), answers(&exported, half, &longer));
    let settings = GenerationConfig::default();
    let e = own.answer(HeadChoice::WorstCase, &prompts(), &settings, &mut Silent).unwrap_err();
    assert!(e.to_string().contains("one policy"), "{e}");
    let e = own.aimed_at(&[]).unwrap_err().to_string();
    assert!(e.contains("--weights"), "{e}");
}

#[test]
fn what_conditioned_prompts_cannot_do_is_refused() {
    let parse = |method: &str, set: &str| {
        let parts = Replaced { method: Some(method), model: None };
        let text = preset_text("demo").unwrap();
        RunConfig::parse_replaced(text, "demo", &[set.into()], parts).unwrap_err().to_string()
    };
    for method in ["ric", "dpa"] {
        let e = parse(method, "policies=[\"helpful\"]");
        assert!(e.contains("at least two"), "{e}");
    }
    let e = parse("ric", "ric.targets=l3");
    assert!(e.contains("ric.targets") && e.contains("linf"), "{e}");

    let (tmp, told) = finished_with(&tiny_method("dpa", &[]));
    let runs = format!("rewarded_soups.runs={{a=\"{0}\", b=\"{0}\"}}", told.display());
    let run = tmp.path().join("soup");
    new_run(&run, &tiny_method("rewarded_soups", &[&runs]));
    let e = message(go_on(&run, &mut Silent)).1;
    assert!(e.contains("rewarded_soups.runs.a") && e.contains("conditioned by its prompts"), "{e}");
    // Objectives that the data does not have.
    let run = tmp.path().join("other");
    new_run(&run, &tiny_method("ric", &["policies=[\"helpful\", \"kind\"]"]));
    let e = message(go_on(&run, &mut Silent)).1;
    assert!(e.contains("kind"), "{e}");
    assert!(RunDir::open(&run).is_ok());
}

/// Rounds whose rewards differ by answer, unlike the demo's on an untrained model.
fn online(method: &str, answers: usize) -> RunConfig {
    let axis = |name: &str, target: usize| {
        format!(
            "{{name={name:?},ref_point=-100.0,reward={{kind=\"length\",unit=\"characters\",target={target}}}}}"
        )
    };
    let rewards = format!("evaluation.rewards=[{},{}]", axis("helpful", 5), axis("harmless", 40));
    let rounds = format!(
        "{method}.online={{rounds=2,share=0.5,prompts=6,answers={answers},temperature=1.0,max_new_tokens=8}}"
    );
    let policies = "policies=[\"helpful\", \"harmless\"]";
    tiny_method(method, &["training.batch_size=4", policies, &rewards, &rounds])
}

#[test]
fn online_rounds_learn_from_own_answers_and_resume() {
    for (method, answers) in [("ric", 1), ("dpa", 3)] {
        let config = online(method, answers);
        assert_resumable(&config);
        let (_tmp, run) = finished_with(&config);
        let rows: Vec<_> =
            super::metrics(&run).into_iter().filter(|row| row["phase"] == method).collect();
        // Eight steps, the last four in two rounds: answers are drawn at the first step of each.
        let sampled: Vec<bool> = rows.iter().map(|row| row.contains_key("kept_answers")).collect();
        assert_eq!(sampled, [false, false, false, false, true, false, true, false], "{method}");
        assert!(rows[4]["helpful/score"].as_f64().unwrap().is_finite());
        if method == "dpa" {
            let kept = rows[4]["kept_answers"].as_f64().unwrap();
            assert!((kept - 1.0 / 3.0).abs() < 1e-9, "the best of three: {kept}");
        }
    }
}

#[test]
fn online_rounds_need_a_reward_for_each_objective() {
    let set =
        "ric.online={rounds=0,share=0.5,prompts=6,answers=1,temperature=1.0,max_new_tokens=8}";
    let parse = |set: &str| {
        let parts = Replaced { method: Some("ric"), model: None };
        let text = preset_text("demo").unwrap();
        RunConfig::parse_replaced(text, "demo", &[set.into()], parts)
    };
    let e = parse(set).unwrap_err().to_string();
    assert!(e.contains("ric.online.rounds"), "{e}");
    let mut config = parse(&set.replace("rounds=0", "rounds=1")).unwrap();
    config.evaluation.rewards.retain(|axis| axis.name != "humor");
    let e = config.check_rewards().unwrap_err().to_string();
    assert!(e.contains("`policies`") && e.contains("humor"), "{e}");
}
