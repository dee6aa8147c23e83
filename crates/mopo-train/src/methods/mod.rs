//! The methods, one file each, and the list of them. They share nothing but the traits here, `Method` of `fit.rs`
//! and frames such as [`crate::pairwise`], and never import each other.
//!
//! A new method is a file here, with its section of the configuration, its test and its page, and its row
//! in `methods!`.

use std::collections::BTreeMap;

use mopo_core::divergence::Divergence;
use mopo_core::{IndicatorEstimator, Objectives};
use mopo_lm::{CausalLm, Mixing, PolicyParams};
use mopo_ops::FusedAutodiffBackend;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::communicator::Communicator;
use crate::conditioned::Conditioning;
use crate::config::{PhaseConfig, RenamedKey};
use crate::fit::PolicyMethod;
use crate::log_probs::LogProbs;
use crate::rollouts::{RolloutInputs, RolloutSettings};
use crate::{OtherPolicy, Progress, Result, RunData};

/// A method's section of a run's configuration.
pub(crate) trait MethodSection: Serialize + DeserializeOwned {
    /// A complete section to start from, with comments: what `mopo config` prints.
    const TEXT: &'static str;
    /// Keys that had another name in earlier versions.
    const RENAMED: &'static [RenamedKey] = &[];
    /// Paths of optional keys.
    const OPTIONAL: &'static [&'static str] = &[];
    /// Paths of which exactly one is present.
    const ALTERNATIVES: &'static [&'static [&'static str]] = &[];
    /// Paths of tables whose keys are names, such as objectives.
    const OPEN: &'static [&'static str] = &[];
    /// What may help where a step is not finite, besides what helps every method: `, a larger …`.
    const REMEDY: &'static str = "";

    /// Checks the section, and that it fits the run's policies.
    ///
    /// # Errors
    /// Names the key and what would be accepted.
    fn check_section(&self, policies: &[String]) -> Result<()>;

    /// Checks before a new run of so many steps begins what runs that exist may have.
    ///
    /// # Errors
    /// Names the key and what would be accepted.
    fn check_new(&self, _steps: usize) -> Result<()> {
        Ok(())
    }

    /// The policies' names, if they follow from the section.
    fn policies(&self) -> Option<Vec<String>> {
        None
    }

    /// Checks before any work that the training pairs have what the method needs; by default it needs no labels. `rows`:
    /// their indicators, `[n_pairs][n_objectives]`.
    ///
    /// # Errors
    /// Names what is missing.
    fn check_labels(
        &self,
        _policies: &[String],
        _objectives: &Objectives,
        _rows: &[&[Option<f32>]],
    ) -> Result<()> {
        Ok(())
    }

    /// Whether every training pair needs recorded scores.
    fn needs_scores(&self) -> bool {
        false
    }

    /// Whether log π_0 of the training pairs is needed.
    fn needs_initial_log_probs(&self) -> bool {
        true
    }

    /// Policies of other runs whose log-probs of the training pairs are needed.
    fn other_policies(&self) -> Vec<OtherPolicy> {
        Vec::new()
    }

    /// Policies of other runs that this run's start as, one for each of its own. None: they start as the base.
    fn starts_from(&self) -> Vec<OtherPolicy> {
        Vec::new()
    }

    /// How the policies make another one for preference weights.
    fn mixing(&self) -> Mixing {
        Mixing::default()
    }

    /// The divergence from the base that its policies are regularised by, where their optimum is known by it.
    fn divergence(&self) -> Option<Divergence> {
        None
    }

    /// The one by which policies that it takes over must have been, if that matters to it, and its key.
    fn mixed_divergence(&self) -> Option<(&'static str, Divergence)> {
        None
    }

    /// Whether it trains an output layer for each policy, if the run does not leave them out.
    fn trains_heads(&self) -> bool {
        false
    }

    /// Whether prompts are told what to aim at: there is one policy for all weights, and `policies` are the objectives.
    fn changes_prompts(&self) -> bool {
        false
    }

    /// What the prompts are told, if they are.
    ///
    /// # Errors
    /// Training pairs that do not say.
    fn conditioning(&self, _policies: &[String], _data: &RunData) -> Result<Option<Conditioning>> {
        Ok(None)
    }

    /// How answers of the policy itself are sampled and scored, if it learns from them.
    fn rollouts<'a>(&'a self, _policies: &'a [String]) -> Option<RolloutSettings<'a>> {
        None
    }

    /// What a response's indicator means.
    fn estimator(&self) -> IndicatorEstimator {
        IndicatorEstimator::Pair
    }

    /// Primary objective of each policy, if the others are constraints.
    ///
    /// # Errors
    /// A policy that is not named after an objective.
    fn primaries(&self, _policies: &[String], _objectives: &Objectives) -> Result<Vec<usize>> {
        Ok(Vec::new())
    }

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
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>>;
}

