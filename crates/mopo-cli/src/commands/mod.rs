//! One file per command.

pub(crate) mod bandit;
pub(crate) mod bench;
pub(crate) mod config;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod label;
pub(crate) mod models;
pub(crate) mod pareto;
pub(crate) mod prepare;
pub(crate) mod report;
pub(crate) mod reward;
pub(crate) mod score;
pub(crate) mod train;

use std::path::Path;

use anyhow::{Result, bail};

/// Refuses an output that is one of the inputs, which it would replace.
pub(crate) fn check_out<'a>(out: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let Ok(out_file) = out.canonicalize() else { return Ok(()) };
    for input in inputs {
        if input.canonicalize().is_ok_and(|file| file == out_file && file.is_file()) {
            bail!(
                "--out {} is also an input ({}); choose another file",
                out.display(),
                input.display()
            );
        }
    }
    Ok(())
}
