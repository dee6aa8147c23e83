//! Whole, interrupted and sharded labellings, and errors.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use mopo_core::Objectives;
use mopo_data::{Indicator, PreferenceRecord, PreparedSet, PreparedWriter, Scores, StagedSet};
use mopo_hub::ShardIndex;
use mopo_ops::MatmulPrecision;
use mopo_testkit::{EndpointReply, LoopbackEndpoint, TestBackend};

use super::*;
use crate::reward::local_directory;
use crate::{Error, Result, Reward, ScoreStatistics};

const TWO: &str = "[[objectives]]\nname = 'long'\ntie_threshold = 1\n\
                   reward = { kind = 'length', unit = 'characters' }\n\
                   [[objectives]]\nname = 'polite'\ntemperature = 0.5\n\
                   reward = { kind = 'word_list', words = ['please'] }\n";

fn record(i: usize, first: &str, second: &str, indicators: &[Indicator]) -> PreferenceRecord {
    PreferenceRecord {
        id: format!("r:{i}"),
        source: "r".into(),
        prompt: format!("prompt {i}"),
        messages: None,
        first: first.into(),
        second: second.into(),
        indicators: indicators.to_vec(),
        scores: None,
    }
}

/// `n` pairs whose responses differ in length; every third has a label.
fn set(n: usize) -> PreparedSet {
    let records = (0..n)
        .map(|i| {
            let label = (i % 3 == 0).then_some(1.0);
            record(i, &"x".repeat(i % 7 + 1), &format!("please {}", i % 5), &[label])
        })
        .collect();
    let objectives = Objectives::new(["long"]).unwrap();
    PreparedSet::new(objectives, None, vec![], vec!["made up".into()], records).unwrap()
}

fn labelling(set: &PreparedSet, keep: bool) -> Labelling {
    let config = LabelConfig::parse(TWO).unwrap();
    let rewards_sha256 = config.hash(&config.contents(&local_directory).unwrap());
    let matmul_precision = MatmulPrecision::F32;
    Labelling { config, keep, input_sha256: set.hash(), rewards_sha256, matmul_precision }
}

fn staged(set: &PreparedSet) -> StagedSet {
    let header = set.header.clone();
    let mut writer = PreparedWriter::new(&std::env::temp_dir(), header.objectives).unwrap();
    set.records.iter().for_each(|record| writer.push(record).unwrap());
    writer.finish(header.split, header.sources, header.notes).unwrap()
}

fn rewards() -> Vec<Box<dyn Reward>> {
    let config = LabelConfig::parse(TWO).unwrap();
    config.build::<TestBackend>(&Default::default(), &local_directory).unwrap()
}

/// A labelled set in memory.
struct InMemory {
    set: PreparedSet,
    report: LabelReport,
    record: LabelRecord,
}

impl From<Labelled> for InMemory {
    fn from(labelled: Labelled) -> Self {
        let Labelled { set, report, record } = labelled;
        Self { set: set.into_memory().unwrap(), report, record }
    }
}

fn label(set: &PreparedSet, keep: bool) -> InMemory {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("labelled.jsonl");
    let job = LabelJob { labelling: labelling(set, keep), shard: None, out };
    let set = staged(set);
    let mut progress = job.open(&set).unwrap();
    job.run(&set, &mut progress, &rewards(), &mut |_| ()).unwrap().into()
}

