//! Scripts that mount something for one command, in a mount namespace of their own.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result};

use super::bench::Workspace;
use super::process::{Ended, Run};

/// A word of a shell's command.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The words of `unshare` that run a script.
pub(super) fn unshared(script: &str) -> Vec<String> {
    ["--mount", "--propagation", "private", "sh", "-c", script].map(String::from).into()
}

/// Whether file systems can be mounted here.
pub(super) fn can_mount(dir: &Path) -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let mut command = Command::new("unshare");
        let at = quoted(&dir.display().to_string());
        command.args(unshared(&format!("mount -t tmpfs -o size=4k campaign {at}")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

/// A command in a directory that cannot be written.
pub(super) fn read_only(dir: &Path, command: &str) -> String {
    let dir = quoted(&dir.display().to_string());
    format!(
        "mount --bind {dir} {dir} && mount -o remount,ro,bind {dir} || {{ echo mount >&2; exit 99; }}\ncd {dir} && exec {command}"
    )
}

/// A command on a file system with so many KiB left, another one once there is space again, and what is there then copied
/// out. The output of both and their exit codes are beside the directory.
pub(super) fn full_disk(dir: &Path, kept: &Path, kib: u64, first: &str, second: &str) -> String {
    let [dir, kept] = [dir, kept].map(|path| path.display().to_string());
    let (d, kept) = (quoted(&dir), quoted(&kept));
    let log = |name: &str| quoted(&format!("{dir}-{name}"));
    format!(
        "set -e\nmkdir {kept}\nold={d}.old\nmv {d} \"$old\"\nmkdir {d}\nmount -t tmpfs -o size=256m campaign {d}\n\
         cp -a \"$old\"/. {d}/\nused=$(df --output=used -k {d} | tail -n 1)\n\
         mount -o remount,size=$((used + {kib}))k {d}\ncd {d}\n\
         code=0; {first} >{} 2>{} || code=$?\necho $code >{}\n\
         mount -o remount,size=256m {d}\n\
         code=0; {{ {second}; }} >{} 2>{} || code=$?\necho $code >{}\ncp -a {d}/. {kept}/\n",
        log("out1"),
        log("err1"),
        log("code1"),
        log("out2"),
        log("err2"),
        log("code2"),
    )
}

/// Runs such a script, and says how its commands ended.
pub(super) fn two(script: &str, space: &Workspace) -> Result<(Ended, Ended)> {
    let parent = space.dir.parent().context("no directory")?;
    let run = Run::new(Path::new("unshare"), &unshared(script), parent);
    let ended = run.to_end()?;
    let of = |n: u32| -> Result<Ended> {
        let read = |name: &str| {
            let path = format!("{}-{name}{n}", space.dir.display());
            fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let code = read("code")
            .with_context(|| format!("the script ended early: {}", ended.complained))?;
        let code: i32 = code.trim().parse().context("an exit code")?;
        // What a shell makes of a signal.
        let signal = (code > 128).then_some(code - 128);
        Ok(Ended {
            code: signal.is_none().then_some(code),
            signal,
            hung: ended.hung,
            said: read("out")?,
            complained: read("err")?,
            seconds: ended.seconds,
        })
    };
    Ok((of(1)?, of(2)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        let word = "a 'b' \"$c\" {d}";
        let out = Command::new("sh")
            .args(["-c", &format!("printf %s {}", quoted(word))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), word);
    }
}
