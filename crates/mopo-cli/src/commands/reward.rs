//! `mopo reward`: trains reward models.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use burn::backend::Autodiff;
use mopo_ops::FusedBackend;
use mopo_train::reward_model::{
    RewardResult, RewardTrainConfig, create_reward_run, open_reward_run, reward_preset_text,
    train_reward,
};
use mopo_train::{RunDir, RunRecord};

use super::train::stamp;
use crate::args::{RewardArgs, RewardCommand, RewardTrainArgs};
use crate::device::{self, Job, dispatch};
use crate::progress::{Bars, DownloadBar};

pub(crate) fn run(args: RewardArgs) -> Result<()> {
    match args.command {
        RewardCommand::Train(args) => train(args),
        RewardCommand::Config(args) => {
            print!("{}", reward_preset_text(&args.preset)?);
            Ok(())
        }
    }
}

fn train(args: RewardTrainArgs) -> Result<()> {
    device::check(args.device)?;
    let (run, config, record) = match &args.resume {
        Some(dir) => open_reward_run(dir)?,
        None => start(&args)?,
    };
    let path = run.path().to_path_buf();
    eprintln!("run directory: {}", path.display());
    if run.is_finished() {
        println!("{} is finished already; nothing to do.", path.display());
        return Ok(());
    }
    let fresh = args.resume.is_none();
    let result = dispatch(args.device, Train { run, config, record })
        .map_err(|e| after_failure(e, &path, fresh))?;
    println!("{result}");
    let model = path.join("model");
    println!("trained in {:.0} s; wrote {}", result.seconds, model.display());
    println!(
        "score with it: reward = {{ kind = \"model\", path = \"{}\" }} (docs/labels.md)",
        model.display()
    );
    Ok(())
}

/// A new run whose data could not even be read leaves nothing behind; every other one can go on.
fn after_failure(error: anyhow::Error, path: &Path, fresh: bool) -> anyhow::Error {
    let prepared = open_reward_run(path).is_ok_and(|(_, _, record)| !record.hashes.is_empty());
    if fresh && !prepared && std::fs::remove_dir_all(path).is_ok() {
        return error;
    }
    let resume = format!("mopo reward train --resume {}", path.display());
    error.context(format!("training stopped; to go on: {resume}"))
}

fn start(args: &RewardTrainArgs) -> Result<(RunDir, RewardTrainConfig, RunRecord)> {
    let mut overrides = args.set.clone();
    overrides.extend(args.seed.map(|seed| format!("seed={seed}")));
    let mut config = match (&args.config, &args.preset) {
        (Some(path), _) => RewardTrainConfig::from_file(path, &overrides)?,
        (None, Some(preset)) => RewardTrainConfig::preset(preset, &overrides)?,
        (None, None) => unreachable!("clap asks for one of the two"),
    };
    config.check_data_path(args.data.as_deref())?;
    config.fetch_models(&mut DownloadBar::default())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let path = match &args.out {
        Some(path) => path.clone(),
        None => PathBuf::from("runs/rewards").join(format!("{}-{}", config.name, stamp(now))),
    };
    // A relative path would mean another file to a resumed run elsewhere.
    let data = args
        .data
        .as_ref()
        .map(|d| std::path::absolute(d).with_context(|| format!("the path {}", d.display())))
        .transpose()?;
    let record = RunRecord {
        mopo_version: env!("CARGO_PKG_VERSION").into(),
        burn_version: "0.21.0".into(),
        device: args.device.to_string(),
        seed: config.seed,
        started: now,
        command: std::env::args().collect(),
        data,
        strict: args.strict,
        hashes: Default::default(),
    };
    let run = create_reward_run(&path, &config, &record)?;
    Ok((run, config, record))
}

struct Train {
    run: RunDir,
    config: RewardTrainConfig,
    record: RunRecord,
}

impl Job for Train {
    type Output = RewardResult;

    fn run<B: FusedBackend>(mut self, device: B::Device) -> Result<RewardResult> {
        Ok(train_reward::<Autodiff<B>>(
            &self.run,
            &self.config,
            &mut self.record,
            &device,
            &mut Bars::new(),
        )?)
    }
}
