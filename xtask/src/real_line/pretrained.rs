//! The pipeline on a pretrained model: how much of the data each stage takes.

/// Overrides of the reward models' training, of the pairs that are labelled, and of the run.
pub(super) struct Budget {
    pub(super) reward: &'static [&'static str],
    pub(super) pairs: &'static [&'static str],
    pub(super) run: &'static [&'static str],
}

/// Less than two hours on two cores with a model of 135M parameters.
pub(super) const WHOLE: Budget = Budget {
    reward: &[
        "data.pairs.max_pairs=1500",
        "data.validation_fraction=0.05",
        "input.max_length=192",
        "training.steps=100",
    ],
    pairs: &["data.max_pairs=1200"],
    run: &[],
};

/// Less than twenty minutes, to look at it: with so few pairs nothing is learnt.
pub(super) const QUICK: Budget = Budget {
    reward: &[
        "data.pairs.max_pairs=240",
        "data.validation_fraction=0.1",
        "input.max_length=160",
        "training.steps=12",
        "training.eval_steps=6",
        "training.warmup_steps=2",
    ],
    pairs: &["data.max_pairs=100"],
    run: &[
        "sft.steps=8",
        "sft.warmup_steps=1",
        "training.steps=12",
        "training.warmup_steps=1",
        "mopo.reference_lag=6",
        "checkpoints.save_steps=4",
        "evaluation.n_prompts=16",
        "evaluation.n_clusters=2",
        "evaluation.max_new_tokens=32",
        "evaluation.mixture_steps=2",
    ],
};

/// To see whether the stages work.
pub(super) const SMOKE: Budget = Budget {
    reward: &[
        "data.pairs.max_pairs=24",
        "data.validation_fraction=0.2",
        "input.max_length=48",
        "training.batch_size=2",
        "training.steps=2",
        "training.eval_steps=2",
        "training.warmup_steps=1",
    ],
    pairs: &["data.max_pairs=24"],
    run: &[
        "data.max_prompt_tokens=48",
        "data.max_response_tokens=16",
        "sft.steps=2",
        "sft.batch_size=2",
        "sft.warmup_steps=1",
        "training.steps=2",
        "training.batch_size=2",
        "training.warmup_steps=1",
        "checkpoints.save_steps=1",
        "evaluation.n_prompts=3",
        "evaluation.n_clusters=1",
        "evaluation.max_new_tokens=4",
        "evaluation.mixture_steps=2",
    ],
};
