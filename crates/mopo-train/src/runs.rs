//! Finished runs whose policies a method takes over without training them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Error, OtherPolicy, Result};

/// Runs by the name that this run gives to the policy of each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyRuns(pub BTreeMap<String, PathBuf>);

impl PolicyRuns {
    /// The policies' names, in the order that the run has them.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Where each policy comes from.
    pub(crate) fn policies(&self, section: &str) -> Vec<OtherPolicy> {
        let of = |(name, run): (&String, &PathBuf)| OtherPolicy {
            name: name.clone(),
            key: format!("{section}.runs.{name}"),
            run: run.clone(),
        };
        self.0.iter().map(of).collect()
    }

    /// Checks that there are several, and that the run's policies are these.
    ///
    /// # Errors
    /// Names the key and what would be accepted.
    pub(crate) fn check(&self, section: &str, policies: &[String]) -> Result<()> {
        let fail = |key: String, message: String| Err(Error::Config { origin: key, message });
        if self.0.len() < 2 {
            let message = "name at least two runs: a mixture has several policies";
            return fail(format!("`{section}.runs`"), message.into());
        }
        let mut sorted = policies.to_vec();
        sorted.sort();
        if sorted != self.names() {
            let message = format!(
                "`policies` are {policies:?}, but the policies of this run are those of `{section}.runs`: write policies = {:?}",
                self.names()
            );
            return fail("`policies`".into(), message);
        }
        Ok(())
    }

    /// What happens instead of training, for people.
    pub(crate) fn note(&self) -> String {
        let of = self.0.iter().map(|(name, run)| format!("{name} of {}", run.display()));
        format!(
            "nothing is trained, so `[training]` is not used; the policies are {}",
            of.collect::<Vec<_>>().join(", ")
        )
    }
}
