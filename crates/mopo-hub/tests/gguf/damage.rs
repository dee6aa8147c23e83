//! Files that are cut off, damaged or made to mislead: errors that name the file and what to do, no
//! panics, and no memory for what is not in the file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mopo_hub::gguf::{GgufFile, GgufWriter, TensorType};

use super::{fixture, message};

const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A file built of parts, each of which a test may falsify.
struct Parts {
    magic: [u8; 4],
    version: u32,
    n_tensors: Option<u64>,
    n_pairs: Option<u64>,
    pairs: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

impl Default for Parts {
    fn default() -> Self {
        let (pairs, tensors) = (vec![], vec![]);
        let data = vec![0; 256];
        Self { magic: *b"GGUF", version: 3, n_tensors: None, n_pairs: None, pairs, tensors, data }
    }
}

impl Parts {
    fn pair(pair: Vec<u8>) -> Self {
        Self { pairs: vec![pair], ..Self::default() }
    }

    fn tensors<const N: usize>(tensors: [Vec<u8>; N]) -> Self {
        Self { tensors: tensors.into(), ..Self::default() }
    }

    fn write(&self, path: &Path) {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_pairs.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        out.extend(self.pairs.concat());
        out.extend(self.tensors.concat());
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        std::fs::write(path, out).unwrap();
    }
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

/// Key, type, and the value's bytes.
fn pair(key: &str, id: u32, value: &[u8]) -> Vec<u8> {
    [&string(key.as_bytes())[..], &id.to_le_bytes(), value].concat()
}

/// Type and length of an array's items, then their bytes.
fn array(id: u32, n: u64, items: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], &n.to_le_bytes(), items].concat()
}

