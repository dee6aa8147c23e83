//! `mopo prepare`: a data source as one prepared set, with its summary.

use anyhow::Result;
use mopo_data::Summary;
use mopo_train::{RunConfig, check_data_path, prepare_records};

use crate::args::PrepareArgs;

pub(crate) fn run(args: PrepareArgs) -> Result<()> {
    let config = match &args.config {
        Some(path) => RunConfig::from_file(path)?,
        None => RunConfig::preset(&args.preset)?,
    };
    check_data_path(&config, args.data.as_ref())?;
    let (set, notes) = prepare_records(&config.data, args.data.as_deref(), args.seed, args.strict)?;
    for note in notes {
        eprintln!("{note}");
    }
    // No tokenizer yet: lengths in words.
    let words = |text: &str| text.split_whitespace().count();
    println!("{}", Summary::new(&set.header.objectives, &set.records, words));
    println!("(lengths in words)");
    let hash = set.write(&args.out)?;
    println!("wrote {} ({} pairs, sha256 {hash})", args.out.display(), set.records.len());
    println!(
        "train on it: mopo train --config FILE --data {} with `data.source = \"prepared\"`",
        args.out.display()
    );
    Ok(())
}
