//! A chat endpoint on the loopback device whose model is a function of the request.

use crate::{EndpointReply, LoopbackEndpoint, PostedRequest};

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatRequest {
    /// As in the request's first line.
    pub path: String,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// JSON.
    pub body: String,
}

/// What the server sends back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatReply {
    /// The HTTP status.
    pub status: u16,
    /// Further lines of the header, such as `Retry-After: 1`.
    pub headers: Vec<String>,
    /// The body.
    pub body: String,
}

impl ChatReply {
    /// A completion with this text, which must need no escapes in JSON other than those of Rust.
    pub fn says(text: &str) -> Self {
        let content = format!("{text:?}");
        let body = format!(
            "{{\"choices\":[{{\"message\":{{\"role\":\"assistant\",\"content\":{content}}}}}]}}"
        );
        Self { status: 200, headers: vec![], body }
    }

    /// An error in the form of OpenAI's.
    pub fn fails(status: u16, message: &str) -> Self {
        let body = format!("{{\"error\":{{\"message\":{message:?}}}}}");
        Self { status, headers: vec![], body }
    }
}

/// A server that runs until the process ends, on a free port of its own.
#[derive(Clone)]
pub struct LoopbackChat {
    url: String,
    endpoint: LoopbackEndpoint,
}

impl LoopbackChat {
    /// Starts the server.
    pub fn start(model: impl Fn(&ChatRequest) -> ChatReply + Send + Sync + 'static) -> Self {
        let endpoint = LoopbackEndpoint::start(move |_, request| {
            let ChatReply { status, headers, body } = model(&ChatRequest::of(request));
            EndpointReply { status, headers, body: body.into() }
        });
        Self { url: format!("{}/v1", endpoint.address()), endpoint }
    }

    /// The address below which `chat/completions` is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The requests since the last call, in order.
    pub fn take_requests(&self) -> Vec<ChatRequest> {
        self.endpoint.take_requests().iter().map(ChatRequest::of).collect()
    }
}

impl ChatRequest {
    fn of(request: &PostedRequest) -> Self {
        Self {
            path: request.target.split(' ').nth(1).unwrap_or_default().to_owned(),
            authorization: request.headers.get("authorization").cloned(),
            body: request.body.clone(),
        }
    }
}
