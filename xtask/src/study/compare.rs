//! The end of a study: budgets are compared, and the page is written.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::budget::{self, Budget};
use super::plan::Method;
use super::runs::Run;
use super::{Options, Study};
use crate::files::write_whole;
use crate::machine::{date_and_commit, machine};

impl Study {
    /// Checks budgets, and writes the page of all methods.
    pub(super) fn compare(
        &self,
        methods: &[Value],
        sensitivity: &[Value],
        command: &str,
        options: &Options,
    ) -> Result<()> {
        let tokens = self.check_budgets(methods)?;
        let names: Vec<&str> =
            methods.iter().filter_map(|method| method["name"].as_str()).collect();
        let reference = match names.contains(&self.plan.reference.as_str()) {
            true => self.plan.reference.as_str(),
            false => names.first().context("no method")?,
        };
        let mut about = self.about(command, &names)?;
        about.push(tokens);
        let study = json!({
            "title": self.plan.title,
            "about": about,
            "n_clusters": self.plan.size.n_clusters,
            "sensitivity": sensitivity,
            "reference": reference,
            "methods": methods,
        });
        let file = self.out.join("study.json");
        write_whole(&file, &format!("{study:#}\n"))?;
        let place = self.out.join("report");
        let args = ["study", &file.display().to_string(), "--out", &place.display().to_string()];
        self.program.run(&args.map(String::from), &self.out.join("study.log"))?;
        println!("the page: {}", place.join("index.html").display());
        if let Some(page) = &options.page {
            let stem = page.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let mut text = fs::read_to_string(place.join("study.md"))?;
            for (name, ending) in
                [("fronts", ""), ("clusters", "-clusters"), ("sensitivity", "-sensitivity")]
            {
                let (figure, own) = (format!("{name}.png"), format!("{stem}{ending}.png"));
                if place.join(&figure).exists() {
                    fs::copy(place.join(&figure), page.with_file_name(&own))?;
                    text = text.replace(&format!("({figure})"), &format!("({own})"));
                }
            }
            write_whole(page, &text)?;
            println!("the page for the documents: {}", page.display());
        }
        Ok(())
    }

    /// That all runs that were trained had the same budget and, with one seed, the same SFT model. Returns what is to be
    /// said of their tokens.
    fn check_budgets(&self, methods: &[Value]) -> Result<String> {
        let mut first: Option<Budget> = None;
        // The first run of each seed, and the least and the most tokens, relative to its own.
        let mut usual: BTreeMap<u64, (Budget, [f64; 2])> = BTreeMap::new();
        let mut unusual: Vec<(&Method, u64, Budget)> = vec![];
        let mut parameters: Vec<String> = vec![];
        let mut bases: BTreeMap<u64, (String, Value)> = BTreeMap::new();
        for method in methods {
            let name = method["name"].as_str().unwrap_or_default();
            let own = self.plan.method(name).context("a method of the plan")?;
            let Some(attempt) = self.chosen(own)? else { bail!("`{name}` is not done") };
            for seed in &self.plan.size.seeds {
                for part in self.plan.parts(own) {
                    let run = self.place(Run {
                        method: own,
                        seed: *seed,
                        attempt,
                        part: &part,
                        more: None,
                    });
                    let shown = format!("{name} {} (seed {seed})", part.label);
                    let record = run.join("run.json");
                    let record: Value = serde_json::from_str(
                        &fs::read_to_string(&record)
                            .with_context(|| format!("reading {}", record.display()))?,
                    )?;
                    let hashes = record["hashes"].as_object().context("no hashes in run.json")?;
                    let base: Value = hashes
                        .iter()
                        .filter(|(file, _)| file.starts_with("warm_start/"))
                        .map(|(file, hash)| json!([file, hash]))
                        .collect();
                    let (of, known) =
                        bases.entry(*seed).or_insert_with(|| (shown.clone(), base.clone()));
                    ensure!(*known == base, "{shown} has another SFT model than {of}");
                    if own.tries.is_empty() {
                        // Nothing is trained.
                        continue;
                    }
                    let tokens = budget::tokens(&run)?["trained"].as_f64();
                    let config = budget::config(&run)?;
                    let this = || Budget::of(shown.clone(), config.clone(), tokens, own);
                    match &first {
                        None => first = Some(this()),
                        Some(first) => first.same(&this())?,
                    }
                    if let Some(besides) = this().parameters() {
                        let of = format!("{name}: {besides}");
                        if !parameters.contains(&of) {
                            parameters.push(of);
                        }
                    }
                    if !this().is_usual() {
                        unusual.push((own, *seed, this()));
                    } else if let Some((usual, [least, most])) = usual.get_mut(seed) {
                        let ratio = usual.token_ratio(&this())?.unwrap_or(1.0);
                        (*least, *most) = (least.min(ratio), most.max(ratio));
                    } else {
                        usual.insert(*seed, (this(), [1.0; 2]));
                    }
                }
            }
        }
        let (Some(first), false) =
            (usual.values().next().and_then(|(run, _)| run.tokens), usual.is_empty())
        else {
            return Ok("How many tokens they were trained on was not recorded.".into());
        };
        let parameters = match parameters.is_empty() {
            true => String::new(),
            false => format!(" Besides one adapter, these train: {}.", parameters.join("; ")),
        };
        let mut said = format!(
            "Each run was trained on {first:.0} tokens, within {:.1} % of each other for one seed, except:",
            100.0 * usual.values().map(|(_, [least, most])| most / least - 1.0).fold(0.0, f64::max)
        );
        // By method: the mean ratio, and why.
        let mut others: Vec<(&Method, Vec<Option<f64>>)> = vec![];
        for (method, seed, budget) in &unusual {
            let ratio = match usual.get(seed) {
                Some((usual, _)) => usual.token_ratio(budget)?,
                None => None,
            };
            match others.iter_mut().find(|(known, _)| known.name == method.name) {
                Some((_, ratios)) => ratios.push(ratio),
                None => others.push((method, vec![ratio])),
            }
        }
        for (method, ratios) in &others {
            let n = ratios.len() as f64;
            let known: Option<f64> = ratios.iter().copied().sum();
            let why = method.other_tokens.as_deref().unwrap_or("they were not recorded");
            said.push_str(&match known {
                Some(sum) => format!(" {}, {:.2} times as many ({why});", method.name, sum / n),
                None => format!(" {}, of which they are not known;", method.name),
            });
        }
        Ok(match others.is_empty() {
            true => said.replace(", except:", "."),
            false => said.trim_end_matches(';').to_string() + ".",
        } + &parameters)
    }

