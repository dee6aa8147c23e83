//! A run that is small enough for a debug build, and the binary to run it with.

use std::path::Path;
use std::process::{Command, Output};

/// Overrides that make the demo tiny.
pub(crate) const TINY: &[&str] = &[
    "data.n_prompts=40",
    "data.heldout_fraction=0.3",
    "tokenizer.vocab_size=300",
    "model.scratch.hidden_size=32",
    "model.scratch.intermediate_size=64",
    "model.scratch.num_hidden_layers=1",
    "model.scratch.num_attention_heads=2",
    "sft.steps=6",
    "sft.batch_size=4",
    "training.steps=40",
    "training.batch_size=4",
    "mopo.reference_lag=4",
    "mopo.thresholds=adaptive",
    "checkpoints.save_steps=3",
    "evaluation.n_prompts=6",
    "evaluation.n_clusters=2",
    "evaluation.max_new_tokens=8",
    "evaluation.mixture_steps=2",
];

/// `mopo` with these arguments.
pub(crate) fn mopo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mopo"));
    command.args(args);
    command
}

/// `mopo train demo --out DIR`, tiny.
pub(crate) fn tiny(out: &Path) -> Command {
    let mut command = mopo(&["train", "demo", "--out"]);
    command.arg(out);
    for set in TINY {
        command.args(["--set", set]);
    }
    command
}

/// Standard error as text.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs it and expects success.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs it, expects an ordinary failure, and returns its error output.
pub(crate) fn fail(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{command:?}\n{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(said.contains("error:"), "{said}");
    said
}
