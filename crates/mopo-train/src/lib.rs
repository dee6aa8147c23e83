//! mopo-train.
