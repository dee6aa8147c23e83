//! The fuzz targets, which are a program of their own: `mopo-fuzz`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::bench::Trial;
use crate::cargo::{cargo, root, target_directory};

const PACKAGE: &str = "mopo-fuzz";

/// What the fuzz targets found in so many seconds, a line for each target and its inputs.
pub(super) fn run(seconds: u64, seed: u64, dir: &Path) -> Result<Vec<(Trial, u64)>> {
    let built = cargo(&["build", "--release", "--package", PACKAGE]).current_dir(root()).status();
    ensure!(built.is_ok_and(|status| status.success()), "{PACKAGE} does not build");
    let program = target_directory()?.join("release").join(PACKAGE);
    let report = dir.join("fuzz.json");
    let mut command = Command::new(&program);
    command
        .args(["--seconds", &seconds.to_string(), "--seed", &seed.to_string(), "--report"])
        .arg(&report);
    // Its exit code is 1 where something was found; what was found is in the report.
    command.status().with_context(|| format!("starting {}", program.display()))?;
    parse(&fs::read_to_string(&report).context("the report of mopo-fuzz")?)
}

fn parse(text: &str) -> Result<Vec<(Trial, u64)>> {
    let report: Value = serde_json::from_str(text).context("the report of mopo-fuzz")?;
    let targets =
        report["targets"].as_array().context("the report of mopo-fuzz has no `targets`")?;
    let target = |target: &Value| {
        let name = target["name"].as_str().context("a target without a `name`")?.to_owned();
        let inputs = target["inputs"].as_u64().with_context(|| format!("{name}: no `inputs`"))?;
        let found = target["found"].as_array().map_or(&[][..], Vec::as_slice);
        let failure = (!found.is_empty()).then(|| Value::from(found).to_string());
        Ok((Trial { job: name, class: "inputs".into(), failure, shown: PACKAGE.into() }, inputs))
    };
    targets.iter().map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let text = r#"{"targets":[{"name":"records","inputs":12,"found":[]},{"name":"gguf","inputs":3,"found":["a panic"]}]}"#;
        let all = parse(text).unwrap();
        assert_eq!((all[0].0.job.as_str(), all[0].1, &all[0].0.failure), ("records", 12, &None));
        assert!(all[1].0.failure.as_ref().unwrap().contains("a panic"));
        assert!(parse("{}").unwrap_err().to_string().contains("targets"));
    }
}
