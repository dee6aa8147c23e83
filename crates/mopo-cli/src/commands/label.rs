//! `mopo label`: scores both responses of every pair and writes indicators.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mopo_data::{PreparedReader, StagedSet};
use mopo_eval::Reward;
use mopo_eval::label::{LabelConfig, LabelJob, Labelled, Labelling, ShardFiles, record_path};
use mopo_eval::output_folder;
use mopo_hub::{ShardIndex, check_output_file};
use mopo_ops::FusedBackend;
use mopo_train::{DirLock, Progress as _, RunConfig, Unit, check_data_path, prepare_staged};

use super::models::resolve;
use super::shards::shard_at;
use crate::args::LabelArgs;
use crate::device::{self, Job, dispatch};
use crate::output::{errln, outln};
use crate::progress::Bars;

pub(crate) fn run(mut args: LabelArgs) -> Result<()> {
    device::set_matmul_precision(args.device, args.precision.matmul, device::PRECISION_FLAG)?;
    let (shard, out) = shard_at(args.shard, &args.out)?;
    args.out = out;
    check_place(&args)?;
    let Some(shards) = &args.merge else { return dispatch(args.device, Label(args, shard)) };
    let files = ShardFiles::open(shards)?;
    let job = LabelJob { labelling: files.labelling().clone(), shard: None, out: args.out.clone() };
    if !is_done(&args, &job)? {
        errln!("{} shards, {} pairs", shards.len(), files.n_pairs());
        write(&files.merge(output_folder(&args.out)?)?, &args.out)?;
    }
    Ok(())
}

/// Fails before any work where the labels or their record cannot be written, or must not be.
fn check_place(args: &LabelArgs) -> Result<()> {
    let named = [&args.set, &args.config, &args.data, &args.rewards];
    let inputs = named.into_iter().flatten().chain(args.merge.iter().flatten());
    let inputs: Vec<&Path> = inputs.map(PathBuf::as_path).collect();
    check_output_file(&args.out, inputs.iter().copied())?;
    Ok(check_output_file(&record_path(&args.out), inputs)?)
}

struct Label(LabelArgs, Option<ShardIndex>);

impl Job for Label {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let Self(args, shard) = self;
        let rewards = args.rewards.as_ref().context("--rewards is missing")?;
        let config = LabelConfig::from_name_or_file(rewards)?;
        // Before the set is read, to fail early if a reward cannot be built.
        let built = config.build::<B>(&device, &resolve)?;
        label(&args, shard, config, &built)
    }
}

fn label(
    args: &LabelArgs,
    shard: Option<ShardIndex>,
    config: LabelConfig,
    rewards: &[Box<dyn Reward>],
) -> Result<()> {
    let rewards_sha256 = config.hash(&config.contents(&resolve)?);
    let set = read(args)?;
    let input_sha256 = set.hash()?;
    let (keep, matmul_precision) = (args.keep, args.precision.matmul);
    let labelling = Labelling { config, keep, input_sha256, rewards_sha256, matmul_precision };
    let job = LabelJob { labelling, shard, out: args.out.clone() };
    if is_done(args, &job)? {
        return Ok(());
    }
    // Two processes would remove each other's progress.
    std::fs::create_dir_all(job.progress_dir())
        .with_context(|| job.progress_dir().display().to_string())?;
    let _lock = DirLock::acquire(&job.progress_dir())?;
    let mut saved = job.open(&set)?;
    let n_pairs = job.n_rows(&set);
    let mut bars = Bars::new();
    if saved.n_done() > 0 {
        bars.note(&format!("resuming: {} of {n_pairs} pairs are already scored", saved.n_done()));
    }
    bars.begin("label", saved.n_done() as u64, n_pairs as u64, Unit::Steps);
    let mut advance = |n: usize| bars.advance(n as u64, "");
    let kept = || format!("finished scores are kept in {}", job.progress_dir().display());
    let labelled = match shard {
        Some(index) => {
            job.run_shard(index, &set, &mut saved, rewards, &mut advance).with_context(kept)?;
            None
        }
        None => Some(job.run(&set, &mut saved, rewards, &mut advance).with_context(kept)?),
    };
    bars.end("");
    rewards.iter().flat_map(|reward| reward.notes()).for_each(|note| errln!("{note}"));
    match (shard, labelled) {
        (_, Some(labelled)) => write(&labelled, &args.out)?,
        (index, None) => {
            let index = index.map(String::from).unwrap_or_default();
            outln!("wrote {} (shard {index}, {n_pairs} pairs)", args.out.display());
            outln!("when all shards are done: mopo label --merge FILE... --out FILE");
        }
    }
    Ok(job.remove_progress()?)
}

/// The data set to label, as `mopo prepare` would write it.
fn read(args: &LabelArgs) -> Result<StagedSet> {
    let folder = output_folder(&args.out)?;
    if let Some(path) = &args.set {
        return Ok(PreparedReader::open(path)?.stage(folder)?);
    }
    let config = match (&args.config, &args.preset) {
        (Some(path), _) => RunConfig::from_file(path)?,
        (None, Some(preset)) => RunConfig::preset(preset)?,
        (None, None) => bail!("pass a prepared data set, --preset or --config"),
    };
    check_data_path(&config, args.data.as_ref())?;
    let (source, data) = (&config.data.source, args.data.as_deref());
    let (set, notes) =
        prepare_staged(source, data, args.seed, args.strict, folder, true, &mut |_, _| Ok(()))?;
    for note in notes {
        errln!("{note}");
    }
    Ok(set)
}

/// Whether `--out` already holds the result of this labelling. Anything else there is an error
/// without `--force`.
fn is_done(args: &LabelArgs, job: &LabelJob) -> Result<bool> {
    let done = !args.force && job.is_done()?;
    if done {
        outln!("{} already has these labels; nothing to do.", job.out.display());
    }
    Ok(done)
}

fn write(labelled: &Labelled, out: &Path) -> Result<()> {
    let beside = labelled.write(out)?;
    outln!("{}", labelled.report);
    let (n_pairs, hash) = (labelled.record.pairs, &labelled.record.set_sha256);
    outln!("wrote {} ({n_pairs} pairs, sha256 {hash})", out.display());
    outln!("wrote {} (rewards, and score statistics for z-scores)", beside.display());
    outln!(
        "train on it: mopo train --config FILE --data {} with `data.source = \"prepared\"`",
        out.display()
    );
    Ok(())
}
