//! Containers that are whole, cut, damaged or something else.

use std::io::Write;

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

fn read(bytes: &[u8]) -> Result<Vec<(usize, RawRow)>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    std::fs::write(&path, bytes).unwrap();
    let mut rows = Vec::new();
    DataFile::open(&path, "fetch it")?.for_each_row(&mut |line, row| {
        rows.push((line, row));
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
        (&b""[..], "no bytes: fetch it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\xfd7zXZ\x00more", "it is a xz file"),
        (b"\x28\xb5\x2f\xfdmore", "unpack it with zstd -d"),
        (b"PK\x03\x04more", "unpack it with unzip"),
        (b"\x1f\x8bmore", "gzip stream is truncated or damaged after 0 whole rows"),
        (b"PAR1", "rows: the Parquet file cannot be read"),
        (&gzip(b"PAR1...."), "Parquet file inside of gzip"),
        (b"[{\"a\":1},\n{\"a\":", "rows:2: the array is no JSON after 1 whole rows"),
        (b"[{\"a\":1}] {\"a\":2}", "rows:1: the array is no JSON after 1 whole rows"),
        (b"[{\"a\":\"\xff\"}]", "rows:1: the array is no JSON after 0 whole rows"),
    ] {
        let found = error(bytes);
        assert!(found.contains(expected), "{found}");
    }
    let absent = DataFile::open(Path::new("absent"), "fetch it").err().unwrap().to_string();
    assert_eq!(absent, "absent is not there; fetch it");
}

#[test]
fn rows_that_are_no_objects_do_not_end_the_reading() {
    let rows = read(b"\xef\xbb\xbf {\"a\":1}\r\n\n[1]\n{\"a\":\n\"\xff\"\nnull").unwrap();
    let found: Vec<_> = rows.iter().map(|(line, row)| (*line, row.as_ref().err())).collect();
    assert_eq!(found.len(), 5);
    assert_eq!(rows[0], (1, Ok(json!({ "a": 1 }))));
    assert_eq!(
        (found[1].0, found[1].1.unwrap().as_str()),
        (3, "it is a list, not an object of columns")
    );
    assert!(found[2].1.unwrap().contains("EOF"));
    assert!(found[3].1.unwrap().contains("invalid UTF-8"));
    assert!(found[4].1.unwrap().contains("null"));
    let rows = read(b"[{\"a\":1}, 7, {\"a\":2}]").unwrap();
    assert_eq!(
        rows.iter().map(|r| (r.0, r.1.is_ok())).collect::<Vec<_>>(),
        [(1, true), (2, false), (3, true)]
    );
}

#[test]
fn errors_of_the_caller_end_the_reading() {
    for name in ["helpsteer.jsonl", "helpsteer.parquet"] {
        let file = DataFile::open(&fixture(name), "").unwrap();
        let mut n_rows = 0;
        let stopped = file.for_each_row(&mut |line, _| {
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
    let stop = |_, _| Err(Error::Core(mopo_core::Error::NonFinite("x".into())));
    assert!(matches!(file.for_each_row(&mut { stop }), Err(Error::Core(_))));
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A byte changed anywhere gives rows or an error, never a panic.
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
