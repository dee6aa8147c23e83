//! Chat templates render as in transformers. The texts in `rendered.json` are written by
//! `make_fixtures.py`.

use std::collections::BTreeMap;
use std::path::Path;

use mopo_data::{JinjaTemplate, Message, Result, TemplateValue};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Fixture {
    now: String,
    conversations: Vec<Vec<Message>>,
    templates: BTreeMap<String, Case>,
    asked: Vec<Message>,
    expressions: Vec<Expression>,
}

#[derive(Deserialize)]
struct Case {
    variables: BTreeMap<String, Value>,
    /// For each conversation without and with a generation prompt; nothing where transformers
    /// refuses.
    texts: Vec<[Option<String>; 2]>,
}

#[derive(Deserialize)]
struct Expression {
    template: String,
    text: Option<String>,
}

fn fixture() -> Fixture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat/rendered.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn template(name: &str, fixture: &Fixture) -> JinjaTemplate {
    let path = format!("{}/tests/chat/templates/{name}.jinja", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let template = JinjaTemplate::new(name, &text).unwrap().with_time(&fixture.now).unwrap();
    fixture.templates[name].variables.iter().fold(template, |template, (name, value)| {
        let value: TemplateValue = match value {
            Value::Bool(on) => (*on).into(),
            other => other.as_str().unwrap().into(),
        };
        template.with_variable(name, value)
    })
}

/// Where ours differs from theirs, in words.
fn difference(ours: &Result<String>, theirs: Option<&str>) -> Option<String> {
    match (ours, theirs) {
        (Ok(ours), Some(theirs)) if ours == theirs => None,
        (Err(_), None) => None,
        _ => Some(format!("\n  ours   {ours:?}\n  theirs {theirs:?}")),
    }
}

#[test]
fn templates_of_every_family_render_as_in_transformers() {
    let fixture = fixture();
    let (mut n, mut wrong) = (0, String::new());
    for (name, case) in &fixture.templates {
        let template = template(name, &fixture);
        assert_eq!(case.texts.len(), fixture.conversations.len());
        for (messages, texts) in fixture.conversations.iter().zip(&case.texts) {
            for (theirs, prompt) in texts.iter().zip([false, true]) {
                let ours = template.render(messages, prompt);
                n += 1;
                if let Some(how) = difference(&ours, theirs.as_deref()) {
                    wrong += &format!("\n{name}, {messages:?}{how}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(n > 400, "only {n} texts");
}

#[test]
fn expressions_mean_what_they_mean_in_transformers() {
    let fixture = fixture();
    let mut wrong = String::new();
    for Expression { template, text } in &fixture.expressions {
        let ours = JinjaTemplate::new("expression", template)
            .and_then(|template| template.with_time(&fixture.now)?.render(&fixture.asked, false));
        if let Some(how) = difference(&ours, text.as_deref()) {
            wrong += &format!("\n{template}{how}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn segments_are_the_whole_text_and_responses_are_marked() {
    let fixture = fixture();
    let mut n = BTreeMap::new();
    for name in fixture.templates.keys() {
        let template = template(name, &fixture);
        for messages in &fixture.conversations {
            let (Ok(whole), Ok(segments)) =
                (template.render(messages, false), template.segments(messages))
            else {
                continue;
            };
            let joined: String = segments.iter().map(|segment| segment.text.as_str()).collect();
            assert_eq!(joined, whole, "{name}");
            let said = messages.iter().filter(|message| message.role == "assistant");
            let responses: Vec<&str> =
                segments.iter().filter(|s| s.is_response).map(|s| s.text.as_str()).collect();
            for (message, response) in said.zip(&responses) {
                assert!(response.contains(message.content.trim()), "{name}: {response:?}");
            }
            if let [.., last] = messages.as_slice()
                && last.role == "assistant"
            {
                let (prompt, response) = template.last_response(messages).unwrap();
                assert_eq!(prompt + &response, whole, "{name}");
                assert_eq!(Some(&response.as_str()), responses.last(), "{name}");
            }
            *n.entry(name.as_str()).or_insert(0) += responses.len();
        }
    }
    for (name, least) in
        [("llama3", 20), ("smollm", 20), ("qwen2", 20), ("gemma", 10), ("mistral", 10)]
    {
        assert!(n[name] >= least, "{name}: {n:?}");
    }
}

#[test]
fn a_response_ends_with_what_ends_its_turn() {
    let fixture = fixture();
    let messages = &fixture.conversations[4];
    for (name, prompt, response) in [
        ("smollm", "<|im_start|>assistant\n", "Yes.<|im_end|>\n"),
        ("qwen2", "<|im_start|>assistant\n", "Yes.<|im_end|>\n"),
        ("llama3", "<|start_header_id|>assistant<|end_header_id|>\n\n", "Yes.<|eot_id|>"),
        ("mistral", "[INST] Tea?[/INST]", " Yes.</s>"),
        ("llama2", "[INST] Tea? [/INST]", " Yes. </s>"),
        ("gemma", "<start_of_turn>model\n", "Yes.<end_of_turn>\n"),
    ] {
        let segments = template(name, &fixture).segments(messages).unwrap();
        let [.., before, last] = segments.as_slice() else { panic!("{name}: {segments:?}") };
        assert!(before.text.ends_with(prompt) && !before.is_response, "{name}: {before:?}");
        assert!(last.text == response && last.is_response, "{name}: {last:?}");
    }
}

#[test]
fn a_template_that_changes_earlier_turns_is_named() {
    let fixture = fixture();
    // Thoughts are left out of all turns but the last.
    let error =
        template("qwen3", &fixture).segments(&fixture.conversations[4]).unwrap_err().to_string();
    for part in ["chat template qwen3", "message 1", "last response alone"] {
        assert!(error.contains(part), "{error}");
    }
    let (prompt, response) =
        template("qwen3", &fixture).last_response(&fixture.conversations[4]).unwrap();
    assert!(prompt.ends_with("<think>\n\n</think>\n\n"), "{prompt}");
    assert_eq!(response, "Yes.<|im_end|>\n");
}
