//! Reading weights back, and errors that name the problem. For whole models see mopo-lm's tests.

use burn::tensor::{DType, Tensor, TensorData};
use mopo_testkit::TestBackend;

use super::*;

type B = TestBackend;

/// `a` `[2, 3]` and `b` `[2]` in `dir/name`.
fn write(dir: &Path, name: &str, dtype: Option<WeightDtype>, a: [f32; 6], b: Option<[f32; 2]>) {
    let device = Default::default();
    let mut out = TensorWriter::with_dtype(dtype);
    out.tensor("a", Tensor::<B, 2>::from_data(TensorData::new(a.to_vec(), [2, 3]), &device));
    if let Some(b) = b {
        out.tensor("b", Tensor::<B, 1>::from_data(TensorData::new(b.to_vec(), [2]), &device));
    }
    out.write(&dir.join(name)).unwrap();
}

const A: [f32; 6] = [1.0, -2.0, 3.0, 0.5, 0.25, -8.0];

fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("it was read"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn tensors_are_taken_by_name_and_left_over_and_missing_ones_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), WEIGHTS, None, A, Some([7.0, 9.0]));
    let mut files = TensorFiles::open(dir.path()).unwrap();
    assert_eq!(files.names().collect::<Vec<_>>(), ["a", "b"]);
    let data = files.take("a", &[2, 3]).unwrap();
    assert_eq!(data.to_vec::<f32>().unwrap(), A);
    assert!(!files.contains("a") && files.contains("b"));
    let error = message(files.finish());
    assert!(error.contains("has 1 tensors") && error.contains(": b;"), "{error}");

    let mut files = TensorFiles::open(&dir.path().join(WEIGHTS)).unwrap();
    assert_eq!(files.take("c", &[4]).unwrap().to_vec::<f32>().unwrap(), [0.0; 4]);
    files.ignore(|name| name == "b");
    let error = message(files.take("a", &[3, 2]));
    assert!(error.contains("`a` has shape [2, 3]") && error.contains("[3, 2]"), "{error}");
    let error = message(files.finish());
    assert!(error.contains("lacks 1") && error.contains(": c;"), "{error}");
}

#[test]
fn weights_that_are_not_finite_are_refused_where_asked() {
    let dir = tempfile::tempdir().unwrap();
    for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
        let take = |values: [f32; 6], finite_only: bool| {
            write(dir.path(), WEIGHTS, Some(dtype), values, None);
            let files = TensorFiles::open(dir.path()).unwrap();
            let mut files = if finite_only { files.finite_only() } else { files };
            files.take("a", &[2, 3])
        };
        take([f32::MIN_POSITIVE, -60_000.0, 0.0, -0.0, 1.0, 1e-7], true).unwrap();
        for (bad, word) in [
            (f32::NAN, "a NaN (element 4)"),
            (-f32::NAN, "a NaN (element 4)"),
            (f32::INFINITY, "an infinity (element 4)"),
            (f32::NEG_INFINITY, "an infinity (element 4)"),
        ] {
            let mut values = A;
            values[4] = bad;
            take(values, false).unwrap();
            let error = message(take(values, true));
            assert!(error.contains(WEIGHTS) && error.contains("`a`"), "{error}");
            assert!(error.contains(word), "{dtype:?}: {error}");
        }
    }
}

#[test]
fn a_shard_that_is_not_there_or_elsewhere_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    let map = |two: &str| serde_json::json!({ "weight_map": { "a": "one.safetensors", "b": two } });
    write(dir.path(), "one.safetensors", None, A, None);
    crate::write_json(&index, &map("two.safetensors")).unwrap();
    let error = message(TensorFiles::open(dir.path()));
    assert!(error.contains("index.json") && error.contains("`two.safetensors`"), "{error}");
    assert!(error.contains("not there") && error.contains("fetch"), "{error}");
    for name in ["../one.safetensors", "/tmp/one.safetensors", ""] {
        crate::write_json(&index, &map(name)).unwrap();
        let error = message(TensorFiles::open(dir.path()));
        assert!(error.contains("not a name within"), "{error}");
    }
    std::fs::write(&index, "{\"weight_map\": 3}").unwrap();
    let error = message(TensorFiles::open(dir.path()));
    assert!(error.contains("index.json") && error.contains("expected the index"), "{error}");
}

