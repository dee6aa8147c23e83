//! From a data source to the files of a run: split by prompt, tokenizer, summary, hashes.

mod streamed;

use std::path::Path;

use mopo_core::Objectives;
use mopo_data::demo::{self, DemoConfig};
use mopo_data::helpsteer::{HELPSTEER_OBJECTIVES, read_helpsteer};
use mopo_data::reddit::{
    TLDR_AXES, TLDR_OBJECTIVES, TldrOptions, read_tldr, read_tldr_axes, read_tldr_prompts,
};
use mopo_data::safe_rlhf::{
    BEAVERTAILS_OBJECTIVES, SAFE_RLHF_OBJECTIVES, read_beavertails, read_safe_rlhf,
};
use mopo_data::summeval::{SUMMEVAL_OBJECTIVES, read_summeval_op};
use mopo_data::trl::{TRL_OBJECTIVES, read_trl};
use mopo_data::ultrafeedback::{ULTRAFEEDBACK_OBJECTIVES, read_ultrafeedback};
use mopo_data::{
    ChatTemplate, Header, LengthStats, PreferenceRecord, PreparedReader, PreparedSet,
    PreparedWriter, Prompt, PromptRead, PromptWriter, ReadOptions, ReadReport, Scores, Selection,
    Sink, SourceFile, SourceRead, Split, StagedSet, Summary, Tokenizer, read_hh_dir,
    split_by_prompt, unit_interval,
};

use crate::config::{DataSource, MixedSource, SourceConfig};
use crate::mixture::{MIXTURE, MixedPart, MixtureRecord};
use crate::pair_sample::PairSample;
use crate::{Error, Progress, Result, RunConfig, RunDir, RunRecord, tokens};

/// Reads the records of a data configuration into memory, with notes about them.
///
/// # Errors
/// Those of [`prepare_staged`].
pub fn prepare_records(
    config: &SourceConfig,
    data: Option<&Path>,
    seed: u64,
    strict: bool,
) -> Result<(PreparedSet, Vec<String>)> {
    let (mut objectives, mut records) = (None, Vec::new());
    let source = Source { config, data, seed, strict, scratch: None };
    let Prepared { split, sources, notes, about } = source.read(&mut |all, record| {
        objectives.get_or_insert_with(|| all.clone());
        records.push(record);
        Ok(())
    })?;
    let Some(objectives) = objectives else { return Err(no_pairs()) };
    Ok((PreparedSet::new(objectives, split, sources, notes, records)?, about))
}

/// Reads the records of a data configuration in bounded memory, calls `each` with every one, and
/// returns
/// them with notes. They are kept in unnamed files in the
/// folder `scratch`, which must exist; without `keep`, they are only checked.
///
/// # Errors
/// Unreadable files, malformed lines with `strict`, an empty set, an objective that the source does
/// not have; those of `each`.
pub fn prepare_staged(
    config: &SourceConfig,
    data: Option<&Path>,
    seed: u64,
    strict: bool,
    scratch: &Path,
    keep: bool,
    each: &mut dyn FnMut(&Objectives, &PreferenceRecord) -> mopo_data::Result<()>,
) -> Result<(StagedSet, Vec<String>)> {
    let mut writer: Option<PreparedWriter> = None;
    let source = Source { config, data, seed, strict, scratch: Some(scratch) };
    let Prepared { split, sources, notes, about } = source.read(&mut |objectives, record| {
        let writer = match &mut writer {
            Some(writer) => writer,
            none if keep => none.insert(PreparedWriter::new(scratch, objectives.clone())?),
            none => none.insert(PreparedWriter::checking(scratch, objectives.clone())),
        };
        writer.push(&record)?;
        each(objectives, &record)
    })?;
    let Some(writer) = writer else { return Err(no_pairs()) };
    Ok((writer.finish(split, sources, notes)?, about))
}

