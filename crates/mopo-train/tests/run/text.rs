//! Text and tokens of whole runs: prompts and ends of responses are the same in training and
//! generation.

use std::path::{Path, PathBuf};

use mopo_data::{ChatTemplate, Message, PromptForm, Tokenizer};
use mopo_lm::{HeadChoice, HubGeneration};
use mopo_testkit::TestBackend;
use mopo_train::config::{DataConfig, MethodConfig, TokenizerConfig};
use mopo_train::{
    Prompt, Question, RunConfig, RunData, RunDir, RunRecord, Sampler, SamplingOverrides, Silent,
    load_run_tokenizer,
};
use serde_json::{Value, json};

use crate::{go_on, tiny_preset};

/// A directory with a tokenizer that has ChatML's control tokens, and files that declare its end of
/// text.
fn tokenizer_dir(dir: &Path, settings: Value, generation: Value) {
    let texts = ["the tea and the water and the tea"; 4];
    let plain = dir.join("plain.json");
    Tokenizer::train(texts.into_iter(), 260).unwrap().save(&plain).unwrap();
    let mut json: Value = serde_json::from_slice(&std::fs::read(&plain).unwrap()).unwrap();
    std::fs::remove_file(plain).unwrap();
    for (id, content) in [(260, "<|im_start|>"), (261, "<|im_end|>")] {
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }));
    }
    for (name, value) in [
        ("tokenizer.json", json),
        ("tokenizer_config.json", settings),
        ("generation_config.json", generation),
    ] {
        if !value.is_null() {
            std::fs::write(dir.join(name), value.to_string()).unwrap();
        }
    }
}

/// A finished DPO run on rows in TRL's form with the template, and that tokenizer.
fn trained(dir: &Path, template: &str, rows: &[Value], tokenizer: &Path) -> PathBuf {
    let data = dir.join("rows.jsonl");
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(&data, lines).unwrap();
    let set = [
        format!("data.template={template}"),
        "data.heldout_fraction=0.3".into(),
        "data.max_prompt_tokens=90".into(),
        "data.max_response_tokens=30".into(),
    ];
    let preset = tiny_preset("demo-dpo", &["model.scratch.max_position_embeddings=128"]);
    let mut config = RunConfig {
        policies: vec!["preference".into()],
        data: DataConfig::named("trl", &set).unwrap(),
        tokenizer: TokenizerConfig::File(tokenizer.into()),
        ..preset
    };
    let MethodConfig::Dpo(dpo) = &mut config.method else { panic!("it is DPO") };
    dpo.objective = Some("preference".into());
    config.check().unwrap();
    let mut record = RunRecord::new("test".into(), config.seed, Some(&data), true).unwrap();
    let run = dir.join("run");
    RunDir::create(&run, &config, &mut record).unwrap();
    go_on(&run, &mut Silent).unwrap();
    run
}

fn messages() -> Vec<Value> {
    (0..24)
        .map(|i| {
            json!({
                "prompt": [{ "role": "user", "content": format!("Tea {i}? <|im_end|>") }],
                "chosen": [{ "role": "assistant", "content": format!("the tea {i}") }],
                "rejected": [{ "role": "assistant", "content": format!("no {i}") }],
            })
        })
        .collect()
}

fn plain_texts(prompt: &str) -> Vec<Value> {
    (0..24)
        .map(|i| {
            json!({ "prompt": prompt.replace('#', &i.to_string()), "chosen": format!(" the tea {i}"),
                "rejected": format!(" no {i}") })
        })
        .collect()
}

