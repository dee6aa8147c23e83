//! A server on the loopback device that answers posted texts as a test decides. Not a general server: one
//! thread per connection, one request each.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Error, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostedRequest {
    /// Method and path, as in the request's first line.
    pub target: String,
    /// By name, in lower case.
    pub headers: BTreeMap<String, String>,
    /// As it was sent.
    pub body: String,
}

/// What a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointReply {
    /// The status; with 0 the connection is closed instead.
    pub status: u16,
    /// More headers, as `Name: value`.
    pub headers: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl EndpointReply {
    /// Status and body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![], body: body.into() }
    }

    /// The same with another header, as `Name: value`.
    pub fn header(mut self, header: impl Into<String>) -> Self {
        self.headers.push(header.into());
        self
    }
}

/// A server that runs until the process ends, on a free port of its own.
#[derive(Clone)]
pub struct LoopbackEndpoint {
    url: String,
    requests: Arc<Mutex<Vec<PostedRequest>>>,
}

impl LoopbackEndpoint {
    /// Starts a server. `reply` gets the number of earlier requests that nobody has
    /// [taken](Self::take_requests), and the request.
    pub fn start(
        reply: impl Fn(usize, &PostedRequest) -> EndpointReply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/score", listener.local_addr().expect("bound"));
        let endpoint = Self { url, requests: Arc::default() };
        let (server, reply) = (endpoint.clone(), Arc::new(reply));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (server, reply) = (server.clone(), reply.clone());
                // A client that disconnects is not an error of the server.
                std::thread::spawn(move || server.answer(stream, &*reply).unwrap_or_default());
            }
        });
        endpoint
    }

    /// The address of a port at which nobody listens.
    pub fn nobody() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        format!("http://{}/score", listener.local_addr().expect("bound"))
    }

    /// The address without a path.
    pub fn address(&self) -> &str {
        self.url.trim_end_matches("/score")
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The requests since the last call, in order.
    pub fn take_requests(&self) -> Vec<PostedRequest> {
        std::mem::take(&mut *self.requests.lock().expect("no test panics in here"))
    }

    fn answer(
        &self,
        mut stream: TcpStream,
        reply: &dyn Fn(usize, &PostedRequest) -> EndpointReply,
    ) -> std::io::Result<()> {
        let request = read_request(&stream)?;
        let before = {
            let mut requests = self.requests.lock().expect("no test panics in here");
            requests.push(request.clone());
            requests.len() - 1
        };
        let EndpointReply { status, headers, body } = reply(before, &request);
        if status == 0 {
            return Ok(());
        }
        let mut head = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
        for header in headers {
            head += &format!("{header}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat())
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<PostedRequest> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.by_ref().take(1 << 16).read_line(&mut line).map(|_| line.trim_end().to_owned())
    };
    let first = line()?;
    let target = first.rsplit_once(' ').map_or("", |(target, _)| target).to_owned();
    let mut headers = BTreeMap::new();
    while let Some((name, value)) = line()?.split_once(": ") {
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8(body).map_err(Error::other)?;
    Ok(PostedRequest { target, headers, body })
}
