//! GGUF against the Python package `gguf`: see `make_fixtures.py`.

mod damage;

use std::path::{Path, PathBuf};

use mopo_hub::gguf::{
    Array, GgufFile, GgufWriter, TensorType, Value, dequantise_row, quantise_row,
};

/// A file of the folder `fixtures`.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf/fixtures").join(name)
}

fn open() -> GgufFile {
    GgufFile::open(&fixture("types.gguf")).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn message<T>(result: mopo_hub::Result<T>) -> String {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.to_string(),
    }
}

/// The values of tensor `f32`, `[3, 256]`.
fn originals(file: &GgufFile) -> Vec<f32> {
    file.dequantise(file.tensor("f32", &[3, 256]).unwrap()).unwrap()
}

#[test]
fn values_equal_those_of_the_python_package_in_every_bit() {
    let file = open();
    let expected = std::fs::read(fixture("types.f32")).unwrap();
    let expected: Vec<f32> =
        expected.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let mut left = &expected[..];
    for tensor in file.tensors() {
        let (expected, rest) = left.split_at(tensor.n_values());
        left = rest;
        let values = file.dequantise(tensor).unwrap();
        assert_eq!(bits(&values), bits(expected), "{}", tensor.name);
    }
    assert!(left.is_empty());
    let has = |t| file.tensors().iter().any(|tensor| tensor.tensor_type == t);
    assert!(TensorType::all().all(has));
}

#[test]
fn quantisers_give_the_blocks_of_the_references() {
    let file = open();
    let values = originals(&file);
    for (name, tensor_type) in [
        ("f32", TensorType::F32),
        ("f16", TensorType::F16),
        ("bf16", TensorType::Bf16),
        ("q4_0", TensorType::Q4_0),
        ("q5_0", TensorType::Q5_0),
        ("q8_0", TensorType::Q8_0),
        ("q4_k.quantised", TensorType::Q4K),
    ] {
        let tensor = file.tensor(name, &[3, 256]).unwrap();
        assert_eq!(tensor.tensor_type, tensor_type);
        let mut blocks = vec![0; tensor_type.row_bytes(values.len()).unwrap()];
        quantise_row(tensor_type, &values, &mut blocks);
        assert_eq!(blocks, file.blocks(tensor).unwrap(), "{name}");
    }
}

#[test]
fn rows_are_read_alone() {
    let file = open();
    for tensor in file.tensors() {
        let all = file.dequantise(tensor).unwrap();
        for row in 0..tensor.n_rows() {
            let blocks = file.rows(tensor, row..row + 1).unwrap();
            assert_eq!(blocks.len(), tensor.row_bytes());
            let mut values = vec![0.0; tensor.row_len()];
            dequantise_row(tensor.tensor_type, &blocks, &mut values);
            let expected = &all[row * tensor.row_len()..][..tensor.row_len()];
            assert_eq!(bits(&values), bits(expected), "{} {row}", tensor.name);
        }
        assert!(file.rows(tensor, 0..0).unwrap().is_empty());
    }
    let cube = file.tensor("cube", &[2, 3, 5]).unwrap();
    assert_eq!((cube.n_rows(), cube.row_len()), (6, 5));
}

#[test]
fn metadata_of_every_type_is_read() {
    let file = open();
    let metadata = file.metadata();
    assert_eq!(metadata.get::<&str>("general.architecture").unwrap(), "llama");
    assert_eq!(metadata.get::<&str>("text").unwrap(), "ein Wört");
    assert_eq!(metadata.get::<u32>("u8").unwrap(), 200);
    assert_eq!(metadata.get::<i64>("i8").unwrap(), -100);
    assert_eq!(metadata.get::<usize>("u16").unwrap(), 60_000);
    assert_eq!(metadata.get::<i64>("i16").unwrap(), -30_000);
    assert_eq!(metadata.get::<u32>("u32").unwrap(), 4_000_000_000);
    assert_eq!(metadata.get::<i64>("i32").unwrap(), -2_000_000_000);
    assert_eq!(metadata.get::<u64>("u64").unwrap(), (1 << 63) + 1);
    assert_eq!(metadata.get::<i64>("i64").unwrap(), -(1 << 62) - 1);
    assert_eq!(metadata.get::<f32>("f32").unwrap(), 1.5);
    assert_eq!(metadata.get::<f64>("f64").unwrap(), 1e-300);
    assert!(metadata.get::<bool>("yes").unwrap() && !metadata.get::<bool>("no").unwrap());
    assert_eq!(metadata.get::<&[String]>("texts").unwrap(), ["a", "", "ü\n"]);
    assert_eq!(metadata.get::<&[f32]>("floats").unwrap(), [0.5, -2.0]);
    assert_eq!(metadata.get::<Vec<i64>>("integers").unwrap(), [1, -2, 3]);
    assert_eq!(metadata.get::<&[bool]>("truths").unwrap(), [true, false, true]);
    let nested = [vec![1, 2], vec![3, 4]].map(Array::I32).to_vec();
    assert_eq!(metadata.get::<&Array>("nested").unwrap(), &Array::Array(nested));
    assert_eq!(metadata.get::<&Value>("bytes").unwrap(), &Value::from(vec![1_u8, 255]));
    assert_eq!(metadata.find::<u32>("absent").unwrap(), None);
    assert_eq!(metadata.iter().count(), 20);
}

