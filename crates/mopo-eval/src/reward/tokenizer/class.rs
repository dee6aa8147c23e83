//! Tokenizers as transformers builds them: the vocabulary of `tokenizer.json` or of older files,
//! and around it what the tokenizer's class does, with the settings in `tokenizer_config.json`.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::settings::{Class, Settings};
use super::{TruncationSide, check_ids, file_error};
use crate::{Error, Result};

const WHOLE: &str = "tokenizer.json";

/// The tokenizer in a model directory.
pub(super) fn load(dir: &Path, architecture: &str, side: TruncationSide) -> Result<Tokenizer> {
    let settings = Settings::read(dir, architecture)?;
    settings.check_truncation_side(side)?;
    let path = dir.join(WHOLE);
    let from_json = path.exists();
    let mut json = match from_json {
        true => serde_json::from_slice(&mopo_hub::read(&path)?).map_err(file_error(&path))?,
        false => vocabulary(dir, &settings)?,
    };
    let path = if from_json { path } else { dir.into() };
    let in_file = json["added_tokens"].as_array().cloned().unwrap_or_default();
    if settings.class == Class::Whole {
        check_contradictions(&json, &settings)?;
    } else {
        check_parts(&json, &settings, &path)?;
        set_parts(&mut json, &settings)?;
        json["added_tokens"] = json!([]);
    }
    let bytes = serde_json::to_vec(&json).map_err(file_error(&path))?;
    let mut inner = Tokenizer::from_bytes(bytes).map_err(file_error(&path))?;
    inner.add_tokens(settings.added_tokens(&in_file)?).map_err(file_error(&path))?;
    surround(&mut inner, &settings, from_json)?;
    if settings.class == Class::Whole {
        check_ends(&inner, &settings)?;
    }
    inner.set_encode_special_tokens(settings.flag("split_special_tokens", false)?);
    Ok(inner)
}

/// A path that must exist, as text for the library.
fn file(dir: &Path, name: &str) -> Result<String> {
    let path = dir.join(name);
    if !path.exists() {
        return Err(file_error(dir)(format!("neither {WHOLE} nor {name} exists")));
    }
    path.to_str().map(str::to_owned).ok_or_else(|| file_error(dir)("its path is not UTF-8"))
}

/// A `tokenizer.json` from a vocabulary in older files, without anything around it.
fn vocabulary(dir: &Path, settings: &Settings) -> Result<Value> {
    let inner = match settings.class {
        Class::Whole => {
            let expected = format!("that class needs {WHOLE}, which is missing");
            return Err(settings.refused(
                "tokenizer_class",
                &"PreTrainedTokenizerFast".into(),
                expected,
            ));
        }
        Class::Bert => {
            let model = WordPiece::from_file(&file(dir, "vocab.txt")?).build();
            Tokenizer::new(model.map_err(|e| file_error(dir)(format!("vocab.txt: {e}")))?)
        }
        Class::Gpt2 | Class::Roberta => {
            let model = BPE::from_file(&file(dir, "vocab.json")?, &file(dir, "merges.txt")?);
            let broken =
                |e: tokenizers::Error| file_error(dir)(format!("vocab.json with merges.txt: {e}"));
            Tokenizer::new(model.build().map_err(broken)?)
        }
    };
    check_ids(&inner).map_err(file_error(dir))?;
    serde_json::to_value(&inner).map_err(file_error(dir))
}

/// Refuses settings that contradict tokenizer.json, for a class that uses that file as it is.
fn check_contradictions(json: &Value, settings: &Settings) -> Result<()> {
    let (normalizer, pre_tokenizer) = (&json["normalizer"], &json["pre_tokenizer"]);
    for (key, found) in [
        ("do_lower_case", &normalizer["lowercase"]),
        ("strip_accents", &normalizer["strip_accents"]),
        ("tokenize_chinese_chars", &normalizer["handle_chinese_chars"]),
        ("add_prefix_space", &pre_tokenizer["add_prefix_space"]),
    ] {
        if let (Some(asked), Some(there)) = (settings.optional_flag(key)?, found.as_bool())
            && asked != there
        {
            let expected = format!(
                "{WHOLE} says {there}, which the class of this tokenizer would ignore; set both to \
                 the same value"
            );
            return Err(settings.refused(key, &asked.into(), expected));
        }
    }
    Ok(())
}

