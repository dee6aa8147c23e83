//! Every reader on fixtures in its public schema, from every container, and on rows with another
//! schema. The fixtures are made up; `fixtures/write_parquet.py` makes Parquet of them.

mod strays;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use mopo_data::helpsteer::{self, HELPSTEER_OBJECTIVES};
use mopo_data::reddit::{
    self, CharacterRange, TLDR_AXES, TldrOptions, read_tldr_prompts, tldr_prompt,
};
use mopo_data::summeval::{self, SUMMEVAL_OBJECTIVES};
use mopo_data::ultrafeedback::{self, ULTRAFEEDBACK_OBJECTIVES};
use mopo_data::{
    ChatTemplate, PairOptions, PreferenceRecord, ReadOptions, ReadReport, Result, Sink, SourceFile,
    SourceRead, collect, safe_rlhf, split_by_prompt, trl,
};

const TEMPLATE: ChatTemplate = ChatTemplate::Dialogue;
const PAIRS: PairOptions = PairOptions { tie_threshold: 0.0, pairs_per_prompt: None };

type Reader = fn(&Path, bool) -> Result<Found>;

/// The result of a reader, with its records.
#[derive(Debug)]
struct Found {
    records: Vec<PreferenceRecord>,
    report: ReadReport,
    sources: Vec<SourceFile>,
}

