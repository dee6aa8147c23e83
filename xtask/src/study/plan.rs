//! What a study compares: a TOML file, and the runs that it comes to.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Most vectors of preference weights of the grid, each of which may be a run of its own.
const MOST_WEIGHTS: usize = 10_000;
/// Most objectives: every one may be a run of its own, and more make no front that anyone reads.
const MOST_OBJECTIVES: usize = 32;

/// A study.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    pub(super) title: String,
    /// The configuration of all runs: a preset of `mopo train`, a file, or `real-line`: that of the pipeline in the
    /// directory of the data.
    pub(super) preset: String,
    pub(super) objectives: Vec<String>,
    /// The method that others are compared with.
    pub(super) reference: String,
    #[serde(flatten)]
    pub(super) size: Size,
    /// Less of everything, to look at it.
    pub(super) quick: Size,
    pub(super) methods: Vec<Method>,
    /// Parameters whose influence is shown.
    #[serde(default)]
    pub(super) sensitivity: Vec<Parameter>,
}

/// How much is done.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Size {
    pub(super) seeds: Vec<u64>,
    /// Hyper-parameters of each method that are tried, from the first of its list.
    pub(super) n_tries: usize,
    /// Steps of the simplex grid of preference weights.
    pub(super) weight_steps: usize,
    pub(super) validation_prompts: usize,
    pub(super) test_prompts: usize,
    /// Clusters of prompts that fronts are drawn for.
    #[serde(default)]
    pub(super) n_clusters: usize,
    /// Seeds of the runs that show the influence of parameters; none: no such runs.
    #[serde(default)]
    pub(super) sensitivity_seeds: Vec<u64>,
    /// How many of each parameter's values are tried, spread over its list; by default all.
    pub(super) sensitivity_values: Option<usize>,
    /// Overrides of the SFT model's training.
    pub(super) sft: Vec<String>,
    /// Overrides of every run.
    pub(super) set: Vec<String>,
}

/// A parameter whose influence on a method's front is shown.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameter {
    pub(super) method: String,
    /// Its name on the page.
    pub(super) name: String,
    /// Its key in a run's configuration.
    pub(super) key: String,
    /// Ascending.
    pub(super) values: Vec<toml::Value>,
}

impl Parameter {
    /// The values of a study of this size.
    pub(super) fn of(&self, size: &Size) -> Vec<&toml::Value> {
        let n = self.values.len();
        let kept = size.sensitivity_values.unwrap_or(n).clamp(1, n);
        (0..kept).map(|i| &self.values[i * (n - 1) / (kept - 1).max(1)]).collect()
    }

    /// As numbers.
    fn numbers(&self) -> Vec<f64> {
        let number = |value: &toml::Value| match value {
            toml::Value::Integer(n) => *n as f64,
            toml::Value::Float(x) => *x,
            _ => f64::NAN,
        };
        self.values.iter().map(number).collect()
    }
}

/// A method of a study.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Method {
    pub(super) name: String,
    /// `method.kind`.
    pub(super) kind: String,
    #[serde(default)]
    pub(super) runs: RunsPer,
    /// Overrides, with the names in braces replaced ([`Filled`]).
    #[serde(default)]
    pub(super) set: Vec<String>,
    /// Further ones for the quick form, whose few steps may need others.
    #[serde(default)]
    pub(super) quick_set: Vec<String>,
    /// Responses to each of `training.batch_size` pairs or prompts: two of a pair.
    #[serde(default = "two")]
    pub(super) responses: i64,
    /// Why its runs cannot be trained on as many tokens as those of the others, if so.
    pub(super) other_tokens: Option<String>,
    /// Why it trains other parameters than one adapter, such as output layers, if so.
    pub(super) other_parameters: Option<String>,
    /// A method before it, with a run for each objective and the same tries, that this one is where all weight is on one
    /// objective: those runs are taken over.
    pub(super) corners_of: Option<String>,
    /// Hyper-parameters: overrides of which one list is chosen on validation prompts. None: nothing is trained.
    #[serde(default)]
    pub(super) tries: Vec<Vec<String>>,
}

