//! Work on rows that is divided among processes: which part a process does, what it has saved, its file, and how the
//! files of all parts are put together.
//!
//! A [`RowJob`] computes one line of text for each row of an input. Rows are computed in units that begin at multiples of
//! a fixed number, counted in the whole input, so that a row has the same company however the work is divided, and the
//! same bits. A [`ShardIndex`] is a range of units. [`SavedRows`] survive their process: a shard that was killed goes on
//! where it was. [`ShardSet`] checks that the files of all shards belong together, and reads their rows in order.

mod index;
mod job;
mod saved;
mod scheduler;
mod set;
#[cfg(test)]
mod tests;

pub use index::{ShardChoice, ShardIndex};
pub use job::{RowJob, remove_saved_rows, saved_rows_dir};
pub use saved::SavedRows;
pub use set::{ShardPlace, ShardSet, check_finished, in_order};