/// Name, dimensions as in the file, type, offset.
fn tensor(name: &str, dimensions: &[u64], id: u32, offset: u64) -> Vec<u8> {
    let mut out = string(name.as_bytes());
    out.extend((dimensions.len() as u32).to_le_bytes());
    out.extend(dimensions.iter().flat_map(|n| n.to_le_bytes()));
    out.extend(id.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

#[test]
fn headers_that_mislead_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    let huge = u64::MAX;
    let float = |offset| tensor("a", &[8], 0, offset);
    let deep = |depth: usize| {
        let mut value = array(U32, 1, &[0; 4]);
        (1..depth).for_each(|_| value = array(ARRAY, 1, &value));
        pair("deep", ARRAY, &value)
    };
    let second = [string(&[b'a'; 400]), huge.to_le_bytes().to_vec()].concat();
    let align = |n: u32| pair("general.alignment", U32, &n.to_le_bytes());
    let default = Parts::default;
    let cases = [
        (Parts { magic: *b"GGML", ..default() }, "does not begin with `GGUF`"),
        (Parts { n_tensors: Some(huge), ..default() }, "18446744073709551615 tensors"),
        (Parts { n_pairs: Some(huge / 13), ..default() }, "metadata keys"),
        (Parts { n_pairs: Some(9), ..default() }, "twice"),
        (Parts { n_tensors: Some(1), data: vec![], ..default() }, "1 tensors"),
        (Parts::pair([&huge.to_le_bytes()[..], &[0; 64]].concat()), "key 0 should have"),
        (Parts::pair(pair("k", 13, &[0; 8])), "`k` has the unknown type 13"),
        (Parts::pair(pair("k", STRING, &(1_u64 << 40).to_le_bytes())), "`k` should have"),
        (Parts::pair(pair("k", STRING, &string(b"\xff"))), "`k`: a string is not UTF-8"),
        (Parts::pair([&string(b"\xff")[..], &[0; 9]].concat()), "not UTF-8"),
        (Parts::pair(pair("k", 7, &[2])), "`k`: a truth value is 2"),
        (Parts::pair(pair("k", ARRAY, &array(7, 2, &[1, 3]))), "`k`: a truth value is 3"),
        (Parts::pair(pair("k", ARRAY, &array(U32, huge / 4 + 2, &[]))), "numbers"),
        (Parts::pair(pair("k", ARRAY, &array(0, 1 << 40, &[]))), "1099511627776 numbers"),
        (Parts::pair(pair("k", ARRAY, &array(STRING, 1 << 60, &[]))), "strings"),
        (Parts::pair(pair("k", ARRAY, &array(STRING, 2, &second))), "`k` should have"),
        (Parts::pair(pair("k", ARRAY, &array(ARRAY, 1 << 50, &[]))), "arrays"),
        (Parts::pair(pair("k", ARRAY, &array(99, 1, &[0; 8]))), "`k` has the unknown type 99"),
        (Parts::pair(deep(5)), "`deep`: arrays are nested over 4 deep"),
        (Parts { pairs: vec![align(64), align(64)], ..default() }, "`general.alignment` twice"),
        (Parts::pair(align(0)), "`general.alignment` is 0, not a power of two"),
        (Parts::pair(align(48)), "not a power of two"),
        (Parts::pair(pair("general.alignment", STRING, &string(b"32"))), "is a string"),
        (Parts::tensors([float(0), float(0)]), "tensor `a` twice"),
        (Parts::tensors([float(0), tensor("b", &[8], 0, 0)]), "tensors `a` and `b` overlap"),
        (Parts::tensors([tensor("b", &[9], 0, 0), float(32)]), "tensors `b` and `a` overlap"),
        (Parts::tensors([float(16)]), "`a` is at 16, not a multiple of 32"),
        (Parts::tensors([float(256)]), "`a` should end at byte"),
        (Parts::tensors([float(huge - 31)]), "impossible"),
        (Parts::tensors([float(huge - 63)]), "`a` should end at byte"),
        (Parts::tensors([tensor("a", &[65], 0, 0)]), "`a` should end at byte"),
        (Parts::tensors([tensor("a", &[1 << 32, 1 << 32], 0, 0)]), "impossible"),
        (Parts::tensors([tensor("a", &[1 << 62], 0, 0)]), "impossible"),
        (Parts::tensors([tensor("a", &[0, huge, huge], 0, 0)]), "impossible"),
        (Parts::tensors([tensor("a", &[33], 8, 0)]), "impossible"),
        (Parts::tensors([tensor("a", &[128], 12, 0)]), "impossible"),
        (Parts::tensors([tensor("a", &[1; 5], 0, 0)]), "5 dimensions"),
        (Parts::tensors([string(b"a"), vec![255; 64]]), "4294967295 dimensions"),
    ];
    for (parts, words) in cases {
        parts.write(&path);
        let Err(error) = GgufFile::open(&path) else { panic!("{words}: it was read") };
        let error = error.to_string();
        assert!(error.contains(words), "{words}: {error}");
        assert!(error.contains("bad.gguf"), "{error}");
        assert!(error.contains("download") || error.contains("convert it again"), "{error}");
    }
    for parts in [
        default(),
        Parts { version: 2, ..default() },
        Parts { data: vec![], ..default() },
        Parts::pair(deep(4)),
        Parts::pair(align(1 << 31)),
        Parts::tensors([float(224), tensor("b", &[56], 0, 0), tensor("empty", &[0], 0, 32)]),
    ] {
        parts.write(&path);
        let file = GgufFile::open(&path).unwrap();
        file.tensors().iter().for_each(|tensor| drop(file.dequantise(tensor).unwrap()));
    }
}

#[test]
fn files_of_other_versions_orders_and_types_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    for (version, words) in [
        (1, "version 1 in little endian"),
        (4, "version 4 in little endian"),
        (0, "version 0 in"),
        (3_u32.swap_bytes(), "version 3 in big endian"),
    ] {
        Parts { version, ..Parts::default() }.write(&path);
        let error = message(GgufFile::open(&path));
        assert!(error.contains("bad.gguf") && error.contains(words), "{error}");
        assert!(error.contains("convert the model again"), "{error}");
    }
    for (id, words) in [(23, "`a` has type IQ4_XS (23)"), (5, "type 5"), (u32::MAX, "4294967295")] {
        Parts::tensors([tensor("a", &[256], id, 0)]).write(&path);
        let error = message(GgufFile::open(&path));
        assert!(error.contains("bad.gguf") && error.contains(words), "{error}");
        assert!(error.contains("use a file of the model in Q8_0"), "{error}");
    }
    std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n").unwrap();
    let error = message(GgufFile::open(&path));
    assert!(error.contains("git lfs pull"), "{error}");
    assert!(message(GgufFile::open(dir.path())).contains("cannot read"));
    assert!(message(GgufFile::open(&dir.path().join("absent"))).contains("absent"));
}

