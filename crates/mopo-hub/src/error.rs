//! The error type of this crate. Each variant says what was found, where, and what to do.

use std::path::{Path, PathBuf};

use crate::readable_bytes;

/// Errors of the files of a model directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The failed action: `read`, `write`, `create`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A place where nothing can be written, or nothing should be.
    #[error("cannot write {}: {reason}", path.display())]
    Output {
        /// The place, as it was given.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        reason: String,
    },
    /// A JSON file that cannot be parsed or lacks a key.
    #[error("{}: {reason}; expected {expected}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's message, which names the key or the line.
        reason: String,
        /// What the file should contain.
        expected: &'static str,
    },
    /// A directory without a weights file.
    #[error(
        "{} has no weights: neither {}; give a directory in the layout of Hugging Face",
        dir.display(), names.join(", nor ")
    )]
    NoWeights {
        /// The directory.
        dir: PathBuf,
        /// The names searched for.
        names: &'static [&'static str],
    },
    /// A safetensors file, PyTorch checkpoint or GGUF file that is truncated or something else.
    #[error(
        "{} ({n_bytes} bytes) is not a complete {kind} file: {reason}; copy, download or write it again",
        path.display()
    )]
    CorruptTensors {
        /// The file.
        path: PathBuf,
        /// Its length.
        n_bytes: u64,
        /// The expected kind: `safetensors`, `PyTorch` or `GGUF`.
        kind: &'static str,
        /// Why it cannot be read.
        reason: String,
    },
    /// Tensors that are missing from the file.
    #[error(
        "{} lacks {}{} of the model's tensors: {}; is it a checkpoint of this architecture and configuration?",
        path.display(), if *is_all { "" } else { "at least " }, names.len(), list(names)
    )]
    MissingTensors {
        /// The file or directory.
        path: PathBuf,
        /// The missing names, in the model's order.
        names: Vec<String>,
        /// Whether the list is complete; false if checking stopped after too many.
        is_all: bool,
    },
    /// Tensors in the file that the model does not have.
    #[error(
        "{} has {} tensors that the model does not use: {}; does its configuration (layers, \
         targets, policies) match?",
        path.display(), names.len(), list(names)
    )]
    UnusedTensors {
        /// The file or directory.
        path: PathBuf,
        /// The unexpected names, sorted.
        names: Vec<String>,
    },
    /// A tensor of another shape.
    #[error(
        "{}: tensor `{name}` has shape {found:?}, but the configuration asks for {expected:?}; use the configuration that belongs to these weights",
        path.display()
    )]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The expected shape, in the file's layout.
        expected: Vec<usize>,
    },
    /// A tensor of an unsupported data type.
    #[error(
        "{}: tensor `{name}` has data type {dtype}, but only F32, F16 and BF16 are supported; convert it first",
        path.display()
    )]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Its data type.
        dtype: String,
    },
    /// A GGUF file of a version or byte order that cannot be read.
    #[error(
        "{} is a GGUF file of version {version} in {} endian, but only versions 2 and 3 in little endian are \
         supported; convert the model again with a current llama.cpp",
        path.display(), if *is_big_endian { "big" } else { "little" }
    )]
    GgufVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// Its byte order.
        is_big_endian: bool,
    },
    /// A GGUF file with a tensor of a type that cannot be read.
    #[error(
        "{}: tensor `{name}` has type {found}, which is not supported; use a file of the model in Q8_0, \
         Q4_K_M, Q4_0, F16 or BF16",
        path.display()
    )]
    GgufTensorType {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Its type, by name (if it has one) and id.
        found: String,
    },
    /// Metadata of a GGUF file that is missing or of another type.
    #[error(
        "{}: metadata `{key}` is {found}; expected {expected}; use a complete file of this model, or convert it again",
        path.display()
    )]
    GgufKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The expected type.
        expected: &'static str,
        /// The type found and, if short, the value; or `missing`.
        found: String,
    },
    /// A tensor that cannot be written in the type asked for.
    #[error("{}: tensor `{name}` cannot be written: {reason}", path.display())]
    UnwritableTensor {
        /// The file to write.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A type of tensors that cannot be written.
    #[error("GGUF files cannot be written in `{name}`; choose {}", known.join(", "))]
    UnwritableType {
        /// The type asked for.
        name: String,
        /// Those that can be.
        known: Vec<&'static str>,
    },
    /// An endpoint without a usable answer.
    #[error("the endpoint {url}: {problem}; expected {expected}{}", beginning(body.as_deref()))]
    Endpoint {
        /// Its address.
        url: String,
        /// The status of its last answer; `None` if there was none.
        status: Option<u16>,
        /// What is wrong with the answer, or why there is none.
        problem: String,
        /// What it should have been.
        expected: String,
        /// The beginning of the answer's body.
        body: Option<String>,
    },
    /// A model that is neither a directory nor a name.
    #[error("cannot use model `{given}`: {reason}")]
    NotAModel {
        /// As it was given.
        given: String,
        /// Why, and what is accepted.
        reason: String,
    },
    /// An environment variable with an invalid value.
    #[error("the environment variable {name}: {reason}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What is wrong, and what is accepted.
        reason: String,
    },
    /// A model that is not in the cache while Hugging Face cannot be reached.
    #[error(
        "`{model}` is not available: no such directory, not (completely) in the cache, and cannot \
         be downloaded: {reason}. Download from {url} on another machine: {}. Put the files into \
         {}, or into any directory, and give that directory instead of the name",
        files.join("; "), dir.display()
    )]
    Unreachable {
        /// The model's name.
        model: Box<str>,
        /// Why Hugging Face cannot be reached.
        reason: Box<str>,
        /// The page with its files.
        url: Box<str>,
        /// The files that are missing.
        files: Vec<String>,
        /// Where they belong in the cache.
        dir: PathBuf,
    },
    /// A name that Hugging Face does not have.
    #[error(
        "`{model}`: no such directory here, and {endpoint} has no model of that name and revision; check the spelling"
    )]
    NoSuchModel {
        /// The model's name.
        model: String,
        /// The address of Hugging Face.
        endpoint: String,
    },
    /// A model for which access was refused.
    #[error(
        "`{model}`: Hugging Face refused access (status {status}), {}. There may be no such model; if \
         there is, accept its terms at {url} and set HF_TOKEN to a token that may read it",
        if *has_token { "with the token that is set" } else { "and no token is set" }
    )]
    Refused {
        /// The model's name.
        model: String,
        /// The page with its files.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// A file that could not be downloaded.
    #[error(
        "`{model}`: the download of {file} failed: {reason}; try again (the partial download is kept), or download it from {url}"
    )]
    Download {
        /// The model's name.
        model: String,
        /// The file.
        file: String,
        /// The page with its files.
        url: String,
        /// The reason.
        reason: String,
    },
    /// A downloaded file that differs from what Hugging Face announced. It was removed.
    #[error("`{model}`: `{file}` arrived damaged: {reason}; it was removed, so try again")]
    Damaged {
        /// The model's name.
        model: String,
        /// The file.
        file: String,
        /// The difference.
        reason: String,
    },
    /// Shards that disagree with each other or with their index.
    #[error(
        "{}: tensor `{name}` {reason}; remove files that do not belong to the model, or fetch it again",
        index.display()
    )]
    Shards {
        /// The index.
        index: PathBuf,
        /// The tensor's name.
        name: String,
        /// Where it is, and where not.
        reason: String,
    },
    /// An index that names a missing or invalid shard.
    #[error(
        "{} names the shard `{shard}`, which is {reason}; fetch the missing file into the same directory, or the whole model again",
        index.display()
    )]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The shard's name in the index.
        shard: String,
        /// `not there`, or why the name is invalid.
        reason: &'static str,
    },
    /// A weight out of range of the data type in which it would be written.
    #[error(
        "{}: tensor `{name}` contains {value} (element {index}), which is out of range for {dtype}; write it as {}",
        path.display(), if *dtype == "f16" { "bf16 or f32" } else { "f32" }
    )]
    OutOfRange {
        /// The file to write.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The first such value.
        value: f64,
        /// Its index in the tensor, counted in the file's order from 0.
        index: usize,
        /// `f16`, `bf16`, `f32`, or a type of GGUF.
        dtype: &'static str,
    },
    /// Too little memory.
    #[error(
        "{what} needs {} of memory, but only {} is available; {remedy}",
        readable_bytes(*n_bytes), readable_bytes(*available)
    )]
    NoMemory {
        /// What needs it.
        what: String,
        /// The memory needed, in bytes.
        n_bytes: u64,
        /// The memory available, in bytes.
        available: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// A scheduler's environment that names no shard.
    #[error("--shard: {message}")]
    Scheduler {
        /// What was looked for or found, and the remedy.
        message: String,
    },
    /// Files of shards of rows that do not fit together.
    #[error("{}: {message}", path.display())]
    RowShards {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A weight that is NaN or infinite where finite ones are required.
    #[error(
        "{}: tensor `{name}` contains {value} (element {index}); the checkpoint is damaged: download or train it again",
        path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// `a NaN` or `an infinity`.
        value: &'static str,
        /// Its index in the tensor, counted in the file's order from 0.
        index: usize,
    },
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The same error for a file that was written below `hidden` and is to be seen below `place`.
    pub fn placed(mut self, hidden: &Path, place: &Path) -> Self {
        if let Self::Io { path, .. } | Self::OutOfRange { path, .. } | Self::NotFinite { path, .. } =
            &mut self
            && let Ok(below) = path.strip_prefix(hidden)
        {
            *path = place.join(below);
        }
        self
    }

    /// For `map_err` on I/O errors: `action` is a verb.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

/// What an answer begins with, at the end of a message.
fn beginning(body: Option<&str>) -> String {
    match body {
        None => String::new(),
        Some("") => ", but the answer is empty".into(),
        Some(body) => {
            let mut shown = String::new();
            for c in body.chars() {
                match c.is_control() {
                    true => shown.extend(c.escape_debug()),
                    false => shown.push(c),
                }
            }
            format!(", but the answer begins with `{shown}`")
        }
    }
}

/// The first few names: a wrong checkpoint has hundreds.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}
