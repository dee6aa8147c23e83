//! What the tests of every crate share: the backend they run on.
//!
//! This and the binary's `device.rs` are the only places that name a backend.

use burn::backend::Autodiff;

/// The backend of the tests: flex, or ndarray with the feature of that name.
#[cfg(not(feature = "ndarray"))]
pub type TestBackend = burn::backend::Flex;
/// The backend of the tests: flex, or ndarray with the feature of that name.
#[cfg(feature = "ndarray")]
pub type TestBackend = burn::backend::NdArray;

/// [`TestBackend`] with gradients.
pub type TestAutodiffBackend = Autodiff<TestBackend>;