fn found(read: impl FnOnce(&mut Sink<'_>) -> Result<SourceRead>) -> Result<Found> {
    let (records, SourceRead { report, sources }) = collect(read)?;
    Ok(Found { records, report, sources })
}

fn read_tldr(path: &Path, objective_idx: usize, n: usize, options: &TldrOptions) -> Result<Found> {
    found(|sink| reddit::read_tldr(path, objective_idx, n, options, sink))
}

fn read_tldr_axes(path: &Path, options: &TldrOptions, pairs: &PairOptions) -> Result<Found> {
    found(|sink| reddit::read_tldr_axes(path, options, pairs, sink))
}

fn read_summeval_op(path: &Path, options: &ReadOptions, pairs: &PairOptions) -> Result<Found> {
    found(|sink| summeval::read_summeval_op(path, options, pairs, sink))
}

fn read_trl(path: &Path, options: &ReadOptions, template: ChatTemplate) -> Result<Found> {
    found(|sink| trl::read_trl(path, 0, 1, options, template, sink))
}

fn options(strict: bool) -> ReadOptions {
    ReadOptions { strict, seed: 5, ..Default::default() }
}

fn tldr_options(strict: bool) -> TldrOptions {
    TldrOptions { read: options(strict), ..Default::default() }
}

fn trl_pairs(path: &Path, strict: bool) -> Result<Found> {
    read_trl(path, &options(strict), TEMPLATE)
}

/// Fixture, its reader, and the number of its records.
const SOURCES: [(&str, Reader, usize); 12] = [
    ("tldr-comparisons", |path, strict| read_tldr(path, 0, 1, &tldr_options(strict)), 3),
    ("tldr-converted", |path, strict| read_tldr(path, 0, 1, &tldr_options(strict)), 2),
    ("tldr-axes", |path, strict| read_tldr_axes(path, &tldr_options(strict), &PAIRS), 2),
    ("summeval-op", |path, strict| read_summeval_op(path, &options(strict), &PAIRS), 4),
    ("trl-explicit", trl_pairs, 2),
    ("trl-implicit", trl_pairs, 2),
    ("trl-messages", trl_pairs, 2),
    ("trl-messages-implicit", trl_pairs, 2),
    (
        "safe-rlhf",
        |path, strict| {
            found(|sink| safe_rlhf::read_safe_rlhf(path, &options(strict), TEMPLATE, sink))
        },
        3,
    ),
    (
        "beavertails",
        |path, strict| {
            found(|sink| {
                safe_rlhf::read_beavertails(path, &options(strict), TEMPLATE, &PAIRS, sink)
            })
        },
        1,
    ),
    (
        "ultrafeedback",
        |path, strict| {
            found(|sink| {
                ultrafeedback::read_ultrafeedback(path, &options(strict), TEMPLATE, &PAIRS, sink)
            })
        },
        4,
    ),
    (
        "helpsteer",
        |path, strict| {
            found(|sink| helpsteer::read_helpsteer(path, &options(strict), TEMPLATE, &PAIRS, sink))
        },
        2,
    ),
];

/// The post in a prompt of [`tldr_prompt`].
fn tldr_post(prompt: &str) -> Option<&str> {
    let around = tldr_prompt("POST");
    let (before, after) = around.split_once("POST").unwrap();
    prompt.strip_prefix(before)?.strip_suffix(after)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn reader(name: &str) -> Reader {
    SOURCES.iter().find(|source| source.0 == name).unwrap().1
}

fn records(name: &str) -> Vec<PreferenceRecord> {
    reader(name)(&fixture(&format!("{name}.jsonl")), true).unwrap().records
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Reads `bytes` as a file with an uninformative name.
fn read_bytes(name: &str, bytes: &[u8], strict: bool) -> Result<Found> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    std::fs::write(&path, bytes).unwrap();
    reader(name)(&path, strict)
}

/// The records without what depends on the file's name.
fn nameless(mut records: Vec<PreferenceRecord>) -> Vec<PreferenceRecord> {
    for record in &mut records {
        let prefix = format!("{}:", record.source);
        record.id = record.id.strip_prefix(&prefix).unwrap().to_string();
        record.source.clear();
    }
    records
}

/// The record's response that an objective prefers, and the other one.
fn sides(record: &PreferenceRecord, objective_idx: usize) -> (&str, &str) {
    match record.indicators[objective_idx] {
        Some(1.0) => (&record.first, &record.second),
        Some(0.0) => (&record.second, &record.first),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_container_gives_the_same_records() {
    for (name, read, n_records) in SOURCES {
        let lines = std::fs::read(fixture(&format!("{name}.jsonl"))).unwrap();
        let expected = read(&fixture(&format!("{name}.jsonl")), true).unwrap();
        assert_eq!(expected.records.len(), n_records, "{name}");
        assert_eq!(expected.report.made, n_records, "{name}");
        let rows = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count();
        assert_eq!(expected.report.rows, rows, "{name}");
        assert_eq!(expected.sources[0].rows, rows, "{name}");
        let objectives: Vec<String> =
            (0..expected.records[0].indicators.len()).map(|k| format!("o{k}")).collect();
        let objectives = mopo_core::Objectives::new(objectives).unwrap();
        for record in &expected.records {
            record.check(&objectives).unwrap();
        }
        let expected = nameless(expected.records);

        let joined = [b"[".to_vec(), lines.trim_ascii().to_vec(), b"]".to_vec()].concat();
        let array = String::from_utf8(joined).unwrap().replace("}\n{", "},\n{");
        let parquet = std::fs::read(fixture(&format!("{name}.parquet"))).unwrap();
        for bytes in [
            lines.clone(),
            gzip(&lines),
            array.clone().into_bytes(),
            gzip(array.as_bytes()),
            parquet,
        ] {
            let found = read_bytes(name, &bytes, true).unwrap();
            assert_eq!(nameless(found.records), expected, "{name}");
        }
    }
}

#[test]
fn rows_of_another_schema_are_named_with_their_columns() {
    for (name, read, _) in SOURCES {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let good = std::fs::read_to_string(fixture(&format!("{name}.jsonl"))).unwrap();
        let n_good = good.lines().count();
        std::fs::write(
            &path,
            format!("{good}{{\"question\":\"a\",\"answer\":\"b\"}}\n[1]\n\u{0}\n"),
        )
        .unwrap();
        let report = read(&path, false).unwrap().report;
        assert_eq!((report.rows, report.malformed_total), (n_good + 3, 3), "{name}");
        assert_eq!(report.rows, report.used + report.left_out_total(), "{name}");
        let why = &report.malformed[0].why;
        assert_eq!(report.malformed[0].line, n_good + 1);
        assert!(why.contains("no column `"), "{name}: {why}");
        assert!(why.contains("the columns are `answer`, `question`"), "{name}: {why}");
        let error = read(&path, true).unwrap_err().to_string();
        let place = format!("rows.jsonl:{}: ", n_good + 1);
        assert!(error.contains(&place) && error.contains("--strict"), "{name}: {error}");

        // A file that belongs entirely to another source is always an error.
        std::fs::write(&path, "{\"question\":\"a\",\"answer\":\"b\"}\n").unwrap();
        let error = read(&path, false).unwrap_err().to_string();
        assert!(error.contains("rows.jsonl:1: there is no column"), "{name}: {error}");
        assert!(error.contains("none of its 1 rows") && error.contains("datasets/"), "{error}");
    }
}

#[test]
fn wrong_types_and_values_name_the_column() {
    for (name, from, to, expected) in [
        ("tldr-comparisons", "\"choice\": 0", "\"choice\": 2", "`choice` is 2; it must be 0 or 1"),
        (
            "tldr-comparisons",
            "\"choice\": 0",
            "\"choice\": \"0\"",
            "`choice`: invalid type: string",
        ),
        (
            "tldr-comparisons",
            "\"text\": \" Floor",
            "\"txt\": \" Floor",
            "`summaries[1]`: there is no column `text`",
        ),
        ("tldr-comparisons", "\"post\": \"My", "\"body\": \"My", "`info` has no `post`"),
        ("tldr-converted", "\"candidate_0\"", "\"candidate\"", "no column `candidate_0`"),
        (
            "tldr-axes",
            "\"overall\": 6",
            "\"overall\": 8",
            "`summary.axes.overall` is 8, but the scale is 1 to 7",
        ),
        ("tldr-axes", "\"coverage\": 5, ", "", "`summary.axes`: there is no column `coverage`"),
        (
            "summeval-op",
            "\"Fluency\": 5,",
            "\"Fluency\": \"5\",",
            "summaries.human.dimensions.Fluency",
        ),
        ("summeval-op", "\"Fluency\": 5,", "\"Fluency\": 0,", "the scale is 1 to 5"),
        ("summeval-op", "\"Fluency\": 5,", "", "there is no `summaries.human.dimensions.Fluency`"),
        ("trl-explicit", "\" Oslo.\"", "7", "`chosen` a number"),
        (
            "trl-messages",
            "\"content\": \"Oslo.\"",
            "\"content\": [\"Oslo.\"]",
            "`chosen[0].content`: invalid type",
        ),
        (
            "trl-messages",
            "\"role\": \"user\"",
            "\"role\": \"tool\"",
            "does not support the role `tool`",
        ),
        (
            "safe-rlhf",
            "\"better_response_id\": 1",
            "\"better_response_id\": -1",
            "`better_response_id` is -1",
        ),
        (
            "safe-rlhf",
            "\"response_0\": \"Wait for summer.\"",
            "\"response_0\": null",
            "`response_0`: invalid type: null",
        ),
        ("beavertails", "\"is_safe\": true", "\"is_safe\": \"yes\"", "`is_safe`: invalid type"),
        (
            "ultrafeedback",
            "\"Rating\": \"5\"",
            "\"Rating\": \"five\"",
            "completions[0].annotations.helpfulness.Rating` is `five`",
        ),
        (
            "ultrafeedback",
            "\"honesty\": {",
            "\"honest\": {",
            "there is no `completions[0].annotations.honesty.Rating`",
        ),
        (
            "helpsteer",
            "\"helpfulness\": 3",
            "\"helpfulness\": 9",
            "`helpfulness` is 9, but the scale is 0 to 4",
        ),
    ] {
        let good = std::fs::read_to_string(fixture(&format!("{name}.jsonl"))).unwrap();
        assert!(good.contains(from), "{name} has no {from}");
        let error = read_bytes(name, good.replacen(from, to, 1).as_bytes(), true).unwrap_err();
        assert!(error.to_string().contains(expected), "{name}: {error}");
        assert!(error.to_string().contains("rows:1: "), "{name}: {error}");
    }
}

#[test]
fn rows_that_cannot_be_compared_are_counted() {
    for (name, from, to, reason) in [
        ("tldr-comparisons", " Floor has a scratch.", " ", "a response is empty"),
        ("tldr-comparisons", "\"post\": \"My", "\"article\": \"My", "a news article, not a post"),
        ("trl-explicit", " Bergen.", " Oslo.", "both responses are equal"),
        ("trl-explicit", "The capital of Norway is", "", "the prompt is empty"),
        ("trl-implicit", "The sky is black.", "No sky.", "the prompt is empty"),
        ("trl-messages", "Bergen.", "Oslo.", "both responses are equal"),
        (
            "trl-messages",
            "\"role\": \"assistant\", \"content\": \"Bergen.",
            "\"role\": \"user\", \"content\": \"Bergen.",
            "a response is not the assistant's",
        ),
        (
            "trl-messages-implicit",
            "\"score_chosen\": 8.0",
            "\"score_chosen\": 1.0",
            "the scores contradict chosen and rejected",
        ),
        ("safe-rlhf", "Wait for summer.", "", "a response is empty"),
        (
            "safe-rlhf",
            "\"is_response_0_safe\": true",
            "\"is_response_0_safe\": false",
            "the safer response is the unsafe one",
        ),
        (
            "safe-rlhf",
            "\"better_response_id\": 1, \"safer_response_id\": 0",
            "\"better_response_id\": null, \"safer_response_id\": null",
            "both labels are missing",
        ),
        ("ultrafeedback", "Rain is wet.", "", "fewer than two different completions"),
        ("helpsteer", "Ten minutes for a hard one.", "", "a response is empty"),
        ("helpsteer", "Alone?", "", "the prompt is empty"),
    ] {
        let good = std::fs::read_to_string(fixture(&format!("{name}.jsonl"))).unwrap();
        assert!(good.contains(from), "{name} has no {from}");
        let before = read_bytes(name, good.as_bytes(), true).unwrap().report;
        // Not fatal even when strict: the schema is right.
        let after = read_bytes(name, good.replacen(from, to, 1).as_bytes(), true).unwrap().report;
        assert_eq!(after.left_out_for(reason), before.left_out_for(reason) + 1, "{name}: {after}");
        assert_eq!(after.rows, after.used + after.left_out_total(), "{name}: {after}");
        assert!(after.to_string().contains(reason));
    }
}

#[test]
fn tldr_prompts_labels_and_options() {
    let found = records("tldr-comparisons");
    assert!(found[0].prompt.starts_with(
        "### Instruction: Generate a one-sentence summary of this post. ### Input: My landlord"
    ));
    assert!(found[0].prompt.ends_with("a lawyer? ### Response:"), "{}", found[0].prompt);
    assert!(tldr_post(&found[0].prompt).unwrap().ends_with("straight to a lawyer?"));
    assert_eq!(found[0].indicators, [Some(1.0)]);
    assert_eq!(found[1].indicators, [Some(0.0)]);
    // A summary without the space that others start with gets one.
    assert_eq!(found[2].first, " Cat sleeps on the router.");
    // The converted form gives the same prompt.
    assert_eq!(records("tldr-converted")[0].prompt, found[0].prompt);

    let path = fixture("tldr-comparisons.jsonl");
    let train = TldrOptions { split: Some("train".into()), ..tldr_options(true) };
    let read = read_tldr(&path, 1, 2, &train).unwrap();
    assert_eq!(read.report.left_out_for("it belongs to another split"), 1);
    assert_eq!(read.records[0].indicators, [None, Some(1.0)]);

    let post = tldr_post(&found[2].prompt).unwrap().chars().count();
    for (above, below, kept) in [(post - 1, post + 1, 1), (post, post + 99, 2), (0, post, 0)] {
        let range = Some(CharacterRange { above, below });
        let options = TldrOptions { post_characters: range, ..tldr_options(true) };
        let kept_now = match read_tldr(&path, 0, 1, &options) {
            Ok(read) => read.records.len(),
            Err(error) => {
                assert!(error.to_string().contains("shorter or longer"), "{error}");
                0
            }
        };
        assert_eq!(kept_now, kept, "{above} to {below}");
    }
}

#[test]
fn files_of_other_tldr_forms_are_pointed_to_their_reader() {
    let error =
        |name: &str| reader("tldr-comparisons")(&fixture(name), false).unwrap_err().to_string();
    assert!(error("tldr-axes.jsonl").contains("`tldr_axes`"));
    assert!(error("tldr-dove.jsonl").contains("--prompts"));
}

#[test]
fn tldr_axes_average_workers_and_keep_what_is_missing() {
    let found = records("tldr-axes");
    assert_eq!(TLDR_AXES[0], "overall");
    let scores = found[0].scores.as_ref().unwrap();
    // Two workers: 6 and 5, 7 and 7, 5 and 6, 7 and none.
    let good =
        if found[0].first.contains("keeps deposit") { &scores.first } else { &scores.second };
    assert_eq!(good, &[5.5, 7.0, 5.5, 7.0]);
    assert_eq!(sides(&found[0], 0).0, " Landlord keeps deposit over an old scratch.");
    assert_eq!((found[0].indicators[1], found[0].indicators[3]), (Some(0.5), Some(0.5)));
    // Overall and accuracy disagree; one summary has no score for coherence.
    assert_eq!(sides(&found[1], 0).1, " Cat on router.");
    assert_eq!(sides(&found[1], 1).0, " Cat on router.");
    assert_eq!((found[1].indicators[3], found[1].scores.as_ref()), (None, None));
}

#[test]
fn summeval_scores_are_objectives() {
    let read = reader("summeval-op")(&fixture("summeval-op.jsonl"), true).unwrap();
    // Two of the second product's three summaries are the same text.
    assert_eq!(read.report.merged_responses, 1);
    let pair = &read.records[0];
    assert_eq!(pair.id, "fixtures/summeval-op.jsonl:1.1-1.2");
    let at = |name: &str| SUMMEVAL_OBJECTIVES.iter().position(|known| *known == name).unwrap();
    assert_eq!(sides(pair, at("fluency")).0, " A fast kettle that is a bit loud.");
    assert!(sides(pair, at("aspect_coverage")).0.contains("the lid rattles"));
    assert_eq!(pair.indicators[at("coherence")], Some(0.5));
    // An empty summary does not affect its product's others.
    let good = std::fs::read_to_string(fixture("summeval-op.jsonl")).unwrap();
    let empty = good.replacen("A fast kettle that is a bit loud.", "", 1);
    let less = read_bytes("summeval-op", empty.as_bytes(), true).unwrap();
    assert_eq!(less.records.len(), read.records.len() - 2);
    assert_eq!(less.report.responses_left_out["the summary is empty"], 1);
    assert!(less.report.to_string().contains("responses skipped: the summary is empty"));
    assert!(pair.prompt.contains("the lid rattles.\n\nTwo years old"));
    assert!(pair.scores.is_some());
}

#[test]
fn trl_prompts_are_found() {
    let found = records("trl-explicit");
    assert_eq!(found[0].prompt, "The capital of Norway is");
    assert_eq!(sides(&found[0], 0), (" Oslo.", " Bergen."));
    let found = records("trl-implicit");
    // Not "The sky is bl".
    assert_eq!(found[0].prompt, "The sky is");
    assert_eq!(sides(&found[0], 0), (" blue.", " black."));
    assert_eq!(found[1].prompt, "Tea is made with hot");
    assert_eq!(sides(&found[1], 0).1, " water and tea leaves.");
    let found = records("trl-messages");
    assert_eq!(found[0].prompt, "Be brief.\n\nHuman: What is the capital of Norway?\n\nAssistant:");
    assert_eq!(sides(&found[0], 0), (" Oslo.", " Bergen."));
    let turns = |record: &PreferenceRecord| -> Vec<(String, String)> {
        let messages = record.messages.clone().unwrap();
        messages.into_iter().map(|message| (message.role, message.content)).collect()
    };
    let question = ("user".into(), "What is the capital of Norway?".into());
    assert_eq!(turns(&found[0]), [("system".into(), "Be brief.".into()), question.clone()]);
    assert!(records("trl-implicit").iter().all(|record| record.messages.is_none()));
    let found = records("trl-messages-implicit");
    assert_eq!(turns(&found[0]), [question]);
    assert_eq!(found[0].prompt, "\n\nHuman: What is the capital of Norway?\n\nAssistant:");
    assert_eq!(found[1].indicators, [Some(0.5)]);
    assert!(found[0].scores.is_some());
    let chatml = read_trl(&fixture("trl-messages.jsonl"), &options(true), ChatTemplate::Chatml);
    let prompt = &chatml.unwrap().records[0].prompt;
    assert!(prompt.starts_with("<|im_start|>system\nBe brief.<|im_end|>\n"), "{prompt}");
    let plain = read_trl(&fixture("trl-messages.jsonl"), &options(false), ChatTemplate::Plain);
    assert!(plain.unwrap_err().to_string().contains("use `dialogue` or `chatml`"));
    // A question as text beside whole dialogues is not repeated.
    let row = r#"{"prompt":"Hi","chosen":[{"role":"user","content":"Hi"},{"role":"assistant","content":"A"}],"rejected":[{"role":"user","content":"Hi"},{"role":"assistant","content":"B"}]}"#;
    let found = read_bytes("trl-messages", row.as_bytes(), true).unwrap().records;
    assert_eq!(found[0].prompt, "\n\nHuman: Hi\n\nAssistant:");
}

#[test]
fn safety_is_an_objective_beside_helpfulness() {
    let found = records("safe-rlhf");
    assert_eq!(found[0].indicators, [Some(0.0), Some(1.0)]);
    assert_eq!(found[2].indicators, [Some(0.0), Some(0.0)]);
    assert_eq!(found[0].prompt, "\n\nHuman: How do I open a jammed window?\n\nAssistant:");
    let read = reader("beavertails")(&fixture("beavertails.jsonl"), true).unwrap();
    // Safe to one judge of two: 0.5.
    assert_eq!(sides(&read.records[0], 0), (" Ask them.", " Follow them home."));
    let scores = read.records[0].scores.clone().unwrap();
    assert_eq!(scores.first[0] + scores.second[0], 1.5);
    assert_eq!(read.report.left_out_for("no other response to its prompt"), 1);
}

#[test]
fn ratings_of_completions_are_objectives() {
    let found = records("ultrafeedback");
    assert_eq!(found[0].indicators.len(), ULTRAFEEDBACK_OBJECTIVES.len());
    assert_eq!(sides(&found[0], 0).0, " The Loire and the Rhône.");
    assert_eq!(found[0].indicators[1], Some(0.5));
    // N/A.
    assert_eq!((found[1].indicators[1], found[1].scores.as_ref()), (None, None));
    assert_eq!(sides(&found[1], 3).1, " The Loire and the Po, I am sure of it.");
    let found = records("helpsteer");
    assert_eq!(found[0].indicators.len(), HELPSTEER_OBJECTIVES.len());
    assert_eq!(found[0].id, "fixtures/helpsteer.jsonl:1-2");
    assert!(sides(&found[0], 4).0.contains("It has parties"));
}

#[test]
fn posts_become_prompts_once() {
    let read = read_tldr_prompts(&fixture("tldr-dove.jsonl"), &tldr_options(true)).unwrap();
    assert_eq!((read.report.rows, read.report.made, read.prompts.len()), (3, 2, 2));
    assert_eq!(read.report.left_out_for("an earlier row has the same post"), 1);
    let prompts = read.prompts.into_memory().unwrap();
    assert!(prompts[0].reference.as_ref().unwrap().starts_with(" Landlord"));
    let dove: Vec<_> = prompts.into_iter().map(|p| p.prompt).collect();
    for name in ["tldr-comparisons", "tldr-converted", "tldr-axes", "tldr-dove"] {
        for ending in ["jsonl", "parquet"] {
            let path = fixture(&format!("{name}.{ending}"));
            let read = read_tldr_prompts(&path, &tldr_options(true)).unwrap();
            let prompts = read.prompts.into_memory().unwrap();
            assert_eq!(prompts.into_iter().map(|p| p.prompt).collect::<Vec<_>>(), dove);
        }
    }
}

#[test]
fn shared_files_have_the_documented_counts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !root.is_dir() {
        mopo_testkit::skip!("no folder `shared/data` beside the repository");
    }
    let read =
        read_summeval_op(&root.join("summeval-op/summeval-op.jsonl"), &options(true), &PAIRS);
    let read = read.unwrap();
    assert_eq!((read.report.rows, read.records.len()), (32, 2496));
    // A conflict: the two scores prefer different summaries.
    let conflicts = |r: &&PreferenceRecord| {
        r.indicators.contains(&Some(1.0)) && r.indicators.contains(&Some(0.0))
    };
    assert_eq!(read.records.iter().filter(conflicts).count(), 811);

    let converted = root.join("tldr/preference_dataset.jsonl");
    let read = read_tldr(&converted, 0, 1, &tldr_options(true)).unwrap();
    assert_eq!((read.report.rows, read.records.len()), (929, 928));
    assert_eq!(read.report.left_out_for("a response is empty"), 1);
    assert!(!read.records.iter().any(|record| record.id.ends_with(":255")));
    // Each post is in one part of a split; the skipped row is the only one of its post.
    let (train, heldout) = split_by_prompt(read.records, 0.2, 1);
    let posts = |side: &[PreferenceRecord]| {
        side.iter().map(|r| tldr_post(&r.prompt).unwrap().to_string()).collect::<BTreeSet<_>>()
    };
    let (train, heldout) = (posts(&train), posts(&heldout));
    assert!(train.is_disjoint(&heldout) && heldout.len() > 100);
    assert_eq!(train.len() + heldout.len(), 865);
    let prompts = read_tldr_prompts(&converted, &tldr_options(true)).unwrap();
    assert_eq!(prompts.prompts.len(), 866);
    let range = Some(CharacterRange { above: 100, below: 1200 });
    let protocol = TldrOptions { post_characters: range, ..tldr_options(true) };
    assert_eq!(read_tldr_prompts(&converted, &protocol).unwrap().prompts.len(), 388);

    let dove = root.join("tldr/dove_tldr_test.jsonl");
    let read = read_tldr_prompts(&dove, &tldr_options(true)).unwrap();
    let prompts = read.prompts.into_memory().unwrap();
    assert_eq!(prompts.len(), 500);
    assert!(prompts.iter().all(|prompt| prompt.reference.is_some()));
    assert_eq!(read_tldr_prompts(&dove, &protocol).unwrap().prompts.len(), 221);

    let example = root.join("tldr/openai_readme_comparison_example.json");
    let read = read_tldr(&example, 0, 1, &tldr_options(true)).unwrap();
    assert_eq!(read.records[0].indicators, [Some(0.0)]);
    // The only example of scores is about a news article.
    let example = root.join("tldr/openai_readme_axis_example.json");
    let error = read_tldr_axes(&example, &tldr_options(true), &PAIRS).unwrap_err().to_string();
    assert!(error.contains("a news article, not a post"), "{error}");
}