#[test]
fn shards_that_disagree_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    let map = |map: serde_json::Value| {
        crate::write_json(&index, &serde_json::json!({ "weight_map": map })).unwrap();
        TensorFiles::open(dir.path())
    };
    write(dir.path(), "one.safetensors", None, A, None);
    write(dir.path(), "two.safetensors", None, [0.0; 6], Some([7.0, 9.0]));
    let both = serde_json::json!({ "a": "one.safetensors", "b": "two.safetensors" });
    let error = message(map(both.clone()));
    for words in ["index.json: tensor `a`", "one.safetensors", "two.safetensors", "remove"] {
        assert!(error.contains(words), "{error}");
    }
    let one = |name: &str| serde_json::json!({ name: "two.safetensors" });
    assert_eq!(map(one("b")).unwrap().names().collect::<Vec<_>>(), ["a", "b"]);
    let error = message(map(one("ghost")));
    assert!(error.contains("`ghost` is in none of its shards"), "{error}");
}

#[test]
fn values_that_are_not_finite_are_written_only_where_nobody_minds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(WEIGHTS);
    for (bad, word) in [(f32::NAN, "a NaN"), (f32::INFINITY, "an infinity")] {
        let tensor = || Tensor::<B, 1>::from_floats([1.0, bad], &Default::default());
        for dtype in [None, Some(WeightDtype::F16), Some(WeightDtype::Bf16)] {
            let mut out = TensorWriter::with_dtype(dtype).finite_only();
            out.tensor("a", tensor());
            let error = message(out.write(&path));
            assert!(error.contains("`a`") && error.contains(word), "{error}");
            assert!(!path.exists());
            let mut out = TensorWriter::with_dtype(dtype);
            out.tensor("a", tensor());
            out.write(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn pipes_and_devices_are_no_files_of_weights() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(WEIGHTS);
    let make =
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0);
    make.unwrap();
    let error = message(TensorFiles::open(dir.path()));
    assert!(error.contains(WEIGHTS) && error.contains("not a regular file"), "{error}");
}

#[test]
fn a_file_that_is_cut_at_any_place_is_refused_before_a_tensor_is_read() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), WEIGHTS, None, A, Some([7.0, 9.0]));
    let file = dir.path().join(WEIGHTS);
    let whole = std::fs::read(&file).unwrap();
    for n in 0..whole.len() {
        std::fs::write(&file, &whole[..n]).unwrap();
        let error = message(TensorFiles::open(dir.path()));
        assert!(error.contains("not a complete safetensors file"), "{n}: {error}");
    }
    std::fs::write(&file, [&whole[..], b"more"].concat()).unwrap();
    assert!(message(TensorFiles::open(dir.path())).contains("not a complete"));
    // A header that claims more than any machine has.
    std::fs::write(&file, u64::MAX.to_le_bytes()).unwrap();
    assert!(message(TensorFiles::open(dir.path())).contains("its header should have"));
}

#[test]
fn data_types_survive_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
        write(dir.path(), WEIGHTS, Some(dtype), A, None);
        let data = TensorFiles::open(dir.path()).unwrap().take("a", &[2, 3]).unwrap();
        assert_eq!(data.dtype, dtype.burn());
        // Numbers that all three types represent exactly.
        assert_eq!(data.convert_dtype(DType::F32).to_vec::<f32>().unwrap(), A);
    }
}

/// A safetensors file with this header and `n_bytes` bytes of sparse data.
fn write_header(path: &Path, header: &str, n_data: u64) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    let len = bytes.len() as u64;
    std::fs::write(path, bytes).unwrap();
    std::fs::File::options().append(true).open(path).unwrap().set_len(len + n_data).unwrap();
}

