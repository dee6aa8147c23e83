//! Containers that are valid, truncated, damaged or something else.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use ::parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type};
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use ::parquet::schema::parser::parse_message_type;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A row as JSON, or why there is none.
type Parsed = std::result::Result<Value, String>;

fn parsed(row: RawRow<'_>) -> Parsed {
    match row? {
        row @ Row::Json(_) => {
            crate::row::typed::<serde_json::Map<String, Value>>(&row).map(Value::Object)
        }
        Row::Columns { values, .. } => Ok(values),
    }
}

fn read(bytes: &[u8]) -> Result<Vec<(usize, Parsed)>> {
    read_columns(bytes, &[])
}

fn read_columns(bytes: &[u8], wanted: &[&str]) -> Result<Vec<(usize, Parsed)>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    std::fs::write(&path, bytes).unwrap();
    let mut rows = Vec::new();
    DataFile::open(&path, "fetch it")?.for_each_row(wanted, &mut |line, row| {
        rows.push((line, parsed(row)));
        Ok(())
    })?;
    Ok(rows)
}

fn error(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().to_string()
}

#[test]
fn what_is_not_read_is_named_with_the_remedy() {
    for (bytes, expected) in [
        (&b""[..], "the file is empty: fetch it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\xfd7zXZ\x00more", "xz files are not supported"),
        (b"\x28\xb5\x2f\xfdmore", "unpack it with zstd -d"),
        (b"PK\x03\x04more", "unpack it with unzip"),
        (b"\x1f\x8bmore", "gzip stream is truncated or damaged after 0 whole rows"),
        (b"PAR1", "rows: the Parquet file cannot be read"),
        (&gzip(b"PAR1...."), "gzipped Parquet file"),
        (b"[{\"a\":1},\n{\"a\":", "rows:2: the array is not valid JSON after 1 whole rows"),
        (b"[{\"a\":1}] {\"a\":2}", "rows:1: the array is not valid JSON after 1 whole rows"),
    ] {
        let found = error(bytes);
        assert!(found.contains(expected), "{found}");
    }
    let absent = DataFile::open(Path::new("absent"), "fetch it").err().unwrap().to_string();
    assert_eq!(absent, "absent does not exist; fetch it");
}

#[test]
fn rows_that_are_not_objects_do_not_end_the_reading() {
    let rows = read(b"\xef\xbb\xbf {\"a\":1}\r\n\n[1]\n{\"a\":\n\"\xff\"\nnull").unwrap();
    let found: Vec<_> = rows.iter().map(|(line, row)| (*line, row.as_ref().err())).collect();
    assert_eq!(found.len(), 5);
    assert_eq!(rows[0], (1, Ok(json!({ "a": 1 }))));
    assert_eq!(
        (found[1].0, found[1].1.unwrap().as_str()),
        (3, "it is a list, not an object of columns")
    );
    assert!(found[2].1.unwrap().contains("EOF"));
    assert!(found[3].1.unwrap().contains("invalid UTF-8"), "{:?}", found[3]);
    assert!(found[4].1.unwrap().contains("null"));
    let rows = read(b"[{\"a\":1}, 7, {\"a\":\"\xff\"}, {\"a\":2}]").unwrap();
    assert_eq!(
        rows.iter().map(|r| (r.0, r.1.is_ok())).collect::<Vec<_>>(),
        [(1, true), (2, false), (3, false), (4, true)]
    );
}

