//! `cargo xtask licences`: THIRD_PARTY.md, the notice of what the program contains of others. `cargo xtask tidy`
//! compares it with the dependencies.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::cargo::root;
use crate::dependencies::{Dependency, cargo_home, dependencies};
use crate::files::write_whole;

/// The notice.
pub(crate) const NOTICE: &str = "THIRD_PARTY.md";

/// The crate with the fonts, and the file of their licence in it.
const FONTS: (&str, &str) = ("dejavu", "assets/dejavu-fonts-ttf-2.37/LICENSE");

/// `cargo xtask licences [--texts FILE]`.
pub(crate) fn run(texts: Option<&Path>) -> Result<ExitCode> {
    let all = shipped()?;
    write_whole(&root().join(NOTICE), &notice(&all)?)?;
    println!("wrote {NOTICE}: {} crates", all.len());
    if let Some(path) = texts {
        write_whole(path, &all_texts(&all)?)?;
        println!("wrote {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Why the notice in the repository is not the one of today's dependencies.
pub(crate) fn stale(root: &Path) -> Result<Option<String>> {
    let kept = fs::read_to_string(root.join(NOTICE)).unwrap_or_default();
    let today = notice(&shipped()?)?;
    Ok((kept != today)
        .then(|| format!("{NOTICE}: dependencies changed; run `cargo xtask licences`")))
}

/// Crates that end up in the program: neither macros, nor what only builds or tests need.
fn shipped() -> Result<Vec<Dependency>> {
    dependencies(&["--package", "mopo-cli", "--edges", "normal,no-proc-macro"])
}

fn notice(all: &[Dependency]) -> Result<String> {
    let (name, file) = FONTS;
    let fonts = all.iter().find(|d| d.name == name);
    let fonts = fonts.with_context(|| format!("no crate `{name}`: where are the fonts from?"))?;
    let fonts = fs::read_to_string(folder(fonts)?.join(file)).context(file)?;
    let mut out = String::from(
        "# What the program contains of others\n\n\
         Written by `cargo xtask licences` from the dependencies of `mopo` with its default features on Linux; \
         `cargo xtask licences --texts FILE` collects the texts of all these licences, which belong beside a \
         program that is passed on. Which licences may be used at all is in [deny.toml](deny.toml).\n\n\
         | crate | version | licence |\n|---|---|---|\n",
    );
    for d in all {
        let name = match d.repository.is_empty() {
            true => d.name.clone(),
            false => format!("[{}]({})", d.name, d.repository),
        };
        let _ = writeln!(out, "| {name} | {} | {} |", d.version, d.licence);
    }
    let fonts: Vec<&str> = fonts.lines().map(str::trim_end).collect();
    let _ = write!(
        out,
        "\n## Fonts\n\nFigures are drawn with DejaVu, which is in the program and, as outlines or pixels, in \
         figures. Its licence:\n\n```text\n{}\n```\n",
        fonts.join("\n").trim_end()
    );
    Ok(out)
}

/// The texts of all licences, each once, with the crates that come under it.
fn all_texts(all: &[Dependency]) -> Result<String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for d in all {
        let folder = folder(d)?;
        let mut files: Vec<PathBuf> = fs::read_dir(&folder)
            .with_context(|| folder.display().to_string())?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file() && is_licence(path))
            .collect();
        files.sort();
        let crate_ = format!("{} {} ({})", d.name, d.version, d.licence);
        if files.is_empty() {
            texts
                .entry("(its package has no file with the text)".into())
                .or_default()
                .push(crate_.clone());
        }
        for file in files {
            let text = fs::read(&file).with_context(|| file.display().to_string())?;
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            texts.entry(text).or_default().push(crate_.clone());
        }
    }
    let mut out = String::new();
    for (text, crates) in texts {
        let _ = write!(out, "{}\n\n{text}\n\n{}\n\n", crates.join(", "), "=".repeat(78));
    }
    Ok(out)
}

fn is_licence(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
    ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"]
        .iter()
        .any(|beginning| name.starts_with(beginning))
}

/// Where cargo unpacked a crate.
fn folder(d: &Dependency) -> Result<PathBuf> {
    let sources = cargo_home()?.join("registry/src");
    let name = format!("{}-{}", d.name, d.version);
    let found = fs::read_dir(&sources)
        .with_context(|| sources.display().to_string())?
        .flatten()
        .map(|registry| registry.path().join(&name))
        .find(|folder| folder.is_dir());
    ensure!(found.is_some(), "{} has no {name}: run `cargo fetch`", sources.display());
    Ok(found.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notice_has_every_crate_and_the_licence_of_the_fonts() {
        let all = shipped().unwrap();
        let notice = notice(&all).unwrap();
        for d in &all {
            assert!(notice.contains(&format!("| {} |", d.version)), "{} {}", d.name, d.version);
            assert!(!d.name.starts_with("mopo"), "{}", d.name);
        }
        assert!(notice.contains("| Apache-2.0 |") && notice.contains("Bitstream Vera"));
    }
}
