//! What the allocator keeps for later, and when it gives it back.
#![allow(unsafe_code)]

/// Keeps what was freed for the next tensors, and gives back what five seconds have not used: to give pages back between
/// steps and clear new ones takes a tenth of a step and more. MIMALLOC_PURGE_DELAY overrides it.
pub(crate) fn keep_freed() {
    /// `mi_option_purge_delay` in mimalloc.h, to which the crate gives no name.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    /// Milliseconds.
    const KEPT: std::ffi::c_long = 5000;
    // SAFETY: it must not be called by two threads at once; there is only one yet.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, KEPT) }
}

/// Gives back what is free now: what loading leaves is of sizes that training has little use for.
pub(crate) fn give_back() {
    // SAFETY: it may be called at any time, and frees only what nobody uses.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
