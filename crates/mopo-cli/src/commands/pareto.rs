//! `mopo pareto`: every policy of a run answers held-out prompts; scores, front, figure, page.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use mopo_core::Objectives;
use mopo_data::{PreparedSet, file_sha256, read_prompts};
use mopo_eval::reward::score_all;
use mopo_eval::{ClusterConfig, PromptEmbedding, cluster_embedded, cluster_prompts};
use mopo_lm::{GenerationConfig, HeadChoice};
use mopo_ops::FusedBackend;
use mopo_report::{
    Evaluation, FrontConfig, FrontReport, PolicyGroup, PolicySamples, ReportExtras, RunExtras,
    write_report,
};
use mopo_train::{Progress, RunConfig, RunData, RunDir, RunRecord, Sampler};
use serde_json::{Value, json};

use super::models::resolve;
use super::report::{print, print_files, read_metrics};
use super::statistics::Known;
use crate::args::ParetoArgs;
use crate::device::{self, Job, dispatch};
use crate::progress::Bars;

pub(crate) fn run(args: ParetoArgs) -> Result<()> {
    device::check(args.device)?;
    let path = match &args.run {
        Some(path) => path.clone(),
        None => newest_run(Path::new("runs"))?,
    };
    let (run, mut config, record) = RunDir::open(&path)?;
    let e = &mut config.evaluation;
    e.n_prompts = args.n_prompts.unwrap_or(e.n_prompts);
    e.temperature = args.temperature.unwrap_or(e.temperature);
    e.mixture_steps = args.mixture_steps.unwrap_or(e.mixture_steps);
    e.embedding = args.protocol.embedding.map_or(e.embedding, Into::into);
    config.check()?;
    eprintln!("run directory: {}", path.display());
    let seed = args.seed.unwrap_or(config.seed);
    let out = args.out.clone().unwrap_or_else(|| run.join("pareto"));
    let rewards = &config.evaluation.rewards;
    let objectives = Objectives::new(rewards.iter().map(|axis| axis.name.clone()))?;
    // Before minutes of generation.
    ensure!(
        objectives.len() > 1,
        "`evaluation.rewards` has `{}` alone; a front needs at least two axes",
        objectives.names().join(", ")
    );
    let statistics = args.protocol.statistics.as_deref();
    let statistics = Known::new(statistics, &config.evaluation, &objectives, &run)?;
    let given = args.prompts.as_deref().map(|path| given_prompts(path, &run)).transpose()?;
    dispatch(args.device, Pareto { run, config, record, seed, out, objectives, statistics, given })
}

/// Prompts from a file, and what the run's record says of it.
struct Given {
    prompts: Vec<String>,
    record: Value,
}

fn given_prompts(path: &Path, run: &RunDir) -> Result<Given> {
    let prompts: Vec<String> = read_prompts(path)?.into_iter().map(|p| p.prompt).collect();
    let trained: HashSet<String> = PreparedSet::read(run.join("data/train.jsonl"))?
        .records
        .into_iter()
        .map(|r| r.prompt)
        .collect();
    let seen = prompts.iter().filter(|prompt| trained.contains(*prompt)).count();
    if seen > 0 {
        eprintln!(
            "note: {seen} of the {} prompts of {} are among the run's training pairs; what policies \
             answer there says less",
            prompts.len(),
            path.display()
        );
    }
    let record = json!({
        "file": path.file_name().unwrap_or_default().to_string_lossy(),
        "sha256": file_sha256(path)?,
        "prompts": prompts.len(),
        "trained_on": seen,
    });
    Ok(Given { prompts, record })
}

/// The finished run that was started last.
fn newest_run(root: &Path) -> Result<PathBuf> {
    let remedy = "train one with `cargo xtask train`, or name a run directory";
    let entries = std::fs::read_dir(root)
        .with_context(|| format!("there is no folder {} here; {remedy}", root.display()))?;
    let mut runs: Vec<(u64, PathBuf)> = Vec::new();
    let mut unfinished = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        match RunDir::open(&path) {
            Ok((run, _, record)) if run.is_finished() => runs.push((record.started, path)),
            Ok(_) => unfinished.push(path),
            Err(_) => {}
        }
    }
    if let Some((_, path)) = runs.into_iter().max() {
        return Ok(path);
    }
    match unfinished.first() {
        Some(path) => bail!(
            "no run below {} is finished; go on with `mopo train --resume {}`",
            root.display(),
            path.display()
        ),
        None => bail!("there is no run below {}; {remedy}", root.display()),
    }
}

