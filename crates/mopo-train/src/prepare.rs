//! From a data source to the files of a run: split by prompt, tokenizer, summary, hashes.

use std::collections::BTreeMap;
use std::path::Path;

use mopo_core::Objectives;
use mopo_data::demo::{self, DemoConfig};
use mopo_data::helpsteer::{HELPSTEER_OBJECTIVES, read_helpsteer};
use mopo_data::reddit::{TLDR_AXES, TLDR_OBJECTIVES, read_tldr, read_tldr_axes, read_tldr_prompts};
use mopo_data::safe_rlhf::{
    BEAVERTAILS_OBJECTIVES, SAFE_RLHF_OBJECTIVES, read_beavertails, read_safe_rlhf,
};
use mopo_data::summeval::{SUMMEVAL_OBJECTIVES, read_summeval_op};
use mopo_data::trl::{TRL_OBJECTIVES, read_trl};
use mopo_data::ultrafeedback::{ULTRAFEEDBACK_OBJECTIVES, read_ultrafeedback};
use mopo_data::{
    PreparedSet, PromptRead, SourceRead, Split, Summary, Tokenizer, prompts_of, read_hh_dir,
    split_by_prompt,
};

use crate::config::{DataSource, SourceConfig, TokenizerConfig};
use crate::models::tokenizer_file;
use crate::run_dir::file_sha256;
use crate::{Error, Progress, Result, RunConfig, RunDir, RunRecord};

/// Reads the records of a data configuration, with what there is to say about them.
///
/// # Errors
/// Unreadable files, malformed lines under `strict`, an empty set, an objective that the source has
/// not.
pub fn prepare_records(
    config: &SourceConfig,
    data: Option<&Path>,
    seed: u64,
    strict: bool,
) -> Result<(PreparedSet, Vec<String>)> {
    let mut notes = Vec::new();
    let mut set = match config.kind {
        DataSource::Demo => demo::generate(&DemoConfig {
            seed,
            n_prompts: config.n_prompts.unwrap_or(1200),
            ..DemoConfig::default()
        })?,
        DataSource::Prepared => PreparedSet::read(path(config, data)?)?,
        _ => {
            let (objectives, read) = read_pairs(config, path(config, data)?, seed, strict)?;
            // Without the path: the note goes into the prepared files, which are hashed.
            notes.push(format!("{}: rows\n{}", config.kind.title(), read.report));
            PreparedSet::new(objectives, None, read.sources, vec![], read.records)?
        }
    };
    // What is prepared has the objectives that it was prepared with.
    if !config.objectives.is_empty() && config.kind != DataSource::Prepared {
        let n_left_out;
        (set, n_left_out) = set.select(&config.objectives)?;
        notes.push(format!(
            "objectives {}; pairs that none of them labels: {n_left_out} left out\n",
            config.objectives.join(", ")
        ));
    }
    if set.records.is_empty() {
        return Err(Error::Config {
            origin: "data".into(),
            message: "there is not a single usable pair in it; nothing to train on".into(),
        });
    }
    Ok((set, notes))
}

/// Reads the prompts of a data configuration, without their pairs. Files of TL;DR may have posts
/// alone.
///
/// # Errors
/// Those of [`prepare_records`].
pub fn prepare_prompts(
    config: &SourceConfig,
    data: Option<&Path>,
    seed: u64,
    strict: bool,
) -> Result<(PromptRead, Vec<String>)> {
    if config.kind == DataSource::Tldr && config.folders.is_empty() {
        let read = read_tldr_prompts(path(config, data)?, &config.tldr_options(strict, seed))?;
        let note = format!("{}: rows\n{}", config.kind.title(), read.report);
        return Ok((read, vec![note]));
    }
    let (set, notes) = prepare_records(config, data, seed, strict)?;
    let prompts = prompts_of(&set.records);
    Ok((PromptRead { prompts, sources: set.header.sources, ..Default::default() }, notes))
}

fn path<'a>(config: &SourceConfig, data: Option<&'a Path>) -> Result<&'a Path> {
    data.ok_or_else(|| Error::Config {
        origin: "data".into(),
        message: format!("the source {} needs a path; give it with --data", config.kind.name()),
    })
}

