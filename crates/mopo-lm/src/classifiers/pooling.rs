//! Which token's state a classifier uses.

use serde::{Deserialize, Serialize};

/// The token whose state is classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Decoders: the text's last token, whatever it is.
    LastToken,
    /// Decoders: the token before the first padding token; the last one if the text has none or begins
    /// with it. transformers' rule from 4.31 until `last_non_pad`.
    BeforeFirstPad,
    /// Decoders: the last token that is not the padding token. transformers' current rule.
    LastNonPad,
    /// Decoders: the token whose index is the number of tokens other than padding, minus 1.
    /// transformers' rule up to 4.30.
    NonPadCount,
    /// DistilBERT: the first token.
    Cls,
    /// BART: the last end-of-sequence token.
    LastEos,
}

impl Pooling {
    /// Its name in settings.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).expect("a name")
    }

    /// The rules for an architecture.
    pub fn of(architecture: &str) -> &'static [Self] {
        match architecture {
            "distilbert" => &[Self::Cls],
            "bart" => &[Self::LastEos],
            _ => &[Self::LastToken, Self::BeforeFirstPad, Self::LastNonPad, Self::NonPadCount],
        }
    }

    /// The index into `ids`, which are not empty.
    ///
    /// # Errors
    /// No token of the needed kind; the message completes "the text …".
    pub fn at(
        self,
        ids: &[u32],
        pad: Option<u32>,
        eos: Option<u32>,
    ) -> std::result::Result<usize, String> {
        let last = ids.len() - 1;
        let is_pad = |id: &&u32| Some(**id) == pad;
        Ok(match self {
            Self::LastToken => last,
            Self::Cls => 0,
            Self::BeforeFirstPad => match ids.iter().position(|id| Some(*id) == pad) {
                None | Some(0) => last,
                Some(first) => first - 1,
            },
            Self::LastNonPad => ids.iter().rposition(|id| Some(*id) != pad).unwrap_or(0),
            // Only padding: the library's index −1.
            Self::NonPadCount => {
                (ids.len() - ids.iter().filter(is_pad).count()).checked_sub(1).unwrap_or(last)
            }
            Self::LastEos => ids.iter().rposition(|id| Some(*id) == eos).ok_or_else(|| {
                "has no end-of-sequence token after tokenization; the tokenizer must add it"
                    .to_owned()
            })?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_rules_find_their_token() {
        let (pad, eos) = (Some(9), Some(2));
        for (rule, ids, expected) in [
            (Pooling::LastToken, &[1, 9, 9][..], 2),
            (Pooling::BeforeFirstPad, &[1, 3, 9, 4, 9], 1),
            (Pooling::BeforeFirstPad, &[1, 3, 4], 2),
            (Pooling::BeforeFirstPad, &[9, 3, 4], 2),
            (Pooling::LastNonPad, &[1, 9, 4, 9], 2),
            (Pooling::LastNonPad, &[9, 9], 0),
            (Pooling::NonPadCount, &[1, 9, 4, 3], 2),
            (Pooling::NonPadCount, &[9, 9], 1),
            (Pooling::Cls, &[5, 6], 0),
            (Pooling::LastEos, &[0, 5, 2, 2, 6, 2], 5),
            (Pooling::LastEos, &[0, 2, 6], 1),
        ] {
            assert_eq!(rule.at(ids, pad, eos), Ok(expected), "{rule:?} {ids:?}");
        }
        assert_eq!(Pooling::BeforeFirstPad.at(&[1, 9, 3], None, None), Ok(2));
        assert!(Pooling::LastEos.at(&[1, 9], pad, eos).unwrap_err().contains("end-of-sequence"));
    }
}
