//! `mopo study`: methods with several seeds on one page. Nothing is generated again, so no model is needed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mopo_eval::{ClusterConfig, cluster_prompts};
use mopo_report::{Study, StudyOptions, StudyReport, write_study};
use mopo_train::DirLock;

use super::report::check_report_place;
use crate::args::StudyArgs;
use crate::output::outln;

pub(crate) fn run(args: &StudyArgs) -> Result<()> {
    let path = &args.study;
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let study: Study = serde_json::from_str(&text).with_context(|| {
        format!("{} is not a study (docs/evaluation.md#studies)", path.display())
    })?;
    let root = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let out = args.out.as_deref().unwrap_or(root);
    check_report_place(out, "study")?;
    let options = StudyOptions { n_resamples: args.resamples, ..StudyOptions::default() };
    let cluster = |prompts: &[String], n_clusters| {
        let config = ClusterConfig { n_clusters, ..ClusterConfig::default() };
        cluster_prompts(prompts, &config).map_err(|e| e.to_string())
    };
    let report = StudyReport::new(&study, root, &options, &cluster)
        .with_context(|| format!("comparing what {} names", path.display()))?;
    mopo_hub::create_dir(out)?;
    let lock = DirLock::acquire(out)?;
    let files = write_study(out, &study, &report)?;
    drop(lock);
    for method in &report.methods {
        outln!("{:<28} hypervolume {:.4}", method.name, method.hypervolume.value);
    }
    outln!("\nwrote");
    outln!("  {}  (the page: open it in a browser)", files.index_html.display());
    outln!("  {}  (its tables in Markdown)", files.markdown.display());
    outln!("  {}  (all results as JSON)", files.json.display());
    for figure in &files.figures {
        outln!("  {}", figure.display());
    }
    let is_front = |figure: &PathBuf| figure.file_stem().is_some_and(|stem| stem == "fronts");
    if !files.figures.iter().any(is_front) {
        outln!("no figure of the fronts: no two objectives have z-scores for all methods");
    }
    Ok(())
}
