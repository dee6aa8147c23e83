//! `/v1/completions`: the prompts in, and the shapes of answers.

use serde_json::{Map, Value, json};

use crate::chat::{finish_reason, finite};
use crate::engine::{EndReason, Prompt, TokenLogProb};
use crate::error::ApiError;
use crate::fields::{Fields, wrong_type};
use crate::request::LogProbs;

/// Takes the prompts, and how many log-probabilities are wanted.
pub(crate) fn prompts(fields: &mut Fields) -> Result<(Vec<Prompt>, LogProbs), ApiError> {
    let prompts = match fields.take("prompt") {
        Some(Value::String(text)) => vec![Prompt::Text(text)],
        Some(Value::Array(values)) if values.is_empty() => {
            return Err(ApiError::invalid("prompt", "'prompt' must not be an empty array"));
        }
        Some(Value::Array(values)) => {
            let text = |(i, value): (usize, Value)| match value {
                Value::String(text) => Ok(Prompt::Text(text)),
                Value::Number(_) | Value::Array(_) => {
                    let message = "'prompt' as token ids is not supported; send text";
                    Err(ApiError::invalid("prompt", message).code("unsupported_parameter"))
                }
                other => Err(wrong_type(&format!("prompt[{i}]"), "a string", &other)),
            };
            values.into_iter().enumerate().map(text).collect::<Result<_, _>>()?
        }
        Some(other) => return Err(wrong_type("prompt", "a string or an array of strings", &other)),
        None => {
            let message = "'prompt' is missing";
            return Err(ApiError::invalid("prompt", message).code("missing_required_parameter"));
        }
    };
    let log_probs = fields.count("logprobs", 0..=5)?;
    fields.refuse(&["echo", "suffix"])?;
    Ok((prompts, log_probs))
}

/// A choice, of a whole answer or of a chunk, whose text begins `offset` characters into the answer.
pub(crate) fn choice(
    index: usize,
    text: &str,
    offset: usize,
    tokens: Option<&[TokenLogProb]>,
    end: Option<EndReason>,
) -> Value {
    json!({
        "text": text,
        "index": index,
        "logprobs": tokens.map(|tokens| log_probs(offset, tokens)),
        "finish_reason": end.map(finish_reason),
    })
}

fn log_probs(mut offset: usize, tokens: &[TokenLogProb]) -> Value {
    let (mut offsets, mut tops) = (vec![], vec![]);
    for token in tokens {
        offsets.push(offset);
        offset += token.chosen.text.chars().count();
        let top = token.top.iter().map(|top| (top.text.clone(), json!(finite(top.log_prob))));
        tops.push(Value::Object(top.collect::<Map<_, _>>()));
    }
    let has_tops = tokens.iter().any(|token| !token.top.is_empty());
    json!({
        "tokens": tokens.iter().map(|token| &*token.chosen.text).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| finite(token.chosen.log_prob)).collect::<Vec<_>>(),
        "top_logprobs": has_tops.then_some(tops),
        "text_offset": offsets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Token;

    #[test]
    fn prompts_are_one_text_or_several() {
        let of = |body: &str| prompts(&mut Fields::parse(body.as_bytes()).unwrap());
        let text = |text: &str| Prompt::Text(text.into());
        assert_eq!(of(r#"{"prompt": "a"}"#).unwrap(), (vec![text("a")], None));
        let both = of(r#"{"prompt": ["a", ""], "logprobs": 2, "echo": false}"#).unwrap();
        assert_eq!(both, (vec![text("a"), text("")], Some(2)));
        for (body, param) in [
            ("{}", "prompt"),
            (r#"{"prompt": []}"#, "prompt"),
            (r#"{"prompt": [1, 2]}"#, "prompt"),
            (r#"{"prompt": {"a": 1}}"#, "prompt"),
            (r#"{"prompt": ["a", null]}"#, "prompt[1]"),
            (r#"{"prompt": "a", "echo": true}"#, "echo"),
            (r#"{"prompt": "a", "logprobs": 6}"#, "logprobs"),
        ] {
            assert_eq!(of(body).expect_err(body).param.as_deref(), Some(param), "{body}");
        }
    }

    #[test]
    fn log_probabilities_have_the_places_of_their_tokens() {
        let token =
            |text: &str, log_prob| Token { text: text.into(), bytes: text.into(), log_prob };
        let tokens = [
            TokenLogProb {
                chosen: token("é", -0.5),
                top: vec![token("é", -0.5), token("e", f32::NEG_INFINITY)],
            },
            TokenLogProb { chosen: token("t", -1.0), top: vec![] },
        ];
        let found = choice(0, "ét", 3, Some(&tokens), Some(EndReason::Length));
        let expected = json!({
            "text": "ét", "index": 0, "finish_reason": "length",
            "logprobs": {
                "tokens": ["é", "t"], "token_logprobs": [-0.5, -1.0], "text_offset": [3, 4],
                "top_logprobs": [{"é": -0.5, "e": -9999.0}, {}],
            },
        });
        assert_eq!(found, expected);
    }
}
