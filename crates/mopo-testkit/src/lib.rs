//! What the tests of every crate share, above all the backend.
//!
//! [`LoopbackHub`] replaces Hugging Face, which tests cannot reach, and [`LoopbackChat`] a language model behind a chat
//! endpoint; [`LoopbackEndpoint`] answers posted texts. [`skip!`] reports that a test cannot run. The last two need no
//! burn, and are all there is without the feature `backend`.
//!
//! This and the program's `device.rs` are the only places outside `mopo-ops` that name a backend.
#![cfg_attr(feature = "backend", doc = include_str!("../README.md"))]

#[cfg(feature = "backend")]
mod chat;
mod endpoint;
#[cfg(feature = "backend")]
mod hub;
mod real;
mod skip;

#[cfg(feature = "backend")]
use burn::backend::Autodiff;
#[cfg(feature = "backend")]
pub use chat::{ChatReply, ChatRequest, LoopbackChat};
pub use endpoint::{EndpointReply, LoopbackEndpoint, PostedRequest};
#[cfg(feature = "backend")]
pub use hub::{HubRequest, LoopbackHub};
pub use real::{REAL_MODELS, real_models};
pub use skip::{Extent, note_skipped};

/// The backend of the tests: flex, or the one whose feature is on (`cargo xtask matrix`).
#[cfg(all(feature = "backend", not(any(feature = "ndarray", feature = "cuda", feature = "wgpu"))))]
pub type TestBackend = burn::backend::Flex;
/// The backend of the tests: flex, or the one whose feature is on (`cargo xtask matrix`).
#[cfg(all(feature = "ndarray", not(any(feature = "cuda", feature = "wgpu"))))]
pub type TestBackend = burn::backend::NdArray;
/// The backend of the tests: flex, or the one whose feature is on (`cargo xtask matrix`).
#[cfg(all(feature = "wgpu", not(feature = "cuda")))]
pub type TestBackend = burn::backend::Wgpu;
/// The backend of the tests: flex, or the one whose feature is on (`cargo xtask matrix`).
#[cfg(feature = "cuda")]
pub type TestBackend = burn::backend::Cuda;

/// [`TestBackend`] with gradients.
#[cfg(feature = "backend")]
pub type TestAutodiffBackend = Autodiff<TestBackend>;
