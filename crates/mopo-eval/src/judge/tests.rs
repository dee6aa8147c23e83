//! Judges against a chat endpoint on the loopback device.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mopo_hub::Silent;
use mopo_report::{
    Clusters, Evaluation, FrontConfig, JudgedWinRate, Matchups, PolicyGroup, PolicySamples,
    RecordedRun,
};
use mopo_testkit::{ChatReply, ChatRequest, LoopbackChat};
use serde_json::Value;

use super::*;

/// Four prompts: the head's answers are longer, longer, shorter, and the same.
fn matchups() -> Matchups {
    let samples = |policy: &str, group, responses: [&str; 4]| PolicySamples {
        run: None,
        policy: policy.into(),
        label: policy.into(),
        group,
        responses: responses.map(String::from).into(),
        scores: vec![vec![0.0, 0.0]; 4],
    };
    let policies = vec![
        samples("warm-start", PolicyGroup::Sft, ["x", "xx", "xxx", "same {a}"]),
        samples("head", PolicyGroup::Head, ["yyyy", "yyyyy", "yy", "same {a}"]),
    ];
    let run = RecordedRun {
        name: "run".into(),
        dir: "nowhere".into(),
        evaluation: Evaluation {
            objectives: vec!["one".into(), "two".into()],
            prompts: ["p", "q", "r", "s"].map(String::from).into(),
            clusters: Clusters::single(4),
            policies,
        },
        config: FrontConfig::new(vec![0.0, 0.0]),
        rewards: None,
        generation: Value::Null,
        record: Value::Null,
    };
    Matchups::within(run, &[], &[]).unwrap()
}

/// What a request asks, as the prompt of [`settings`] shows it: both answers.
fn shown(request: &ChatRequest) -> (String, String) {
    let body: Value = serde_json::from_str(&request.body).unwrap();
    let text = body["messages"][0]["content"].as_str().unwrap();
    let mut lines = text.lines().skip(1).map(String::from);
    (lines.next().unwrap(), lines.next().unwrap())
}

fn settings(chat: &LoopbackChat) -> JudgeSettings {
    let prompt = JudgePrompt::new("{prompt}\n{a}\n{b}", None).unwrap();
    let mut settings = JudgeSettings::new(chat.url(), "some-judge", prompt);
    settings.pause = Duration::from_millis(1);
    settings
}

fn compare(settings: JudgeSettings, cache: &std::path::Path) -> Result<Judged> {
    let mut cache = AnswerCache::open(cache).unwrap();
    Judge::new(settings).unwrap().compare(&matchups(), &mut cache, &mut Silent)
}

fn only(judged: &Judged) -> JudgedWinRate {
    let [rates] = judged.win_rates()[..] else { panic!("one pair of policies: {judged:?}") };
    rates
}

fn prefers_longer(request: &ChatRequest) -> ChatReply {
    let (a, b) = shown(request);
    ChatReply::says(if a.len() > b.len() { "A is longer.\nA" } else { "B is longer.\n\nB\n" })
}

