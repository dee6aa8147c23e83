//! A cache of log-probabilities on disk, keyed by content, so that runs on the same frozen model
//! and the same pairs
//! compute them once. Not part of any run: everything can be recomputed, and the folder may be
//! deleted at any time.
//!
//! ```text
//! <dir>/<context>/context.json              what the log-probs below belong to, for information
//! <dir>/<context>/<sha256>.safetensors      rows: keys [n, 32], log_probs [n, 2], n_tokens [n, 2]
//! ```
//!
//! A context is the SHA-256 of everything but the pair; a key is the SHA-256 of the context and the
//! pair's
//! token ids. Files are written once, whole, under the SHA-256 of their bytes, and never changed.
//! So
//! concurrent runs need no lock, and a damaged file is detected by its name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mopo_data::{PairTokens, sha256_hex, write_atomically};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Rows per file; a killed run loses at most that many.
const ROWS_PER_FILE: usize = 256;

type Key = [u8; 32];

/// A folder of log-probabilities shared between runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogProbCache(PathBuf);

impl LogProbCache {
    /// The cache in a folder, which is created when there is something to write.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The cache that the runs in one folder share: beside the run's directory.
    pub fn beside(run: &Path) -> Self {
        // Absolute, since `.` has no parent.
        let run = std::path::absolute(run).unwrap_or_else(|_| run.to_path_buf());
        Self::new(run.parent().unwrap_or(&run).join(".cache").join("log_probs"))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Reads the rows of one context. Damaged files are skipped with a warning.
    pub(crate) fn open(&self, context: &Context) -> OpenCache {
        let text =
            serde_json::to_vec_pretty(context).expect("strings and numbers have a JSON form");
        let id = sha256_hex(&text);
        let mut open = OpenCache {
            dir: self.0.join(&id),
            context: text,
            id,
            rows: BTreeMap::new(),
            new: Vec::new(),
            warnings: Vec::new(),
            writable: true,
        };
        open.read();
        open
    }
}

/// Everything that a log-probability depends on besides the pair's token ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Context {
    /// Version of this layout and of the computation of log-probs.
    pub(crate) format: u32,
    /// Version of this program: another one may round differently.
    pub(crate) mopo_version: String,
    /// Backend and device; they round differently too.
    pub(crate) device: String,
    /// SHA-256 over the base model's files.
    pub(crate) model: String,
    /// Format of the weights in memory; `as_stored` is that of the files.
    pub(crate) weights: String,
    /// SHA-256 of an adapter, or `none`.
    pub(crate) adapter: String,
    /// `base`, or the SHA-256 of a head.
    pub(crate) output_layer: String,
    /// SHA-256 of the tokenizer.
    pub(crate) tokenizer: String,
    /// The chat template.
    pub(crate) template: String,
    /// Maximum number of tokens of a prompt.
    pub(crate) max_prompt_tokens: usize,
    /// Maximum number of tokens of a response.
    pub(crate) max_response_tokens: usize,
}

/// The cached values of a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    log_probs: [f32; 2],
    n_tokens: [u32; 2],
}

/// The rows of one context, and those to be written.
#[derive(Debug)]
pub(crate) struct OpenCache {
    dir: PathBuf,
    context: Vec<u8>,
    id: String,
    rows: BTreeMap<Key, Row>,
    new: Vec<(Key, Row)>,
    warnings: Vec<String>,
    writable: bool,
}

impl OpenCache {
    /// log π(y|x) of both responses of a pair, if cached.
    pub(crate) fn get(&self, pair: &PairTokens) -> Option<[f32; 2]> {
        let row = self.rows.get(&self.key(pair))?;
        let is_sound = row.log_probs.iter().all(|x| x.is_finite());
        (is_sound && row.n_tokens == n_tokens(pair)).then_some(row.log_probs)
    }

    /// Adds a pair's log-probs, and writes once there are enough.
    pub(crate) fn insert(&mut self, pair: &PairTokens, log_probs: [f32; 2]) {
        let key = self.key(pair);
        let row = Row { log_probs, n_tokens: n_tokens(pair) };
        if self.rows.insert(key, row).is_none() {
            self.new.push((key, row));
        }
        if self.new.len() >= ROWS_PER_FILE {
            self.flush();
        }
    }

    /// Writes what has not been written yet. A cache that cannot be written does not stop the run:
    /// there is one warning, and no further attempt.
    pub(crate) fn flush(&mut self) {
        let new = std::mem::take(&mut self.new);
        if new.is_empty() || !self.writable {
            return;
        }
        if let Err(e) = self.write(&new) {
            self.writable = false;
            self.warnings.push(format!(
                "warning: cannot write the log-prob cache: {e}; training continues without it \
                 (--no-cache disables it, --cache DIR chooses another folder)"
            ));
        }
    }

