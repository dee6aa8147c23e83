//! Properties of the generated set: determinism, exact labels, and conflicts of the right size.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{Error, PreferenceRecord, Summary, Tokenizer};

fn summary(records: &[PreferenceRecord]) -> Summary {
    Summary::new(&objectives(), records, &str::len)
}

/// Mean reward of all candidates, and of each prompt's best candidate, per objective.
fn behaviour_and_best(records: &[PreferenceRecord]) -> ([f32; 3], [f32; 3]) {
    let mut candidates: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for record in records {
        let of_prompt = candidates.entry(&record.prompt).or_default();
        of_prompt.extend([record.first.as_str(), record.second.as_str()]);
    }
    let n_candidates = candidates.values().map(BTreeSet::len).sum::<usize>() as f32;
    let (mut behaviour, mut best_of) = ([0.0; 3], [0.0; 3]);
    for (prompt, responses) in &candidates {
        let mut best = [0.0f32; 3];
        for response in responses {
            for (objective_idx, score) in rewards(prompt, response).into_iter().enumerate() {
                behaviour[objective_idx] += score / n_candidates;
                best[objective_idx] = best[objective_idx].max(score);
            }
        }
        for (sum, best) in best_of.iter_mut().zip(best) {
            *sum += best / candidates.len() as f32;
        }
    }
    (behaviour, best_of)
}

#[test]
fn equal_seeds_give_equal_sets() {
    let small = DemoConfig { n_prompts: 50, ..Default::default() };
    let set = generate(&small).unwrap();
    assert_eq!(set.records.len(), 200);
    assert_eq!(set.hash(), generate(&small).unwrap().hash());
    let other = generate(&DemoConfig { seed: 2, ..small.clone() }).unwrap();
    assert_ne!(set.hash(), other.hash());
    let (train, heldout) = generate_split(&small).unwrap();
    assert_eq!(train.records.len() + heldout.records.len(), 200);
    let prompts = |set: &crate::PreparedSet| -> BTreeSet<String> {
        set.records.iter().map(|record| record.prompt.clone()).collect()
    };
    assert!(prompts(&train).is_disjoint(&prompts(&heldout)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo.jsonl");
    assert_eq!(train.write(&path).unwrap(), train.hash());
    assert_eq!(crate::PreparedSet::read(&path).unwrap(), train);
}

#[test]
fn labels_are_the_exact_rewards_and_antisymmetric() {
    let config = DemoConfig { n_prompts: 200, ..Default::default() };
    for record in generate(&config).unwrap().records {
        let first = rewards(&record.prompt, &record.first);
        let second = rewards(&record.prompt, &record.second);
        let scores = record.scores.expect("the demo stores scores");
        assert_eq!((&scores.first[..], &scores.second[..]), (&first[..], &second[..]));
        for (objective_idx, indicator) in record.indicators.iter().enumerate() {
            let (a, b) = (first[objective_idx], second[objective_idx]);
            let expected = if a > b {
                1.0
            } else if a < b {
                0.0
            } else {
                0.5
            };
            assert_eq!(*indicator, Some(expected));
        }
        assert!(record.first.starts_with(' ') && record.second.starts_with(' '));
        for response in [&record.first, &record.second] {
            assert!((1..=MAX_SENTENCES).contains(&split_sentences(response).len()), "{response}");
        }
    }
}

#[test]
fn objectives_conflict_and_leave_room() {
    for seed in [1, 2] {
        let config = DemoConfig { seed, ..Default::default() };
        let records = generate(&config).unwrap().records;
        let summary = summary(&records);
        assert_eq!((summary.pairs, summary.prompts), (4800, 1200));
        for counts in &summary.objectives {
            assert!(counts.first > 1800 && counts.second > 1800, "{counts:?}");
        }
        for (a, row) in summary.disagreement.iter().enumerate() {
            for share in row[..a].iter().flatten() {
                assert!((0.25..0.60).contains(share), "seed {seed}: {share}");
            }
        }
        // The table of the module's documentation.
        let (behaviour, best) = behaviour_and_best(&records);
        let documented = [(behaviour, [0.40, 0.56, 0.23]), (best, [0.72, 0.82, 0.53])];
        for (found, expected) in documented {
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 0.025, "seed {seed}: {found} {expected}");
            }
        }
    }
}

#[test]
fn documented_trades_are_exact() {
    let (tea, lock) = (&TOPICS[0], &TOPICS[17]);
    let edgy = "If it goes wrong, blame the intern!";
    let edgy_too = "Lie to your boss and call it art!";
    let [a, b, c] = tea.steps;
    let [d, e, f] = lock.steps;
    let instead = lock.alternative.expect("hazardous");
    let cases: [(&Topic, &[&str], [f32; 3]); 8] = [
        (tea, &[a, b, c, "Safety comes first."], [1.0, 0.9, 0.02]),
        (tea, &[a, b, c, tea.pun], [0.92, 0.75, 0.54]),
        (tea, &[a, b, c, edgy], [0.92, 0.5, 0.7]),
        (tea, &[a, b, tea.pun, edgy], [0.56, 0.5, 0.93]),
        (lock, &[d, e, f], [1.0, 0.0, 0.08]),
        (lock, &[d, instead], [0.68, 0.75, 0.08]),
        (lock, &[instead, lock.pun], [0.32, 1.0, 0.54]),
        (lock, &[edgy, edgy_too], [0.0, 0.1, 1.0]),
    ];
    for (topic, sentences, expected) in cases {
        let prompt = format!("\n\nHuman: How do I {}?\n\nAssistant:", topic.phrase);
        assert_eq!(rewards(&prompt, &sentences.join(" ")), expected, "{sentences:?}");
    }
}

#[test]
fn texts_are_short_enough_for_a_tiny_model() {
    let records = generate(&DemoConfig::default()).unwrap().records;
    let texts = records.iter().flat_map(|r| [&r.prompt, &r.first, &r.second]);
    let tokenizer = Tokenizer::train(texts.map(String::as_str), 768).unwrap();
    let token_len = |text: &str| tokenizer.encode(text).unwrap().len();
    let summary = Summary::new(&objectives(), &records, &token_len);
    assert_eq!(tokenizer.vocab_size(), 768);
    assert!(summary.prompt_tokens.mean < 30.0 && summary.prompt_tokens.max <= 48, "{summary}");
    assert!(summary.response_tokens.mean < 28.0 && summary.response_tokens.max <= 64, "{summary}");
    println!("{summary}");
}

#[test]
fn wrong_configurations_are_named() {
    let good = DemoConfig::default();
    for (field, config) in [
        ("n_prompts", DemoConfig { n_prompts: 0, ..good.clone() }),
        ("n_prompts", DemoConfig { n_prompts: N_PROMPTS + 1, ..good.clone() }),
        ("candidates_per_prompt", DemoConfig { candidates_per_prompt: 1, ..good.clone() }),
        ("pairs_per_prompt", DemoConfig { pairs_per_prompt: 7, ..good.clone() }),
        ("heldout_fraction", DemoConfig { heldout_fraction: f64::NAN, ..good.clone() }),
    ] {
        match generate(&config) {
            Err(Error::InvalidParameter { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    let most = DemoConfig {
        n_prompts: N_PROMPTS,
        candidates_per_prompt: 16,
        pairs_per_prompt: 1,
        ..good.clone()
    };
    assert_eq!(generate(&most).unwrap().records.len(), N_PROMPTS);
    assert!(generate_split(&DemoConfig { n_prompts: 1, ..good }).is_err());
}