#[test]
fn scores_become_indicators_and_statistics() {
    let objectives = Objectives::new(["long", "kind"]).unwrap();
    let records = vec![
        record(0, "please", "no", &[Some(0.0), Some(1.0)]),
        record(1, "abc", "abcd", &[None, Some(0.0)]),
    ];
    let set = PreparedSet::new(objectives, None, vec![], vec![], records).unwrap();
    let new = label(&set, false);
    let (a, b) = (&new.set.records[0], &new.set.records[1]);
    assert_eq!(new.set.header.objectives.names(), ["long", "polite"]);
    let scores = a.scores.as_ref().unwrap();
    assert_eq!((&scores.first[..], &scores.second[..]), (&[6.0, 1.0][..], &[2.0, 0.0][..]));
    // σ(1 / 0.5).
    assert_eq!(a.indicators[0], Some(1.0));
    assert!((a.indicators[1].unwrap() - 0.880_797).abs() < 1e-6);
    assert_eq!(b.indicators, [Some(0.5), Some(0.5)]);
    let report = &new.report.objectives[0];
    assert_eq!((report.ties, report.filled, report.kept), (1, 2, KeptLabels::default()));
    // Of 6, 2, 3, 4: mean 15/4, squares 36 + 4 + 9 + 16 = 65.
    let s = report.scores;
    assert_eq!((s.n, s.mean, s.min, s.max), (4, 3.75, 2.0, 6.0));
    assert!((s.std - ((65.0_f64 - 4.0 * 3.75 * 3.75) / 3.0).sqrt()).abs() < 1e-12);
    assert_eq!(new.record.set_sha256, new.set.hash());
    assert!(new.report.notes[0].contains("--keep"), "{:?}", new.report.notes);
    let text = new.report.to_string();
    assert!(text.contains("disagreement") && text.contains("std. dev."), "{text}");

    // With `keep`, the set's objectives come first; a label that contradicts the scores stays and
    // is counted.
    let kept = label(&set, true);
    assert_eq!(kept.set.header.objectives.names(), ["long", "kind", "polite"]);
    let (a, b) = (&kept.set.records[0], &kept.set.records[1]);
    assert_eq!(a.indicators[..2], [Some(0.0), Some(1.0)]);
    assert_eq!(b.indicators[..2], [Some(0.5), Some(0.0)]);
    let report = &kept.report.objectives[0];
    assert_eq!(report.kept, KeptLabels { pairs: 1, decided: 1, agree: 0 });
    assert_eq!((report.ties, report.filled), (1, 1));
    // `kind` has neither a reward nor scores.
    assert_eq!(a.scores, None);
    assert!(kept.report.notes[0].contains("2 records have no `scores`"));
    assert!(kept.report.notes[0].contains("`kind`"));
}

#[test]
fn scores_of_the_set_fill_up_those_of_the_rewards() {
    let mut set = set(3);
    set.header.objectives = Objectives::new(["kind"]).unwrap();
    for record in &mut set.records {
        record.scores = Some(Scores { first: vec![7.0], second: vec![8.0] });
    }
    let kept = label(&set, true);
    let scores = kept.set.records[0].scores.as_ref().unwrap();
    assert_eq!(scores.first, [7.0, 1.0, 0.0]);
    assert_eq!(scores.second[0], 8.0);
}

/// Fails at one record, or gives it a NaN; counts what it scored.
struct Breaks {
    at: usize,
    nan: bool,
    scored: AtomicUsize,
}

impl Breaks {
    fn boxed(at: usize, nan: bool) -> Vec<Box<dyn Reward>> {
        vec![Box::new(Self { at, nan, scored: AtomicUsize::new(0) })]
    }
}

impl Reward for Breaks {
    fn name(&self) -> &str {
        "breaks"
    }
    fn score(&self, prompt: &str, response: &str) -> Result<f32> {
        self.scored.fetch_add(1, Ordering::Relaxed);
        if prompt == format!("prompt {}", self.at) && response.starts_with("please") {
            return match self.nan {
                true => Ok(f32::NAN),
                false => Err(Error::invalid("text", "long", "it must be short")),
            };
        }
        Ok(response.len() as f32)
    }
}