fn two() -> i64 {
    2
}

/// How many runs a front takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RunsPer {
    /// One, with all policies.
    #[default]
    Front,
    /// One for each objective.
    Objective,
    /// One for each vector of preference weights of the grid.
    Weights,
}

/// One of a method's runs, before its hyper-parameters and seed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    /// What tells it from the others: an objective or weights; may be empty.
    pub(super) label: String,
    /// Preference weights by objective.
    weights: Vec<f64>,
}

impl Plan {
    /// Parses and checks; `origin` is its name in errors.
    pub(super) fn parse(text: &str, origin: &str) -> Result<Self> {
        let plan: Self = toml::from_str(text).with_context(|| format!("reading {origin}"))?;
        plan.check().with_context(|| format!("checking {origin}"))?;
        Ok(plan)
    }

    /// The same with less of everything.
    pub(super) fn quickly(self) -> Self {
        let mut quick = Self { size: self.quick.clone(), ..self };
        for method in &mut quick.methods {
            method.set.append(&mut method.quick_set);
        }
        quick
    }

    fn check(&self) -> Result<()> {
        ensure!(self.objectives.len() > 1, "`objectives` needs at least two");
        for (i, name) in self.objectives.iter().enumerate() {
            ensure!(i < MOST_OBJECTIVES, "`objectives` has more than {MOST_OBJECTIVES}");
            ensure!(!self.objectives[..i].contains(name), "`objectives` has `{name}` twice");
        }
        ensure!(!self.methods.is_empty(), "`methods` is empty");
        for size in [&self.size, &self.quick] {
            ensure!(!size.seeds.is_empty(), "`seeds` is empty");
            ensure!(size.n_tries > 0, "`n_tries` must be at least 1");
            ensure!(size.weight_steps > 0, "`weight_steps` must be at least 1");
            let (n, steps) = (self.objectives.len(), size.weight_steps);
            ensure!(
                grid_size(n, steps) <= MOST_WEIGHTS,
                "`weight_steps` is {steps}, which makes more than {MOST_WEIGHTS} vectors of weights of {n} objectives: \
                 choose a smaller number"
            );
        }
        let n_tries = self.size.n_tries.max(self.quick.n_tries);
        for (i, method) in self.methods.iter().enumerate() {
            let name = &method.name;
            let plain = |c: char| c.is_alphanumeric() || "-_ ().,+αβ".contains(c);
            ensure!(
                !name.is_empty() && name.chars().all(plain),
                "`{name}` is no name for a method"
            );
            ensure!(
                !self.methods[..i].iter().any(|other| folder(&other.name) == folder(name)),
                "two methods are called `{name}`"
            );
            // All get as many tries, or the comparison is of the care that each got.
            ensure!(
                method.tries.is_empty() || method.tries.len() >= n_tries,
                "`{name}` has {} tries, but `n_tries` is {n_tries}: every method is tried as often",
                method.tries.len()
            );
            if let Some(corners) = &method.corners_of {
                let known = self.methods[..i].iter().find(|method| method.name == *corners);
                let is_alike = |other: &Method| {
                    other.runs == RunsPer::Objective
                        && other.responses == method.responses
                        && other.tries.len() == method.tries.len()
                };
                ensure!(
                    method.runs == RunsPer::Weights && known.is_some_and(is_alike),
                    "`{name}` has `corners_of = {corners:?}`, so it needs `runs = \"weights\"`, and `{corners}`, with \
                     `runs = \"objective\"`, as many tries and responses, must come before it"
                );
            }
            for other in method.depends_on() {
                let known = self.methods[..i].iter().any(|method| method.name == other);
                ensure!(known, "`{name}` needs the runs of `{other}`, which must come before it");
            }
        }
        for parameter in &self.sensitivity {
            let Parameter { method, name, .. } = parameter;
            let known = self.methods.iter().find(|known| known.name == *method);
            ensure!(
                known.is_some_and(|method| !method.tries.is_empty()),
                "the sensitivity to `{name}` is that of `{method}`, which is no method that is trained"
            );
            let numbers = parameter.numbers();
            ensure!(
                numbers.len() > 1 && numbers.windows(2).all(|two| two[0] < two[1]),
                "`values` of the sensitivity to `{name}` must be at least two numbers, ascending"
            );
        }
        for size in [&self.size, &self.quick] {
            let missing = size.sensitivity_seeds.iter().find(|seed| !size.seeds.contains(seed));
            ensure!(missing.is_none(), "`sensitivity_seeds` has {missing:?}, which `seeds` lacks");
        }
        ensure!(
            self.methods.iter().any(|method| method.name == self.reference),
            "`reference` is `{}`, which is no method",
            self.reference
        );
        Ok(())
    }

