//! From text to token ids and back: byte-level BPE, trained here, or any tokenizer from a
//! `tokenizer.json` or a GGUF file.

mod bytes;
mod gguf;
mod library;
mod own_template;
mod settings;

use std::path::Path;
use std::sync::Arc;

use mopo_hub::gguf::is_gguf;
use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as HfTokenizer};

use gguf::FromGguf;
use library::{guarded, parse_tokenizer};
use own_template::OwnTemplate;
pub use settings::TokenizerSettings;

use crate::template::{Piece, chatml_pieces, messages_of};
use crate::{ChatTemplate, Error, Result, sha256_hex, write_atomically};

/// The token that ends a response in tokenizers trained here (and in GPT-2's).
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Possible names of the end-of-text token if none is declared; the first one found is used.
const END_OF_TEXT_NAMES: [&str; 5] =
    [END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>"];

/// 256 bytes and the end-of-text token.
const SMALLEST_VOCAB: usize = 257;

/// The meaning of a special token written out in a prompt. In responses it is always text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptForm {
    /// Text.
    Text,
    /// A token where the template writes it, text where it is part of a message.
    Template(ChatTemplate),
    /// A token where the model's own chat template writes it, text where it is part of a message.
    Model,
    /// A token everywhere: in a prompt that a person wrote for a model with an unknown template.
    /// transformers does so with every text.
    Raw,
}

/// A tokenizer with a token that ends responses.
///
/// Special tokens written out in a text are ordinary text to [`Tokenizer::encode`], so that no
/// data row can end a sequence early. [`Tokenizer::encode_prompt`] knows the control tokens of
/// the prompt's template.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: HfTokenizer,
    /// The same, but special tokens are recognised; for [`PromptForm::Raw`].
    raw: Option<Box<HfTokenizer>>,
    /// The model's own chat template, unless it is a [`ChatTemplate`].
    own: Option<Arc<OwnTemplate>>,
    settings: TokenizerSettings,
    form: PromptForm,
    end_of_text: u32,
    /// All tokens that end a response in generation, `end_of_text` included.
    stops: Vec<u32>,
    /// Whether a file declares it; otherwise the token was found by a usual name.
    is_declared: bool,
    vocab_size: usize,
    /// The `tokenizer.json` as it was loaded or will be saved.
    json: Vec<u8>,
}