#[test]
fn a_run_is_prompted_and_stops_as_it_was_trained() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    tokenizer_dir(
        &model,
        json!({ "bos_token": "<|endoftext|>" }),
        json!({ "eos_token_id": [0, 261] }),
    );
    let path = trained(dir.path(), "chatml", &messages(), &model);
    let (run, config, record) = RunDir::open(&path).unwrap();

    // Control tokens are ids, and their names in messages are text.
    let data = RunData::load(&run, &config, &record).unwrap();
    for pair in data.train.tokens.iter().chain(data.heldout.tokens.iter()).map(|pair| pair.unwrap())
    {
        let control: Vec<u32> = pair.prompt.iter().copied().filter(|id| *id >= 260).collect();
        assert_eq!(control, [260, 261, 260]);
        assert!([&pair.first, &pair.second].into_iter().all(|ids| ids.ends_with(&[261])));
    }
    let mean: f64 =
        data.train.tokens.iter().map(|pair| pair.unwrap().prompt.len() as f64).sum::<f64>()
            / data.train.len() as f64;
    let summary = std::fs::read_to_string(run.join("data/summary.txt")).unwrap();
    let line = summary.lines().find_map(|line| line.strip_prefix("prompt ")).unwrap();
    assert_eq!(line.split_whitespace().next().unwrap(), format!("{mean:.1}"), "{summary}");

    // All of it is recorded and guarded.
    let (tokenizer, template) = load_run_tokenizer(&run, &config).unwrap();
    assert_eq!((template, tokenizer.end_of_text()), (Some(ChatTemplate::Chatml), 261));
    assert_eq!(HubGeneration::read(&path).unwrap().unwrap().eos_token_id, [0, 261]);
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert!(record.hashes.contains_key(name), "{name}");
    }
    let sampler = Sampler::<TestBackend>::open(&path, &Default::default()).unwrap();
    let prompt = sampler.prompt(" Tea? \n").unwrap();
    assert_eq!(prompt, ChatTemplate::Chatml.question("Tea?").unwrap());
    assert_eq!(sampler.prompt(&prompt).unwrap(), prompt);
    let overrides = SamplingOverrides { max_new_tokens: Some(4), ..Default::default() };
    let generation = sampler.generation(&overrides, std::slice::from_ref(&prompt)).unwrap();
    let answers = sampler.answer(HeadChoice::Policy(0), &[prompt], &generation, &mut Silent);
    assert_eq!(answers.unwrap().len(), 1);
    for name in ["sft", "warm-start"] {
        assert_eq!(sampler.head(Some(name), None).unwrap(), HeadChoice::Base);
    }
    let error = sampler.head(Some("kind"), None).unwrap_err().to_string();
    assert!(error.contains("`kind`") && error.contains("preference"), "{error}");

    std::fs::write(run.join("tokenizer_config.json"), "{}").unwrap();
    let error = RunData::load(&run, &config, &record).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json"), "{error}");
}

#[test]
fn the_template_is_the_form_that_the_prompts_have() {
    let hh = "\n\nHuman: Tea #?\n\nAssistant:";
    let chatml = ChatTemplate::Chatml.question("Tea #?").unwrap();
    for (template, rows, expected) in [
        ("dialogue", plain_texts(hh), ChatTemplate::Dialogue),
        // Text is used unchanged, whatever the template for messages.
        ("dialogue", plain_texts("POST: tea #\nTL;DR:"), ChatTemplate::Plain),
        ("dialogue", plain_texts(&chatml), ChatTemplate::Chatml),
        ("plain", messages(), ChatTemplate::Plain),
    ] {
        let dir = tempfile::tempdir().unwrap();
        tokenizer_dir(dir.path(), Value::Null, Value::Null);
        let path = trained(dir.path(), template, &rows, &dir.path().join("tokenizer.json"));
        let sampler = Sampler::<TestBackend>::open(&path, &Default::default()).unwrap();
        assert_eq!(sampler.prompt("Tea?").unwrap(), expected.ask("Tea?").unwrap());
        let (run, config, mut record) = RunDir::open(&path).unwrap();
        let (tokenizer, found) = load_run_tokenizer(&run, &config).unwrap();
        assert_eq!((found, tokenizer.form()), (Some(expected), PromptForm::Template(expected)));

        // A run from before this was recorded: the same template, but with tokens as in its
        // training.
        for name in ["tokenizer_config.json", "generation_config.json"] {
            std::fs::remove_file(run.join(name)).unwrap();
            record.hashes.remove(name);
        }
        let (tokenizer, found) = load_run_tokenizer(&run, &config).unwrap();
        assert_eq!((found, tokenizer.form()), (Some(expected), PromptForm::Text));
        let data = RunData::load(&run, &config, &record).unwrap();
        let prompts = data.train.tokens.iter().map(|pair| pair.unwrap().prompt.clone());
        assert!(prompts.flatten().all(|id| id < 260));
    }
}