    /// Warnings since the last call; none of them stops a run.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn key(&self, pair: &PairTokens) -> Key {
        let mut hash = Sha256::new();
        hash.update(self.id.as_bytes());
        for ids in [&pair.prompt, &pair.first, &pair.second] {
            hash.update((ids.len() as u64).to_le_bytes());
            for id in ids {
                hash.update(id.to_le_bytes());
            }
        }
        hash.finalize().into()
    }

    fn write(&self, rows: &[(Key, Row)]) -> Result<()> {
        let keys: Vec<u8> = rows.iter().flat_map(|(key, _)| *key).collect();
        let values: Vec<u8> =
            rows.iter().flat_map(|(_, r)| r.log_probs).flat_map(f32::to_le_bytes).collect();
        let lens: Vec<u8> =
            rows.iter().flat_map(|(_, r)| r.n_tokens).flat_map(u32::to_le_bytes).collect();
        let n = rows.len();
        let bytes = TensorView::new(Dtype::U8, vec![n, 32], &keys)
            .and_then(|keys| {
                let values = TensorView::new(Dtype::F32, vec![n, 2], &values)?;
                let lens = TensorView::new(Dtype::U32, vec![n, 2], &lens)?;
                let tensors = [("keys", keys), ("log_probs", values), ("n_tokens", lens)];
                safetensors::serialize(tensors, None)
            })
            .map_err(|e| Error::corrupt(&self.dir, e.to_string()))?;
        let about = self.dir.join("context.json");
        if !about.exists() {
            write_atomically(&about, &self.context)?;
        }
        write_atomically(&self.dir.join(format!("{}.safetensors", sha256_hex(&bytes))), &bytes)?;
        Ok(())
    }

    fn read(&mut self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let mut files: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
            .collect();
        files.sort();
        for path in files {
            match read_rows(&path) {
                Ok(rows) => self.rows.extend(rows),
                // Another run may have deleted the folder meanwhile.
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => {
                    self.warnings.push(format!("warning: {e}; its values are computed again"))
                }
            }
        }
    }
}

fn n_tokens(pair: &PairTokens) -> [u32; 2] {
    [pair.first.len() as u32, pair.second.len() as u32]
}