/// Refuses settings for the ends of a text that contradict tokenizer.json, for a class that uses that file as it is.
fn check_ends(inner: &Tokenizer, settings: &Settings) -> Result<()> {
    let alone = inner.encode("", true).map_err(file_error(Path::new(WHOLE)))?;
    for (key, role) in [("add_bos_token", "bos_token"), ("add_eos_token", "eos_token")] {
        let (Some(asked), Some(token)) = (settings.optional_flag(key)?, settings.token(role)?)
        else {
            continue;
        };
        let there = alone.get_tokens().contains(&token.content);
        if asked != there {
            let expected = format!(
                "{WHOLE} {} `{}`: set this to {there}, or change the post-processor there",
                if there { "adds" } else { "does not add" },
                token.content
            );
            return Err(settings.refused(key, &asked.into(), expected));
        }
    }
    Ok(())
}

/// Refuses what the class does not have, since versions of transformers differ in keeping it.
fn check_parts(json: &Value, settings: &Settings, path: &Path) -> Result<()> {
    let model = &json["model"];
    let is_bert = settings.class == Class::Bert;
    // Older files do not name the model.
    let kind = if is_bert { "WordPiece" } else { "BPE" };
    let neutral = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        number => number.as_f64() == Some(0.0),
    };
    let type_is = |value: &Value, expected: &str| value.is_null() || value["type"] == expected;
    let (normalizer, pre_tokenizer) = (&json["normalizer"], &json["pre_tokenizer"]);
    let wrong = if !model.is_object() {
        Some("it has no `model`".to_owned())
    } else if !model["type"].is_null() && model["type"] != kind {
        Some(format!("its model is {}, not {kind}", model["type"]))
    } else if is_bert {
        if !type_is(normalizer, "BertNormalizer") {
            Some(format!("its normalizer is {}, not BertNormalizer", normalizer["type"]))
        } else if !type_is(pre_tokenizer, "BertPreTokenizer") {
            Some(format!("its pre-tokenizer is {}, not BertPreTokenizer", pre_tokenizer["type"]))
        } else if !(neutral(&model["continuing_subword_prefix"])
            || model["continuing_subword_prefix"] == "##")
        {
            Some(format!(
                "its model begins parts of words with {}, not \"##\"",
                model["continuing_subword_prefix"]
            ))
        } else if model["max_input_chars_per_word"].as_u64().is_some_and(|n| n != 100) {
            Some(format!(
                "`max_input_chars_per_word` is {}, not 100",
                model["max_input_chars_per_word"]
            ))
        } else {
            None
        }
    } else if !normalizer.is_null() {
        Some(format!("it has a normalizer ({})", normalizer["type"]))
    } else if !type_is(pre_tokenizer, "ByteLevel") || pre_tokenizer["use_regex"] == false {
        Some(format!(
            "its pre-tokenizer is {}, not ByteLevel with its expression",
            pre_tokenizer["type"]
        ))
    } else {
        const NEUTRAL: [&str; 6] = [
            "dropout",
            "fuse_unk",
            "byte_fallback",
            "ignore_merges",
            "continuing_subword_prefix",
            "end_of_word_suffix",
        ];
        let found = NEUTRAL.iter().find(|key| !neutral(&model[**key]));
        found.map(|key| format!("`model.{key}` is {}", model[*key]))
    };
    wrong.map_or(Ok(()), |why| {
        let why = format!(
            "{why}, which this tokenizer class does not have: transformers may build another \
             tokenizer"
        );
        let remedy = "set `tokenizer_class` in tokenizer_config.json to PreTrainedTokenizerFast to \
                      use tokenizer.json as it is";
        Err(Error::Tokenizer { path: path.into(), why, remedy })
    })
}

