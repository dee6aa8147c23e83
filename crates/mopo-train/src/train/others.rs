//! Policies of other finished runs that a method reads: log-probs of this run's training pairs under them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mopo_lm::{CausalLm, LoraConfig, PolicyHeads, PolicyParams, load_policy};
use mopo_ops::FusedBackend;

use super::data::RunData;
use crate::communicator::Communicator;
use crate::conditioned::Conditioning;
use crate::config::PhaseConfig;
use crate::log_probs::{self, LogProbs, all_log_probs};
use crate::run_dir::record::{BASE, POLICY};
use crate::{Error, Progress, Result, RunConfig, RunDir, RunRecord};

/// The folder of a run with what was computed under other runs' policies.
const OTHERS: &str = "other_log_probs/";

/// A policy of another run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OtherPolicy {
    /// What this run calls it: a file is named after it.
    pub(crate) name: String,
    /// The configuration's key that names the run, for errors.
    pub(crate) key: String,
    /// The run's directory.
    pub(crate) run: PathBuf,
}

/// Checks before any work that the runs are finished, and that SFT would not make another base than theirs.
///
/// # Errors
/// Names the key and the run.
pub(super) fn check(others: &[OtherPolicy], config: &RunConfig) -> Result<()> {
    // The data's objectives, which MODPO's margins are of as well, are not known yet.
    let names = others.iter().map(|other| &other.name).chain(&config.policies);
    let names: Vec<String> = names.cloned().collect();
    others.iter().try_for_each(|other| {
        let (theirs, their_config, _) = opened(other)?;
        index_of(other, &their_config.policies, &names)?;
        if config.sft.steps > 0 && their_config.sft.steps == 0 {
            return Err(other_base(
                other,
                &theirs,
                "on a base that it was given, instead of by the SFT",
            ));
        }
        // Without SFT here, the bases themselves can tell.
        let both_train = config.sft.steps > 0;
        // It changes no result.
        let checkpointing = config.sft.gradient_checkpointing;
        let their_sft =
            PhaseConfig { gradient_checkpointing: checkpointing, ..their_config.sft.clone() };
        let differs =
            [("seed", config.seed != their_config.seed), ("[sft]", config.sft != their_sft)];
        match differs.into_iter().find(|(_, differs)| both_train && *differs) {
            Some((key, _)) => Err(other_base(other, &theirs, &format!("with another `{key}`"))),
            None => check_divergence(other, config, &their_config),
        }
    })
}

/// Checks that a policy was trained under the divergence for which this run's method mixes it.
fn check_divergence(other: &OtherPolicy, config: &RunConfig, theirs: &RunConfig) -> Result<()> {
    match (config.method.mixed_divergence(), theirs.method.divergence()) {
        (Some((key, own)), Some(of_run)) if own != of_run => Err(Error::Config {
            origin: format!("`{}`", other.key),
            message: format!(
                "{} was trained under {of_run}, but `{key}` is {own}, for which the mixture would be another: set {key} to \
                 \"{of_run}\", or take runs that were trained under {own}",
                other.run.display(),
            ),
        }),
        _ => Ok(()),
    }
}

/// Checks that the runs were trained on the base of this one.
///
/// # Errors
/// Names the key and the run.
pub(super) fn check_base(others: &[OtherPolicy], record: &RunRecord) -> Result<()> {
    others.iter().try_for_each(|other| opened_on_base(other, record).map(drop))
}

/// Records which policies the runs have.
pub(super) fn record(others: &[OtherPolicy], record: &mut RunRecord) -> Result<()> {
    for other in others {
        let sha256 = RunDir::policy_sha256(&other.run)?;
        record.others.insert(other.run.display().to_string(), sha256);
    }
    Ok(())
}

fn opened(other: &OtherPolicy) -> Result<(RunDir, RunConfig, RunRecord)> {
    let fail =
        |e: Error| Error::Config { origin: format!("`{}`", other.key), message: e.to_string() };
    let (run, config, record) = RunDir::open(&other.run).map_err(fail)?;
    run.check_finished().map_err(fail)?;
    run.check_policies(&record).map_err(fail)?;
    if Conditioning::read(&run.join(POLICY)).map_err(fail)?.is_some() {
        return Err(Error::Config {
            origin: format!("`{}`", other.key),
            message: format!(
                "the policy of {} is conditioned by its prompts, so it is not one policy that can be taken over: \
                 choose a run of another method",
                other.run.display()
            ),
        });
    }
    Ok((run, config, record))
}