#[test]
fn a_value_of_another_type_is_named_with_both_types() {
    let file = open();
    let metadata = file.metadata();
    for (error, words) in [
        (message(metadata.get::<u32>("absent")), ["`absent` is missing", "an integer from 0 to"]),
        (message(metadata.get::<&str>("u8")), ["`u8` is 200 (u8)", "expected a string"]),
        (message(metadata.find::<u32>("i8")), ["`i8` is -100 (i8)", "an integer from 0 to"]),
        (message(metadata.get::<u32>("u64")), ["`u64` is 9223372036854775809 (u64)", "4294967295"]),
        (message(metadata.get::<i64>("u64")), ["(u64)", "expected an integer"]),
        (message(metadata.get::<u64>("f32")), ["`f32` is 1.5 (f32)", "an integer"]),
        (message(metadata.get::<f32>("u8")), ["`u8` is 200 (u8)", "expected a float"]),
        (message(metadata.get::<bool>("text")), ["`text` is a string", "a truth value"]),
        (message(metadata.get::<&[f32]>("texts")), ["an array of 3 strings", "array of f32"]),
        (message(metadata.get::<Vec<u32>>("integers")), ["an array of 3 i32", "each item an"]),
        (message(metadata.get::<&str>("yes")), ["`yes` is true", "expected a string"]),
    ] {
        assert!(error.contains("types.gguf") && error.contains("convert it again"), "{error}");
        assert!(words.iter().all(|words| error.contains(words)), "{words:?}: {error}");
    }
    let error = message(file.tensor("f32", &[256, 3]));
    assert!(error.contains("`f32` has shape [3, 256]") && error.contains("[256, 3]"), "{error}");
    let error = message(file.tensor("absent", &[1]));
    assert!(error.contains("lacks") && error.contains("absent"), "{error}");
}

/// A writer with everything that is in `file`: types that can be quantised from the values of `f32`.
fn copy(file: &GgufFile) -> GgufWriter<'_> {
    let mut writer = GgufWriter::default();
    for (key, value) in file.metadata().iter() {
        writer.value(key, value.clone());
    }
    for tensor in file.tensors() {
        let (name, tensor_type) = (&tensor.name, tensor.tensor_type);
        if tensor.shape == [3, 256] && tensor_type.can_quantise() {
            writer.tensor(name, &tensor.shape, tensor_type, || originals(file));
        } else {
            writer.blocks(name, &tensor.shape, tensor_type, file.blocks(tensor).unwrap());
        }
    }
    writer
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/copy.gguf");
    let file = open();
    let mut writer = copy(&file);
    writer.value("general.alignment", 64_u32);
    writer.write(&path).unwrap();
    let back = GgufFile::open(&path).unwrap();
    assert!(back.metadata().iter().eq(file.metadata().iter()));
    assert_eq!(back.tensors().len(), file.tensors().len());
    for (a, b) in back.tensors().iter().zip(file.tensors()) {
        assert_eq!((&a.name, &a.shape, a.tensor_type), (&b.name, &b.shape, b.tensor_type));
        assert_eq!(back.blocks(a).unwrap(), file.blocks(b).unwrap(), "{}", a.name);
    }
    // For the Python package: see `make_fixtures.py`.
    if let Some(out) = std::env::var_os("MOPO_GGUF_OUT") {
        std::fs::copy(&path, out).unwrap();
    }
}

