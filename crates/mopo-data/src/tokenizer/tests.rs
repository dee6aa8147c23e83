//! Training and loading, ids and control tokens, and invalid files of every kind.

use super::*;
use crate::PreferenceRecord;
use proptest::prelude::*;
use std::path::PathBuf;
use std::sync::LazyLock;

static TEXTS: [&str; 4] = [
    "\n\nHuman: How do I boil the water?\n\nAssistant:",
    " Boil the water first. Then warm the pot. Boil more water.",
    "Größe, 茶, naïve café 🫖",
    "a aa aaa aaaa ab abab bababa the there then them",
];
static TRAINED: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::train(TEXTS.into_iter(), 320).unwrap());

#[test]
fn training_is_deterministic_and_files_round_trip() {
    let again = Tokenizer::train(TEXTS.into_iter(), 320).unwrap();
    assert_eq!(again.sha256(), TRAINED.sha256());
    assert!(TRAINED.vocab_size() > 257 && TRAINED.vocab_size() <= 320);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    TRAINED.save(&path).unwrap();
    let loaded = Tokenizer::load(&path).unwrap();
    assert_eq!(loaded.sha256(), TRAINED.sha256());
    assert_eq!(sha256_hex(&std::fs::read(&path).unwrap()), TRAINED.sha256());
    assert_eq!(loaded.encode(TEXTS[1]).unwrap(), TRAINED.encode(TEXTS[1]).unwrap());
    assert_eq!(loaded.vocab_size(), TRAINED.vocab_size());
}

#[test]
fn a_note_has_room_of_its_own() {
    let note = "<rm1_score> 0.7 <rm2_score> -1.2";
    let plain = TRAINED.encode_prompt(TEXTS[0], usize::MAX).unwrap().0;
    let noted = TRAINED.encode_prompt(&crate::with_note(TEXTS[0], note), usize::MAX).unwrap().0;
    let room = noted.len() - plain.len();
    assert!(room > plain.len(), "the note would leave nothing of the question");
    let encode = |most| TRAINED.encode_noted_prompt(TEXTS[0], note, most).unwrap();
    for most in [plain.len(), plain.len() + 1, usize::MAX] {
        assert_eq!(encode(most), noted);
    }
    // Cut at the left to as much of the prompt as without the note.
    for cut in 1..plain.len() {
        let kept = plain.len() - cut;
        let expected =
            TRAINED.encode_prompt(&crate::with_note(TEXTS[0], note), kept + room).unwrap().0;
        assert_eq!(encode(kept), expected);
        assert_eq!(expected.len(), kept + room);
    }
    let record = PreferenceRecord {
        id: "a".into(),
        source: "a".into(),
        prompt: TEXTS[0].into(),
        messages: None,
        first: String::new(),
        second: String::new(),
        indicators: vec![],
        scores: None,
    };
    let of = |most, whole| TRAINED.encode_noted_prompt_of(&record, note, most, whole).unwrap();
    assert_eq!(of(9, usize::MAX), encode(9));
    // And no more in all than there is room for.
    assert_eq!(of(9, room + 4), noted[noted.len() - room - 4..]);
    assert_eq!(of(usize::MAX, 7), noted[noted.len() - 7..]);
}

#[test]
fn texts_join_and_special_tokens_are_text() {
    let (a, b) = (TRAINED.encode(TEXTS[0]).unwrap(), TRAINED.encode(TEXTS[1]).unwrap());
    let joined = TRAINED.encode(&format!("{}{}", TEXTS[0], TEXTS[1])).unwrap();
    assert_eq!([a, b.clone()].concat(), joined);
    let text = format!("a{END_OF_TEXT}b");
    let ids = TRAINED.encode(&text).unwrap();
    assert!(!ids.contains(&TRAINED.end_of_text()));
    assert_eq!(TRAINED.end_of_text_token(), END_OF_TEXT);
    assert_eq!(TRAINED.decode(&ids).unwrap(), text);
    let mut ended = b;
    ended.push(TRAINED.end_of_text());
    assert_eq!(TRAINED.decode(&ended).unwrap(), TEXTS[1]);
}