    /// The methods of a list with commas, which names may have too; `None` if something in it is no name.
    pub(super) fn listed(&self, list: &str) -> Option<Vec<&str>> {
        let list = list.trim();
        if list.is_empty() {
            return Some(vec![]);
        }
        let mut names: Vec<&str> = self.methods.iter().map(|method| &*method.name).collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        names.into_iter().find_map(|name| {
            let rest = list.strip_prefix(name)?.trim_start();
            let rest = if rest.is_empty() { rest } else { rest.strip_prefix(',')? };
            Some([vec![name], self.listed(rest)?].concat())
        })
    }

    /// Adds a method after those whose runs it needs, and theirs, unless they are there.
    pub(super) fn with_needed<'a>(&'a self, method: &'a Method, chosen: &mut Vec<&'a Method>) {
        if chosen.iter().any(|known| known.name == method.name) {
            return;
        }
        // They come before it, so that this ends.
        for needed in method.depends_on().into_iter().filter_map(|name| self.method(name)) {
            self.with_needed(needed, chosen);
        }
        chosen.push(method);
    }

    pub(super) fn method(&self, name: &str) -> Option<&Method> {
        self.methods.iter().find(|method| method.name == name)
    }

    /// The method whose run a part of this one is, and the part that it is there.
    pub(super) fn owner<'a>(&'a self, method: &'a Method, part: &Part) -> (&'a Method, Part) {
        let corner = part.weights.iter().position(|&w| w == 1.0);
        let other = method.corners_of.as_ref().and_then(|name| self.method(name));
        match (corner, other) {
            (Some(k), Some(other)) => (other, self.parts(other).swap_remove(k)),
            _ => (method, part.clone()),
        }
    }

    /// The runs of a method's front.
    pub(super) fn parts(&self, method: &Method) -> Vec<Part> {
        let n = self.objectives.len();
        let corner = |k: usize| (0..n).map(|i| f64::from(u8::from(i == k))).collect();
        match method.runs {
            RunsPer::Front => vec![Part { label: String::new(), weights: vec![1.0 / n as f64; n] }],
            RunsPer::Objective => (self.objectives.iter().enumerate())
                .map(|(k, name)| Part { label: name.clone(), weights: corner(k) })
                .collect(),
            RunsPer::Weights => {
                let steps = self.size.weight_steps;
                let weights = |counts: Vec<usize>| -> Vec<f64> {
                    counts.into_iter().map(|count| count as f64 / steps as f64).collect()
                };
                let part = |weights: Vec<f64>| {
                    let texts: Vec<String> = weights.iter().map(|w| format!("{w:.2}")).collect();
                    Part { label: texts.join("/"), weights }
                };
                grid(n, steps).into_iter().map(weights).map(part).collect()
            }
        }
    }
}

impl Method {
    /// The tries of a study of this size; one without overrides where nothing is trained.
    pub(super) fn tried(&self, n_tries: usize) -> Vec<Vec<String>> {
        match self.tries.is_empty() {
            true => vec![vec![]],
            false => self.tries.iter().take(n_tries).cloned().collect(),
        }
    }

