//! What two runs must have in common: every byte of every file, except what a clock or a random number of burn put there.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// Keys of JSON files that depend on when or how fast something ran, and why. This is the only list of exceptions, with
/// [`RANDOM_IDS`].
const CLOCKS: &[(&str, &str)] = &[
    ("started", "the time at which a run was started"),
    ("seconds", "how long something took"),
    ("tokens_per_second", "how fast a step was"),
    ("texts_per_second", "how fast texts were scored"),
    ("metrics_len", "the length of metrics.jsonl, which has the digits of tokens_per_second"),
    ("checkpoints", "hashes of checkpoints, which have burn's random ids"),
    ("sha256", "the same in a checkpoint's state.json, and the hash of run.json in itself"),
    ("result.json", "the hash of the result, which has `seconds`"),
];
/// Files of checkpoints with burn's parameter ids, 13 letters and digits after their number, drawn anew in each
/// process. In `optimizer.bin` the records are in the order of these ids as well, so only its length is compared; a
/// resumed run that ends with the same weights has read it.
const RANDOM_IDS: &str = ".bin";
const IN_RANDOM_ORDER: &str = "optimizer.bin";

/// The files below a directory, each with a hash of what is compared of it.
pub(super) type Tree = BTreeMap<String, u64>;

/// Reads a directory.
pub(super) fn tree(dir: &Path) -> Result<Tree> {
    tree_of(dir, dir)
}

/// The same of a copy of what was written in `place`.
pub(super) fn tree_of(dir: &Path, place: &Path) -> Result<Tree> {
    let mut all = Tree::new();
    walk(dir, "", &mut |name, path| {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        all.insert(name.into(), hash(&compared(name, without_place(bytes, place))));
        Ok(())
    })?;
    Ok(all)
}

/// A text without the directory that it was written in, which a run records.
pub(super) fn without_place(bytes: Vec<u8>, dir: &Path) -> Vec<u8> {
    match std::str::from_utf8(&bytes) {
        Ok(text) => text.replace(&dir.display().to_string(), "…").into(),
        Err(_) => bytes,
    }
}

/// Calls `f` with the name and the path of every file below a directory.
pub(super) fn walk(
    dir: &Path,
    before: &str,
    f: &mut dyn FnMut(&str, &Path) -> Result<()>,
) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .with_context(|| format!("reading {}", dir.display()))?
        .collect::<std::io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{before}{}", entry.file_name().to_string_lossy());
        match entry.file_type()?.is_dir() {
            true => walk(&entry.path(), &format!("{name}/"), f)?,
            false => f(&name, &entry.path())?,
        }
    }
    Ok(())
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// The bytes of a file without what [`CLOCKS`] and [`RANDOM_IDS`] are about.
pub(super) fn compared(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    let end = |end: &str| name.ends_with(end);
    if end(IN_RANDOM_ORDER) {
        return bytes.len().to_le_bytes().into();
    }
    if end(RANDOM_IDS) {
        return without_ids(bytes);
    }
    match std::str::from_utf8(&bytes) {
        // A file of one object.
        Ok(text) if end(".json") => without_clocks(text).unwrap_or(bytes),
        Ok(text) if end(".jsonl") => {
            let lines = text.split_inclusive('\n');
            lines.flat_map(|line| without_clocks(line).unwrap_or(line.into())).collect()
        }
        // The run's record on a page.
        Ok(text) if end(".html") => {
            let clock = |line: &&str| {
                CLOCKS.iter().any(|(key, _)| line.contains(&format!("&quot;{key}&quot;")))
            };
            let checkpoint =
                |line: &&str| line.contains("-step-0") && line.contains("&quot;: &quot;");
            text.split_inclusive('\n')
                .filter(|l| !clock(l) && !checkpoint(l))
                .collect::<String>()
                .into()
        }
        _ => bytes,
    }
}

fn without_clocks(text: &str) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_str(text).ok()?;
    forget_clocks(&mut value);
    Some(value.to_string().into())
}

fn forget_clocks(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !CLOCKS.iter().any(|(clock, _)| clock == key));
            map.values_mut().for_each(forget_clocks);
        }
        Value::Array(list) => list.iter_mut().for_each(forget_clocks),
        _ => {}
    }
}