#[test]
fn both_orders_are_asked_once_and_then_known() {
    let chat = LoopbackChat::start(prefers_longer);
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("judge-cache.jsonl");
    let mut with_token = settings(&chat);
    with_token.token = Some("secret".into());
    let judged = compare(with_token, &cache).unwrap();
    let found = only(&judged);
    let rate = found.win_rate.unwrap();
    assert_eq!((rate.n_won, rate.n_tied, rate.n_lost), (2, 1, 1));
    assert_eq!((found.n_same, found.n_unreadable, found.n_missing), (1, 0, 0));
    assert_eq!((found.first_shown, found.second_shown), (Some(0.0), Some(0.0)));
    assert_eq!((judged.n_requests, judged.n_cached), (6, 0));

    // Three pairs of different texts, in both orders.
    let requests = chat.take_requests();
    let orders: Vec<_> = requests.iter().map(shown).collect();
    let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
    assert_eq!(orders[..2], [pair("yyyy", "x"), pair("x", "yyyy")]);
    assert_eq!(orders.len(), 6);
    let body: Value = serde_json::from_str(&requests[0].body).unwrap();
    assert_eq!((&body["temperature"], &body["model"]), (&0.into(), &"some-judge".into()));
    assert_eq!(body["messages"].as_array().unwrap().len(), 1);
    assert_eq!(requests[0].path, "/v1/chat/completions");
    assert_eq!(requests[0].authorization.as_deref(), Some("Bearer secret"));

    // All answers are known, whoever asks.
    let mut again = settings(&chat);
    again.n_parallel = 3;
    let cached = compare(again, &cache).unwrap();
    assert_eq!(
        (&cached.judgements, cached.n_requests, cached.n_cached),
        (&judged.judgements, 0, 6)
    );
    assert!(chat.take_requests().is_empty());
    // Another model is another judge, and so is another prompt.
    let mut other = settings(&chat);
    other.model = "other-judge".into();
    assert_eq!(compare(other, &cache).unwrap().n_requests, 6);
    let mut other = settings(&chat);
    other.prompt = JudgePrompt::new("{prompt}\n{a}\n{b}\n?", None).unwrap();
    assert_eq!(compare(other, &cache).unwrap().n_requests, 6);
}

#[test]
fn a_judge_that_always_says_a_is_biased() {
    let chat = LoopbackChat::start(|_| ChatReply::says("A"));
    let dir = tempfile::tempdir().unwrap();
    let found = only(&compare(settings(&chat), &dir.path().join("cache")).unwrap());
    let rate = found.win_rate.unwrap();
    assert_eq!((rate.n_won, rate.n_tied, rate.n_lost, rate.rate), (0, 4, 0, 0.5));
    assert_eq!((found.first_shown, found.second_shown), (Some(1.0), Some(0.0)));
}

#[test]
fn what_cannot_be_read_is_counted() {
    // Nonsense where the head's answer of the first prompt comes first.
    let chat = LoopbackChat::start(|request| match shown(request).0.as_str() {
        "yyyy" => ChatReply::says("Answer A."),
        _ => prefers_longer(request),
    });
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let judged = compare(settings(&chat), &cache).unwrap();
    let found = only(&judged);
    assert_eq!((found.n_unreadable, found.n_missing, found.win_rate.unwrap().n()), (1, 0, 3));
    // It was an answer, and is not paid for twice.
    assert_eq!(compare(settings(&chat), &cache).unwrap().n_requests, 0);
}

#[test]
fn crowded_and_broken_servers_are_asked_again() {
    let n = AtomicUsize::new(0);
    let chat = LoopbackChat::start(move |request| match n.fetch_add(1, Ordering::SeqCst) {
        0 => ChatReply {
            headers: vec!["Retry-After: 0".into()],
            ..ChatReply::fails(429, "slow down")
        },
        1 => ChatReply::fails(503, "starting"),
        _ => prefers_longer(request),
    });
    let dir = tempfile::tempdir().unwrap();
    let judged = compare(settings(&chat), &dir.path().join("cache")).unwrap();
    assert_eq!((only(&judged).win_rate.unwrap().n_won, judged.n_requests), (2, 8));
    assert_eq!(chat.take_requests().len(), 8);
}

#[test]
fn a_failure_keeps_what_was_answered() {
    let n = AtomicUsize::new(0);
    let chat = LoopbackChat::start(move |request| match n.fetch_add(1, Ordering::SeqCst) {
        2..6 => ChatReply { body: "out of\u{7}memory".into(), ..ChatReply::fails(500, "") },
        _ => prefers_longer(request),
    });
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let mut impatient = settings(&chat);
    impatient.n_attempts = 4;
    let said = compare(impatient.clone(), &cache).unwrap_err().to_string();
    assert!(said.contains("out of memory") && said.contains("after 4 attempts"), "{said}");
    let judged = compare(impatient, &cache).unwrap();
    assert_eq!((judged.n_cached, judged.n_requests), (2, 4));
    assert_eq!(only(&judged).win_rate.unwrap().n_won, 2);
}

