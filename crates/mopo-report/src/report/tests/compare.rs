//! Reports read back and compared.

use super::*;
use crate::{MetricsLog, RecordedRun, ScoredAxis, combine};

/// Writes the evaluation of a run and reads it back.
fn recorded(
    dir: &Path,
    name: &str,
    evaluation: &Evaluation,
    ref_point: f64,
    rewards: Option<Vec<ScoredAxis>>,
) -> RecordedRun {
    let config = FrontConfig::new(vec![ref_point; evaluation.objectives.len()]);
    let report = FrontReport::new(evaluation, &config).unwrap();
    let extras = ReportExtras { rewards, ..Default::default() };
    write_report(&dir.join(name), &report, evaluation, &extras).unwrap();
    RecordedRun::read(&dir.join(name), name).unwrap()
}

fn rewards() -> Option<Vec<ScoredAxis>> {
    let axis = |name: &str, reward| ScoredAxis { name: name.into(), reward };
    Some(vec![
        axis("helpful", json!({"kind": "demo", "objective_idx": 0})),
        axis("harmless", json!({"kind": "length"})),
    ])
}

#[test]
fn what_was_written_comes_back_and_is_compared_prompt_by_prompt() {
    let temp = tempfile::tempdir().unwrap();
    let a = synthetic(2);
    // The other run is better by 0.05 on every prompt, and has its prompts in reverse.
    let mut b = synthetic(2);
    for policy in &mut b.policies {
        policy.scores.iter_mut().flatten().for_each(|s| *s += 0.05);
        policy.scores.reverse();
        policy.responses.reverse();
    }
    b.prompts.reverse();
    b.clusters.assignments.reverse();
    let runs = vec![
        recorded(temp.path(), "a", &a, 0.0, rewards()),
        recorded(temp.path(), "b", &b, 0.0, rewards()),
    ];
    assert_eq!(runs[0].evaluation, a);
    let combined = combine(runs.clone()).unwrap();
    let e = &combined.evaluation;
    assert_eq!((e.prompts.clone(), e.policies.len()), (a.prompts, 8));
    assert_eq!(e.policies[5].label, "b: helpful");
    for (mine, theirs) in e.policies[1].scores.iter().zip(&e.policies[5].scores) {
        assert!((theirs[0] - mine[0] - 0.05).abs() < 1e-5, "paired by prompt");
    }
    let notes = combined.notes.join(" ");
    assert!(notes.contains("statistics of a; b recorded different ones"), "{notes}");
    assert!(!notes.contains("clusters") && !notes.contains("settings"), "{notes}");

    let report = FrontReport::new(e, &combined.config).unwrap();
    assert_eq!(report.runs, ["a", "b"]);
    assert_eq!(report.sets.len(), 6);
    // Two differences within each run, and between the runs heads and all policies.
    assert_eq!(report.differences.len(), 6);
    let between = &report.differences[4];
    assert_eq!((between.of.name(), between.minus.name()), ("a: heads".into(), "b: heads".into()));
    assert!(between.value < 0.0 && between.interval.high < 0.0);
    assert_eq!((between.probability_positive, between.probability_negative), (0.0, 1.0));
    // Each run's heads are judged against their own SFT model.
    assert_eq!(report.points[5].dominates_sft, Some(true));
    let said = words::verdict(&report).join(" ");
    assert!(
        said.contains("a: The 2 heads together cover") && said.contains("b's 2 heads"),
        "{said}"
    );

    let run = |name: &str| RunExtras {
        name: name.into(),
        metrics: MetricsLog::parse(b"{\"step\":1,\"loss\":1.0}\n{\"step\":2,\"loss\":0.5}\n").rows,
        record: json!({"of": name}),
    };
    let extras = ReportExtras { runs: vec![run("a"), run("b")], ..Default::default() };
    let files = write_report(&temp.path().join("both"), &report, e, &extras).unwrap();
    let html = std::fs::read_to_string(files.index_html).unwrap();
    assert!(html.contains("<h3>a</h3>") && html.contains("<h3>b</h3>"));
    assert!(html.contains("How b was made"));
    // A comparison is not a run.
    let e = RecordedRun::read(&temp.path().join("both"), "x").unwrap_err().to_string();
    assert!(e.contains("several runs (a, b)"), "{e}");

    // A single run is unchanged.
    let one = combine(vec![runs[0].clone()]).unwrap();
    assert_eq!(one.evaluation, runs[0].evaluation);
    assert!(combine(vec![runs[0].clone(), runs[0].clone()]).is_err(), "two of one name");
    assert!(combine(vec![]).is_err());
}

