//! From scored responses of policies to a Pareto front with its uncertainty, figures and one page.
//!
//! An [`Evaluation`] has prompts, responses and scores; [`FrontReport::new`] computes points and
//! indicators
//! of policy sets with their uncertainty; [`write_report`] writes the figures, the tables and one
//! self-contained page. [`RecordedRun::read`] reads such a result back, and [`combine`] combines
//! several
//! for a comparison. [`Matchups`] compares pairs of policies prompt by prompt. [`plot`] draws other charts
//! too.
#![doc = include_str!("../README.md")]

mod bootstrap;
mod compare;
mod error;
mod evaluation;
mod front;
mod metrics;
pub mod plot;
mod quality;
mod report;
mod results;
mod statistics;
mod study;
mod table;
mod tensorboard;
mod win_rate;

pub use bootstrap::{Estimate, HypervolumeDifference, Interval, percentile_interval};
pub use compare::{Combined, RecordedRun, ScoredAxis, combine};
pub use error::{Difference, Error, Result};
pub use evaluation::{Clusters, Evaluation, PolicyGroup, PolicySamples, PolicySet, SetRef};
pub use front::{FrontConfig, FrontReport, PolicyPoint, SetQuality};
pub use metrics::{MetricKey, Metrics, MetricsLog, MetricsRow, Quantity};
pub use report::{ReportExtras, ReportFiles, RunExtras, write_report};
pub use results::{Comparison, ComparisonOptions, ResultsDir, compare, read_metrics};
pub use statistics::{
    FirstPass, ObjectiveStatistics, ScoreStatistics, SecondPass, read_statistics,
    select_statistics, write_statistics,
};
pub use study::{
    Against, ClusterPrompts, Cost, CostTokens, MethodResult, SensitivityResult, Study,
    StudyCluster, StudyFiles, StudyMethod, StudyOptions, StudyPoint, StudyReport, StudyRun,
    StudySensitivity, StudyTry, StudyValue, write_study,
};
pub use table::Table;
pub use tensorboard::EventWriter;
pub use win_rate::{
    JudgeRecord, JudgedWinRate, Judgement, Matchups, Outcome, PolicyWinRates, RewardWinRate,
    Verdict, WinRate, WinRateFiles, WinRateReport, wilson_interval, write_win_rates,
};
