//! mopo-data.