#[test]
fn runs_that_differ_are_refused_by_what_differs() {
    let temp = tempfile::tempdir().unwrap();
    let evaluation = synthetic(2);
    let a = recorded(temp.path(), "a", &evaluation, 0.0, rewards());
    let refused = |other: RecordedRun, parts: &[&str]| {
        let e = combine(vec![a.clone(), other]).unwrap_err().to_string();
        assert!(e.starts_with("a and b cannot be compared"), "{e}");
        for part in parts {
            assert!(e.contains(part), "`{part}` is not in `{e}`");
        }
    };
    let b = |evaluation: &Evaluation, ref_point, rewards| {
        recorded(temp.path(), "b", evaluation, ref_point, rewards)
    };
    refused(b(&evaluation, -1.0, rewards()), &["ref_point is [0.0, 0.0] and [-1.0, -1.0]"]);
    let mut others = rewards().unwrap();
    others[1].reward["unit"] = json!("characters");
    refused(b(&evaluation, 0.0, Some(others)), &["rewards differ", "`harmless`", "characters"]);
    let mut other = evaluation.clone();
    other.prompts[3] = "\n\nHuman: Another one?\n\nAssistant:".into();
    refused(b(&other, 0.0, rewards()), &["prompts differ, 12 and 12, of which 11", "--seed"]);
    refused(b(&synthetic(3), 0.0, None), &["objectives are helpful, harmless and helpful,"]);
    refused(b(&evaluation, 0.0, None), &["rewards differ", "`helpful`", "null"]);
}

#[test]
fn rewards_of_older_reports_are_found_in_the_record() {
    let temp = tempfile::tempdir().unwrap();
    let evaluation = synthetic(2);
    let new = recorded(temp.path(), "new", &evaluation, 0.0, rewards());
    recorded(temp.path(), "old", &evaluation, 0.0, None);
    let path = temp.path().join("old/report.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    let rewrite = |edit: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_str(&whole).unwrap();
        edit(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
        RecordedRun::read(&temp.path().join("old"), "old")
    };
    // An axis in the configuration also has its reference point, which is compared separately.
    let axes = json!([
        {"name": "helpful", "ref_point": 5.0, "reward": {"kind": "demo", "objective_idx": 0}},
        {"name": "harmless", "ref_point": 0.0, "reward": {"kind": "length"}},
    ]);
    let old = rewrite(&|json| {
        json.as_object_mut().unwrap().remove("rewards");
        json["record"] = json!({"configuration": {"evaluation": {"rewards": axes}}});
    });
    let old = old.unwrap();
    assert_eq!(old.rewards, rewards());
    assert!(combine(vec![new, old]).is_ok());
    // A record of another form is ignored; a damaged one is refused.
    assert_eq!(rewrite(&|json| json["record"] = json!("made up")).unwrap().rewards, None);
    let wrong = rewrite(&|json| json["record"] = json!({"configuration": 3})).unwrap_err();
    assert!(wrong.to_string().contains("report.json: `record`"), "{wrong}");
    let wrong = rewrite(&|json| json["rewards"] = json!([{"name": "helpful"}])).unwrap_err();
    assert!(wrong.to_string().contains("reward"), "{wrong}");
}

#[test]
fn damaged_files_are_named() {
    let temp = tempfile::tempdir().unwrap();
    recorded(temp.path(), "a", &synthetic(2), 0.0, rewards());
    let dir = temp.path().join("a");
    let (report, samples) = (dir.join("report.json"), dir.join("samples.jsonl"));
    let whole = std::fs::read_to_string(&samples).unwrap();
    let says = |parts: &[&str]| {
        let e = RecordedRun::read(&dir, "a").unwrap_err().to_string();
        for part in parts {
            assert!(e.contains(part), "`{part}` is not in `{e}`");
        }
    };
    std::fs::write(&samples, &whole[..whole.len() - 30]).unwrap();
    says(&["samples.jsonl: line 48", "mopo pareto"]);
    let lines: Vec<&str> = whole.lines().collect();
    std::fs::write(&samples, lines[..lines.len() - 1].join("\n")).unwrap();
    says(&["samples.jsonl", "`mix` has 11 responses", "12 prompts"]);
    std::fs::write(&samples, whole.replacen("\"scores\":[0.245", "\"scores\":[0.945", 1)).unwrap();
    says(&["samples.jsonl", "the mean of score 0 of `warm-start`"]);
    // What no figure shows.
    std::fs::write(&samples, whole.replacen("\"response\":\"", "\"response\":\"x", 1)).unwrap();
    says(&["samples.jsonl", "SHA-256", "mopo pareto"]);
    std::fs::write(&samples, &whole).unwrap();
    let text = std::fs::read_to_string(&report).unwrap();
    std::fs::write(&report, text.replacen("\"title\": \"", "\"title\": \"x", 1)).unwrap();
    says(&["report.json", "SHA-256", "mopo pareto"]);
    std::fs::write(&report, text).unwrap();
    RecordedRun::read(&dir, "a").unwrap();
    std::fs::write(&report, "{}").unwrap();
    says(&["report.json", "front"]);
    std::fs::remove_file(&report).unwrap();
    says(&["report.json"]);
}
