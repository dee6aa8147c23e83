//! The readers, and how the program calls them.

mod config;
mod http;
mod model;
mod rows;
mod saved;
mod self_test;
mod tensors;
mod text;
mod tokenizer;

use crate::{Form, Seeds, Start, Target};

/// Bytes of files below `crates/`.
macro_rules! files {
    ($($path:literal),* $(,)?) => {
        vec![$(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../", $path)).to_vec()),*]
    };
}
pub(crate) use files;

/// Makes targets of one form, with the same words: from name, what is read, seeds, start and rate.
fn alike(
    form: Form,
    words: &'static [&'static str],
) -> impl Fn(&'static str, &'static str, Seeds, Start, f64) -> Target {
    move |name, reads, seeds, start, rate| Target { name, reads, form, words, seeds, start, rate }
}

/// All of them.
pub fn targets() -> Vec<Target> {
    let parts = [
        rows::targets(),
        text::targets(),
        config::targets(),
        tensors::targets(),
        model::targets(),
        tokenizer::targets(),
        saved::targets(),
        http::targets(),
        self_test::targets(),
    ];
    parts.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outcome, Place};

    #[test]
    fn every_target_reads_its_seeds() {
        let mut names = std::collections::BTreeSet::new();
        let mut refused = vec![];
        for target in targets() {
            assert!(names.insert(target.name), "two targets are called {}", target.name);
            assert!(target.rate > 0.0 && !target.reads.is_empty());
            let place = Place::new().unwrap();
            let mut run = (target.start)(&place);
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} has no seeds", target.name);
            for (i, seed) in seeds.iter().enumerate() {
                let outcome = run(seed);
                if outcome != Outcome::Accepted {
                    refused.push(format!("seed {i} of {}: {outcome:?}", target.name));
                }
            }
        }
        assert!(refused.is_empty(), "{}", refused.join("\n"));
    }
}
