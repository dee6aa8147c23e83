//! `.cargo/rustdoc`, which stands in for rustdoc: it must change nothing but what it adds to the last doc tests.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// A toolchain's folder whose rustdoc says what it was given, and fails.
const RUSTDOC: &str = "#!/bin/sh\nprintf '<%s>' \"$@\"\nexit 7\n";

#[test]
fn it_passes_everything_on_and_lists_skipped_tests_after_those_of_xtask() {
    let folder = std::env::temp_dir().join(format!("mopo rustdoc {}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let rustdoc = folder.join("rustdoc");
    fs::write(&rustdoc, RUSTDOC).unwrap();
    fs::set_permissions(&rustdoc, fs::Permissions::from_mode(0o755)).unwrap();
    let lists = folder.join("skipped-tests");
    fs::create_dir_all(&lists).unwrap();
    // Under the number of the process that runs rustdoc, and of one that cannot be there any more
    let list = lists.join(std::process::id().to_string());
    fs::write(&list, "skipped: b: no network\nskipped: a: no file\nskipped: a: no file\n").unwrap();
    fs::write(lists.join("4194305"), "skipped: c: long ago\n").unwrap();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cargo/rustdoc");
    let run = |args: &[&str], cargo: &str| -> Output {
        let mut command = Command::new(&script);
        command.args(args).env("CARGO", cargo).env("CARGO_TARGET_DIR", &folder);
        command.env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
        command.output().unwrap()
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let beside = folder.join("cargo").display().to_string();
    // Beside cargo, or on PATH where cargo has none beside it or is not known.
    for cargo in [beside.as_str(), "/nowhere/cargo", "cargo", ""] {
        for args in [
            &["-vV"][..],
            &["--crate-name", "mopo_core", "--test", "a b", "", "*"],
            &["--crate-name", "xtask", "src/lib.rs"],
        ] {
            let found = run(args, cargo);
            let expected: String = args.iter().map(|arg| format!("<{arg}>")).collect();
            assert_eq!((text(&found.stdout), found.status.code()), (expected, Some(7)));
            assert_eq!(text(&found.stderr), "");
        }
    }
    let last = ["--crate-type", "lib", "--crate-name", "xtask", "--test", "src/lib.rs"];
    let found = run(&last, &beside);
    assert_eq!(found.status.code(), Some(7));
    assert_eq!(
        text(&found.stderr),
        "not run here:\n  skipped: a: no file\n  skipped: b: no network\n"
    );
    assert_eq!(fs::read_dir(&lists).unwrap().count(), 0, "lists that were printed or are old");
    assert_eq!(text(&run(&last, &beside).stderr), "no test was skipped\n");
    fs::remove_dir_all(&folder).unwrap();
}
