//! Ids and settings of small files of both kinds, and metadata that contradicts itself.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use mopo_hub::gguf::{GgufWriter, Value as Item};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{ChatTemplate, JinjaTemplate, Message, PromptForm, Tokenizer};

pub(super) type Keys = BTreeMap<String, Item>;

fn strings(texts: &[&str]) -> Item {
    texts.iter().map(|text| text.to_string()).collect::<Vec<_>>().into()
}

fn keys(pairs: impl IntoIterator<Item = (&'static str, Item)>) -> Keys {
    pairs.into_iter().map(|(key, value)| (format!("tokenizer.{key}"), value)).collect()
}

pub(super) fn with(
    mut keys: Keys,
    changes: impl IntoIterator<Item = (&'static str, Item)>,
) -> Keys {
    keys.extend(self::keys(changes));
    keys
}

fn write(keys: &Keys) -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let mut writer = GgufWriter::default();
    keys.iter().for_each(|(key, value)| writer.value(key, value.clone()));
    writer.write(&path).unwrap();
    (dir, path)
}

pub(super) fn load(keys: &Keys) -> Result<Tokenizer> {
    Tokenizer::load(write(keys).1)
}

fn error(keys: &Keys) -> String {
    load(keys).unwrap_err().to_string()
}

/// The characters of bytes in GPT-2's vocabulary.
fn bytes() -> Vec<String> {
    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    let mut characters: Vec<String> = alphabet.into_iter().map(String::from).collect();
    characters.sort();
    characters
}

/// Bytes, some words, and the control tokens of ChatML, as in SmolLM2.
pub(super) fn byte_level(pre: &str) -> Keys {
    let mut tokens: Vec<String> =
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(Into::into).into();
    tokens.extend(bytes());
    let merges = ["1 2", "12 3", "123 4", "Ġ t", "Ġt e", "Ġte a", "' s", "' S", "! Ċ"];
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    tokens.extend(["xyz", "<tool>"].map(Into::into));
    let mut types = vec![1_i32; tokens.len()];
    types[..3].fill(3);
    *types.last_mut().unwrap() = 4;
    keys([
        ("ggml.model", "gpt2".into()),
        ("ggml.pre", pre.into()),
        ("ggml.tokens", tokens.into()),
        ("ggml.token_type", types.into()),
        ("ggml.merges", strings(&merges)),
        ("ggml.bos_token_id", 1_u32.into()),
        ("ggml.eos_token_id", 0_u32.into()),
        ("ggml.padding_token_id", 2_u32.into()),
        ("chat_template", ChatTemplate::Chatml.jinja().into()),
    ])
}

/// Control tokens, bytes, characters and words by score, as in Gemma.
pub(super) fn sentencepiece() -> Keys {
    let mut tokens: Vec<String> =
        ["<pad>", "<eos>", "<bos>", "<unk>", "\n\n", "<b>"].map(Into::into).into();
    tokens.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    let pieces =
        ["ab", "▁a", "bab", "▁ab", "ca", "abc", "▁▁", "cab", "<e", "<eo", "s>", "▁b", "é!"];
    let characters = ["▁", "a", "b", "c", "<", ">", "e", "o", "s", "é", "!", "\n"];
    tokens.extend(pieces.into_iter().chain(characters).map(String::from));
    let n_special = 6 + 256;
    let mut types = vec![1_i32; tokens.len()];
    types[..4].fill(3);
    types[4..6].fill(4);
    types[6..n_special].fill(6);
    let score = |id: usize| if id < n_special { -1000.0 } else { -((id - n_special) as f32) };
    let scores: Vec<f32> = (0..tokens.len()).map(score).collect();
    keys([
        ("ggml.model", "llama".into()),
        ("ggml.pre", "default".into()),
        ("ggml.tokens", tokens.into()),
        ("ggml.token_type", types.into()),
        ("ggml.scores", scores.into()),
        ("ggml.bos_token_id", 2_u32.into()),
        ("ggml.eos_token_id", 1_u32.into()),
        ("ggml.unknown_token_id", 3_u32.into()),
        ("ggml.padding_token_id", 0_u32.into()),
        ("ggml.add_space_prefix", false.into()),
    ])
}

fn tokens_of(keys: &Keys) -> Vec<String> {
    let Item::Array(mopo_hub::gguf::Array::String(tokens)) = &keys[TOKENS] else {
        panic!("{TOKENS}")
    };
    tokens.clone()
}

/// The tokens of a text, as in the file.
fn pieces(keys: &Keys, text: &str) -> Vec<String> {
    let tokens = tokens_of(keys);
    let ids = load(keys).unwrap().encode(text).unwrap();
    ids.into_iter().map(|id| tokens[id as usize].clone()).collect()
}

#[test]
fn words_are_split_as_the_pre_tokenizer_says() {
    for (pre, text, expected) in [
        ("gpt-2", "1234 12 tea", vec!["1234", "Ġ", "12", "Ġtea"]),
        ("smollm", "1234 12 tea", vec!["1", "2", "3", "4", "Ġ", "1", "2", "Ġtea"]),
        ("llama-bpe", "1234 12 tea", vec!["123", "4", "Ġ", "12", "Ġtea"]),
        ("dbrx", "1234 12 tea", vec!["123", "4", "Ġ", "12", "Ġtea"]),
        ("qwen2", "1234 12 tea", vec!["1", "2", "3", "4", "Ġ", "1", "2", "Ġtea"]),
        ("default", "1234 12 tea", vec!["123", "4", "Ġ", "12", "Ġtea"]),
        // Contractions, and line breaks after punctuation.
        ("gpt-2", "a's a'S!\n", vec!["a", "'s", "Ġ", "a", "'", "S", "!", "Ċ"]),
        ("smollm", "a's a'S!\n", vec!["a", "'s", "Ġ", "a", "'", "S", "!", "Ċ"]),
        ("llama-bpe", "a's a'S!\n", vec!["a", "'s", "Ġ", "a", "'S", "!Ċ"]),
        ("qwen2", "a's a'S!\n", vec!["a", "'s", "Ġ", "a", "'S", "!Ċ"]),
        ("default", "a's a'S!\n", vec!["a", "'", "s", "Ġ", "a", "'", "S", "!", "Ċ"]),
        // A whole word, without merges.
        ("llama-bpe", "xyz", vec!["xyz"]),
        ("dbrx", "xyz", vec!["x", "y", "z"]),
        // Control tokens in a text are text, user-defined ones are not.
        ("qwen2", "<tool>", vec!["<tool>"]),
        ("gpt-2", "<|im_end|>", "<|im_end|>".split("").filter(|c| !c.is_empty()).collect()),
    ] {
        assert_eq!(pieces(&byte_level(pre), text), expected, "{pre}: {text:?}");
    }
}

#[test]
fn the_byte_level_kind_gives_the_ids_of_the_same_tokenizer_json() {
    let texts = [
        "A pot of tea, 12 cups.\n\n  Größe 茶 🫖",
        " the pot the potter the tea tea",
        "'s 've it's",
    ];
    let trained = Tokenizer::train(texts.into_iter(), 300).unwrap();
    let json: Value = serde_json::from_slice(&trained.json).unwrap();
    let mut tokens = vec![String::new(); trained.vocab_size()];
    for (token, id) in json["model"]["vocab"].as_object().unwrap() {
        tokens[id.as_u64().unwrap() as usize] = token.clone();
    }
    let merge =
        |pair: &Value| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
    let merges: Vec<String> =
        json["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
    let mut types = vec![1_i32; tokens.len()];
    types[0] = 3;
    let keys = keys([
        ("ggml.model", "gpt2".into()),
        ("ggml.pre", "gpt-2".into()),
        ("ggml.tokens", tokens.into()),
        ("ggml.token_type", types.into()),
        ("ggml.merges", merges.into()),
        ("ggml.eos_token_id", 0_u32.into()),
    ]);
    let loaded = load(&keys).unwrap();
    assert_eq!(loaded.vocab_size(), trained.vocab_size());
    assert_eq!(loaded.end_of_text_token(), trained.end_of_text_token());
    for text in texts {
        assert_eq!(loaded.encode(text).unwrap(), trained.encode(text).unwrap());
    }
}

#[test]
fn roles_ends_and_the_template_are_those_of_the_file() {
    let chatml = byte_level("smollm");
    let tokenizer = load(&chatml).unwrap();
    assert_eq!(tokenizer.form(), PromptForm::Template(ChatTemplate::Chatml));
    assert_eq!((tokenizer.end_of_text(), tokenizer.stops()), (0, &[0, 2][..]));
    assert_eq!(tokenizer.role_id("pad_token"), Some(2));
    let prompt = ChatTemplate::Chatml.question("tea <|im_end|>").unwrap();
    let (ids, _) = tokenizer.encode_prompt(&prompt, 99).unwrap();
    assert_eq!(ids.iter().filter(|id| **id < 3).collect::<Vec<_>>(), [&1, &2, &1]);
    let trained = tokenizer.for_training(ChatTemplate::Chatml).unwrap();
    assert_eq!(trained.end_of_text_token(), "<|im_end|>");
    // Declared by someone else.
    let (_dir, path) = write(&chatml);
    assert_eq!(Tokenizer::load_for_model(&path, &[2]).unwrap().stops(), [2]);
    let template = JinjaTemplate::load(&path, None).unwrap().unwrap();
    let tea = [Message { role: "user".into(), content: "tea".into() }];
    assert_eq!(template.render(&tea, true).unwrap(), ChatTemplate::Chatml.prompt(&tea).unwrap());

    // A first token: as the file says, or as llama.cpp assumes.
    let begins = |keys: &Keys| {
        let tokenizer = load(keys).unwrap().with_form(PromptForm::Raw).unwrap();
        tokenizer.encode_prompt("ab", 99).unwrap().0[0]
    };
    assert_eq!(begins(&sentencepiece()), 2);
    assert_ne!(begins(&with(sentencepiece(), [("ggml.add_bos_token", false.into())])), 2);
    assert_ne!(begins(&byte_level("smollm")), 1);
    assert_eq!(begins(&byte_level("llama-bpe")), 1);
    assert_eq!(begins(&with(byte_level("smollm"), [("ggml.add_bos_token", true.into())])), 1);
    // Llama 2's ids without the keys.
    let mut plain = sentencepiece();
    plain.retain(|key, _| !key.ends_with("_token_id"));
    let tokenizer = load(&plain).unwrap();
    assert_eq!((tokenizer.role_id("bos_token"), tokenizer.end_of_text()), (Some(1), 2));
}

#[test]
fn a_saved_tokenizer_gives_the_same_ids() {
    for (keys, form) in [
        (byte_level("llama-bpe"), PromptForm::Template(ChatTemplate::Chatml)),
        (sentencepiece(), PromptForm::Raw),
        (with(sentencepiece(), [("ggml.add_space_prefix", true.into())]), PromptForm::Raw),
    ] {
        let tokenizer = load(&keys).unwrap().with_form(form).unwrap();
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path().join("tokenizer.json")).unwrap();
        let settings = tokenizer.settings().to_string();
        std::fs::write(dir.path().join("tokenizer_config.json"), settings).unwrap();
        let again = Tokenizer::load_for_model(dir.path().join("tokenizer.json"), tokenizer.stops());
        let again = again.unwrap().with_form(form).unwrap();
        assert_eq!(again.sha256(), tokenizer.sha256());
        assert_eq!((again.settings(), again.stops()), (tokenizer.settings(), tokenizer.stops()));
        for text in ["ab <b> cab", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"] {
            assert_eq!(again.encode(text).unwrap(), tokenizer.encode(text).unwrap());
            let prompt = |t: &Tokenizer| t.encode_prompt(text, 99).unwrap();
            assert_eq!(prompt(&again), prompt(&tokenizer));
        }
    }
}

#[test]
fn pieces_are_merged_by_score() {
    let keys = sentencepiece();
    for (text, expected) in [
        ("abcab", vec!["abc", "ab"]),
        ("cabc ab", vec!["c", "abc", "▁ab"]),
        ("caca", vec!["ca", "ca"]),
        // Without a token: bytes.
        ("aß", vec!["a", "<0xC3>", "<0x9F>"]),
        // User-defined tokens are found first, control tokens and bytes not at all.
        ("a\n\n\nb<b>", vec!["a", "\n\n", "\n", "b", "<b>"]),
        ("<eos>", vec!["<eo", "s>"]),
        ("", vec![]),
    ] {
        assert_eq!(pieces(&keys, text), expected, "{text:?}");
    }
    let prefixed = with(keys, [("ggml.add_space_prefix", true.into())]);
    assert_eq!(pieces(&prefixed, "ab"), ["▁ab"]);
    assert_eq!(pieces(&prefixed, " ab"), ["▁", "▁ab"]);
    assert_eq!(pieces(&prefixed, "b\n\nab"), ["▁b", "\n\n", "▁ab"]);
    let mut default = prefixed;
    default.remove("tokenizer.ggml.add_space_prefix");
    assert_eq!(pieces(&default, "ab"), ["▁ab"]);
}

/// SentencePiece's definition: of all neighbours that make a token the one with the highest score,
/// the leftmost of equals.
fn merged(tokens: &[String], text: &str) -> Vec<String> {
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    // Scores fall with ids.
    let rank =
        |pair: &[String]| tokens.iter().skip(6 + 256).position(|token| *token == pair.concat());
    while let Some((_, at)) =
        parts.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at))).min()
    {
        let right = parts.remove(at + 1);
        parts[at].push_str(&right);
    }
    parts
}

