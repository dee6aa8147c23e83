//! Training of reward models: Bradley–Terry models on one objective's pairs, or classifiers of
//! texts of two kinds, with early stopping. The output is a Hugging Face model directory that
//! [`mopo_eval::reward`] and transformers load.

mod adapter;
mod check;
mod config;
mod data;
mod examples;
mod method;
mod run;
mod save;

pub use config::{
    DecoderModel, DistilbertShape, Gpt2Shape, InputConfig, PairData, REWARD_PRESETS, RewardData,
    RewardModel, RewardTrainConfig, TextData, Ties, TrainingConfig, reward_preset_text,
};
pub use run::{MeasuredAccuracy, RewardResult, create_reward_run, open_reward_run, train_reward};
