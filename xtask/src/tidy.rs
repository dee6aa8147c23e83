//! Layout rules that no compiler checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cargo::root;

/// Lines beyond which a file is no longer read in one sitting.
const MAX_LINES: usize = 600;

/// Who may depend on whom, as docs/architecture.md draws it. Development dependencies are free.
const EDGES: &[(&str, &[&str])] = &[
    ("mopo-pareto", &[]),
    ("mopo-core", &["mopo-pareto"]),
    ("mopo-hub", &[]),
    ("mopo-data", &["mopo-core", "mopo-hub"]),
    ("mopo-ops", &["mopo-hub"]),
    ("mopo-lm", &["mopo-core", "mopo-hub", "mopo-ops"]),
    ("mopo-report", &["mopo-hub", "mopo-pareto"]),
    ("mopo-eval", &["mopo-core", "mopo-data", "mopo-hub", "mopo-lm", "mopo-ops", "mopo-report"]),
    (
        "mopo-train",
        &["mopo-core", "mopo-data", "mopo-eval", "mopo-hub", "mopo-lm", "mopo-ops", "mopo-report"],
    ),
    (
        "mopo-serve",
        &[
            "mopo-core",
            "mopo-data",
            "mopo-eval",
            "mopo-hub",
            "mopo-lm",
            "mopo-ops",
            "mopo-report",
            "mopo-train",
        ],
    ),
    (
        "mopo-cli",
        &[
            "mopo-core",
            "mopo-data",
            "mopo-eval",
            "mopo-hub",
            "mopo-lm",
            "mopo-ops",
            "mopo-report",
            "mopo-serve",
            "mopo-train",
        ],
    ),
    ("mopo-testkit", &["mopo-ops"]),
    (
        "mopo-fuzz",
        &[
            "mopo-core",
            "mopo-data",
            "mopo-eval",
            "mopo-hub",
            "mopo-lm",
            "mopo-report",
            "mopo-serve",
            "mopo-testkit",
            "mopo-train",
            "xtask",
        ],
    ),
    ("xtask", &["mopo-hub"]),
];

/// Files that may name a burn backend.
const NAMES_BACKENDS: &[&str] =
    &["crates/mopo-cli/src/device.rs", "crates/mopo-testkit/src/lib.rs", "crates/mopo-ops/"];

pub(crate) fn run() -> Result<ExitCode> {
    let problems = problems(&root())?;
    for problem in &problems {
        eprintln!("{problem}");
    }
    if problems.is_empty() {
        println!("tidy: no problems");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

/// Everything that breaks a rule.
pub(crate) fn problems(root: &Path) -> Result<Vec<String>> {
    let mut problems = edges()?;
    let mut all = String::new();
    for path in sources(root)? {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        all += &text;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let lines = text.lines().count();
        if lines > MAX_LINES {
            problems.push(format!("{name}: {lines} lines; split it (limit {MAX_LINES})"));
        }
        if !text.starts_with("//!") {
            problems.push(format!("{name}: begin with `//!`: what the file is for"));
        }
        let exempt = name.starts_with("xtask/")
            || NAMES_BACKENDS.iter().any(|place| name.starts_with(place));
        for backend in [
            "backend::Flex",
            "backend::NdArray",
            "backend::Cuda",
            "backend::Wgpu",
            "backend::wgpu",
            "burn_flex::",
        ] {
            if !exempt && text.contains(backend) {
                problems.push(format!(
                    "{name}: names `{backend}`; only {} may",
                    NAMES_BACKENDS.join(" and ")
                ));
            }
        }
    }
    let page = root.join("docs/math.md");
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    for test in tests_named(&text) {
        if !all.contains(&format!("fn {test}(")) {
            problems.push(format!("docs/math.md: there is no test `{test}`"));
        }
    }
    problems.extend(results(root)?);
    let page = root.join("docs/architecture.md");
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    problems.extend(missing_on_map(root, &text));
    problems.extend(crate::licences::stale(root)?);
    for package in crate::cargo::metadata()?.packages {
        let folder = package.manifest_path.parent().context("a manifest has a folder")?;
        if folder.file_name() != Some("xtask") && !folder.join("README.md").exists() {
            problems.push(format!("{}: it has no README.md", package.name));
        }
    }
    Ok(problems)
}

/// The tests that the page of formulas names: third column of its tables "formula | function | test".
fn tests_named(page: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if !line.starts_with('|') {
            inside = false;
        } else if line == "| formula | function | test |" {
            inside = true;
        } else if inside && let Some(tests) = line.trim_end_matches('|').rsplit('|').next() {
            // Between backticks: every second piece.
            names.extend(tests.split('`').skip(1).step_by(2));
        }
    }
    names
}

/// Pages of results that name no commit, or one that is not there.
fn results(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for entry in fs::read_dir(root.join("docs/results")).context("docs/results")? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "md") {
            continue;
        }
        let name = path.strip_prefix(root).unwrap_or(&path).display();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let commits = commits_named(&text);
        if commits.is_empty() {
            problems.push(format!("{name}: name the commit that was measured"));
        }
        for commit in commits {
            if commit.contains("-dirty") || crate::machine::has_commit(commit) == Some(false) {
                problems.push(format!("{name}: there is no commit {commit}"));
            }
        }
    }
    Ok(problems)
}

