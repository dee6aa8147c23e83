//! The HH reader on files written here, and the counts of the official ones where they are.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::{PreferenceRecord, ReadReport, SourceFile, collect, sha256_hex};

const PROMPT: &str = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Tea?\n\nAssistant:";

fn row(chosen: &str, rejected: &str) -> String {
    serde_json::json!({ "chosen": chosen, "rejected": rejected }).to_string()
}

fn good(i: usize) -> String {
    row(&format!("{PROMPT} Yes {i}."), &format!("{PROMPT} No {i}."))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Writes `bytes` as `helpful/test.jsonl` and reads it as objective 1 of 3.
fn read(bytes: &[u8], strict: bool) -> Result<(Vec<PreferenceRecord>, ReadReport, SourceFile)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("helpful/test.jsonl");
    crate::write_atomically(&path, bytes).unwrap();
    let options = ReadOptions { strict, seed: 7, ..Default::default() };
    let (records, mut read) = collect(|sink| read_hh(&path, 1, 3, &options, sink))?;
    Ok((records, read.report, read.sources.remove(0)))
}

fn error(bytes: &[u8], strict: bool) -> String {
    read(bytes, strict).unwrap_err().to_string()
}

#[test]
fn rows_become_records_in_both_orders() {
    let lines: Vec<String> = (0..200).map(good).collect();
    let text = lines.join("\n");
    let (records, report, source) = read(text.as_bytes(), true).unwrap();
    assert_eq!((report.rows, report.used, source.rows), (200, 200, 200));
    assert_eq!(source.path, "helpful/test.jsonl");
    assert_eq!(source.sha256, sha256_hex(text.as_bytes()));
    let mut n_swapped = 0;
    for (i, record) in records.iter().enumerate() {
        assert_eq!(record.id, format!("helpful/test.jsonl:{}", i + 1));
        assert_eq!(record.prompt, PROMPT);
        let (yes, no) = (format!(" Yes {i}."), format!(" No {i}."));
        if record.indicators[1] == Some(1.0) {
            assert_eq!((&record.first, &record.second), (&yes, &no));
        } else {
            assert_eq!(record.indicators[1], Some(0.0));
            assert_eq!((&record.first, &record.second), (&no, &yes));
            n_swapped += 1;
        }
        assert_eq!((record.indicators[0], record.indicators[2]), (None, None));
    }
    assert!((60..140).contains(&n_swapped), "{n_swapped}");
    assert_eq!(read(text.as_bytes(), true).unwrap().0, records);
}

#[test]
fn what_cannot_be_compared_is_counted() {
    let other = PROMPT.replace("Tea", "Milk");
    let lines = [
        good(0),
        row(&format!("{PROMPT} Yes."), &format!("{PROMPT} Yes.")),
        row(&format!("{PROMPT} Yes."), &format!("{other} No.")),
        row(&format!("{PROMPT} Yes."), &format!("{PROMPT} \n")),
        String::new(),
        good(1),
    ];
    // A byte-order mark, Windows line ends, and a field that the format may gain.
    let text = format!("\u{feff}{}\r\n", lines.join("\r\n")).replacen(
        "{\"chosen\"",
        "{\"extra\":1,\"chosen\"",
        1,
    );
    let (records, report, _) = read(text.as_bytes(), true).unwrap();
    assert_eq!(records[1].id, "helpful/test.jsonl:6");
    let expected = ReadReport {
        rows: 5,
        used: 2,
        made: 2,
        left_out: [(IDENTICAL, 1), (DIFFERENT_PROMPTS, 1), (EMPTY_RESPONSE, 1)].into(),
        ..Default::default()
    };
    assert_eq!(report, expected);
}

