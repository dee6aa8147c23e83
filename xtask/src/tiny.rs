//! The demo at its smallest, for runs of seconds.

/// Its data and its model, as overrides.
pub(crate) const WORLD: [&str; 7] = [
    "data.n_prompts=40",
    "data.heldout_fraction=0.3",
    "tokenizer.vocab_size=300",
    "model.scratch.hidden_size=32",
    "model.scratch.intermediate_size=64",
    "model.scratch.num_hidden_layers=1",
    "model.scratch.num_attention_heads=2",
];
