//! From a data source to the files of a run: split by prompt, tokenizer, summary, hashes.

use std::collections::BTreeMap;
use std::path::Path;

use mopo_core::Objectives;
use mopo_data::demo::{self, DemoConfig};
use mopo_data::{
    PreparedSet, ReadOptions, Split, Summary, Tokenizer, read_hh_dir, split_by_prompt,
};

use crate::config::{DataConfig, DataSource, TokenizerConfig};
use crate::models::tokenizer_file;
use crate::run_dir::file_sha256;
use crate::{Error, Progress, Result, RunConfig, RunDir, RunRecord};

/// Reads the records of a data configuration, with what there is to say about them.
///
/// # Errors
/// Unreadable files, malformed lines under `strict`, an empty set.
pub fn prepare_records(
    config: &DataConfig,
    data: Option<&Path>,
    seed: u64,
    strict: bool,
) -> Result<(PreparedSet, Vec<String>)> {
    let missing = |what: &str| Error::Config {
        origin: "data".into(),
        message: format!("{what} needs a path; give it with --data"),
    };
    let mut notes = Vec::new();
    let set = match config.source {
        DataSource::Demo => demo::generate(&DemoConfig {
            seed,
            n_prompts: config.n_prompts.unwrap_or(1200),
            ..DemoConfig::default()
        })?,
        DataSource::Hh => {
            let root = data.ok_or_else(|| missing("HH-RLHF"))?;
            let mut names: Vec<&str> = Vec::new();
            for f in &config.folders {
                if !names.contains(&f.objective.as_str()) {
                    names.push(&f.objective);
                }
            }
            let objectives = Objectives::new(names)?;
            let folders: Vec<(&str, &str)> =
                config.folders.iter().map(|f| (f.objective.as_str(), f.folder.as_str())).collect();
            let options = ReadOptions { stem: config.stem.clone(), strict, seed };
            let read = read_hh_dir(root, &objectives, &folders, &options)?;
            // Without the path: the note goes into the prepared files, which are hashed.
            notes.push(format!("HH-RLHF rows\n{}", read.report));
            PreparedSet::new(objectives, None, read.sources, vec![], read.records)?
        }
        DataSource::Prepared => PreparedSet::read(data.ok_or_else(|| missing("a prepared set"))?)?,
    };
    if set.records.is_empty() {
        return Err(Error::Config {
            origin: "data".into(),
            message: "there is not a single usable pair in it; nothing to train on".into(),
        });
    }
    Ok((set, notes))
}

/// Writes a run's data and tokenizer and records their hashes.
pub(crate) fn prepare(
    run: &RunDir,
    config: &RunConfig,
    record: &mut RunRecord,
    progress: &mut dyn Progress,
) -> Result<()> {
    let (set, notes) =
        prepare_records(&config.data, record.data.as_deref(), config.seed, record.strict)?;
    for note in &notes {
        progress.note(note);
    }
    let objectives = set.header.objectives.clone();
    for name in &config.policies {
        objectives
            .index_of(name)
            .map_err(|e| Error::Config { origin: "`policies`".into(), message: e.to_string() })?;
    }
    let n_pairs = set.records.len();
    let (train, heldout) = split_by_prompt(set.records, config.data.heldout_fraction, config.seed);
    if train.is_empty() || heldout.is_empty() {
        return Err(Error::Config {
            origin: "`data.heldout_fraction`".into(),
            message: format!(
                "{} leaves {} training and {} held-out pairs of {n_pairs}; both need some: \
                 change it, or bring more data",
                config.data.heldout_fraction,
                train.len(),
                heldout.len()
            ),
        });
    }
    for (k, name) in objectives.names().iter().enumerate() {
        if config.policies.contains(name)
            && !train.iter().any(|r| r.indicators[k].is_some_and(|i| i != 0.5))
        {
            return Err(Error::Config {
                origin: "`policies`".into(),
                message: format!(
                    "`{name}` prefers neither response in any training pair; there is nothing to \
                     learn for its policy: leave it out, or bring labels"
                ),
            });
        }
    }

    let tokenizer = match &config.tokenizer {
        TokenizerConfig::Train(vocab_size) => {
            let texts =
                train.iter().flat_map(|r| [r.prompt.as_str(), r.first.as_str(), r.second.as_str()]);
            Tokenizer::train(texts, *vocab_size)?
        }
        TokenizerConfig::File(file) => Tokenizer::load(tokenizer_file(file)?)?,
    };

    let token_len = |text: &str| tokenizer.encode(text).map_or(0, |ids| ids.len());
    let summary = Summary::new(&objectives, &train, token_len);
    let text = format!("training pairs\n{summary}");
    progress.note(&text);

    let sources = set.header.sources;
    let of = |records: Vec<_>, split| {
        PreparedSet::new(objectives.clone(), Some(split), sources.clone(), notes.clone(), records)
    };
    let data = run.join("data");
    std::fs::create_dir_all(&data).map_err(Error::io("making", &data))?;
    of(train, Split::Train)?.write(run.join("data/train.jsonl"))?;
    of(heldout, Split::Heldout)?.write(run.join("data/heldout.jsonl"))?;
    run.write("data/summary.txt", text.as_bytes())?;
    tokenizer.save(run.join("tokenizer.json"))?;

    // The record comes last: with hashes in it, the data is complete.
    let mut hashes = BTreeMap::new();
    for name in ["data/train.jsonl", "data/heldout.jsonl", "tokenizer.json"] {
        hashes.insert(name.to_string(), file_sha256(&run.join(name))?);
    }
    record.hashes = hashes;
    run.write_json("run.json", record)
}
