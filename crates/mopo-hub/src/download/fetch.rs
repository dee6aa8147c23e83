//! Fetching: everything of one commit, small files first, each verified, so that a directory that has
//! its weights is complete.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use sha2::{Digest, Sha256};

use super::name::is_commit;
use super::{DownloadProgress, Hub, ModelName, choose};
use crate::{Error, Result, write_atomically};

/// A model's files in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where they are.
    pub dir: PathBuf,
    /// The model's name, pinned to the commit where it is known.
    pub name: ModelName,
}

impl Hub {
    /// A model's configuration, weights and tokenizer: from the cache where the name is pinned to a
    /// commit that is there or nothing may be asked for, otherwise as the hub has them now; what the
    /// cache has is not fetched again. If the hub cannot be reached, an older state in the cache will
    /// do, and that is noted.
    ///
    /// # Errors
    /// [`Error::Unreachable`], which says what to fetch and where to put it; [`Error::NoSuchModel`];
    /// [`Error::Refused`]; [`Error::NotAModel`] without configuration or weights;
    /// [`Error::MissingShard`]; [`Error::Download`] and [`Error::Damaged`] for a file. Files that are
    /// done stay, and of one that was cut the next attempt fetches the rest; nothing that is cut is
    /// in the model's directory.
    pub fn fetch(&self, name: &ModelName, progress: &mut dyn DownloadProgress) -> Result<Snapshot> {
        let cached = self.cached(name);
        if let Some(snapshot) = &cached
            && (name.is_pinned() || self.offline.is_some())
        {
            return Ok(snapshot.clone());
        }
        if let Some(reason) = self.offline {
            return Err(self.unreachable(name, reason.into()));
        }
        let api = self.api()?;
        let info = match self.repeat(|| api.repo(repo(name)).info()) {
            Ok(info) => info,
            Err(e) if status(&e).is_some_and(|status| status < 500) => {
                return Err(self.failure(name, None, &e));
            }
            Err(e) => match cached {
                Some(snapshot) => {
                    progress.note(&format!(
                        "{name}: the hub cannot be reached ({e}); taking {} from the cache",
                        snapshot.name
                    ));
                    return Ok(snapshot);
                }
                None => return Err(self.unreachable(name, e.to_string())),
            },
        };
        // It becomes a path.
        if !is_commit(&info.sha) {
            let reason = format!("the hub calls its commit `{}`", info.sha);
            return Err(self.download_error(name, None, reason));
        }
        let all: Vec<String> = info.siblings.into_iter().map(|s| s.rfilename).collect();
        let files = choose::wanted(&all)
            .map_err(|reason| Error::NotAModel { given: name.to_string(), reason })?;
        let pinned = name.clone().with_revision(&info.sha).expect("a commit");
        let dir = self.folder(name).join("snapshots").join(&info.sha);
        let at = api.repo(repo(&pinned));
        for file in files {
            self.file(&at, &pinned, &dir, &file, progress)?;
            for shard in choose::shards(&dir, &file, &all)? {
                self.file(&at, &pinned, &dir, &shard, progress)?;
            }
        }
        // Last: it says that the cache has this branch.
        write_atomically(
            &self.folder(name).join("refs").join(revision(name)),
            info.sha.as_bytes(),
        )?;
        Ok(Snapshot { dir, name: pinned })
    }

    /// What the cache has of a name, if it is complete.
    fn cached(&self, name: &ModelName) -> Option<Snapshot> {
        let dir = self.cached_dir(name);
        let commit = dir.file_name()?.to_str()?;
        let name = match is_commit(commit) {
            true => name.clone().with_revision(commit).ok()?,
            false => name.clone(),
        };
        choose::missing(&dir).is_empty().then_some(Snapshot { dir, name })
    }

    /// Where the cache has a name's files, or would have them: the commit of the branch, or, where
    /// files were put by hand, a directory named like the branch.
    fn cached_dir(&self, name: &ModelName) -> PathBuf {
        let (folder, revision) = (self.folder(name), revision(name));
        let commit = fs::read_to_string(folder.join("refs").join(revision)).unwrap_or_default();
        let commit = Some(commit.trim()).filter(|commit| is_commit(commit));
        folder.join("snapshots").join(commit.unwrap_or(revision))
    }

    fn folder(&self, name: &ModelName) -> PathBuf {
        self.cache.join(repo(name).folder_name())
    }

    fn api(&self) -> Result<Api> {
        ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(false)
            // Ours is `repeat`: the library's appends the whole file to a part that it did not extend.
            .with_retries(0)
            .with_user_agent("mopo", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|e| Error::Setting { name: "HF_ENDPOINT", reason: e.to_string() })
    }

    /// One file into the cache, unless it is there.
    fn file(
        &self,
        at: &ApiRepo,
        name: &ModelName,
        dir: &Path,
        file: &str,
        progress: &mut dyn DownloadProgress,
    ) -> Result<()> {
        let place = dir.join(file);
        if place.exists() {
            return Ok(());
        }
        // A link whose target was deleted would be in the way.
        if place.is_symlink() {
            fs::remove_file(&place).map_err(Error::io("remove", &place))?;
        }
        let mut meter = Meter { progress, n_bytes: 0 };
        let once = || {
            let result = at.download_with_progress(file, &mut meter);
            if result.as_ref().is_err_and(|e| status(e) == Some(416)) {
                // An earlier attempt had all of it and was killed before it could say so.
                self.forget_part(name, file)?;
                return at.download_with_progress(file, &mut meter);
            }
            result
        };
        self.repeat(once).map_err(|e| self.failure(name, Some(file), &e))?;
        let n_bytes = meter.n_bytes;
        self.verify(name, file, &place, n_bytes)
    }

