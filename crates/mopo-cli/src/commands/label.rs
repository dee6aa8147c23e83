//! `mopo label`: scores both responses of every pair and writes indicators.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mopo_data::{PreparedSet, sha256_hex, write_atomically};
use mopo_eval::Reward;
use mopo_eval::annotate::{
    LabelConfig, LabelRecord, LabelSet, Labelling, Progress as Saved, Shard, merge_shards,
};
use mopo_ops::FusedBackend;
use mopo_train::{Progress as _, RunConfig, check_data_path, prepare_records};

use super::models::resolve;
use crate::args::LabelArgs;
use crate::device::{Job, dispatch};
use crate::progress::Bars;

pub(crate) fn run(args: LabelArgs) -> Result<()> {
    if let Some(shards) = &args.merge {
        let merged = merge_shards(shards)?;
        if !is_there(&args, &merged.labelling)? {
            eprintln!("{} shards, {} pairs", shards.len(), merged.records.len());
            write(merged, &args.out)?;
        }
        return Ok(());
    }
    dispatch(args.device, Label(args))
}

struct Label(LabelArgs);

impl Job for Label {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let Self(args) = self;
        let rewards = args.rewards.as_ref().context("--rewards is missing")?;
        let config = LabelConfig::from_name_or_file(rewards)?;
        // Before the set is read: a reward that cannot be built is the quicker error.
        let built = config.build::<B>(&device, &resolve)?;
        label(&args, config, &built)
    }
}

fn label(args: &LabelArgs, config: LabelConfig, rewards: &[Box<dyn Reward>]) -> Result<()> {
    let rewards_sha256 = config.hash(&config.contents(&resolve)?);
    let set = read(args)?;
    let labelling = Labelling { config, keep: args.keep, input_sha256: set.hash(), rewards_sha256 };
    if is_there(args, &labelling)? {
        return Ok(());
    }
    let rows = match args.shard {
        Some(shard) => shard.rows(set.records.len()),
        None => 0..set.records.len(),
    };
    let PreparedSet { header, records } = set;
    let records = records[rows].to_vec();

    let dir = beside(&args.out, "progress");
    let saved = Saved::open(&dir, &labelling, args.shard, records.len())?;
    let mut bars = Bars::new();
    if saved.n_done() > 0 {
        bars.note(&format!("going on: {} of {} pairs are scored", saved.n_done(), records.len()));
    }
    bars.begin("label", saved.n_done(), records.len());
    let scores = saved
        .run(rewards, &records, &mut |n| (0..n).for_each(|_| bars.advance("")))
        .with_context(|| format!("what was scored before is in {}", dir.display()))?;
    bars.end("");
    rewards.iter().flat_map(|reward| reward.notes()).for_each(|note| eprintln!("{note}"));
    match args.shard {
        Some(index) => {
            let n_pairs = records.len();
            Shard { index, labelling, header, records, scores }.write(&args.out)?;
            println!("wrote {} (shard {index}, {n_pairs} pairs)", args.out.display());
            println!("when all are there: mopo label --merge FILE... --out FILE");
        }
        None => write(LabelSet { labelling, header, records, scores }, &args.out)?,
    }
    Ok(Saved::remove(&dir)?)
}

fn read(args: &LabelArgs) -> Result<PreparedSet> {
    if let Some(path) = &args.set {
        let real = |path: &Path| path.canonicalize().ok();
        if real(path).is_some() && real(path) == real(&args.out) {
            bail!("--out is the set that is labelled; choose another file");
        }
        return Ok(PreparedSet::read(path)?);
    }
    let config = match (&args.config, &args.preset) {
        (Some(path), _) => RunConfig::from_file(path)?,
        (None, Some(preset)) => RunConfig::preset(preset)?,
        (None, None) => bail!("give a prepared set, --preset or --config"),
    };
    check_data_path(&config, args.data.as_ref())?;
    let (set, notes) =
        prepare_records(&config.data.source, args.data.as_deref(), args.seed, args.strict)?;
    for note in notes {
        eprintln!("{note}");
    }
    Ok(set)
}

/// Whether the result of this very labelling is at `--out`. Anything else there is an error without
/// `--force`.
fn is_there(args: &LabelArgs, labelling: &Labelling) -> Result<bool> {
    let out = &args.out;
    if !out.exists() || args.force {
        return Ok(false);
    }
    let same = match args.shard {
        Some(index) => {
            Shard::read(out).is_ok_and(|s| s.index == index && s.labelling == *labelling)
        }
        None => record(out).is_some_and(|record| {
            record.input_sha256 == labelling.input_sha256
                && record.rewards_sha256 == labelling.rewards_sha256
                && record.keep == labelling.keep
                && std::fs::read(out).is_ok_and(|bytes| sha256_hex(&bytes) == record.set_sha256)
        }),
    };
    if !same {
        bail!("{} is there and something else; --force replaces it", out.display());
    }
    println!("{} is the result of this labelling already; nothing to do.", out.display());
    // A kill after the result was written leaves it.
    Saved::remove(&beside(out, "progress"))?;
    Ok(true)
}

/// The record beside a labelled set.
fn record(out: &Path) -> Option<LabelRecord> {
    serde_json::from_slice(&std::fs::read(beside(out, "labels.json")).ok()?).ok()
}

/// Writes the record and then the set: with the set there, the labelling is done.
fn write(labelled: LabelSet, out: &Path) -> Result<()> {
    let labelled = labelled.finish()?;
    let beside = beside(out, "labels.json");
    let mut json = serde_json::to_vec_pretty(&labelled.record)?;
    json.push(b'\n');
    write_atomically(&beside, &json)?;
    let hash = labelled.set.write(out)?;
    println!("{}", labelled.report);
    println!("wrote {} ({} pairs, sha256 {hash})", out.display(), labelled.set.records.len());
    println!("wrote {} (rewards, and statistics for z-scores)", beside.display());
    println!(
        "train on it: mopo train --config FILE --data {} with `data.source = \"prepared\"`",
        out.display()
    );
    Ok(())
}

/// `<out>.<what>`.
fn beside(out: &Path, what: &str) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}
