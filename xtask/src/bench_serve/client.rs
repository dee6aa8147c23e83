//! A client of `mopo serve` that times each piece of an answer as it arrives.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Longer than the server lets a request take.
const PATIENCE: Duration = Duration::from_secs(900);

/// A streamed answer with the times of its parts, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Timed {
    pub(super) text: String,
    /// From the request to the first text.
    pub(super) first: f64,
    /// Between one text and the next.
    pub(super) between: Vec<f64>,
    pub(super) whole: f64,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    Answered(Timed),
    /// The queue is full; seconds to wait.
    Busy(u64),
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Status, value of Retry-After, and what follows the head.
fn send(
    address: &str,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, u64, BufReader<TcpStream>)> {
    let mut stream = connect(address)?;
    // HTTP/1.0: the end of the answer is the end of the connection, without chunks.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("no status line: {line:?}"))?;
    let mut retry_after = 1;
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the head of the answer ends early");
        if line.trim_end().is_empty() {
            return Ok((status, retry_after, reader));
        }
        if let Some((name, value)) = line.trim_end().split_once(':')
            && name.eq_ignore_ascii_case("retry-after")
        {
            retry_after = value.trim().parse().unwrap_or(1);
        }
    }
}

/// The JSON at a path.
pub(super) fn get(address: &str, path: &str) -> Result<Value> {
    let (status, _, mut rest) = send(address, "GET", path, "")?;
    let mut text = String::new();
    rest.read_to_string(&mut text)?;
    ensure!(status == 200, "{path}: status {status}: {text}");
    serde_json::from_str(&text).with_context(|| path.to_owned())
}

/// Streams an answer to the body of a chat request.
pub(super) fn ask(address: &str, body: &Value) -> Result<Outcome> {
    let began = Instant::now();
    let (status, retry_after, mut rest) =
        send(address, "POST", "/v1/chat/completions", &body.to_string())?;
    if status != 200 {
        let mut text = String::new();
        rest.read_to_string(&mut text)?;
        ensure!(status == 429, "status {status}: {text}");
        return Ok(Outcome::Busy(retry_after));
    }
    let (mut text, mut first, mut between, mut last) = (String::new(), None, vec![], began);
    loop {
        let mut line = String::new();
        ensure!(rest.read_line(&mut line)? > 0, "the stream ends without [DONE]");
        let Some(data) = line.trim_end().strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            break;
        }
        let chunk: Value = serde_json::from_str(data)?;
        if !chunk["error"].is_null() {
            bail!("an error in the stream: {}", chunk["error"]);
        }
        let piece = chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        if piece.is_empty() {
            continue;
        }
        text += piece;
        let now = Instant::now();
        match first {
            None => first = Some((now - began).as_secs_f64()),
            Some(_) => between.push((now - last).as_secs_f64()),
        }
        last = now;
    }
    let whole = began.elapsed().as_secs_f64();
    Ok(Outcome::Answered(Timed { text, first: first.unwrap_or(whole), between, whole }))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use serde_json::json;

    use super::*;

    /// A server that answers one request with these bytes.
    fn once(reply: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut some = [0; 4096];
            let _ = stream.read(&mut some).unwrap();
            stream.write_all(reply.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn a_stream_is_put_together_and_its_end_must_come() {
        let whole = "HTTP/1.1 200 OK\r\nA: b\r\n\r\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
                     : waiting\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n\
                     data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\ndata: [DONE]\n\n";
        let Outcome::Answered(timed) = ask(&once(whole), &json!({})).unwrap() else { panic!() };
        assert_eq!((&*timed.text, timed.between.len()), ("ab", 1));
        assert!(timed.first <= timed.whole);
        let busy = "HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\n\r\n{}";
        assert_eq!(ask(&once(busy), &json!({})).unwrap(), Outcome::Busy(7));
        for (reply, words) in [
            ("HTTP/1.1 200 OK\r\n\r\ndata: {\"choices\":[]}\n\n", "without [DONE]"),
            (
                "HTTP/1.1 200 OK\r\n\r\ndata: {\"error\":{\"message\":\"x\"}}\n\n",
                "error in the stream",
            ),
            ("HTTP/1.1 500 No\r\n\r\noops", "status 500: oops"),
        ] {
            let e = ask(&once(reply), &json!({})).unwrap_err().to_string();
            assert!(e.contains(words), "{e}");
        }
    }
}
