//! Everything about preference data that needs no tensors: records and the prepared-set format,
//! readers, splits, summaries, tokenizers, batching, and a generated demo world.
//!
//! The path of a pair: a reader ([`hh`], [`reddit`], [`demo`], …) makes [`PreferenceRecord`]s, a
//! [`PreparedSet`] stores them as JSON Lines, then [`split_by_prompt`], [`tokenize`] and
//! [`bucketed_batches`]. No tensors, no models and no network here.
#![doc = include_str!("../README.md")]

mod chat;
mod collate;
mod container;
pub mod demo;
mod error;
mod files;
mod grouping;
mod guarded;
mod hash;
pub mod helpsteer;
pub mod hh;
mod labelled;
mod prompts;
mod record;
pub mod reddit;
mod report;
mod row;
pub mod safe_rlhf;
mod scored;
mod select;
mod set;
mod source;
mod split;
mod stream;
mod summary;
pub mod summeval;
mod template;
mod tokenizer;
pub mod trl;
pub mod ultrafeedback;

pub use chat::{JinjaTemplate, Segment, TemplateValue};
pub use collate::{
    LengthLimits, PairTokens, TruncationReport, bucketed_batches, mixed_batches, tokenize,
};
pub use container::as_json;
pub use error::{Error, Result};
pub use files::PassedOver;
pub use grouping::{ResponseGroupMeans, response_group_means};
pub use guarded::guarded;
pub use hh::{read_hh, read_hh_dir};
pub use labelled::{LabelledRead, LabelledText, read_labelled};
pub use prompts::{Prompt, PromptRead, PromptWriter, StagedPrompts, read_prompts};
pub use record::{Indicator, PreferenceRecord, Scores, indicator_of_scores};
pub use report::{MalformedRow, ReadReport};
pub use scored::PairOptions;
pub use select::Selection;
pub use set::{
    FORMAT, Header, PreparedReader, PreparedSet, PreparedWriter, SCHEMA, SourceFile, StagedRecords,
    StagedSet,
};
pub use source::{ReadOptions, Sink, SourceRead, collect};
pub use split::{Split, split_by_prompt, unit_interval};
pub use stream::{Lines, MAX_ROW_BYTES};
pub use summary::{LengthStats, ObjectiveCounts, Summary, SummaryBuilder, n_words};
pub use template::{ChatTemplate, Message, cut_at_turn, note_messages, with_note};
pub use tokenizer::{END_OF_TEXT, PromptForm, Tokenizer, TokenizerSettings};

/// Files that are written whole or not at all.
pub use mopo_hub::{file_sha256, sha256_hex, write_atomically};
