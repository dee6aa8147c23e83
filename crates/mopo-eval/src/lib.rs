//! mopo-eval.
