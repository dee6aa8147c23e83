//! Libraries that may panic on what a file contains.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is caught and becomes an error.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// The result of `call`, which uses a library; a panic becomes an error, and nothing is printed.
///
/// # Errors
/// That of `call`, or the text of the panic with the name of the `library`.
pub fn guarded<T>(
    library: &str,
    call: impl FnOnce() -> std::result::Result<T, String>,
) -> std::result::Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    let was = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(was);
    outcome.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        Err(format!("the `{library}` library fails on it ({text})"))
    })
}
