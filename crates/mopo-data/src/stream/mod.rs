//! What reading needs so that its memory does not grow with the number of rows: lines of bounded
//! length; rows, and numbers to sort them by, on disk.

mod lines;
mod repeats;
mod sorter;
mod spool;

pub(crate) use lines::too_long;
pub use lines::{Lines, MAX_ROW_BYTES};
pub(crate) use repeats::{KeyHasher, Repeats, RowKey, text_key};
pub(crate) use sorter::Sorter;
pub(crate) use spool::{RowAt, Spool, Spooled};
