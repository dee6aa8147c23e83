//! Guards of a run: one writer, unchanged configuration and files, failed steps; and logs and
//! checkpoints of finished phases that may be missing.

use std::fs;

use mopo_train::{Error, Progress, Sampler, Silent, train};

use super::resume::cut;
use super::*;

/// What remains of a finished run as if it had been killed after step 6 of 8.
fn cut_back(run: &Path) {
    fs::remove_file(run.join("result.json")).unwrap();
    fs::remove_dir_all(run.join("policy")).unwrap();
    fs::remove_dir_all(run.join("checkpoints/mopo-step-000008")).unwrap();
    assert!(run.join("checkpoints/mopo-step-000006").is_dir());
}

#[test]
fn a_run_is_trained_by_one_process_at_a_time() {
    let (_tmp, path) = finished(&[]);
    cut_back(&path);
    let (run, config, mut record) = RunDir::open(&path).unwrap();
    let held = run.locked().unwrap();
    let (_, e) = message(go_on(&path, &mut Silent));
    assert!(e.contains(&format!("process {}", std::process::id())) && e.contains("since"), "{e}");
    // The holder itself continues, and the lock is free afterwards.
    {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let device = Default::default();
        train::<TestAutodiffBackend>(
            &held,
            &config,
            &mut record,
            None,
            &Solo,
            &device,
            &mut Silent,
        )
        .unwrap();
    }
    assert!(run.locked().is_err());
    drop(held);
    run.locked().unwrap();
}

#[test]
fn what_the_result_depends_on_is_known_again() {
    let (tmp, whole) = finished(&[]);
    let files = [
        "warm_start/model.safetensors",
        "warm_start/config.json",
        "initial_log_probs.safetensors",
        "data/heldout.jsonl",
    ];
    for (i, name) in files.iter().enumerate() {
        let run = tmp.path().join(i.to_string());
        copy(&whole, &run);
        cut_back(&run);
        flip(&run.join(name));
        let (_, e) = message(go_on(&run, &mut Silent));
        assert!(e.contains(name) && e.contains("SHA-256"), "{e}");
    }
    // A finished run's policies and base, for all commands that read them.
    let tokens = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"];
    for name in ["policy/heads.safetensors", "policy/policy.json", files[0]].iter().chain(&tokens) {
        let run = tmp.path().join(name.replace('/', "-"));
        copy(&whole, &run);
        let load = || {
            let (dir, config, _) = RunDir::open(&run).unwrap();
            let device = Default::default();
            type Inner = mopo_testkit::TestBackend;
            Sampler::<Inner>::load(&dir, &config, &device).map(drop)
        };
        load().unwrap();
        flip(&run.join(name));
        let e = load().unwrap_err().to_string();
        assert!(e.contains(name) && e.contains("SHA-256"), "{e}");
    }
    // Missing initial log-probs are computed again.
    let run = tmp.path().join("gone");
    copy(&whole, &run);
    cut_back(&run);
    fs::remove_file(run.join("initial_log_probs.safetensors")).unwrap();
    go_on(&run, &mut Silent).unwrap();
    assert_same_artefacts(&whole, &run);
}

#[test]
fn a_finished_phase_of_which_a_file_is_missing_is_refused_by_it() {
    let (tmp, whole) = finished(&[]);
    for name in ["warm_start/model.safetensors", "policy/heads.safetensors", "data/heldout.jsonl"] {
        for is_folder in [false, true] {
            let run = tmp.path().join("run-without");
            copy(&whole, &run);
            fs::remove_file(run.join("result.json")).unwrap();
            fs::remove_file(run.join(name)).unwrap();
            if is_folder {
                fs::create_dir(run.join(name)).unwrap();
            }
            let (_, e) = message(go_on(&run, &mut Silent));
            let reason = if is_folder { "cannot be read" } else { "missing" };
            assert!(e.contains(name) && e.contains(reason) && e.contains("restore"), "{e}");
            fs::remove_dir_all(&run).unwrap();
        }
    }
}

