//! Training: the run configuration, the training loop with its checkpoints, SFT and the methods.
//!
//! In order: [`RunConfig`], [`RunDir::create`], [`train`](fn@train), then `policy/` and
//! `result.json`.
#![doc = include_str!("../README.md")]

mod answers;
mod batches;
#[doc(hidden)]
pub mod bench;
mod cache;
mod checkpoint;
pub mod communicator;
mod conditioned;
pub mod config;
mod error;
pub mod evaluate;
mod export;
mod fit;
mod heldout;
mod identity;
mod log_probs;
mod methods;
mod metrics_file;
mod mixture;
mod models;
mod optim;
mod pair_sample;
mod pairs;
mod pairwise;
mod prepare;
mod result;
pub mod reward_model;
mod rollouts;
mod run_dir;
mod runs;
mod sample;
mod sft;
mod single;
mod token_store;
mod tokens;
mod train;

pub use answers::{PromptJob, prompt_job};
pub use cache::LogProbCache;
pub use config::RunConfig;
pub use error::{Error, Result};
pub use export::{ExportChoice, ExportSource, check_export_place, check_gguf_place};
pub use heldout::{HeldoutEstimate, Verdict};
pub use identity::model_sha256;
pub use mopo_hub::{Progress, Silent, Unit};
pub use pairs::Pairs;
pub use prepare::{prepare_prompts, prepare_records, prepare_staged};
pub use result::{Accuracy, Best, Constraint, RunResult, RunTokens};
pub use run_dir::{DirLock, RunDir, RunRecord, Stopped};
pub use sample::{
    Accepted, LikelyToken, Prompt, Question, Reply, Sampler, SamplingOverrides, Session,
    StopScanner, TextEvent, TokenText,
};
pub use token_store::TokenStore;
pub use tokens::{generation, load_run_tokenizer, load_tokenizer};
pub(crate) use train::OtherPolicy;
pub use train::{RunData, TrainPrompt, check_data_path, load_base, train};
