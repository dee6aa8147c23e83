//! `/v1/scores`: texts to scores by the run's rewards.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::chat;
use crate::engine::Prompt;
use crate::error::{ApiError, json_response};
use crate::fields::{Fields, wrong_type};
use crate::scorer::ScoreItem;

/// Most texts of one request.
const MAX_ITEMS: usize = 256;

/// Answers a request's body.
pub(crate) async fn answer(app: &Arc<App>, body: &[u8]) -> Result<Response, ApiError> {
    let mut fields = Fields::parse(body)?;
    let (model, items) = parse(app, &mut fields)?;
    fields.finish()?;
    let scores = app.score(items).await?;
    let names = app.rewards();
    let data: Vec<Value> = scores
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let named = names.iter().cloned().zip(row.iter().map(|score| json!(score)));
            json!({ "object": "score", "index": index, "scores": named.collect::<Map<_, _>>() })
        })
        .collect();
    let value = json!({ "object": "list", "model": model, "rewards": names, "data": data });
    Ok(json_response(StatusCode::OK, &value))
}

/// Takes all fields of a request.
pub(crate) fn parse(app: &App, fields: &mut Fields) -> Result<(String, Vec<ScoreItem>), ApiError> {
    // Whatever the head: rewards belong to the run.
    let model = app.models.choose(fields)?.model;
    let Some(input) = fields.array("input")? else {
        let message =
            "'input' is missing: an array of objects with 'prompt' or 'messages', and 'response'";
        return Err(ApiError::invalid("input", message).code("missing_required_parameter"));
    };
    if input.is_empty() || input.len() > MAX_ITEMS {
        let message = format!("'input' has {} entries; it must have 1 to {MAX_ITEMS}", input.len());
        return Err(ApiError::invalid("input", message));
    }
    let items = input.into_iter().enumerate().map(|(i, value)| item(i, value));
    Ok((model, items.collect::<Result<_, _>>()?))
}

fn item(i: usize, value: Value) -> Result<ScoreItem, ApiError> {
    let place = format!("input[{i}]");
    let Value::Object(map) = value else { return Err(wrong_type(&place, "an object", &value)) };
    let mut fields = Fields::new(format!("{place}."), map);
    let missing = |name: &str, what: &str| {
        let place = format!("{place}.{name}");
        let message = format!("'{place}' is missing{what}");
        ApiError::invalid(place, message).code("missing_required_parameter")
    };
    let prompt = match (fields.string("prompt")?, fields.array("messages")?) {
        (Some(text), None) => Prompt::Text(text),
        (None, Some(messages)) => {
            let messages = messages.into_iter().enumerate().map(|(k, value)| {
                chat::message(k, value).map_err(|e| ApiError {
                    param: e.param.map(|param| format!("{place}.{param}")),
                    ..e
                })
            });
            Prompt::Chat(messages.collect::<Result<_, _>>()?)
        }
        (Some(_), Some(_)) => {
            let place = fields.place("prompt");
            let message =
                format!("'{place}' and '{}' exclude each other", fields.place("messages"));
            return Err(ApiError::invalid(place, message));
        }
        (None, None) => return Err(missing("prompt", ", and so is 'messages'")),
    };
    let response = fields.string("response")?.ok_or_else(|| missing("response", ""))?;
    fields.finish()?;
    Ok(ScoreItem { prompt, response })
}