#[test]
fn headers_that_claim_absurd_sizes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(WEIGHTS);
    let huge = u64::MAX;
    for (shape, offsets) in [
        // Products and sums that overflow, or are 0 after overflow.
        (format!("[{huge}, {huge}]"), "[0, 24]".to_string()),
        ("[4294967296, 4294967296]".into(), "[0, 0]".into()),
        (format!("[{}]", huge / 4 + 1), "[0, 0]".into()),
        ("[6]".into(), format!("[0, {huge}]")),
        ("[6]".into(), format!("[{}, {huge}]", huge - 24)),
        ("[6]".into(), "[24, 0]".into()),
        ("[6]".into(), "[8, 32]".into()),
        ("[-6]".into(), "[0, 24]".into()),
        ("[6e300]".into(), "[0, 24]".into()),
        ("[7]".into(), "[0, 24]".into()),
    ] {
        let entry = format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#);
        write_header(&file, &format!(r#"{{"a":{entry}}}"#), 24);
        let error = message(TensorFiles::open(dir.path()));
        assert!(error.contains("not a complete safetensors file"), "{shape} {offsets}: {error}");
    }
    // As long as the file, but not a readable header.
    std::fs::write(&file, (1_u64 << 38).to_le_bytes()).unwrap();
    let long = std::fs::File::options().append(true).open(&file).unwrap();
    long.set_len(8 + (1 << 38)).unwrap();
    let error = message(TensorFiles::open(dir.path()));
    assert!(error.contains("more than the limit of 100000000"), "{error}");
    write_header(&file, &"[".repeat(1_000_000), 0);
    let error = message(TensorFiles::open(dir.path()));
    assert!(error.contains("not a complete safetensors file"), "{error}");
    write_header(&file, "{\"a\": 3}", 0);
    message(TensorFiles::open(dir.path()));
}

#[test]
fn a_tensor_for_which_there_is_no_memory_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(WEIGHTS);
    // A sparse file that really has this length.
    let n = 1_u64 << 43;
    let entry = format!(r#"{{"dtype":"F32","shape":[{}],"data_offsets":[0,{n}]}}"#, n / 4);
    write_header(&file, &format!(r#"{{"a":{entry}}}"#), n);
    let mut files = TensorFiles::open(dir.path()).unwrap();
    let error = message(files.take("a", &[(n / 4) as usize]));
    assert!(error.contains("`a`") && error.contains("8.8 TB"), "{error}");
}

#[test]
fn sizes_that_only_the_configuration_has_take_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), WEIGHTS, None, A, Some([7.0, 9.0]));
    let open = || TensorFiles::open(dir.path()).unwrap();
    for shape in [&[1 << 40, 1 << 40][..], &[usize::MAX], &[1 << 21]] {
        let error = message(open().take("c", shape));
        assert!(error.contains("at least 1") && error.contains(": c;"), "{error}");
        let error = message(open().take("a", shape));
        assert!(error.contains("`a` has shape [2, 3]"), "{error}");
    }
    // Many small ones, as for a model with 10¹² layers.
    let mut files = open();
    let error = (0..).find_map(|i| files.take(&format!("layer.{i}"), &[3]).err()).unwrap();
    let error = error.to_string();
    assert!(error.contains("at least 10001") && error.contains("layer.0"), "{error}");
    let mut files = open();
    let error = (0..).find_map(|i| files.take(&format!("layer.{i}"), &[1 << 16]).err()).unwrap();
    assert!(error.to_string().contains("at least 17"), "{error}");
}

#[test]
fn a_finite_value_is_never_written_as_an_infinite_one() {
    let dir = tempfile::tempdir().unwrap();
    let try_write = |value: f32, dtype: WeightDtype| {
        let mut values = A;
        values[4] = value;
        let mut out = TensorWriter::with_dtype(Some(dtype));
        let data = TensorData::new(values.to_vec(), [2, 3]);
        out.tensor("a", Tensor::<B, 2>::from_data(data, &Default::default()));
        out.write(&dir.path().join(WEIGHTS))
    };
    for (value, dtype, fits) in [
        (65_504.0, WeightDtype::F16, true),
        (-65_519.0, WeightDtype::F16, true),
        (65_520.0, WeightDtype::F16, false),
        (-1e6, WeightDtype::F16, false),
        (1e30, WeightDtype::Bf16, true),
        (f32::MAX, WeightDtype::Bf16, false),
        (f32::MIN, WeightDtype::Bf16, false),
        (f32::MAX, WeightDtype::F32, true),
        (1e-30, WeightDtype::F16, true),
    ] {
        let written = try_write(value, dtype);
        assert_eq!(written.is_ok(), fits, "{value} {dtype:?}");
        if let Err(error) = written {
            let error = error.to_string();
            for words in ["`a`", "element 4", WEIGHTS, "f32"] {
                assert!(error.contains(words), "{error}");
            }
        }
        let _ = std::fs::remove_file(dir.path().join(WEIGHTS));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    // What was infinite before is not an error of this writer.
    try_write(f32::INFINITY, WeightDtype::F16).unwrap();
    try_write(f32::NAN, WeightDtype::Bf16).unwrap();
}
