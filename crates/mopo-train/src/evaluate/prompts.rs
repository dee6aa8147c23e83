//! The prompts of an evaluation.

use std::collections::HashSet;
use std::path::Path;

use mopo_data::{PreparedSet, file_sha256, read_prompts};
use rand::SeedableRng;
use serde_json::{Value, json};

use crate::{Progress, Result, RunDir};

/// Prompts from a file, and their part of the run's record.
#[derive(Debug)]
pub(super) struct GivenPrompts {
    pub(super) prompts: Vec<String>,
    pub(super) record: Value,
}

impl GivenPrompts {
    pub(super) fn read(path: &Path, run: &RunDir, progress: &mut dyn Progress) -> Result<Self> {
        let prompts: Vec<String> = read_prompts(path)?.into_iter().map(|p| p.prompt).collect();
        let trained: HashSet<String> = PreparedSet::read(run.join("data/train.jsonl"))?
            .records
            .into_iter()
            .map(|r| r.prompt)
            .collect();
        let seen = prompts.iter().filter(|prompt| trained.contains(*prompt)).count();
        if seen > 0 {
            progress.note(&format!(
                "note: {seen} of the {} prompts of {} are in the run's training data; results on \
                 them are less meaningful",
                prompts.len(),
                path.display()
            ));
        }
        let record = json!({
            "file": path.file_name().unwrap_or_default().to_string_lossy(),
            "sha256": file_sha256(path)?,
            "prompts": prompts.len(),
            "trained_on": seen,
        });
        Ok(Self { prompts, record })
    }
}

/// A seeded sample of the prompts, in their order.
pub(super) fn draw(prompts: Vec<String>, n: usize, seed: u64) -> Vec<String> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let n = n.min(prompts.len());
    let mut picked = rand::seq::index::sample(&mut rng, prompts.len(), n).into_vec();
    picked.sort_unstable();
    picked.into_iter().map(|i| prompts[i].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_sampled_by_seed_in_order() {
        let prompts: Vec<String> = (0..50).map(|i| format!("{i:02}")).collect();
        let a = draw(prompts.clone(), 7, 3);
        assert_eq!(a, draw(prompts.clone(), 7, 3));
        assert_ne!(a, draw(prompts.clone(), 7, 4));
        assert!(a.is_sorted());
        assert_eq!(draw(prompts.clone(), 99, 0), prompts);
    }
}