#[test]
fn errors_say_what_to_do() {
    let error = Tokenizer::train(TEXTS.into_iter(), 256).unwrap_err().to_string();
    assert!(error.contains("`vocab_size` is 256"), "{error}");
    let error = TRAINED.check_fits(300).unwrap_err().to_string();
    assert!(error.contains("vocabulary 300"), "{error}");
    TRAINED.check_fits(TRAINED.vocab_size()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let error = Tokenizer::load(&path).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
    std::fs::write(&path, "{}").unwrap();
    assert!(Tokenizer::load(&path).is_err());
    let json = String::from_utf8(TRAINED.json.clone()).unwrap();
    std::fs::write(&path, json.replace(END_OF_TEXT, "<none>")).unwrap();
    let error = Tokenizer::load(&path).unwrap_err().to_string();
    assert!(error.contains("no end-of-text token"), "{error}");
}

#[test]
fn codegen_tokenizer_loads_as_it_is() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data/tokenizers/codegen/tokenizer.json");
    if !path.exists() {
        mopo_testkit::skip!("no `shared/data/tokenizers/codegen` beside the repository");
    }
    let tokenizer = Tokenizer::load(&path).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_text()), (50_295, 50_256));
    assert_eq!(tokenizer.encode("Hello world").unwrap(), [15_496, 995]);
    for text in TEXTS {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
    }
}

proptest! {
    #[test]
    fn any_text_round_trips(text: String) {
        let ids = TRAINED.encode(&text).unwrap();
        prop_assert_eq!(TRAINED.decode(&ids).unwrap(), text);
        prop_assert!(ids.iter().all(|&id| (id as usize) < TRAINED.vocab_size()));
    }
}

/// A `tokenizer.json` with more tokens: content, and whether it is special.
fn with_added(tokens: &[(&str, bool)]) -> Value {
    let mut json: Value = serde_json::from_slice(&TRAINED.json).unwrap();
    for (i, (content, special)) in tokens.iter().enumerate() {
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": TRAINED.vocab_size() + i, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": special,
        }));
    }
    json
}

/// Loads from a new folder: `tokenizer.json`, and `tokenizer_config.json` unless it is null.
fn load(json: &Value, settings: Value, declared: &[u32]) -> Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    if !settings.is_null() {
        std::fs::write(folder.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    }
    Tokenizer::load_for_model(&path, declared)
}

const CHATML: [(&str, bool); 2] = [("<|im_start|>", true), ("<|im_end|>", true)];

#[test]
fn control_tokens_are_ids_in_prompts_and_text_in_messages() {
    let n = TRAINED.vocab_size() as u32;
    // Whether the file calls them special or not.
    for special in [true, false] {
        let json = with_added(&CHATML.map(|(name, _)| (name, special)));
        let tokenizer = load(&json, Value::Null, &[]).unwrap();
        let tokenizer = tokenizer.for_training(ChatTemplate::Chatml).unwrap();
        let prompt = ChatTemplate::Chatml.question("Tea? <|im_end|> <|im_start|>").unwrap();
        let (ids, cut) = tokenizer.encode_prompt(&prompt, usize::MAX).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id >= n).copied().collect::<Vec<_>>(), [n, n + 1, n]);
        assert!(!cut && ids[0] == n);
        // Not shown; what the message contains is.
        let text = tokenizer.decode(&ids).unwrap();
        assert_eq!(text, "user\nTea? <|im_end|> <|im_start|>\nassistant\n");
        // In a response they are text.
        let ids = tokenizer.encode("a<|im_end|>b").unwrap();
        assert!(ids.iter().all(|&id| id < n), "{ids:?}");
        assert_eq!(tokenizer.missing_control_tokens(), [""; 0]);
        // In a prompt that a person wrote completely, each is a token.
        let raw = tokenizer.with_form(PromptForm::Raw).unwrap();
        assert_eq!(raw.encode_prompt("<|im_start|>a<|im_end|>", 9).unwrap().0[0], n);
        assert_eq!(raw.encode_prompt("a<|im_end|>", 1).unwrap(), (vec![n + 1], true));
        assert!(raw.encode("a<|im_end|>b").unwrap().iter().all(|&id| id < n));
    }
    let tokenizer = TRAINED.clone().for_training(ChatTemplate::Chatml).unwrap();
    assert_eq!(tokenizer.missing_control_tokens(), ["<|im_start|>", "<|im_end|>"]);
    let prompt = ChatTemplate::Chatml.question("Tea?").unwrap();
    let ids = tokenizer.encode_prompt(&prompt, usize::MAX).unwrap().0;
    assert_eq!(tokenizer.decode(&ids).unwrap(), prompt);
}

