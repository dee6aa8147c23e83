//! Small random models and batches for this crate's tests.
