//! Flags of `mopo report`, and those of `mopo pareto` that make results comparable.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mopo_eval::PromptEmbedding;

use super::numbers;

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Runs evaluated by `mopo pareto`, or the directories it wrote
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Output directory
    #[arg(long, value_name = "DIR", default_value = "runs/report")]
    pub(crate) out: PathBuf,
    /// Names of the runs, in the same order, e.g. mopo,dpo [default: their directories' names]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) names: Vec<String>,
    /// Mean and standard deviation for z-scores: a statistics.json [default: the first run's]
    #[arg(long, value_name = "FILE")]
    pub(crate) statistics: Option<PathBuf>,
    /// Title of the page
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,
    /// Maximum number of prompts shown with all responses
    #[arg(long, value_name = "N", default_value_t = 24)]
    pub(crate) examples: usize,
}

#[derive(Debug, Args)]
pub(crate) struct StudyArgs {
    /// The study: a JSON file with methods, their runs and the directories that `mopo pareto` wrote, relative to the file
    pub(crate) study: PathBuf,
    /// Output directory [default: that of the file]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Resamples of the bootstrap
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = numbers::count)]
    pub(crate) resamples: usize,
}

/// Flags of `mopo pareto` that runs to be compared should share.
#[derive(Debug, Args)]
pub(crate) struct ProtocolArgs {
    /// Features for clustering prompts, instead of the configuration's
    #[arg(long, value_name = "WHAT")]
    pub(crate) embedding: Option<Embedding>,
    /// Mean and standard deviation for z-scores: the statistics.json of another evaluation
    /// [default: as configured]
    #[arg(long, value_name = "FILE")]
    pub(crate) statistics: Option<PathBuf>,
}

/// [`PromptEmbedding`] on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Embedding {
    /// TF–IDF of their words
    #[value(name = "tf_idf")]
    TfIdf,
    /// Hidden state of the policies, averaged over the prompt's tokens
    #[value(name = "hidden_state")]
    HiddenState,
}

impl From<Embedding> for PromptEmbedding {
    fn from(embedding: Embedding) -> Self {
        match embedding {
            Embedding::TfIdf => Self::TfIdf,
            Embedding::HiddenState => Self::HiddenState,
        }
    }
}