/// Runs the steps of a method, from the newest checkpoint on.
pub(crate) type RunSteps<'a, B> =
    dyn FnMut(&mut dyn PolicyMethod<B>, &mut dyn Progress) -> Result<usize> + 'a;

/// All that a method is trained with.
pub(crate) struct TrainContext<'a, B: FusedAutodiffBackend> {
    /// Frozen, with gradients flowing through it.
    pub(crate) base: &'a CausalLm<B>,
    /// Policies that equal the base, or those that the method starts from.
    pub(crate) params: PolicyParams<B>,
    pub(crate) phase: &'a PhaseConfig,
    /// The policies' names.
    pub(crate) policies: &'a [String],
    pub(crate) data: &'a RunData,
    /// log π_0 of every training pair; empty for a method that does not
    /// [need](MethodSection::needs_initial_log_probs) it.
    pub(crate) initial_log_probs: &'a LogProbs,
    /// log π of every training pair under the policies of other runs, by their names.
    pub(crate) others: &'a BTreeMap<String, LogProbs>,
    /// Rewards, for methods that have [`rollouts`](MethodSection::rollouts).
    pub(crate) rollouts: Option<&'a RolloutInputs>,
    pub(crate) seed: u64,
    /// The ranks that train together.
    pub(crate) communicator: &'a dyn Communicator,
    pub(crate) device: &'a B::Device,
}

/// `[method]`: which of the methods' sections is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MethodTable {
    kind: String,
}

impl MethodConfig {
    /// Whether the method's one policy has a trained head, if its section says it.
    pub(crate) fn train_head(&self) -> Option<bool> {
        let sections = toml::Table::try_from(Sections::from(self.clone())).ok()?;
        sections.get(self.kind())?.get("train_head")?.as_bool()
    }
}

