//! Win rates of recorded results, by rewards and by a judge on the loopback device.

use std::fs;
use std::path::Path;

use mopo_report::{
    Clusters, Evaluation, FrontConfig, FrontReport, PolicyGroup, PolicySamples, ReportExtras,
    ScoredAxis, write_report,
};
use mopo_testkit::{ChatReply, ChatRequest, LoopbackChat};
use serde_json::{Value, json};

use crate::common::{fail, mopo, succeed};

/// Results as `mopo pareto` writes them: an SFT model and a head, whose answers differ in length.
fn results(dir: &Path, prompts: &[&str], head: fn(&str) -> String, reward: &str) {
    let samples = |policy: &str, label: &str, group, answer: fn(&str) -> String| {
        let responses: Vec<String> = prompts.iter().map(|prompt| answer(prompt)).collect();
        let scores = responses.iter().map(|text| vec![text.len() as f32, 1.0]).collect();
        PolicySamples {
            run: None,
            policy: policy.into(),
            label: label.into(),
            group,
            responses,
            scores,
        }
    };
    let evaluation = Evaluation {
        objectives: vec!["long".into(), "constant".into()],
        prompts: prompts.iter().map(|prompt| (*prompt).into()).collect(),
        clusters: Clusters::single(prompts.len()),
        policies: vec![
            samples("warm-start", "warm start", PolicyGroup::Sft, |prompt| format!("{prompt}!!")),
            samples("head-long", "long", PolicyGroup::Head, head),
        ],
    };
    let report = FrontReport::new(&evaluation, &FrontConfig::new(vec![0.0, 0.0])).unwrap();
    let axis = |name: &str| ScoredAxis { name: name.into(), reward: json!({ "kind": reward }) };
    let extras =
        ReportExtras { rewards: Some(vec![axis("long"), axis("constant")]), ..Default::default() };
    write_report(dir, &report, &evaluation, &extras).unwrap();
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn scores_are_compared_within_and_between_results() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    // Longer for two prompts, as long for one, shorter for one.
    let head = |prompt: &str| match prompt {
        "c" => "c!!".to_string(),
        "d" => "d".to_string(),
        prompt => format!("{prompt}!!!!"),
    };
    results(&at("ours"), &["a", "b", "c", "d"], head, "length");
    results(&at("theirs"), &["d", "c", "b", "a"], |prompt| format!("{prompt}!!!"), "length");
    results(&at("fewer"), &["a", "b", "x"], head, "length");
    results(&at("scored"), &["a", "b", "c", "d"], head, "words");
    let win_rate = |args: &[&str]| {
        let mut command = mopo(&["win-rate"]);
        command.args(args).current_dir(dir.path());
        command
    };
    let said = succeed(&mut win_rate(&["ours"]));
    assert!(said.contains("| 50.0 % | 25.0 %  | 25.0 % | 62.5 % ("), "{said}");
    assert!(said.contains("(these tables)"), "{said}");
    let found = read(&at("runs/win-rate/win-rate.json"));
    let long = &found["comparisons"][0]["rewards"][0];
    assert_eq!(long["win_rate"]["rate"], 0.625);
    // (2 + 2 + 0 − 2) / 4.
    assert_eq!(long["difference"]["value"], 0.5);
    let text = fs::read_to_string(at("runs/win-rate/win-rate.md")).unwrap();
    assert!(text.starts_with("# Win rates\n") && !text.contains("judge"), "{text}");

    succeed(&mut win_rate(&["ours", "--tie", "2", "--out", "tied"]));
    let found = read(&at("tied/win-rate.json"));
    assert_eq!(found["comparisons"][0]["rewards"][0]["win_rate"]["n_tied"], 4);

    let said = succeed(&mut win_rate(&["ours", "--against", "theirs"]));
    assert!(said.contains("| ours: long | theirs: long | long "), "{said}");
    let found = read(&at("runs/win-rate/win-rate.json"));
    let rate = &found["comparisons"][0]["rewards"][0]["win_rate"];
    assert_eq!((&rate["n_won"], &rate["n_lost"]), (&2.into(), &2.into()));
    let said = succeed(&mut win_rate(&[
        "ours",
        "--against",
        "theirs",
        "--policy",
        "sft",
        "--baseline",
        "sft",
    ]));
    assert!(said.contains("| ours: SFT model | theirs: SFT model |"), "{said}");

    for (args, parts) in [
        (&["ours", "--against", "fewer"][..], &["prompts differ, 4 and 3, of which 2"][..]),
        (&["ours", "--against", "scored"], &["rewards differ", "--judge"]),
        (&["ours", "--against", "ours"], &["same results", "--baseline"]),
        (&["ours", "--policy", "humor"], &["humor", "warm-start, head-long"]),
        (&["ours", "--baseline", "long", "--policy", "long"], &["no other"]),
        (&["nothing"], &["mopo pareto"]),
    ] {
        let said = fail(&mut win_rate(args));
        for part in parts {
            assert!(said.contains(part), "{args:?}: `{part}` is not in:\n{said}");
        }
    }
}