/// Normalizer and pre-tokenizer of the class.
fn set_parts(json: &mut Value, settings: &Settings) -> Result<()> {
    match settings.class {
        Class::Bert => {
            json["normalizer"] = json!({
                "type": "BertNormalizer",
                "clean_text": true,
                "handle_chinese_chars": settings.flag("tokenize_chinese_chars", true)?,
                "strip_accents": settings.optional_flag("strip_accents")?,
                "lowercase": settings.flag("do_lower_case", true)?,
            });
            json["pre_tokenizer"] = json!({ "type": "BertPreTokenizer" });
            json["model"]["unk_token"] = token(settings, "unk_token")?.content.into();
        }
        Class::Gpt2 | Class::Roberta => {
            json["pre_tokenizer"] = json!({
                "type": "ByteLevel",
                "add_prefix_space": settings.flag("add_prefix_space", false)?,
                "trim_offsets": true,
                "use_regex": true,
            });
            json["model"]["unk_token"] = Value::Null;
        }
        Class::Whole => {}
    }
    Ok(())
}

/// A token for a role that every tokenizer of the class has.
fn token(settings: &Settings, role: &str) -> Result<AddedToken> {
    settings.token(role)?.ok_or_else(|| settings.refused(role, &Value::Null, "it is needed"))
}

/// The special tokens around a text.
fn surround(inner: &mut Tokenizer, settings: &Settings, from_json: bool) -> Result<()> {
    let with_id = |inner: &Tokenizer, role: &str| {
        let name = token(settings, role)?.content;
        let id = inner.token_to_id(&name).ok_or_else(|| {
            settings.refused(role, &name.as_str().into(), "the vocabulary lacks it")
        })?;
        Ok::<_, Error>((name, id))
    };
    match settings.class {
        Class::Whole => {}
        Class::Bert => {
            let around =
                BertProcessing::new(with_id(inner, "sep_token")?, with_id(inner, "cls_token")?);
            inner.with_post_processor(Some(around));
        }
        Class::Roberta => {
            let (sep, cls) = (with_id(inner, "sep_token")?, with_id(inner, "cls_token")?);
            let prefix = settings.flag("add_prefix_space", false)?;
            let trim = settings.flag("trim_offsets", true)?;
            let around =
                RobertaProcessing::new(sep, cls).trim_offsets(trim).add_prefix_space(prefix);
            inner.with_post_processor(Some(around));
        }
        // tokenizer.json has its own, and transformers reads these keys only without it.
        Class::Gpt2 if from_json => {}
        Class::Gpt2 => {
            let (mut before, mut after) = (vec![], vec![]);
            let mut special = vec![];
            for (key, role, place) in [
                ("add_bos_token", "bos_token", &mut before),
                ("add_eos_token", "eos_token", &mut after),
            ] {
                if settings.flag(key, false)? {
                    let (name, id) = with_id(inner, role)?;
                    place.push(name.clone());
                    if !special.contains(&(name.clone(), id)) {
                        special.push((name, id));
                    }
                }
            }
            if special.is_empty() {
                return Ok(());
            }
            let around = |letter: &str, type_id: usize| -> Vec<String> {
                let special = |names: &[String]| -> Vec<String> {
                    names.iter().map(|name| format!("{name}:{type_id}")).collect()
                };
                [special(&before), vec![format!("${letter}:{type_id}")], special(&after)].concat()
            };
            let single = around("A", 0);
            let pair = [single.clone(), around("B", 1)].concat();
            let refused = |why: String| {
                settings.refused("add_bos_token", &true.into(), format!("no template: {why}"))
            };
            let template = TemplateProcessing::builder()
                .try_single(single)
                .and_then(|builder| builder.try_pair(pair))
                .map_err(&refused)?
                .special_tokens(special)
                .build()
                .map_err(|e| refused(e.to_string()))?;
            inner.with_post_processor(Some(template));
        }
    }
    Ok(())
}