/// Defines [`MethodConfig`] and what depends on the list of methods.
macro_rules! methods {
    ($($(#[$doc:meta])* $module:ident: $variant:ident($config:ident);)+) => {
        $(pub(crate) mod $module;)+
        $(use $module::$config;)+

        /// The methods' sections.
        pub(crate) mod sections {
            $(pub use super::$module::$config;)+
        }

        /// The method that a run trains: `[method]` with its `kind`, and the section of that name.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(try_from = "Sections", into = "Sections")]
        pub enum MethodConfig {
            $($(#[$doc])* $variant($config),)+
        }

        /// The sections as they are in a file.
        #[derive(Debug, Clone, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct Sections {
            #[serde(default, skip_serializing_if = "Option::is_none")]
            method: Option<MethodTable>,
            $(#[serde(default, skip_serializing_if = "Option::is_none")]
            $module: Option<$config>,)+
        }

        impl TryFrom<Sections> for MethodConfig {
            type Error = String;

            fn try_from(sections: Sections) -> std::result::Result<Self, String> {
                let found = [$(sections.$module.map(Self::$variant)),+];
                chosen(sections.method, found.into_iter().flatten().collect())
            }
        }

        impl From<MethodConfig> for Sections {
            fn from(method: MethodConfig) -> Self {
                let kind = MethodTable { kind: method.kind().into() };
                let mut sections = Self { method: Some(kind), ..Self::default() };
                match method {
                    $(MethodConfig::$variant(section) => sections.$module = Some(section),)+
                }
                sections
            }
        }

        impl MethodConfig {
            /// The methods' names, which are those of their sections and of their phases in files.
            pub const KINDS: &'static [&'static str] = &[$(stringify!($module)),+];

            /// Each method's name, and a complete section to start from.
            pub const TEXTS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($module), <$config as MethodSection>::TEXT)),+];

            /// Former names, optional keys and alternatives of all sections.
            pub(crate) fn renamed() -> Vec<RenamedKey> {
                [$(<$config as MethodSection>::RENAMED),+].concat()
            }

            pub(crate) fn optional() -> Vec<&'static str> {
                [$(<$config as MethodSection>::OPTIONAL),+].concat()
            }

            pub(crate) fn open() -> Vec<&'static str> {
                [$(<$config as MethodSection>::OPEN),+].concat()
            }

            pub(crate) fn alternatives() -> Vec<&'static [&'static str]> {
                [$(<$config as MethodSection>::ALTERNATIVES),+].concat()
            }

            /// What may help where a step of the phase is not finite.
            pub(crate) fn remedy(phase: &str) -> &'static str {
                match phase {
                    $(stringify!($module) => <$config as MethodSection>::REMEDY,)+
                    _ => "",
                }
            }

            /// Its name.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($module),)+ }
            }

            /// Checks the section, and that it fits the run's policies.
            pub(crate) fn check(&self, policies: &[String]) -> Result<()> {
                match self { $(Self::$variant(section) => section.check_section(policies),)+ }
            }

            /// Checks of a new run of so many steps what runs that exist may have.
            pub(crate) fn check_new(&self, steps: usize) -> Result<()> {
                match self { $(Self::$variant(section) => section.check_new(steps),)+ }
            }

            /// The policies' names, if they follow from the section.
            pub(crate) fn policies(&self) -> Option<Vec<String>> {
                match self { $(Self::$variant(section) => section.policies(),)+ }
            }

            /// Checks that the training pairs have what the method needs.
            pub(crate) fn check_labels(
                &self,
                policies: &[String],
                objectives: &Objectives,
                rows: &[&[Option<f32>]],
            ) -> Result<()> {
                match self {
                    $(Self::$variant(section) => section.check_labels(policies, objectives, rows),)+
                }
            }

            /// Whether every training pair needs recorded scores.
            pub(crate) fn needs_scores(&self) -> bool {
                match self { $(Self::$variant(section) => section.needs_scores(),)+ }
            }

            /// Whether log π_0 of the training pairs is needed.
            pub(crate) fn needs_initial_log_probs(&self) -> bool {
                match self { $(Self::$variant(section) => section.needs_initial_log_probs(),)+ }
            }

            /// Policies of other runs that are needed.
            pub(crate) fn other_policies(&self) -> Vec<OtherPolicy> {
                match self { $(Self::$variant(section) => section.other_policies(),)+ }
            }

            /// Policies of other runs that this run's start as.
            pub(crate) fn starts_from(&self) -> Vec<OtherPolicy> {
                match self { $(Self::$variant(section) => section.starts_from(),)+ }
            }

            /// How the policies make another one for preference weights.
            pub(crate) fn mixing(&self) -> Mixing {
                match self { $(Self::$variant(section) => section.mixing(),)+ }
            }

            /// The divergence from the base that its policies are regularised by.
            pub(crate) fn divergence(&self) -> Option<Divergence> {
                match self { $(Self::$variant(section) => section.divergence(),)+ }
            }

            /// The one by which policies that it takes over must have been.
            pub(crate) fn mixed_divergence(&self) -> Option<(&'static str, Divergence)> {
                match self { $(Self::$variant(section) => section.mixed_divergence(),)+ }
            }

            /// Whether it trains an output layer for each policy.
            pub(crate) fn trains_heads(&self) -> bool {
                match self { $(Self::$variant(section) => section.trains_heads(),)+ }
            }

            /// Whether prompts are told what to aim at.
            pub(crate) fn changes_prompts(&self) -> bool {
                match self { $(Self::$variant(section) => section.changes_prompts(),)+ }
            }

            /// What the prompts are told, if they are.
            pub(crate) fn conditioning(
                &self,
                policies: &[String],
                data: &RunData,
            ) -> Result<Option<Conditioning>> {
                match self { $(Self::$variant(section) => section.conditioning(policies, data),)+ }
            }

            /// How answers of the policy itself are sampled and scored, if it learns from them.
            pub(crate) fn rollouts<'a>(
                &'a self,
                policies: &'a [String],
            ) -> Option<RolloutSettings<'a>> {
                match self { $(Self::$variant(section) => section.rollouts(policies),)+ }
            }

            /// What a response's indicator means.
            pub fn estimator(&self) -> IndicatorEstimator {
                match self { $(Self::$variant(section) => section.estimator(),)+ }
            }

            /// Primary objective of each policy, if the others are constraints.
            pub(crate) fn primaries(
                &self,
                policies: &[String],
                objectives: &Objectives,
            ) -> Result<Vec<usize>> {
                match self { $(Self::$variant(section) => section.primaries(policies, objectives),)+ }
            }

            /// Steps between two refreshes of a reference that lags behind, if it has one.
            pub(crate) fn reference_lag(&self) -> Option<usize> {
                match self { $(Self::$variant(section) => section.reference_lag(),)+ }
            }

            /// Trains the policies to the end.
            pub(crate) fn train<B: FusedAutodiffBackend>(
                &self,
                context: TrainContext<'_, B>,
                fit: &mut RunSteps<'_, B>,
                progress: &mut dyn Progress,
            ) -> Result<PolicyParams<B::InnerBackend>> {
                match self { $(Self::$variant(section) => section.train(context, fit, progress),)+ }
            }
        }
    };
}

