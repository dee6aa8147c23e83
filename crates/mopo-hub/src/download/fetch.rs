//! Downloads of a model: all files of one commit, small ones first, each verified, so that a
//! directory with weights is complete.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::{Client, Failure};
use super::name::is_commit;
use super::{Hub, ModelName, choose};
use crate::{Error, Progress, Result, Unit, file_sha256, write_atomically};

/// How often to wait for another process's download of the same file.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(250);

/// A model's files in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The directory.
    pub dir: PathBuf,
    /// The model's name, pinned to the commit if that is known.
    pub name: ModelName,
}

impl Hub {
    /// A model's configuration, weights and tokenizer: from the cache if the name is pinned to a
    /// cached commit or requests are disabled, otherwise Hugging Face's current files;
    /// cached files are not downloaded again. If Hugging Face cannot be reached, an older state
    /// in the cache is used, with a note.
    ///
    /// # Errors
    /// [`Error::Unreachable`], which says what to download and where to put it;
    /// [`Error::NoSuchModel`];
    /// [`Error::Refused`]; [`Error::NotAModel`] without configuration or weights;
    /// [`Error::MissingShard`]; [`Error::Download`] and [`Error::Damaged`] for a file. Finished
    /// files
    /// are kept, and the next attempt continues partial ones; the model's directory never has
    /// a partial file.
    pub fn fetch(&self, name: &ModelName, progress: &mut dyn Progress) -> Result<Snapshot> {
        let cached = self.cached(name);
        if let Some(snapshot) = &cached
            && (name.is_pinned() || self.offline.is_some())
        {
            return Ok(snapshot.clone());
        }
        if let Some(reason) = self.offline {
            return Err(self.unreachable(name, reason.into()));
        }
        let client = Client::new(self);
        let info = match self.repeat(|| client.info(name.repo(), revision(name))) {
            Ok(info) => info,
            Err(e @ Failure::Answer(_)) => return Err(self.failure(name, None, &e)),
            Err(e) if e.status().is_some_and(|status| status < 500) => {
                return Err(self.failure(name, None, &e));
            }
            Err(e) => match cached {
                Some(snapshot) => {
                    progress.note(&format!(
                        "{name}: Hugging Face cannot be reached ({e}); using {} from the cache",
                        snapshot.name
                    ));
                    return Ok(snapshot);
                }
                None => return Err(self.unreachable(name, e.to_string())),
            },
        };
        let files = choose::wanted(&info.files)
            .map_err(|reason| Error::NotAModel { given: name.to_string(), reason })?;
        let pinned = name.clone().with_revision(&info.commit).expect("a commit");
        let dir = self.folder(name).join("snapshots").join(&info.commit);
        for file in files {
            self.file(&client, &pinned, &dir, &file, progress)?;
            for shard in choose::shards(&dir, &file, &info.files)? {
                self.file(&client, &pinned, &dir, &shard, progress)?;
            }
        }
        // Last, since it records that the cache has this branch.
        write_atomically(
            &self.folder(name).join("refs").join(revision(name)),
            info.commit.as_bytes(),
        )?;
        Ok(Snapshot { dir, name: pinned })
    }

    /// The cached files of a name, if they are complete.
    fn cached(&self, name: &ModelName) -> Option<Snapshot> {
        let dir = self.cached_dir(name);
        let commit = dir.file_name()?.to_str()?;
        let name = match is_commit(commit) {
            true => name.clone().with_revision(commit).ok()?,
            false => name.clone(),
        };
        choose::missing(&dir).is_empty().then_some(Snapshot { dir, name })
    }

    /// The cache directory for a name: that of the branch's commit, or, for files put there by
    /// hand, a directory named after the branch.
    fn cached_dir(&self, name: &ModelName) -> PathBuf {
        let (folder, revision) = (self.folder(name), revision(name));
        let commit = fs::read_to_string(folder.join("refs").join(revision)).unwrap_or_default();
        let commit = Some(commit.trim()).filter(|commit| is_commit(commit));
        folder.join("snapshots").join(commit.unwrap_or(revision))
    }

    /// Named as by other Hugging Face clients.
    fn folder(&self, name: &ModelName) -> PathBuf {
        self.cache.join(format!("models--{}", name.repo().replace('/', "--")))
    }

    /// Puts one file into the cache, unless it is there.
    fn file(
        &self,
        client: &Client<'_>,
        name: &ModelName,
        dir: &Path,
        file: &str,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let place = dir.join(file);
        if place.exists() {
            return Ok(());
        }
        // A dangling link would be in the way.
        if place.is_symlink() {
            fs::remove_file(&place).map_err(Error::io("remove", &place))?;
        }
        let once = || self.download(client, name, &place, file, progress);
        let n_bytes = self.repeat(once).map_err(|e| self.failure(name, Some(file), &e))?;
        self.verify(name, file, &place, n_bytes)
    }

