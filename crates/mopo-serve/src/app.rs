//! The state of a server, and what answers each route.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::answer::{Kind, answer};
use crate::error::{ApiError, json_response};
use crate::front::FrontSource;
use crate::host::EngineHandle;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::options::ServeOptions;
use crate::scorer::{ScoreItem, TextScorer};
use crate::{guard, page, scores};

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a body that is too large so much is read, so that its sender gets the answer.
const DRAINED: usize = 64 << 20;
/// The description of all routes.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

/// What all requests share.
pub(crate) struct App {
    pub(crate) engine: EngineHandle,
    pub(crate) models: Models,
    pub(crate) options: ServeOptions,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) scorer: Option<Arc<dyn TextScorer>>,
    pub(crate) front: Option<FrontSource>,
    /// One call of the rewards at a time.
    pub(crate) scoring: Semaphore,
    pub(crate) started: u64,
    /// Counts responses; the upper half differs between servers.
    pub(crate) ids: AtomicU64,
    /// Counts requests without a seed.
    pub(crate) seeds: AtomicU64,
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

type Answer = Result<Response, ApiError>;

impl App {
    /// A new id with this prefix, and the time.
    pub(crate) fn next_id(&self, prefix: &str) -> (String, u64) {
        let n = self.ids.fetch_add(1, Ordering::Relaxed);
        let server = mopo_hub::fnv1a(self.started.to_le_bytes()) as u32;
        (format!("{prefix}-{server:08x}{n:012x}"), now())
    }

    /// The seed of a request that has none: the same for the n-th such request of every server with this seed. Small, so that
    /// every JSON parser and every client can repeat it.
    pub(crate) fn next_seed(&self) -> u64 {
        let n = self.seeds.fetch_add(1, Ordering::Relaxed);
        let bytes = [self.options.seed.to_le_bytes(), n.to_le_bytes()].concat();
        mopo_hub::fnv1a(bytes) & 0xffff_ffff
    }

    /// Names of the rewards.
    pub(crate) fn rewards(&self) -> Vec<String> {
        self.scorer.as_ref().map(|scorer| scorer.names()).unwrap_or_default()
    }

    /// Scores responses on a thread of its own.
    pub(crate) async fn score(&self, items: Vec<ScoreItem>) -> Result<Vec<Vec<f32>>, ApiError> {
        let Some(scorer) = self.scorer.clone() else {
            let message = "this model has no rewards: only a run has some";
            return Err(
                ApiError::new(StatusCode::BAD_REQUEST, message).code("unsupported_parameter")
            );
        };
        let n = items.len() as u64;
        let wait = tokio::time::timeout(self.options.queue_timeout, self.scoring.acquire());
        let Ok(Ok(_turn)) = wait.await else {
            let message = "the rewards are busy with other texts; try again later";
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
                .code("queue_timeout")
                .retry_after(1));
        };
        match tokio::task::spawn_blocking(move || scorer.score(&items)).await {
            Ok(scores) => {
                self.metrics.scored.add(n);
                Ok(scores?)
            }
            Err(_) => {
                self.metrics.panics.add(1);
                Err(ApiError::internal("a reward failed on these texts"))
            }
        }
    }
}

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(page::index))
        .route("/assets/{name}", get(page::asset))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .route("/api/info", get(info))
        .route("/api/front", get(front))
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(text_completions))
        .route("/v1/scores", post(score_texts))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::around))
        .with_state(app)
}

async fn not_found(method: Method, uri: Uri) -> ApiError {
    let path = crate::fields::shortened(uri.path());
    let message =
        format!("there is nothing at {method} {path}; GET /openapi.json lists what there is");
    ApiError::new(StatusCode::NOT_FOUND, message).code("not_found")
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}", crate::fields::shortened(uri.path()));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).code("method_not_allowed")
}

async fn chat_completions(State(app): State<Arc<App>>, request: Request) -> Answer {
    let body = body(&app, request).await?;
    answer(&app, Kind::Chat, &body).await
}

async fn text_completions(State(app): State<Arc<App>>, request: Request) -> Answer {
    let body = body(&app, request).await?;
    answer(&app, Kind::Completion, &body).await
}

async fn score_texts(State(app): State<Arc<App>>, request: Request) -> Answer {
    let body = body(&app, request).await?;
    scores::answer(&app, &body).await
}

