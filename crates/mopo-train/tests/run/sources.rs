//! Several data sources mixed by weight, and training pairs that stay on disk.

use std::fs;
use std::path::{Path, PathBuf};

use mopo_core::Objectives;
use mopo_data::demo::{self, DemoConfig};
use mopo_data::{PreferenceRecord, PreparedSet, Scores};
use mopo_train::config::{Replaced, preset_text};
use mopo_train::{RunConfig, RunDir, RunRecord, Silent};
use serde_json::Value;

use super::{TINY, assert_same_artefacts, go_on, metric, new_run, resume, room_for_notes};

/// A part of the demo world with only some of its objectives, in this order.
fn set(dir: &Path, name: &str, seed: u64, objectives: &[&str]) -> PathBuf {
    let world = demo::generate(&DemoConfig { seed, n_prompts: 30, ..DemoConfig::default() });
    let world = world.unwrap();
    let all = world.header.objectives.clone();
    let places: Vec<usize> = objectives.iter().map(|name| all.index_of(name).unwrap()).collect();
    let only = |record: PreferenceRecord| {
        let of = |row: &[f32]| places.iter().map(|&k| row[k]).collect();
        PreferenceRecord {
            indicators: places.iter().map(|&k| record.indicators[k]).collect(),
            scores: record
                .scores
                .as_ref()
                .map(|scores| Scores { first: of(&scores.first), second: of(&scores.second) }),
            ..record
        }
    };
    let records: Vec<PreferenceRecord> = world.records.into_iter().map(only).collect();
    let names = Objectives::new(objectives.iter().copied()).unwrap();
    let path = dir.join(name);
    PreparedSet::new(names, None, vec![], vec![], records).unwrap().write(&path).unwrap();
    path
}

fn sources(parts: &[(&Path, f64)]) -> String {
    let part = |(path, weight): &(&Path, f64)| format!("{{path={path:?},weight={weight}}}");
    format!("data.sources=[{}]", parts.iter().map(part).collect::<Vec<_>>().join(","))
}

fn config(method: &str, more: &[&str]) -> mopo_train::Result<RunConfig> {
    let prepared = ["data.source=prepared"];
    let set = TINY.iter().chain(&prepared).chain(room_for_notes(method)).chain(more).copied();
    let set: Vec<String> = set.map(ToString::to_string).collect();
    let parts = Replaced { method: Some(method), model: None };
    RunConfig::parse_replaced(preset_text("demo").unwrap(), "demo", &set, parts)
}

fn run_of(dir: &Path, name: &str, config: &RunConfig) -> PathBuf {
    let run = dir.join(name);
    new_run(&run, config);
    go_on(&run, &mut Silent).unwrap();
    run
}