fn without_ids(mut bytes: Vec<u8>) -> Vec<u8> {
    const LENGTH: usize = 13;
    let mut at = 0;
    while at + LENGTH < bytes.len() {
        let id = at + 1..at + 1 + LENGTH;
        let is_id = bytes[at] == LENGTH as u8
            && bytes[id.clone()].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'v'));
        if is_id {
            bytes[id].fill(b'.');
            at += LENGTH;
        }
        at += 1;
    }
    bytes
}

/// In words, the first difference of what was found from what is expected, and how many there are. `may` says which
/// further files may be there or differ.
pub(super) fn difference(
    expected: &Tree,
    found: &Tree,
    may: impl Fn(&str) -> bool,
) -> Option<String> {
    let missing = expected.keys().filter(|name| !found.contains_key(*name));
    let missing = missing.map(|name| format!("{name} is missing"));
    let other = found.iter().filter_map(|(name, hash)| match expected.get(name) {
        None => Some((name, format!("{name} is left over"))),
        Some(known) if known != hash => Some((name, format!("{name} differs"))),
        Some(_) => None,
    });
    let other = other.filter(|(name, _)| !may(name)).map(|(_, what)| what);
    let all: Vec<String> = missing.chain(other).collect();
    match &all[..] {
        [] => None,
        [one] => Some(one.clone()),
        [first, rest @ ..] => Some(format!(
            "{first}, and {} more: {}",
            rest.len(),
            rest[..rest.len().min(5)].join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(name: &str, a: &str, b: &str) -> bool {
        compared(name, a.into()) == compared(name, b.into())
    }

    #[test]
    fn only_clocks_are_forgotten() {
        let line = |seconds: f64, loss: f64| {
            format!(
                "{{\"a\":[{{\"seconds\":{seconds},\"loss\":{loss}}}],\"tokens_per_second\":{seconds}}}\n"
            )
        };
        for name in ["result.json", "metrics.jsonl"] {
            assert!(same(name, &line(1.5, 2.0), &line(9.25, 2.0)), "{name}");
            assert!(!same(name, &line(1.5, 2.0), &line(1.5, 2.1)), "{name}");
        }
        // A line more or less is a difference, as is a line that is cut.
        assert!(!same("metrics.jsonl", &line(1.0, 2.0), &line(1.0, 2.0).repeat(2)));
        assert!(!same("metrics.jsonl", &line(1.0, 2.0), &line(1.0, 2.0)[..20]));
        let page = |started: u64, loss: u64| {
            format!("<p>{loss}</p>\n  &quot;started&quot;: {started},\n<p>\n")
        };
        assert!(same("index.html", &page(1, 3), &page(2, 3)));
        assert!(!same("index.html", &page(1, 3), &page(1, 4)));
        assert!(!same("config.toml", "seconds = 1", "seconds = 2"));
    }

    #[test]
    fn random_ids_are_forgotten_and_weights_are_not() {
        let file = |id: &str, weight: u8| [b"ab\x0d", id.as_bytes(), &[weight, 1, 2, 3]].concat();
        let [a, b] = ["eiqk23n1ve7b0", "4rhqlq0bk9638"];
        assert_eq!(compared("c/policy.bin", file(a, 5)), compared("c/policy.bin", file(b, 5)));
        assert_ne!(compared("c/policy.bin", file(a, 5)), compared("c/policy.bin", file(a, 6)));
        assert_ne!(
            compared("c/policy.safetensors", file(a, 5)),
            compared("c/policy.safetensors", file(b, 5))
        );
    }

    #[test]
    fn differences_are_named() {
        let of = |files: &[(&str, u64)]| {
            files.iter().map(|(n, h)| (n.to_string(), *h)).collect::<Tree>()
        };
        let expected = of(&[("a", 1), ("b", 2)]);
        assert_eq!(difference(&expected, &expected.clone(), |_| false), None);
        for (found, word) in [
            (of(&[("a", 1)]), "b is missing"),
            (of(&[("a", 1), ("b", 3)]), "b differs"),
            (of(&[("a", 1), ("b", 2), ("c", 3)]), "c is left over"),
            (of(&[("c", 3)]), "a is missing, and 2 more"),
        ] {
            let why = difference(&expected, &found, |_| false).unwrap();
            assert!(why.contains(word), "{why}");
        }
        assert_eq!(difference(&expected, &of(&[("a", 1), ("b", 9), ("c", 3)]), |n| n > "a"), None);
    }
}