#[test]
fn errors_of_the_caller_end_the_reading() {
    for name in ["helpsteer.jsonl", "helpsteer.parquet"] {
        let file = DataFile::open(&fixture(name), "").unwrap();
        let mut n_rows = 0;
        let stopped = file.for_each_row(&[], &mut |line, _| {
            n_rows += 1;
            if line < 3 {
                Ok(())
            } else {
                Err(Error::Core(mopo_core::Error::NonFinite("x".into())))
            }
        });
        assert!(matches!(stopped, Err(Error::Core(_))));
        assert_eq!(n_rows, 3);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    std::fs::write(&path, "[{},{}]").unwrap();
    let file = DataFile::open(&path, "").unwrap();
    let stopped = file
        .for_each_row(&[], &mut |_, _| Err(Error::Core(mopo_core::Error::NonFinite("x".into()))));
    assert!(matches!(stopped, Err(Error::Core(_))));
}

#[test]
fn parquet_is_read_whole_or_not_at_all() {
    let bytes = std::fs::read(fixture("ultrafeedback.parquet")).unwrap();
    assert_eq!(read(&bytes).unwrap().len(), 2);
    for cut in [4, 10, bytes.len() / 2, bytes.len() - 1] {
        let found = error(&bytes[..cut]);
        assert!(
            found.contains("the Parquet file cannot be read") && found.contains("sha256"),
            "{found}"
        );
    }
    let brotli = std::fs::read(fixture("brotli.parquet")).unwrap();
    let found = error(&brotli);
    assert!(found.contains("brotli") && found.contains("snappy, zstd, gzip"), "{found}");
}

/// A Parquet file of `columns` in Parquet's own notation, each with one value that `write` writes.
fn parquet_of(columns: &str, write: impl Fn(usize, &mut SerializedColumnWriter<'_>)) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(&format!("message rows {{ {columns} }}")).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column_idx = 0;
    while let Some(mut column) = group.next_column().unwrap() {
        write(column_idx, &mut column);
        column.close().unwrap();
        column_idx += 1;
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

fn write_text(column: &mut SerializedColumnWriter<'_>, text: &[u8]) {
    let value = ByteArray::from(text.to_vec());
    column.typed::<ByteArrayType>().write_batch(&[value], None, None).unwrap();
}

#[test]
fn parquet_columns_that_are_not_read_do_not_matter() {
    let bytes = parquet_of(
        "required binary text (UTF8); required double number; required binary image; \
         required group nested { required double number; required binary image; }",
        |column_idx, column| match column_idx {
            0 => write_text(column, b"tea"),
            1 | 3 => {
                let values = [f64::NEG_INFINITY];
                column.typed::<DoubleType>().write_batch(&values, None, None).unwrap();
            }
            _ => write_text(column, b"\x89PNG\xff\xfe"),
        },
    );
    let rows = read_columns(&bytes, &["text"]).unwrap();
    assert_eq!(rows, [(1, Ok(json!({ "text": "tea" })))]);
    // A file without any of the columns still has its rows, and its names for the error.
    assert_eq!(read_columns(&bytes, &["prompt"]).unwrap(), [(1, Ok(json!({})))]);
    // The reason is reported where they are read.
    for (column, expected) in
        [("number", "-inf is not a finite number"), ("image", "invalid UTF-8")]
    {
        let rows = read_columns(&bytes, &[column]).unwrap();
        let value = rows[0].1.as_ref().unwrap();
        let row = Row::Columns { values: value.clone(), names: &[] };
        let error = crate::row::typed::<HashMap<String, String>>(&row).unwrap_err();
        assert!(error.contains(&format!("`{column}`")) && error.contains(expected), "{error}");
    }
    assert!(read_columns(&bytes, &["text", "nested"]).is_ok());
}

#[test]
fn parquet_columns_of_many_levels_are_refused_before_they_fill_the_stack() {
    let nested = |n_levels: usize| {
        let open: String = (0..n_levels).map(|i| format!("optional group g{i} {{ ")).collect();
        let columns = format!(
            "required binary text (UTF8); {open} optional int32 x; {}",
            "} ".repeat(n_levels)
        );
        parquet_of(&columns, |column_idx, column| match column_idx {
            0 => write_text(column, b"tea"),
            _ => {
                column.typed::<Int32Type>().write_batch(&[], Some(&[0]), None).unwrap();
            }
        })
    };
    assert_eq!(read_columns(&nested(50), &["text"]).unwrap().len(), 1);
    for wanted in [&["text"][..], &["g0"], &[]] {
        let error = read_columns(&nested(300), wanted).unwrap_err().to_string();
        assert!(error.contains("rows: ") && error.contains("more than 100 levels"), "{error}");
    }
}

#[test]
fn parquet_pages_that_promise_too_much_are_refused() {
    let bytes = parquet_of("required binary text (UTF8);", |_, column| write_text(column, b"tea"));
    // The first page: its kind, size and compressed size follow the magic number.
    assert_eq!((bytes[4], bytes[6], bytes[8]), (0x15, 0x15, 0x15));
    for (field, promised, expected) in
        [(6, 0x7fff_ffffu32, "the limit of 256 MiB"), (8, 0x7fff_fffe, "are left")]
    {
        let mut size = vec![];
        let mut left = promised << 1;
        while left >= 0x80 {
            size.push((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        size.push(left as u8);
        // The previous size had one byte, so what follows is shifted.
        let damaged = [&bytes[..=field], &size, &bytes[field + 2..]].concat();
        let error = error(&damaged);
        assert!(error.contains("Parquet file cannot be read"), "{error}");
        assert!(error.contains(expected) || error.contains("claims"), "{error}");
    }
}

#[test]
fn rows_that_are_too_long_are_refused_in_every_container() {
    let long = "a".repeat(crate::MAX_ROW_BYTES);
    let lines = format!("{{}}\n{{\"a\":\"{long}\"}}\n");
    let array = format!("[{{}},\n{{\"a\":\"{long}\"}}]");
    for text in [lines, array] {
        for bytes in [text.as_bytes(), &gzip(text.as_bytes())] {
            let found = error(bytes);
            assert!(found.contains("rows:2: it is longer than 64 MiB"), "{found}");
        }
    }
    let bytes = parquet_of("required binary text (UTF8);", |_, column| {
        write_text(column, &vec![b'a'; crate::MAX_ROW_BYTES + 1]);
    });
    let found = error(&bytes);
    assert!(found.contains("rows:1: it is longer than 64 MiB"), "{found}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any changed byte gives rows or an error, never a panic.
    #[test]
    fn damaged_parquet(at in 0usize..6000, byte: u8) {
        let mut bytes = std::fs::read(fixture("ultrafeedback.parquet")).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = read(&bytes);
    }

    #[test]
    fn lines_array_and_gzip_agree(texts in prop::collection::vec(".*", 1..9)) {
        let rows: Vec<Value> = texts.iter().map(|text| json!({ "text": text })).collect();
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let array = Value::Array(rows.clone()).to_string();
        for bytes in [lines.as_bytes(), array.as_bytes(), &gzip(lines.as_bytes()), &gzip(array.as_bytes())] {
            let found = read(bytes).unwrap();
            prop_assert_eq!(found.iter().map(|row| row.1.clone().unwrap()).collect::<Vec<_>>(), rows.clone());
        }
    }
}