#[test]
fn the_writer_is_deterministic_and_leaves_whole_files_only() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let file = open();
    copy(&file).write(&a).unwrap();
    copy(&file).write(&b).unwrap();
    let whole = std::fs::read(&a).unwrap();
    assert_eq!(whole, std::fs::read(&b).unwrap());
    let mut writer = GgufWriter::default();
    writer.tensor("first", &[32], TensorType::F32, || vec![0.0; 32]);
    writer.tensor("second", &[32], TensorType::Q8_0, || vec![f32::NAN; 32]);
    let error = message(writer.write(&a));
    assert!(error.contains("`second` contains a NaN (element 0)"), "{error}");
    assert_eq!(std::fs::read(&a).unwrap(), whole);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn values_that_a_type_cannot_store_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    // Long enough for several tiles.
    let n = 1 << 18;
    let write = |tensor_type: TensorType, bad: f32| {
        let mut writer = GgufWriter::default();
        let values = move || {
            let mut values = vec![0.5; n];
            values[n - 3] = bad;
            values
        };
        writer.tensor("a", &[n / 256, 256], tensor_type, values);
        writer.write(&path)
    };
    for (tensor_type, largest, too_large) in [
        (TensorType::F16, 65_504.0, 65_520.0),
        (TensorType::Bf16, 3e38, f32::MAX),
        (TensorType::Q8_0, 127.0 * 65_504.0, -127.0 * 65_530.0),
        (TensorType::Q4_0, 8.0 * 65_504.0, 8.0 * 65_530.0),
        (TensorType::Q5_0, 16.0 * 65_504.0, 16.0 * 65_530.0),
        (TensorType::Q4K, 6e7, 1e8),
    ] {
        write(tensor_type, largest).unwrap();
        let error = message(write(tensor_type, too_large));
        let place = format!("(element {})", n - 3);
        assert!(error.contains("`a` contains") && error.contains(&place), "{tensor_type}: {error}");
        assert!(error.contains("out of range for") && error.contains("f32"), "{error}");
        let error = message(write(tensor_type, f32::NEG_INFINITY));
        assert!(error.contains("an infinity") && error.contains(&place), "{tensor_type}: {error}");
    }
    write(TensorType::F32, f32::MAX).unwrap();
}

#[test]
fn shapes_and_types_that_cannot_be_written_are_refused_with_a_choice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let write = |name: &str, shape: &[usize], tensor_type| {
        let n = shape.iter().product();
        let mut writer = GgufWriter::default();
        writer.tensor("other", &[], TensorType::F32, || vec![1.0]);
        writer.tensor(name, shape, tensor_type, move || vec![1.0; n]);
        writer.write(&path)
    };
    for (error, words) in [
        (
            message(write("a", &[2, 576], TensorType::Q4K)),
            "choose F32, F16, BF16, Q4_0, Q5_0, Q8_0",
        ),
        (message(write("a", &[2, 30], TensorType::Q4_0)), "choose F32, F16, BF16"),
        (message(write("a", &[2, 32], TensorType::Q5_1)), "Q5_1 can only be read; choose"),
        (message(write("other", &[2, 32], TensorType::F32)), "another tensor has this name"),
        (message(write(&"a".repeat(64), &[2, 32], TensorType::F32)), "shorten"),
        (message(write("a", &[1, 1, 1, 1, 1], TensorType::F32)), "dimensions"),
    ] {
        assert!(error.contains("cannot be written") && error.contains(words), "{error}");
        assert!(!path.exists());
    }
    for shape in [&[][..], &[0], &[0, 32], &[3, 0], &[1, 2, 3, 32]] {
        write("a", shape, TensorType::F32).unwrap();
        let file = GgufFile::open(&path).unwrap();
        let tensor = file.tensor("a", shape).unwrap();
        assert_eq!(file.dequantise(tensor).unwrap(), vec![1.0; shape.iter().product()]);
        assert_eq!(file.blocks(tensor).unwrap().len(), 4 * tensor.n_values(), "{shape:?}");
    }
}

#[test]
fn q4_k_errs_less_than_q4_0_and_q8_0_least() {
    let file = open();
    let values = originals(&file);
    let error = |tensor_type: TensorType| {
        let mut blocks = vec![0; tensor_type.row_bytes(values.len()).unwrap()];
        quantise_row(tensor_type, &values, &mut blocks);
        let mut stored = vec![0.0; values.len()];
        dequantise_row(tensor_type, &blocks, &mut stored);
        let rows = values.chunks(32).zip(stored.chunks(32)).map(|(values, stored)| {
            let range = values.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            let worst =
                values.iter().zip(stored).fold(0.0_f32, |max, (x, y)| max.max((x - y).abs()));
            assert!(worst <= 0.2 * range, "{tensor_type}: {worst} of {range}");
            values.iter().zip(stored).map(|(x, y)| (x - y).powi(2)).sum::<f32>()
        });
        rows.sum::<f32>()
    };
    assert!(error(TensorType::Q4K) < 0.8 * error(TensorType::Q4_0));
    assert!(error(TensorType::Q8_0) < 0.01 * error(TensorType::Q4_0));
}
