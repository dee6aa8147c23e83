//! Which files of a repository are needed, and which of them are missing.

use std::path::Path;

use crate::tensors::{WEIGHT_FILES, shard_names};
use crate::{Error, Result};

/// Files downloaded besides the weights, if they exist.
const BESIDE: [&str; 11] = [
    "config.json",
    // How a reward model is used.
    "reward.toml",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];
/// In a directory of `mopo export --all`: the policies and their base.
const POLICIES: &str = "policy/policy.json";

/// The files of `all` to download, weights last, so that a directory with weights is complete. The
/// error says why there are none. Shards follow once their index has been read.
pub(super) fn wanted(all: &[String]) -> std::result::Result<Vec<String>, String> {
    let has = |name: &str| all.iter().any(|n| n == name);
    let mut files: Vec<String> =
        BESIDE.into_iter().filter(|name| has(name)).map(String::from).collect();
    if has(POLICIES) {
        let below = |dir| all.iter().filter(move |n| n.starts_with(dir) && is_inside(n)).cloned();
        files.extend(below("policy/").chain(below("base/")));
        // A stable sort.
        files.sort_by_key(|name| WEIGHT_FILES.iter().any(|weights| name.ends_with(weights)));
        return Ok(files);
    }
    let weights = WEIGHT_FILES.into_iter().find(|name| has(name));
    match (has("config.json"), weights) {
        (true, Some(weights)) => {
            files.push(weights.into());
            Ok(files)
        }
        (false, _) => Err("it has no config.json".into()),
        (true, None) => Err(format!("it has no weights: none of {}", WEIGHT_FILES.join(", "))),
    }
}

/// Whether the name stays inside the directory.
fn is_inside(name: &str) -> bool {
    name.split('/').all(|part| {
        let is_way = part.is_empty() || part == "." || part == "..";
        !is_way && part.len() <= 255 && !part.contains(|c: char| c.is_control() || c == '\\')
    })
}

/// Missing files without which the directory is not a model.
pub(super) fn missing(dir: &Path) -> Vec<String> {
    if dir.join(POLICIES).exists() {
        return missing(&dir.join("base")).into_iter().map(|name| format!("base/{name}")).collect();
    }
    let mut names = vec![];
    if !dir.join("config.json").exists() {
        names.push("config.json".to_string());
    }
    match WEIGHT_FILES.into_iter().find(|name| dir.join(name).exists()) {
        None => {
            let (first, others) = (WEIGHT_FILES[0], WEIGHT_FILES[1..].join(" or "));
            names.push(format!("{first} (or {others}, with the files that an index names)"));
        }
        Some(index) if index.ends_with(".json") => match shard_names(&dir.join(index)) {
            Ok(shards) => names.extend(shards.into_iter().filter(|name| !dir.join(name).exists())),
            Err(_) => names.push(index.into()),
        },
        Some(_) => {}
    }
    names
}

/// The shards named by the index in `dir`, if `weights` is an index; all must be in `all`.
///
/// # Errors
/// [`Error::MissingShard`]; an index that cannot be parsed.
pub(super) fn shards(dir: &Path, weights: &str, all: &[String]) -> Result<Vec<String>> {
    if !weights.ends_with(".index.json") {
        return Ok(vec![]);
    }
    let index = dir.join(weights);
    // Names in an index are relative to it.
    let parent = weights.rsplit_once('/').map_or(String::new(), |(parent, _)| format!("{parent}/"));
    let mut names = vec![];
    for shard in shard_names(&index)? {
        let name = format!("{parent}{shard}");
        if !all.contains(&name) {
            return Err(Error::MissingShard { index, shard, reason: "not in the repository" });
        }
        names.push(name);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted_of(all: &[&str]) -> std::result::Result<Vec<String>, String> {
        wanted(&all.iter().map(|name| name.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn one_form_of_weights_and_no_more_than_is_read() {
        let all = [
            "README.md",
            "model.safetensors",
            "pytorch_model.bin",
            "tf_model.h5",
            "vocab.json",
            "merges.txt",
            "config.json",
            "onnx/model.onnx",
            "optimizer.pt",
        ];
        assert_eq!(
            wanted_of(&all).unwrap(),
            ["config.json", "vocab.json", "merges.txt", "model.safetensors"]
        );
        assert_eq!(
            wanted_of(&["pytorch_model.bin", "config.json"]).unwrap(),
            ["config.json", "pytorch_model.bin"]
        );
        assert!(wanted_of(&["model.safetensors"]).unwrap_err().contains("config.json"));
        assert!(
            wanted_of(&["config.json", "model.onnx"]).unwrap_err().contains("model.safetensors")
        );
    }

    #[test]
    fn an_export_of_all_policies_is_downloaded_completely_and_weights_last() {
        let all = [
            "base/model.safetensors",
            "base/config.json",
            "policy/policy.json",
            "policy/heads.safetensors",
            "tokenizer.json",
            "base/../../x",
            "base//x",
            "base/./x",
            "base/",
            "policy/a\\..\\b",
            "policy/a\0b",
            "other/file",
        ];
        assert_eq!(
            wanted_of(&all).unwrap(),
            [
                "tokenizer.json",
                "policy/policy.json",
                "policy/heads.safetensors",
                "base/config.json",
                "base/model.safetensors"
            ]
        );
    }
}
