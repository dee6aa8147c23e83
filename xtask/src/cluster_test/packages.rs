//! Packages of Debian that are there for the length of a test.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::Result;

use super::processes::{has_program, output};

/// What was installed here; it is removed with this value.
#[derive(Debug, Default)]
pub(super) struct Installed(Vec<String>);

impl Installed {
    /// Installs what is missing of programs, from packages. An error says why that cannot be done.
    pub(super) fn for_programs(
        programs: &[&str],
        packages: &[&str],
        may_install: bool,
    ) -> Result<std::result::Result<Self, String>> {
        let missing: Vec<&str> =
            programs.iter().copied().filter(|name| !has_program(name)).collect();
        if missing.is_empty() {
            return Ok(Ok(Self::default()));
        }
        let missing = missing.join(", ");
        let packages_named = packages.join(" ");
        if !may_install {
            return Ok(Err(format!(
                "there is no {missing} (apt-get install {packages_named}), and --no-install was given"
            )));
        }
        if !has_program("apt-get") || output(Command::new("id").arg("-u"))?.trim() != "0" {
            return Ok(Err(format!(
                "there is no {missing}; installing it takes Debian's apt-get, as root: {packages_named}"
            )));
        }
        let before = installed()?;
        eprintln!("installing {packages_named}");
        let apt = |words: &[&str]| {
            output(Command::new("apt-get").args(words).env("DEBIAN_FRONTEND", "noninteractive"))
        };
        let got = apt(&["update"])
            .and_then(|_| apt(&[&["install", "-y", "--no-install-recommends"], packages].concat()));
        // Also those of an installation that failed half-way.
        let new = installed()?.difference(&before).cloned().collect();
        let this = Self(new);
        Ok(match got {
            Ok(_) => Ok(this),
            Err(e) => Err(format!("{packages_named} cannot be installed: {e:#}")),
        })
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if self.0.is_empty() {
            return;
        }
        let mut command = Command::new("apt-get");
        command.args(["purge", "-y"]).args(&self.0).env("DEBIAN_FRONTEND", "noninteractive");
        match output(&mut command) {
            Ok(_) => eprintln!("removed {}", self.0.join(" ")),
            Err(e) => eprintln!("warning: the packages stay: {e:#}"),
        }
    }
}

fn installed() -> Result<BTreeSet<String>> {
    let list =
        output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Abbrev} ${Package}\\n"]))?;
    let names = list.lines().filter_map(|line| line.strip_prefix("ii ")).map(str::trim);
    Ok(names.map(str::to_owned).collect())
}