#[test]
fn a_judge_is_asked_once_and_its_answers_kept() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let longer = |prompt: &str| format!("{prompt}!!!!");
    results(&at("ours"), &["a", "b", "c"], longer, "length");
    results(&at("scored"), &["c", "b", "a"], |prompt| format!("{prompt}!"), "words");
    fs::write(at("prompt.txt"), "{prompt}\n{a}\n{b}\n").unwrap();
    let chat = LoopbackChat::start(|request: &ChatRequest| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let text = body["messages"][0]["content"].as_str().unwrap().to_owned();
        let lines: Vec<&str> = text.lines().collect();
        ChatReply::says(if lines[1].len() > lines[2].len() { "A" } else { "B" })
    });
    let judged = |args: &[&str]| {
        let mut command = mopo(&["win-rate", "ours", "--judge", chat.url(), "--judge-model", "j"]);
        command.args(args).current_dir(dir.path()).env("JUDGE_TOKEN", "secret");
        command
    };
    let with_prompt = ["--judge-prompt", "prompt.txt", "--judge-token-env", "JUDGE_TOKEN"];
    let said = succeed(judged(&with_prompt).args(["--judge-requests", "3"]));
    assert!(said.contains("Not judged: 2 pairs"), "{said}");
    assert_eq!(chat.take_requests().len(), 3);
    let said = succeed(&mut judged(&with_prompt));
    assert!(
        said.contains("## By a judge") && said.contains("| 100.0 % | 0.0 % | 0.0 % |"),
        "{said}"
    );
    let requests = chat.take_requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[0].authorization.as_deref(), Some("Bearer secret"));
    succeed(&mut judged(&with_prompt));
    assert!(chat.take_requests().is_empty());
    let cache = fs::read_to_string(at("runs/win-rate/judge-cache.jsonl")).unwrap();
    assert_eq!(cache.lines().count(), 6);
    let found = read(&at("runs/win-rate/win-rate.json"));
    assert_eq!(found["comparisons"][0]["judge"]["win_rate"]["n_won"], 3);
    assert_eq!(found["comparisons"][0]["judge"]["first_shown"], 0.0);
    let files = ["win-rate.json", "win-rate.md", "judge-cache.jsonl"];
    for text in files.map(|file| fs::read_to_string(at("runs/win-rate").join(file)).unwrap()) {
        assert!(!text.contains("secret"), "{text}");
    }

    // Rewards that differ keep only scores apart.
    let said = succeed(judged(&with_prompt).args(["--against", "scored", "--judge-parallel", "2"]));
    assert!(said.contains("No win rates by rewards") && said.contains("scored: long"), "{said}");
    assert_eq!(chat.take_requests().len(), 6);

    for (args, part) in [
        (&[][..], "--judge-criterion"),
        (&["--judge-prompt", "nowhere.txt"], "nowhere.txt"),
        (&["--judge-prompt", "ours/front.csv"], "no place {prompt}"),
        (&["--judge-prompt", "prompt.txt", "--judge-criterion", "x"], "no place {criterion}"),
        (&["--judge-criterion", "x", "--judge-token-env", "NO_SUCH_TOKEN"], "NO_SUCH_TOKEN"),
    ] {
        let said = fail(&mut judged(args));
        assert!(said.contains(part), "{args:?}: {said}");
    }
    assert!(chat.take_requests().is_empty());
}
