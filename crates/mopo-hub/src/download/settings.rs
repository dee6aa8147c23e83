//! Where models come from and where they are kept, from the environment variables that Hugging
//! Face's own client reads.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::{Error, Result};

/// Hugging Face and the cache of its files.
#[derive(Clone)]
pub struct Hub {
    pub(super) endpoint: String,
    pub(super) cache: PathBuf,
    pub(super) token: Option<String>,
    /// Why requests are disabled, if they are.
    pub(super) offline: Option<&'static str>,
    pub(super) attempts: u32,
}

impl Hub {
    /// The settings of the environment:
    ///
    /// | variable | |
    /// |---|---|
    /// | `HF_ENDPOINT` | Hugging Face (`https://huggingface.co`) |
    /// | `HF_HUB_CACHE` | the cache (`hub` below `HF_HOME`) |
    /// | `HF_HOME` | contains cache and token (`huggingface` below `XDG_CACHE_HOME` or `~/.cache`)
    /// |
    /// | `HF_TOKEN` | for models that are not public (`HF_TOKEN_PATH`'s content, else that of
    /// `token` below `HF_HOME`) |
    /// | `HF_HUB_OFFLINE` | `1`, `on`, `yes` or `true`: no requests (so does
    /// `TRANSFORMERS_OFFLINE`) |
    ///
    /// # Errors
    /// [`Error::Setting`] for an endpoint that is not an address, an invalid token, or if
    /// there is no place for the cache.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// Like [`from_env`](Self::from_env), with other variables than the process's.
    ///
    /// # Errors
    /// Those of [`from_env`](Self::from_env).
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let setting =
            |name: &'static str, reason: &str| Error::Setting { name, reason: reason.into() };
        let text = |name: &'static str| match set(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(setting(name, "it is not UTF-8")),
        };

        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| "https://huggingface.co".into());
        let endpoint = endpoint.trim().trim_end_matches('/').to_string();
        if !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            let reason = format!("`{endpoint}` does not begin with https:// or http://");
            return Err(setting("HF_ENDPOINT", &reason));
        }

        let home = || {
            let below = |dir: OsString, rest: &str| PathBuf::from(dir).join(rest);
            set("HF_HOME")
                .map(PathBuf::from)
                .or_else(|| set("XDG_CACHE_HOME").map(|dir| below(dir, "huggingface")))
                .or_else(|| set("HOME").map(|dir| below(dir, ".cache/huggingface")))
        };
        let cache = set("HF_HUB_CACHE").map(PathBuf::from);
        let Some(cache) = cache.or_else(|| Some(home()?.join("hub"))) else {
            let reason = "neither it nor HOME is set; set it to the directory of the cache";
            return Err(setting("HF_HOME", reason));
        };
        let cache = std::path::absolute(&cache).map_err(Error::io("find", &cache))?;

        let token = match text("HF_TOKEN")? {
            Some(token) => Some(("HF_TOKEN", token)),
            None => {
                let file = set("HF_TOKEN_PATH").map(PathBuf::from);
                let file = file.or_else(|| Some(home()?.join("token")));
                file.and_then(|file| std::fs::read_to_string(file).ok())
                    .map(|token| ("HF_TOKEN_PATH", token))
            }
        };
        let token = match token.map(|(name, token)| (name, token.trim().to_string())) {
            Some((_, token)) if token.is_empty() => None,
            // Used in a header, and never in a message.
            Some((name, token)) if !token.chars().all(|c| c.is_ascii_graphic()) => {
                return Err(setting(name, "the token has invalid characters"));
            }
            token => token.map(|(_, token)| token),
        };

        let is_on = |name: &str| {
            let value = set(name).map(|value| value.to_string_lossy().to_lowercase());
            value.is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.as_str()))
        };
        let offline = match (is_on("HF_HUB_OFFLINE"), is_on("TRANSFORMERS_OFFLINE")) {
            (true, _) => Some("HF_HUB_OFFLINE is set"),
            (_, true) => Some("TRANSFORMERS_OFFLINE is set"),
            _ => None,
        };
        Ok(Self { endpoint, cache, token, offline, attempts: 4 })
    }

    /// Sets the number of attempts after lost connections (4 by default).
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn hub(variables: &[(&str, &str)]) -> Result<Hub> {
        Hub::from_variables(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_cache_is_where_other_clients_have_it() {
        for (variables, cache) in [
            (&[("HOME", "/h")][..], "/h/.cache/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")], "/f/hub"),
            (&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HF_HOME", ""), ("HOME", "/h")], "/h/.cache/huggingface/hub"),
        ] {
            assert_eq!(hub(variables).unwrap().cache, Path::new(cache));
        }
        let error = hub(&[]).err().unwrap().to_string();
        assert!(error.contains("HF_HOME") && error.contains("HOME is set"), "{error}");
    }

    #[test]
    fn tokens_endpoints_and_switches() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "from-home\n").unwrap();
        std::fs::write(dir.path().join("other"), "from-path").unwrap();
        let home = dir.path().to_str().unwrap();
        let path = dir.path().join("other");
        let path = path.to_str().unwrap();
        let token = |variables: &[(&str, &str)]| hub(variables).unwrap().token;
        assert_eq!(token(&[("HF_HOME", home)]).unwrap(), "from-home");
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN_PATH", path)]).unwrap(), "from-path");
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " t ")]).unwrap(), "t");
        assert_eq!(token(&[("HF_HOME", "/nowhere")]), None);
        let error = hub(&[("HF_HOME", home), ("HF_TOKEN", "sec\nret")]).err().unwrap().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("sec"), "{error}");

        let at = |endpoint| hub(&[("HF_HOME", home), ("HF_ENDPOINT", endpoint)]);
        assert_eq!(at("http://127.0.0.1:8/").unwrap().endpoint, "http://127.0.0.1:8");
        let error = at("hub.example").err().unwrap().to_string();
        assert!(error.contains("HF_ENDPOINT") && error.contains("https://"), "{error}");

        for (value, expected) in
            [("1", true), ("TRUE", true), ("on", true), ("0", false), ("", false)]
        {
            for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
                let offline = hub(&[("HF_HOME", home), (name, value)]).unwrap().offline;
                assert_eq!(offline.is_some(), expected, "{name}={value}");
                assert!(offline.is_none_or(|reason| reason.contains(name)));
            }
        }
    }
}