    /// Methods whose runs it takes over.
    pub(super) fn depends_on(&self) -> Vec<&str> {
        let names = self.set.iter().flat_map(|set| set.split("{runs:").skip(1));
        let named = names.filter_map(|rest| Some(rest.split_once('}')?.0));
        self.corners_of.as_deref().into_iter().chain(named).collect()
    }
}

/// What the names in braces of an override stand for.
pub(super) struct Filled<'a> {
    pub(super) objectives: &'a [String],
    pub(super) part: &'a Part,
    /// The runs of methods before, by method and label.
    pub(super) runs: &'a dyn Fn(&str) -> Result<BTreeMap<String, String>>,
}

impl Filled<'_> {
    /// `{objective}`: the part's; `{largest}`: the objective with the largest weight; `{objectives}`: all, as an array;
    /// `{weights}`: preference weights by objective; `{others:VALUE}`: a value for each objective but the part's;
    /// `{runs:METHOD}`: the directories of that method's runs by label.
    pub(super) fn fill(&self, set: &str) -> Result<String> {
        let mut text = set.to_owned();
        while let Some(start) = text.find("{runs:") {
            let end = start + text[start..].find('}').context("`{runs:` without a `}`")?;
            let method = &text[start + "{runs:".len()..end];
            let runs = (self.runs)(method)?;
            let listed: Vec<String> =
                runs.iter().map(|(label, run)| format!("{label} = {}", quoted(run))).collect();
            text.replace_range(start..=end, &format!("{{ {} }}", listed.join(", ")));
        }
        while let Some(start) = text.find("{others:") {
            let end = start + text[start..].find('}').context("`{others:` without a `}`")?;
            let value = &text[start + "{others:".len()..end];
            let others = self.objectives.iter().filter(|name| **name != self.part.label);
            let listed: Vec<String> = others.map(|name| format!("{name} = {value}")).collect();
            text.replace_range(start..=end, &format!("{{ {} }}", listed.join(", ")));
        }
        let weights = &self.part.weights;
        let by_name = self.objectives.iter().zip(weights);
        let listed: Vec<String> = by_name.map(|(name, w)| format!("{name} = {w:?}")).collect();
        // The first of several maxima.
        let largest = (0..weights.len())
            .rev()
            .max_by(|a, b| weights[*a].total_cmp(&weights[*b]))
            .map_or("", |k| &self.objectives[k]);
        let names: Vec<String> = self.objectives.iter().map(|name| quoted(name)).collect();
        for (name, value) in [
            ("{objective}", self.part.label.clone()),
            ("{largest}", largest.to_owned()),
            ("{objectives}", format!("[{}]", names.join(", "))),
            ("{weights}", format!("{{ {} }}", listed.join(", "))),
        ] {
            text = text.replace(name, &value);
        }
        Ok(text)
    }
}

/// A string of TOML.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A name as that of a folder.
pub(super) fn folder(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let text: String = name.chars().map(plain).collect();
    let parts: Vec<&str> = text.split('-').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "all".into() } else { parts.join("-") }
}

/// The number of ways to divide `steps` into `n` parts, or more than [`MOST_WEIGHTS`].
fn grid_size(n: usize, steps: usize) -> usize {
    let mut size: usize = 1;
    for i in 1..n {
        // A binomial coefficient, which stays whole.
        size = size.saturating_mul(steps.saturating_add(i)) / i;
        if size > MOST_WEIGHTS {
            break;
        }
    }
    size
}