#[test]
fn a_model_that_changed_before_it_was_learnt_from_is_refused() {
    let (tmp, whole) = finished(&[]);
    let model = tmp.path().join("model");
    copy(&whole.join("warm_start"), &model);
    let config = tiny(&[&format!("model.hub={}", model.display())]);
    let run = tmp.path().join("another");
    new_run(&run, &config);
    // No checkpoint has its weights yet.
    cut(&run, "warm_start", 1);
    assert!(!run.join("checkpoints").exists());
    let weights = fs::read(model.join("model.safetensors")).unwrap();
    flip(&model.join("model.safetensors"));
    let (_, e) = message(go_on(&run, &mut Silent));
    assert!(e.contains("model/model.safetensors") && e.contains("began with"), "{e}");
    fs::rename(&model, tmp.path().join("moved")).unwrap();
    let (_, e) = message(go_on(&run, &mut Silent));
    assert!(e.contains("`model.hub`"), "{e}");
    fs::rename(tmp.path().join("moved"), &model).unwrap();
    fs::write(model.join("model.safetensors"), weights).unwrap();
    go_on(&run, &mut Silent).unwrap();
    // Afterwards it is no longer needed.
    fs::remove_dir_all(&model).unwrap();
    cut_back(&run);
    go_on(&run, &mut Silent).unwrap();
}

#[test]
fn an_edited_evaluation_is_checked_before_training_goes_on() {
    let (_tmp, path) = finished(&[]);
    cut_back(&path);
    let config = fs::read_to_string(path.join("config.toml")).unwrap();
    let edited = config.replacen("max_new_tokens = 8", "max_new_tokens = 40", 1);
    assert_ne!(edited, config);
    fs::write(path.join("config.toml"), edited).unwrap();
    let log = fs::read(path.join("metrics.jsonl")).unwrap();
    let (_, e) = message(go_on(&path, &mut Silent));
    assert!(e.contains("max_new_tokens"), "{e}");
    assert_eq!(fs::read(path.join("metrics.jsonl")).unwrap(), log);
    fs::write(path.join("config.toml"), config).unwrap();
    go_on(&path, &mut Silent).unwrap();
}

#[test]
fn a_run_of_an_earlier_version_resumes_and_is_guarded_from_then_on() {
    let (_tmp, path) = finished(&[]);
    let whole = path.with_file_name("whole");
    copy(&path, &whole);
    cut_back(&path);
    let record = path.join("run.json");
    let mut old: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    old.remove("config").unwrap();
    old.remove("checkpoints").unwrap();
    let hashes = old["hashes"].as_object_mut().unwrap();
    hashes.retain(|name, _| name.starts_with("data/") || name == "tokenizer.json");
    assert_eq!(hashes.len(), 3);
    fs::write(&record, serde_json::to_vec(&old).unwrap()).unwrap();
    cut(&path, "mopo", 1);
    let broken = path.with_file_name("broken");
    copy(&path, &broken);
    go_on(&path, &mut Silent).unwrap();
    assert_same_artefacts(&whole, &path);
    flip(&broken.join("warm_start/model.safetensors"));
    assert!(message(go_on(&broken, &mut Silent)).1.contains("SHA-256"));
}

#[test]
fn a_finished_phase_needs_nothing_of_its_checkpoints() {
    let (_tmp, path) = finished(&[]);
    let whole = path.with_file_name("whole");
    copy(&path, &whole);
    // Damaged, and before the first checkpoint of the method.
    for before_the_method in [false, true] {
        cut_back_to(&whole, &path, before_the_method);
        for entry in fs::read_dir(path.join("checkpoints")).unwrap() {
            let dir = entry.unwrap().path();
            if dir.file_name().unwrap().to_str().unwrap().starts_with("warm_start-") {
                fs::write(dir.join("base.bin"), "damaged").unwrap();
                fs::write(dir.join("state.json"), "damaged").unwrap();
            }
        }
        go_on(&path, &mut Silent).unwrap();
        assert_same_artefacts(&whole, &path);
    }
}

