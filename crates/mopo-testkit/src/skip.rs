//! Tests that cannot run here: reported at once, and again at the end of `cargo test`.
//!
//! libtest hides the output of tests that pass, and has no notion of a test that was skipped at run
//! time.
//! So a line is written past its capture, and kept in a file of this run of cargo, which
//! `.cargo/rustdoc` prints after the last doc tests of `cargo test --workspace`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Reports that the running test is skipped, and returns from it: `skip!("no {program} here")`.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::note_skipped(module_path!(), $crate::Extent::Whole, &format!($($reason)*));
        return;
    }};
}

/// Reports that the rest of the running test is skipped, and returns from it.
#[macro_export]
macro_rules! skip_rest {
    ($($reason:tt)*) => {{
        $crate::note_skipped(module_path!(), $crate::Extent::Rest, &format!($($reason)*));
        return;
    }};
}

/// How much of a test is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// What would follow; the part that ran counts.
    Rest,
}

/// Called by [`skip!`](crate::skip) and [`skip_rest!`](crate::skip_rest). The test's name is its
/// thread's, as libtest sets it.
pub fn note_skipped(module: &str, extent: Extent, reason: &str) {
    let test = std::thread::current().name().filter(|name| *name != "main").map(str::to_owned);
    let line = line(module, test.as_deref(), extent, reason);
    // Not `eprintln`, which libtest captures.
    let _ = std::io::stderr().write_all(format!("\n{line}").as_bytes());
    let path = record(std::os::unix::process::parent_id());
    let kept = fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).and_then(|()| {
        // In one write: tests of several threads append.
        OpenOptions::new().create(true).append(true).open(&path)?.write_all(line.as_bytes())
    });
    if let Err(e) = kept {
        let _ = std::io::stderr().write_all(format!("{}: {e}\n", path.display()).as_bytes());
    }
}

fn line(module: &str, test: Option<&str>, extent: Extent, reason: &str) -> String {
    let name = match test {
        // The thread's name lacks the crate.
        Some(test) => format!("{}::{test}", module.split("::").next().unwrap_or(module)),
        None => module.to_owned(),
    };
    let what = match extent {
        Extent::Whole => "skipped",
        Extent::Rest => "skipped in part",
    };
    format!("{what}: {name}: {}\n", reason.replace('\n', " "))
}

/// The list of a run of cargo, which is the parent of every test process.
fn record(cargo: u32) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        |dir| Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(dir),
    );
    target.join("skipped-tests").join(cargo.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_test_is_named_with_its_crate_and_reason() {
        let whole = line("mopo_data::hh::tests", Some("hh::tests::a"), Extent::Whole, "no\nfile");
        assert_eq!(whole, "skipped: mopo_data::hh::tests::a: no file\n");
        let rest = line("cli::reward", None, Extent::Rest, "no Python");
        assert_eq!(rest, "skipped in part: cli::reward: no Python\n");
    }
}
