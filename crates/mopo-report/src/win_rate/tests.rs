//! Win rates against values computed by hand.

use std::path::Path;

use serde_json::{Value, json};

use super::matchups::{mean_difference, outcome};
use super::{JudgeRecord, JudgedWinRate, Judgement, Matchups, Outcome, Verdict, WinRate};
use super::{WinRateReport, wilson_interval, write_win_rates};
use crate::{
    Clusters, Error, Evaluation, FrontConfig, PolicyGroup, PolicySamples, RecordedRun, ScoredAxis,
};

fn samples(policy: &str, group: PolicyGroup, scores: &[[f32; 2]]) -> PolicySamples {
    let label = policy.strip_prefix("head-").unwrap_or(policy).replace('-', " ");
    PolicySamples {
        run: None,
        policy: policy.into(),
        label,
        group,
        responses: (0..scores.len()).map(|i| format!("{policy} answers {i}")).collect(),
        scores: scores.iter().map(|row| row.to_vec()).collect(),
    }
}

fn run(name: &str, prompts: &[&str], policies: Vec<PolicySamples>) -> RecordedRun {
    let axis = |name: &str| ScoredAxis { name: name.into(), reward: json!({ "kind": name }) };
    RecordedRun {
        name: name.into(),
        dir: Path::new("nowhere").into(),
        evaluation: Evaluation {
            objectives: vec!["helpful".into(), "harmless".into()],
            prompts: prompts.iter().map(|prompt| (*prompt).into()).collect(),
            clusters: Clusters::single(prompts.len()),
            policies,
        },
        config: FrontConfig::new(vec![0.0, 0.0]),
        rewards: Some(vec![axis("helpful"), axis("harmless")]),
        generation: Value::Null,
        record: Value::Null,
    }
}

/// Four prompts; `helpful` wins two, ties one and loses one by the first objective, and always ties by the second.
fn example() -> RecordedRun {
    let sft = [[0.0, 1.0], [0.5, 1.0], [1.0, 1.0], [2.0, 1.0]];
    let head = [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 1.0]];
    let policies = vec![
        samples("warm-start", PolicyGroup::Sft, &sft),
        samples("head-helpful", PolicyGroup::Head, &head),
        samples("mix-50", PolicyGroup::Mixture, &sft),
    ];
    run("mopo", &["a", "b", "c", "d"], policies)
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 5e-5
}

#[test]
fn wilson_intervals_are_newcombes() {
    // Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I, method 3.
    for (won, n, low, high) in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ] {
        let found = wilson_interval(f64::from(won) / n as f64, n);
        assert!(near(found.low, low) && near(found.high, high), "{won}/{n}: {found:?}");
    }
    // Where all are won: 1 / (1 + z²/n) to 1.
    let all = wilson_interval(1.0, 10);
    assert!(near(all.low, 1.0 / (1.0 + 3.841_459 / 10.0)) && near(all.high, 1.0), "{all:?}");
    assert!(all.high <= 1.0 && wilson_interval(0.0, 7).low >= 0.0);
}

#[test]
fn a_tie_is_half_a_win() {
    use Outcome::{Lost, Tied, Won};
    let found = WinRate::of([Won, Lost, Tied, Won, Tied]).unwrap();
    assert_eq!((found.n_won, found.n_tied, found.n_lost, found.n()), (2, 2, 1, 5));
    assert_eq!(found.rate, 0.6);
    // 0.6 of 5: (0.6 + 0.384146 ± 1.959964 √(0.048 + 0.0384146)) / 1.768292.
    assert!(near(found.interval.low, 0.23072) && near(found.interval.high, 0.88238), "{found:?}");
    assert_eq!(WinRate::of([]), None);
}

#[test]
fn scores_within_the_margin_are_tied() {
    use Outcome::{Lost, Tied, Won};
    for (a, b, tie, expected) in [
        (1.0, 1.0, 0.0, Tied),
        (1.0 + f32::EPSILON, 1.0, 0.0, Won),
        (-1.0, 1.0, 0.0, Lost),
        (0.3, 0.2, 0.1, Tied),
        (0.2, 0.3, 0.1, Tied),
        (0.31, 0.2, 0.1, Won),
        (0.2, 0.31, 0.1, Lost),
    ] {
        assert_eq!(outcome(a, b, tie), expected, "{a} {b} {tie}");
    }
}