fn cut_back_to(whole: &Path, path: &Path, before_the_method: bool) {
    fs::remove_dir_all(path).unwrap();
    copy(whole, path);
    cut_back(path);
    if before_the_method {
        fs::remove_dir_all(path.join("checkpoints/mopo-step-000006")).unwrap();
    }
}

#[test]
fn a_log_that_is_missing_or_damaged_changes_no_bit() {
    let (_tmp, path) = finished(&[]);
    let whole = path.with_file_name("whole");
    copy(&path, &whole);
    let log = path.join("metrics.jsonl");
    let bytes = fs::read(&log).unwrap();
    let mut damaged = bytes.clone();
    damaged[30] = 0xff;
    for (content, words) in [
        (None, "rows are missing"),
        (Some(&bytes[..100]), "rows are missing"),
        (Some(&damaged[..]), "unreadable lines"),
    ] {
        cut_back_to(&whole, &path, false);
        match content {
            Some(content) => fs::write(&log, content).unwrap(),
            None => fs::remove_file(&log).unwrap(),
        }
        let mut notes = Notes::default();
        let result = go_on(&path, &mut notes).unwrap();
        assert!(notes.0.iter().any(|n| n.contains(words)), "{words}: {:?}", notes.0);
        let policy = |run: &Path| policy_values(run);
        assert_eq!(policy(&whole), policy(&path));
        // Over the rows that exist: at least steps 6 and 7.
        assert!(result.last_steps >= 2 && result.constraints.len() == 6);
    }
}

#[test]
fn a_step_that_is_not_finite_ends_the_run_for_good() {
    for (set, phase) in [
        (&["training.learning_rate=1e30", "training.max_grad_norm=0"][..], "mopo"),
        (&["sft.learning_rate=1e30", "sft.max_grad_norm=0"], "warm_start"),
    ] {
        let tmp = tempfile::tempdir().unwrap();
        let run = tmp.path().join("run");
        new_run(&run, &tiny(&[&["checkpoints.save_steps=1"], set].concat()));
        let stopped = |result| {
            let (error, text) = message(result);
            let Error::NonFinite { phase: found, step, value, .. } = error else {
                panic!("{text}");
            };
            assert!(found == phase && !value.is_finite(), "{text}");
            assert!(text.contains("cannot continue") && !text.contains("intact"), "{text}");
            assert!(text.contains("smaller learning rate"), "{text}");
            (step, text)
        };
        let first = stopped(go_on(&run, &mut Silent));
        let log = fs::read(run.join("metrics.jsonl")).unwrap();
        assert_eq!(stopped(go_on(&run, &mut Silent)), first);
        assert_eq!(fs::read(run.join("metrics.jsonl")).unwrap(), log);
        assert!(!run.join("result.json").exists());
        // Another version may try.
        let record = run.join("run.json");
        let text = fs::read_to_string(&record).unwrap();
        let version = format!("\"mopo_version\": \"{}\"", env!("CARGO_PKG_VERSION"));
        assert!(text.matches(&version).count() == 2, "{text}");
        let other = text.replace(&version, "\"mopo_version\": \"0.0.1\"");
        fs::write(&record, &other).unwrap();
        let e = message(go_on(&run, &mut Silent)).1;
        assert!(e.contains("run.json") && e.contains("was changed"), "{e}");
        let (unsealed, _) = other.rsplit_once(",\n  \"sha256\": ").unwrap();
        fs::write(&record, format!("{unsealed}\n}}")).unwrap();
        assert_eq!(stopped(go_on(&run, &mut Silent)).0, first.0);
    }
}

#[test]
fn a_run_directory_that_is_removed_while_it_is_trained_is_not_made_again() {
    /// Removes the run at a step.
    struct Remove<'a>(&'a Path, usize);
    impl Progress for Remove<'_> {
        fn advance(&mut self, _: u64, _: &str) {
            self.1 += 1;
            if self.1 == 3 {
                fs::remove_dir_all(self.0).unwrap();
            }
        }
    }
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &tiny(&[]));
    let (_, e) = message(go_on(&run, &mut Remove(&run, 0)));
    assert!(e.contains("removed or replaced"), "{e}");
    assert!(!run.exists());
}
