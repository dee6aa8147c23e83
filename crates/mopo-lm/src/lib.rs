//! mopo-lm.
