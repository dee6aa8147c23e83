//! `cargo xtask deny`: what deny.toml demands of dependencies, as far as it can be told without cargo-deny and
//! without a network; cargo-deny itself, where it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cargo::{cargo, root, status};
use crate::dependencies::{Dependency, cargo_home, dependencies};

/// What is read of deny.toml; cargo-deny reads all of it.
#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Skip>,
}

/// A version that may stand beside another one of the same crate.
#[derive(Deserialize)]
struct Skip {
    #[serde(rename = "crate")]
    spec: String,
}

/// `cargo xtask deny`.
pub(crate) fn run() -> Result<ExitCode> {
    let path = root().join("deny.toml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let rules: Rules = toml::from_str(&text).context("deny.toml")?;
    let of = |edges| dependencies(&["--workspace", "--all-features", "--edges", edges]);
    let all = of("normal,build,dev")?;
    let mut problems = licences(&all, &rules.licenses.allow);
    // As cargo-deny has it, what only tests need may be there twice.
    problems.extend(duplicates(&of("normal,build")?, &rules.bans.skip));
    let index = Index::find();
    match &index {
        Some(index) => problems.extend(index.yanked(&all)),
        None => println!("deny: not checked: yanked versions, since cargo keeps no index here"),
    }
    for problem in &problems {
        eprintln!("deny: {problem}");
    }
    if !problems.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    let known =
        index.map_or(0, |index| all.iter().filter(|d| index.is_yanked(d).is_some()).count());
    println!(
        "deny: {} crates: licences allowed, duplicates listed; {known} of them in cargo's index, none yanked",
        all.len()
    );
    let mut version = cargo(&["deny", "--version"]);
    if !version.stderr(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|s| s.success()) {
        println!(
            "deny: not checked: advisories, since cargo-deny is not installed (CONTRIBUTING.md)"
        );
        return Ok(ExitCode::SUCCESS);
    }
    let database = cargo_home()?.join("advisory-dbs").is_dir();
    let mut deny =
        cargo(&["deny", "--locked", "--offline", "check", "licenses", "bans", "sources"]);
    if database {
        deny.arg("advisories");
    } else {
        println!("deny: not checked: advisories, since ~/.cargo/advisory-dbs has no database");
    }
    Ok(crate::cargo::code(status(deny.current_dir(root()))?))
}

/// Crates whose licence lets nobody use them as deny.toml allows.
fn licences(all: &[Dependency], allow: &[String]) -> Vec<String> {
    let allowed = |licence: &str| allow.iter().any(|a| a == licence);
    let refused = all.iter().filter(|d| !satisfied(&d.licence, &allowed));
    refused
        .map(|d| {
            let licence = if d.licence.is_empty() { "none" } else { &d.licence };
            format!(
                "{} {}: licence `{licence}` is not among those that deny.toml allows",
                d.name, d.version
            )
        })
        .collect()
}

/// Whether an SPDX expression can be met with allowed licences alone. One that cannot be read is not met.
pub(crate) fn satisfied(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    // `/` is what `OR` was.
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut at = 0;
    either(&words, &mut at, allowed) == Some(true) && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut met = both(words, at, allowed)?;
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at, allowed)?;
    }
    Some(met)
}

fn both(words: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut met = one(words, at, allowed)?;
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed)?;
    }
    Some(met)
}

fn one(words: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let word = *words.get(*at)?;
    *at += 1;
    if word == "(" {
        let met = either(words, at, allowed)?;
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return closed.then_some(met);
    }
    if matches!(word, ")" | "OR" | "AND" | "WITH") {
        return None;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = *words.get(*at + 1)?;
        *at += 2;
        // An exception only permits more.
        return Some(allowed(&format!("{word} WITH {exception}")) || allowed(word));
    }
    Some(allowed(word))
}

/// Crates in several versions, of which more than one is not listed.
fn duplicates(all: &[Dependency], skip: &[Skip]) -> Vec<String> {
    let skipped: BTreeSet<&str> = skip.iter().map(|s| s.spec.as_str()).collect();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for d in all {
        versions.entry(&d.name).or_default().insert(&d.version);
    }
    let mut problems = vec![];
    for (name, versions) in versions {
        let listed = |version: &&&str| {
            skipped.contains(name) || skipped.contains(format!("{name}@{version}").as_str())
        };
        if versions.iter().filter(|version| !listed(version)).count() > 1 {
            problems.push(format!(
                "{name}: versions {}; let one do, or list the others in deny.toml with who needs them \
                 (`cargo tree --invert {name}@VERSION`)",
                versions.iter().copied().collect::<Vec<_>>().join(", ")
            ));
        }
    }
    problems
}

/// What cargo has kept of the index of crates.io: as new as its last look there.
struct Index {
    folder: PathBuf,
}

