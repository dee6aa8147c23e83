//! A chat endpoint on the loopback device whose model is a function of the request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

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

type Model = dyn Fn(&ChatRequest) -> ChatReply + Send + Sync;

/// A server that runs until the process ends, on a free port of its own.
#[derive(Clone)]
pub struct LoopbackChat {
    url: String,
    model: Arc<Model>,
    requests: Arc<Mutex<Vec<ChatRequest>>>,
}

impl LoopbackChat {
    /// Starts the server.
    pub fn start(model: impl Fn(&ChatRequest) -> ChatReply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/v1", listener.local_addr().expect("bound"));
        let chat = Self { url, model: Arc::new(model), requests: Arc::default() };
        let server = chat.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that disconnects is not an error of the server.
                std::thread::spawn(move || server.answer(stream).unwrap_or_default());
            }
        });
        chat
    }

    /// The address below which `chat/completions` is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The requests since the last call, in order.
    pub fn take_requests(&self) -> Vec<ChatRequest> {
        std::mem::take(&mut *self.requests.lock().expect("no test panics in here"))
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let request = read_request(&stream)?;
        self.requests.lock().expect("no test panics in here").push(request.clone());
        let ChatReply { status, headers, body } = (self.model)(&request);
        let mut head = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
        head.extend(headers.iter().map(|header| format!("{header}\r\n")));
        head += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes())
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<ChatRequest> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).map(|_| line.trim_end().to_owned())
    };
    let path = line()?.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut authorization, mut n_bytes) = (None, 0);
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "authorization" => authorization = Some(value.to_owned()),
            "content-length" => n_bytes = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    let mut body = String::new();
    reader.take(n_bytes).read_to_string(&mut body)?;
    Ok(ChatRequest { path, authorization, body })
}