struct Pareto {
    run: RunDir,
    config: RunConfig,
    record: RunRecord,
    seed: u64,
    out: PathBuf,
    objectives: Objectives,
    statistics: Known,
    given: Option<Given>,
}

impl Job for Pareto {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let clock = std::time::Instant::now();
        let settings = &self.config.evaluation;
        let sampler = Sampler::<B>::load(&self.run, &self.config, &device)?;
        let data = RunData::load(&self.run, &self.config, &self.record)?;
        let (available, kind, source) = match self.given {
            Some(given) => (given.prompts, "given", Some(given.record)),
            None => (data.heldout_prompts, "held-out", None),
        };
        if settings.n_prompts > available.len() {
            eprintln!(
                "note: {} prompts were asked for, there are {} {kind} ones; using all of them",
                settings.n_prompts,
                available.len()
            );
        }
        let prompts = choose(available, settings.n_prompts, self.seed);
        let clustering = ClusterConfig {
            n_clusters: settings.n_clusters,
            seed: self.seed,
            ..ClusterConfig::default()
        };
        let clusters = match settings.embedding {
            PromptEmbedding::TfIdf => cluster_prompts(&prompts, &clustering)?,
            PromptEmbedding::HiddenState => {
                cluster_embedded(&prompts, &sampler.prompt_states(&prompts)?, &clustering)?
            }
        };
        let rewards = settings
            .rewards
            .iter()
            .map(|axis| axis.reward.build::<B>(&device, &resolve))
            .collect::<mopo_eval::Result<Vec<_>>>()?;
        let objectives = self.objectives.names().to_vec();
        let generation = GenerationConfig {
            max_new_tokens: settings.max_new_tokens,
            temperature: settings.temperature,
            top_p: settings.top_p,
            seed: self.seed,
            ..Default::default()
        };

        let choices = choices(sampler.policies(), settings.mixture_steps);
        let mut bars = Bars::new();
        bars.begin("generate", 0, choices.len() * Sampler::<B>::batches(prompts.len()));
        let mut policies = Vec::with_capacity(choices.len());
        for choice in choices {
            let responses = sampler.answer(&choice.head, &prompts, &generation, &mut bars)?;
            policies.push(PolicySamples {
                run: None,
                scores: score_all(&rewards, &prompts, &responses)?,
                policy: choice.id,
                label: choice.label,
                group: choice.group,
                responses,
            });
        }
        bars.end("");
        rewards.iter().flat_map(|reward| reward.notes()).for_each(|note| eprintln!("{note}"));

        let whose = format!(
            "responses of the warm start of {} to {} {kind} prompts (temperature {}, seed {})",
            self.run.path().display(),
            prompts.len(),
            settings.temperature,
            self.seed
        );
        let statistics = self.statistics.with_warm_start(&objectives, &policies[0], &whose)?;
        let evaluation = Evaluation { objectives, prompts, clusters, policies };
        let front = FrontConfig {
            seed: self.seed,
            statistics,
            ..FrontConfig::new(settings.rewards.iter().map(|axis| axis.ref_point).collect())
        };
        let report = FrontReport::new(&evaluation, &front)?;
        let extras = ReportExtras {
            title: format!("{}: the Pareto front of its policies", self.config.name),
            summary: Some(format!(
                "{} policies on one phi of {} training pairs; {} responses each to {kind} \
                 prompts, temperature {}, seed {}.",
                sampler.policies().len(),
                data.train.len(),
                evaluation.prompts.len(),
                settings.temperature,
                self.seed
            )),
            rewards: settings
                .rewards
                .iter()
                .map(|axis| json!({ "name": axis.name, "reward": axis.reward }))
                .collect(),
            runs: vec![RunExtras {
                name: String::new(),
                metrics: read_metrics(&self.run.join("metrics.jsonl")),
                record: json!({
                    "run": self.record,
                    "configuration": self.config,
                    "generation": generation,
                    "prompts": source,
                    "result": self.run.read_json::<Value>("result.json")?,
                }),
            }],
            ..ReportExtras::default()
        };
        let files = write_report(&self.out, &report, &evaluation, &extras)?;

