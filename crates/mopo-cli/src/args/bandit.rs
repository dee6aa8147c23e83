//! Flags of `mopo bandit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::numbers::{self, at_most, count, even_count, fraction, grid, positive, relaxation};
use crate::device::Device;

#[derive(Debug, Args)]
pub(crate) struct BanditArgs {
    #[command(subcommand)]
    pub(crate) experiment: Experiment,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Experiment {
    /// Five canonical preference structures over a sweep of τ (Figure 4)
    Structures(StructuresArgs),
    /// MOPO, the exact solution and four uses of DPO on two toy data sets (Figures 1 and 7)
    Fronts(FrontsArgs),
    /// The toy fronts of MOPO and the exact solution over a sweep of τ (Figure 8)
    Tau(TauArgs),
    /// Naive against lower-bounded constraints as data grow (Figure 3)
    Constraints(ConstraintsArgs),
    /// Adaptive thresholds over β and the lag of the reference (Figure 6)
    Sensitivity(SensitivityArgs),
    /// Every method that has a form on a table, and rules for thresholds, against the exact front
    Methods(MethodsArgs),
    /// Initial thresholds against a known front (A.3, Figures 2 and 9)
    Initialisation(InitialisationArgs),
}

/// Flags of every experiment.
#[derive(Debug, Args)]
pub(crate) struct BanditCommon {
    /// Output directory [default: runs/bandit/<experiment>]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Random seed; experiments with several runs count up from it
    #[arg(long, default_value_t = 0, value_parser = numbers::seed, allow_negative_numbers = true)]
    pub(crate) seed: u64,
    /// flex (the CPU), ndarray, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct StructuresArgs {
    #[command(flatten)]
    pub(crate) common: BanditCommon,
    /// Runs per setting
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) seeds: u64,
    /// Optimiser steps
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = count)]
    pub(crate) steps: usize,
    /// Values of τ
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        allow_negative_numbers = true,
        value_parser = positive,
        default_value = "0.02,0.08,0.2,0.5,1,5"
    )]
    pub(crate) taus: Vec<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct ConstraintsArgs {
    #[command(flatten)]
    pub(crate) common: BanditCommon,
    /// Number of objectives, the primary one included
    #[arg(long, value_name = "K", default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=5))]
    pub(crate) objectives: u8,
    /// τ
    #[arg(long, default_value_t = 0.08, allow_negative_numbers = true, value_parser = positive)]
    pub(crate) tau: f64,
    /// Position of the thresholds between the reference's value (0) and the best action's (1)
    #[arg(long, default_value_t = 0.5, allow_negative_numbers = true, value_parser = fraction)]
    pub(crate) fraction: f64,
    /// Numbers of responses, two per comparison
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        alias = "terms",
        value_parser = even_count,
        default_value = "50,100,200,500,1000,2000,5000,10000"
    )]
    pub(crate) responses: Vec<usize>,
    /// Number of bandits, each with its own data
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = count)]
    pub(crate) repetitions: usize,
}

#[derive(Debug, Args)]
pub(crate) struct SensitivityArgs {
    #[command(flatten)]
    pub(crate) common: BanditCommon,
    /// Optimiser steps
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = count)]
    pub(crate) steps: usize,
    /// τ
    #[arg(long, default_value_t = 0.08, allow_negative_numbers = true, value_parser = positive)]
    pub(crate) tau: f64,
    /// Values of β
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        allow_negative_numbers = true,
        value_parser = relaxation,
        default_value = "0.9,0.99,0.999,0.9995,1"
    )]
    pub(crate) relaxations: Vec<f64>,
    /// Values of t₀, in steps
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = count, default_value = "50,100,250,500,1000")]
    pub(crate) lags: Vec<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct InitialisationArgs {
    #[command(flatten)]
    pub(crate) common: BanditCommon,
    /// Optimiser steps for each learned policy
    #[arg(long, value_name = "N", default_value_t = 1500, value_parser = count)]
    pub(crate) steps: usize,
    /// τ
    #[arg(long, default_value_t = 0.08, allow_negative_numbers = true, value_parser = positive)]
    pub(crate) tau: f64,
    /// Grid points per axis of the known front with three objectives
    #[arg(long, value_name = "N", default_value_t = 60, alias = "lattice", value_parser = grid)]
    pub(crate) grid: usize,
    /// Number of random threshold pairs
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = at_most::<1_000_000>)]
    pub(crate) vectors: usize,
}

#[derive(Debug, Args)]
pub(crate) struct MethodsArgs {
    #[command(flatten)]
    pub(crate) common: BanditCommon,
    /// Draws of each toy's data
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) seeds: u64,
    /// Weight of MOPO's KL term; the strengths of other methods are matched to it
    #[arg(long, default_value_t = 0.08, allow_negative_numbers = true, value_parser = positive)]
    pub(crate) tau: f64,
    /// Number of triplets (x, y, y') of each toy
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_most::<1_000_000>)]
    pub(crate) n_pairs: usize,
    /// Labels: 0/1 drawn from the Bradley–Terry probability, or the probability itself
    #[arg(long, value_enum, default_value_t = LabelKind::Sampled)]
    pub(crate) labels: LabelKind,
    /// Preference weights of a front, and thresholds per sweep
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = clap::value_parser!(u16).range(2..=1_000))]
    pub(crate) points: u16,
    /// Optimiser steps of everything that is trained
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = count)]
    pub(crate) steps: usize,
    /// Optimiser steps of the comparison of thresholds, with a refresh of the reference every 100
    #[arg(long, value_name = "N", default_value_t = 6_000, value_parser = count)]
    pub(crate) threshold_steps: usize,
    /// Values of τ of the comparison of thresholds
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        allow_negative_numbers = true,
        value_parser = positive,
        default_value = "0.02,0.08,0.2,0.5"
    )]
    pub(crate) threshold_taus: Vec<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct FrontsArgs {
    #[command(flatten)]
    pub(crate) common: BanditCommon,
    #[command(flatten)]
    pub(crate) toy: ToyArgs,
    /// Weight of the KL term
    #[arg(long, default_value_t = 0.08, allow_negative_numbers = true, value_parser = positive)]
    pub(crate) tau: f64,
}

#[derive(Debug, Args)]
pub(crate) struct TauArgs {
    #[command(flatten)]
    pub(crate) common: BanditCommon,
    #[command(flatten)]
    pub(crate) toy: ToyArgs,
    /// Values of τ
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        allow_negative_numbers = true,
        value_parser = positive,
        default_value = "0.02,0.05,0.08,0.2,0.5"
    )]
    pub(crate) taus: Vec<f64>,
}

/// Flags of the experiments on toy data sets.
#[derive(Debug, Args)]
pub(crate) struct ToyArgs {
    /// Number of triplets (x, y, y')
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_most::<1_000_000>)]
    pub(crate) n_pairs: usize,
    /// Labels: the Bradley–Terry probability, or 0/1 drawn from it
    #[arg(long, value_enum, default_value_t = LabelKind::Probability)]
    pub(crate) labels: LabelKind,
    /// Thresholds per sweep; there is one sweep with each objective as the primary
    #[arg(long, value_name = "N", default_value_t = 21, value_parser = clap::value_parser!(u16).range(2..))]
    pub(crate) thresholds: u16,
    /// Optimiser steps of MOPO
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = count)]
    pub(crate) steps: usize,
}

/// `--labels`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LabelKind {
    /// The Bradley–Terry probability.
    Probability,
    /// 0 or 1.
    Sampled,
}
