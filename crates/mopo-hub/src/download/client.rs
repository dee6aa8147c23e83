//! HTTP requests to Hugging Face. Everything that a server sends is checked here before it becomes
//! part of a path.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use super::Hub;
use super::name::is_commit;

/// Maximum number of consecutive redirects.
const MAX_REDIRECTS: u32 = 10;
/// How long a server may take to begin an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Maximum size of a description of a model.
const MAX_INFO: u64 = 16 << 20;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A failed connection, or an error status.
    #[error("{0}")]
    Request(#[from] ureq::Error),
    /// A connection lost within a file, or a disk error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// An invalid answer.
    #[error("{0}")]
    Answer(String),
    /// Another process is downloading the file.
    #[error("another process is downloading it ({})", .0.display())]
    Locked(PathBuf),
}

impl Failure {
    /// The HTTP status, if that is the error.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Request(ureq::Error::StatusCode(status)) => Some(*status),
            _ => None,
        }
    }

    /// Whether a retry may succeed.
    pub(super) fn may_pass(&self) -> bool {
        match (self, self.status()) {
            (_, Some(status)) => status == 429 || status >= 500,
            // Some disk errors will not pass either, but a retry meets them again quickly.
            (Self::Request(_) | Self::Io(_), _) => true,
            (Self::Answer(_) | Self::Locked(_), _) => false,
        }
    }
}

fn answer(text: impl Into<String>) -> Failure {
    Failure::Answer(text.into())
}

/// A commit of a model.
pub(super) struct Info {
    /// The commit, 40 hexadecimal digits.
    pub(super) commit: String,
    /// Its files.
    pub(super) files: Vec<String>,
}

/// What Hugging Face says about a file.
pub(super) struct FileInfo {
    /// A name for its content: letters, digits, `-`, `_` and dots inside.
    pub(super) etag: String,
    /// Its length.
    pub(super) n_bytes: u64,
}

/// A connection to a hub.
pub(super) struct Client<'a> {
    hub: &'a Hub,
    agent: Agent,
    /// Returns redirects instead of following them.
    direct: Agent,
}

impl<'a> Client<'a> {
    pub(super) fn new(hub: &'a Hub) -> Self {
        let agent = Agent::config_builder()
            .user_agent(concat!("mopo/", env!("CARGO_PKG_VERSION")))
            // The token is only for Hugging Face, not for the servers that store its files.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .max_redirects(MAX_REDIRECTS)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .build();
        let direct = Agent::config_builder()
            .user_agent(concat!("mopo/", env!("CARGO_PKG_VERSION")))
            .max_redirects(0)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .build();
        Self { hub, agent: agent.into(), direct: direct.into() }
    }

    fn get(
        &self,
        agent: &Agent,
        url: &str,
        with_token: bool,
        range: Option<String>,
    ) -> Result<Response<Body>, Failure> {
        let mut request = agent.get(url);
        if let Some(token) = self.hub.token.as_ref().filter(|_| with_token) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        Ok(request.call()?)
    }

