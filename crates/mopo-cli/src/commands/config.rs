//! `mopo config`: prints a preset, or the `[data]` section of a source.

use anyhow::Result;

use crate::args::ConfigArgs;
use crate::output::out;

pub(crate) fn run(args: &ConfigArgs) -> Result<()> {
    out!("{}", mopo_train::config::config_text(&args.name)?);
    Ok(())
}
