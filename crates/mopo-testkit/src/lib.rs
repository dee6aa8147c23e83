//! What the tests of every crate share: the backend they run on.
//!
//! [`LoopbackHub`] stands in for Hugging Face, which tests cannot reach.
//!
//! This and the binary's `device.rs` are the only places that name a backend.

mod hub;

use burn::backend::Autodiff;
pub use hub::{HubRequest, LoopbackHub};

/// The backend of the tests: flex, or the one whose feature is on (`cargo xtask matrix`).
#[cfg(not(any(feature = "ndarray", feature = "cuda")))]
pub type TestBackend = burn::backend::Flex;
/// The backend of the tests: flex, or the one whose feature is on (`cargo xtask matrix`).
#[cfg(all(feature = "ndarray", not(feature = "cuda")))]
pub type TestBackend = burn::backend::NdArray;
/// The backend of the tests: flex, or the one whose feature is on (`cargo xtask matrix`).
#[cfg(feature = "cuda")]
pub type TestBackend = burn::backend::Cuda;

/// [`TestBackend`] with gradients.
pub type TestAutodiffBackend = Autodiff<TestBackend>;