/// Reads the prompts of a data configuration, without their pairs. TL;DR may have files of posts
/// only. Memory is bounded, as in [`prepare_staged`].
///
/// # Errors
/// Those of [`prepare_staged`].
pub fn prepare_prompts(
    config: &SourceConfig,
    data: Option<&Path>,
    seed: u64,
    strict: bool,
    scratch: &Path,
) -> Result<(PromptRead, Vec<String>)> {
    let source = Source { config, data, seed, strict, scratch: Some(scratch) };
    if config.kind == DataSource::Tldr && config.folders.is_empty() {
        let read = read_tldr_prompts(source.path()?, &source.tldr_options())?;
        let note = format!("{}: rows\n{}", config.kind.title(), read.report);
        return Ok((read, vec![note]));
    }
    let mut prompts = PromptWriter::new(scratch)?;
    let found = source.read(&mut |_, PreferenceRecord { id, source, prompt, .. }| {
        prompts.push(&Prompt { id, source, prompt, reference: None })
    })?;
    let (prompts, report) = (prompts.finish()?, ReadReport::default());
    Ok((PromptRead { prompts, report, sources: found.sources }, found.about))
}

fn no_pairs() -> Error {
    Error::Config { origin: "data".into(), message: "no usable pair to train on".into() }
}

/// What to read, and how.
struct Source<'a> {
    config: &'a SourceConfig,
    data: Option<&'a Path>,
    seed: u64,
    strict: bool,
    scratch: Option<&'a Path>,
}

/// Information besides the records.
#[derive(Default)]
struct Prepared {
    split: Option<Split>,
    sources: Vec<SourceFile>,
    /// About the set.
    notes: Vec<String>,
    /// For the user.
    about: Vec<String>,
}

/// Receives a record of a set with these objectives.
type Take<'a> = dyn FnMut(&Objectives, PreferenceRecord) -> mopo_data::Result<()> + 'a;

