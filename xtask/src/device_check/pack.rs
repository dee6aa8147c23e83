//! What a check needs, built here, to be carried to a machine without compilers and without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_metadata::Message;

use crate::cargo::{cargo, root, status};
use crate::machine::date_and_commit;

/// The archive may have this size, so that it can be carried with a working tree.
const MAX_BYTES: u64 = 64 << 20;

/// The packages whose tests run on a device.
const TESTED: [&str; 2] = ["mopo-ops", "mopo-lm"];
const PEERS: [&str; 3] = ["inputs.py", "generate.py", "dpo.py"];

/// The feature that a device needs; the CPU's needs none.
fn features(device: &str) -> Vec<String> {
    let kind = device.split(':').next().unwrap_or(device);
    match kind {
        "flex" => vec![],
        kind => ["mopo-cli", "mopo-testkit", "mopo-ops"].map(|c| format!("{c}/{kind}")).into(),
    }
}

/// Builds into a folder: `mopo`, `xtask`, `tests/` and `peers/`, stripped.
pub(super) fn build(device: &str, dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    for folder in ["tests", "peers"] {
        let place = dir.join(folder);
        fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
    }
    // Both at once: another set of packages would have other features.
    let packages = ["mopo-cli", "xtask"].into_iter().chain(TESTED).flat_map(|name| ["-p", name]);
    let packages: Vec<&str> = packages.collect();
    let features = features(device).join(",");
    let artifacts = |command: &str, more: &[&str]| -> Result<Vec<(String, bool, PathBuf)>> {
        let mut build = cargo(&[command, "--release", "--locked"]);
        build.args(&packages).args(more);
        if !features.is_empty() {
            build.args(["--features", &features]);
        }
        build.args(["--message-format", "json-render-diagnostics"]).current_dir(root());
        let out = build.stderr(Stdio::inherit()).output().context("starting cargo")?;
        ensure!(out.status.success(), "cargo {command} failed: its output is above");
        let mut all = vec![];
        for message in Message::parse_stream(out.stdout.as_slice()) {
            if let Message::CompilerArtifact(artifact) = message?
                && let Some(path) = artifact.executable
            {
                all.push((artifact.target.name.clone(), artifact.profile.test, path.into()));
            }
        }
        Ok(all)
    };
    eprintln!("building the program for {device}");
    for (name, _, path) in artifacts("build", &["--bins"])? {
        if ["mopo", "xtask"].contains(&name.as_str()) {
            copy_stripped(&path, &dir.join(name))?;
        }
    }
    eprintln!("building the tests for {device}");
    for (name, is_test, path) in artifacts("test", &["--lib", "--no-run"])? {
        if is_test && TESTED.iter().any(|tested| tested.replace('-', "_") == name) {
            copy_stripped(&path, &dir.join("tests").join(name))?;
        }
    }
    for peer in PEERS {
        let from = root().join("xtask/peers").join(peer);
        fs::copy(&from, dir.join("peers").join(peer))
            .with_context(|| from.display().to_string())?;
    }
    let place = dir.join(BUILT);
    fs::write(&place, date_and_commit()).with_context(|| place.display().to_string())
}

/// The file with the date and the commit of a folder.
const BUILT: &str = "built.txt";

/// When a folder was built, and from which commit.
pub(super) fn built(dir: &Path) -> Option<String> {
    Some(fs::read_to_string(dir.join(BUILT)).ok()?.trim().to_string())
}

fn copy_stripped(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    // Without the program `strip` it is larger, no more.
    let _ = Command::new("strip").arg(to).status();
    Ok(())
}

/// Packs the folder beside itself, and returns the archive.
pub(super) fn archive(dir: &Path) -> Result<PathBuf> {
    let archive = dir.with_extension("tar.xz");
    let (parent, name) = (dir.parent().context("a folder in another")?, dir.file_name());
    let name = name.context("a folder with a name")?;
    let mut tar = Command::new("tar");
    tar.env("XZ_OPT", "-6 -T0").arg("-cJf").arg(&archive).arg("-C").arg(parent).arg(name);
    ensure!(status(&mut tar)?.success(), "packing {} with tar and xz failed", dir.display());
    let bytes = fs::metadata(&archive)?.len();
    ensure!(
        bytes <= MAX_BYTES,
        "{} has {} MiB, more than the {} that can be carried",
        archive.display(),
        bytes >> 20,
        MAX_BYTES >> 20
    );
    println!("{}: {:.1} MiB", archive.display(), bytes as f64 / (1 << 20) as f64);
    Ok(archive)
}