/// A file's tokenizer with its tokens, loaded once.
struct Loaded {
    keys: Keys,
    tokens: Vec<String>,
    tokenizer: Tokenizer,
}

static LOADED: LazyLock<Vec<Loaded>> = LazyLock::new(|| {
    let spaced = with(sentencepiece(), [("ggml.add_space_prefix", true.into())]);
    let byte_level = ["smollm", "llama-bpe", "default"].map(byte_level);
    let all = [sentencepiece(), spaced].into_iter().chain(byte_level);
    all.map(|keys| Loaded { tokens: tokens_of(&keys), tokenizer: load(&keys).unwrap(), keys })
        .collect()
});

proptest! {
    #[test]
    fn any_text_is_merged_by_definition(text in "[abc eo<s>é!]{0,30}") {
        // User-defined tokens divide a text before.
        prop_assume!(!text.contains("<b>"));
        let Loaded { tokens, tokenizer, .. } = &LOADED[0];
        let ids = tokenizer.encode(&text).unwrap();
        let found: Vec<&String> = ids.iter().map(|id| &tokens[*id as usize]).collect();
        let expected = merged(tokens, &text.replace(' ', "▁"));
        prop_assert_eq!(found, expected.iter().collect::<Vec<_>>());
    }

    #[test]
    fn any_text_is_decoded(text in any::<String>()) {
        for Loaded { keys, tokenizer, .. } in LOADED.iter() {
            // What stands for a space is decoded as one.
            let expected = match keys.contains_key("tokenizer.ggml.scores") {
                true => text.replace('▁', " "),
                false => text.clone(),
            };
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), expected);
        }
    }
}

