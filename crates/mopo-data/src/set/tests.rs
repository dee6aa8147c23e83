//! Sets written and read, whole and record by record.

use super::*;

fn objectives() -> Objectives {
    Objectives::new(["helpful", "harmless"]).unwrap()
}

fn set() -> PreparedSet {
    let record = |i: usize| PreferenceRecord {
        id: format!("r:{i}"),
        source: "r".into(),
        prompt: "\n\nHuman: \"Tea\"? ☕\u{2028}\n\nAssistant:".into(),
        messages: None,
        first: format!(" one {i}"),
        second: " two\nlines".into(),
        indicators: vec![Some(0.1), None],
        scores: None,
    };
    let source = SourceFile { path: "a/b.jsonl".into(), sha256: sha256_hex(b"x"), rows: 3 };
    let notes = vec!["seed 1".into()];
    PreparedSet::new(
        objectives(),
        Some(Split::Train),
        vec![source],
        notes,
        (0..3).map(record).collect(),
    )
    .unwrap()
}

/// Writes the set with one replacement made in its text and returns the reader's message.
fn read_edited(from: &str, to: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.jsonl");
    let text = String::from_utf8(set().to_bytes()).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    PreparedSet::read(&path).unwrap_err().to_string()
}

#[test]
fn round_trip_and_hash() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/set.jsonl");
    let hash = set().write(&path).unwrap();
    assert_eq!(hash, set().hash());
    assert_eq!(hash, sha256_hex(&std::fs::read(&path).unwrap()));
    assert_eq!(PreparedSet::read(&path).unwrap(), set());
}

#[test]
fn header_errors() {
    for (from, to, expected) in [
        ("\"schema\":1", "\"schema\":2", "set.jsonl:1: `schema` is 2, this version reads 1"),
        ("\"schema\":1,", "", "`schema` is null"),
        ("mopo-preferences", "parquet", "set.jsonl:1: `format` is `parquet`"),
        ("\"sources\"", "\"souces\"", "unknown field `souces`"),
        ("\"records\":3", "\"records\":4", "announces 4 records, but the file has 3"),
        ("\"records\":3", "\"records\":2", "announces 2 records, but the file has 3"),
        ("{\"format\"", "\"format\"", "set.jsonl:1: not a header"),
        ("[\"helpful\",\"harmless\"]", "[\"helpful\",\"helpful\"]", "duplicate name"),
        (
            "[\"helpful\",\"harmless\"]",
            "[\"helpful\"]",
            "set.jsonl:2: record `r:0`, field `indicators`: it has 2 entries, expected 1",
        ),
    ] {
        let error = read_edited(from, to);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn record_errors_name_the_line() {
    for (from, to, expected) in [
        ("\"id\":\"r:1\"", "\"id\":\"r:0\"", "set.jsonl:3: the id `r:0` is already used in line 2"),
        ("\"first\":\" one 1\"", "\"first\":7", "set.jsonl:3: not a record"),
        ("\"first\":\" one 2\"", "\"frist\":\"\"", "set.jsonl:4: not a record: unknown field"),
        ("[0.1,null]", "[1.1,null]", "set.jsonl:2: record `r:0`, field `indicators`: 1.1"),
        ("\n{\"id\":\"r:1\"", "\n\n{\"id\":\"r:1\"", "set.jsonl:3: not a record"),
    ] {
        let error = read_edited(from, to);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn empty_and_cut_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.jsonl");
    assert!(PreparedSet::read(&path).unwrap_err().to_string().contains("set.jsonl"));
    std::fs::write(&path, "").unwrap();
    let error = PreparedSet::read(&path).unwrap_err().to_string();
    assert!(error.contains("no usable row"), "{error}");
    let bytes = set().to_bytes();
    std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    let error = PreparedSet::read(&path).unwrap_err().to_string();
    assert!(error.contains("set.jsonl:4: not a record: EOF"), "{error}");
    let none = PreparedSet::new(objectives(), None, vec![], vec![], vec![]);
    assert!(none.unwrap_err().to_string().contains("no usable row"));
}

fn staged(records: &[PreferenceRecord], folder: &Path) -> Result<StagedSet> {
    let mut writer = PreparedWriter::new(folder, objectives())?;
    records.iter().try_for_each(|record| writer.push(record))?;
    let Header { split, sources, notes, .. } = set().header;
    writer.finish(split, sources, notes)
}

#[test]
fn record_by_record_it_is_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, streamed) = (folder.path().join("whole"), folder.path().join("streamed"));
    let hash = set().write(&whole).unwrap();
    let staged = staged(&set().records, folder.path()).unwrap();
    assert_eq!(staged.header(), &set().header);
    assert_eq!(staged.hash().unwrap(), hash);
    // Two readers of a set are independent.
    let (mut one, other) = (staged.records().unwrap(), staged.records().unwrap());
    assert_eq!(one.next().unwrap().unwrap(), set().records[0]);
    assert_eq!(other.collect::<Result<Vec<_>>>().unwrap(), set().records);
    assert_eq!(staged.write(&streamed).unwrap(), hash);
    assert_eq!(one.count(), 2);
    assert_eq!(std::fs::read(&whole).unwrap(), std::fs::read(&streamed).unwrap());
    // Two files, and no leftovers.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    assert_eq!(staged.into_memory().unwrap(), set());
    let reader = PreparedReader::open(&streamed).unwrap();
    assert_eq!(reader.header(), &set().header);
    assert_eq!(reader.collect::<Result<Vec<_>>>().unwrap(), set().records);
}

#[test]
fn a_writer_refuses_what_a_reader_would() {
    let folder = tempfile::tempdir().unwrap();
    let error = |edit: &dyn Fn(&mut Vec<PreferenceRecord>)| {
        let mut records = set().records;
        edit(&mut records);
        staged(&records, folder.path()).unwrap_err().to_string()
    };
    assert!(error(&|records| records.clear()).contains("no usable row"));
    assert!(error(&|records| records[1].first.clear()).contains("record `r:1`, field `first`"));
    let repeated = error(&|records| records[2].id = "r:0".into());
    assert!(repeated.contains("record `r:0`, field `id`: two records have this id"), "{repeated}");
    let long = error(&|records| records[2].prompt = "x".repeat(crate::MAX_ROW_BYTES));
    assert!(long.contains("`r:2`") && long.contains("64 MiB"), "{long}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    // Without a body there are only the checks.
    let mut checking = PreparedWriter::checking(folder.path(), objectives());
    set().records.iter().for_each(|record| checking.push(record).unwrap());
    let checked = checking.finish(None, vec![], vec![]).unwrap();
    assert_eq!((checked.header().records, checked.records().unwrap().count()), (3, 0));
}

#[test]
fn a_reader_ends_with_its_first_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.jsonl");
    let text = String::from_utf8(set().to_bytes()).unwrap();
    std::fs::write(&path, text.replacen("r:1", "r:0", 1)).unwrap();
    let items: Vec<_> = PreparedReader::open(&path).unwrap().collect();
    assert_eq!(items.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, true, false]);
    let long = format!("{text}{}", "x".repeat(crate::MAX_ROW_BYTES + 1));
    std::fs::write(&path, long).unwrap();
    let error = PreparedReader::open(&path).unwrap().find_map(Result::err).unwrap().to_string();
    assert!(error.contains("set.jsonl:5: it is longer than 64 MiB"), "{error}");
}
