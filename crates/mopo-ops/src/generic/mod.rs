//! The bodies of [`crate::FusedBackend`] in burn's own operations: for every backend, and the
//! reference for native kernels.

pub(crate) mod adam;
pub(crate) mod attention;
pub(crate) mod elementwise;
pub(crate) mod linear;
pub(crate) mod log_prob;
pub(crate) mod norm;
pub(crate) mod paged;
pub(crate) mod quant;
pub(crate) mod select;
pub(crate) mod updated;