#[test]
fn errors_name_the_file_and_the_key() {
    let chatml = || byte_level("smollm");
    let tokens = tokens_of(&chatml());
    let changed = |change: &dyn Fn(&mut Vec<String>)| -> Item {
        let mut tokens = tokens.clone();
        change(&mut tokens);
        tokens.into()
    };
    let n = tokens.len();
    let mut infinite = vec![-1.0_f32; tokens_of(&sentencepiece()).len()];
    *infinite.last_mut().unwrap() = f32::NAN;
    let mut no_bytes = tokens_of(&sentencepiece());
    no_bytes[6 + 0x0A] = "<0x0a>".into();
    let cases: Vec<(Keys, &'static str, Item, &str)> = vec![
        (chatml(), "ggml.model", "t5".into(), "is `t5`; supported kinds are `gpt2` and `llama`"),
        (chatml(), "ggml.pre", "tekken".into(), "is `tekken`; supported are gpt-2, phi-2"),
        (chatml(), "ggml.tokens", Vec::<String>::new().into(), "has 0 tokens"),
        (chatml(), "ggml.tokens", vec![String::from("a"); MOST_TOKENS + 1].into(), "expected 1 to"),
        (chatml(), "ggml.tokens", changed(&|t| t[9] = t[8].clone()), "twice, as the ids 8 and 9"),
        (chatml(), "ggml.tokens", changed(&|t| t[9] = "x".repeat(1025)), "1025 bytes (id 9)"),
        (
            chatml(),
            "ggml.token_type",
            vec![1_i32; n - 1].into(),
            "items, but tokenizer.ggml.tokens",
        ),
        (chatml(), "ggml.token_type", vec![7_i32; n].into(), "is 7 for id 0; types are 0 to 6"),
        (chatml(), "ggml.token_type", "x".into(), "is a string"),
        (chatml(), "ggml.merges", strings(&["1 2", "12"]), "[1] is `12`: expected two tokens"),
        (chatml(), "ggml.merges", strings(&["1 Q2"]), "`Q2` is not in"),
        (chatml(), "ggml.merges", strings(&["1 Q"]), "`1Q` is not in"),
        (chatml(), "ggml.merges", strings(&["é "]), "expected two tokens"),
        (chatml(), "ggml.eos_token_id", (n as u32).into(), "but there are"),
        (chatml(), "ggml.bos_token_id", u32::MAX.into(), "is 4294967295"),
        (chatml(), "ggml.eot_token_id", (n as u32).into(), "but there are"),
        (chatml(), "chat_template", 3_u32.into(), "expected a string"),
        (sentencepiece(), "ggml.scores", vec![0.5_f32].into(), "has 1 items"),
        (sentencepiece(), "ggml.scores", infinite.into(), "is NaN for id"),
        (sentencepiece(), "ggml.tokens", no_bytes.into(), "lacks the byte `<0x0A>`"),
        (sentencepiece(), "ggml.unknown_token_id", u32::MAX.into(), "is 4294967295"),
    ];
    for (keys, key, value, words) in cases {
        let error = error(&with(keys, [(key, value)]));
        for part in ["tiny.gguf", &format!("tokenizer.{key}"), words] {
            assert!(error.contains(part), "{key}: {error}");
        }
    }
    for (keys, key) in [
        (chatml(), "tokenizer.ggml.model"),
        (chatml(), "tokenizer.ggml.tokens"),
        (chatml(), "tokenizer.ggml.merges"),
        (sentencepiece(), "tokenizer.ggml.scores"),
        (sentencepiece(), "tokenizer.ggml.token_type"),
    ] {
        let mut keys = keys;
        keys.remove(key);
        let error = error(&keys);
        assert!(error.contains(key) && error.contains("missing"), "{error}");
    }
    let mut no_bos = with(chatml(), [("ggml.add_bos_token", true.into())]);
    no_bos.remove(BOS);
    assert!(error(&no_bos).contains("`tokenizer.ggml.bos_token_id` is missing"));
    let ended = with(chatml(), [("ggml.add_eos_token", true.into())]);
    assert!(error(&ended).contains("`add_eos_token` is true"));
}