#[test]
fn a_large_file_of_zeros_is_not_taken_for_a_header() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse.gguf");
    let grow = |parts: Parts| {
        parts.write(&path);
        File::options().write(true).open(&path).unwrap().set_len(1 << 42).unwrap();
        message(GgufFile::open(&path))
    };
    let string_of = |n: u64| Parts::pair(pair("k", STRING, &n.to_le_bytes()));
    let array_of = |id, n| Parts::pair(pair("k", ARRAY, &array(id, n, &[])));
    for parts in [
        string_of(1 << 41),
        array_of(U32, 1 << 38),
        array_of(STRING, 1 << 37),
        array_of(ARRAY, 1 << 37),
        Parts { n_tensors: Some(1 << 36), ..Parts::default() },
        Parts { n_pairs: Some(1 << 36), ..Parts::default() },
    ] {
        let error = grow(parts);
        assert!(error.contains("more than the limit of 134217728 bytes"), "{error}");
    }
    Parts::tensors([tensor("a", &[1 << 38], 0, 0)]).write(&path);
    File::options().write(true).open(&path).unwrap().set_len(1 << 42).unwrap();
    let file = GgufFile::open(&path).unwrap();
    for error in
        [message(file.dequantise(&file.tensors()[0])), message(file.blocks(&file.tensors()[0]))]
    {
        assert!(error.contains("tensor `a` of") && error.contains("TB"), "{error}");
    }
}

/// A file with all metadata of the fixture, and a block of each of its tensors.
fn small(path: &Path) -> GgufFile {
    let file = GgufFile::open(&fixture("types.gguf")).unwrap();
    let mut writer = GgufWriter::default();
    file.metadata().iter().for_each(|(key, value)| writer.value(key, value.clone()));
    for tensor in file.tensors() {
        let tensor_type = tensor.tensor_type;
        let mut block = file.rows(tensor, 0..1).unwrap();
        block.truncate(tensor_type.block_bytes());
        writer.blocks(&tensor.name, &[1, tensor_type.block_len()], tensor_type, block);
    }
    writer.write(path).unwrap();
    GgufFile::open(path).unwrap()
}

#[test]
fn a_file_that_is_cut_at_any_place_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.gguf");
    let end = small(&path).tensors().iter().map(|tensor| tensor.bytes.end).max().unwrap();
    let cut = File::options().write(true).open(&path).unwrap();
    for n in (0..end).rev() {
        cut.set_len(n).unwrap();
        let error = message(GgufFile::open(&path));
        assert!(error.contains("not a complete GGUF file"), "{n}: {error}");
        assert!(error.contains("cut.gguf") && error.contains("download"), "{n}: {error}");
    }
}

#[test]
fn no_byte_of_a_header_can_make_reading_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flipped.gguf");
    let begin = small(&path).tensors()[0].bytes.start;
    let bytes = std::fs::read(&path).unwrap();
    let damaged = File::options().write(true).open(&path).unwrap();
    let (mut n_read, mut n_refused) = (0, 0);
    for at in 0..begin {
        let byte = bytes[at as usize];
        for flip in [0xff, 1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80] {
            damaged.write_all_at(&[byte ^ flip], at).unwrap();
            match GgufFile::open(&path) {
                Ok(file) => {
                    n_read += 1;
                    for tensor in file.tensors() {
                        file.dequantise(tensor).unwrap();
                    }
                }
                Err(error) => {
                    n_refused += 1;
                    assert!(error.to_string().contains("flipped.gguf"), "{error}");
                }
            }
        }
        damaged.write_all_at(&[byte], at).unwrap();
    }
    // Names and numbers may change unnoticed; structure may not.
    assert!(n_read > 1000 && n_refused > 1000, "{n_read} read, {n_refused} refused");
}

#[test]
fn blocks_of_any_bytes_are_numbers() {
    let mut state = 1_u64;
    for tensor_type in TensorType::all() {
        let n = 64 * tensor_type.block_len();
        let blocks: Vec<u8> = (0..tensor_type.row_bytes(n).unwrap())
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        mopo_hub::gguf::dequantise_row(tensor_type, &blocks, &mut vec![0.0; n]);
        if tensor_type.can_quantise() {
            let values = [f32::NAN, f32::INFINITY, f32::MIN, 1e-45, -0.0];
            let values: Vec<f32> = values.into_iter().cycle().take(n).collect();
            let mut blocks = blocks;
            mopo_hub::gguf::quantise_row(tensor_type, &values, &mut blocks);
            let tiny = vec![1e-45; n];
            mopo_hub::gguf::quantise_row(tensor_type, &tiny, &mut blocks);
        }
    }
}

#[test]
fn tensors_of_a_file_that_shrinks_while_it_is_open_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shrinks.gguf");
    let mut writer = GgufWriter::default();
    writer.tensor("a", &[64], TensorType::F32, || vec![1.0; 64]);
    writer.write(&path).unwrap();
    let file = GgufFile::open(&path).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    let error = message(file.dequantise(&file.tensors()[0]));
    assert!(error.contains("shrinks.gguf"), "{error}");
}
