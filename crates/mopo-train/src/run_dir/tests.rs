//! Detection of changed runs, and cleanup of failed starts.

use super::*;

fn record() -> RunRecord {
    RunRecord::new("test".into(), 0, None, false).unwrap()
}

fn new_run(path: &Path) -> RunDir {
    RunDir::create(path, &RunConfig::preset("demo").unwrap(), &mut record()).unwrap()
}

/// Replaces the first key that begins with `begin`, and its value.
fn edit(run: &Path, begin: &str, line: &str) {
    let path = run.join(CONFIG);
    let text = fs::read_to_string(&path).unwrap();
    let start = text.find(&format!("\n{begin}")).unwrap() + 1;
    // A list spans several lines.
    let end = match text[start..].split('\n').next().unwrap().ends_with('[') {
        true => text[start..].find("\n]").unwrap() + 2,
        false => text[start..].find('\n').unwrap(),
    };
    fs::write(&path, [&text[..start], line, &text[start + end..]].concat()).unwrap();
}

#[test]
fn a_key_that_was_changed_is_named_with_both_values() {
    for (begin, line, words) in [
        ("tau =", "tau = 0.3", ["mopo.tau", "0.3"]),
        ("seed =", "seed = 77", ["seed", "77"]),
        ("policies =", "policies = [\"helpful\"]", ["policies", "[\"helpful\"]"]),
        ("rank =", "rank = 3", ["lora.rank", "3"]),
        ("save_total_limit =", "save_total_limit = 9", ["checkpoints.save_total_limit", "9"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        new_run(&path);
        RunDir::open(&path).unwrap();
        edit(&path, begin, line);
        let error = RunDir::open(&path).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(error.contains(CONFIG) && error.contains("started with"), "{error}");
    }
}

#[test]
fn what_means_the_same_is_no_change_and_evaluation_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    new_run(&path);
    // A key's former name, another notation of a number, a comment.
    let text = fs::read_to_string(path.join(CONFIG)).unwrap();
    let text = text.replace("batch_size", "batch_pairs").replace("[sft]", "# SFT\n[warm_start]");
    assert!(text.contains("batch_pairs"));
    fs::write(path.join(CONFIG), text).unwrap();
    RunDir::open(&path).unwrap();
    edit(&path, "max_new_tokens =", "max_new_tokens = 3");
    let (_, config, _) = RunDir::open(&path).unwrap();
    assert_eq!(config.evaluation.max_new_tokens, 3);
}

#[test]
fn what_a_killed_process_left_in_a_finished_run_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    drop(new_run(&path));
    let (run, ..) = RunDir::open(&path).unwrap();
    run.tidy();
    fs::write(path.join(LOCK_FILE), "{}").unwrap();
    run.tidy();
    assert!(!path.join(LOCK_FILE).exists());
    // Not that of a process that is there.
    let lock = DirLock::acquire(&path).unwrap();
    run.tidy();
    assert!(path.join(LOCK_FILE).exists());
    drop(lock);
}

#[test]
fn a_base_of_a_run_is_compared_with_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let run = new_run(&path);
    let base = run.join("warm_start");
    fs::create_dir(&base).unwrap();
    RunDir::check_origin(&base).unwrap();
    let mut record = RunRecord::read(&run.join(RECORD)).unwrap();
    for name in ["warm_start/config.json", "tokenizer_config.json"] {
        run.write(name, b"{}").unwrap();
        record.add_file(&run, name).unwrap();
    }
    run.write_record(&record).unwrap();
    RunDir::check_origin(&base).unwrap();
    for name in ["warm_start/config.json", "tokenizer_config.json"] {
        run.write(name, b"[]").unwrap();
        let e = RunDir::check_origin(&base).unwrap_err().to_string();
        assert!(e.contains(name), "{e}");
        run.write(name, b"{}").unwrap();
    }
    // A model of nobody's.
    RunDir::check_origin(dir.path()).unwrap();
}

#[test]
fn a_result_that_was_changed_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let run = new_run(&dir.path().join("run"));
    let mut record = record();
    run.finish(&mut record, &serde_json::json!({ "accuracy": 0.5 })).unwrap();
    run.check_present(&record).unwrap();
    let text = fs::read_to_string(run.join(RESULT)).unwrap();
    run.write(RESULT, text.replace("0.5", "0.7").as_bytes()).unwrap();
    let e = run.check_present(&record).unwrap_err().to_string();
    assert!(e.contains(RESULT) && e.contains("delete it and resume"), "{e}");
    fs::remove_file(run.join(RESULT)).unwrap();
    run.check_present(&record).unwrap();
}

