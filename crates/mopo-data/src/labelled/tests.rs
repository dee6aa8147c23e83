//! Labelled text in files written here, and the counts of the shared ones where they are.

use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8], strict: bool) -> Result<LabelledRead> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jokes/funny.csv");
    crate::write_atomically(&path, bytes).unwrap();
    read_labelled(&path, "text", "funny", "True", strict)
}

fn error(bytes: &[u8], strict: bool) -> String {
    read(bytes, strict).unwrap_err().to_string()
}

fn pairs(read: &LabelledRead) -> Vec<(&str, u8)> {
    read.texts.iter().map(|t| (t.text.as_str(), t.label)).collect()
}

#[test]
fn csv_and_json_give_the_same_texts() {
    let csv =
        "\u{feff}id,text,funny\r\n1,\"A \"\"pun\"\",\nwell\",True\r\n2,Rain at noon,False\r\n";
    let read_csv = read(csv.as_bytes(), true).unwrap();
    assert_eq!(pairs(&read_csv), [("A \"pun\",\nwell", 1), ("Rain at noon", 0)]);
    assert_eq!(read_csv.labels.get("False"), Some(&1));
    assert_eq!((read_csv.source.path.as_str(), read_csv.source.rows), ("jokes/funny.csv", 2));
    let lines = "{\"text\":\"A \\\"pun\\\",\\nwell\",\"funny\":true}\n{\"text\":\"Rain at noon\",\"funny\":false}\n";
    assert_eq!(read(lines.as_bytes(), true).unwrap().texts, read_csv.texts);
    let array = format!("[{}]", lines.trim().replace('\n', ","));
    assert_eq!(read(array.as_bytes(), true).unwrap().texts, read_csv.texts);
}

#[test]
fn a_missing_column_is_named_with_those_that_are_there() {
    let text = error(b"body,funny\nHa,True\n", false);
    assert!(text.contains("funny.csv:1: there is no column `text`"), "{text}");
    assert!(text.contains("`body`, `funny`") && text.contains("first line"), "{text}");
    let text = error(b"{\"text\":\"Ha\",\"humor\":true}\n", false);
    assert!(text.contains("funny.csv:1: there is no column `funny`"), "{text}");
    assert!(text.contains("the columns are `humor`, `text`"), "{text}");
}

#[test]
fn bad_rows_are_counted_and_fatal_when_strict() {
    let text =
        b"text,funny\nHa,True\nno label\nthree,False,cells\n\xff,False\n ,True\nx,\nDry,False\n";
    let found = read(text, false).unwrap();
    assert_eq!(pairs(&found), [("Ha", 1), ("Dry", 0)]);
    let report = &found.report;
    assert_eq!((report.rows, report.used, report.malformed_total, report.made), (7, 2, 3, 2));
    assert_eq!(report.left_out_for("the text is empty"), 1);
    assert_eq!(report.left_out_for("the label is empty"), 1);
    let reasons: Vec<_> = report.malformed.iter().map(|m| (m.line, m.why.as_str())).collect();
    assert_eq!(reasons[0], (3, "it has 1 cells, but there are 2 columns"));
    assert_eq!(reasons[1].0, 4);
    assert!(reasons[2].1.contains("invalid UTF-8"), "{reasons:?}");
    let text = error(text, true);
    assert!(text.contains("funny.csv:3: it has 1 cells") && text.contains("--strict"), "{text}");
}

#[test]
fn labels_of_one_kind_are_refused_with_what_is_there() {
    let text = error(b"text,funny\nHa,yes\nDry,no\n", false);
    assert!(text.contains("`True`") && text.contains("`no` (1), `yes` (1)"), "{text}");
    let text = error(b"text,funny\nHa,TRUE\nHo,true\n", false);
    assert!(text.contains("all 2 texts"), "{text}");
    assert!(error(b"text,funny\n", false).contains("no rows"));
    assert!(error(b"text,funny\n,True\n", false).contains("no usable row"));
    assert!(error(b"", false).contains("is empty"));
}

#[test]
fn rows_that_are_too_long_are_refused() {
    let long = "a".repeat(crate::MAX_ROW_BYTES + 10_000);
    let found = error(format!("text,funny\nHa,True\n\"{long}\",False\n").as_bytes(), false);
    assert!(found.contains("funny.csv:3: it is longer than 64 MiB"), "{found}");
    let found = error(format!("text,{long}\nHa,True\n").as_bytes(), false);
    assert!(found.contains("funny.csv:1: it is longer than 64 MiB"), "{found}");
}

#[test]
fn columns_that_are_not_read_cost_no_row() {
    let lines = "{\"x\":NaN,\"text\":\"Ha\",\"funny\":true}\n\
                 {\"x\":[-Infinity],\"text\":\"Dry\",\"funny\":false}\n";
    assert_eq!(pairs(&read(lines.as_bytes(), true).unwrap()), [("Ha", 1), ("Dry", 0)]);
}

#[test]
fn shared_files_have_the_documented_counts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/evaluators");
    if !root.is_dir() {
        mopo_testkit::skip!("no folder `shared/data/evaluators` beside the repository");
    }
    for (file, column, positive, rows, n_positive) in [
        ("humor_first6000.csv", "humor", "True", 6000, 3000),
        ("toxicity_en.csv", "is_toxic", "Toxic", 1000, 501),
    ] {
        let read = read_labelled(&root.join(file), "text", column, positive, true).unwrap();
        assert_eq!((read.report.rows, read.texts.len()), (rows, rows));
        assert_eq!(read.texts.iter().filter(|t| t.label == 1).count(), n_positive);
    }
}

proptest! {
    #[test]
    fn what_a_csv_writer_wrote_is_read(rows in prop::collection::vec((".*[^ \t\r\n]", any::<bool>()), 1..20)) {
        let mut writer = csv::Writer::from_writer(vec![]);
        writer.write_record(["text", "funny"]).unwrap();
        let mut expected = vec![("Ha".to_string(), true), ("Dry".to_string(), false)];
        expected.extend(rows);
        expected.retain(|(text, _)| !text.trim().is_empty());
        for (text, funny) in &expected {
            writer.write_record([text.as_str(), if *funny { "true" } else { "false" }]).unwrap();
        }
        let found = read(&writer.into_inner().unwrap(), true).unwrap();
        let found: Vec<_> = found.texts.iter().map(|t| (t.text.clone(), t.label == 1)).collect();
        prop_assert_eq!(found, expected);
    }
}
