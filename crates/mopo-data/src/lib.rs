//! Everything about preference data that needs no tensor: records and the prepared-set format,
//! readers, splits, summaries, tokenizers, batching, and a generated demo world.
//!
//! The path of a pair: a reader ([`hh`], [`demo`]) makes [`PreferenceRecord`]s → a
//! [`PreparedSet`] keeps them as JSON Lines → [`split_by_prompt`] → [`tokenize`] →
//! [`bucketed_batches`]. No tensors, no models and no network here.

mod collate;
pub mod demo;
mod error;
mod grouping;
mod hash;
pub mod hh;
mod record;
mod set;
mod split;
mod summary;
mod tokenizer;

pub use collate::{LengthLimits, PairTokens, TruncationReport, bucketed_batches, tokenize};
pub use error::{Error, Result};
pub use grouping::response_group_means;
pub use hash::sha256_hex;
pub use hh::{HhOptions, HhRead, MalformedLine, ReadReport, read_hh, read_hh_dir};
pub use record::{Indicator, PreferenceRecord, Scores, indicator_of_scores};
pub use set::{FORMAT, Header, PreparedSet, SCHEMA, SourceFile};
pub use split::{Split, split_by_prompt};
pub use summary::{LengthStats, ObjectiveCounts, Summary};
pub use tokenizer::{END_OF_TEXT, Tokenizer};

/// The writer of files that are whole or absent.
pub use mopo_hub::write_atomically;
