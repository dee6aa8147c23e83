//! A hash of everything that decides a reward model's scores, so that scores of another model or of
//! other settings are never taken for the same.

use mopo_hub::{file_sha256, sha256_hex};

use super::tokenizer::TOKENIZER_FILES;
use super::{ModelSettings, ModelSpec, Resolver};
use crate::Result;

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