#[test]
fn differences_have_the_spread_of_their_mean() {
    let constant = mean_difference(&[0.25; 8]);
    let interval = constant.interval.unwrap();
    assert_eq!((constant.value, interval.low, interval.high), (0.25, 0.25, 0.25));
    // 400 differences with mean 1 and standard deviation 0.5: standard error 0.025.
    let values: Vec<f64> = (0..400).map(|i| if i % 2 == 0 { 0.5 } else { 1.5 }).collect();
    let interval = mean_difference(&values).interval.unwrap();
    assert!((interval.low - (1.0 - 1.96 * 0.025)).abs() < 0.006, "{interval:?}");
    assert!((interval.high - (1.0 + 1.96 * 0.025)).abs() < 0.006, "{interval:?}");
}

#[test]
fn heads_and_mixtures_meet_the_sft_model() {
    let matchups = Matchups::within(example(), &[], &[]).unwrap();
    let names: Vec<_> =
        matchups.pairs().map(|(a, b)| (a.policy.as_str(), b.policy.as_str())).collect();
    assert_eq!(names, [("head-helpful", "warm-start"), ("mix-50", "warm-start")]);
    let found = matchups.by_rewards(0.0).unwrap();
    let [helpful, harmless] = &found[0][..] else { panic!("two objectives: {found:?}") };
    let counts = |w: &WinRate| (w.n_won, w.n_tied, w.n_lost, w.rate);
    assert_eq!(counts(&helpful.win_rate), (2, 1, 1, 0.625));
    // (1 + 0.5 + 0 − 2) / 4.
    assert_eq!(helpful.difference.value, -0.125);
    assert_eq!(counts(&harmless.win_rate), (0, 4, 0, 0.5));
    assert_eq!(harmless.difference.value, 0.0);
    assert_eq!(counts(&matchups.by_rewards(0.5).unwrap()[0][0].win_rate), (1, 2, 1, 0.5));
    for tie in [-0.1, f64::NAN, f64::INFINITY] {
        assert!(matchups.by_rewards(tie).unwrap_err().to_string().contains("tie"));
    }
}

#[test]
fn policies_are_found_by_any_of_their_names() {
    let pairs = |policies: &[&str], baselines: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).into()).collect::<Vec<_>>();
        let found = Matchups::within(example(), &owned(policies), &owned(baselines))?;
        let names = found.pairs().map(|(a, b)| format!("{} {}", a.policy, b.policy));
        Ok::<_, Error>(names.collect::<Vec<_>>())
    };
    for name in ["sft", "SFT", "SFT model", "warm start", "warm-start"] {
        assert_eq!(pairs(&["helpful"], &[name]).unwrap(), ["head-helpful warm-start"], "{name}");
    }
    let expected = ["head-helpful mix-50"];
    assert_eq!(pairs(&["head-helpful", "helpful"], &["mix 50"]).unwrap(), expected);
    assert_eq!(pairs(&[], &["helpful"]).unwrap(), ["mix-50 head-helpful"]);
    let said = pairs(&["humor"], &[]).unwrap_err().to_string();
    assert!(said.contains("humor") && said.contains("head-helpful, mix-50"), "{said}");
    let said = pairs(&["helpful"], &["helpful"]).unwrap_err().to_string();
    assert!(said.contains("no other"), "{said}");
    let mut headless = example();
    headless.evaluation.policies.remove(0);
    let said = Matchups::within(headless, &[], &[]).unwrap_err().to_string();
    assert!(said.contains("no SFT model"), "{said}");
}

#[test]
fn prompts_of_another_run_are_matched_by_text() {
    // `d` to `a`, each one better than helpful by the first objective.
    let scores = [[1.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]];
    let policies = || {
        vec![
            samples("warm-start", PolicyGroup::Sft, &[[0.0, 0.0]; 4]),
            samples("head-helpful", PolicyGroup::Head, &scores),
        ]
    };
    let other = run("dpo", &["d", "c", "b", "a"], policies());
    let helpful = ["helpful".to_string()];
    let matchups = Matchups::between(example(), other.clone(), &helpful, &[]).unwrap();
    let (mine, theirs) = matchups.pairs().next().unwrap();
    assert_eq!((mine.label.as_str(), theirs.label.as_str()), ("mopo: helpful", "dpo: helpful"));
    assert_eq!(theirs.responses[0], "head-helpful answers 3");
    let found = matchups.by_rewards(0.0).unwrap();
    assert_eq!((found.len(), found[0][0].win_rate.n_lost), (1, 4));
    assert_eq!(found[0][0].difference.value, -1.0);
    assert_eq!(found[0][1].win_rate.n_won, 4);

    let less = run("dpo", &["a", "b", "c", "x"], policies());
    let said = Matchups::between(example(), less, &[], &[]).unwrap_err().to_string();
    assert!(said.contains("of which 3 are the same"), "{said}");
    let mut alike = other.clone();
    alike.name = "mopo".into();
    assert!(Matchups::between(example(), alike, &[], &[]).is_err());

    // Other rewards keep scores apart, but not a judge.
    let mut rescored = other;
    rescored.rewards.as_mut().unwrap()[0].reward = json!({ "kind": "another" });
    let matchups = Matchups::between(example(), rescored, &[], &[]).unwrap();
    assert!(matchups.by_rewards(0.0).unwrap().is_empty());
    let report = WinRateReport::new(&matchups, 0.0).unwrap();
    assert!(report.notes[0].contains("`helpful`") && report.comparisons.len() == 2, "{report:?}");
}

