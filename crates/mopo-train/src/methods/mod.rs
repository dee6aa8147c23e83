//! The methods, one file each. They share the training loop in [`crate::fit`] and nothing else.

pub(crate) mod dpo;
pub(crate) mod mopo;