#[test]
fn what_cannot_be_scored_is_named() {
    let set = set(20);
    for (nan, why) in [(true, "NaN"), (false, "must be short")] {
        let error = score_pairs(&Breaks::boxed(11, nan), &set.records).unwrap_err().to_string();
        for part in ["`breaks`", "`r:11`", "second response", why] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let scores = score_pairs(&Breaks::boxed(99, true), &set.records).unwrap();
    assert_eq!(scores[9].first, [(9 % 7 + 1) as f32]);
}

/// A job that labels with one reward.
fn job(out: &Path, set: &PreparedSet) -> LabelJob {
    let mut labelling = labelling(set, false);
    labelling.config.objectives.truncate(1);
    LabelJob { labelling, shard: None, out: out.into() }
}

/// The scores that the job's set ends with, and how many rows had been scored before.
fn run(
    job: &LabelJob,
    set: &PreparedSet,
    rewards: &[Box<dyn Reward>],
) -> Result<(Vec<Scores>, usize)> {
    let set = staged(set);
    let mut progress = job.open(&set)?;
    let before = progress.n_done();
    let mut advanced = 0;
    let labelled = InMemory::from(job.run(&set, &mut progress, rewards, &mut |n| advanced += n)?);
    assert_eq!(before + advanced, labelled.set.records.len());
    let scores: Vec<Scores> =
        labelled.set.records.into_iter().map(|record| record.scores.unwrap()).collect();
    let all = scores.iter().flat_map(|s| [s.first[0], s.second[0]]);
    assert_eq!(labelled.record.objectives[0].scores, ScoreStatistics::new(all));
    Ok((scores, before))
}

#[test]
fn work_resumes_where_it_stopped() {
    let set = set(400);
    let folder = tempfile::tempdir().unwrap();
    let job = job(&folder.path().join("out"), &set);
    let dir = job.progress_dir();
    let whole = score_pairs(&Breaks::boxed(999, true), &set.records).unwrap();

    assert!(run(&job, &set, &Breaks::boxed(390, true)).is_err());
    // The scores before the failing rows are saved.
    let mut parts: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("rows-"))
        .collect();
    parts.sort();
    let read = |path: &PathBuf| std::fs::read(path).unwrap();
    let body = |bytes: &[u8]| bytes.splitn(2, |byte| *byte == b'\n').nth(1).unwrap().to_vec();
    let all: Vec<u8> = parts.iter().flat_map(|path| body(&read(path))).collect();
    let lines: Vec<&[u8]> = all.split_inclusive(|&byte| byte == b'\n').collect();
    assert!(lines.len() >= 3 * BATCH_PAIRS && lines.len() <= 390, "{}", lines.len());
    let (first, bytes) = (parts[0].clone(), read(&parts[0]));
    parts.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    std::fs::write(&first, &bytes).unwrap();
    // Another version divided parts differently. Damaged parts, foreign files, and parts of
    // incomplete batches, of other rows or overlapping others do not count.
    let part = |start: usize, lines: &[&[u8]]| {
        let body = lines.concat();
        let hash = mopo_data::sha256_hex(&body).into_bytes();
        let path = dir.join(format!("rows-{start:012}"));
        std::fs::write(path, [&hash[..], b"\n", &body].concat()).unwrap();
    };
    part(0, &lines[..8]);
    part(16, &lines[16..24]);
    std::fs::write(dir.join("rows-000000000024"), &bytes[..bytes.len() - 5]).unwrap();
    part(35, &lines[..8]);
    part(40, &lines[..5]);
    std::fs::write(dir.join("rows-000000000392"), "nonsense").unwrap();
    part(400, &lines[..8]);
    std::fs::copy(&first, dir.join("rows-0000000000048")).unwrap();
    let (scores, before) = run(&job, &set, &Breaks::boxed(999, true)).unwrap();
    assert_eq!(before, 16);
    assert_eq!(scores, whole);

    // Once more: everything is there, and nothing is scored again.
    let (scores, before) = run(&job, &set, &Breaks::boxed(0, true)).unwrap();
    assert_eq!((scores, before), (whole, 400));

    // Another set in the same folder.
    let mut other = set.clone();
    other.records[0].first = "changed".into();
    let other_job = self::job(&job.out, &other);
    let error = run(&other_job, &other, &Breaks::boxed(999, true)).unwrap_err().to_string();
    assert!(error.contains("another `set (its SHA-256)`") && error.contains("remove"), "{error}");
    job.remove_progress().unwrap();
    job.remove_progress().unwrap();
    assert_eq!(run(&other_job, &other, &Breaks::boxed(999, true)).unwrap().1, 0);
}