#[test]
fn refusals_are_not_repeated() {
    for (reply, part) in [
        (ChatReply::fails(401, "bad key"), "bad key"),
        (ChatReply::fails(404, "no model `some-judge`"), "no model"),
        (ChatReply { body: "<html>".into(), ..ChatReply::says("A") }, "not a chat completion"),
        (
            ChatReply {
                headers: vec!["Location: http://elsewhere/".into()],
                ..ChatReply::fails(307, "moved")
            },
            "a redirect to http://elsewhere/",
        ),
    ] {
        let chat = LoopbackChat::start(move |_| reply.clone());
        let dir = tempfile::tempdir().unwrap();
        let mut with_token = settings(&chat);
        with_token.token = Some("secret".into());
        let said = compare(with_token, &dir.path().join("cache")).unwrap_err().to_string();
        assert!(said.contains(part) && !said.contains("secret"), "{said}");
        assert_eq!(chat.take_requests().len(), 1, "{said}");
    }
}

#[test]
fn requests_are_limited_prompt_by_prompt() {
    let n = AtomicUsize::new(0);
    let chat = LoopbackChat::start(move |request| match n.fetch_add(1, Ordering::SeqCst) {
        0 => ChatReply::fails(429, "slow down"),
        _ => prefers_longer(request),
    });
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let limited = |n| JudgeSettings { max_requests: Some(n), ..settings(&chat) };
    // One of the four is spent on the refusal: one pair is known, and half of another. The equal texts of the last prompt
    // do not count before the others are known.
    let judged = compare(limited(4), &cache).unwrap();
    let found = only(&judged);
    assert_eq!((judged.n_requests, chat.take_requests().len()), (4, 4));
    assert_eq!((found.n_missing, found.n_same, found.win_rate.unwrap().n()), (3, 0, 1));
    assert_eq!(judged.judgements[0][1], Judgement::Missing);
    let judged = compare(limited(0), &cache).unwrap();
    assert_eq!((judged.n_cached, judged.n_requests, only(&judged).n_missing), (3, 0, 3));
    let judged = compare(limited(3), &cache).unwrap();
    let found = only(&judged);
    assert_eq!((judged.n_requests, found.n_missing, found.n_same), (3, 0, 1));
}

#[test]
fn a_judge_that_answers_nothing_is_an_error_however_few_requests_there_are() {
    let chat = LoopbackChat::start(|_| ChatReply::fails(500, "out of order"));
    let dir = tempfile::tempdir().unwrap();
    let limited = JudgeSettings { max_requests: Some(2), ..settings(&chat) };
    let said = compare(limited, &dir.path().join("cache")).unwrap_err().to_string();
    for part in ["500", "none of 2 requests was answered", "repeat the command"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn parallel_requests_say_the_same() {
    let chat = LoopbackChat::start(prefers_longer);
    let dir = tempfile::tempdir().unwrap();
    let one = compare(settings(&chat), &dir.path().join("one")).unwrap();
    let four = JudgeSettings { n_parallel: 4, ..settings(&chat) };
    let four = compare(four, &dir.path().join("four")).unwrap();
    assert_eq!(one, four);
    assert_eq!(chat.take_requests().len(), 12);
}

#[test]
fn settings_out_of_range_are_named() {
    let chat = LoopbackChat::start(|_| ChatReply::says("A"));
    let refused = |change: &dyn Fn(&mut JudgeSettings)| {
        let mut settings = settings(&chat);
        change(&mut settings);
        Judge::new(settings).err().expect("refused").to_string()
    };
    assert!(refused(&|s| s.url = "judge.example".into()).contains("http://"));
    assert!(refused(&|s| s.model = " ".into()).contains("model"));
    let said = refused(&|s| s.token = Some("se\ncret".into()));
    assert!(said.contains("token") && !said.contains("cret\n") && !said.contains("se\n"), "{said}");
    assert!(refused(&|s| s.max_tokens = 0).contains("max_tokens"));
    assert!(refused(&|s| s.n_parallel = 0).contains("n_parallel"));
}
