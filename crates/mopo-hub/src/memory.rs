//! How much memory is available, so that what cannot fit is refused before it is allocated: a
//! failed allocation aborts the process without saying what it was for.

use crate::{Error, Result};

/// Bytes that this process can still allocate: the minimum of the machine's free memory (swap
/// included), the rest of its control group, and the rest of a limit on address space. `None` if
/// the system does not say.
pub fn available_memory() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| {
        Some(kilobytes(&text, "MemAvailable:")? + kilobytes(&text, "SwapFree:").unwrap_or(0))
    });
    let address_space = read("/proc/self/limits").and_then(|limits| {
        let taken = kilobytes(&read("/proc/self/status")?, "VmSize:")?;
        Some(address_space_limit(&limits)?.saturating_sub(taken))
    });
    let group = read("/proc/self/cgroup").and_then(|text| {
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?.trim_end_matches('/');
        let number = |name: &str| -> Option<u64> {
            read(&format!("/sys/fs/cgroup{path}/{name}"))?.trim().parse().ok()
        };
        // Cached pages of files can be reclaimed.
        let files = read(&format!("/sys/fs/cgroup{path}/memory.stat"))
            .and_then(|stat| field(&stat, "inactive_file"))
            .unwrap_or(0);
        let taken = number("memory.current")?.saturating_sub(files);
        Some(number("memory.max")?.saturating_sub(taken))
    });
    [machine, address_space, group].into_iter().flatten().min()
}

/// Refuses what does not fit into memory. Success is no guarantee, since other processes may
/// allocate
/// memory meanwhile.
///
/// # Errors
/// [`Error::NoMemory`] with `what` and `remedy`.
pub fn check_memory(
    n_bytes: u64,
    what: impl FnOnce() -> String,
    remedy: &'static str,
) -> Result<()> {
    // Not worth checking.
    const SMALL: u64 = 1 << 24;
    if n_bytes <= SMALL {
        return Ok(());
    }
    match available_memory() {
        Some(available) if available < n_bytes => {
            Err(Error::NoMemory { what: what(), n_bytes, available, remedy })
        }
        _ => Ok(()),
    }
}

/// `bytes` in a readable unit: "12.3 GB".
pub fn readable_bytes(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b >= 1e12 => format!("{:.1} TB", b / 1e12),
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b => format!("{:.1} MB", b / 1e6),
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    Some(field(text, name)?.saturating_mul(1024))
}

/// The soft limit in `/proc/self/limits`; `None` if unlimited.
fn address_space_limit(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_sizes_are_read_as_linux_writes_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max stack size            8388608              unlimited            bytes     \n\
                      Max address space         4096000000           unlimited            bytes     \n";
        assert_eq!(address_space_limit(limits), Some(4_096_000_000));
        assert_eq!(address_space_limit(&limits.replace("4096000000", "unlimited ")), None);
        let memory = "MemTotal:       16000 kB\nMemAvailable:   12000 kB\n";
        assert_eq!(kilobytes(memory, "MemAvailable:"), Some(12_288_000));
        assert_eq!(kilobytes(memory, "SwapFree:"), None);
        assert_eq!(readable_bytes(12_340_000_000), "12.3 GB");
    }

    #[test]
    fn what_no_machine_has_is_refused_and_what_is_small_is_not() {
        check_memory(0, String::new, "").unwrap();
        check_memory(1 << 25, String::new, "").unwrap();
        for n_bytes in [1 << 50, u64::MAX] {
            let error = check_memory(n_bytes, || "a model".into(), "make it smaller").unwrap_err();
            let error = error.to_string();
            assert!(error.contains("a model needs") && error.contains("TB"), "{error}");
            assert!(error.ends_with("make it smaller"), "{error}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_says_how_much_is_left() {
        let available = available_memory().unwrap();
        assert!((1_000_000..1 << 50).contains(&available), "{available}");
    }
}