async fn health(State(app): State<Arc<App>>) -> Answer {
    if app.engine.is_closed() {
        return Err(ApiError::shutting_down());
    }
    Ok(json_response(StatusCode::OK, &json!({ "status": "ok" })))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut response = Response::new(Body::from(app.metrics.text()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn openapi() -> Response {
    let mut response = Response::new(Body::from(OPENAPI));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// What the page must know.
async fn info(State(app): State<Arc<App>>) -> Response {
    let info = &app.models.info;
    json_response(
        StatusCode::OK,
        &json!({
            "model": app.models.name,
            "objectives": info.policies,
            "models": app.models.names(),
            "rewards": app.rewards(),
            "has_front": app.front.is_some(),
            "max_new_tokens": app.options.max_new_tokens,
            "context": info.context,
        }),
    )
}

async fn front(State(app): State<Arc<App>>) -> Answer {
    let none = || {
        let message = "there is no front: evaluate the run with `mopo pareto`, and reload";
        ApiError::new(StatusCode::NOT_FOUND, message).code("not_found")
    };
    let source = app.front.clone().ok_or_else(none)?;
    let read = tokio::task::spawn_blocking(move || source.read()).await;
    let front = read.map_err(|_| ApiError::internal("the front cannot be read"))?;
    let front = front.map_err(|e| ApiError::internal(e.to_string()))?.ok_or_else(none)?;
    let value = serde_json::to_value(front).map_err(|e| ApiError::internal(e.to_string()))?;
    Ok(json_response(StatusCode::OK, &value))
}

/// What a path has where it has a name.
pub(crate) type PathName = Result<Path<String>, PathRejection>;

pub(crate) fn not_utf8(rejection: PathRejection) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, rejection.body_text()).code("invalid_path")
}

fn card(app: &App, id: &str) -> Value {
    json!({ "id": id, "object": "model", "created": app.started, "owned_by": "mopo" })
}

async fn models(State(app): State<Arc<App>>) -> Response {
    let data: Vec<Value> = app.models.names().iter().map(|name| card(&app, name)).collect();
    json_response(StatusCode::OK, &json!({ "object": "list", "data": data }))
}

async fn model(State(app): State<Arc<App>>, name: PathName) -> Answer {
    let Path(name) = name.map_err(not_utf8)?;
    // A name with weights counts, too.
    let mut fields = crate::fields::Fields::new(
        String::new(),
        [("model".to_owned(), Value::String(name.clone()))].into_iter().collect(),
    );
    app.models.choose(&mut fields)?;
    Ok(json_response(StatusCode::OK, &card(&app, &name)))
}

/// Whether a body is JSON, and its length, by the headers.
fn declared(headers: &HeaderMap) -> (bool, Option<usize>) {
    let of = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = of(header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let length = of(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    (kind.eq_ignore_ascii_case("application/json"), length)
}

/// The JSON body of a request.
async fn body(app: &App, request: Request) -> Result<Bytes, ApiError> {
    let (is_json, declared) = declared(request.headers());
    let most = app.options.max_body_bytes;
    let too_large = || {
        let message = format!("the body has more than the {most} bytes that this server takes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("request_too_large")
    };
    if declared.is_some_and(|length| length > DRAINED) {
        return Err(too_large());
    }
    let mut parts = request.into_body().into_data_stream();
    let (mut body, mut length) = (Vec::new(), 0_usize);
    let read = async {
        while let Some(part) = parts.next().await {
            let part = part.map_err(|e| {
                let message = format!("the body cannot be read: {e}");
                ApiError::new(StatusCode::BAD_REQUEST, message).code("incomplete_body")
            })?;
            length += part.len();
            match length {
                _ if length > DRAINED => break,
                // No more than what is needed to know that it is too large.
                _ if length > most => body = Vec::new(),
                _ => body.extend_from_slice(&part),
            }
        }
        Ok::<(), ApiError>(())
    };
    let patience = BODY_TIMEOUT.min(app.options.request_timeout);
    match tokio::time::timeout(patience, read).await {
        Ok(read) => read?,
        Err(_) => {
            let message = format!("the body did not arrive within {} s", patience.as_secs_f64());
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message).code("timeout"));
        }
    }
    if length > most {
        return Err(too_large());
    }
    if !is_json {
        let message = "the body must be JSON, with the header `Content-Type: application/json`";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
            .code("unsupported_media_type"));
    }
    if app.options.log_requests {
        tracing::info!("request body: {:?}", String::from_utf8_lossy(&body));
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::answer;
    use crate::engine::ModelInfo;
    use crate::fields::Fields;

    fn app() -> App {
        let metrics = Arc::new(Metrics::default());
        let (engine, _) = crate::host::pair(1, 1, Arc::clone(&metrics));
        let info = ModelInfo { policies: vec!["a".into()], ..ModelInfo::default() };
        App {
            engine,
            models: Models { name: "run".into(), info },
            options: ServeOptions::default(),
            metrics,
            scorer: None,
            front: None,
            scoring: Semaphore::new(1),
            started: 0,
            ids: AtomicU64::new(0),
            seeds: AtomicU64::new(0),
        }
    }

    #[test]
    fn the_description_has_the_fields_that_are_taken() {
        let spec: Value = serde_json::from_str(OPENAPI).unwrap();
        assert_eq!(spec["info"]["version"], env!("CARGO_PKG_VERSION"));
        let described = |name: &str| -> BTreeSet<String> {
            let properties = &spec["components"]["schemas"][name]["properties"];
            properties.as_object().unwrap().keys().cloned().collect()
        };
        let taken = |fields: &Fields| -> BTreeSet<String> {
            fields.known().into_iter().map(str::to_owned).collect()
        };
        let app = app();
        let mut chat =
            Fields::parse(br#"{"messages": [{"role": "user", "content": "x"}]}"#).unwrap();
        answer::parse(&app, Kind::Chat, &mut chat).unwrap();
        assert_eq!(taken(&chat), described("ChatRequest"));
        let mut completion = Fields::parse(br#"{"prompt": "x"}"#).unwrap();
        answer::parse(&app, Kind::Completion, &mut completion).unwrap();
        assert_eq!(taken(&completion), described("CompletionRequest"));
        let mut score = Fields::parse(br#"{"input": [{"prompt": "x", "response": "y"}]}"#).unwrap();
        scores::parse(&app, &mut score).unwrap();
        assert_eq!(taken(&score), described("ScoreRequest"));
    }

    #[test]
    fn the_description_has_every_route() {
        let spec: Value = serde_json::from_str(OPENAPI).unwrap();
        let described: BTreeSet<&str> =
            spec["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let routes: BTreeSet<&str> = guard::ROUTES.into_iter().collect();
        assert_eq!(described, routes);
    }
}
