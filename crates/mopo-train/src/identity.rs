//! A hash of everything that answers depend on in a model's files, so that answers of two models are never put together.

use std::path::{Path, PathBuf};

use mopo_hub::{file_sha256, sha256_hex};

use crate::{Error, Result, RunDir};

/// Endings of files of weights, settings and tokenizers.
const READ: [&str; 8] = ["json", "safetensors", "bin", "gguf", "jinja", "model", "txt", "toml"];
/// Folders of an export of all policies.
const FOLDERS: [&str; 2] = ["base", "policy"];

/// SHA-256 over the files of a run, an export, a directory in the layout of Hugging Face or a GGUF file. The place of the
/// files has no effect.
///
/// # Errors
/// A file that cannot be read; those of [`RunDir::open`].
pub fn model_sha256(dir: &Path) -> Result<String> {
    let mut text = String::new();
    if RunDir::is_run(dir) {
        // It has hashed its own files, and checks them when they are read.
        let (run, _, record) = RunDir::open(dir)?;
        text += &file_sha256(&run.join("config.toml"))?;
        for (name, sha256) in record.hashes.iter().chain(&record.model) {
            text += &format!("\n{sha256}  {name}");
        }
        return Ok(sha256_hex(text.as_bytes()));
    }
    let mut files = match dir.is_dir() {
        true => readable(dir)?,
        false => vec![dir.to_path_buf()],
    };
    for folder in FOLDERS.map(|name| dir.join(name)).into_iter().filter(|folder| folder.is_dir()) {
        files.extend(readable(&folder)?);
    }
    files.sort();
    for file in files {
        let name = file.strip_prefix(dir).unwrap_or(&file).display();
        text += &format!("{}  {name}\n", file_sha256(&file)?);
    }
    Ok(sha256_hex(text.as_bytes()))
}

fn readable(dir: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io("reading", dir)(e);
    let mut files = vec![];
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if path.is_file() && ending.is_some_and(|ending| READ.contains(&ending)) {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_read_count_and_their_place_does_not() {
        let tmp = tempfile::tempdir().unwrap();
        let make = |name: &str, policy: &str| {
            let dir = tmp.path().join(name);
            std::fs::create_dir_all(dir.join("policy")).unwrap();
            std::fs::write(dir.join("tokenizer.json"), "{}").unwrap();
            std::fs::write(dir.join("policy/policy.json"), policy).unwrap();
            dir
        };
        let (one, same, other) = (make("a", "1"), make("b", "1"), make("c", "2"));
        let hash = |dir: &Path| model_sha256(dir).unwrap();
        assert_eq!(hash(&one), hash(&same));
        assert_ne!(hash(&one), hash(&other));
        std::fs::write(same.join("scores.jsonl"), "beside it").unwrap();
        assert_eq!(hash(&one), hash(&same));
        std::fs::write(same.join("config.json"), "{}").unwrap();
        assert_ne!(hash(&one), hash(&same));
        let file = tmp.path().join("m.gguf");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(hash(&file).len(), 64);
        assert!(model_sha256(&tmp.path().join("absent")).is_err());
    }
}
