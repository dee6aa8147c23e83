//! Token ids, logits and scores against transformers'; batches against single texts.

use std::path::Path;
use std::process::Command;

use burn::tensor::backend::Backend;
use mopo_eval::Reward;
use mopo_eval::reward::{Label, ModelReward, ModelSpec, RewardSpec, local_directory};
use mopo_lm::TokenRow;

use super::{B, Case, MODELS, fixture, load, relative, told};

fn rows(reward: &ModelReward<B>, cases: &[Case]) -> Vec<TokenRow> {
    cases.iter().map(|case| reward.tokens(&case.prompt, &case.response).unwrap()).collect()
}

#[test]
fn token_ids_and_logits_are_those_of_transformers() {
    for model in MODELS {
        for told in told(model) {
            let reward = load(&told.settings, &fixture(model));
            let rows = rows(&reward, &told.cases);
            let logits = reward.logits(&rows);
            let mut largest: f32 = 0.0;
            for ((case, row), logits) in told.cases.iter().zip(&rows).zip(logits) {
                assert_eq!(row.ids, case.ids, "{model}: {:?} {:?}", case.prompt, case.response);
                largest = largest.max(relative(model, &logits, &case.logits));
            }
            let n = told.cases.len();
            assert!(n >= 8, "{model}: {n} texts");
            println!("{model}: {n} texts, largest relative difference {largest:.1e}");
        }
    }
}

#[test]
fn every_pooling_rule_is_that_of_some_version_of_transformers() {
    let mut seen = std::collections::BTreeSet::new();
    for model in ["gpt2", "gpt2-shards"] {
        for told in told(model) {
            for rule in ["last_token", "before_first_pad", "last_non_pad", "non_pad_count"] {
                let mut settings = told.settings.clone();
                settings.pooling = Some(serde_json::from_value(rule.into()).unwrap());
                let reward = load(&settings, &fixture(model));
                for case in &told.cases {
                    let Some(expected) = case.by_rule.get(rule) else { continue };
                    let row = reward.tokens(&case.prompt, &case.response).unwrap();
                    relative(rule, &reward.logits(&[row])[0], expected);
                    let distance = (expected[0] - case.logits[0]).abs();
                    seen.insert((rule, distance < 1e-3));
                }
            }
        }
    }
    // The fixtures have texts for which the rules differ.
    for rule in ["last_token", "before_first_pad", "non_pad_count"] {
        assert!(seen.contains(&(rule, false)), "{rule}: {seen:?}");
    }
    assert!(seen.contains(&("last_non_pad", true)) && !seen.contains(&("last_non_pad", false)));
}

#[test]
fn label_and_sign_choose_the_score() {
    let told = told("bart").swap_remove(0);
    for (label, sign) in [(0, 1), (0, -1), (1, 1)] {
        let settings = ModelSpec {
            label: Some(mopo_eval::reward::Label::Index(label)),
            sign: Some(sign),
            ..told.settings.clone()
        };
        let reward = load(&settings, &fixture("bart"));
        for case in &told.cases {
            let score = reward.score(&case.prompt, &case.response).unwrap();
            relative("bart", &[score], &[f32::from(sign) * case.logits[label]]);
        }
    }
    // By name, whatever the order in the file.
    let told = super::told("distilbert-bin").swap_remove(0);
    let reward = load(&told.settings, &fixture("distilbert-bin"));
    let case = &told.cases[0];
    relative("HUMOR", &[reward.score("", &case.response).unwrap()], &[case.logits[1]]);
}

#[test]
fn labels_of_one_model_are_rewards_that_share_it() {
    let told = told("bart").swap_remove(0);
    let spec = |label| {
        let mut spec = super::spec(&told.settings, &fixture("bart"));
        (spec.label, spec.name) = (Some(Label::Index(label)), Some(format!("label {label}")));
        RewardSpec::Model(Box::new(spec))
    };
    let specs = [spec(0), spec(1)];
    assert!(specs[0].shares_model(&specs[1]));
    let device = Default::default();
    let together = RewardSpec::build_all::<B>(&specs, &device, &local_directory).unwrap();
    let items: Vec<(&str, &str)> =
        told.cases.iter().map(|c| (c.prompt.as_str(), c.response.as_str())).collect();
    for (spec, reward) in specs.iter().zip(&together) {
        let alone = spec.build::<B>(&device, &local_directory).unwrap();
        assert_eq!(reward.score_batch(&items).unwrap(), alone.score_batch(&items).unwrap());
        // Kept from before, in another order and with others.
        let some = [items[3], items[0], ("new", "one")];
        assert_eq!(reward.score_batch(&some).unwrap(), alone.score_batch(&some).unwrap());
    }
}

#[test]
fn a_score_does_not_depend_on_its_batch() {
    for model in MODELS {
        let told = told(model);
        let told = &told[0];
        let dir = fixture(model);
        let reward = load(&told.settings, &dir);
        let items: Vec<(&str, &str)> =
            told.cases.iter().map(|c| (c.prompt.as_str(), c.response.as_str())).collect();
        let alone: Vec<f32> = items.iter().map(|(p, r)| reward.score(p, r).unwrap()).collect();
        let mut turned: Vec<usize> = (0..items.len()).collect();
        turned.reverse();
        turned.extend(0..items.len());
        // All in one batch, a few in each, one in each.
        for batch_tokens in [1 << 20, 200, 1] {
            let reward = load(&told.settings, &dir).with_batch_tokens(batch_tokens);
            let many: Vec<_> = turned.iter().map(|i| items[*i]).collect();
            let found = reward.score_batch(&many).unwrap();
            let expected: Vec<f32> = turned.iter().map(|i| alone[*i]).collect();
            // On other devices the last bits may differ.
            if B::name(&Default::default()).contains("flex") {
                let bits = |scores: &[f32]| scores.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&found), bits(&expected), "{model}, {batch_tokens}");
            }
            relative(model, &found, &expected);
        }
    }
}

#[test]
fn saved_models_are_loaded_here_and_by_transformers() {
    let out = tempfile::tempdir().unwrap();
    let mut dirs = vec![];
    for model in MODELS {
        let dir = out.path().join(model);
        let told = told(model);
        let reward = load(&told[0].settings, &fixture(model));
        reward.model().save(&dir).unwrap();
        reward.tokenizer().save(&dir).unwrap();
        // The file includes the settings of the model's tokenizer.
        let whole = "{\"tokenizer_class\": \"PreTrainedTokenizerFast\"}";
        std::fs::write(dir.join("tokenizer_config.json"), whole).unwrap();
        reward.settings().save(&dir).unwrap();
        // Its own reward.toml has the settings.
        let again = load(&ModelSpec::default(), &dir);
        assert_eq!(again.settings(), reward.settings());
        assert_eq!(again.model().labels(), reward.model().labels());
        let rows = rows(&reward, &told[0].cases);
        assert_eq!(rows, super::golden::rows(&again, &told[0].cases), "{model}");
        assert_eq!(again.logits(&rows), reward.logits(&rows), "{model}");
        let told = fixture(model).join("told.json");
        std::fs::copy(told, dir.join("told.json")).unwrap();
        dirs.push(dir);
    }
    let Some(python) = std::env::var_os("MOPO_REFERENCE_PYTHON") else {
        mopo_testkit::skip_rest!(
            "name a Python with tests/reward/requirements.txt in MOPO_REFERENCE_PYTHON"
        );
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reward/check_saved.py");
    let output = Command::new(python)
        .arg(script)
        .args(&dirs)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("the program that MOPO_REFERENCE_PYTHON names");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