#[test]
fn control_tokens_take_the_white_space_that_they_ask_for() {
    let mut json = with_added(&CHATML);
    json["added_tokens"][2]["rstrip"] = true.into(); // <|im_end|>
    let tokenizer = load(&json, Value::Null, &[]).unwrap();
    let prompt = ChatTemplate::Chatml.question("Tea?").unwrap();
    let tokenizer = tokenizer.for_training(ChatTemplate::Chatml).unwrap();
    let ids = tokenizer.encode_prompt(&prompt, usize::MAX).unwrap().0;
    assert_eq!(tokenizer.decode(&ids).unwrap(), "user\nTea?assistant\n");
    let raw = tokenizer.with_form(PromptForm::Raw).unwrap();
    assert_eq!(raw.encode_prompt(&prompt, usize::MAX).unwrap().0, ids);
}

#[test]
fn the_declared_end_is_trained_and_stops() {
    let n = TRAINED.vocab_size() as u32;
    let json = with_added(&CHATML);
    let eos = |name: &str| json!({ "eos_token": name });
    let table = json!({ "eos_token": { "content": "<|im_end|>", "special": true } });
    for (settings, declared, template, end, stops) in [
        (Value::Null, vec![], ChatTemplate::Dialogue, 0, vec![0]),
        (Value::Null, vec![], ChatTemplate::Chatml, n + 1, vec![n + 1]),
        (Value::Null, vec![n + 1], ChatTemplate::Dialogue, n + 1, vec![n + 1]),
        (Value::Null, vec![0, n + 1], ChatTemplate::Dialogue, 0, vec![0, n + 1]),
        (Value::Null, vec![0, n + 1], ChatTemplate::Chatml, n + 1, vec![0, n + 1]),
        (Value::Null, vec![0], ChatTemplate::Chatml, 0, vec![0]),
        (eos("<|im_end|>"), vec![], ChatTemplate::Dialogue, n + 1, vec![n + 1]),
        (table, vec![], ChatTemplate::Dialogue, n + 1, vec![n + 1]),
        (eos("<|im_end|>"), vec![0, n + 1], ChatTemplate::Dialogue, n + 1, vec![0, n + 1]),
        (eos("<|endoftext|>"), vec![n + 1], ChatTemplate::Dialogue, n + 1, vec![n + 1]),
        (eos("<|endoftext|>"), vec![], ChatTemplate::Chatml, 0, vec![0]),
        // An id that is not a token is never generated; others are.
        (Value::Null, vec![9999, n + 1], ChatTemplate::Dialogue, n + 1, vec![n + 1]),
    ] {
        let what = format!("{settings} {declared:?} {template:?}");
        let found = load(&json, settings, &declared).unwrap().for_training(template).unwrap();
        assert_eq!((found.end_of_text(), found.stops()), (end, stops.as_slice()), "{what}");
        // What a run writes is read back unchanged.
        let again = load(&json, found.settings(), found.stops()).unwrap();
        assert_eq!((again.end_of_text(), again.stops()), (end, stops.as_slice()), "{what}");
        assert_eq!(again.form(), PromptForm::Template(template));
        assert_eq!(again.settings(), found.settings());
    }
    let error = load(&json, Value::Null, &[9999]).unwrap_err().to_string();
    assert!(error.contains("9999") && error.contains("tokenizer.json"), "{error}");
    let error = load(&json, eos("</s>"), &[]).unwrap_err().to_string();
    assert!(error.contains("`eos_token` is \"</s>\"") && error.contains("config.json"), "{error}");
    // A declared end-of-text token without a usual name.
    let json: Value =
        serde_json::from_str(&json.to_string().replace(END_OF_TEXT, "<fin>")).unwrap();
    let json: Value = serde_json::from_str(&json.to_string().replace("im_end", "fin2")).unwrap();
    assert!(load(&json, Value::Null, &[]).is_err());
    assert_eq!(load(&json, Value::Null, &[n + 1]).unwrap().end_of_text(), n + 1);
    assert_eq!(load(&json, eos("<fin>"), &[]).unwrap().end_of_text_token(), "<fin>");
}