    /// Downloads the missing rest of a file, under its etag, and links it to `place`. Returns the
    /// length announced by Hugging Face.
    fn download(
        &self,
        client: &Client<'_>,
        name: &ModelName,
        place: &Path,
        file: &str,
        progress: &mut dyn Progress,
    ) -> std::result::Result<u64, Failure> {
        let (repo, commit) = (name.repo(), revision(name));
        let info = client.file(repo, commit, file)?;
        let blobs = self.folder(name).join("blobs");
        fs::create_dir_all(&blobs)?;
        let blob = blobs.join(&info.etag);
        let lock = blobs.join(format!("{}.lock", info.etag));
        let _lock = locked(&lock)?;

        let part_path = blobs.join(format!("{}.part", info.etag));
        let mut part = File::options().create(true).append(true).open(&part_path)?;
        if part.metadata()?.len() >= info.n_bytes {
            // Complete or too long: only a new attempt can tell which.
            part.set_len(0)?;
        }
        progress.begin(file, 0, info.n_bytes, Unit::Bytes);
        let mut advance = |n| progress.advance(n, "");
        client.fetch(repo, commit, file, &mut part, info.n_bytes, &mut advance)?;
        progress.end("");
        part.sync_all()?;
        fs::rename(&part_path, &blob)?;
        link(&blob, place)?;
        Ok(info.n_bytes)
    }

    /// Some clients take a closed connection for the end of a file, and a resumed download may have
    /// got the rest of another file. Large files are named by their hash.
    fn verify(&self, name: &ModelName, file: &str, place: &Path, n_bytes: u64) -> Result<()> {
        let io = |e| Error::io("read", place)(e);
        let blob = place.canonicalize().map_err(io)?;
        let found = blob.metadata().map_err(io)?.len();
        let etag = blob.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_hash = etag.len() == 64 && etag.chars().all(|c| c.is_ascii_hexdigit());
        let reason = if found != n_bytes {
            format!("it has {found} bytes instead of {n_bytes}")
        } else if is_hash && file_sha256(&blob)? != etag {
            format!("its SHA-256 is not {etag}")
        } else {
            return Ok(());
        };
        for path in [place, &blob] {
            fs::remove_file(path).map_err(Error::io("remove", path))?;
        }
        Err(Error::Damaged { model: name.to_string(), file: file.into(), reason })
    }

    /// Retries while connections are lost or Hugging Face is busy.
    fn repeat<T>(
        &self,
        mut ask: impl FnMut() -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        let mut attempt = 1;
        loop {
            match ask() {
                Err(error) if error.may_pass() && attempt < self.attempts => {}
                done => return done,
            }
            std::thread::sleep(Duration::from_millis(250 << attempt.min(6)));
            attempt += 1;
        }
    }

    fn failure(&self, name: &ModelName, file: Option<&str>, error: &Failure) -> Error {
        match (error.status(), file) {
            (Some(404), None) => {
                Error::NoSuchModel { model: name.to_string(), endpoint: self.endpoint.clone() }
            }
            (Some(status @ (401 | 403)), _) => Error::Refused {
                model: name.to_string(),
                url: self.page(name),
                status,
                has_token: self.token.is_some(),
            },
            (Some(status), _) => self.download_error(
                name,
                file,
                format!("Hugging Face answers with status {status}"),
            ),
            (None, _) => self.download_error(name, file, error.to_string()),
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

/// The branch, tag or commit; `main` by default.
fn revision(name: &ModelName) -> &str {
    name.revision().unwrap_or("main")
}

/// The lock of a file being downloaded; released with the value or the process.
fn locked(path: &Path) -> std::result::Result<File, Failure> {
    let lock = File::options().create(true).append(true).open(path)?;
    for _ in 0..LOCK_ATTEMPTS {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            // A file system without locks.
            Err(TryLockError::Error(_)) => return Ok(lock),
        }
    }
    Err(Failure::Locked(path.into()))
}

/// Makes `place` a relative link to a blob, as other Hugging Face clients do: a cache can be moved.
fn link(blob: &Path, place: &Path) -> io::Result<()> {
    let folder = place.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // The model's folder holds both `blobs/<etag>` and `snapshots/<commit>/<file>`.
    let model = blob.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let depth = folder.strip_prefix(model).map_or(0, |below| below.components().count());
    let mut target: PathBuf = std::iter::repeat_n("..", depth).collect();
    target.push("blobs");
    target.push(blob.file_name().unwrap_or_default());
    match std::os::unix::fs::symlink(&target, place) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}
