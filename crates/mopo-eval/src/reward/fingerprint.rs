//! A hash of everything that determines a reward model's scores, so that scores of another model or
//! with other settings are never mistaken for the same.

use mopo_hub::{file_sha256, sha256_hex};

use super::tokenizer::TOKENIZER_FILES;
use super::{ModelSettings, ModelSpec, Resolver};
use crate::Result;

impl ModelSpec {
    /// The SHA-256, in hexadecimal, of the model's weights, configuration and tokenizer, and of the
    /// resolved settings. The path of the files has no effect.
    ///
    /// # Errors
    /// A missing model, files that cannot be read, missing settings.
    pub fn fingerprint(&self, resolve: Resolver<'_>) -> Result<String> {
        let whole = self.with_preset()?;
        let dir = resolve(whole.path.as_deref().expect("checked with the preset"))?;
        // Neither affects a score.
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
