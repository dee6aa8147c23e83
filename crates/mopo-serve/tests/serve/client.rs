//! A client that sends any bytes, and takes HTTP/1.1 answers apart strictly.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// More than any answer of these tests takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// By name, in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Message, type, param and code of an error, whose shape is checked.
    pub(crate) fn error(&self) -> (String, String, Option<String>, Option<String>) {
        let json = self.json();
        let error = json["error"].as_object().unwrap_or_else(|| panic!("no error: {self:?}"));
        let keys: Vec<&str> = error.keys().map(String::as_str).collect();
        assert_eq!(keys, ["code", "message", "param", "type"], "{self:?}");
        let text = |key: &str| error[key].as_str().map(str::to_owned);
        let (message, kind) = (text("message").unwrap(), text("type").unwrap());
        assert!(!message.is_empty());
        (message, kind, text("param"), text("code"))
    }

    /// The JSON events of a stream, which must end with `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        let (events, done) = self.events_and_end();
        assert!(done, "the stream does not end with [DONE]: {}", self.body);
        events
    }

    /// The same, and whether there was a `[DONE]` at the end.
    pub(crate) fn events_and_end(&self) -> (Vec<Value>, bool) {
        assert!(self.headers["content-type"].starts_with("text/event-stream"), "{self:?}");
        let mut frames: Vec<&str> = self.body.split_terminator("\n\n").collect();
        let done = frames.pop_if(|frame| *frame == "data: [DONE]").is_some();
        frames.retain(|frame| !frame.starts_with(':'));
        let parse = |frame: &str| {
            let data = frame.strip_prefix("data: ").unwrap_or_else(|| panic!("{frame:?}"));
            serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}"))
        };
        (frames.into_iter().map(parse).collect(), done)
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The bytes of a request that ends the connection.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += "Host: localhost\r\n";
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

pub(crate) fn send(address: SocketAddr, bytes: &[u8]) -> Reply {
    let mut stream = connect(address);
    // A server that refuses may close before it has read everything.
    let _ = stream.write_all(bytes);
    read(stream).unwrap_or_else(|e| {
        panic!("{e} after {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]))
    })
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Reply {
    send(address, &request("GET", path, &[], b""))
}

pub(crate) fn post(address: SocketAddr, path: &str, body: &str) -> Reply {
    let headers = [("Content-Type", "application/json")];
    send(address, &request("POST", path, &headers, body.as_bytes()))
}

/// A question in a conversation with more fields.
pub(crate) fn ask(address: SocketAddr, question: &str, more: &str) -> Reply {
    post(address, "/v1/chat/completions", &chat(question, more))
}

pub(crate) fn chat(question: &str, more: &str) -> String {
    let question = Value::from(question);
    format!(r#"{{"messages": [{{"role": "user", "content": {question}}}]{more}}}"#)
}

/// Reads one answer to its end.
pub(crate) fn read(stream: TcpStream) -> std::io::Result<Reply> {
    let wrong = |what: &str| std::io::Error::other(what.to_owned());
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| wrong(&format!("no status line: {line:?}")))?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
            None if line == "\r\n" => break,
            None => return Err(wrong(&format!("no header: {line:?}"))),
        };
    }
    let mut body = vec![];
    if headers.get("transfer-encoding").is_some_and(|e| e == "chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let n = usize::from_str_radix(line.trim_end(), 16).map_err(|_| wrong("no chunk"))?;
            let mut chunk = vec![0; n + 2];
            reader.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk[..n]);
            if n == 0 {
                break;
            }
        }
    } else if let Some(length) = headers.get("content-length") {
        body = vec![0; length.parse().map_err(|_| wrong("no length"))?];
        reader.read_exact(&mut body)?;
    } else {
        reader.read_to_end(&mut body)?;
    }
    let body = String::from_utf8(body).map_err(|_| wrong("the body is not UTF-8"))?;
    Ok(Reply { status, headers, body })
}
