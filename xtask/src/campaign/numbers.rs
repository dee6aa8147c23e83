//! Extreme hyper-parameters and degenerate data with every method: an error, or results whose numbers are all finite.

use std::fs;

use anyhow::{Context, Result};
use toml::Value;

use super::bench::{Bench, Trial};
use super::finite::not_finite;
use super::inputs::REWARDS;
use super::jobs::{Job, Method, train};
use super::sets;
use crate::random::Random;

/// Real numbers that are tried.
const REALS: &[&str] = &[
    "0.0", "-0.0", "-1.0", "1e-30", "1e30", "1e300", "5e-324", "nan", "inf", "-inf", "0.5", "1.0",
    "2.0", "-1e30", "1e-8",
];
/// Whole numbers that are tried.
const WHOLE: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "7",
    "-1",
    "1000",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
];
/// Of those whose number is how much is done: a large one takes long, as it should.
const FEW: &[&str] = &["0", "1", "2", "3", "5", "-1", "9223372036854775808"];
const HOW_MUCH: &[&str] = &[
    "steps",
    "n_prompts",
    "epochs",
    "max_new_tokens",
    "mixture_steps",
    "group_size",
    "rounds",
    "answers",
    "directions",
    "gradient_accumulation_steps",
    "batch_size",
    "minibatches",
    "prompts",
];
/// Of those whose number is the size of a model: small ones, and such as cannot be.
const SIZES: &[&str] =
    &["0", "1", "2", "3", "7", "-1", "4294967296", "9223372036854775807", "9223372036854775808"];
const SIZE_OF: &str = "model.scratch.";
/// Keys that a configuration may have beyond those of the demo.
const OPTIONAL: &[(&str, bool)] =
    &[("head_rank", false), ("training.eval_steps", false), ("training.eval_prompts", false)];
/// Of all settings: the numbers of a reward, which are in a list.
const REWARD_SHARE: f64 = 0.05;
/// More than any of these trainings needs: what wants more is refused memory instead of taking the machine's.
const MEMORY: &str = "--as=6442450944";

/// One trial.
pub(super) fn one(bench: &Bench, trial: u64) -> Result<Trial> {
    let mut random = Random::of_trial(bench.seed, "numbers", trial);
    let methods = &bench.inputs.methods;
    let method = &methods[(trial % methods.len() as u64) as usize];
    let job = train(method);
    match method.combines || random.chance(0.55) {
        true => parameters(bench, trial, &job, method, &mut random),
        false => set(bench, trial, &job, method, &mut random),
    }
}

/// One or two keys of a method with an extreme value.
fn parameters(
    bench: &Bench,
    trial: u64,
    job: &Job,
    method: &Method,
    random: &mut Random,
) -> Result<Trial> {
    let space = bench.workspace("numbers", trial, job)?;
    let keys = keys(bench, &method.name)?;
    let own: Vec<&(String, bool)> =
        keys.iter().filter(|(key, _)| key.starts_with(&method.name)).collect();
    let mut line = job.line.clone();
    let mut shown = vec![];
    for _ in 0..1 + usize::from(random.chance(0.3)) {
        if random.chance(REWARD_SHARE) {
            let [point, mean, std] = [(); 3].map(|()| *random.pick(REALS));
            let set = REWARDS.replace(
                "ref_point=-20.0",
                &format!("ref_point={point},statistics={{mean={mean},std={std}}}"),
            );
            line += &format!(" {set}");
            shown.push(set);
            continue;
        }
        let (key, is_real) = match !own.is_empty() && random.chance(0.5) {
            true => *random.pick(&own),
            false => random.pick(&keys),
        };
        let values = values(key, *is_real);
        let set = format!("{key}={}", random.pick(values));
        line += &format!(" --set {set}");
        shown.push(set);
    }
    finish(bench, &space, job, &line, ["parameters", &shown.join(" ")], random)
}

fn values(key: &str, is_real: bool) -> &'static [&'static str] {
    let last = key.rsplit('.').next().unwrap_or(key);
    match is_real {
        true => REALS,
        false if HOW_MUCH.contains(&last) => FEW,
        false if key.starts_with(SIZE_OF) => SIZES,
        false => WHOLE,
    }
}

