//! What surrounds every request: who may ask, panics, the log and the metrics.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::app::App;
use crate::error::ApiError;

/// Routes for which no key is needed: they say nothing about the model.
const PUBLIC: [&str; 4] = ["/", "/assets/{name}", "/health", "/openapi.json"];

/// All routes.
pub(crate) const ROUTES: [&str; 12] = [
    "/",
    "/assets/{name}",
    "/health",
    "/metrics",
    "/openapi.json",
    "/api/info",
    "/api/front",
    "/v1/models",
    "/v1/models/{model}",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/scores",
];

/// The route of a request by name, so that the metrics have no others.
fn route(request: &Request) -> &'static str {
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    ROUTES.into_iter().find(|route| Some(*route) == matched).unwrap_or("other")
}

/// Answers a request if it is allowed.
pub(crate) async fn around(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (clock, route) = (Instant::now(), route(&request));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (id, _) = app.next_id("req");
    let refused = refused(&app, route, request.headers());
    let mut response = match refused {
        Some(error) => error.into_response(),
        None => match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                app.metrics.panics.add(1);
                ApiError::internal("the server failed on this request").into_response()
            }
        },
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", id);
    }
    if app.engine.is_closed() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let (seconds, status) = (clock.elapsed().as_secs_f64(), response.status().as_u16());
    app.metrics.answered(route, status);
    let ms = seconds * 1e3;
    // What browsers and monitors fetch all the time says little.
    match status < 400 && (PUBLIC.contains(&route) || route == "/metrics") {
        true => tracing::debug!("{method} {path:?} {status} {ms:.0} ms"),
        false => tracing::info!("{method} {path:?} {status} {ms:.0} ms"),
    }
    response
}

/// Why a request is not allowed.
fn refused(app: &App, route: &str, headers: &HeaderMap) -> Option<ApiError> {
    let Some(key) = &app.options.api_key else {
        // Without a key, whoever reaches loopback is served; a page of a foreign host whose name has been made to mean
        // loopback must not be.
        let is_local = !app.options.host.is_loopback() || host_is_local(headers);
        let error = || {
            let message =
                "the Host header names another host; this server answers to localhost only";
            ApiError::new(StatusCode::FORBIDDEN, message).code("invalid_host")
        };
        return (!is_local).then(error);
    };
    if PUBLIC.contains(&route) {
        return None;
    }
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let token = given.and_then(|value| {
        let (scheme, token) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
    });
    let unauthorized = |message: &str| {
        Some(ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key"))
    };
    match token {
        None => unauthorized("an API key is needed: send the header `Authorization: Bearer KEY`"),
        Some(token) if same(token, key.as_bytes()) => None,
        Some(_) => unauthorized("the API key is wrong"),
    }
}

/// Whether two secrets are equal, in a time that depends on neither.
fn same(a: &[u8], b: &[u8]) -> bool {
    Sha256::digest(a).as_slice().ct_eq(Sha256::digest(b).as_slice()).into()
}

/// Whether the client asked for this machine by one of its own names. No header at all is HTTP/1.0, which no browser
/// speaks.
fn host_is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_compared_whole() {
        assert!(same(b"secret", b"secret"));
        for other in [&b"secreT"[..], b"secret ", b"", b"secre"] {
            assert!(!same(other, b"secret"));
        }
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        let of = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
            host_is_local(&headers)
        };
        for host in
            ["localhost", "LocalHost:8000", "127.0.0.1:80", "127.8.9.1", "[::1]:8000", "[::1]"]
        {
            assert!(of(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:80",
            "10.0.0.1",
            "[::2]:1",
            "127.0.0.1.nip.io",
            "",
        ] {
            assert!(!of(host), "{host}");
        }
        assert!(host_is_local(&HeaderMap::new()));
    }
}