#[test]
fn malformed_lines_are_named_and_fatal_when_strict() {
    let cases: [(&[u8], &str); 7] = [
        (b"{\"chosen\": \"\xff\"}", "invalid UTF-8"),
        (b"{\"chosen\": ", "EOF while parsing a value"),
        (b"{\"chosen\": \"a\"}", "there is no column `rejected`; the columns are `chosen`"),
        (b"{\"chosen\": 3, \"rejected\": \"a\"}", "invalid type: integer `3`, expected a string"),
        (b"{\"chosen\": null, \"rejected\": \"a\"}", "invalid type: null, expected a string"),
        (b"[1]", "it is a list, not an object"),
        (b"{\"chosen\": \"a\", \"rejected\": \"a\"}", "`chosen` has no \"\\n\\nAssistant:\""),
    ];
    for (line, expected) in cases {
        let bytes = [good(0).as_bytes(), line, good(1).as_bytes()].join(&b'\n');
        let (records, report, _) = read(&bytes, false).unwrap();
        assert_eq!((records.len(), report.rows, report.malformed_total), (2, 3, 1));
        assert_eq!(report.malformed[0].line, 2);
        assert!(report.malformed[0].why.contains(expected), "{}", report.malformed[0].why);
        assert!(report.to_string().contains("helpful/test.jsonl:2: "), "{report}");
        let error = error(&bytes, true);
        assert!(error.contains("helpful/test.jsonl:2: ") && error.contains(expected), "{error}");
        assert!(error.contains("--strict"), "{error}");
    }
}

#[test]
fn only_the_first_malformed_lines_are_kept() {
    let text = format!("{}\n{}", good(0), "x\n".repeat(50));
    let (_, mut report, _) = read(text.as_bytes(), false).unwrap();
    assert_eq!((report.malformed.len(), report.malformed_total), (20, 50));
    assert!(report.to_string().contains("… and 30 more"));
    report.merge(&report.clone());
    assert_eq!((report.malformed.len(), report.malformed_total, report.used), (20, 100, 2));
}

#[test]
fn gzip_is_recognised_by_content_and_may_have_members() {
    let text = (0..40).map(|i| good(i) + "\n").collect::<String>();
    let (plain, ..) = read(text.as_bytes(), true).unwrap();
    let (zipped, ..) = read(&gzip(text.as_bytes()), true).unwrap();
    assert_eq!(plain, zipped);
    let (a, b) = text.split_at(text.len() / 3);
    let members = [gzip(a.as_bytes()), gzip(b.as_bytes())].concat();
    assert_eq!(read(&members, true).unwrap().0, plain);
}

#[test]
fn truncated_or_damaged_gzip_is_an_error() {
    let text = (0..2000).map(|i| good(i * 7919) + "\n").collect::<String>();
    let bytes = gzip(text.as_bytes());
    // Even with lenient reading a truncated file is an error, also if only the checksum is missing.
    for cut in [bytes.len() / 2, bytes.len() - 4] {
        let error = error(&bytes[..cut], false);
        assert!(error.contains("helpful/test.jsonl: the gzip stream is truncated"), "{error}");
        assert!(error.contains("whole rows") && error.contains("sha256"), "{error}");
    }
    let rows_read = |cut: usize| match read(&bytes[..cut], false) {
        Err(Error::Gzip { rows_read, .. }) => rows_read,
        other => panic!("{other:?}"),
    };
    assert!(rows_read(bytes.len() / 2) > 100);
    assert_eq!(rows_read(bytes.len() - 4), 2000);
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(error(&damaged, false).contains("damaged"));
}

#[test]
fn empty_files_and_wrong_arguments() {
    assert!(error(b"", false).contains("is empty"));
    assert!(error(b"\n\n", false).contains("no usable row"));
    assert!(error(b"x", false).contains("none of its 1 rows can be read"));
    let equal = row(PROMPT, PROMPT);
    assert!(error(equal.as_bytes(), false).contains(IDENTICAL));
    assert!(error(&gzip(b""), false).contains("no usable row"));
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n";
    assert!(error(pointer, false).contains("git lfs pull"));
    let alone = |path: &str, objective_idx| {
        let (path, options) = (Path::new(path), ReadOptions::default());
        read_hh(path, objective_idx, 2, &options, &mut |_| Ok(())).unwrap_err().to_string()
    };
    let error = alone("x", 2);
    assert!(error.contains("`objective_idx` is 2"), "{error}");
    let error = alone("absent.jsonl", 0);
    assert!(error.contains("absent.jsonl") && error.contains("datasets/hh-rlhf"), "{error}");
}