/// A degenerate set, with 1 to 5 objectives.
fn set(
    bench: &Bench,
    trial: u64,
    job: &Job,
    method: &Method,
    random: &mut Random,
) -> Result<Trial> {
    let job = Job { needs: vec!["train.toml"], ..job.clone() };
    let space = bench.workspace("numbers", trial, &job)?;
    let (kind, k) = (*random.pick(sets::KINDS), 1 + random.below(5));
    fs::write(space.dir.join("set.jsonl"), sets::set(kind, k))?;
    let Method { name, own, .. } = method;
    let names = serde_json::to_string(&sets::OBJECTIVES[..k])?;
    let line = format!(
        "train --config train.toml --method {name} --data set.jsonl --set policies={names} {} {own} --no-cache --out out",
        sets::rewards(k)
    );
    finish(bench, &space, &job, &line, ["set", &format!("{kind}, {k} objectives")], random)
}

fn finish(
    bench: &Bench,
    space: &super::bench::Workspace,
    job: &Job,
    line: &str,
    [what, shown]: [&str; 2],
    random: &mut Random,
) -> Result<Trial> {
    let limited = |line: &str| {
        let run = bench.inputs.run(line, &space.dir);
        match super::has_program("prlimit") {
            true => run.wrapped(["prlimit", MEMORY]),
            false => run,
        }
    };
    let ended = limited(line).to_end()?;
    bench.say(|| format!("mopo {line}\n{:?}\n{}", ended.code, ended.complained));
    let mut failure = ended.misbehaved();
    let mut took = "an error";
    if failure.is_none() && ended.succeeded() {
        took = "finite results";
        failure = not_finite(&space.dir.join("out"))?;
        if failure.is_none() && random.chance(0.2) {
            let after = limited("pareto out").to_end()?;
            bench.say(|| format!("pareto: {:?}\n{}", after.code, after.complained));
            failure = after.misbehaved().map(|why| format!("`mopo pareto out` then: {why}"));
        }
    }
    let shown = format!("{shown} # {line}");
    Ok(Trial { job: job.name.clone(), class: format!("{what}: {took}"), failure, shown })
}

/// The keys of a method's configuration whose values are numbers, and whether they are real ones.
fn keys(bench: &Bench, method: &str) -> Result<Vec<(String, bool)>> {
    let path = bench.inputs.dir.join("run-b/config.toml");
    let mut config: toml::Table =
        fs::read_to_string(&path)?.parse().context("a run's config.toml")?;
    for section in ["mopo", "method", "name"] {
        config.remove(section);
    }
    let printed = bench.inputs.run(&format!("config {method}"), &bench.inputs.dir);
    let printed =
        super::process::Run { dir: bench.dir.join(format!("config-{method}")), ..printed };
    fs::create_dir_all(&printed.dir)?;
    let own: toml::Table =
        printed.to_end()?.said.parse().with_context(|| format!("mopo config {method}"))?;
    let mut all = vec![];
    for table in [&config, &own] {
        flatten("", table, &mut all);
    }
    all.extend(OPTIONAL.iter().map(|(key, is_real)| (key.to_string(), *is_real)));
    Ok(all)
}

fn flatten(before: &str, table: &toml::Table, all: &mut Vec<(String, bool)>) {
    for (key, value) in table {
        let key = format!("{before}{key}");
        match value {
            Value::Integer(_) => all.push((key, false)),
            Value::Float(_) => all.push((key, true)),
            Value::Table(inner) => flatten(&format!("{key}."), inner, all),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_configuration_are_found_by_their_whole_keys() {
        let table =
            "seed = 1\nname = \"x\"\n[a]\nb = 1.5\n[a.c]\nd = 2\n[[e]]\nf = 3\n".parse().unwrap();
        let mut all = vec![];
        flatten("", &table, &mut all);
        assert_eq!(all, [("a.b".into(), true), ("a.c.d".into(), false), ("seed".into(), false)]);
    }

    #[test]
    fn large_numbers_are_not_tried_where_they_are_work() {
        assert!(!values("training.steps", false).contains(&"4294967296"));
        assert!(!values("model.scratch.intermediate_size", false).contains(&"65536"));
        assert!(values("lora.rank", false).contains(&"4294967296"));
        assert!(values("dpo.beta", true).contains(&"nan"));
    }
}