#[test]
fn a_beginning_token_is_put_before_prompts_and_stays_when_they_are_cut() {
    let bos = json!({ "add_bos_token": true, "bos_token": "<|im_start|>" });
    let json = with_added(&CHATML);
    let n = TRAINED.vocab_size() as u32;
    let dialogue = PromptForm::Template(ChatTemplate::Dialogue);
    let tokenizer = load(&json, bos.clone(), &[]).unwrap();
    assert_eq!(tokenizer.encode("abc").unwrap(), tokenizer.encode_prompt("abc", 99).unwrap().0);
    let tokenizer = tokenizer.with_form(dialogue).unwrap();
    let (ids, _) = tokenizer.encode_prompt("the pot", 99).unwrap();
    assert_eq!((ids[0], &ids[1..]), (n, tokenizer.encode("the pot").unwrap().as_slice()));
    let (cut, was_cut) = tokenizer.encode_prompt("the pot", 2).unwrap();
    assert_eq!((cut, was_cut), (vec![n, *ids.last().unwrap()], true));
    assert_eq!(tokenizer.settings()["add_bos_token"], true);
    // The same by the tokenizer's own post-processor, unless the settings say no.
    let mut own = json.clone();
    own["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"x": {"id": "x", "ids": [n], "tokens": ["<|im_start|>"]}},
    });
    let found = load(&own, Value::Null, &[]).unwrap().with_form(dialogue).unwrap();
    assert_eq!(found.encode_prompt("the pot", 99).unwrap().0, ids);
    let off = load(&own, json!({ "add_bos_token": false }), &[]).unwrap();
    let off = off.with_form(dialogue).unwrap();
    assert_eq!(off.encode_prompt("the pot", 99).unwrap().0, ids[1..]);
    own["post_processor"]["single"].as_array_mut().unwrap().reverse();
    let error = load(&own, Value::Null, &[]).unwrap().with_form(dialogue).unwrap_err().to_string();
    assert!(error.contains("post_processor"), "{error}");
}

#[test]
fn settings_are_honoured_or_refused_by_key() {
    let json = with_added(&CHATML);
    let n = TRAINED.vocab_size();
    // As in the published files of phi-1.5 and others.
    let usual = json!({
        "add_prefix_space": false, "bos_token": "<|endoftext|>", "clean_up_tokenization_spaces": true,
        "eos_token": "<|endoftext|>", "model_max_length": 2048, "tokenizer_class": "CodeGenTokenizer",
        "unk_token": "<|endoftext|>", "return_token_type_ids": false, "pad_token": null,
        "add_eos_token": false, "image_token": "<image>", "chat_template": "{{ messages }}",
        "added_tokens_decoder": { n.to_string(): { "content": "<|im_start|>", "special": true } },
        "additional_special_tokens": ["<|im_end|>"],
    });
    load(&json, usual, &[]).unwrap();
    for (key, value, words) in [
        ("add_eos_token", json!(true), "not supported"),
        ("do_lower_case", json!(true), "not supported"),
        ("split_special_tokens", json!(true), "not supported"),
        ("strip_accents", json!(true), "not supported"),
        ("add_bos_token", json!("yes"), "true or false"),
        ("add_bos_token", json!(true), "`bos_token`"),
        ("add_prefix_space", json!(3), "true or false"),
        ("eos_token", json!(7), "as text"),
        ("extra_ids", json!(100), "not supported"),
        ("additional_special_tokens", json!(["<tool>"]), "no such token"),
        ("extra_special_tokens", json!({ "tool": "<tool>" }), "no such token"),
        ("added_tokens_decoder", json!({ "9": { "content": "<|im_end|>" } }), "with the id"),
        ("added_tokens_decoder", json!({ "9": { "content": "<tool>" } }), "no such token"),
    ] {
        let mut settings = serde_json::Map::new();
        settings.insert(key.into(), value);
        let error = load(&json, settings.into(), &[])
            .and_then(|tokenizer| tokenizer.with_form(PromptForm::Raw))
            .unwrap_err()
            .to_string();
        for expected in [key, words, "tokenizer_config.json"] {
            assert!(error.contains(expected), "{error}");
        }
    }
    // A space before each text, as in transformers.
    let spaced = load(&json, json!({ "add_prefix_space": true }), &[]).unwrap();
    assert_eq!(spaced.encode("the pot").unwrap(), TRAINED.encode(" the pot").unwrap());
    assert_eq!(spaced.settings()["add_prefix_space"], true);
    assert_ne!(spaced.sha256(), load(&json, Value::Null, &[]).unwrap().sha256());
    let again: Value = serde_json::from_slice(&spaced.json).unwrap();
    let back = load(&again, json!({ "add_prefix_space": false }), &[]).unwrap();
    assert_eq!(back.encode("the pot").unwrap(), TRAINED.encode("the pot").unwrap());

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), "{\"eos_token\"").unwrap();
    let error = TokenizerSettings::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json"), "{error}");
}