#[test]
fn a_result_that_is_there_is_known() {
    let set = set(40);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("labelled.jsonl");
    let job = LabelJob { labelling: labelling(&set, false), shard: None, out: out.clone() };
    assert!(!job.is_done().unwrap());
    let input = staged(&set);
    let mut progress = job.open(&input).unwrap();
    let labelled = job.run(&input, &mut progress, &rewards(), &mut |_| ()).unwrap();
    labelled.write(&out).unwrap();
    assert!(job.is_done().unwrap() && !job.progress_dir().exists());
    assert_eq!(PreparedSet::read(&out).unwrap().hash(), labelled.record.set_sha256);
    let kept = LabelJob { labelling: labelling(&set, true), ..job.clone() };
    assert!(kept.is_done().unwrap_err().to_string().contains("--force"));
    let rounded = Labelling { matmul_precision: MatmulPrecision::Int8, ..labelling(&set, false) };
    let rounded = LabelJob { labelling: rounded, ..job.clone() };
    assert!(rounded.is_done().unwrap_err().to_string().contains("--force"));
    std::fs::write(&out, "edited").unwrap();
    assert!(job.is_done().is_err());

    let shard = LabelJob { shard: Some("1/1".parse().unwrap()), ..job };
    assert!(shard.is_done().is_err());
    write_shard(&out, &set, false, "1/1");
    assert!(shard.is_done().unwrap());
    let text = std::fs::read_to_string(&out).unwrap();
    std::fs::write(&out, &text[..text.len() - 30]).unwrap();
    assert!(shard.is_done().is_err());
}

fn write_shard(path: &Path, set: &PreparedSet, keep: bool, index: &str) {
    let index: ShardIndex = index.parse().unwrap();
    let job = LabelJob { labelling: labelling(set, keep), shard: Some(index), out: path.into() };
    let set = staged(set);
    let mut progress = job.open(&set).unwrap();
    job.run_shard(index, &set, &mut progress, &rewards(), &mut |_| ()).unwrap();
    job.remove_progress().unwrap();
}

fn merge(paths: &[PathBuf]) -> Result<InMemory> {
    Ok(ShardFiles::open(paths)?.merge(&std::env::temp_dir())?.into())
}

#[test]
fn merged_shards_are_the_whole_in_any_order() {
    let set = set(45);
    let folder = tempfile::tempdir().unwrap();
    for keep in [false, true] {
        let paths = [3, 1, 2, 4].map(|i| {
            let path = folder.path().join(i.to_string());
            write_shard(&path, &set, keep, &format!("{i}/4"));
            path
        });
        let merged = merge(&paths).unwrap();
        let whole = label(&set, keep);
        assert_eq!(merged.set.hash(), whole.set.hash());
        assert_eq!(merged.record, whole.record);
    }
}

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    let set = set(45);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for i in 1..=3 {
        write_shard(&path(&i.to_string()), &set, false, &format!("{i}/3"));
    }
    write_shard(&path("half"), &set, false, "2/2");
    write_shard(&path("kept"), &set, true, "2/3");
    write_shard(&path("other-set"), &self::set(44), false, "2/3");
    let text = std::fs::read_to_string(path("2")).unwrap();
    let rules = labelling(&set, false).rewards_sha256;
    let version = format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&version));
    std::fs::write(path("earlier"), text.replace(&version, "\"version\":\"0.0.9\"")).unwrap();
    std::fs::create_dir(path("begun.progress")).unwrap();
    std::fs::write(path("other-rules"), text.replace(&rules, &"0".repeat(64))).unwrap();
    std::fs::write(path("edited"), text.replacen("\"please ", "\"thanks ", 1)).unwrap();
    let (before, scores) = text.rsplit_once("\"scores\":").unwrap();
    let scores = scores.replacen(|c: char| c.is_ascii_digit(), "7", 1);
    std::fs::write(path("rescored"), format!("{before}\"scores\":{scores}")).unwrap();
    std::fs::write(path("longer"), text.clone() + "{}\n").unwrap();
    std::fs::write(path("first-version"), text.replace("\"schema\":2", "\"schema\":1")).unwrap();
    std::fs::write(path("cut"), &text[..text.len() - 30]).unwrap();
    let all_but_one: Vec<&str> = text.lines().collect();
    let all_but_one = all_but_one[..all_but_one.len() - 1].join("\n");
    std::fs::write(path("short"), all_but_one).unwrap();
    set.write(path("a-set")).unwrap();
    for (files, expected) in [
        (&["1", "3"][..], "missing: 2/3"),
        (&["1", "2", "2", "3"], "duplicate shard 2/3"),
        (&["1", "half", "3"], "half: shard 2/2 has another number of shards"),
        (&["1", "kept", "3"], "kept: shard 2/3 was labelled with other settings"),
        (&["1", "other-set", "3"], "other-set: shard 2/3 labels another set"),
        (&["1", "earlier", "3"], "earlier: shard 2/3 was labelled by another version"),
        (&["1", "begun", "3"], "begun: this shard is not finished"),
        (&["1", "other-rules", "3"], "other-rules: shard 2/3 was labelled with other rewards"),
        (&["1", "edited", "3"], "edited: line 18: the file was changed"),
        (&["1", "rescored", "3"], "rescored: line 18: the file was changed"),
        (&["1", "longer", "3"], "longer: line 18: the file was changed"),
        (&["1", "first-version", "3"], "first-version: an earlier version"),
        (&["1", "cut", "3"], "cut: line 18"),
        (&["1", "short", "3"], "short: line 18: the file ends here, after 16 rows of 16"),
        (&["1", "a-set", "3"], "a-set: this is not a shard"),
        (&["1", "nowhere"], "nowhere"),
        (&[], "--merge"),
    ] {
        let paths: Vec<PathBuf> = files.iter().map(|name| path(name)).collect();
        let error = merge(&paths).err().unwrap().to_string();
        assert!(error.contains(expected), "{files:?}: {error}");
    }
}

