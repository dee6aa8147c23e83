//! `mopo bandit`: the synthetic experiments. Here flags become settings; the experiments' tables and
//! figures are in `mopo_eval::experiments`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::backend::Autodiff;
use burn::tensor::backend::Backend;
use mopo_core::bandit::experiments::{
    ConstraintSettings, FrontSettings, InitialisationSettings, MethodSettings, SensitivitySettings,
    StructureSettings,
};
use mopo_core::bandit::{Labels, LearnerConfig};
use mopo_eval::experiments::{Execution, Experiment, Findings, Fronts, Tau};
use mopo_train::{Progress, Unit};

use crate::args::{
    BanditArgs, BanditCommon, ConstraintsArgs, Experiment as Chosen, InitialisationArgs, LabelKind,
    MethodsArgs, SensitivityArgs, StructuresArgs, ToyArgs,
};
use crate::device::{Job, check, dispatch};
use crate::output::outln;
use crate::progress::Bars;

pub(crate) fn run(args: BanditArgs) -> Result<()> {
    match args.experiment {
        Chosen::Constraints(args) => run_one(&constraints(&args), &args.common),
        Chosen::Sensitivity(args) => run_one(&sensitivity(&args), &args.common),
        Chosen::Initialisation(args) => run_one(&initialisation(&args), &args.common),
        Chosen::Methods(args) => run_one(&methods(&args), &args.common),
        Chosen::Structures(args) => run_one(&structures(&args), &args.common),
        Chosen::Fronts(args) => {
            let settings = toy(&args.toy, args.common.seed);
            run_one(&Fronts { tau: args.tau, settings }, &args.common)
        }
        Chosen::Tau(args) => {
            let settings = toy(&args.toy, args.common.seed);
            run_one(&Tau(FrontSettings { taus: args.taus, ..settings }), &args.common)
        }
    }
}

fn constraints(args: &ConstraintsArgs) -> ConstraintSettings {
    ConstraintSettings {
        n_objectives: usize::from(args.objectives),
        tau: args.tau,
        fraction: args.fraction,
        n_responses: args.responses.clone(),
        repetitions: args.repetitions,
        seed: args.common.seed,
        ..ConstraintSettings::default()
    }
}

fn sensitivity(args: &SensitivityArgs) -> SensitivitySettings {
    let mut settings = SensitivitySettings {
        tau: args.tau,
        relaxations: args.relaxations.clone(),
        lags: args.lags.clone(),
        seed: args.common.seed,
        ..SensitivitySettings::default()
    };
    settings.learner.steps = args.steps;
    settings
}

fn initialisation(args: &InitialisationArgs) -> InitialisationSettings {
    let mut settings = InitialisationSettings {
        tau: args.tau,
        grid: args.grid,
        n_vectors: args.vectors,
        seed: args.common.seed,
        ..InitialisationSettings::default()
    };
    settings.learner.steps = args.steps;
    settings
}

fn structures(args: &StructuresArgs) -> StructureSettings {
    StructureSettings {
        taus: args.taus.clone(),
        seeds: (0..args.seeds).map(|i| args.common.seed.wrapping_add(i)).collect(),
        learner: LearnerConfig { steps: args.steps, ..LearnerConfig::default() },
        ..StructureSettings::default()
    }
}

fn methods(args: &MethodsArgs) -> MethodSettings {
    MethodSettings {
        tau: args.tau,
        n_pairs: args.n_pairs,
        labels: labels(args.labels),
        n_points: usize::from(args.points),
        seeds: (0..args.seeds).map(|i| args.common.seed.wrapping_add(i)).collect(),
        steps: args.steps,
        threshold_steps: args.threshold_steps,
        threshold_taus: args.threshold_taus.clone(),
        ..MethodSettings::default()
    }
}

fn labels(kind: LabelKind) -> Labels {
    match kind {
        LabelKind::Probability => Labels::Probability,
        LabelKind::Sampled => Labels::Sampled,
    }
}

fn toy(args: &ToyArgs, seed: u64) -> FrontSettings {
    FrontSettings {
        n_pairs: args.n_pairs,
        labels: labels(args.labels),
        n_thresholds: usize::from(args.thresholds),
        steps: args.steps,
        seed,
        ..FrontSettings::default()
    }
}

struct ExperimentJob<'a, E> {
    experiment: &'a E,
    bars: &'a mut Bars,
}

impl<E: Experiment + Sync> Job for ExperimentJob<'_, E> {
    type Output = Findings;

    fn run<B: Backend>(self, device: B::Device) -> Result<Findings> {
        let mut shown = 0;
        let bars = self.bars;
        bars.begin(E::NAME, 0, 100, Unit::Steps);
        let findings = self.experiment.run::<Autodiff<B>>(&device, &mut |done, of| {
            let now = (done * 100 / of.max(1)) as u64;
            bars.advance(now.saturating_sub(shown), "percent");
            shown = shown.max(now);
        })?;
        bars.end("");
        Ok(findings)
    }
}

fn run_one<E: Experiment + Sync>(experiment: &E, common: &BanditCommon) -> Result<()> {
    check(common.device)?;
    let out = common.out.clone().unwrap_or_else(|| PathBuf::from("runs/bandit").join(E::NAME));
    // Fail early if the folder cannot be written.
    std::fs::create_dir_all(&out).with_context(|| {
        format!("cannot create {}; choose another directory with --out DIR", out.display())
    })?;
    let clock = Instant::now();
    let mut bars = Bars::new();
    let findings = dispatch(common.device, ExperimentJob { experiment, bars: &mut bars })?;
    let seconds = clock.elapsed().as_secs_f64();
    let execution = Execution {
        version: env!("CARGO_PKG_VERSION"),
        device: &common.device.to_string(),
        seed: common.seed,
        seconds,
    };
    findings.write(&out, experiment, execution)?;
    outln!("{}", findings.summary.trim_end());
    outln!("\n{seconds:.0} s; table, figure and record: {}", out.display());
    Ok(())
}
