//! Text to token ids and back: byte-level BPE, trained here or loaded from a `tokenizer.json`.

use std::path::Path;

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as HfTokenizer};

use crate::{Error, Result, sha256_hex, write_atomically};

/// The token that ends a response in the tokenizers that are trained here (and in GPT-2's).
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Names under which loaded tokenizers may have their end-of-text token, the first found wins.
const END_OF_TEXT_NAMES: [&str; 5] =
    [END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>"];

/// 256 bytes and the end-of-text token.
const SMALLEST_VOCAB: usize = 257;

/// A tokenizer with an end-of-text token.
///
/// Special tokens written out in a text are ordinary text to [`Tokenizer::encode`], so that no
/// data row can end a sequence from inside.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: HfTokenizer,
    end_of_text: u32,
    vocab_size: usize,
    /// The `tokenizer.json` as it was loaded or will be saved.
    json: Vec<u8>,
}

impl Tokenizer {
    /// Trains byte-level BPE. Deterministic: equal texts in equal order give equal files. All 256
    /// bytes are tokens, so every text can be encoded; no space is added in front. Little text
    /// may give fewer than `vocab_size` ids.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if `vocab_size` is below 257; [`Error::Tokenizer`] if the
    /// library refuses.
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
            .map_err(|e| refused("training", &*e, "check the texts and `vocab_size`"))?;
        let json = inner
            .to_string(true)
            .map_err(|e| refused("writing", &*e, "this is a defect of the library"))?;
        Self::from_json(json.into_bytes(), "training")
    }

    /// Loads a `tokenizer.json` as it is.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Tokenizer`] if the file is not a tokenizer, or if no end-of-text
    /// token (`<|endoftext|>`, `</s>`, `<eos>`, …) is in it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let json = std::fs::read(path).map_err(Error::io("read the tokenizer", path))?;
        Self::from_json(json, &path.display().to_string())
    }

    fn from_json(json: Vec<u8>, what: &str) -> Result<Self> {
        let mut inner = HfTokenizer::from_bytes(&json).map_err(|e| {
            refused(what, &*e, "give a `tokenizer.json` of the `tokenizers` library")
        })?;
        let found = END_OF_TEXT_NAMES.iter().find_map(|name| inner.token_to_id(name));
        let Some(end_of_text) = found else {
            return Err(Error::Tokenizer {
                what: what.into(),
                why: format!(
                    "it has no end-of-text token (looked for {})",
                    END_OF_TEXT_NAMES.join(", ")
                ),
                remedy: "responses must be able to end: add one to `added_tokens`",
            });
        };
        inner.set_encode_special_tokens(true);
        // Cutting and padding are the collator's, visibly; a loaded file may ask for them.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| refused(what, &*e, "remove `truncation` from the file"))?;
        // Ids may have gaps, so this is not the number of tokens.
        let highest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        Ok(Self { inner, end_of_text, vocab_size: highest as usize + 1, json })
    }

    /// Writes the `tokenizer.json`, atomically.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(write_atomically(path.as_ref(), &self.json)?)
    }

    /// The ids of a text; no special token is added, and none is recognised.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the library refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|e| refused("encoding", &*e, "check the text and the tokenizer"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of some ids; special tokens are skipped. Bytes that are not UTF-8 (a cut in the
    /// middle of a character) become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the library refuses the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .decode(ids, true)
            .map_err(|e| refused("decoding", &*e, "check that model and tokenizer belong together"))
    }

    /// The id that ends a response.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// The same as it is written in a text.
    pub fn end_of_text_token(&self) -> String {
        self.inner.id_to_token(self.end_of_text).expect("found by its name")
    }

    /// The highest id + 1: the smallest embedding that fits.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that a model with `model_vocab` rows in its embedding can take every id.
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

fn refused(what: &str, why: &(dyn std::error::Error + Send + Sync), remedy: &'static str) -> Error {
    Error::Tokenizer { what: what.into(), why: why.to_string(), remedy }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            println!("skipped: {} is not there", path.display());
            return;
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
}
