//! The names of the objectives, checked once and then used by index.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// An ordered list of distinct objective names. Indicators, scores, heads and thresholds are all
/// in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Objectives(Vec<String>);

impl Objectives {
    /// Checks the names: at least one, none empty, no duplicates, only `[A-Za-z0-9_-]` (they become
    /// file names and metric keys).
    ///
    /// # Errors
    /// [`Error::InvalidObjectives`] says which name is wrong and why.
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Result<Self> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        if names.is_empty() {
            return Err(Error::InvalidObjectives("it is empty; name at least one".into()));
        }
        for (i, name) in names.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if name.is_empty() || !name.chars().all(plain) {
                return Err(Error::InvalidObjectives(format!(
                    "`{name}` is not a name of letters, digits, `_` and `-`"
                )));
            }
            if names[..i].contains(name) {
                return Err(Error::InvalidObjectives(format!("duplicate name `{name}`")));
            }
        }
        Ok(Self(names))
    }

    /// Number of objectives (K in the paper).
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The index of `name`.
    ///
    /// # Errors
    /// [`Error::UnknownObjective`] lists the known ones.
    pub fn index_of(&self, name: &str) -> Result<usize> {
        self.0
            .iter()
            .position(|n| n == name)
            .ok_or_else(|| Error::UnknownObjective { name: name.into(), known: self.0.join(", ") })
    }

    /// The name of objective `objective_idx`.
    pub fn name(&self, objective_idx: usize) -> &str {
        &self.0[objective_idx]
    }

    /// All names, in order.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl TryFrom<Vec<String>> for Objectives {
    type Error = Error;
    fn try_from(names: Vec<String>) -> Result<Self> {
        Self::new(names)
    }
}

impl From<Objectives> for Vec<String> {
    fn from(objectives: Objectives) -> Self {
        objectives.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_found() {
        let o = Objectives::new(["helpful", "harmless"]).unwrap();
        assert_eq!(o.index_of("harmless").unwrap(), 1);
        let e = o.index_of("humour").unwrap_err().to_string();
        assert!(e.contains("humour") && e.contains("helpful, harmless"), "{e}");
        assert!(Objectives::new(["a", "a"]).is_err());
        assert!(Objectives::new(["a/b"]).is_err());
        assert!(Objectives::new(Vec::<String>::new()).is_err());
    }
}