impl Source<'_> {
    /// Calls `take` with every record, or as many as the configuration asks for, reduced to the
    /// configured objectives.
    fn read(&self, take: &mut Take<'_>) -> Result<Prepared> {
        let Some(most) = self.config.max_pairs else { return self.read_all(take) };
        let mut sample = PairSample::new(most, self.seed);
        let mut of = None;
        let mut prepared = self.read_all(&mut |objectives, record| {
            of.get_or_insert_with(|| objectives.clone());
            sample.push(record);
            Ok(())
        })?;
        prepared.about.push(format!("`max_pairs`: {} of {} pairs\n", sample.len(), sample.seen()));
        if let Some(objectives) = of {
            sample.into_records().try_for_each(|record| take(&objectives, record))?;
        }
        Ok(prepared)
    }

    fn read_all(&self, take: &mut Take<'_>) -> Result<Prepared> {
        let config = self.config;
        let mut about = Vec::new();
        if !config.sources.is_empty() {
            return self.read_mixed(take);
        }
        // A prepared set has the objectives it was prepared with.
        if config.kind == DataSource::Prepared {
            let mut reader = PreparedReader::open(self.path()?)?;
            let Header { objectives, split, sources, notes, .. } = reader.header().clone();
            reader.try_for_each(|record| take(&objectives, record?))?;
            return Ok(Prepared { split, sources, notes, about });
        }
        let all = self.objectives()?;
        let mut selection = match config.objectives.as_slice() {
            [] => None,
            names => Some(Selection::new(&all, names)?),
        };
        let wanted = selection.as_ref().map_or(all.clone(), |s| s.objectives().clone());
        let mut sink = |record| match &mut selection {
            None => take(&wanted, record),
            Some(selection) => {
                selection.apply(record).map_or(Ok(()), |record| take(&wanted, record))
            }
        };
        let (mut sources, mut notes) = (vec![], vec![]);
        if config.kind == DataSource::Demo {
            let n_prompts = config.n_prompts.unwrap_or(1200);
            let seed = self.seed;
            let set = demo::generate(&DemoConfig { seed, n_prompts, ..DemoConfig::default() })?;
            set.records.into_iter().try_for_each(&mut sink)?;
            notes = set.header.notes;
        } else {
            let read = self.pairs(&all, &mut sink)?;
            // Without the path: the note is stored in the prepared files, which are hashed.
            about.push(format!("{}: rows\n{}", config.kind.title(), read.report));
            sources = read.sources;
        }
        if let Some(selection) = selection {
            about.push(format!(
                "objectives {}; {} pairs without any of their labels skipped\n",
                config.objectives.join(", "),
                selection.finish()?
            ));
        }
        Ok(Prepared { split: None, sources, notes, about })
    }

    /// Several prepared sets, one after the other, with the objectives of all: a pair has no label of those that its own
    /// set lacks.
    fn read_mixed(&self, take: &mut Take<'_>) -> Result<Prepared> {
        let readers = self.config.sources.iter().map(|source| PreparedReader::open(&source.path));
        let readers = readers.collect::<mopo_data::Result<Vec<_>>>()?;
        let mut names: Vec<&str> = vec![];
        for reader in &readers {
            for name in reader.header().objectives.names() {
                if !names.contains(&name.as_str()) {
                    names.push(name);
                }
            }
        }
        let all = Objectives::new(names.iter().map(|name| (*name).to_string()))?;
        let mut prepared = Prepared::default();
        for (i, reader) in readers.into_iter().enumerate() {
            let header = reader.header().clone();
            let places = header.objectives.names().iter().map(|name| all.index_of(name));
            let places = places.collect::<mopo_core::Result<Vec<_>>>()?;
            let is_all = places.len() == all.len();
            for record in reader {
                let record = record?;
                let mut indicators = vec![None; all.len()];
                for (place, indicator) in places.iter().zip(&record.indicators) {
                    indicators[*place] = *indicator;
                }
                let reordered = |scores: &[f32]| {
                    let mut out = vec![0.0; all.len()];
                    places.iter().zip(scores).for_each(|(place, score)| out[*place] = *score);
                    out
                };
                // Scores are those of all objectives or none.
                let scores = record.scores.filter(|_| is_all).map(|scores| Scores {
                    first: reordered(&scores.first),
                    second: reordered(&scores.second),
                });
                // Sets may have the same ids.
                let id = format!("{}:{}", i + 1, record.id);
                take(&all, PreferenceRecord { id, indicators, scores, ..record })?;
            }
            let MixedSource { path, weight } = &self.config.sources[i];
            prepared.about.push(format!(
                "source {}: {} pairs of {}, weight {weight}\n",
                i + 1,
                header.records,
                path.display()
            ));
            prepared.sources.extend(header.sources);
            prepared.notes.extend(header.notes);
        }
        Ok(prepared)
    }

    fn path(&self) -> Result<&Path> {
        self.data.ok_or_else(|| Error::Config {
            origin: "data".into(),
            message: format!(
                "the source {} needs a path; pass it with --data",
                self.config.kind.name()
            ),
        })
    }

    fn options(&self) -> ReadOptions {
        let scratch = self.scratch.map(Path::to_path_buf);
        ReadOptions { scratch, ..self.config.read_options(self.strict, self.seed) }
    }

    fn tldr_options(&self) -> TldrOptions {
        let read = self.options();
        TldrOptions { read, ..self.config.tldr_options(self.strict, self.seed) }
    }

    /// All objectives of the source.
    fn objectives(&self) -> Result<Objectives> {
        let names: &[&str] = match self.config.kind {
            _ if !self.config.folders.is_empty() => return objectives_of_folders(self.config),
            DataSource::Hh => return objectives_of_folders(self.config),
            DataSource::Demo => return Ok(demo::objectives()),
            DataSource::Tldr => &TLDR_OBJECTIVES,
            DataSource::Trl => &TRL_OBJECTIVES,
            DataSource::TldrAxes => &TLDR_AXES,
            DataSource::SummevalOp => &SUMMEVAL_OBJECTIVES,
            DataSource::SafeRlhf => &SAFE_RLHF_OBJECTIVES,
            DataSource::Beavertails => &BEAVERTAILS_OBJECTIVES,
            DataSource::UltraFeedback => &ULTRAFEEDBACK_OBJECTIVES,
            DataSource::HelpSteer => &HELPSTEER_OBJECTIVES,
            DataSource::Prepared => unreachable!("its header has them"),
        };
        Ok(Objectives::new(names.iter().copied())?)
    }

    /// The pairs of a source with files.
    fn pairs(&self, objectives: &Objectives, sink: &mut Sink<'_>) -> Result<SourceRead> {
        let (data, options) = (self.path()?, self.options());
        let template = self.config.chat_template();
        let pairs = self.config.pair_options();
        Ok(match self.config.kind {
            DataSource::Hh => {
                let folders = self.config.folders.iter();
                let folders: Vec<(&str, &str)> =
                    folders.map(|f| (f.objective.as_str(), f.folder.as_str())).collect();
                read_hh_dir(data, objectives, &folders, &options, sink)?
            }
            DataSource::Tldr => {
                self.folders(objectives, sink, |path, objective_idx, n, sink| {
                    read_tldr(path, objective_idx, n, &self.tldr_options(), sink)
                })?
            }
            DataSource::Trl => self.folders(objectives, sink, |path, objective_idx, n, sink| {
                read_trl(path, objective_idx, n, &options, template, sink)
            })?,
            DataSource::TldrAxes => read_tldr_axes(data, &self.tldr_options(), &pairs, sink)?,
            DataSource::SummevalOp => read_summeval_op(data, &options, &pairs, sink)?,
            DataSource::SafeRlhf => read_safe_rlhf(data, &options, template, sink)?,
            DataSource::Beavertails => read_beavertails(data, &options, template, &pairs, sink)?,
            DataSource::UltraFeedback => {
                read_ultrafeedback(data, &options, template, &pairs, sink)?
            }
            DataSource::HelpSteer => read_helpsteer(data, &options, template, &pairs, sink)?,
            DataSource::Demo | DataSource::Prepared => unreachable!("they have no reader of rows"),
        })
    }

    /// The path itself, or its folders whose files label one objective each.
    fn folders(
        &self,
        objectives: &Objectives,
        sink: &mut Sink<'_>,
        read: impl Fn(&Path, usize, usize, &mut Sink<'_>) -> mopo_data::Result<SourceRead>,
    ) -> Result<SourceRead> {
        let root = self.path()?;
        if self.config.folders.is_empty() {
            return Ok(read(root, 0, 1, sink)?);
        }
        let mut all = SourceRead::default();
        for folder in &self.config.folders {
            let objective_idx = objectives.index_of(&folder.objective)?;
            all.merge(read(&root.join(&folder.folder), objective_idx, objectives.len(), sink)?);
        }
        Ok(all)
    }
}

