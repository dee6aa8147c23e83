//! An HTTP server for a run or a model: OpenAI's endpoints with preference weights, and a page with sliders.
//!
//! [`serve`] drives a [`TextEngine`] on the calling thread, and HTTP beside it. [`SessionEngine`] is the engine of this
//! workspace's models.
#![doc = include_str!("../README.md")]

mod answer;
mod app;
mod chat;
mod completions;
mod engine;
mod error;
mod feed;
mod fields;
mod front;
mod guard;
mod host;
mod metrics;
mod models;
mod options;
mod page;
mod request;
mod scorer;
mod scores;
mod server;
mod session;

pub use engine::{
    Admitted, EndReason, EngineStats, EventSink, ModelInfo, Prompt, Refusal, RefusalKind,
    SamplingOverrides, TextEngine, TextEvent, TextRequest, Token, TokenLogProb,
};
pub use error::{Error, Result};
pub use front::{Front, FrontSource, Point};
pub use options::ServeOptions;
pub use scorer::{RunScorer, ScoreItem, TextScorer};
pub use server::{Extras, Stop, serve};
pub use session::SessionEngine;
