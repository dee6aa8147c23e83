//! Columns and files besides those that a reader needs.

use crate::{SOURCES, fixture, gzip, nameless, read_bytes, trl_pairs};

/// Something in every row that no reader reads, before and after its columns.
fn with_unread(lines: &str, unread: &str) -> String {
    let row = |line: &str| {
        let columns = line.trim().strip_prefix('{').unwrap().strip_suffix('}').unwrap();
        format!("{{\"zz_before\": {unread}, {columns}, \"zz_more\": {unread}}}\n")
    };
    lines.lines().map(row).collect()
}

#[test]
fn columns_that_are_not_read_cost_no_row() {
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for (name, _, n_records) in SOURCES {
        let good = std::fs::read_to_string(fixture(&format!("{name}.jsonl"))).unwrap();
        let expected = nameless(read_bytes(name, good.as_bytes(), true).unwrap().records);
        assert_eq!(expected.len(), n_records);
        for unread in ["NaN", "[-Infinity, {\"a\": Infinity}]", "1e999", "\"\\ud800\"", &deep] {
            let lines = with_unread(&good, unread);
            let array = format!("[{}]", lines.trim().replace("}\n{", "},\n{"));
            for text in [lines, array] {
                let found = read_bytes(name, text.as_bytes(), true);
                let found = found.unwrap_or_else(|error| panic!("{name}, {unread}: {error}"));
                assert_eq!(nameless(found.records), expected, "{name}: {unread}");
            }
        }
        let bytes = with_unread(&good, "\"x\"").replace("\"x\"", "\"\u{1}\"").into_bytes();
        let bytes: Vec<u8> = bytes.iter().map(|b| if *b == 1 { 0xff } else { *b }).collect();
        let found = read_bytes(name, &bytes, true).unwrap();
        assert_eq!(nameless(found.records), expected, "{name}: bytes that are no UTF-8");
    }
}

#[test]
fn nan_and_infinity_are_missing_or_named_where_they_are_read() {
    // A missing value in a table is often NaN; infinity is not a score.
    let good = std::fs::read_to_string(fixture("helpsteer.jsonl")).unwrap();
    let edit = |to: &str| good.replacen("\"helpfulness\": 3", &format!("\"helpfulness\": {to}"), 1);
    let missing = read_bytes("helpsteer", edit("NaN").as_bytes(), true).unwrap();
    let null = read_bytes("helpsteer", edit("null").as_bytes(), true).unwrap();
    assert_eq!(nameless(missing.records), nameless(null.records));
    for infinite in ["Infinity", "-Infinity"] {
        let error = read_bytes("helpsteer", edit(infinite).as_bytes(), true).unwrap_err();
        assert!(error.to_string().contains("rows:1: `helpfulness` is infinite"), "{error}");
    }
}

#[test]
fn doubled_files_are_refused_by_name() {
    for (name, read, _) in SOURCES {
        let lines = std::fs::read(fixture(&format!("{name}.jsonl"))).unwrap();
        let array =
            format!("[{}]", String::from_utf8_lossy(&lines).trim().replace("}\n{", "},\n{"));
        let parquet = std::fs::read(fixture(&format!("{name}.parquet"))).unwrap();
        for (other, bytes) in [
            ("x.jsonl.gz", gzip(&lines)),
            ("x.json", array.into_bytes()),
            ("x.parquet", parquet),
            ("copy of x.jsonl", lines.clone()),
        ] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("x.jsonl"), &lines).unwrap();
            std::fs::write(folder.path().join(other), bytes).unwrap();
            let error = read(folder.path(), false).unwrap_err().to_string();
            assert!(error.contains("x.jsonl") && error.contains(other), "{name}: {error}");
            assert!(error.contains("the same data"), "{name}: {error}");
            // Each on its own is read.
            std::fs::remove_file(folder.path().join("x.jsonl")).unwrap();
            read(folder.path(), false).unwrap();
        }
    }
}

#[test]
fn what_lies_beside_data_is_passed_over_by_name() {
    let lines = std::fs::read(fixture("trl-explicit.jsonl")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.jsonl"), &lines).unwrap();
    let stray: [(&str, &[u8]); 9] = [
        ("._x.jsonl", b"\0\x05\x16\x07\0\x02"),
        (".x.jsonl.swp", b"x"),
        ("README.md", b"# About these files"),
        ("dataset_infos.json", b"{\"default\": {}}"),
        ("dataset_info.json", b"{\n \"features\": {}\n}\n"),
        ("stats.json", b"{\n  \"rows\": 3\n}\n"),
        ("counts.json", b"{\"rows\": 3}"),
        ("rows.csv", b"prompt,chosen\n"),
        ("x.jsonl~", &lines),
    ];
    for (name, bytes) in stray {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    std::fs::create_dir(folder.path().join("more.jsonl")).unwrap();
    let found = trl_pairs(folder.path(), false).unwrap();
    assert_eq!((found.records.len(), found.sources.len()), (2, 1));
    let said = found.report.to_string();
    for name in stray.iter().map(|(name, _)| *name).chain(["more.jsonl"]) {
        assert!(said.contains(name), "{name} is not in:\n{said}");
    }
    // They are also named if there is no data.
    std::fs::remove_file(folder.path().join("x.jsonl")).unwrap();
    std::fs::remove_file(folder.path().join("stats.json")).unwrap();
    std::fs::remove_file(folder.path().join("counts.json")).unwrap();
    let error = trl_pairs(folder.path(), false).unwrap_err().to_string();
    assert!(error.contains("._x.jsonl") && error.contains("does not exist"), "{error}");
}