#[test]
fn folders_are_read_in_order() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        crate::write_atomically(&root.path().join(name), text.as_bytes()).unwrap();
    };
    write("a/train.jsonl", &good(1));
    write("a/test.jsonl.gz", &good(0)); // plain text behind a gzip name
    write("a/notes.txt", "not data");
    write("b/test.jsonl", &good(2));
    let objectives = Objectives::new(["helpful", "harmless"]).unwrap();
    let folders = [("harmless", "a"), ("helpful", "b")];
    let options = ReadOptions::default();
    let (records, read) =
        collect(|sink| read_hh_dir(root.path(), &objectives, &folders, &options, sink)).unwrap();
    let ids: Vec<&str> = records.iter().map(|r| r.id.as_str()).collect();
    assert_eq!(ids, ["a/test.jsonl.gz:1", "a/train.jsonl:1", "b/test.jsonl:1"]);
    assert!(records[0].indicators[1].is_some() && records[2].indicators[0].is_some());
    assert!(read.report.to_string().contains("notes.txt"));
    assert_eq!((read.report.made, read.sources.len()), (3, 3));

    let tests = ReadOptions { stem: Some("test".into()), ..Default::default() };
    let read = read_hh_dir(root.path(), &objectives, &folders, &tests, &mut |_| Ok(())).unwrap();
    assert_eq!(read.report.made, 2);

    let fails = |folders: &[(&str, &str)], options: &ReadOptions| {
        let sink: &mut Sink<'_> = &mut |_| Ok(());
        read_hh_dir(root.path(), &objectives, folders, options, sink).unwrap_err().to_string()
    };
    assert!(fails(&[("helpful", "c")], &options).contains("datasets/hh-rlhf/README.md"));
    assert!(fails(&[("humor", "a")], &options).contains("helpful, harmless"));
    assert!(fails(&[], &options).contains("at least one objective"));
    let validation = ReadOptions { stem: Some("validation".into()), ..Default::default() };
    assert!(
        fails(&[("helpful", "a")], &validation)
            .contains("validation.{jsonl,json,parquet}[.gz] does not exist")
    );
}

#[test]
fn official_files_have_the_documented_counts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/hh-rlhf");
    if !root.is_dir() {
        mopo_testkit::skip!("no folder `shared/data/hh-rlhf` beside the repository");
    }
    let objectives = Objectives::new(["helpful", "harmless"]).unwrap();
    for (objective, folder, rows, identical, different_prompts) in
        [("helpful", "helpful-base", 2354, 2, 9), ("harmless", "harmless-base", 2312, 0, 5)]
    {
        let options = ReadOptions { strict: true, ..Default::default() };
        let folders = [(objective, folder)];
        let (records, read) =
            collect(|sink| read_hh_dir(&root, &objectives, &folders, &options, sink)).unwrap();
        let report = &read.report;
        assert_eq!(report.rows, rows);
        assert_eq!(report.left_out_for(IDENTICAL), identical);
        assert_eq!(report.left_out_for(DIFFERENT_PROMPTS), different_prompts);
        assert_eq!((report.left_out_for(EMPTY_RESPONSE), report.malformed_total), (4, 0));
        assert_eq!(report.used + identical + different_prompts + 4, rows);
        assert_eq!(records.len(), report.used);
        for record in &records {
            record.check(&objectives).unwrap();
            assert!(record.prompt.ends_with(ASSISTANT));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// For any bytes there is a result or an error, and the counts add up.
    #[test]
    fn any_bytes(bytes: Vec<u8>, cut in 0usize..400, strict: bool) {
        let text = [good(0).as_bytes(), &bytes, good(1).as_bytes()].join(&b'\n');
        for bytes in [&text[..], &gzip(&text)[..], &gzip(&text)[..cut.min(gzip(&text).len())]] {
            if let Ok((records, report, _)) = read(bytes, strict) {
                prop_assert_eq!(records.len(), report.used);
                prop_assert_eq!(report.rows, report.used + report.left_out_total());
            }
        }
    }
}