    /// The commit of a branch, tag or commit, and its files.
    pub(super) fn info(&self, repo: &str, revision: &str) -> Result<Info, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let url = format!("{}/api/models/{repo}/revision/{}", self.hub.endpoint, encode(revision));
        let mut response = self.get(&self.agent, &url, true, None)?;
        let text = response.body_mut().with_config().limit(MAX_INFO).read_to_string()?;
        let found: Answer = serde_json::from_str(&text)
            .map_err(|e| answer(format!("its answer is not a list of files: {e}")))?;
        if !is_commit(&found.sha) {
            return Err(answer(format!("Hugging Face calls its commit {:?}", short(&found.sha))));
        }
        let files = found.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        Ok(Info { commit: found.sha, files })
    }

    fn file_url(&self, repo: &str, commit: &str, file: &str) -> String {
        let file: Vec<String> = file.split('/').map(encode).collect();
        format!("{}/{repo}/resolve/{commit}/{}", self.hub.endpoint, file.join("/"))
    }

    /// Length and etag of a file of a commit, without downloading it.
    pub(super) fn file(&self, repo: &str, commit: &str, file: &str) -> Result<FileInfo, Failure> {
        let mut url = self.file_url(repo, commit, file);
        let first_byte = || Some("bytes=0-0".to_string());
        let mut response = self.get(&self.direct, &url, true, first_byte())?;
        // A redirect within Hugging Face (of a renamed model) does not describe the file yet.
        for _ in 0..MAX_REDIRECTS {
            let Some(location) = redirect(&response)? else { break };
            let same_host = location.starts_with('/') && !location.starts_with("//");
            if !same_host {
                break;
            }
            let base: Uri = url.parse().map_err(|_| answer(format!("`{url}` is not a URL")))?;
            let (scheme, host) = (base.scheme_str().unwrap_or("https"), base.authority());
            let host = host.ok_or_else(|| answer(format!("`{url}` has no host")))?;
            url = format!("{scheme}://{host}{location}");
            response = self.get(&self.direct, &url, true, first_byte())?;
        }
        let headers = response.headers();
        let etag = match text(headers, "x-linked-etag")? {
            Some(etag) => etag,
            None => text(headers, "etag")?.ok_or_else(|| answer("it has no header `ETag`"))?,
        };
        let etag = checked_etag(&etag)?;
        if let Some(found) = text(headers, "x-repo-commit")?
            && found != commit
        {
            return Err(answer(format!(
                "Hugging Face sends it from the commit {:?}",
                short(&found)
            )));
        }
        let n_bytes = match redirect(&response)? {
            // The store of large files knows the length, and must not get the token.
            Some(location) => {
                length(self.get(&self.agent, &location, false, first_byte())?.headers())?
            }
            None => length(response.headers())?,
        };
        Ok(FileInfo { etag, n_bytes })
    }

    /// Appends the missing rest of a file of a commit to `part`. `advance` is called with numbers
    /// of bytes.
    pub(super) fn fetch(
        &self,
        repo: &str,
        commit: &str,
        file: &str,
        part: &mut File,
        n_bytes: u64,
        advance: &mut dyn FnMut(u64),
    ) -> Result<(), Failure> {
        let url = self.file_url(repo, commit, file);
        let start = part.metadata()?.len();
        advance(start);
        if start >= n_bytes && n_bytes > 0 {
            return Ok(());
        }
        let response = self.get(&self.agent, &url, true, Some(format!("bytes={start}-")))?;
        // One byte more than announced is enough to detect a wrong length.
        let mut body = response.into_body().into_reader().take(n_bytes.saturating_sub(start) + 1);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match body.read(&mut buffer)? {
                0 => return Ok(()),
                n => {
                    part.write_all(&buffer[..n])?;
                    advance(n as u64);
                }
            }
        }
    }
}

/// The target of a redirect, if the response is one.
fn redirect(response: &Response<Body>) -> Result<Option<String>, Failure> {
    match response.status().is_redirection() {
        false => Ok(None),
        true => match text(response.headers(), "location")? {
            Some(location) => Ok(Some(location)),
            None => Err(answer("its redirect has no target")),
        },
    }
}

fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let value = value.to_str().map_err(|_| answer(format!("its header `{name}` is not text")))?;
    Ok(Some(value.to_string()))
}

/// The length of the whole file, from the answer to a request for one byte.
fn length(headers: &HeaderMap) -> Result<u64, Failure> {
    let range = text(headers, "content-range")?;
    let range = range.ok_or_else(|| answer("it has no header `Content-Range`"))?;
    let length = range.rsplit_once('/').and_then(|(_, length)| length.parse().ok());
    length.ok_or_else(|| answer(format!("its header `Content-Range` is {:?}", short(&range))))
}

/// Checks that an etag can be a file name.
fn checked_etag(etag: &str) -> Result<String, Failure> {
    let name = etag.trim().trim_start_matches("W/").trim_matches('"');
    let may_be = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = !name.is_empty()
        && name.len() <= 128
        && name.chars().all(may_be)
        && !name.starts_with('.')
        && ![".part", ".lock"].iter().any(|end| name.ends_with(end));
    match is_name {
        true => Ok(name.into()),
        false => Err(answer(format!(
            "its header `ETag` is {:?}, which cannot be the name of a file",
            short(etag)
        ))),
    }
}

/// A server's text, shortened for an error message.
fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Percent-encodes a part of a path.
fn encode(part: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    part.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_a_name_or_refused() {
        for (etag, name) in [
            ("\"abc\"", "abc"),
            ("W/\"0123-ab_c.d\"", "0123-ab_c.d"),
            (&"a".repeat(64), &"a".repeat(64)),
        ] {
            assert_eq!(checked_etag(etag).unwrap(), name);
        }
        for etag in [
            "",
            "\"\"",
            "..",
            ".hidden",
            "../../x",
            "/etc/x",
            "a/b",
            "a\\b",
            "a b",
            "a\nb",
            "é",
            "C:x",
            "abc.part",
            "abc.lock",
            &"a".repeat(129),
        ] {
            let error = checked_etag(etag).unwrap_err();
            assert!(error.to_string().contains("ETag"), "{error}");
            assert!(!error.may_pass());
        }
    }

    #[test]
    fn names_are_encoded_in_addresses() {
        assert_eq!(encode("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(encode("a b?c#d%.txt"), "a%20b%3Fc%23d%25.txt");
    }
}