#[test]
fn odd_files_are_read_as_llama_cpp_reads_them() {
    // No pre-tokenizer, no types, a token without text, a pair listed twice, a merge that would
    // make a control token.
    let mut odd = with(byte_level("x"), [("ggml.merges", strings(&["1 2", "1 2", "< |"]))]);
    let mut tokens = tokens_of(&odd);
    tokens[0] = "<|".into();
    tokens[5] = String::new();
    odd.insert(TOKENS.into(), tokens.into());
    odd.remove("tokenizer.ggml.pre");
    odd.remove(TYPES);
    odd.remove("tokenizer.chat_template");
    assert_eq!(pieces(&odd, "<|123"), ["<", "|", "12", "3"]);
    assert_eq!(load(&odd).unwrap().end_of_text_token(), "<|");
}

#[test]
fn any_value_of_any_key_is_an_error_or_works() {
    let values = || -> Vec<Item> {
        vec![
            0_u32.into(),
            u32::MAX.into(),
            (-1_i32).into(),
            1e30_f32.into(),
            true.into(),
            "".into(),
            "é".into(),
            strings(&[]),
            strings(&["", "é ", "a b"]),
            Vec::<f32>::new().into(),
            vec![f32::NAN; 300].into(),
            vec![4_i32; 300].into(),
        ]
    };
    for keys in [byte_level("llama-bpe"), sentencepiece()] {
        for key in keys.keys() {
            for value in values() {
                let mut damaged = keys.clone();
                damaged.insert(key.clone(), value);
                match load(&damaged) {
                    Ok(tokenizer) => drop(tokenizer.encode("a 12 <tool>").unwrap()),
                    Err(error) => {
                        assert!(error.to_string().contains("tiny.gguf"), "{key}: {error}")
                    }
                }
            }
        }
    }
}