#[test]
fn a_file_that_cannot_be_looked_for_is_not_taken_for_absent() {
    for name in ["chat_template.jinja", "special_tokens_map.json", "tokenizer_config.json"] {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(name, folder.path().join(name)).unwrap();
        let error = TokenizerSettings::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn files_beside_the_settings_are_read_as_transformers_reads_them() {
    let n = TRAINED.vocab_size() as u32;
    let json = with_added(&CHATML);
    let load = |settings: Value, special: &str, template: Option<&str>| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, json.to_string()).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
        std::fs::write(folder.path().join("special_tokens_map.json"), special).unwrap();
        if let Some(text) = template {
            std::fs::write(folder.path().join("chat_template.jinja"), text).unwrap();
        }
        Tokenizer::load(&path)
    };
    let (name, table) =
        (r#"{"eos_token": "<|im_end|>"}"#, r#"{"eos_token": {"content": "<|im_end|>"}}"#);
    let listed = json!({ "0": { "content": END_OF_TEXT, "special": true } });
    for (settings, special, end) in [
        (json!({}), name, n + 1),
        (json!({}), table, n + 1),
        (json!({ "eos_token": null }), name, n + 1),
        // The older file goes first, unless the newer one lists its tokens.
        (json!({ "eos_token": END_OF_TEXT }), name, n + 1),
        (json!({ "eos_token": END_OF_TEXT, "added_tokens_decoder": listed }), name, 0),
        (json!({ "added_tokens_decoder": listed }), name, n + 1),
        (json!({ "eos_token": "<|im_end|>" }), r#"{"eos_token": null, "x": 3}"#, n + 1),
        (json!({}), "{}", 0),
    ] {
        let tokenizer = load(settings.clone(), special, None).unwrap();
        assert_eq!(tokenizer.end_of_text(), end, "{settings} {special}");
        assert_eq!(tokenizer.settings()["eos_token"], tokenizer.end_of_text_token());
    }
    for special in ["", "[]", r#"{"eos_token": "<nope>"}"#, r#"{"eos_token": 3}"#] {
        let error = load(json!({}), special, None).unwrap_err().to_string();
        assert!(error.contains("special_tokens_map.json"), "{special}: {error}");
    }

    let chatml = ChatTemplate::Chatml.jinja();
    let known = PromptForm::Template(ChatTemplate::Chatml);
    let named = |name: &str| json!([{ "name": name, "template": chatml }]);
    for (settings, file, form, is_unknown) in [
        (json!({ "chat_template": chatml }), None, known, false),
        (json!({ "chat_template": named("default") }), None, known, false),
        (json!({ "chat_template": { "default": chatml } }), None, known, false),
        (json!({ "chat_template": named("tool_use") }), None, PromptForm::Text, true),
        (json!({ "chat_template": "{{ x }}" }), None, PromptForm::Model, false),
        (json!({ "chat_template": "{% include 'x' %}" }), None, PromptForm::Text, true),
        (json!({}), None, PromptForm::Text, false),
        (json!({}), Some(format!("{chatml}\n")), known, false),
        (json!({ "chat_template": "{{ x }}" }), Some(chatml.into()), known, false),
        (json!({ "chat_template": chatml }), Some("{{ x }}".into()), PromptForm::Model, false),
    ] {
        let tokenizer = load(settings.clone(), "{}", file.as_deref()).unwrap();
        let found = (tokenizer.form(), tokenizer.has_unknown_template());
        assert_eq!(found, (form, is_unknown), "{settings} {file:?}");
    }
    let error = load(json!({ "chat_template": 5 }), "{}", None).unwrap_err().to_string();
    assert!(error.contains("`chat_template` is 5") && error.contains("as text"), "{error}");

    // What is listed otherwise than in tokenizer.json, where it makes a difference.
    for flag in ["lstrip", "rstrip", "single_word"] {
        let token = json!({ "content": END_OF_TEXT, flag: true });
        let settings = json!({ "added_tokens_decoder": { "0": token } });
        let error = load(settings, "{}", None).unwrap_err().to_string();
        assert!(error.contains("added_tokens_decoder.0") && error.contains(flag), "{error}");
    }
    let token = json!({ "content": END_OF_TEXT, "lstrip": false, "normalized": true });
    load(json!({ "added_tokens_decoder": { "0": token } }), "{}", None).unwrap();
    // An export names no token that the tokenizer lacks.
    let roles = json!({ "pad_token": "[PAD]", "unk_token": "<unk>", "bos_token": "<|im_start|>" });
    let settings = load(roles, "{}", None).unwrap().settings();
    assert_eq!(
        (&settings["pad_token"], &settings["bos_token"]),
        (&json!(END_OF_TEXT), &json!("<|im_start|>"))
    );
    assert_eq!(settings.get("unk_token"), None);
}

/// An invalid file is an error that names it, never a panic. `None`: it may also load.
fn assert_refused(json: &[u8], words: Option<&str>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json).unwrap();
    match (Tokenizer::load(&path), words) {
        (Err(error), words) => {
            let error = error.to_string();
            assert!(error.contains("tokenizer.json"), "{error}");
            assert!(error.contains(words.unwrap_or_default()), "{error}");
        }
        // It loads and works.
        (Ok(tokenizer), None) => {
            let raw = tokenizer.with_form(PromptForm::Raw);
            drop(raw.and_then(|raw| raw.encode_prompt("Hello <|im_end|>", 9)));
        }
        (Ok(_), Some(words)) => panic!("accepted: {words}"),
    }
}

/// A small file with every part on which the library is known to fail.
fn small() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 0, "content": END_OF_TEXT, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\d"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "e", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"e": {"id": "e", "ids": [0], "tokens": [END_OF_TEXT]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {END_OF_TEXT: 0, "h": 1, "e": 2, "l": 3, "o": 4, "he": 5}, "merges": [["h", "e"]]},
    })
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused_by_its_name() {
    for text in [small().to_string(), serde_json::to_string_pretty(&small()).unwrap()] {
        for end in 0..text.len() {
            assert_refused(&text.as_bytes()[..end], Some("JSON"));
        }
        assert!(Tokenizer::new(text.into_bytes(), Default::default(), &[], "x").is_ok());
    }
}

