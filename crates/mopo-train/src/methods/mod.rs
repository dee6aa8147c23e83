//! The methods, one file each. They share the loop in [`crate::fit`] and nothing else.

pub(crate) mod mopo;
