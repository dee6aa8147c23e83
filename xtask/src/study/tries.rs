//! The hyper-parameters of a method: tried with the first seed, and chosen on validation prompts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::plan::{Method, Part, folder};
use super::runs::Run;
use super::work::beside;
use super::{Split, Study};
use crate::files::write_whole;

impl Study {
    /// Where it is written down which try is the best.
    pub(super) fn choice(&self, method: &Method) -> PathBuf {
        let first = self.plan.size.seeds[0];
        self.out.join(format!("seed-{first}/{}/tries.json", folder(&method.name)))
    }

    /// The try that was best on validation prompts, if that is known.
    pub(super) fn chosen(&self, method: &Method) -> Result<Option<usize>> {
        let path = self.choice(method);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let tries: Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged", path.display()))?;
        let tries = tries.as_array().with_context(|| format!("{} is damaged", path.display()))?;
        Ok(tries.iter().position(|one| one["chosen"] == true))
    }

    /// Trains every try with the first seed, and writes down which has the largest hypervolume on validation prompts.
    pub(super) fn choose(
        &self,
        method: &Method,
        parts: &[Part],
        tries: &[Vec<String>],
    ) -> Result<()> {
        let first = self.plan.size.seeds[0];
        let volumes = match tries.len() {
            1 => vec![None],
            _ => {
                let jobs: Vec<(usize, &Part)> = (0..tries.len())
                    .flat_map(|attempt| parts.iter().map(move |part| (attempt, part)))
                    .collect();
                let results =
                    self.side_by_side(self.order(method), &jobs, |program, (attempt, part)| {
                        let run = Run { method, seed: first, attempt: *attempt, part, more: None };
                        self.one(program, run, Split::Validation)
                    })?;
                let place = self.choice(method).with_file_name("validation");
                let compared: Vec<Value> = (0..tries.len())
                    .map(|attempt| {
                        let runs: Vec<Value> = jobs
                            .iter()
                            .zip(&results)
                            .filter(|((of, _), _)| *of == attempt)
                            .map(|((_, part), results)| {
                                json!({
                                    "seed": first,
                                    "label": part.label,
                                    "results": results.display().to_string(),
                                    "cost": null,
                                })
                            })
                            .collect();
                        json!({ "name": format!("try {}", attempt + 1), "runs": runs })
                    })
                    .collect();
                let volumes = self.volumes(&place, &method.name, "try 1", compared)?;
                volumes.into_iter().map(Some).collect()
            }
        };
        let best = (0..volumes.len())
            .rev()
            .max_by(|a, b| volumes[*a].unwrap_or(0.0).total_cmp(&volumes[*b].unwrap_or(0.0)));
        let record: Vec<Value> = tries
            .iter()
            .zip(&volumes)
            .enumerate()
            .map(|(i, (one, volume))| {
                json!({
                    "settings": settings(one),
                    "hypervolume": volume.unwrap_or(0.0),
                    "chosen": Some(i) == best,
                })
            })
            .collect();
        write_whole(&self.choice(method), &format!("{:#}\n", Value::from(record)))
    }

    /// Hypervolumes of methods, in their order, by `mopo study`.
    fn volumes(
        &self,
        place: &Path,
        title: &str,
        reference: &str,
        methods: Vec<Value>,
    ) -> Result<Vec<f64>> {
        let study = json!({ "title": title, "reference": reference, "methods": methods });
        let file = beside(place, "json");
        write_whole(&file, &format!("{study:#}\n"))?;
        let args: Vec<String> = [
            "study",
            &file.display().to_string(),
            "--resamples",
            "1",
            "--out",
            &place.display().to_string(),
        ]
        .map(String::from)
        .to_vec();
        self.program.run(&args, &beside(place, "log"))?;
        let found: Value = serde_json::from_str(&fs::read_to_string(place.join("results.json"))?)?;
        let methods =
            found["report"]["methods"].as_array().context("no methods in results.json")?;
        // The first is the SFT model.
        let volume = |method: &Value| method["hypervolume"]["value"].as_f64();
        methods.iter().skip(1).map(volume).collect::<Option<_>>().context("no hypervolume")
    }
}

/// A try, as `tries.json` has it.
pub(super) fn settings(overrides: &[String]) -> String {
    match overrides.is_empty() {
        true => "as given".into(),
        false => overrides.join(" "),
    }
}
