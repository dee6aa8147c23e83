//! `/v1/chat/completions`: the conversation in, and the shapes of answers.

use mopo_data::Message;
use serde_json::{Value, json};

use crate::engine::{EndReason, Prompt, Token, TokenLogProb};
use crate::error::ApiError;
use crate::fields::{Fields, shortened, wrong_type};
use crate::request::LogProbs;

/// Fields of OpenAI's for things that this server does not do.
const UNSUPPORTED: [&str; 11] = [
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "response_format",
    "modalities",
    "audio",
    "prediction",
    "web_search_options",
    "reasoning_effort",
    "moderation",
];

/// Fields of earlier answers that clients send back; they are allowed where they say nothing.
const OF_ANSWERS: [&str; 6] =
    ["refusal", "annotations", "audio", "function_call", "tool_calls", "tool_call_id"];

/// Takes the conversation, and how many log-probabilities are wanted.
pub(crate) fn prompt(fields: &mut Fields) -> Result<(Prompt, LogProbs), ApiError> {
    let Some(messages) = fields.array("messages")? else {
        let message = "'messages' is missing: an array of objects with 'role' and 'content'";
        return Err(ApiError::invalid("messages", message).code("missing_required_parameter"));
    };
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "'messages' must not be empty"));
    }
    let messages = messages
        .into_iter()
        .enumerate()
        .map(|(i, value)| message(i, value))
        .collect::<Result<_, _>>()?;
    let wanted = fields.bool("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0..=20)?;
    let log_probs = match (wanted, top) {
        (true, top) => Some(top.unwrap_or(0)),
        (false, None | Some(0)) => None,
        (false, Some(_)) => {
            let message = "'top_logprobs' needs 'logprobs': true";
            return Err(ApiError::invalid("top_logprobs", message));
        }
    };
    fields.refuse(&UNSUPPORTED)?;
    Ok((Prompt::Chat(messages), log_probs))
}

/// A message; also of `/v1/scores`.
pub(crate) fn message(i: usize, value: Value) -> Result<Message, ApiError> {
    let place = format!("messages[{i}]");
    let Value::Object(map) = value else { return Err(wrong_type(&place, "an object", &value)) };
    let mut fields = Fields::new(format!("{place}."), map);
    let missing = |name: &str| {
        let place = format!("{place}.{name}");
        let message = format!("'{place}' is missing");
        ApiError::invalid(place, message).code("missing_required_parameter")
    };
    let role = fields.string("role")?.ok_or_else(|| missing("role"))?;
    let role = match &*role {
        // OpenAI's newer name.
        "developer" => "system",
        "system" | "user" | "assistant" => &role,
        other => {
            let place = fields.place("role");
            let message = format!(
                "'{}' is not a role that '{place}' can have here; the roles are system, developer, user and assistant",
                shortened(other)
            );
            return Err(ApiError::invalid(place, message));
        }
    };
    let content = match fields.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts
            .into_iter()
            .enumerate()
            .map(|(k, part)| text_part(&place, k, part))
            .collect::<Result<_, _>>()?,
        Some(other) => {
            return Err(wrong_type(
                &fields.place("content"),
                "a string or an array of parts",
                &other,
            ));
        }
        None => return Err(missing("content")),
    };
    fields.ignore(&["name"]);
    fields.refuse(&OF_ANSWERS)?;
    let message = Message { role: role.into(), content };
    fields.finish()?;
    Ok(message)
}

fn text_part(place: &str, k: usize, part: Value) -> Result<String, ApiError> {
    let place = format!("{place}.content[{k}]");
    let Value::Object(map) = part else { return Err(wrong_type(&place, "an object", &part)) };
    let mut fields = Fields::new(format!("{place}."), map);
    let kind = fields.string("type")?.unwrap_or_default();
    if kind != "text" {
        let place = fields.place("type");
        let message = format!("'{place}' is '{}'; only 'text' is supported", shortened(&kind));
        return Err(ApiError::invalid(place, message).code("unsupported_parameter"));
    }
    let text = fields.string("text")?;
    let text = text.ok_or_else(|| {
        let place = fields.place("text");
        let message = format!("'{place}' is missing");
        ApiError::invalid(place, message).code("missing_required_parameter")
    })?;
    fields.finish()?;
    Ok(text)
}

