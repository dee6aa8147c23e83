//! Reading in bounded memory: lines of limited length; rows, and numbers to sort them by, on disk.

mod lines;
mod repeats;
mod sorter;
mod spool;

pub(crate) use lines::too_long;
pub use lines::{Lines, MAX_ROW_BYTES};
pub(crate) use repeats::{KeyHasher, Repeats, RowKey, text_key};
pub(crate) use sorter::Sorter;
pub(crate) use spool::{RowAt, Spool, Spooled};