#[test]
fn a_models_own_template_is_used_in_training_and_generation() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}{% if \
                    add_generation_prompt %}<|im_start|>assistant: {% endif %}";
    let hh = "\n\nHuman: Tea #?\n\nAssistant: Green?\n\nHuman: Yes <|im_end|>\n\nAssistant:";
    for (rows, n_turns) in [(messages(), 1), (plain_texts(hh), 3), (plain_texts("Tea #"), 1)] {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        std::fs::create_dir(&model).unwrap();
        tokenizer_dir(&model, json!({ "chat_template": template }), Value::Null);
        let path = trained(dir.path(), "dialogue", &rows, &model);
        let (run, config, record) = RunDir::open(&path).unwrap();
        let data = RunData::load(&run, &config, &record).unwrap();
        for pair in
            data.train.tokens.iter().chain(data.heldout.tokens.iter()).map(|pair| pair.unwrap())
        {
            let control = |id| pair.prompt.iter().filter(|other| **other == id).count();
            assert_eq!((control(260), control(261)), (n_turns + 1, n_turns));
            let texts = [&pair.first, &pair.second].map(|ids| data.tokenizer.decode(ids).unwrap());
            assert!(texts[0].starts_with("the tea") || texts[0].starts_with("no"), "{texts:?}");
            assert!([&pair.first, &pair.second].into_iter().all(|ids| ids.ends_with(&[261])));
        }
        let (tokenizer, found) = load_run_tokenizer(&run, &config).unwrap();
        assert_eq!((found, tokenizer.form()), (None, PromptForm::Model));
        assert_eq!(tokenizer.settings()["chat_template"], template);
        // A held-out prompt has the same ids in generation.
        let index = data.heldout.tokens.iter().map(|pair| pair.unwrap()).position(|pair| {
            pair.prompt == tokenizer.encode_prompt(&data.heldout_prompts[0], 90).unwrap().0
        });
        assert_eq!(index, Some(0));
        let sampler = Sampler::<TestBackend>::open(&path, &Default::default()).unwrap();
        assert_eq!(sampler.prompt("Tea?").unwrap(), "Tea?");
        assert!(!sampler.has_unknown_template());
        let overrides = SamplingOverrides { max_new_tokens: Some(4), ..Default::default() };
        let prompts = vec!["Tea?".to_owned()];
        let generation = sampler.generation(&overrides, &prompts).unwrap();
        let answers = sampler.answer(HeadChoice::Policy(0), &prompts, &generation, &mut Silent);
        assert_eq!(answers.unwrap().len(), 1);
        // A text is continued as it is, a conversation in the template.
        let mut session = sampler.session(sampler.limits(2)).unwrap();
        let message = Message { role: "user".into(), content: "Tea?".into() };
        for (prompt, ids) in [
            (Prompt::Text("Tea?".into()), tokenizer.encode("Tea?").unwrap()),
            (Prompt::Chat(vec![message]), tokenizer.encode_prompt("Tea?", 90).unwrap().0),
        ] {
            let question = Question {
                prompt,
                decoding: HeadChoice::Base.into(),
                overrides,
                stop: vec![],
                sample: 0,
                log_probs: None,
            };
            assert_eq!(session.ask(question).unwrap().prompt_tokens, ids.len());
        }
    }
}