    /// What the page says above its tables.
    fn about(&self, command: &str, compared: &[&str]) -> Result<Vec<String>> {
        let first = self.plan.size.seeds[0];
        let config = budget::config(&self.base(first))?;
        let of = |section: &str, key: &str| {
            let value = config.get(section).and_then(|section| section.get(key));
            value.map_or("?".to_string(), ToString::to_string)
        };
        let some = &self.plan.methods.iter().find(|method| !method.tries.is_empty());
        let trained = match some {
            Some(method) => {
                let attempt = self.chosen(method)?.unwrap_or(0);
                let part = &self.plan.parts(method)[0];
                budget::config(&self.place(Run { method, seed: first, attempt, part, more: None }))
                    .unwrap_or_default()
            }
            None => toml::Table::new(),
        };
        let training = |key: &str| {
            let value = trained.get("training").and_then(|section| section.get(key));
            value.map_or("?".to_string(), ToString::to_string)
        };
        let tries = match self.plan.size.n_tries {
            1 => "Hyper-parameters are the first of each method's list; none were compared."
                .to_string(),
            n => format!(
                "Hyper-parameters are chosen with the first seed on {} prompts that are neither in its training nor in its \
                 test, {n} tries each.",
                self.plan.size.validation_prompts
            ),
        };
        let taken_over: Vec<String> = (self.plan.methods.iter())
            .filter(|method| compared.contains(&&*method.name))
            .filter_map(|method| Some(format!("{} ({})", method.name, method.corners_of.as_ref()?)))
            .collect();
        let corners = match taken_over.is_empty() {
            true => String::new(),
            false => format!(
                " Where all weight is on one objective, these take over another method's run with the same try, which counts in \
                 the costs of both: {}.",
                taken_over.join("; ")
            ),
        };
        Ok(vec![
            format!("    {command}"),
            format!("{}; {}.", date_and_commit(), machine()),
            format!(
                "Every trained run starts from the SFT model of its seed ({} steps), and has {} steps of {} × {} pairs of \
                 the same training set, a LoRA adapter of rank {} with alpha {}, Adam, and a linear schedule; this is checked \
                 before the page is written. {tries}{corners}",
                of("sft", "steps"),
                training("steps"),
                training("batch_size"),
                training("gradient_accumulation_steps"),
                of("lora", "rank"),
                of("lora", "alpha"),
            ),
        ])
    }
}