    fn forget_part(&self, name: &ModelName, file: &str) -> std::result::Result<(), ApiError> {
        let api = self.api().map_err(|_| ApiError::InvalidResume)?;
        let etag = api.metadata(&api.repo(repo(name)).url(file))?.etag().to_string();
        let blob = Cache::new(self.cache.clone()).repo(repo(name)).blob_path(&etag);
        Ok(fs::remove_file(blob.with_extension("part"))?)
    }

    /// A connection that is closed early looks like the end of a file to some; a resumed file may have
    /// got another's rest. Large files are named by their hash.
    fn verify(&self, name: &ModelName, file: &str, place: &Path, n_bytes: u64) -> Result<()> {
        let io = |e| Error::io("read", place)(e);
        let blob = place.canonicalize().map_err(io)?;
        let found = blob.metadata().map_err(io)?.len();
        let etag = blob.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_hash = etag.len() == 64 && etag.chars().all(|c| c.is_ascii_hexdigit());
        let reason = if found != n_bytes {
            format!("it has {found} bytes instead of {n_bytes}")
        } else if is_hash && sha256(&blob).map_err(io)? != etag {
            format!("its SHA-256 is not {etag}")
        } else {
            return Ok(());
        };
        for path in [place, &blob] {
            fs::remove_file(path).map_err(Error::io("remove", path))?;
        }
        Err(Error::Damaged { model: name.to_string(), file: file.into(), reason })
    }

    /// Asks again while connections are lost or the hub is busy.
    fn repeat<T>(
        &self,
        mut ask: impl FnMut() -> std::result::Result<T, ApiError>,
    ) -> std::result::Result<T, ApiError> {
        let mut attempt = 1;
        loop {
            let error = match ask() {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let may_pass = match (&error, status(&error)) {
                (_, Some(status)) => status == 429 || status >= 500,
                (ApiError::RequestError(e), _) => !matches!(**e, ureq::Error::Json(_)),
                // Of the connection. Of the disk there are some that will not pass either; they are
                // as quickly said again.
                (ApiError::IoError(_), _) => true,
                _ => false,
            };
            if attempt >= self.attempts || !may_pass {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(250 << attempt.min(6)));
            attempt += 1;
        }
    }

    fn failure(&self, name: &ModelName, file: Option<&str>, error: &ApiError) -> Error {
        match (status(error), file) {
            (Some(404), None) => {
                Error::NoSuchModel { model: name.to_string(), endpoint: self.endpoint.clone() }
            }
            (Some(status @ (401 | 403)), _) => Error::Refused {
                model: name.to_string(),
                url: self.page(name),
                status,
                has_token: self.token.is_some(),
            },
            (Some(status), _) => {
                self.download_error(name, file, format!("the hub answers with status {status}"))
            }
            (None, _) => match error {
                ApiError::LockAcquisition(path) => {
                    let reason = format!("another process is fetching it ({})", path.display());
                    self.download_error(name, file, reason)
                }
                error => self.download_error(name, file, error.to_string()),
            },
        }
    }

    fn download_error(&self, name: &ModelName, file: Option<&str>, reason: String) -> Error {
        let file = file.map_or("its list of files".into(), |file| format!("`{file}`"));
        Error::Download { model: name.to_string(), file, url: self.page(name), reason }
    }

    fn page(&self, name: &ModelName) -> String {
        format!("{}/{}/tree/{}", self.endpoint, name.repo(), revision(name))
    }

    fn unreachable(&self, name: &ModelName, reason: String) -> Error {
        let dir = self.cached_dir(name);
        let mut files = choose::missing(&dir);
        let tokenizers = ["tokenizer.json", "vocab.json", "vocab.txt"];
        if !tokenizers.iter().any(|file| dir.join(file).exists()) {
            files.push("tokenizer.json (or vocab.json and merges.txt, or vocab.txt)".into());
        }
        Error::Unreachable {
            model: name.to_string().into(),
            reason: reason.into(),
            url: self.page(name).into(),
            files,
            dir,
        }
    }
}

/// The branch, tag or commit; the branch `main` where none was named.
fn revision(name: &ModelName) -> &str {
    name.revision().unwrap_or("main")
}

fn repo(name: &ModelName) -> Repo {
    Repo::with_revision(name.repo().into(), RepoType::Model, revision(name).into())
}

/// The status that the hub answered with, if that is the error.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(e) => match **e {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut fs::File::open(path)?, &mut HashWriter(&mut hasher))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Hands on what the library says, and keeps how long the file should be.
struct Meter<'a> {
    progress: &'a mut dyn DownloadProgress,
    n_bytes: u64,
}

impl hf_hub::api::Progress for &mut Meter<'_> {
    fn init(&mut self, n_bytes: usize, file: &str) {
        self.n_bytes = n_bytes as u64;
        self.progress.begin(file, self.n_bytes);
    }

    fn update(&mut self, n_bytes: usize) {
        self.progress.advance(n_bytes as u64);
    }

    fn finish(&mut self) {
        self.progress.end();
    }
}