fn read_rows(path: &Path) -> Result<Vec<(Key, Row)>> {
    let bytes = fs::read(path).map_err(Error::io("reading", path))?;
    if path.file_stem().and_then(|s| s.to_str()) != Some(&sha256_hex(&bytes)) {
        return Err(Error::corrupt(path, "its SHA-256 is not its name: the file is damaged"));
    }
    let corrupt = |e: safetensors::SafeTensorError| Error::corrupt(path, e.to_string());
    let file = SafeTensors::deserialize(&bytes).map_err(corrupt)?;
    let keys = file.tensor("keys").map_err(corrupt)?;
    let n = keys.shape().first().copied().unwrap_or(0);
    let expect = |name: &str, dtype: Dtype, width: usize| {
        let view = file.tensor(name).map_err(corrupt)?;
        match view.shape() == [n, width] && view.dtype() == dtype {
            true => Ok(view.data()),
            false => Err(Error::corrupt(
                path,
                format!("`{name}` is {:?} of {:?}", view.dtype(), view.shape()),
            )),
        }
    };
    let (keys, _) = expect("keys", Dtype::U8, 32)?.as_chunks::<32>();
    let (values, _) = expect("log_probs", Dtype::F32, 2)?.as_chunks::<8>();
    let (lens, _) = expect("n_tokens", Dtype::U32, 2)?.as_chunks::<8>();
    let half = |x: &[u8; 8], i: usize| -> [u8; 4] { std::array::from_fn(|j| x[4 * i + j]) };
    Ok(keys
        .iter()
        .zip(values)
        .zip(lens)
        .map(|((key, value), len)| {
            let row = Row {
                log_probs: [0, 1].map(|i| f32::from_le_bytes(half(value, i))),
                n_tokens: [0, 1].map(|i| u32::from_le_bytes(half(len, i))),
            };
            (*key, row)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context {
            format: 1,
            mopo_version: "1".into(),
            device: "flex".into(),
            model: "m".into(),
            weights: "as_stored".into(),
            adapter: "none".into(),
            output_layer: "base".into(),
            tokenizer: "t".into(),
            template: "plain".into(),
            max_prompt_tokens: 10,
            max_response_tokens: 10,
        }
    }

    fn pair(i: u32) -> PairTokens {
        PairTokens { prompt: vec![1, i], first: vec![2], second: vec![3, 4] }
    }

    fn files(cache: &LogProbCache) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = fs::read_dir(cache.dir())
            .unwrap()
            .flat_map(|d| fs::read_dir(d.unwrap().path()).unwrap())
            .map(|f| f.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
            .collect();
        found.sort();
        found
    }

    #[test]
    fn rows_come_back_bit_for_bit_and_anything_else_is_a_miss() {
        let tmp = tempfile::tempdir().unwrap();
        let cache = LogProbCache::new(tmp.path().join("a/b"));
        let mut open = cache.open(&context());
        let values = [-1.000_000_1, f32::MIN_POSITIVE];
        open.insert(&pair(0), values);
        assert_eq!(cache.open(&context()).get(&pair(0)), None, "not written yet");
        open.flush();
        let again = cache.open(&context());
        assert_eq!(
            again.get(&pair(0)).map(|v| v.map(f32::to_bits)),
            Some(values.map(f32::to_bits))
        );
        // The token ids, and where one list ends and the next begins.
        let p = PairTokens { prompt: vec![1, 0, 2], first: vec![], second: vec![3, 4] };
        assert_eq!(again.get(&p), None);
        assert_eq!(again.get(&PairTokens { second: vec![3, 5], ..pair(0) }), None);
        assert_eq!(again.get(&pair(1)), None);
        // What a damaged model gave is no log-probability.
        let mut damaged = cache.open(&context());
        damaged.insert(&pair(9), [f32::NAN, -1.0]);
        assert_eq!(damaged.get(&pair(9)), None);
        // Each part of the context.
        let c = context;
        for other in [
            Context { format: 2, ..c() },
            Context { mopo_version: "2".into(), ..c() },
            Context { device: "cuda".into(), ..c() },
            Context { model: "n".into(), ..c() },
            Context { weights: "nf4".into(), ..c() },
            Context { adapter: "a".into(), ..c() },
            Context { output_layer: "h".into(), ..c() },
            Context { tokenizer: "u".into(), ..c() },
            Context { template: "chat".into(), ..c() },
            Context { max_prompt_tokens: 11, ..c() },
            Context { max_response_tokens: 11, ..c() },
        ] {
            assert_eq!(cache.open(&other).get(&pair(0)), None, "{other:?}");
        }
    }

    #[test]
    fn a_damaged_file_is_left_out_with_a_warning_and_written_again() {
        let tmp = tempfile::tempdir().unwrap();
        let cache = LogProbCache::new(tmp.path());
        let fill = || {
            let mut open = cache.open(&context());
            let warnings = open.take_warnings();
            let before = open.get(&pair(7));
            open.insert(&pair(7), [-3.0, -4.0]);
            open.flush();
            (before, warnings)
        };
        assert_eq!(fill(), (None, vec![]));
        assert_eq!(fill(), (Some([-3.0, -4.0]), vec![]));
        let file = files(&cache).pop().unwrap();
        let sound = fs::read(&file).unwrap();
        let mut flipped = sound.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [&flipped, &sound[..sound.len() / 2], &[][..]] {
            fs::write(&file, damaged).unwrap();
            let (before, warnings) = fill();
            assert_eq!(before, None);
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(warnings.len() == 1 && warnings[0].contains(name), "{warnings:?}");
            assert_eq!(fs::read(&file).unwrap(), sound, "it was not written again");
        }
        // A correct name for a file with other content.
        let bytes = b"no safetensors";
        fs::write(file.with_file_name(format!("{}.safetensors", sha256_hex(bytes))), bytes)
            .unwrap();
        let mut open = cache.open(&context());
        assert_eq!(open.get(&pair(7)), Some([-3.0, -4.0]));
        assert_eq!(open.take_warnings().len(), 1);
    }

    #[test]
    fn writers_side_by_side_lose_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let cache = LogProbCache::new(tmp.path());
        const N: u32 = 3 * ROWS_PER_FILE as u32;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    // Half of the rows are also in another file.
                    let mut open = cache.open(&context());
                    for i in thread * N / 2..thread * N / 2 + N {
                        open.insert(&pair(i), [i as f32, -(i as f32)]);
                        if i % 100 == 0 {
                            let mut reader = cache.open(&context());
                            assert_eq!(reader.take_warnings(), Vec::<String>::new());
                        }
                    }
                    open.flush();
                    assert_eq!(open.take_warnings(), Vec::<String>::new());
                });
            }
        });
        let open = cache.open(&context());
        for i in 0..3 * N / 2 + N {
            assert_eq!(open.get(&pair(i)), Some([i as f32, -(i as f32)]), "{i}");
        }
        assert!(files(&cache).len() >= 4 * 3);
    }

    #[test]
    fn a_cache_that_cannot_be_written_says_so_once() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("file");
        fs::write(&file, b"in the way").unwrap();
        let mut open = LogProbCache::new(&file).open(&context());
        for i in 0..2 {
            open.insert(&pair(i), [0.0; 2]);
            open.flush();
        }
        let warnings = open.take_warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("--no-cache"), "{warnings:?}");
        assert_eq!(open.get(&pair(1)), Some([0.0; 2]));
    }
}
