//! Printing that a closed pipe or a full disk does not end: what a command does counts more than what it
//! says, and `print!` would panic.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::sync::Mutex;

/// Why standard output could not be written, other than by a reader that has gone.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// `println!`, which never panics.
macro_rules! outln {
    ($($arg:tt)*) => { $crate::output::write_out(format_args!("{}\n", format_args!($($arg)*))) };
}

/// `print!`, which never panics.
macro_rules! out {
    ($($arg:tt)*) => { $crate::output::write_out(format_args!($($arg)*)) };
}

/// `eprintln!`, which never panics.
macro_rules! errln {
    ($($arg:tt)*) => { $crate::output::write_err(format_args!("{}\n", format_args!($($arg)*))) };
}

pub(crate) use {errln, out, outln};

/// Writes to standard output. An error is kept for [`finish`].
pub(crate) fn write_out(text: Arguments<'_>) {
    keep(io::stdout().lock().write_fmt(text));
}

/// Writes to standard error; there is no place to report that it fails.
pub(crate) fn write_err(text: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// Shows what was written so far, where the end of a line is not near. An error is kept for [`finish`].
pub(crate) fn flush() {
    keep(io::stdout().lock().flush());
}

/// Flushes standard output, at the end of a command.
///
/// # Errors
/// The first reason for which something was not written. A reader that closed its end wanted no more.
pub(crate) fn finish() -> io::Result<()> {
    flush();
    FAILED.lock().ok().and_then(|mut failed| failed.take()).map_or(Ok(()), Err)
}

fn keep(written: io::Result<()>) {
    if let Err(e) = written
        && e.kind() != io::ErrorKind::BrokenPipe
        && let Ok(mut failed) = FAILED.lock()
    {
        failed.get_or_insert(e);
    }
}
