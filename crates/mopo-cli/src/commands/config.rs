//! `mopo config`: prints a preset, the `[data]` section of a source or the section of a method, or their names.

use anyhow::Result;

use crate::args::ConfigArgs;
use crate::output::{out, outln};

pub(crate) fn run(args: &ConfigArgs) -> Result<()> {
    if args.list {
        for (kind, name) in mopo_train::config::config_names() {
            outln!("{kind} {name}");
        }
        return Ok(());
    }
    out!("{}", mopo_train::config::config_text(&args.name)?);
    Ok(())
}
