//! Scores of a reward that neither labelled the pairs nor was trained here, by policy.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::files::write_whole;

/// The answers of a finished run's policies as `mopo score` reads them.
pub(super) fn write_texts(samples: &Path, texts: &Path) -> Result<()> {
    let mut lines = String::new();
    for sample in read(samples)? {
        let text = json!({
            "prompt": sample["prompt"],
            "response": sample["response"],
            "policy": sample["policy"],
        });
        lines += &format!("{text}\n");
    }
    write_whole(texts, &lines)
}

/// The mean score of each policy with its standard error, in the order of the file, as lines of a table.
pub(super) fn table(scored: &Path, reward: &str) -> Result<String> {
    let mut order: Vec<String> = vec![];
    let mut scores: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for text in read(scored)? {
        let found = text["policy"].as_str().zip(text["scores"][reward].as_f64());
        let (policy, score) = found
            .with_context(|| format!("{} is not what `mopo score` writes", scored.display()))?;
        if !scores.contains_key(policy) {
            order.push(policy.into());
        }
        scores.entry(policy.into()).or_default().push(score);
    }
    ensure!(!order.is_empty(), "{} has no texts", scored.display());
    let mut table = format!("| policy | {reward} | n |\n|---|--:|--:|\n");
    for policy in order {
        let scores = &scores[&policy];
        let n = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / n;
        let square = scores.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        let error = (square / (n - 1.0).max(1.0) / n).sqrt();
        let policy = shown(&policy);
        table += &format!("| {policy} | {mean:.3} ± {error:.3} | {n} |\n");
    }
    Ok(table)
}

/// A policy of samples.jsonl as a page calls it.
fn shown(policy: &str) -> &str {
    match policy {
        "warm-start" => "SFT model",
        policy => policy.strip_prefix("head-").unwrap_or(policy),
    }
}

fn read(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let line = |(i, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), i + 1))
    };
    text.lines().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_have_their_means() {
        let folder = std::env::temp_dir().join(format!("mopo-independent-{}", std::process::id()));
        let scored = folder.join("scored.jsonl");
        let line = |policy: &str, score: f64| {
            format!("{}\n", json!({"policy": policy, "scores": {"calm": score}}))
        };
        let lines = [line("head-b", 1.0), line("warm-start", 5.0), line("head-b", 3.0)];
        write_whole(&scored, &lines.concat()).unwrap();
        let table = table(&scored, "calm").unwrap();
        assert!(
            table.ends_with("| b | 2.000 ± 1.000 | 2 |\n| SFT model | 5.000 ± 0.000 | 1 |\n"),
            "{table}"
        );
        write_whole(&scored, "{}\n").unwrap();
        assert!(super::table(&scored, "calm").is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
