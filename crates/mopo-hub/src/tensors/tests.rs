//! Weights read back, and what is wrong in their files by name. Whole models: mopo-lm's tests.

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
    assert!(error.contains("holds 1") && error.contains(": b;"), "{error}");

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
        // Small powers of two and their like are exact in each.
        assert_eq!(data.convert_dtype(DType::F32).to_vec::<f32>().unwrap(), A);
    }
}
