//! A substitute for Hugging Face on the loopback device: the part of its protocol that clients use
//! for downloads, with failures on request. Not a general server: one thread per connection, one
//! request each.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRequest {
    /// As in the request's first line.
    pub path: String,
    /// The header `Range`.
    pub range: Option<String>,
    /// The header `Authorization`.
    pub authorization: Option<String>,
}

/// Files of one commit, by name.
type Files = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
struct State {
    /// By `org/name` and commit.
    commits: BTreeMap<(String, String), Files>,
    /// By `org/name` and branch or tag.
    branches: BTreeMap<(String, String), String>,
    token: Option<String>,
    /// The connection closes after this many bytes of a body.
    cut_after: Option<usize>,
    /// No `Content-Length`: a body ends where the connection does.
    no_length: bool,
    /// Answers with the whole file, whatever range was requested.
    whole: bool,
    /// Answers everything with this status.
    status: Option<u16>,
    /// Values sent instead of the true ones, by kind.
    forged: BTreeMap<&'static str, String>,
    requests: Vec<HubRequest>,
}

/// A server that runs until the process ends, on a free port of its own.
#[derive(Clone)]
pub struct LoopbackHub {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

impl LoopbackHub {
    /// Starts the server, without any models.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let hub = Self { endpoint, state: Arc::default() };
        let server = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that disconnects is not an error of the server.
                std::thread::spawn(move || server.answer(stream).unwrap_or_default());
            }
        });
        hub
    }

    /// For `HF_ENDPOINT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Adds a commit of a model and lets `branch` point to it. Returns the commit's name.
    pub fn publish(&self, repo: &str, branch: &str, files: &[(&str, &[u8])]) -> String {
        let files: Files = files.iter().map(|(n, b)| (n.to_string(), b.to_vec())).collect();
        let mut all = Sha256::new();
        for (name, bytes) in &files {
            all.update(name);
            all.update(bytes);
        }
        let commit = hex(&all.finalize())[..40].to_string();
        self.with(|state| {
            state.branches.insert((repo.into(), branch.into()), commit.clone());
            state.commits.insert((repo.into(), commit.clone()), files);
        });
        commit
    }

    /// Refuses clients that do not send this token.
    pub fn require_token(&self, token: &str) {
        self.with(|state| state.token = Some(token.into()));
    }

    /// Closes each connection after this many bytes of a file's content.
    pub fn cut_after(&self, n_bytes: Option<usize>) {
        self.with(|state| state.cut_after = n_bytes);
    }

    /// Sends no `Content-Length` with a file's content.
    pub fn hide_length(&self, hide: bool) {
        self.with(|state| state.no_length = hide);
    }

    /// Sends a file from its beginning, whatever range was requested.
    pub fn ignore_ranges(&self, ignore: bool) {
        self.with(|state| state.whole = ignore);
    }

    /// Answers everything with one status.
    pub fn fail_with(&self, status: Option<u16>) {
        self.with(|state| state.status = status);
    }

    /// Sends `value` as a commit (`sha`), as a file's name (`rfilename`) or as one of the headers
    /// `etag`, `x-repo-commit`, `location` and `content-range`; `location` is then sent always.
    pub fn forge(&self, what: &'static str, value: &str) {
        self.with(|state| state.forged.insert(what, value.into()));
    }

    /// Sends true values again.
    pub fn forge_nothing(&self) {
        self.with(|state| state.forged.clear());
    }

    /// The requests since the last call, in order.
    pub fn take_requests(&self) -> Vec<HubRequest> {
        self.with(|state| std::mem::take(&mut state.requests))
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().expect("no test panics in here"))
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let request = read_request(&stream)?;
        let response = self.with(|state| {
            state.requests.push(request.clone());
            state.respond(&request, &self.endpoint)
        });
        stream.write_all(&response)
    }
}