/// All ways to divide `steps` into `n` parts.
fn grid(n: usize, steps: usize) -> Vec<Vec<usize>> {
    if n == 1 {
        return vec![vec![steps]];
    }
    let mut all = vec![];
    for first in (0..=steps).rev() {
        all.extend(grid(n - 1, steps - first).into_iter().map(|rest| [vec![first], rest].concat()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
title = "t"
preset = "demo"
objectives = ["a", "b"]
reference = "MOPO"
seeds = [0, 1]
n_tries = 2
weight_steps = 2
validation_prompts = 10
test_prompts = 20
sft = []
set = []
[quick]
seeds = [0]
n_tries = 1
weight_steps = 1
validation_prompts = 4
test_prompts = 4
sft = []
set = ["training.steps=3"]
[[methods]]
name = "DPO"
kind = "dpo"
runs = "objective"
set = ["dpo.objective={objective}", "t={others:0.5}"]
tries = [["dpo.beta=0.1"], ["dpo.beta=0.3"]]
[[methods]]
name = "Soups"
kind = "rewarded_soups"
set = ["rewarded_soups.runs={runs:DPO}"]
[[methods]]
name = "MOPO"
kind = "mopo"
runs = "weights"
set = ["x={weights}", "y={objectives}", "z={largest}"]
tries = [[], ["mopo.tau=0.1"]]
"#;

    #[test]
    fn grids_are_counted_before_they_are_made() {
        for (n, steps) in [(2, 1), (2, 7), (3, 1), (3, 4), (4, 5), (6, 3)] {
            assert_eq!(grid_size(n, steps), grid(n, steps).len(), "{n} {steps}");
        }
        for (n, steps) in [(2, usize::MAX), (3, 1 << 40), (100_000, 2), (40, 40)] {
            assert!(grid_size(n, steps) > MOST_WEIGHTS, "{n} {steps}");
        }
        let text = TEXT.replacen("weight_steps = 2", "weight_steps = 4611686018427387904", 1);
        let error = format!("{:#}", Plan::parse(&text, "test").unwrap_err());
        assert!(error.contains("weight_steps") && error.contains("smaller"), "{error}");
        for (objectives, expected) in [
            (vec!["a", "b", "a"], "`a` twice"),
            (vec!["a"; 2], "twice"),
            (vec!["a"], "at least two"),
        ] {
            let text = TEXT.replacen("[\"a\", \"b\"]", &format!("{objectives:?}"), 1);
            let error = format!("{:#}", Plan::parse(&text, "test").unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn overrides_are_filled_for_each_run() {
        let plan = Plan::parse(TEXT, "test").unwrap();
        let runs = |name: &str| -> Result<BTreeMap<String, String>> {
            assert_eq!(name, "DPO");
            Ok(BTreeMap::from([("a".into(), "runs/1".into()), ("b".into(), "runs/2".into())]))
        };
        let filled = |method: usize, part: usize| -> Vec<String> {
            let method = &plan.methods[method];
            let filled = Filled {
                objectives: &plan.objectives,
                part: &plan.parts(method)[part],
                runs: &runs,
            };
            method.set.iter().map(|set| filled.fill(set).unwrap()).collect()
        };
        assert_eq!(filled(0, 1), ["dpo.objective=b", "t={ a = 0.5 }"]);
        assert_eq!(filled(1, 0), ["rewarded_soups.runs={ a = \"runs/1\", b = \"runs/2\" }"]);
        assert_eq!(filled(2, 1), ["x={ a = 0.5, b = 0.5 }", "y=[\"a\", \"b\"]", "z=a"]);
        let labels = |plan: &Plan| -> Vec<String> {
            plan.parts(&plan.methods[2]).into_iter().map(|part| part.label).collect()
        };
        assert_eq!(labels(&plan), ["1.00/0.00", "0.50/0.50", "0.00/1.00"]);
        assert_eq!(plan.methods[1].depends_on(), ["DPO"]);
        assert_eq!(plan.methods[1].tried(2), [Vec::<String>::new()]);
        let quick = plan.quickly();
        assert_eq!(labels(&quick), ["1.00/0.00", "0.00/1.00"]);
        assert_eq!(quick.methods[0].tried(quick.size.n_tries).len(), 1);
    }

    #[test]
    fn corners_are_another_methods_runs() {
        let with =
            |line: &str| TEXT.replace("runs = \"weights\"", &format!("runs = \"weights\"\n{line}"));
        let plan = Plan::parse(&with("corners_of = \"DPO\""), "test").unwrap();
        let mopo = &plan.methods[2];
        assert_eq!(mopo.depends_on(), ["DPO"]);
        let owners: Vec<(String, String)> = plan
            .parts(mopo)
            .iter()
            .map(|part| plan.owner(mopo, part))
            .map(|(method, part)| (method.name.clone(), part.label))
            .collect();
        let expected = [("DPO", "a"), ("MOPO", "0.50/0.50"), ("DPO", "b")];
        assert_eq!(owners, expected.map(|(name, label)| (name.to_owned(), label.to_owned())));
        for text in [
            with("corners_of = \"Soups\""),
            with("corners_of = \"IPO\""),
            with("corners_of = \"DPO\"\nresponses = 4"),
            with("corners_of = \"DPO\"").replace("[[], [", "[[], [], ["),
            TEXT.replace("runs = \"weights\"", "corners_of = \"DPO\""),
        ] {
            let error = format!("{:#}", Plan::parse(&text, "test").unwrap_err());
            assert!(error.contains("corners_of") && error.contains("must come before"), "{error}");
        }
    }

    #[test]
    fn lists_of_methods_may_have_names_with_commas() {
        let text = TEXT.replace("name = \"Soups\"", "name = \"DPO, again\"");
        let plan = Plan::parse(&text, "test").unwrap();
        for (list, expected) in [
            ("DPO", Some(vec!["DPO"])),
            ("DPO, again,MOPO", Some(vec!["DPO, again", "MOPO"])),
            ("DPO, MOPO , DPO, again", Some(vec!["DPO", "MOPO", "DPO, again"])),
            ("DPO, once", None),
            ("DPOMOPO", None),
        ] {
            assert_eq!(plan.listed(list), expected, "{list}");
        }
    }

    #[test]
    fn what_is_not_fair_or_not_there_is_refused() {
        for (from, to, words) in [
            ("[[], [\"mopo.tau=0.1\"]]", "[[]]", "every method is tried as often"),
            ("{runs:DPO}", "{runs:IPO}", "must come before"),
            ("reference = \"MOPO\"", "reference = \"x\"", "no method"),
            ("name = \"MOPO\"", "name = \"dpo\"", "two methods"),
            ("[\"a\", \"b\"]", "[\"a\"]", "at least two"),
            ("kind = \"mopo\"", "kinds = \"mopo\"", "kinds"),
        ] {
            assert!(TEXT.contains(from), "{from}");
            let error = format!("{:#}", Plan::parse(&TEXT.replace(from, to), "test").unwrap_err());
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn the_values_of_a_parameter_are_numbers_spread_over_its_list() {
        let with = |values: &str, seeds: &str| {
            let parameter = format!(
                "{TEXT}\n[[sensitivity]]\nmethod = \"MOPO\"\nname = \"τ\"\nkey = \"mopo.tau\"\nvalues = {values}\n"
            );
            Plan::parse(&parameter.replacen("sft = []", &format!("sft = []\n{seeds}"), 1), "test")
        };
        let plan = with("[1, 2.5, 3.5, 4, 5]", "sensitivity_seeds = [1]").unwrap();
        let of = |n: Option<usize>| -> Vec<String> {
            let size = Size { sensitivity_values: n, ..plan.size.clone() };
            plan.sensitivity[0].of(&size).into_iter().map(ToString::to_string).collect()
        };
        assert_eq!(of(None), ["1", "2.5", "3.5", "4", "5"]);
        assert_eq!(
            (of(Some(3)), of(Some(2))),
            (vec!["1".into(), "3.5".into(), "5".into()], vec!["1".into(), "5".into()])
        );
        assert_eq!((of(Some(1)).len(), of(Some(9)).len()), (1, 5));
        for (values, seeds, words) in [
            ("[2, 1]", "", "ascending"),
            ("[1]", "", "at least two"),
            ("[1, \"x\"]", "", "numbers"),
            ("[1, 2]", "sensitivity_seeds = [7]", "Some(7)"),
        ] {
            let error = format!("{:#}", with(values, seeds).unwrap_err());
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
