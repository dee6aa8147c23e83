//! `mopo prepare`: writes a data source as a prepared data set with its summary, or its prompts.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use mopo_data::{SummaryBuilder, n_words};
use mopo_hub::{check_output_file, counted};
use mopo_train::config::{DataConfig, SourceConfig};
use mopo_train::{prepare_prompts, prepare_staged};

use crate::args::PrepareArgs;
use crate::output::{errln, outln};

pub(crate) fn run(args: PrepareArgs) -> Result<()> {
    let (config, name) = match &args.config {
        Some(path) => (DataConfig::from_file(path, &args.set)?, path.display().to_string()),
        None => (DataConfig::named(&args.name, &args.set)?, args.name.clone()),
    };
    let data = args.data.as_deref();
    config.source.check_path(&name, data)?;
    if let Some(out) = &args.out {
        check_output_file(out, data.into_iter().chain(args.config.as_deref()))?;
        ensure!(
            args.force || !out.exists() || is_prepared(out),
            "{} exists, and `mopo prepare` did not write it; replace it with --force",
            out.display()
        );
    }
    if args.prompts { prompts(&args, &config.source) } else { pairs(&args, &config.source) }
}

/// Whether a file begins as one that this command writes: a prepared set, or prompts.
fn is_prepared(path: &Path) -> bool {
    let mut line = String::new();
    let read = File::open(path).map(|file| BufReader::new(file.take(1 << 20)).read_line(&mut line));
    let first = match read {
        Ok(Ok(_)) => serde_json::from_str::<serde_json::Value>(&line).unwrap_or_default(),
        _ => return false,
    };
    let has = |keys: &[&str]| keys.iter().all(|key| first.get(key).is_some());
    // Answers have a response besides.
    has(&["objectives", "records"]) || has(&["id", "source", "prompt"]) && !has(&["response"])
}

fn pairs(args: &PrepareArgs, config: &SourceConfig) -> Result<()> {
    let (data, scratch) = (args.data.as_deref(), scratch(args.out.as_deref()));
    let mut summary: Option<SummaryBuilder> = None;
    let keep = args.out.is_some();
    let (set, notes) = prepare_staged(
        config,
        data,
        args.seed,
        args.strict,
        &scratch,
        keep,
        &mut |objectives, record| {
            summary
                .get_or_insert_with(|| SummaryBuilder::new(&scratch, objectives))
                .push(record, &n_words)
        },
    )?;
    for note in notes {
        errln!("{note}");
    }
    if let Some(summary) = summary {
        outln!("{}", summary.finish()?);
        outln!("(lengths in words)");
    }
    let Some(out) = &args.out else { return Ok(()) };
    let hash = set.write(out)?;
    outln!("wrote {} ({} pairs, sha256 {hash})", out.display(), set.header().records);
    outln!(
        "train on it: mopo train --config FILE --data {} with `data.source = \"prepared\"`",
        out.display()
    );
    Ok(())
}

fn prompts(args: &PrepareArgs, config: &SourceConfig) -> Result<()> {
    ensure!(
        args.n_prompts != Some(0),
        "--n-prompts must be above 0; leave it out to take all prompts"
    );
    let (data, scratch) = (args.data.as_deref(), scratch(args.out.as_deref()));
    let (read, notes) = prepare_prompts(config, data, args.seed, args.strict, &scratch)?;
    for note in notes {
        errln!("{note}");
    }
    let n_found = read.prompts.len();
    let prompts = match args.n_prompts {
        Some(n_prompts) => read.prompts.sample(n_prompts, args.seed)?,
        None => read.prompts,
    };
    let n_taken = prompts.len();
    outln!("{}, {n_taken} taken", counted(n_found, "distinct prompt"));
    let Some(out) = &args.out else { return Ok(()) };
    let hash = prompts.write(out)?;
    outln!("wrote {} ({n_taken} prompts, sha256 {hash})", out.display());
    Ok(())
}

/// Folder of temporary files: on the disk of `out`, which has room for the result.
fn scratch(out: Option<&Path>) -> PathBuf {
    let Some(out) = out else { return std::env::temp_dir() };
    let there = out.ancestors().skip(1).find(|folder| folder.is_dir());
    there.map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
