//! Text as it is: without a template, and the bytes behind a token's name.

use tokenizers::DecoderWrapper;

use super::Tokenizer;
use crate::Result;

impl Tokenizer {
    /// The ids of a text that is continued as it is, whatever the form of prompts: the token that begins a text, if the
    /// tokenizer adds one, and the text. Special tokens written in it are text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) if the library refuses the text.
    pub fn encode_continued(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.first_tokens()?;
        ids.extend(self.encode(text)?);
        Ok(ids)
    }

    /// The bytes of a token, which may be a part of a character. Of a token that stands for no text, such as a
    /// control token, its name.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(name) = self.inner.id_to_token(id) else { return vec![] };
        token_bytes(&name, self.is_byte_level())
    }

    /// Whether tokens are written with a character for each byte.
    fn is_byte_level(&self) -> bool {
        match self.inner.get_decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => true,
            Some(DecoderWrapper::Sequence(all)) => {
                all.get_decoders().iter().any(|one| matches!(one, DecoderWrapper::ByteLevel(_)))
            }
            _ => false,
        }
    }
}

/// The bytes of a token's name: in GPT-2's alphabet of bytes, or as SentencePiece writes them.
fn token_bytes(name: &str, is_byte_level: bool) -> Vec<u8> {
    if is_byte_level {
        let bytes: Option<Vec<u8>> = name.chars().map(byte_of).collect();
        return bytes.unwrap_or_else(|| name.into());
    }
    let byte = name.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
        Some(byte) => vec![byte],
        None => name.replace('\u{2581}', " ").into_bytes(),
    }
}

/// The byte that a character of GPT-2's alphabet stands for: printable ones for themselves, the others in their order from
/// U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let is_printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        code @ 0..=0xff => u8::try_from(code).ok().filter(|b| is_printable(*b)),
        code => (0..=255u8).filter(|b| !is_printable(*b)).nth(code as usize - 0x100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_alphabets_are_read() {
        for (name, is_byte_level, expected) in [
            ("\u{120}caf\u{c3}\u{a9}", true, " caf\u{e9}".as_bytes()),
            ("\u{10a}", true, b"\n"),
            ("\u{e2}\u{f6}", true, &[0xe2, 0xf6]),
            // Not of the alphabet: an added token.
            ("<\u{2581}>", true, "<\u{2581}>".as_bytes()),
            ("\u{2581}caf\u{e9}", false, " caf\u{e9}".as_bytes()),
            ("<0x0A>", false, b"\n"),
            ("<0xE2>", false, &[0xe2]),
            ("<0x>", false, b"<0x>"),
        ] {
            assert_eq!(token_bytes(name, is_byte_level), expected, "{name}");
        }
        // Every byte has one character, as in tokenizers.
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut bytes: Vec<u8> = alphabet.iter().map(|c| byte_of(*c).unwrap()).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn bytes_of_tokens_make_the_text() {
        let text = "Tea & caf\u{e9}\u{1f375} for two";
        let tokenizer = Tokenizer::train([text].into_iter(), 280).unwrap();
        let ids = tokenizer.encode(text).unwrap();
        let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id)).collect();
        assert_eq!(bytes, text.as_bytes());
        assert!(tokenizer.token_bytes(100_000).is_empty());
    }
}
