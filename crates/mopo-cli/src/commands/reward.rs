//! `mopo reward`: trains reward models.

use anyhow::Result;
use burn::backend::Autodiff;
use mopo_ops::FusedBackend;
use mopo_train::reward_model::{
    RewardResult, RewardTrainConfig, create_reward_run, open_reward_run, reward_preset_text,
    train_reward,
};
use mopo_train::{RunDir, RunRecord};

use super::train::{after_failure, new_record};
use crate::args::{RewardArgs, RewardCommand, RewardTrainArgs};
use crate::device::{self, Job, dispatch};
use crate::output::{errln, out, outln};
use crate::progress::Bars;

pub(crate) fn run(args: RewardArgs) -> Result<()> {
    match args.command {
        RewardCommand::Train(args) => train(args),
        RewardCommand::Config(args) => {
            out!("{}", reward_preset_text(&args.preset)?);
            Ok(())
        }
    }
}

fn train(args: RewardTrainArgs) -> Result<()> {
    crate::ranks::refuse_several("mopo reward train")?;
    device::check(args.run.device)?;
    let (run, config, record) = match &args.resume {
        Some(dir) => open_reward_run(dir)?,
        None => start(&args)?,
    };
    let path = run.path().to_path_buf();
    errln!("run directory: {}", path.display());
    if run.is_finished() {
        run.tidy();
        outln!("{} is already finished; nothing to do.", path.display());
        return Ok(());
    }
    let run = run.locked()?;
    if args.run.tensorboard {
        run.want_tensorboard()?;
    }
    let job = Train { run: run.clone(), config, record };
    let result = dispatch(args.run.device, job)
        .map_err(|e| after_failure(e, run, args.resume.is_none(), "mopo reward train"))?;
    outln!("{result}");
    let model = path.join("model");
    outln!("trained in {:.0} s; wrote {}", result.seconds, model.display());
    outln!(
        "score with it: reward = {{ kind = \"model\", path = \"{}\" }} (docs/labels.md)",
        model.display()
    );
    Ok(())
}

fn start(args: &RewardTrainArgs) -> Result<(RunDir, RewardTrainConfig, RunRecord)> {
    let overrides = args.run.overrides();
    let mut config = match (&args.config, &args.preset) {
        (Some(path), _) => RewardTrainConfig::from_file(path, &overrides)?,
        (None, Some(preset)) => RewardTrainConfig::preset(preset, &overrides)?,
        (None, None) => unreachable!("clap asks for one of the two"),
    };
    config.check_data_path(args.run.data.as_deref())?;
    config.fetch_models(&mut Bars::new())?;
    config.check_files(args.run.device.memory())?;
    let (path, mut record) = new_record(&args.run, "runs/rewards", &config.name, config.seed)?;
    let run = create_reward_run(&path, &config, &mut record)?;
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
