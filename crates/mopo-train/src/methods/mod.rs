//! The methods, one file each, and the list of them. They share nothing but the traits here and
//! `Method` of `fit.rs`, and never import each other.
//!
//! A new method is a file here with its section of the configuration, its row in `methods!`, and the
//! section's field in `RunConfig`.

pub(crate) mod dpo;
pub(crate) mod mopo;

use mopo_core::{IndicatorEstimator, MopoConfig};
use mopo_lm::{CausalLm, PolicyParams};
use mopo_ops::FusedAutodiffBackend;

pub use dpo::DpoConfig;

use crate::config::PhaseConfig;
use crate::fit::Method;
use crate::log_probs::LogProbs;
use crate::{Error, Progress, Result, RunConfig, RunData};

/// A method's section of a run's configuration.
pub(crate) trait MethodSection {
    /// The phase in which it is trained: its name in files.
    const PHASE: &'static str;

    /// Checks the section, and that it fits the run's policies.
    ///
    /// # Errors
    /// Names the key and what would be accepted.
    fn check_section(&self, policies: &[String]) -> Result<()>;

    /// What a response's indicator means.
    fn estimator(&self) -> IndicatorEstimator;

    /// Steps between two refreshes of a reference that lags behind, if it has one.
    fn reference_lag(&self) -> Option<usize> {
        None
    }

    /// Trains the policies to the end.
    ///
    /// # Errors
    /// Those of steps and of `fit`.
    fn train<B: FusedAutodiffBackend>(
        &self,
        task: Task<'_, B>,
        fit: &mut RunSteps<'_>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>>;
}

/// Runs the steps of a method, from the newest checkpoint on.
pub(crate) type RunSteps<'a> = dyn FnMut(&mut dyn Method, &mut dyn Progress) -> Result<usize> + 'a;

/// What a method is trained with.
pub(crate) struct Task<'a, B: FusedAutodiffBackend> {
    /// Frozen, with gradients flowing through it.
    pub(crate) base: &'a CausalLm<B>,
    /// Policies that equal the base.
    pub(crate) params: PolicyParams<B>,
    pub(crate) phase: &'a PhaseConfig,
    /// Primary objective of each policy.
    pub(crate) primaries: &'a [usize],
    pub(crate) data: &'a RunData,
    /// log π_0 of every training pair.
    pub(crate) initial_log_probs: &'a LogProbs,
    pub(crate) seed: u64,
    pub(crate) device: &'a B::Device,
}

/// Defines [`MethodConfig`] and what depends on the list of methods.
macro_rules! methods {
    ($($(#[$doc:meta])* $method:ident: $section:ident, $config:ident;)+) => {
        /// The method that a run trains: its section.
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub enum MethodConfig<'a> {
            $($(#[$doc])* $method(&'a $config),)+
        }

        impl<'a> MethodConfig<'a> {
            /// The method whose section is there.
            pub(crate) fn of(config: &'a RunConfig) -> Result<Self> {
                const SECTIONS: &[&str] = &[$(concat!("`[", stringify!($section), "]`")),+];
                let all = [$(config.$section.as_ref().map(Self::$method)),+];
                let mut there = all.into_iter().zip(SECTIONS).filter_map(|(of, name)| Some((of?, name)));
                let message = match (there.next(), there.next()) {
                    (Some((method, _)), None) => return Ok(method),
                    (Some((_, a)), Some((_, b))) => format!(
                        "both {a} and {b} are present, but a run trains one method: remove one section"
                    ),
                    (None, _) => format!("no method: add a section {}", SECTIONS.join(" or ")),
                };
                Err(Error::Config { origin: config.name.clone(), message })
            }

            /// The phase in which it is trained.
            pub(crate) fn phase(self) -> &'static str {
                match self { $(Self::$method(_) => <$config as MethodSection>::PHASE,)+ }
            }

            /// Checks the section, and that it fits the run's policies.
            pub(crate) fn check(self, policies: &[String]) -> Result<()> {
                match self { $(Self::$method(section) => section.check_section(policies),)+ }
            }

            /// What a response's indicator means.
            pub fn estimator(self) -> IndicatorEstimator {
                match self { $(Self::$method(section) => section.estimator(),)+ }
            }

            /// Steps between two refreshes of a reference that lags behind, if it has one.
            pub(crate) fn reference_lag(self) -> Option<usize> {
                match self { $(Self::$method(section) => section.reference_lag(),)+ }
            }

            /// Trains the policies to the end.
            pub(crate) fn train<B: FusedAutodiffBackend>(
                self,
                task: Task<'_, B>,
                fit: &mut RunSteps<'_>,
                progress: &mut dyn Progress,
            ) -> Result<PolicyParams<B::InnerBackend>> {
                match self { $(Self::$method(section) => section.train(task, fit, progress),)+ }
            }
        }
    };
}

// A row: the name, its section in `RunConfig`, and the section's type.
methods! {
    /// `[mopo]`.
    Mopo: mopo, MopoConfig;
    /// `[dpo]`.
    Dpo: dpo, DpoConfig;
}
