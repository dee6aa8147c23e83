//! A hash of everything that decides a reward model's scores, so that scores of another model or of
//! other settings are never taken for the same.

use std::io::Read;
use std::path::Path;

use mopo_data::sha256_hex;
use sha2::{Digest, Sha256};

use super::tokenizer::TOKENIZER_FILES;
use super::{ModelSettings, ModelSpec, Resolver};
use crate::{Error, Result};

impl ModelSpec {
    /// The SHA-256, in hexadecimal, of the model's weights, configuration and tokenizer, and of the
    /// settings as they are resolved. Where the files lie does not count.
    ///
    /// # Errors
    /// A model that is not there, files that cannot be read, settings that are missing.
    pub fn fingerprint(&self, resolve: Resolver<'_>) -> Result<String> {
        let whole = self.with_preset()?;
        let dir = resolve(whole.path.as_deref().expect("checked with the preset"))?;
        // Neither decides a score.
        let settings = ModelSettings { name: None, statistics: None, ..self.settings(&dir)? };
        let mut text = toml::to_string(&settings).expect("plain data");
        let (_, mut files) = mopo_hub::find_files(&dir)?;
        files.push(dir.join("config.json"));
        files.extend(TOKENIZER_FILES.map(|name| dir.join(name)).into_iter().filter(|f| f.exists()));
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            text += &format!("{}  {name}\n", file_sha256(&file)?);
        }
        Ok(sha256_hex(text.as_bytes()))
    }
}

/// Of a file that may be larger than memory.
fn file_sha256(path: &Path) -> Result<String> {
    let hash = || -> std::io::Result<_> {
        let mut hasher = Sha256::new();
        let (mut file, mut buffer) = (std::fs::File::open(path)?, vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hasher.finalize()),
                n => hasher.update(&buffer[..n]),
            }
        }
    };
    let io = |source| Error::Io { action: "read", path: path.into(), source };
    Ok(hash().map_err(io)?.iter().map(|byte| format!("{byte:02x}")).collect())
}