/// All ways to remove something from a value, or to replace it by something else.
fn damaged(value: &Value) -> Vec<Value> {
    let mut all: Vec<Value> =
        [json!(null), json!(-1), json!("x"), json!([]), json!({}), json!(1e30)]
            .into_iter()
            .filter(|other| other != value)
            .collect();
    match value {
        Value::Object(map) => {
            for key in map.keys() {
                let mut without = map.clone();
                without.remove(key);
                all.push(without.into());
                for inner in damaged(&map[key]) {
                    let mut with = map.clone();
                    with[key] = inner;
                    all.push(with.into());
                }
            }
        }
        Value::Array(list) => {
            for i in 0..list.len() {
                let mut without = list.clone();
                without.remove(i);
                all.push(without.into());
                for inner in damaged(&list[i]) {
                    let mut with = list.clone();
                    with[i] = inner;
                    all.push(with.into());
                }
            }
        }
        _ => {}
    }
    all
}

#[test]
fn a_file_that_says_anything_else_is_an_error_or_works() {
    let all = damaged(&small());
    assert!(all.len() > 500, "{}", all.len());
    for json in all {
        assert_refused(json.to_string().as_bytes(), None);
    }
}

#[test]
fn parts_that_the_library_fails_on_are_named() {
    for (place, value, words) in [
        ("/decoder", json!({ "type": "ByteLevelPlus" }), "Decoder"),
        ("/decoder", json!([1]), "tokenizer.json"),
        ("/normalizer", json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" }), "fails"),
        ("/normalizer", json!({ "type": "Precompiled" }), "fails"),
        ("/post_processor/special_tokens", json!({}), "e"),
        ("/post_processor/single/1", json!({ "Sequence": { "id": "B", "type_id": 0 } }), "fails"),
        ("/model/dropout", json!(0.1), "`model.dropout` is 0.1"),
        ("/model/vocab/he", json!(4_000_000_000_u32), "4000000000"),
        ("/model/vocab/he", json!(-3), "the id of `he` is -3"),
        ("/model/merges", json!([["h", "x"]]), "x"),
        ("/added_tokens/0/id", json!(77), "gives `<|endoftext|>` the id 77"),
        ("/model", json!(null), "no `model`"),
        ("/version", json!("2.0"), "2.0"),
    ] {
        let mut json = small();
        *json.pointer_mut(place).unwrap() = value;
        assert_refused(json.to_string().as_bytes(), Some(words));
    }
    assert_refused(&[0xff, 0xfe], Some("JSON"));
    assert_refused(format!("{}1{}", "[".repeat(9000), "]".repeat(9000)).as_bytes(), Some("JSON"));
}