/// A choice of a whole answer.
pub(crate) fn choice(
    index: usize,
    text: &str,
    tokens: Option<&[TokenLogProb]>,
    end: EndReason,
) -> Value {
    json!({
        "index": index,
        "message": { "role": "assistant", "content": text, "refusal": null },
        "logprobs": tokens.map(log_probs),
        "finish_reason": finish_reason(end),
    })
}

/// A choice of a chunk.
pub(crate) fn delta(
    index: usize,
    delta: Value,
    tokens: Option<&[TokenLogProb]>,
    end: Option<EndReason>,
) -> Value {
    json!({
        "index": index,
        "delta": delta,
        "logprobs": tokens.map(log_probs),
        "finish_reason": end.map(finish_reason),
    })
}

pub(crate) fn finish_reason(end: EndReason) -> &'static str {
    match end {
        EndReason::Stop => "stop",
        EndReason::Length => "length",
    }
}

fn log_probs(tokens: &[TokenLogProb]) -> Value {
    let of = |token: &Token| json!({ "token": token.text, "logprob": finite(token.log_prob), "bytes": token.bytes });
    let content = tokens.iter().map(|token| {
        let mut one = of(&token.chosen);
        one["top_logprobs"] = token.top.iter().map(of).collect();
        one
    });
    json!({ "content": content.collect::<Vec<_>>(), "refusal": null })
}

/// JSON has no infinity; OpenAI writes -9999.
pub(crate) fn finite(log_prob: f32) -> f32 {
    log_prob.max(-9999.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<(Prompt, LogProbs), ApiError> {
        let mut fields = Fields::parse(body.as_bytes())?;
        let parsed = prompt(&mut fields)?;
        fields.finish()?;
        Ok(parsed)
    }

    #[test]
    fn conversations_are_read_with_the_forms_that_clients_send() {
        let (found, log_probs) = parse(
            r#"{"messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": " you"}], "name": "Ann"},
                {"role": "assistant", "content": "Hi", "refusal": null, "annotations": [], "audio": null, "tool_calls": null},
                {"role": "user", "content": ""}
            ], "logprobs": true, "top_logprobs": 3, "tools": [], "response_format": {"type": "text"}}"#,
        )
        .unwrap();
        let message =
            |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let expected = vec![
            message("system", "Be brief."),
            message("user", "Hello you"),
            message("assistant", "Hi"),
            message("user", ""),
        ];
        assert_eq!((found, log_probs), (Prompt::Chat(expected), Some(3)));
    }

    #[test]
    fn wrong_conversations_are_refused_by_place() {
        for (body, param, code) in [
            ("{}", "messages", "missing_required_parameter"),
            (r#"{"messages": []}"#, "messages", "invalid_value"),
            (r#"{"messages": "hi"}"#, "messages", "invalid_type"),
            (r#"{"messages": ["hi"]}"#, "messages[0]", "invalid_type"),
            (
                r#"{"messages": [{"content": "x"}]}"#,
                "messages[0].role",
                "missing_required_parameter",
            ),
            (
                r#"{"messages": [{"role": "user"}]}"#,
                "messages[0].content",
                "missing_required_parameter",
            ),
            (
                r#"{"messages": [{"role": "user", "content": 3}]}"#,
                "messages[0].content",
                "invalid_type",
            ),
            (
                r#"{"messages": [{"role": "tool", "content": "x"}]}"#,
                "messages[0].role",
                "invalid_value",
            ),
            (
                r#"{"messages": [{"role": "user", "content": "x", "foo": 1}]}"#,
                "messages[0].foo",
                "unknown_parameter",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}"#,
                "messages[0].content[0].type",
                "unsupported_parameter",
            ),
            (
                r#"{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}"#,
                "tools",
                "unsupported_parameter",
            ),
            (
                r#"{"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}"#,
                "top_logprobs",
                "invalid_value",
            ),
        ] {
            let e = parse(body).expect_err(body);
            assert_eq!((e.param.as_deref(), e.code), (Some(param), Some(code)), "{body}");
        }
    }
}
