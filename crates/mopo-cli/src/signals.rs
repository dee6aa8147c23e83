//! What the system's signals do.
#![allow(unsafe_code)]

/// Lets a write beyond the limit of a file's size fail, instead of ending the process: the error names the file.
#[cfg(unix)]
pub(crate) fn survive_file_limits() {
    // SAFETY: no handler is installed.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

#[cfg(not(unix))]
pub(crate) fn survive_file_limits() {}