/// The objectives of `[[data.folders]]` in order; one may have several folders.
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
    if config.data.streaming {
        return streamed::prepare(run, config, record, progress);
    }
    let (set, notes) =
        prepare_records(&config.data.source, record.data.as_deref(), config.seed, record.strict)?;
    for note in &notes {
        progress.note(note);
    }
    let objectives = set.header.objectives.clone();
    let recorded = set.records.iter().any(|record| record.scores.is_some());
    config.evaluation.check_recorded_scores(&objectives, recorded)?;
    let n_pairs = set.records.len();
    let split_seed = config.data.split_seed.unwrap_or(config.seed);
    let mut counts = vec![0; config.data.source.sources.len()];
    for record in &set.records {
        count_source(&mut counts, config, record, split_seed);
    }
    let mixture = mixture(config, counts)?;
    let (train, heldout) = split_by_prompt(set.records, config.data.heldout_fraction, split_seed);
    check_parts(config, [train.len(), heldout.len()], n_pairs)?;
    let rows: Vec<&[Option<f32>]> = train.iter().map(|r| r.indicators.as_slice()).collect();
    config.method.check_labels(&config.policies, &objectives, &rows)?;
    let n_without = train.iter().filter(|r| r.scores.is_none()).count();
    check_scores(config, n_without, train.len())?;

    // Policies learn the template of the prompts, whatever made them.
    let template = ChatTemplate::of_prompts(train.iter().map(|r| r.prompt.as_str()));
    let texts = train.iter().flat_map(|r| [r.prompt.as_str(), r.first.as_str(), r.second.as_str()]);
    let tokenizer = tokens::new_tokenizer(config, template, texts)?;
    note_control_tokens(&tokenizer, template, progress);

    let token_len = |text: &str| tokenizer.encode(text).map_or(0, |ids| ids.len());
    let mut summary = Summary::new(&objectives, &train, &token_len);
    // Prompts have control tokens, and may begin with a token of their own.
    let prompt_len = |r: &PreferenceRecord| {
        tokenizer.encode_prompt_of(r, usize::MAX).map_or(0, |(ids, _)| ids.len())
    };
    summary.prompt_tokens = LengthStats::new(train.iter().map(prompt_len).collect());
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
    tokens::save(&tokenizer, run)?;
    finish(run, record, mixture.as_ref())
}