/// A labelling by one endpoint.
fn by_endpoint(set: &PreparedSet, keys: &str) -> Labelling {
    let config = LabelConfig::parse(&format!(
        "[[objectives]]\nname = 'long'\ntie_threshold = 1\nreward = {{ kind = 'http', retries = 0, {keys} }}"
    ))
    .unwrap();
    let rewards_sha256 = config.hash(&config.contents(&local_directory).unwrap());
    let (keep, matmul_precision) = (false, MatmulPrecision::F32);
    Labelling { config, keep, input_sha256: set.hash(), rewards_sha256, matmul_precision }
}

#[test]
fn a_labelling_goes_on_with_a_longer_timeout_but_not_with_another_endpoint() {
    let dir = tempfile::tempdir().unwrap();
    let set = set(3);
    let job = |keys: &str| LabelJob {
        labelling: by_endpoint(&set, keys),
        shard: None,
        out: dir.path().join("out.jsonl"),
    };
    let staged = staged(&set);
    let begun = job("url = 'http://localhost:1/'");
    drop(begun.open(&staged).unwrap());
    let same = job("url = 'http://localhost:1/', timeout = 300, batch_size = 2, token_env = 'T'");
    assert_eq!(same, begun);
    drop(same.open(&staged).unwrap());
    for other in ["url = 'http://localhost:2/'", "url = 'http://localhost:1/', name = 'n'"] {
        assert_ne!(job(other), begun);
        let said = job(other).open(&staged).err().unwrap().to_string();
        assert!(said.contains("another `rewards"), "{said}");
    }
}

#[test]
fn an_endpoint_is_at_fault_unless_it_refuses_a_text() {
    let set = set(20);
    let build = |server: &LoopbackEndpoint| {
        let config = by_endpoint(&set, &format!("url = '{}'", server.url())).config;
        config.build::<TestBackend>(&Default::default(), &local_directory).unwrap()
    };
    let server = LoopbackEndpoint::start(|_, _| EndpointReply::new(500, "no memory"));
    let said = score_pairs(&build(&server), &set.records).unwrap_err().to_string();
    assert!(said.starts_with(&format!("the endpoint {}: status 500", server.url())), "{said}");
    assert_eq!(server.take_requests().len(), 1);

    let server = LoopbackEndpoint::start(|_, request| match request.body.contains("prompt 11") {
        true => EndpointReply::new(422, "too long"),
        false => {
            let n = request.body.matches("prompt ").count();
            EndpointReply::new(200, format!("{{\"scores\": {:?}}}", vec![1; n]))
        }
    });
    let said = score_pairs(&build(&server), &set.records).unwrap_err().to_string();
    for part in ["`r:11`", "first response", "status 422", "`too long`", server.url()] {
        assert!(said.contains(part), "{part}: {said}");
    }

    // One that takes no batches.
    let server =
        LoopbackEndpoint::start(|_, request| match request.body.matches("prompt ").count() {
            1 => EndpointReply::new(200, "{\"scores\": [3]}"),
            _ => EndpointReply::new(413, "too large"),
        });
    let scores = score_pairs(&build(&server), &set.records).unwrap();
    assert!(scores.iter().all(|scores| scores.first == [3.0] && scores.second == [3.0]));
}