impl Tokenizer {
    /// Trains byte-level BPE. Deterministic: equal texts in equal order give equal files. All 256
    /// bytes are tokens, so every text can be encoded; no space is added in front. With little text
    /// there may be fewer than `vocab_size` ids.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if `vocab_size` is below 257; [`Error::Tokenizer`] if the
    /// library fails.
    pub fn train<'a>(texts: impl Iterator<Item = &'a str>, vocab_size: usize) -> Result<Self> {
        if vocab_size < SMALLEST_VOCAB {
            return Err(Error::InvalidParameter {
                field: "vocab_size",
                value: vocab_size.to_string(),
                expected: format!(
                    "it must be at least {SMALLEST_VOCAB}: 256 bytes and `{END_OF_TEXT}`"
                ),
            });
        }
        let mut inner = HfTokenizer::new(BPE::default());
        let byte_level = ByteLevel::default().add_prefix_space(false);
        inner.with_pre_tokenizer(Some(byte_level));
        inner.with_decoder(Some(byte_level));
        let trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .show_progress(false)
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        // The library reads from several threads, which an arbitrary iterator may not allow.
        let texts: Vec<&str> = texts.collect();
        inner
            .train::<TrainerWrapper, _, _>(&mut trainer.into(), texts.into_iter())
            .map_err(|e| refused("training", e, "check the texts and `vocab_size`"))?;
        let json = inner
            .to_string(true)
            .map_err(|e| refused("writing", e, "this is a bug in the `tokenizers` library"))?;
        Self::new(json.into_bytes(), TokenizerSettings::default(), &[], "training")
    }

    /// Loads a `tokenizer.json` and the `tokenizer_config.json` next to it, if there is one, or the
    /// tokenizer of a `.gguf` file.
    ///
    /// # Errors
    /// Those of [`load_for_model`](Self::load_for_model).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::load_for_model(path, &[])
    }

    /// The same for a model whose own files declare that `declared` ids end a response. If there
    /// are none,
    /// `eos_token` of `tokenizer_config.json` does, and otherwise a token with a usual name
    /// (`<|endoftext|>`, `</s>`, `<eos>`, …). A `chat_template` that can be rendered becomes the
    /// form of prompts. A GGUF file declares such ids itself; `declared` ones replace them.
    ///
    /// # Errors
    /// Names the file: not a tokenizer, unsupported settings of `tokenizer_config.json`
    /// (by key), no end-of-text token, or declared ids none of which the tokenizer has. Of a GGUF
    /// file also the key: a kind of tokenizer that is not supported, or metadata that is missing,
    /// damaged or contradicts itself.
    pub fn load_for_model(path: impl AsRef<Path>, declared: &[u32]) -> Result<Self> {
        let path = path.as_ref();
        if is_gguf(path) {
            let FromGguf { inner, json, settings, vocab_size, ends } = gguf::read(path)?;
            let declared = if declared.is_empty() { &ends } else { declared };
            let parts = (inner, vocab_size, json);
            return Self::with_library(parts, settings, declared, &path.display().to_string());
        }
        let settings = TokenizerSettings::read(path.parent().unwrap_or(Path::new("")))?;
        Self::new(mopo_hub::read(path)?, settings, declared, &path.display().to_string())
    }

    fn new(
        mut json: Vec<u8>,
        settings: TokenizerSettings,
        declared: &[u32],
        what: &str,
    ) -> Result<Self> {
        let mut inner = parse_tokenizer(&json, what)?;
        if let Some(changed) = settings.with_prefix_space(&json)? {
            inner = parse_tokenizer(&changed, what)?;
            json = changed;
        }
        // Ids may have gaps, so this is not the number of tokens.
        let highest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        Self::with_library((inner, highest as usize + 1, json), settings, declared, what)
    }

    /// With the library's tokenizer, the size of its vocabulary, and its `tokenizer.json`.
    fn with_library(
        (mut inner, vocab_size, json): (HfTokenizer, usize, Vec<u8>),
        settings: TokenizerSettings,
        declared: &[u32],
        what: &str,
    ) -> Result<Self> {
        const HONOURED: [&str; 6] = [
            "add_bos_token",
            "add_prefix_space",
            "added_tokens_decoder",
            "additional_special_tokens",
            "chat_template",
            "extra_special_tokens",
        ];
        settings.refuse_others(&HONOURED)?;
        let special = settings.special_tokens(&inner)?;
        let is_declared = !declared.is_empty() || settings.get("eos_token").is_some();
        let (end_of_text, stops) = ends(&inner, &settings, declared, what)?;
        let ends = stops.iter().filter_map(|id| inner.id_to_token(*id)).collect::<Vec<_>>();
        make_special(&mut inner, special.into_iter().chain(ends), what)?;
        inner.set_encode_special_tokens(true);
        let form = settings.chat_template()?;
        let mut this = Self {
            inner,
            raw: None,
            own: None,
            settings,
            form: PromptForm::Text,
            end_of_text,
            stops,
            is_declared,
            vocab_size,
            json,
        };
        if let Some(template) = form {
            return this.with_form(PromptForm::Template(template));
        }
        if let Some(own) = OwnTemplate::new(&this.settings, &this.inner)? {
            (this.own, this.form) = (Some(Arc::new(own)), PromptForm::Model);
        }
        Ok(this)
    }

    /// The same tokenizer for prompts of another form.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer surrounds texts with tokens in a way that does not
    /// work for prompts, or for [`PromptForm::Model`] has no chat template of its own.
    pub fn with_form(mut self, form: PromptForm) -> Result<Self> {
        self.form = form;
        self.raw = None;
        match form {
            PromptForm::Text => return Ok(self),
            PromptForm::Model if self.own.is_some() => return Ok(self),
            PromptForm::Model => {
                let remedy = "give a model with one, or another form of prompts";
                return Err(refused("settings", "there is no chat template", remedy));
            }
            PromptForm::Raw => {
                let mut raw = self.inner.clone();
                raw.set_encode_special_tokens(false);
                self.raw = Some(Box::new(raw));
            }
            PromptForm::Template(template) => {
                let names = template.control_tokens().iter().map(|name| (*name).to_owned());
                make_special(&mut self.inner, names, "control tokens")?;
            }
        }
        self.beginning()?;
        Ok(self)
    }

    /// The same tokenizer for training on prompts of a template; a model's own chat template stays
    /// instead. If several tokens end a response, training uses the template's own, else
    /// `eos_token` of `tokenizer_config.json`, else the first declared one.
    ///
    /// # Errors
    /// Those of [`with_form`](Self::with_form).
    pub fn for_training(mut self, template: ChatTemplate) -> Result<Self> {
        if self.form == PromptForm::Model {
            if let Some(id) = self.end_of_turn() {
                self.end_of_text = id;
                if !self.stops.contains(&id) {
                    self.stops.push(id);
                }
            }
            return Ok(self);
        }
        if let Some(id) = template.end_of_turn().and_then(|name| self.inner.token_to_id(name))
            && (self.stops.contains(&id) || !self.is_declared)
        {
            if !self.stops.contains(&id) {
                self.stops = vec![id];
            }
            self.end_of_text = id;
        }
        self.with_form(PromptForm::Template(template))
    }

    /// Writes the `tokenizer.json`, atomically.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(write_atomically(path.as_ref(), &self.json)?)
    }

    /// A `tokenizer_config.json` with which this tokenizer, and transformers' `AutoTokenizer`, is
    /// restored exactly: special tokens, what is put before a text, the chat template.
    pub fn settings(&self) -> Value {
        let end = self.end_of_text_token();
        // transformers would add a token that the tokenizer lacks, beyond the model's embedding.
        let known = |role| {
            let name = self.settings.token(role).ok().flatten();
            name.filter(|name| self.inner.token_to_id(name).is_some())
        };
        let role = |role| known(role).unwrap_or(&end).to_owned();
        let json: Value = serde_json::from_slice(&self.json).unwrap_or_default();
        let mut settings = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": role("bos_token"),
            "eos_token": end,
            "pad_token": role("pad_token"),
            "clean_up_tokenization_spaces": false,
        });
        if let Some(unknown) = known("unk_token") {
            settings["unk_token"] = unknown.into();
        }
        if let Some(on) = self.settings.get("add_bos_token") {
            settings["add_bos_token"] = on.clone();
        }
        // transformers takes an absent key as false, whatever tokenizer.json says.
        if json["pre_tokenizer"]["add_prefix_space"] == Value::Bool(true) {
            settings["add_prefix_space"] = true.into();
        }
        match (self.form, &self.own) {
            (PromptForm::Template(template), _) => {
                settings["chat_template"] = template.jinja().into();
            }
            (PromptForm::Model, Some(own)) => {
                settings["chat_template"] = own.text().into();
                // The template may write it.
                if known("bos_token").is_none() {
                    settings["bos_token"] = Value::Null;
                }
            }
            _ => {}
        }
        settings
    }

    /// The ids of a text; special tokens are neither added nor recognised.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the library refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        encode(&self.inner, text)
    }

    /// The ids of a prompt: the token that begins a text, if the tokenizer adds one, and the
    /// prompt with the control tokens of its form. A prompt of more than `most` ids is cut from the
    /// left,
    /// but keeps that first token; the second value says whether it was cut.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the library refuses the text.
    pub fn encode_prompt(&self, prompt: &str, most: usize) -> Result<(Vec<u32>, bool)> {
        let ids = match self.form {
            PromptForm::Text => self.encode(prompt)?,
            PromptForm::Model => return self.encode_messages(&messages_of(prompt), most),
            PromptForm::Raw => encode(self.raw.as_ref().expect("made with the form"), prompt)?,
            PromptForm::Template(ChatTemplate::Chatml) => {
                self.encode_pieces(&chatml_pieces(prompt), &self.inner)?
            }
            PromptForm::Template(ChatTemplate::Dialogue | ChatTemplate::Plain) => {
                self.encode(prompt)?
            }
        };
        let mut beginning = self.beginning()?;
        // In ChatML the template decides, as in transformers.
        let has_own =
            self.form == PromptForm::Template(ChatTemplate::Chatml) || ids.starts_with(&beginning);
        if has_own || beginning.len() >= most {
            beginning.clear();
        }
        let skip = (beginning.len() + ids.len()).saturating_sub(most);
        let kept = &ids[skip.min(ids.len())..];
        Ok(([beginning.as_slice(), kept].concat(), skip > 0))
    }

    /// The ids of pieces; a text that comes first is encoded by `first`.
    fn encode_pieces(&self, pieces: &[Piece<'_>], first: &HfTokenizer) -> Result<Vec<u32>> {
        let added = self.inner.get_added_tokens_decoder();
        let flags = |piece: Option<&Piece<'_>>| match piece {
            Some(Piece::Control(name)) => {
                let id = self.inner.token_to_id(name);
                id.and_then(|id| added.get(&id)).map_or((false, false), |t| (t.lstrip, t.rstrip))
            }
            _ => (false, false),
        };
        let mut ids = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            match piece {
                Piece::Control(name) => match self.inner.token_to_id(name) {
                    Some(id) => ids.push(id),
                    None => ids.extend(self.encode(name)?),
                },
                // Control tokens may absorb the white space next to them.
                &Piece::Text(mut text) => {
                    if i > 0 && flags(pieces.get(i - 1)).1 {
                        text = text.trim_start();
                    }
                    if flags(pieces.get(i + 1)).0 {
                        text = text.trim_end();
                    }
                    ids.extend(encode(if i == 0 { first } else { &self.inner }, text)?);
                }
            }
        }
        Ok(ids)
    }

    /// What the tokenizer puts before a text, except for [`PromptForm::Text`], and for
    /// [`PromptForm::Model`], whose template writes it.
    fn beginning(&self) -> Result<Vec<u32>> {
        match self.form {
            PromptForm::Text | PromptForm::Model => Ok(vec![]),
            PromptForm::Raw | PromptForm::Template(_) => self.first_tokens(),
        }
    }

    /// What the tokenizer puts before a text.
    fn first_tokens(&self) -> Result<Vec<u32>> {
        match self.settings.flag("add_bos_token")? {
            Some(false) => return Ok(vec![]),
            Some(true) => {
                let name = self.settings.token("bos_token")?;
                let id = name.and_then(|name| self.inner.token_to_id(name)).ok_or_else(|| {
                    let why = "the tokenizer has no `bos_token`";
                    self.settings.refuse("add_bos_token", &Value::Bool(true), why)
                })?;
                return Ok(vec![id]);
            }
            None => {}
        }
        let ids = |special| -> Result<Vec<u32>> {
            guarded(|| self.inner.encode_fast("a", special).map_err(|e| e.to_string()))
                .map(|encoding| encoding.get_ids().to_vec())
                .map_err(|e| refused("encoding", e, "check the tokenizer"))
        };
        let (with, without) = (ids(true)?, ids(false)?);
        match with.strip_suffix(without.as_slice()) {
            Some(beginning) => Ok(beginning.to_vec()),
            None => Err(refused(
                "tokenizer.json",
                "its `post_processor` appends tokens to a text",
                "a prompt must not end before its response: remove it from the file",
            )),
        }
    }

    /// The text of some ids; special tokens are skipped. Bytes that are not UTF-8 (a character cut
    /// in the
    /// middle) become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the library refuses the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded(|| self.inner.decode(ids, true).map_err(|e| e.to_string()))
            .map_err(|e| refused("decoding", e, "check that model and tokenizer belong together"))
    }

    /// Whether its files have a chat template that cannot be used here, so that prompts are not put
    /// into it.
    pub fn has_unknown_template(&self) -> bool {
        self.settings.get("chat_template").is_some()
            && self.own.is_none()
            && matches!(self.settings.chat_template(), Ok(None))
    }

    /// The form of prompts.
    pub fn form(&self) -> PromptForm {
        self.form
    }

    /// Control tokens of the template that the tokenizer does not have: they are encoded as text.
    pub fn missing_control_tokens(&self) -> Vec<&'static str> {
        let PromptForm::Template(template) = self.form else { return vec![] };
        let names = template.control_tokens().iter().copied();
        names.filter(|name| self.inner.token_to_id(name).is_none()).collect()
    }

    /// The id that ends a response in training.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// The same, as written in a text.
    pub fn end_of_text_token(&self) -> String {
        self.inner.id_to_token(self.end_of_text).expect("found by its name")
    }

    /// All ids that end a response in generation, in the order of their declaration.
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// The id of a special token by its role in `tokenizer_config.json`, such as `bos_token`.
    pub fn role_id(&self, role: &str) -> Option<u32> {
        self.inner.token_to_id(self.settings.token(role).ok()??)
    }

    /// The highest id + 1: the size of the smallest embedding that fits.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that every id fits into a model with `model_vocab` rows in its embedding.
    ///
    /// # Errors
    /// [`Error::VocabularyTooSmall`] with both numbers.
    pub fn check_fits(&self, model_vocab: usize) -> Result<()> {
        if self.vocab_size > model_vocab {
            return Err(Error::VocabularyTooSmall {
                tokenizer: self.vocab_size,
                model: model_vocab,
            });
        }
        Ok(())
    }

    /// The SHA-256 of the `tokenizer.json`, as `sha256sum` prints it.
    pub fn sha256(&self) -> String {
        sha256_hex(&self.json)
    }
}

