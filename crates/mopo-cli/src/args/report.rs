//! Flags of `mopo report`, and those of `mopo pareto` that say how results become comparable.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mopo_eval::PromptEmbedding;

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Runs that `mopo pareto` has evaluated, or the directories that it wrote
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Where page, figures and tables go
    #[arg(long, value_name = "DIR", default_value = "runs/report")]
    pub(crate) out: PathBuf,
    /// What to call the runs, in their order, e.g. mopo,dpo [default: their directories' names]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) names: Vec<String>,
    /// Mean and deviation that z-scores are counted in: a statistics.json [default: the first run's]
    #[arg(long, value_name = "FILE")]
    pub(crate) statistics: Option<PathBuf>,
    /// Heading of the page
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,
    /// Prompts shown with all responses, at most
    #[arg(long, value_name = "N", default_value_t = 24)]
    pub(crate) examples: usize,
}

/// The part of `mopo pareto` that its runs should have in common.
#[derive(Debug, Args)]
pub(crate) struct ProtocolArgs {
    /// What prompts are clustered by, instead of the configuration's
    #[arg(long, value_name = "WHAT")]
    pub(crate) embedding: Option<Embedding>,
    /// Mean and deviation that z-scores are counted in: a statistics.json of another evaluation
    /// [default: as the configuration says]
    #[arg(long, value_name = "FILE")]
    pub(crate) statistics: Option<PathBuf>,
}

/// [`PromptEmbedding`] on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Embedding {
    /// Their words, weighted by TF–IDF
    #[value(name = "tf_idf")]
    TfIdf,
    /// The policies' own hidden state, the mean over the prompt's tokens
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
