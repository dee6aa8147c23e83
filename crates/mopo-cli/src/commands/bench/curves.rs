//! `mopo bench curves`: measurements as a picture.

use anyhow::Result;
use mopo_hub::{read_json, write_atomically};
use mopo_report::plot::{Curves, curves_svg};

use crate::args::BenchCurvesArgs;

/// Pixels per CSS pixel.
const SCALE: f32 = 1.5;

pub(super) fn run(args: &BenchCurvesArgs) -> Result<()> {
    let panels: Vec<Curves> = read_json(&args.panels, "panels of curves")?;
    let picture = curves_svg(&panels)?.to_png(SCALE)?;
    Ok(write_atomically(&args.out, &picture)?)
}
