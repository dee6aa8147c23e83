//! `mopo config`: prints a preset.

use anyhow::Result;

use crate::args::ConfigArgs;

pub(crate) fn run(args: &ConfigArgs) -> Result<()> {
    print!("{}", mopo_train::config::preset_text(&args.preset)?);
    Ok(())
}