impl State {
    fn respond(&self, request: &HubRequest, endpoint: &str) -> Vec<u8> {
        if let Some(status) = self.status {
            return plain(status, &[], b"");
        }
        let expected = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        // The store of large files knows no tokens: its addresses are secret enough.
        if let ["store", hash] = parts[..] {
            let content =
                self.commits.values().flat_map(Files::values).find(|bytes| sha256(bytes) == hash);
            return content.map_or(plain(404, &[], b""), |bytes| self.content(request, bytes, &[]));
        }
        if expected.is_some() && request.authorization != expected {
            return plain(401, &[], b"");
        }
        match parts[..] {
            ["api", "models", org, name, "revision", revision] => {
                match self.files(org, name, revision) {
                    Some((commit, files)) => {
                        let commit = self.forged("sha").unwrap_or(commit);
                        let forged = self.forged("rfilename");
                        let names: Vec<String> = files
                            .keys()
                            .map(String::as_str)
                            .chain(forged)
                            .map(|n| format!("{{\"rfilename\":\"{n}\"}}"))
                            .collect();
                        let body =
                            format!("{{\"sha\":\"{commit}\",\"siblings\":[{}]}}", names.join(","));
                        plain(200, &[], body.as_bytes())
                    }
                    None => plain(404, &[], b""),
                }
            }
            [org, name, "resolve", revision, ref file @ ..] => {
                let found = self.files(org, name, revision).and_then(|(commit, files)| {
                    files.get(&file.join("/")).map(|bytes| (commit, bytes))
                });
                let Some((commit, bytes)) = found else { return plain(404, &[], b"") };
                let hash = sha256(bytes);
                let commit = self.forged("x-repo-commit").unwrap_or(commit);
                let commit = format!("X-Repo-Commit: {commit}");
                let name = self.forged("etag");
                if let Some(location) = self.forged("location") {
                    let location = format!("Location: {location}");
                    let etag = format!("X-Linked-ETag: \"{hash}\"");
                    let headers = [commit.as_str(), &location, &etag];
                    let n_sent = if location.ends_with(' ') { 1 } else { 3 };
                    return plain(302, &headers[..n_sent], b"");
                }
                // Weights are stored elsewhere; small files are named by a shorter hash.
                if file.last().is_some_and(|n| n.ends_with(".safetensors") || n.ends_with(".bin")) {
                    let location = format!("Location: {endpoint}/store/{hash}");
                    let etag = format!("X-Linked-ETag: \"{}\"", name.unwrap_or(&hash));
                    return plain(302, &[&commit, &location, &etag], b"");
                }
                let etag = format!("ETag: \"{}\"", name.unwrap_or(&hash[..40]));
                self.content(request, bytes, &[&commit, &etag])
            }
            _ => plain(404, &[], b""),
        }
    }

    fn forged(&self, what: &str) -> Option<&str> {
        self.forged.get(what).map(String::as_str)
    }

    fn files(&self, org: &str, name: &str, revision: &str) -> Option<(&str, &Files)> {
        let repo = format!("{org}/{name}");
        let revision = revision.replace("%2F", "/");
        let commit = self.branches.get(&(repo.clone(), revision.clone())).unwrap_or(&revision);
        let ((_, commit), files) = self.commits.get_key_value(&(repo, commit.clone()))?;
        Some((commit, files))
    }

    /// A part of a file, with the requested failures.
    fn content(&self, request: &HubRequest, bytes: &[u8], headers: &[&str]) -> Vec<u8> {
        let (first, last) = request.range.as_deref().map_or((0, None), parse_range);
        // Clients request only the first byte to learn the length; that never fails.
        let is_probe = last == Some(0);
        let first = if self.whole && !is_probe { 0 } else { first };
        if first >= bytes.len() && !bytes.is_empty() {
            return plain(416, &[], b"");
        }
        let end = last.map_or(bytes.len(), |last| (last + 1).min(bytes.len()));
        let range = format!("bytes {first}-{}/{}", end.max(1) - 1, bytes.len());
        let range = format!("Content-Range: {}", self.forged("content-range").unwrap_or(&range));
        let body = &bytes[first..end];
        let mut head = format!("HTTP/1.1 206 Partial Content\r\nConnection: close\r\n{range}\r\n");
        if !self.no_length || is_probe {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        for header in headers {
            head += &format!("{header}\r\n");
        }
        let n_sent = match self.cut_after {
            Some(n) if !is_probe => n.min(body.len()),
            _ => body.len(),
        };
        [head.as_bytes(), b"\r\n", &body[..n_sent]].concat()
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<HubRequest> {
    let mut lines = BufReader::new(stream.take(1 << 16)).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_string();
    let (mut range, mut authorization) = (None, None);
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "range" => range = Some(value.to_string()),
            "authorization" => authorization = Some(value.to_string()),
            _ => {}
        }
    }
    Ok(HubRequest { path, range, authorization })
}

/// First and last byte of `bytes=0-0` or `bytes=5-`.
fn parse_range(range: &str) -> (usize, Option<usize>) {
    let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap_or_default();
    (first.parse().unwrap_or(0), last.parse().ok())
}

fn plain(status: u16, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
    for header in headers {
        head += &format!("{header}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
