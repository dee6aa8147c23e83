//! Crates of others as `cargo tree` resolves them, with their features: unlike `cargo metadata`, it leaves
//! out what no feature switches on.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::cargo::{cargo, root};

/// The target that dependencies are looked at for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A crate that is not ours, in one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) version: String,
    /// An SPDX expression, or empty.
    pub(crate) licence: String,
    /// An address, or empty.
    pub(crate) repository: String,
}

/// What `cargo tree` lists with more arguments, sorted.
pub(crate) fn dependencies(args: &[&str]) -> Result<Vec<Dependency>> {
    let mut tree = cargo(&["tree", "--locked", "--target", TARGET, "--prefix", "none"]);
    tree.args(["--format", "{p}|{l}|{r}"]).args(args).current_dir(root());
    let out = tree.stderr(Stdio::inherit()).output().context("cargo tree")?;
    ensure!(out.status.success(), "`cargo tree` failed: its output is above");
    Ok(parse(&String::from_utf8(out.stdout)?))
}

/// Where cargo keeps its registry.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    home.context("neither CARGO_HOME nor HOME is set")
}

fn parse(tree: &str) -> Vec<Dependency> {
    let mut found = BTreeSet::new();
    for line in tree.lines() {
        let mut fields = line.trim_end_matches(" (*)").split('|');
        let package = fields.next().unwrap_or_default();
        let mut words = package.split(' ');
        let (Some(name), Some(version)) = (words.next(), words.next()) else { continue };
        // Ours are shown with their folder.
        if package.contains(" (/") {
            continue;
        }
        found.insert(Dependency {
            name: name.to_owned(),
            version: version.trim_start_matches('v').to_owned(),
            licence: fields.next().unwrap_or_default().to_owned(),
            repository: fields.next().unwrap_or_default().trim_end_matches('/').to_owned(),
        });
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_read_and_ours_left_out() {
        let tree = "mopo-cli v0.1.0 (/a/crates/mopo-cli)|Apache-2.0|\n\
                    syn v2.0.1 (proc-macro)|MIT|https://x/syn/\nahash v0.8.12|MIT OR Apache-2.0|\n\n\
                    syn v2.0.1 (proc-macro)|MIT|https://x/syn/ (*)\nahash v0.7.0||\n";
        let found = parse(tree);
        let names: Vec<_> = found.iter().map(|d| (d.name.as_str(), d.version.as_str())).collect();
        assert_eq!(names, [("ahash", "0.7.0"), ("ahash", "0.8.12"), ("syn", "2.0.1")]);
        assert_eq!(
            (found[0].licence.as_str(), found[2].repository.as_str()),
            ("", "https://x/syn")
        );
    }
}
