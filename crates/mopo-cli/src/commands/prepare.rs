//! `mopo prepare`: a data source as one prepared set with its summary, or its prompts.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use mopo_data::{Summary, sample_prompts, write_prompts};
use mopo_train::config::{DataConfig, SourceConfig};
use mopo_train::{prepare_prompts, prepare_records};

use crate::args::PrepareArgs;

pub(crate) fn run(args: PrepareArgs) -> Result<()> {
    let (config, name) = match &args.config {
        Some(path) => (DataConfig::from_file(path, &args.set)?, path.display().to_string()),
        None => (DataConfig::named(&args.name, &args.set)?, args.name.clone()),
    };
    let data = args.data.as_deref();
    config.source.check_path(&name, data)?;
    if let (Some(data), Some(out)) = (data, args.out.as_deref()) {
        let real = |path: &Path| path.canonicalize().ok();
        if real(data).is_some() && real(data) == real(out) {
            bail!("--out is the file of --data, which would be overwritten; choose another");
        }
    }
    if args.prompts { prompts(&args, &config.source) } else { pairs(&args, &config.source) }
}

fn pairs(args: &PrepareArgs, config: &SourceConfig) -> Result<()> {
    let (set, notes) = prepare_records(config, args.data.as_deref(), args.seed, args.strict)?;
    for note in notes {
        eprintln!("{note}");
    }
    // No tokenizer yet: lengths in words.
    let words = |text: &str| text.split_whitespace().count();
    println!("{}", Summary::new(&set.header.objectives, &set.records, words));
    println!("(lengths in words)");
    let Some(out) = &args.out else { return Ok(()) };
    let hash = set.write(out)?;
    println!("wrote {} ({} pairs, sha256 {hash})", out.display(), set.records.len());
    println!(
        "train on it: mopo train --config FILE --data {} with `data.source = \"prepared\"`",
        out.display()
    );
    Ok(())
}

fn prompts(args: &PrepareArgs, config: &SourceConfig) -> Result<()> {
    let (read, notes) = prepare_prompts(config, args.data.as_deref(), args.seed, args.strict)?;
    for note in notes {
        eprintln!("{note}");
    }
    let n_found = read.prompts.len();
    ensure!(args.n_prompts != Some(0), "--n-prompts is 0; leave it out for all of them");
    let prompts = match args.n_prompts {
        Some(n_prompts) => sample_prompts(read.prompts, n_prompts, args.seed),
        None => read.prompts,
    };
    println!("{n_found} distinct prompts, of which {} are taken", prompts.len());
    let Some(out) = &args.out else { return Ok(()) };
    let hash = write_prompts(out, &prompts)?;
    println!("wrote {} ({} prompts, sha256 {hash})", out.display(), prompts.len());
    Ok(())
}
