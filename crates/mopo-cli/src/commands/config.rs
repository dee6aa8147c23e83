//! `mopo config`: prints a preset, or the `[data]` section of a source.

use anyhow::Result;

use crate::args::ConfigArgs;

pub(crate) fn run(args: &ConfigArgs) -> Result<()> {
    print!("{}", mopo_train::config::config_text(&args.name)?);
    Ok(())
}
