//! The page: static files without a build step, and what a browser may do with them.

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::app::{PathName, not_utf8};
use crate::error::ApiError;

/// Scripts and styles from here only, and none inside the page: text of a model cannot become one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const INDEX: &str = include_str!("page/index.html");

/// Name, media type and content of each file.
const ASSETS: [(&str, &str, &str); 8] = [
    ("style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("app.js", SCRIPT, include_str!("page/app.js")),
    ("api.js", SCRIPT, include_str!("page/api.js")),
    ("front.js", SCRIPT, include_str!("page/front.js")),
    ("settings.js", SCRIPT, include_str!("page/settings.js")),
    ("talk.js", SCRIPT, include_str!("page/talk.js")),
    ("weights.js", SCRIPT, include_str!("page/weights.js")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";

fn file(kind: &'static str, content: &'static str) -> Response {
    let mut response = Response::new(Body::from(content));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        // A new version of the program must not meet old scripts.
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

pub(crate) async fn index() -> Response {
    file("text/html; charset=utf-8", INDEX)
}

pub(crate) async fn asset(name: PathName) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(not_utf8)?;
    let found = ASSETS.iter().find(|(known, _, _)| *known == name);
    let (_, kind, content) = found.ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, "the page has no such file").code("not_found")
    })?;
    Ok(file(kind, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_has_nothing_inline() {
        let texts =
            ASSETS.iter().map(|(name, _, text)| (*name, *text)).chain([("index.html", INDEX)]);
        for (name, text) in texts {
            let foreign = text.match_indices("://").filter(|(at, _)| {
                !text[..*at].ends_with("http") || !text[at + 3..].starts_with("www.w3.org/")
            });
            assert_eq!(foreign.count(), 0, "{name} names another host");
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
            {
                assert!(!text.contains(word), "{name} has `{word}`: text could become markup");
            }
        }
        for word in ["<style", " style=", " onclick", "javascript:"] {
            assert!(!INDEX.contains(word), "the page has `{word}`, which its policy forbids");
        }
        assert_eq!(
            INDEX.matches("<script").count(),
            INDEX.matches("<script type=\"module\" src=").count()
        );
        for (name, _, _) in ASSETS.iter().filter(|(name, _, _)| !name.ends_with(".js")) {
            assert!(INDEX.contains(&format!("/assets/{name}")), "{name} is not used");
        }
    }
}