impl Index {
    fn find() -> Option<Self> {
        let indices = fs::read_dir(cargo_home().ok()?.join("registry/index")).ok()?;
        let mut folders: Vec<PathBuf> = indices
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("index.crates.io-"))
            .map(|entry| entry.path().join(".cache"))
            .collect();
        folders.sort();
        folders.into_iter().find(|folder| folder.is_dir()).map(|folder| Self { folder })
    }

    fn yanked(&self, all: &[Dependency]) -> Vec<String> {
        let yanked = all.iter().filter(|d| self.is_yanked(d) == Some(true));
        yanked
            .map(|d| {
                let name = &d.name;
                format!("{name} {} was yanked: `cargo update --package {name}`", d.version)
            })
            .collect()
    }

    /// Whether the version was yanked; None if the index does not have it.
    fn is_yanked(&self, d: &Dependency) -> Option<bool> {
        let bytes = fs::read(self.folder.join(place(&d.name))).ok()?;
        yanked_in(&bytes, &d.version)
    }
}

/// Where the index keeps a crate.
fn place(name: &str) -> PathBuf {
    let name = name.to_lowercase();
    let part = |range: std::ops::Range<usize>| name.get(range).unwrap_or_default().to_owned();
    let folder = match name.len() {
        1 => "1".to_owned(),
        2 => "2".to_owned(),
        3 => format!("3/{}", part(0..1)),
        _ => format!("{}/{}", part(0..2), part(2..4)),
    };
    Path::new(&folder).join(&name)
}

/// A cached file of the index: versions and JSON objects, separated by zeros.
fn yanked_in(bytes: &[u8], version: &str) -> Option<bool> {
    bytes.split(|b| *b == 0).find_map(|piece| {
        let row: serde_json::Value = serde_json::from_slice(piece).ok()?;
        (row["vers"] == version).then(|| row["yanked"] == true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_met_by_a_choice_that_is_allowed() {
        let allowed = |l: &str| ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"].contains(&l);
        for met in [
            "MIT",
            "GPL-3.0 OR MIT",
            "GPL-3.0/MIT",
            "MIT AND Zlib",
            "(MIT OR Apache-2.0) AND Zlib",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
            "MIT WITH anything",
        ] {
            assert!(satisfied(met, &allowed), "{met}");
        }
        for not in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR Zlib) AND GPL-3.0",
            "Apache-2.0 WITH other",
            "MIT OR",
            "(MIT",
            "MIT)",
            "MIT Zlib",
            "AND",
        ] {
            assert!(!satisfied(not, &allowed), "{not}");
        }
    }

    fn crates(list: &[(&str, &str)]) -> Vec<Dependency> {
        let of = |(name, version): &(&str, &str)| Dependency {
            name: (*name).into(),
            version: (*version).into(),
            licence: "MIT".into(),
            repository: String::new(),
        };
        list.iter().map(of).collect()
    }

    #[test]
    fn only_duplicates_that_are_listed_pass() {
        let all = crates(&[
            ("a", "1.0.0"),
            ("a", "2.0.0"),
            ("b", "1.0.0"),
            ("b", "2.0.0"),
            ("c", "1.0.0"),
        ]);
        let skip = |list: &[&str]| -> Vec<Skip> {
            list.iter().map(|spec| Skip { spec: (*spec).into() }).collect()
        };
        assert_eq!(duplicates(&all, &skip(&["a@1.0.0", "b"])), Vec::<String>::new());
        let problems = duplicates(&all, &skip(&["a@0.9.0", "b@2.0.0"]));
        assert!(problems.len() == 1 && problems[0].starts_with("a: versions 1.0.0, 2.0.0"));
    }

    #[test]
    fn a_licence_that_is_not_allowed_is_named_with_its_crate() {
        let problems = licences(&crates(&[("a", "1.0.0")]), &["ISC".into()]);
        assert!(problems[0].contains("a 1.0.0") && problems[0].contains("`MIT`"), "{problems:?}");
    }

    #[test]
    fn yanked_versions_are_read_from_cargos_index() {
        let file = b"\x03\x02\0\0\0etag: x\x000.1.0\0{\"vers\":\"0.1.0\",\"yanked\":true}\x00\
                     0.2.0\0{\"vers\":\"0.2.0\",\"yanked\":false}\0";
        assert_eq!(yanked_in(file, "0.1.0"), Some(true));
        assert_eq!(yanked_in(file, "0.2.0"), Some(false));
        assert_eq!(yanked_in(file, "0.3.0"), None);
        let places = ["a", "ab", "Abc", "burn-flex"].map(place);
        assert_eq!(places, ["1/a", "2/ab", "3/a/abc", "bu/rn/burn-flex"].map(PathBuf::from));
    }
}
