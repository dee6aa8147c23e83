//! The same as [`super::prepare`] with records one by one: what is kept in memory is the labels, and numbers.

use mopo_core::Objectives;
use mopo_data::{
    ChatTemplate, LengthStats, PreferenceRecord, PreparedWriter, Split, StagedSet, SummaryBuilder,
    unit_interval,
};

use super::{
    Source, check_parts, check_scores, count_source, finish, mixture, no_pairs, note_control_tokens,
};
use crate::{Error, Progress, Result, RunConfig, RunDir, RunRecord, tokens};

/// Both parts of the data while they are written.
struct Parts {
    train: PreparedWriter,
    heldout: PreparedWriter,
    /// Records of each.
    counts: [usize; 2],
    /// The training pairs' indicators.
    rows: Vec<Vec<Option<f32>>>,
    n_without_scores: usize,
    recorded: bool,
    /// Training pairs by source.
    sources: Vec<usize>,
}

/// Writes a run's data and tokenizer and records their hashes.
pub(super) fn prepare(
    run: &RunDir,
    config: &RunConfig,
    record: &mut RunRecord,
    progress: &mut dyn Progress,
) -> Result<()> {
    let folder = run.join("data");
    std::fs::create_dir_all(&folder).map_err(Error::io("making", &folder))?;
    let split_seed = config.data.split_seed.unwrap_or(config.seed);
    let path = record.data.clone();
    let source = Source {
        config: &config.data.source,
        data: path.as_deref(),
        seed: config.seed,
        strict: record.strict,
        scratch: Some(&folder),
    };
    let mut parts: Option<Parts> = None;
    let prepared = source.read(&mut |objectives: &Objectives, pair: PreferenceRecord| {
        let parts = match &mut parts {
            Some(parts) => parts,
            none => none.insert(Parts {
                train: PreparedWriter::new(&folder, objectives.clone())?,
                heldout: PreparedWriter::new(&folder, objectives.clone())?,
                counts: [0; 2],
                rows: vec![],
                n_without_scores: 0,
                recorded: false,
                sources: vec![0; config.data.source.sources.len()],
            }),
        };
        parts.recorded |= pair.scores.is_some();
        if unit_interval(split_seed, &pair.prompt) < config.data.heldout_fraction {
            parts.counts[1] += 1;
            return parts.heldout.push(&pair);
        }
        count_source(&mut parts.sources, config, &pair, split_seed);
        parts.counts[0] += 1;
        parts.n_without_scores += usize::from(pair.scores.is_none());
        parts.rows.push(pair.indicators.clone());
        parts.train.push(&pair)
    })?;
    let Some(parts) = parts else { return Err(no_pairs()) };
    for note in &prepared.about {
        progress.note(note);
    }
    let objectives = parts.train.objectives().clone();
    config.evaluation.check_recorded_scores(&objectives, parts.recorded)?;
    check_parts(config, parts.counts, parts.counts.iter().sum())?;
    let mixture = mixture(config, parts.sources)?;
    let rows: Vec<&[Option<f32>]> = parts.rows.iter().map(Vec::as_slice).collect();
    config.method.check_labels(&config.policies, &objectives, &rows)?;
    check_scores(config, parts.n_without_scores, parts.counts[0])?;

    let staged = |writer: PreparedWriter, split| {
        writer.finish(Some(split), prepared.sources.clone(), prepared.about.clone())
    };
    let train = staged(parts.train, Split::Train)?;
    let heldout = staged(parts.heldout, Split::Heldout)?;
    // Policies learn the template of the prompts, whatever made them.
    let mut failed = Ok(());
    let prompts = train
        .records()?
        .map_while(|record| record.map(|record| record.prompt).map_err(|e| failed = Err(e)).ok());
    let template = ChatTemplate::of_prompts(prompts);
    failed?;
    let tokenizer = tokens::new_tokenizer(config, template, std::iter::empty())?;
    note_control_tokens(&tokenizer, template, progress);

    let text = summary(&train, &objectives, &folder, &tokenizer)?;
    progress.note(&text);
    train.write(&run.join("data/train.jsonl"))?;
    heldout.write(&run.join("data/heldout.jsonl"))?;
    run.write("data/summary.txt", text.as_bytes())?;
    tokens::save(&tokenizer, run)?;
    finish(run, record, mixture.as_ref())
}

fn summary(
    train: &StagedSet,
    objectives: &Objectives,
    folder: &std::path::Path,
    tokenizer: &mopo_data::Tokenizer,
) -> Result<String> {
    let mut builder = SummaryBuilder::new(folder, objectives);
    let token_len = |text: &str| tokenizer.encode(text).map_or(0, |ids| ids.len());
    let mut prompts = vec![];
    for record in train.records()? {
        let record = record?;
        builder.push(&record, &token_len)?;
        prompts
            .push(tokenizer.encode_prompt_of(&record, usize::MAX).map_or(0, |(ids, _)| ids.len()));
    }
    let mut summary = builder.finish()?;
    summary.prompt_tokens = LengthStats::new(prompts);
    Ok(format!("training pairs\n{summary}"))
}
