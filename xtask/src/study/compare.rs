//! The end of a study: budgets are compared, and the page is written.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::plan::{self, Budget};
use super::{Options, Study};
use crate::files::write_whole;
use crate::machine::{date_and_commit, machine};

impl Study {
    /// Checks budgets, and writes the page of all methods.
    pub(super) fn compare(
        &self,
        methods: &[Value],
        command: &str,
        options: &Options,
    ) -> Result<()> {
        self.check_budgets(methods)?;
        let names: Vec<&str> =
            methods.iter().filter_map(|method| method["name"].as_str()).collect();
        let reference = match names.contains(&self.plan.reference.as_str()) {
            true => self.plan.reference.as_str(),
            false => names.first().context("no method")?,
        };
        let study = json!({
            "title": self.plan.title,
            "about": self.about(command)?,
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
            let figure = page.with_extension("png");
            let name = figure.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(place.join("study.md"))?.replace("fronts.png", &name);
            write_whole(page, &text)?;
            if place.join("fronts.png").exists() {
                fs::copy(place.join("fronts.png"), &figure)?;
            }
            println!("the page for the documents: {}", page.display());
        }
        Ok(())
    }

    /// That all runs that were trained had the same budget and, with one seed, the same SFT model.
    fn check_budgets(&self, methods: &[Value]) -> Result<()> {
        let mut first: Option<Budget> = None;
        let mut bases: BTreeMap<u64, (String, Value)> = BTreeMap::new();
        for method in methods {
            let name = method["name"].as_str().unwrap_or_default();
            let own = self.plan.method(name).context("a method of the plan")?;
            let Some(attempt) = self.chosen(own)? else { bail!("`{name}` is not done") };
            for seed in &self.plan.size.seeds {
                for part in self.plan.parts(own) {
                    let run = self.place(own, *seed, attempt, &part);
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
                    let budget = Budget::of(shown, plan::config(&run)?, own);
                    match &first {
                        None => first = Some(budget),
                        Some(first) => first.same(&budget)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// What the page says above its tables.
    fn about(&self, command: &str) -> Result<Vec<String>> {
        let first = self.plan.size.seeds[0];
        let config = plan::config(&self.base(first))?;
        let of = |section: &str, key: &str| {
            let value = config.get(section).and_then(|section| section.get(key));
            value.map_or("?".to_string(), ToString::to_string)
        };
        let some = &self.plan.methods.iter().find(|method| !method.tries.is_empty());
        let trained = match some {
            Some(method) => {
                let attempt = self.chosen(method)?.unwrap_or(0);
                let part = &self.plan.parts(method)[0];
                plan::config(&self.place(method, first, attempt, part)).unwrap_or_default()
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
                "Hyper-parameters are chosen with the first seed on {} prompts that are neither in training nor in this \
                 page's test, {n} tries each.",
                self.plan.size.validation_prompts
            ),
        };
        Ok(vec![
            format!("    {command}"),
            format!("{}; {}.", date_and_commit(), machine()),
            format!(
                "Every trained run starts from the SFT model of its seed ({} steps), and has {} steps of {} × {} pairs of \
                 the same training set, a LoRA adapter of rank {} with alpha {}, Adam, and a linear schedule; this is checked \
                 before the page is written. {tries}",
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
