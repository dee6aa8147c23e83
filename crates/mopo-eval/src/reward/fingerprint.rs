//! Hashes of what determines a reward's scores, so that scores of another model or with other
//! settings are never mistaken for the same.

use std::path::Path;

use mopo_hub::{file_sha256, sha256_hex};

use super::tokenizer::TOKENIZER_FILES;
use super::{ModelSettings, ModelSpec, Resolver, RewardSpec};
use crate::Result;

impl RewardSpec {
    /// SHA-256 of what scores depend on outside the specification: a word list, a model
    /// ([`ModelSpec::fingerprint`]), the files that a program's command names (one hash each); of an
    /// endpoint, which cannot be read, its address and name. Empty if there is nothing.
    ///
    /// # Errors
    /// The file that cannot be read; those of [`ModelSpec::fingerprint`].
    pub fn fingerprint(&self, resolve: Resolver<'_>) -> Result<String> {
        match self {
            Self::WordList { file: Some(file), .. } => Ok(file_sha256(file)?),
            Self::Model(spec) => spec.fingerprint(resolve),
            // The files among its words, such as a script.
            Self::Program(spec) => {
                let files = spec.command.iter().map(Path::new).filter(|path| path.is_file());
                let hashes = files.map(|path| Ok(file_sha256(path)?));
                Ok(hashes.collect::<Result<Vec<_>>>()?.join(" "))
            }
            // Two lines: an address has no line ends.
            Self::Http(spec) => Ok(sha256_hex(format!("{}\n{}", spec.url, spec.name()).as_bytes())),
            Self::Ensemble(_) | Self::LengthCorrected(_) => {
                let parts = self.parts().into_iter().map(|(_, part)| part.fingerprint(resolve));
                let parts = parts.collect::<Result<Vec<_>>>()?;
                match parts.iter().all(String::is_empty) {
                    true => Ok(String::new()),
                    false => Ok(sha256_hex(parts.join("\n").as_bytes())),
                }
            }
            Self::WordList { file: None, .. }
            | Self::Demo { .. }
            | Self::Length { .. }
            | Self::Regex { .. } => Ok(String::new()),
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::local_directory;

    fn print(text: &str) -> String {
        toml::from_str::<RewardSpec>(text).unwrap().fingerprint(&local_directory).unwrap()
    }

    #[test]
    fn address_and_name_make_another_endpoint() {
        let http = |more: &str| print(&format!("kind = 'http'\n{more}"));
        let one = http("url = 'http://a/b'\nname = 'c'");
        assert_eq!(one.len(), 64);
        assert_eq!(one, http("url = 'http://a/b'\nname = 'c'\ntimeout = 1\nretries = 0"));
        let others = [
            http("url = 'http://a/bc'\nname = 'c'"),
            http("url = 'http://a/b'\nname = 'd'"),
            http("url = 'http://a/b'"),
        ];
        assert!(!others.contains(&one));
        assert_eq!(others[2], http("url = 'http://a/b'\nname = 'http'"));
    }

    #[test]
    fn parts_count_in_order_and_functions_have_none() {
        let both = |a: &str, b: &str| {
            print(&format!("kind = 'ensemble'\ncombine = 'mean'\nrewards = [{a}, {b}]"))
        };
        let (a, b) =
            ("{ kind = 'http', url = 'http://a/' }", "{ kind = 'http', url = 'http://b/' }");
        let length = "{ kind = 'length' }";
        assert_eq!(both(length, length), "");
        let all = [both(a, b), both(b, a), both(a, a), both(a, length), both(length, a)];
        for (i, one) in all.iter().enumerate() {
            assert!(one.len() == 64 && !all[..i].contains(one));
        }
        let corrected = |url: &str| {
            print(&format!(
                "kind = 'length_corrected'\nper_word = 1\nreward = {{ kind = 'http', url = '{url}' }}"
            ))
        };
        assert_ne!(corrected("http://a/"), corrected("http://b/"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("words.txt");
        let inside =
            || both(length, &format!("{{ kind = 'word_list', file = '{}' }}", path.display()));
        std::fs::write(&path, "one").unwrap();
        let before = inside();
        std::fs::write(&path, "two").unwrap();
        assert_ne!(before, inside());
    }
}