/// The header and the records of a run's training pairs.
fn rows(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("data/train.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn sets_with_different_objectives_are_mixed_by_weight() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let a = set(dir, "a.jsonl", 1, &["helpful", "harmless"]);
    let b = set(dir, "b.jsonl", 2, &["humor", "harmless"]);
    let with = |weights: [f64; 2], method: &str, more: &[&str]| {
        let mixed = sources(&[(&a, weights[0]), (&b, weights[1])]);
        config(method, &[&[mixed.as_str(), "training.steps=6"], more].concat()).unwrap()
    };
    let mopo = ["policies=[\"helpful\",\"harmless\",\"humor\"]"];
    let config_a = with([3.0, 1.0], "mopo", &mopo);
    let run = run_of(dir, "mopo", &config_a);
    let rows = rows(&run);
    assert_eq!(rows[0]["objectives"], serde_json::json!(["helpful", "harmless", "humor"]));
    let of = |set: &'static str| {
        let is_of = move |row: &&Value| row["id"].as_str().unwrap().starts_with(set);
        rows[1..].iter().filter(is_of)
    };
    assert!(of("1:").all(|row| row["indicators"][2].is_null() && !row["indicators"][0].is_null()));
    assert!(of("2:").all(|row| row["indicators"][0].is_null() && !row["indicators"][2].is_null()));
    // Scores would have to be those of all three.
    assert!(rows[1..].iter().all(|row| row.get("scores").is_none()));
    let record = fs::read_to_string(run.join("data/mixture.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["sources"][1]["train"], of("2:").count());

    // Cut off and resumed, it has the same batches.
    let again = dir.join("again");
    new_run(&again, &config_a);
    resume::cut(&again, "mopo", 3);
    resume::cut(&again, "mopo", 2);
    go_on(&again, &mut Silent).unwrap();
    assert_same_artefacts(&run, &again);
    // Other weights, other batches.
    let other = run_of(dir, "other", &with([1.0, 3.0], "mopo", &mopo));
    assert_ne!(metric(&run, "mopo", "loss"), metric(&other, "mopo", "loss"));

    // A method that only one of the sets has labels for is trained on that one.
    let dpo = run_of(dir, "dpo", &with([3.0, 1.0], "dpo", &["dpo.objective=humor"]));
    let only = run_of(dir, "only", &{
        let set = ["dpo.objective=humor", "training.steps=6", "policies=[\"humor\"]"];
        let mixed = sources(&[(&b, 1.0)]);
        config("dpo", &[&[mixed.as_str()], &set[..]].concat()).unwrap()
    });
    // The base is another, being trained on both sets; but the numbers of decided pairs are those of set b.
    assert_eq!(
        metric(&dpo, "dpo", "decided_pairs").len(),
        metric(&only, "dpo", "decided_pairs").len()
    );
    let mut changed = fs::read_to_string(dpo.join("data/mixture.json")).unwrap();
    changed = changed.replace("\"train\": ", "\"train\": 1");
    fs::write(dpo.join("data/mixture.json"), changed).unwrap();
    fs::remove_file(dpo.join("result.json")).unwrap();
    let error = go_on(&dpo, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("mixture.json") && error.contains("SHA-256"), "{error}");
}

#[test]
fn pairs_on_disk_train_the_same_bits_as_pairs_in_memory() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let all = ["helpful", "harmless", "humor"];
    let a = set(dir, "a.jsonl", 1, &all);
    let b = set(dir, "b.jsonl", 2, &["harmless", "humor"]);
    let mixed = sources(&[(&a, 2.0), (&b, 1.0)]);
    let tokenizer = run_of(dir, "first", &config("dpo", &[&mixed, "training.steps=1"]).unwrap());
    let file = format!("tokenizer.file={:?}", tokenizer.to_str().unwrap());
    let policies = "policies=[\"helpful\",\"harmless\",\"humor\"]";
    let cases = [
        // Means over equal responses, and weights by prompt, need more of a pair than its tokens.
        (
            "mopo",
            &[
                policies,
                "mopo.indicator_estimator=action",
                "mopo.weight_normalization=prompt",
                "mopo.reference_lag=3",
            ][..],
        ),
        (
            "mopo",
            &[
                policies,
                "mopo.indicator_estimator=pair",
                "mopo.extraction=pairwise",
                "adapters=per_policy",
            ],
        ),
        ("ipo", &["ipo.objective=humor", "ipo.length_normalized=true"]),
        ("sacpo", &["sacpo.order=[\"humor\",\"harmless\"]", "sacpo.betas=[0.1,0.1]"]),
    ];
    // Methods that write into prompts, or answer them, need texts as well, and the first recorded scores.
    let scored = sources(&[(&a, 1.0)]);
    let two = "policies=[\"helpful\",\"harmless\"]";
    let fresh = "mopo.fresh={prompts=4,answers=2,max_new_tokens=8}";
    // By which answers of an untrained model differ.
    let axis = |(name, target): (&str, usize)| {
        let reward = format!("{{kind=\"length\",unit=\"characters\",target={target}}}");
        format!("{{name={name:?},ref_point=-100.0,reward={reward}}}")
    };
    let axes = [("helpful", 5), ("harmless", 40), ("humor", 12)].map(axis).join(",");
    let rewards = format!("evaluation.rewards=[{axes}]");
    let rewards = rewards.as_str();
    let with_texts = [
        ("ric", &[two][..]),
        ("dpa", &[two]),
        ("ppo", &["ppo.max_new_tokens=8", rewards]),
        ("grpo", &["grpo.max_new_tokens=8", "grpo.group_size=2", rewards]),
        (
            "mopo",
            &[policies, "mopo.indicator_estimator=pair", "mopo.reference_lag=2", fresh, rewards],
        ),
    ];
    let cases = cases.map(|(method, more)| (method, &mixed, more)).into_iter();
    let with_texts = with_texts.map(|(method, more)| (method, &scored, more));
    for (i, (method, data, more)) in cases.chain(with_texts).enumerate() {
        let base = [data.as_str(), &file, "training.steps=6"];
        let plain = config(method, &[&base[..], more].concat()).unwrap();
        let streamed =
            config(method, &[&base[..], more, &["data.streaming=true"]].concat()).unwrap();
        let name = format!("{method}-{i}");
        let memory = run_of(dir, &format!("{name}-memory"), &plain);
        let disk = dir.join(format!("{name}-disk"));
        new_run(&disk, &streamed);
        resume::cut(&disk, method, 3);
        go_on(&disk, &mut Silent).unwrap();
        for file in ["data/train.jsonl", "data/heldout.jsonl", "data/summary.txt", "tokenizer.json"]
        {
            let read = |run: &Path| fs::read(run.join(file)).unwrap();
            assert!(read(&memory) == read(&disk), "{method}: {file}");
        }
        assert_same_artefacts(&memory, &disk);
    }
}

#[test]
fn what_cannot_be_mixed_or_stay_on_disk_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let a = set(dir, "a.jsonl", 1, &["helpful", "harmless", "humor"]);
    let of = |weight: f64| sources(&[(&a, weight)]);
    let file = format!("tokenizer.file={dir:?}");
    let streamed = ["data.streaming=true", file.as_str()];
    let one = of(1.0);
    for (method, more, words) in [
        ("dpo", &[of(0.0).as_str()][..], "must be a number above 0"),
        ("dpo", &[of(f64::INFINITY).as_str()], "data.sources"),
        ("dpo", &[&one, "data.max_pairs=4"], "`data.max_pairs` does not apply"),
        ("dpo", &[&one, "data.source=demo"], "set data.source=prepared"),
        ("dpo", &[&one, "data.streaming=true"], "`tokenizer.vocab_size` trains a tokenizer"),
        ("dpo", &[streamed[0], streamed[1], "data.source=demo"], "the demo world"),
    ] {
        let error = config(method, more).unwrap_err().to_string();
        assert!(error.contains(words), "{more:?}: {error}");
    }
    let given = config("dpo", &[&one]).unwrap();
    let error = mopo_train::check_data_path(&given, Some(&a)).unwrap_err().to_string();
    assert!(error.contains("omit --data"), "{error}");

    let started = |config: &RunConfig| {
        let run = dir.join("run");
        let _ = fs::remove_dir_all(&run);
        let mut record = RunRecord::new("test".into(), config.seed, None, false).unwrap();
        RunDir::create(&run, config, &mut record).unwrap();
        go_on(&run, &mut Silent).unwrap_err().to_string()
    };
    let gone = sources(&[(&a, 1.0), (&dir.join("none.jsonl"), 1.0)]);
    let error = started(&config("dpo", &[&gone]).unwrap());
    assert!(error.contains("none.jsonl"), "{error}");
    // All of a set's prompts are held out.
    let set = PreparedSet::read(&a).unwrap();
    let held = |record: &PreferenceRecord| mopo_data::unit_interval(0, &record.prompt) < 0.3;
    let records: Vec<PreferenceRecord> = set.records.into_iter().filter(held).take(2).collect();
    let few = dir.join("few.jsonl");
    let set = PreparedSet::new(set.header.objectives, None, vec![], vec![], records).unwrap();
    set.write(&few).unwrap();
    let mixed = sources(&[(&a, 1.0), (&few, 1.0)]);
    let error = started(&config("dpo", &[&mixed, "data.heldout_fraction=0.3"]).unwrap());
    assert!(error.contains("few.jsonl has no training pair left"), "{error}");
}