/// The run, if it was trained on the base of this one.
fn opened_on_base(other: &OtherPolicy, record: &RunRecord) -> Result<RunDir> {
    let (theirs, _, their_record) = opened(other)?;
    match their_record.folder_sha256(BASE) == record.folder_sha256(BASE) {
        true => Ok(theirs),
        false => Err(other_base(other, &theirs, "on another base model")),
    }
}

fn other_base(other: &OtherPolicy, theirs: &RunDir, how: &str) -> Error {
    Error::Config {
        origin: format!("`{}`", other.key),
        message: format!(
            "{} was trained {how} than this run, so its policies belong to another reference: train both on one base, \
             for example with --model {} --set sft.steps=0",
            other.run.display(),
            theirs.join(BASE).display()
        ),
    }
}

/// The policies themselves in the order of their `names`, each with its adapter, and the sizes of the adapters. Of a
/// run with several policies, the one of that name.
pub(super) fn policies<B: FusedBackend>(
    others: &[OtherPolicy],
    names: &[String],
    record: &RunRecord,
    base: &CausalLm<B>,
    device: &B::Device,
) -> Result<(PolicyParams<B>, Vec<LoraConfig>)> {
    let (mut adapters, mut heads, mut loras) = (vec![], vec![], vec![]);
    for name in names {
        let other =
            others.iter().find(|other| other.name == *name).expect("checked with the section");
        let theirs = opened_on_base(other, record)?;
        let (params, meta) = load_policy(theirs.join(POLICY), base, device)?;
        let k = index_of(other, &meta.objectives, names)?;
        loras.push(meta.loras()[params.adapter_index(k)].clone());
        adapters.push(params.adapter(k).clone());
        heads.push(params.heads.heads[k].clone());
    }
    Ok((PolicyParams { adapters, heads: PolicyHeads { heads } }, loras))
}

/// Which of a run's policies is meant: the one of that name, or the only one, unless it is called like another of `names`.
fn index_of(other: &OtherPolicy, policies: &[String], names: &[String]) -> Result<usize> {
    let fail = |what: String, remedy: &str| {
        Err(Error::Config {
            origin: format!("`{}`", other.key),
            message: format!("{} {what}: {remedy}", other.run.display()),
        })
    };
    let name = &other.name;
    match (policies.iter().position(|policy| policy == name), policies) {
        (Some(k), _) => Ok(k),
        (None, [only]) if names.contains(only) => fail(
            format!("has the policy `{only}`, but it is given for `{name}`"),
            "give each run for the name of its own policy",
        ),
        (None, [_]) => Ok(0),
        (None, several) => fail(
            format!("has the policies {}, and none is called `{name}`", several.join(", ")),
            "name it by one of them, or choose another run",
        ),
    }
}

/// log π of this run's training pairs under each of the policies, by their names. Computed once, and then read from
/// the run's own files.
#[allow(clippy::too_many_arguments)] // of private plumbing
pub(super) fn log_probs<B: FusedBackend>(
    others: &[OtherPolicy],
    run: &RunDir,
    record: &mut RunRecord,
    base: &CausalLm<B>,
    data: &RunData,
    communicator: &dyn Communicator,
    device: &B::Device,
    progress: &mut dyn Progress,
) -> Result<BTreeMap<String, LogProbs>> {
    let mut found = BTreeMap::new();
    for other in others {
        let name = format!("{OTHERS}{}.safetensors", other.name);
        let path = run.join(&name);
        let is_done = communicator.by_first(|| Ok(path.exists()))?;
        if !is_done {
            let theirs = opened_on_base(other, record)?;
            let (params, meta) = load_policy(theirs.join(POLICY), base, device)?;
            let k = index_of(other, &meta.objectives, data.objectives.names())?;
            let phase = format!("policy of {}", other.run.display());
            let mut all = all_log_probs(
                base,
                Some(&params),
                &data.train,
                &phase,
                device,
                communicator,
                progress,
            )?;
            communicator.once(|| {
                run.check_there()?;
                let folder = run.join(OTHERS);
                std::fs::create_dir_all(&folder).map_err(Error::io("making", &folder))?;
                log_probs::write(&path, &all.swap_remove(k))
            })?;
        }
        if !record.has(&name) {
            record.change_together(run, communicator, |record| record.add_file(run, &name))?;
        }
        found.insert(other.name.clone(), log_probs::read(&path, data.train.len())?);
    }
    Ok(found)
}