// A row: the name of the method, of its file, section and phase; the name in code, and the section's type.
methods! {
    /// Multi-objective preference optimisation.
    mopo: Mopo(MopoConfig);
    /// Direct preference optimisation.
    dpo: Dpo(DpoConfig);
    /// Identity preference optimisation.
    ipo: Ipo(IpoConfig);
    /// DPO under an f-divergence.
    f_dpo: FDpo(FDpoConfig);
    /// Simple preference optimisation, without a reference.
    simpo: Simpo(SimpoConfig);
    /// Kahneman-Tversky optimisation: each response on its own.
    kto: Kto(KtoConfig);
    /// Multi-objective DPO: margins for one vector of preference weights.
    modpo: Modpo(ModpoConfig);
    /// Rewarded Soups: means of the parameters of other runs' policies.
    rewarded_soups: RewardedSoups(RewardedSoupsConfig);
    /// Multi-objective decoding: other runs' policies mixed token by token.
    multi_objective_decoding: MultiObjectiveDecoding(MultiObjectiveDecodingConfig);
    /// Rewards in Context: scores in the prompt.
    ric: Ric(RicConfig);
    /// Directional preference alignment: a direction in the prompt.
    dpa: Dpa(DpaConfig);
    /// One objective under constraints, whose multipliers are solved for once.
    can: Can(CanConfig);
    /// One objective after the other, each against the policy of the one before.
    sacpo: Sacpo(SacpoConfig);
    /// Several objectives by clipped conflict-averse gradient descent.
    raco: Raco(RacoConfig);
    /// Proximal policy optimisation on the policy's own answers.
    ppo: Ppo(PpoConfig);
    /// Group-relative policy optimisation on them.
    grpo: Grpo(GrpoConfig);
    /// Policies that together maximise the hypervolume of their mean rewards.
    ham: Ham(HamConfig);
}

pub use can::CanLabels;
pub use grpo::LengthNormalization;
pub use modpo::Margins;
pub use ric::TargetRange;

/// The one method that is configured. Configurations of earlier versions have its section only.
fn chosen(
    table: Option<MethodTable>,
    mut found: Vec<MethodConfig>,
) -> std::result::Result<MethodConfig, String> {
    let named =
        |kinds: &[&str]| kinds.iter().map(|k| format!("\"{k}\"")).collect::<Vec<_>>().join(", ");
    let kind = table.map(|table| table.kind);
    if let Some(kind) = &kind
        && !MethodConfig::KINDS.contains(&kind.as_str())
    {
        return Err(format!(
            "`method.kind` is \"{kind}\"; the methods are {}",
            named(MethodConfig::KINDS)
        ));
    }
    if let [a, b, ..] = &found[..] {
        return Err(format!(
            "both `[{}]` and `[{}]` are present, but a run trains one method: remove one section",
            a.kind(),
            b.kind()
        ));
    }
    match (found.pop(), kind) {
        (Some(method), Some(kind)) if method.kind() != kind => Err(format!(
            "`method.kind` is \"{kind}\", but the section there is `[{}]`: `mopo config {kind}` prints a section \
             `[{kind}]` to start from",
            method.kind()
        )),
        (Some(method), _) => Ok(method),
        (None, Some(kind)) => Err(format!(
            "`method.kind` is \"{kind}\", but there is no section `[{kind}]`: `mopo config {kind}` prints one to \
             start from"
        )),
        (None, None) => Err(format!(
            "no method: add `[method]` with its `kind` ({}) and the section of that name; `mopo config mopo` prints \
             both to start from",
            named(MethodConfig::KINDS)
        )),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A section of the text that `mopo config` prints.
    pub(crate) fn section<T: DeserializeOwned>(kind: &str, text: &str) -> T {
        let mut table: toml::Table = text.parse().unwrap();
        table.remove(kind).unwrap().try_into().unwrap()
    }
}
