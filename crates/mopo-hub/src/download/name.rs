//! `org/name@revision`.

use std::fmt;
use std::str::FromStr;

/// A model's name on Hugging Face, optionally with a branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    repo: String,
    revision: Option<String>,
}

impl ModelName {
    /// `org/name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The part after the `@`.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// The same model at another branch, tag or commit.
    ///
    /// # Errors
    /// Why `revision` is invalid.
    pub fn with_revision(self, revision: &str) -> Result<Self, String> {
        let part = |part: &str| is_name(part) && part != "." && part != "..";
        match revision.split('/').all(part) {
            true => Ok(Self { revision: Some(revision.into()), ..self }),
            false => Err(format!("`{revision}` is not a branch, tag or commit")),
        }
    }

    /// Whether it names a commit, whose files never change.
    pub fn is_pinned(&self) -> bool {
        self.revision.as_deref().is_some_and(is_commit)
    }
}

impl FromStr for ModelName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (text, None),
        };
        let parts: Vec<&str> = repo.split('/').collect();
        let begins =
            |part: &&str| part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        // A missing file is not a model.
        let is_file = repo.ends_with(".json") || repo.ends_with(".safetensors");
        if parts.len() != 2 || is_file || !parts.iter().all(|p| is_name(p) && begins(p)) {
            return Err("no such file or directory, and names on Hugging Face are `org/name` or \
                 `org/name@revision`"
                .into());
        }
        let name = Self { repo: repo.into(), revision: None };
        match revision {
            Some(revision) => name.with_revision(revision),
            None => Ok(name),
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

fn is_name(part: &str) -> bool {
    !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Whether it has the form of a commit's hash.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (text, repo, revision) in [
            ("microsoft/phi-1_5", "microsoft/phi-1_5", None),
            ("a/b.c@v1.0", "a/b.c", Some("v1.0")),
            ("a/b@refs/pr/1", "a/b", Some("refs/pr/1")),
        ] {
            let name: ModelName = text.parse().unwrap();
            assert_eq!((name.repo(), name.revision()), (repo, revision));
            assert_eq!(name.to_string(), text);
            assert!(!name.is_pinned());
        }
        let pinned: ModelName =
            format!("a/b@{}", "0123456789abcdef0123456789abcdef01234567").parse().unwrap();
        assert!(pinned.is_pinned());
    }

    #[test]
    fn invalid_names_are_refused() {
        for text in [
            "",
            "model",
            "/a/b",
            "a/b/c",
            "./a/b",
            "../b",
            "./b",
            "a/",
            "/b",
            "a b/c",
            "a/b@",
            "a/b@..",
            "a/b@x/../y",
            "a/b@/x",
            "phi-1_5/tokenizer.json",
            "a/b@x y",
            "é/b",
        ] {
            assert!(text.parse::<ModelName>().is_err(), "{text}");
        }
    }
}