        print(&report);
        println!("\nin {:.0} s; wrote", clock.elapsed().as_secs_f64());
        print_files(&files);
        println!(
            "next: cargo run --release -p mopo-cli -- generate {} --policy {} --prompt \"…\"",
            self.run.path().display(),
            sampler.policies()[0]
        );
        Ok(())
    }
}

/// One policy of the comparison.
struct Choice {
    id: String,
    label: String,
    group: PolicyGroup,
    head: HeadChoice,
}

/// The warm start, every head, and the lattice of mixtures between them.
fn choices(names: &[String], steps: usize) -> Vec<Choice> {
    let mut out = vec![Choice {
        id: "warm-start".into(),
        label: "warm start".into(),
        group: PolicyGroup::WarmStart,
        head: HeadChoice::Base,
    }];
    for (k, name) in names.iter().enumerate() {
        out.push(Choice {
            id: format!("head-{name}"),
            label: name.clone(),
            group: PolicyGroup::Head,
            head: HeadChoice::Policy(k),
        });
    }
    for counts in lattice(names.len(), steps) {
        if counts.contains(&steps) {
            continue; // a corner: the head itself
        }
        let weights: Vec<f32> = counts.iter().map(|&c| c as f32 / steps as f32).collect();
        let text = weights.iter().map(|w| format!("{w:.2}")).collect::<Vec<_>>().join("/");
        out.push(Choice {
            id: format!("mixture-{}", text.replace('/', "-")),
            label: format!("mix {text}"),
            group: PolicyGroup::Mixture,
            head: HeadChoice::Mixture(weights),
        });
    }
    out
}

/// All ways to share `steps` among `k` parts.
fn lattice(k: usize, steps: usize) -> Vec<Vec<usize>> {
    if steps == 0 {
        return Vec::new();
    }
    if k == 1 {
        return vec![vec![steps]];
    }
    let mut out = Vec::new();
    for first in (0..=steps).rev() {
        let rest = match steps - first {
            0 => vec![vec![0; k - 1]],
            left => lattice(k - 1, left),
        };
        out.extend(rest.into_iter().map(|r| [vec![first], r].concat()));
    }
    out
}

/// A seeded sample of the prompts, in their order.
fn choose(prompts: Vec<String>, n: usize, seed: u64) -> Vec<String> {
    use rand::SeedableRng;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let n = n.min(prompts.len());
    let mut picked = rand::seq::index::sample(&mut rng, prompts.len(), n).into_vec();
    picked.sort_unstable();
    picked.into_iter().map(|i| prompts[i].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lattice_covers_the_simplex_without_its_corners() {
        assert_eq!(lattice(2, 10).len(), 11);
        assert_eq!(lattice(3, 3).len(), 10);
        assert!(lattice(3, 3).iter().all(|w| w.iter().sum::<usize>() == 3));
        let names: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        assert_eq!(choices(&names, 3).len(), 1 + 3 + 7);
        assert_eq!(choices(&names, 0).len(), 1 + 3);
        assert_eq!(choices(&names, 1).len(), 1 + 3);
    }

    #[test]
    fn prompts_are_sampled_by_seed_in_order() {
        let prompts: Vec<String> = (0..50).map(|i| format!("{i:02}")).collect();
        let a = choose(prompts.clone(), 7, 3);
        assert_eq!(a, choose(prompts.clone(), 7, 3));
        assert_ne!(a, choose(prompts.clone(), 7, 4));
        assert!(a.is_sorted());
        assert_eq!(choose(prompts.clone(), 99, 0), prompts);
    }
}