/// Refuses a split that leaves a part empty.
fn check_parts(config: &RunConfig, [train, heldout]: [usize; 2], n_pairs: usize) -> Result<()> {
    if train > 0 && heldout > 0 {
        return Ok(());
    }
    Err(Error::Config {
        origin: "`data.heldout_fraction`".into(),
        message: format!(
            "{} leaves {train} training and {heldout} held-out pairs of {n_pairs}; both must be above 0: change it, or \
             provide more data",
            config.data.heldout_fraction,
        ),
    })
}

/// Refuses training pairs without the recorded scores that a method needs.
fn check_scores(config: &RunConfig, n_without: usize, n: usize) -> Result<()> {
    if !config.method.needs_scores() || n_without == 0 {
        return Ok(());
    }
    Err(Error::Config {
        origin: format!("`[{}]`", config.method.kind()),
        message: format!(
            "it uses recorded scores, but {n_without} of {n} training pairs have none: score them with `mopo label`{}",
            match config.data.source.sources[..] {
                [] => "",
                _ =>
                    " (of `data.sources`, pairs keep their scores only where all sources have the same objectives)",
            }
        ),
    })
}

fn note_control_tokens(tokenizer: &Tokenizer, template: ChatTemplate, progress: &mut dyn Progress) {
    let missing = tokenizer.missing_control_tokens();
    if !missing.is_empty() {
        progress.note(&format!(
            "note: the tokenizer has no token {}, which the chat template `{}` uses; it is split \
             into several tokens",
            missing.join(" and "),
            template.name()
        ));
    }
}

/// Writes what is left of a run's data, and records the hashes of all of it.
fn finish(run: &RunDir, record: &mut RunRecord, mixture: Option<&MixtureRecord>) -> Result<()> {
    if let Some(mixture) = mixture {
        run.write_json(MIXTURE, mixture)?;
    }
    // The record comes last: once it has hashes, the data is complete.
    let files = ["data/train.jsonl", "data/heldout.jsonl"].into_iter().chain(tokens::FILES);
    for name in files.chain(mixture.is_some().then_some(MIXTURE)) {
        record.add_file(run, name)?;
    }
    run.write_record(record)
}

/// Counts a record for its source, if it is one of several and goes to training.
fn count_source(
    counts: &mut [usize],
    config: &RunConfig,
    record: &PreferenceRecord,
    split_seed: u64,
) {
    if counts.is_empty() || unit_interval(split_seed, &record.prompt) < config.data.heldout_fraction
    {
        return;
    }
    // `read_mixed` begins ids with the number of the source.
    let number = record.id.split_once(':').and_then(|(number, _)| number.parse::<usize>().ok());
    counts[number.unwrap_or(1) - 1] += 1;
}

/// The record of the sources with so many training pairs, if several are mixed.
///
/// # Errors
/// One has none.
fn mixture(config: &RunConfig, train: Vec<usize>) -> Result<Option<MixtureRecord>> {
    let sources = &config.data.source.sources;
    if sources.is_empty() {
        return Ok(None);
    }
    let parts: Vec<MixedPart> = (sources.iter().zip(train))
        .map(|(MixedSource { path, weight }, train)| MixedPart {
            path: path.display().to_string(),
            weight: *weight,
            train,
        })
        .collect();
    match parts.iter().find(|part| part.train == 0) {
        None => Ok(Some(MixtureRecord { sources: parts })),
        Some(part) => Err(Error::Config {
            origin: "`data.sources`".into(),
            message: format!(
                "{} has no training pair left, all of its prompts being held out: remove it, or provide more of it",
                part.path
            ),
        }),
    }
}