#[test]
fn both_orders_must_agree() {
    use Verdict::{A, B, Tie, Unreadable};
    let asked = |policy_first, other_first| Judgement::Asked { policy_first, other_first };
    for (first, second, expected) in [
        (A, B, Some(Outcome::Won)),
        (B, A, Some(Outcome::Lost)),
        (A, A, Some(Outcome::Tied)),
        (B, B, Some(Outcome::Tied)),
        (A, Tie, Some(Outcome::Tied)),
        (Tie, Tie, Some(Outcome::Tied)),
        (A, Unreadable, None),
        (Unreadable, Tie, None),
    ] {
        assert_eq!(asked(first, second).outcome(), expected, "{first:?} {second:?}");
    }
    let judgements = [
        asked(A, B),
        asked(A, B),
        asked(A, A),
        asked(B, B),
        asked(B, A),
        asked(Tie, Tie),
        asked(A, A),
        asked(A, A),
        asked(A, Unreadable),
        Judgement::Same,
        Judgement::Missing,
    ];
    let found = JudgedWinRate::of(&judgements);
    let rate = found.win_rate.unwrap();
    assert_eq!((rate.n_won, rate.n_tied, rate.n_lost), (2, 6, 1));
    assert_eq!((found.n_same, found.n_unreadable, found.n_missing), (1, 1, 1));
    // Eight pairs were asked and read: three times the first won both, once the second.
    assert_eq!((found.first_shown, found.second_shown), (Some(0.375), Some(0.125)));

    let always_a = JudgedWinRate::of(&[asked(A, A); 3]);
    assert_eq!((always_a.first_shown, always_a.win_rate.unwrap().n_tied), (Some(1.0), 3));
    let nothing = JudgedWinRate::of(&[asked(Unreadable, A), Judgement::Missing]);
    assert_eq!((nothing.win_rate, nothing.first_shown), (None, None));
}

#[test]
fn tables_show_every_pair_and_what_is_in_no_rate() {
    let matchups = Matchups::within(example(), &["helpful".into()], &[]).unwrap();
    let mut report = WinRateReport::new(&matchups, 0.0).unwrap();
    let asked = Judgement::Asked { policy_first: Verdict::A, other_first: Verdict::B };
    let unreadable =
        Judgement::Asked { policy_first: Verdict::A, other_first: Verdict::Unreadable };
    let judged = JudgedWinRate::of(&[asked, unreadable, Judgement::Same, Judgement::Missing]);
    let judge = JudgeRecord {
        model: "some|judge\n".into(),
        prompt: "Which is better?\n\n{prompt} {a} {b}".into(),
        max_tokens: 512,
        n_requests: 4,
    };
    report.add_judge(judge, &[judged]);
    let dir = tempfile::tempdir().unwrap();
    let files = write_win_rates(dir.path(), &report).unwrap();
    let text = std::fs::read_to_string(files.markdown).unwrap();
    for part in [
        "| helpful | SFT model | helpful   | 50.0 % | 25.0 %  | 25.0 % | 62.5 % (21.9 … 90.8) | −0.125 (",
        "| helpful | SFT model | harmless  | 0.0 %  | 100.0 % | 0.0 %  | 50.0 % (15.0 … 85.0) | 0 (0 … 0)",
        "| 50.0 % | 50.0 % | 0.0 % | 75.0 % (",
        "| 1         | 1          | 1          | 0.0 % | 0.0 %  |",
        "some|judge ,",
        "- Not judged: 1 pair of answers,",
        "- Unreadable: 1 pair of answers,",
        "    Which is better?\n\n    {prompt} {a} {b}\n",
    ] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let read: WinRateReport = serde_json::from_slice(&std::fs::read(files.json).unwrap()).unwrap();
    assert_eq!(read, report);
}