/// What follows the word `commit` and looks like one.
fn commits_named(page: &str) -> Vec<&str> {
    let words: Vec<&str> = page.split_whitespace().collect();
    let pairs = words.windows(2).filter(|pair| pair[0] == "commit");
    let commits = pairs.map(|pair| pair[1].trim_end_matches([',', '.', ';', ':', ')']));
    let is_hash = |commit: &&str| {
        let hash = commit.trim_end_matches("-dirty");
        hash.len() >= 7 && hash.bytes().all(|b| b.is_ascii_hexdigit())
    };
    commits.filter(is_hash).collect()
}

/// Crates that the drawing of that page lacks, and files of its code map that do not exist.
fn missing_on_map(root: &Path, page: &str) -> Vec<String> {
    let drawing = page.split("```").nth(1).unwrap_or_default();
    let crates = EDGES.iter().filter(|(name, _)| *name != "mopo-testkit");
    let not_drawn = crates.filter(|(name, _)| !drawing.contains(name));
    let mut problems: Vec<String> = not_drawn
        .map(|(name, _)| format!("docs/architecture.md: the drawing lacks {name}"))
        .collect();
    let mut sources = String::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cell = row.split('|').nth(1).unwrap_or_default();
        // Between backticks: every second piece.
        for name in cell.split('`').skip(1).step_by(2) {
            let place = match name.split_once('/') {
                Some((package, _)) if package.starts_with("mopo-") => {
                    sources = format!("crates/{package}/src/");
                    format!("crates/{name}")
                }
                Some(("…", below)) => format!("{sources}{below}"),
                Some(("xtask" | "datasets" | "deploy", _)) => name.to_string(),
                _ => format!("{sources}{name}"),
            };
            if !root.join(&place).exists() {
                problems.push(format!("docs/architecture.md: the code map names {place}"));
            }
        }
    }
    problems
}

/// Compares the workspace's dependencies with [`EDGES`].
fn edges() -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let metadata = crate::cargo::metadata()?;
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some((_, allowed)) = EDGES.iter().find(|(n, _)| *n == name) else {
            problems.push(format!("{name}: not in xtask/src/tidy.rs; say what it may depend on"));
            continue;
        };
        for dependency in &package.dependencies {
            let normal = dependency.kind == cargo_metadata::DependencyKind::Normal;
            let target = dependency.name.as_str();
            if normal && ours.contains(target) && !allowed.contains(&target) {
                problems.push(format!("{name} depends on {target}: an arrow that must not be"));
            }
        }
    }
    Ok(problems)
}

fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.join("crates"), root.join("xtask")];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_tests_are_read_from_tables_of_formulas_only() {
        let page = "| formula | function | test |\n|---|---|---|\n| a | `f` | `one`, `two` |\n\n\
                    | x | y |\n| `no` | `neither` |\n";
        assert_eq!(super::tests_named(page), ["one", "two"]);
    }

    #[test]
    fn commits_are_found_where_a_page_names_them() {
        let page =
            "2026-11-25, commit df81f52.\nRecorded in commit\n85e4a62-dirty, to commit changes";
        assert_eq!(super::commits_named(page), ["df81f52", "85e4a62-dirty"]);
    }

    #[test]
    fn what_the_code_map_names_must_exist() {
        let page = "```\nno crates\n```\n| where | what |\n| `mopo-lm/src/phi/`, `nothing.rs` | `x` |\n\
                    | `…/merge.rs`, `gone/` | y |\n| `xtask/src/` | z |\n";
        let problems = super::missing_on_map(&crate::cargo::root(), page);
        let (drawing, map): (Vec<_>, Vec<_>) = problems.iter().partition(|p| p.contains("drawing"));
        assert_eq!(drawing.len(), super::EDGES.len() - 1);
        let named = |name: &str| map.iter().any(|p| p.ends_with(name));
        assert_eq!(map.len(), 2, "{map:?}");
        assert!(named("crates/mopo-lm/src/nothing.rs") && named("crates/mopo-lm/src/gone/"));
    }

    #[test]
    fn the_workspace_keeps_its_own_rules() {
        let problems = super::problems(&crate::cargo::root()).unwrap();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}