/// The token that ends a response in training, and all that do in generation.
fn ends(
    inner: &HfTokenizer,
    settings: &TokenizerSettings,
    declared: &[u32],
    what: &str,
) -> Result<(u32, Vec<u32>)> {
    let named = match settings.token("eos_token")? {
        None => None,
        Some(name) => Some(inner.token_to_id(name).ok_or_else(|| {
            settings.refuse("eos_token", &name.into(), "the tokenizer has no such token")
        })?),
    };
    let known: Vec<u32> =
        declared.iter().copied().filter(|id| inner.id_to_token(*id).is_some()).collect();
    if !declared.is_empty() && known.is_empty() {
        return Err(Error::Tokenizer {
            what: what.into(),
            why: format!(
                "the model ends responses with `eos_token_id` {declared:?}, but the tokenizer has no \
                 such token"
            ),
            remedy: "responses must be able to end: use the tokenizer that belongs to the model",
        });
    }
    match (named, known.first()) {
        (Some(id), Some(_)) if known.contains(&id) => Ok((id, known)),
        (_, Some(first)) => Ok((*first, known)),
        (Some(id), None) => Ok((id, vec![id])),
        (None, None) => {
            let found = END_OF_TEXT_NAMES.iter().find_map(|name| inner.token_to_id(name));
            found.map(|id| (id, vec![id])).ok_or_else(|| Error::Tokenizer {
                what: what.into(),
                why: format!(
                    "it has no end-of-text token (looked for {})",
                    END_OF_TEXT_NAMES.join(", ")
                ),
                remedy: "responses must be able to end: add one to `added_tokens`, or name it as \
                         `eos_token` in tokenizer_config.json",
            })
        }
    }
}

/// Makes all added tokens special, so that they are neither found in texts nor shown in answers.
fn make_special(
    inner: &mut HfTokenizer,
    names: impl Iterator<Item = String>,
    what: &str,
) -> Result<()> {
    let added = inner.get_added_tokens_decoder();
    let tokens: Vec<AddedToken> = names
        .filter_map(|name| added.get(&inner.token_to_id(&name)?))
        .filter(|token| !token.special)
        .map(|token| token.clone().special(true))
        .collect();
    if tokens.is_empty() {
        return Ok(());
    }
    inner.add_special_tokens(tokens).map_err(|e| refused(what, e, "check its `added_tokens`"))?;
    Ok(())
}

fn encode(inner: &HfTokenizer, text: &str) -> Result<Vec<u32>> {
    guarded(|| inner.encode_fast(text, false).map_err(|e| e.to_string()))
        .map(|encoding| encoding.get_ids().to_vec())
        .map_err(|e| refused("encoding", e, "check the text and the tokenizer"))
}

fn refused(what: &str, why: impl ToString, remedy: &'static str) -> Error {
    Error::Tokenizer { what: what.into(), why: why.to_string(), remedy }
}

#[cfg(test)]
mod tests;
