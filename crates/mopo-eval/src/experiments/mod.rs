//! The synthetic experiments of the MOPO paper as tables, figures and summaries. Each file turns the
//! rows of one experiment of [`mopo_core::bandit::experiments`] into [`Findings`].

mod constraints;
mod fronts;
mod initialisation;
mod methods;
mod sensitivity;
mod structures;

pub use fronts::{Fronts, Tau};

use std::fmt::Display;
use std::path::Path;

use burn::tensor::backend::AutodiffBackend;
use mopo_data::write_atomically;
use mopo_report::Table;
use mopo_report::plot::{Chart, chart_figure};
use serde_json::{Value, json};

use crate::{Error, Result};

/// An experiment with its settings: settings of `mopo_core`, [`Fronts`] or [`Tau`].
pub trait Experiment {
    /// Its name, which is also that of its files.
    const NAME: &'static str;

    /// The settings, for the record.
    fn settings(&self) -> Value;

    /// Runs it. `tell` is called with (done, total) as work progresses.
    ///
    /// # Errors
    /// Those of the mathematics, [`Error::Core`].
    fn run<B: AutodiffBackend>(
        &self,
        device: &B::Device,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Findings>;
}

/// The result of an experiment.
#[derive(Debug, Clone)]
pub struct Findings {
    /// The figure.
    pub chart: Chart,
    /// The raw rows.
    pub table: Table,
    /// Text to print and to keep.
    pub summary: String,
}

/// How an experiment was run, for the record.
#[derive(Debug, Clone, Copy)]
pub struct Execution<'a> {
    /// Version of the program.
    pub version: &'a str,
    /// The device's name.
    pub device: &'a str,
    /// The seed, from which several runs count up.
    pub seed: u64,
    /// Wall-clock time.
    pub seconds: f64,
}

impl Findings {
    /// Writes `<NAME>.csv`, `.svg`, `.png` and `record.json` to the existing folder `dir`, each
    /// atomically.
    ///
    /// # Errors
    /// [`Error::Report`] if the figure cannot be drawn; [`Error::Hub`] names a file that cannot be
    /// written.
    pub fn write<E: Experiment>(
        &self,
        dir: &Path,
        experiment: &E,
        execution: Execution<'_>,
    ) -> Result<()> {
        let figure = chart_figure(&self.chart)?;
        let record = json!({
            "experiment": E::NAME,
            "version": execution.version,
            "device": execution.device,
            "seed": execution.seed,
            "settings": experiment.settings(),
            "seconds": execution.seconds,
            "summary": self.summary,
        });
        let mut record = serde_json::to_string_pretty(&record)
            .map_err(|source| Error::Json { what: "the record".into(), source })?;
        record.push('\n');
        let name = E::NAME;
        for (file, bytes) in [
            (format!("{name}.csv"), self.table.csv()),
            (format!("{name}.svg"), figure.svg.clone().into_bytes()),
            (format!("{name}.png"), figure.to_png(1.5)?),
            ("record.json".into(), record.into_bytes()),
        ] {
            write_atomically(&dir.join(file), &bytes)?;
        }
        Ok(())
    }
}

/// The text of every cell.
fn cells(row: &[&dyn Display]) -> Vec<String> {
    row.iter().map(|cell| cell.to_string()).collect()
}