#[test]
fn a_run_without_a_recorded_configuration_opens_with_any() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let run = new_run(&path);
    let mut old: serde_json::Map<String, serde_json::Value> = run.read_json(RECORD).unwrap();
    assert!(old.remove("config").is_some());
    run.write_json(RECORD, &old).unwrap();
    edit(&path, "tau =", "tau = 0.3");
    let (_, _, record) = RunDir::open(&path).unwrap();
    assert_eq!(record.config, None);
}

#[test]
fn a_run_without_prepared_data_may_be_started_again_but_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    fs::create_dir(&path).unwrap();
    for left in [".lock", "run.json", ".tmpAbCdEf", ".tmp-7-abcdEF01"] {
        fs::write(path.join(left), "{}").unwrap();
    }
    let run = new_run(&path);
    assert_eq!(names(&path).unwrap().len(), 3, "the configuration, the record and the lock");
    let again = |path: &Path| {
        let config = RunConfig::preset("demo").unwrap();
        RunDir::create(path, &config, &mut record()).unwrap_err().to_string()
    };
    assert!(again(&path).contains("--resume"));
    drop(run);
    assert!(!path.join(LOCK_FILE).exists());
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("mine"), "mine").unwrap();
    assert!(again(&other).contains("not empty"));
    assert_eq!(names(&other).unwrap(), ["mine"]);
}

#[test]
fn only_a_run_without_anything_of_worth_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let run = new_run(&path);
    fs::create_dir(path.join("data")).unwrap();
    fs::write(path.join("data/train.jsonl"), "half").unwrap();
    assert!(run.discard_unprepared());
    assert!(!path.exists());
    for kept in ["checkpoints", "metrics.jsonl", "mine.txt", "data/mine.txt", "warm_start"] {
        let run = new_run(&path);
        fs::create_dir(path.join("data")).unwrap();
        fs::write(path.join(kept), "x").unwrap();
        // Even if the configuration has changed meanwhile.
        fs::write(path.join(CONFIG), "oops").unwrap();
        assert!(!run.discard_unprepared());
        assert_eq!(fs::read(path.join(kept)).unwrap(), b"x");
        fs::remove_dir_all(&path).unwrap();
    }
    // Prepared, or not known to be unprepared.
    for text in [r#"{"broken"#.to_string(), {
        let mut record = record();
        record.hashes.insert("data/train.jsonl".into(), "0".into());
        serde_json::to_string(&record).unwrap()
    }] {
        let run = new_run(&path);
        fs::write(path.join(RECORD), text).unwrap();
        assert!(!run.discard_unprepared());
        assert!(path.join(CONFIG).exists());
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn a_run_without_its_configuration_or_record_is_known_as_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    for (lost, link) in [(CONFIG, false), (CONFIG, true), (RECORD, false), (RECORD, true)] {
        let path = dir.path().join("run");
        let run = new_run(&path);
        fs::remove_file(path.join(lost)).unwrap();
        if link {
            std::os::unix::fs::symlink("nowhere", path.join(lost)).unwrap();
        }
        assert!(RunDir::is_run(&path));
        for (inside, is_own) in [("policy/new", true), ("data", true), ("pareto", false)] {
            assert_eq!(RunDir::owner(&path.join(inside)), is_own.then_some(path.as_path()));
        }
        let error = RunDir::open(&path).unwrap_err().to_string();
        assert!(error.contains(lost) && error.contains("restore"), "{error}");
        drop(run);
        fs::remove_dir_all(&path).unwrap();
    }
    fs::create_dir(dir.path().join("other")).unwrap();
    assert!(!RunDir::is_run(&dir.path().join("other")));
    assert_eq!(RunDir::owner(&dir.path().join("other/policy")), None);
}

#[test]
fn files_and_dangling_links_are_no_place_for_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "mine").unwrap();
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    let config = RunConfig::preset("demo").unwrap();
    for place in [&file, &link] {
        let mut record = RunRecord::new("test".into(), 0, None, false).unwrap();
        let error = RunDir::create(place, &config, &mut record).unwrap_err().to_string();
        assert!(error.contains("no directory") && error.contains("--out"), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[test]
fn links_in_a_run_are_not_written_through() {
    let dir = tempfile::tempdir().unwrap();
    let run = new_run(&dir.path().join("run"));
    let mine = dir.path().join("mine");
    fs::write(&mine, "mine").unwrap();
    std::os::unix::fs::symlink(&mine, run.join("result.json")).unwrap();
    let error = run.write("result.json", b"x").unwrap_err().to_string();
    assert!(error.contains("result.json") && error.contains("link"), "{error}");
    assert_eq!(fs::read(&mine).unwrap(), b"mine");
}

#[test]
fn a_run_that_was_removed_is_not_made_again_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let run = new_run(&path);
    fs::remove_dir_all(&path).unwrap();
    let error = run.write("result.json", b"x").unwrap_err().to_string();
    assert!(error.contains("removed"), "{error}");
    assert!(!path.exists());
}