/// The pairs of a source that is read from files, and its objectives.
fn read_pairs(
    config: &SourceConfig,
    data: &Path,
    seed: u64,
    strict: bool,
) -> Result<(Objectives, SourceRead)> {
    let options = config.read_options(strict, seed);
    let template = config.chat_template();
    let pairs = config.pair_options();
    let (names, read): (&[&str], _) = match config.kind {
        DataSource::Hh => {
            let objectives = objectives_of_folders(config)?;
            let folders: Vec<(&str, &str)> =
                config.folders.iter().map(|f| (f.objective.as_str(), f.folder.as_str())).collect();
            let read = read_hh_dir(data, &objectives, &folders, &options)?;
            return Ok((objectives, read));
        }
        DataSource::Tldr | DataSource::Trl => {
            let read = |path: &Path, objective_idx, n_objectives| match config.kind {
                DataSource::Tldr => {
                    let options = config.tldr_options(strict, seed);
                    read_tldr(path, objective_idx, n_objectives, &options)
                }
                _ => read_trl(path, objective_idx, n_objectives, &options, template),
            };
            if !config.folders.is_empty() {
                return read_folders(config, data, read);
            }
            let names: &[&str] =
                if config.kind == DataSource::Tldr { &TLDR_OBJECTIVES } else { &TRL_OBJECTIVES };
            (names, read(data, 0, 1))
        }
        DataSource::TldrAxes => {
            (&TLDR_AXES, read_tldr_axes(data, &config.tldr_options(strict, seed), &pairs))
        }
        DataSource::SummevalOp => (&SUMMEVAL_OBJECTIVES, read_summeval_op(data, &options, &pairs)),
        DataSource::SafeRlhf => (&SAFE_RLHF_OBJECTIVES, read_safe_rlhf(data, &options, template)),
        DataSource::Beavertails => {
            (&BEAVERTAILS_OBJECTIVES, read_beavertails(data, &options, template, &pairs))
        }
        DataSource::UltraFeedback => {
            (&ULTRAFEEDBACK_OBJECTIVES, read_ultrafeedback(data, &options, template, &pairs))
        }
        DataSource::HelpSteer => {
            (&HELPSTEER_OBJECTIVES, read_helpsteer(data, &options, template, &pairs))
        }
        DataSource::Demo | DataSource::Prepared => unreachable!("they have no reader of rows"),
    };
    Ok((Objectives::new(names.iter().copied())?, read?))
}

/// Folders of a source whose files label one objective.
fn read_folders(
    config: &SourceConfig,
    root: &Path,
    read: impl Fn(&Path, usize, usize) -> mopo_data::Result<SourceRead>,
) -> Result<(Objectives, SourceRead)> {
    let objectives = objectives_of_folders(config)?;
    let mut all = SourceRead::default();
    for folder in &config.folders {
        let objective_idx = objectives.index_of(&folder.objective)?;
        let found = read(&root.join(&folder.folder), objective_idx, objectives.len())?;
        all.records.extend(found.records);
        all.report.merge(&found.report);
        all.sources.extend(found.sources);
    }
    Ok((objectives, all))
}

/// The objectives of `[[data.folders]]` in their order; one may have several folders.
fn objectives_of_folders(config: &SourceConfig) -> Result<Objectives> {
    let mut names: Vec<&str> = Vec::new();
    for folder in &config.folders {
        if !names.contains(&folder.objective.as_str()) {
            names.push(&folder.objective);
        }
    }
    Ok(Objectives::new(names)?)
}

/// Writes a run's data and tokenizer and records their hashes.
pub(crate) fn prepare(
    run: &RunDir,
    config: &RunConfig,
    record: &mut RunRecord,
    progress: &mut dyn Progress,
) -> Result<()> {
    let (set, notes) =
        prepare_records(&config.data.source, record.data.as_deref(), config.seed, record.strict)?;
    for note in &notes {
        progress.note(note);
    }
    let objectives = set.header.objectives.clone();
    for name in &config.policies {
        objectives
            .index_of(name)
            .map_err(|e| Error::Config { origin: "`policies`".into(), message: e.to_string() })?;
    }
    config.evaluation.check_recorded_scores(&set)?;
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
