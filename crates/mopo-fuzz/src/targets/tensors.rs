//! Files of tensors: safetensors, PyTorch's pickles, indexes of shards, GGUF.

use std::path::Path;

use mopo_hub::TensorFiles;
use mopo_hub::gguf::{GgufFile, GgufWriter, TensorType};
use safetensors::tensor::{Dtype, TensorView};

use super::files;
use crate::mutate::zip_of;
use crate::place::write;
use crate::{Form, Outcome, Place, Runner, Target};

pub(super) fn targets() -> Vec<Target> {
    let target = |name, reads, form, words, seeds, start, rate| Target {
        name,
        reads,
        form,
        words,
        seeds,
        start,
        rate,
    };
    vec![
        target(
            "safetensors",
            "tensors in safetensors",
            Form::Safetensors,
            &[
                "dtype",
                "shape",
                "data_offsets",
                "F32",
                "F16",
                "BF16",
                "I64",
                "F8_E4M3",
                "F4",
                "BOOL",
                "__metadata__",
                "format",
                "pt",
                "a",
            ],
            || {
                vec![
                    safetensors(&[("a", Dtype::F32, &[2, 3]), ("b.weight", Dtype::F16, &[4])]),
                    safetensors(&[
                        ("x", Dtype::BF16, &[]),
                        ("y", Dtype::F32, &[0, 5]),
                        ("z", Dtype::F32, &[1]),
                    ]),
                    safetensors(&[]),
                ]
            },
            |place| tensors(place, "model.safetensors"),
            10.0,
        ),
        target(
            "pickle",
            "PyTorch's checkpoints: archives, and pickles of before",
            Form::Zip,
            PICKLE,
            || {
                let mut seeds = vec![pickled(), plain_pickle()];
                seeds.extend(files![
                    "mopo-lm/tests/parity/fixtures/pytorch_shards/pytorch_model-00002-of-00002.bin"
                ]);
                seeds
            },
            |place| tensors(place, "pytorch_model.bin"),
            1.2,
        ),
        target(
            "index",
            "indexes of shards",
            Form::Text,
            &[
                "weight_map",
                "metadata",
                "total_size",
                "one.safetensors",
                "two.safetensors",
                "../x",
                "",
                "a",
                "b.weight",
                ".",
            ],
            || {
                vec![
                    b"{\"metadata\": {\"total_size\": 32}, \"weight_map\": {\"a\": \"one.safetensors\", \"b.weight\": \
                      \"two.safetensors\"}}"
                        .to_vec(),
                ]
            },
            index,
            10.0,
        ),
        target(
            "gguf",
            "GGUF: metadata, tensors of every type",
            Form::Binary,
            &[
                "general.architecture",
                "general.alignment",
                "llama",
                "a",
                "",
                "tokenizer.ggml.tokens",
                "GGUF",
            ],
            || {
                let mut seeds = vec![small_gguf()];
                seeds.extend(files!["mopo-hub/tests/gguf/fixtures/types.gguf"]);
                seeds
            },
            |place| {
                let path = place.path().join("model.gguf");
                Box::new(move |bytes| {
                    write(&path, bytes);
                    gguf(&path).into()
                })
            },
            4.3,
        ),
    ]
}

const PICKLE: &[&str] = &[
    "\u{2}}",
    "(",
    ".",
    "ctorch._utils\n_rebuild_tensor_v2\n",
    "ctorch\nFloatStorage\n",
    "ctorch\nHalfStorage\n",
    "ccollections\nOrderedDict\n",
    "cos\nsystem\n",
    "storage",
    "cpu",
    "data.pkl",
    "byteorder",
    "version",
    "big",
    "q\0",
    "h\0",
    "K\u{1}",
    "M\0\u{1}",
    "J\u{7f}\u{7f}\u{7f}\u{7f}",
    "\u{85}",
    "\u{86}",
    "\u{87}",
    "Q",
    "R",
    "u",
    "e",
    "s",
    "b",
    "0",
    "2",
    "]",
    "}",
    ")",
    "N",
    "X\u{4}\0\0\0abcd",
    "archive/data/0",
];

/// Reads all tensors of a file, in the shapes that it says.
fn tensors(place: &Place, name: &str) -> Runner {
    let path = place.path().join(name);
    Box::new(move |bytes| {
        write(&path, bytes);
        take_all(&path).into()
    })
}

/// The shape of a tensor is known to whoever reads it, but not here: the error names it.
fn take_all(path: &Path) -> mopo_hub::Result<()> {
    let names: Vec<String> = TensorFiles::open(path)?.names().map(str::to_owned).collect();
    let mut refused = Ok(());
    for name in names.iter().take(8) {
        let mut shape = vec![usize::MAX; 9];
        for _ in 0..2 {
            let mut files = TensorFiles::open(path)?.finite_only();
            match files.take(name, &shape) {
                Err(mopo_hub::Error::TensorShape { found, .. }) => shape = found,
                Err(e) => refused = Err(e),
                Ok(_) => break,
            }
        }
    }
    refused
}

fn safetensors(tensors: &[(&str, Dtype, &[usize])]) -> Vec<u8> {
    let zeros = [0; 64];
    let views = tensors.iter().map(|(name, dtype, shape)| {
        let n = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (
            *name,
            TensorView::new(*dtype, shape.to_vec(), &zeros[..n])
                .expect("the right number of bytes"),
        )
    });
    safetensors::serialize(views, None).expect("a file")
}

/// An archive as `torch.save` writes it, of two tensors.
fn pickled() -> Vec<u8> {
    let files = [
        ("archive/data.pkl", two_tensors()),
        ("archive/byteorder", b"little".to_vec()),
        ("archive/data/0", vec![0; 24]),
        ("archive/data/1", vec![0; 8]),
        ("archive/version", b"3\n".to_vec()),
    ];
    zip_of(&files.map(|(name, data)| (name.to_owned(), data)))
}

/// A dictionary of two tensors, in protocol 2.
fn two_tensors() -> Vec<u8> {
    let text =
        |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let tensor = |name: &str, storage: &str, key: &str, shape: &[u8], stride: &[u8], n: u8| {
        let tuple = |items: &[u8]| {
            let items: Vec<u8> = items.iter().flat_map(|item| [b'K', *item]).collect();
            [b"(".as_slice(), &items, b"t"].concat()
        };
        [
            text(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
            text("storage"),
            format!("ctorch\n{storage}\n").into_bytes(),
            text(key),
            text("cpu"),
            vec![b'K', n, b't', b'Q', b'K', 0],
            tuple(shape),
            tuple(stride),
            b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
        ]
        .concat()
    };
    [
        b"\x80\x02}(".to_vec(),
        tensor("a", "FloatStorage", "0", &[2, 3], &[3, 1], 6),
        tensor("b.weight", "HalfStorage", "1", &[4], &[1], 4),
        b"u.".to_vec(),
    ]
    .concat()
}

/// A pickle without an archive, and without tensors.
fn plain_pickle() -> Vec<u8> {
    b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01M\x00\x01J\xff\xff\xff\x7feX\x01\x00\x00\x00b}u.".to_vec()
}

fn index(place: &Place) -> Runner {
    place.file("one.safetensors", &safetensors(&[("a", Dtype::F32, &[2, 3])]));
    place.file("two.safetensors", &safetensors(&[("b.weight", Dtype::F16, &[4])]));
    let path = place.path().join("model.safetensors.index.json");
    let dir = place.path().to_path_buf();
    Box::new(move |bytes| {
        write(&path, bytes);
        let read = TensorFiles::open(&dir).and_then(|mut files| {
            files.take("a", &[2, 3])?;
            files.take("b.weight", &[4])?;
            files.finish()
        });
        read.into()
    })
}

fn small_gguf() -> Vec<u8> {
    let place = Place::new().expect("a folder");
    let path = place.path().join("small.gguf");
    let mut writer = GgufWriter::default();
    writer.value("general.architecture", "llama");
    writer.value("general.name", "a small one");
    writer.value("llama.block_count", 2_u32);
    writer.value("llama.rope.freq_base", 10_000.0_f32);
    writer.value("tokenizer.ggml.tokens", vec!["a".to_owned(), "\u{e9}".into(), String::new()]);
    writer.value("tokenizer.ggml.scores", vec![0.5_f32, -1.0, 2.0]);
    writer.value("x.flag", true);
    for (name, kind) in [
        ("f", TensorType::F32),
        ("h", TensorType::F16),
        ("q", TensorType::Q8_0),
        ("k", TensorType::Q4_0),
    ] {
        writer.tensor(name, &[2, 32], kind, || vec![0.5; 64]);
    }
    writer.write(&path).expect("a folder that can be written");
    std::fs::read(path).expect("what was written")
}

fn gguf(path: &Path) -> mopo_hub::Result<Outcome> {
    let file = GgufFile::open(path)?;
    let metadata = file.metadata();
    let _ = metadata.find::<&str>("general.architecture")?;
    let _ = metadata.find::<usize>("llama.block_count");
    for tensor in file.tensors().iter().take(64) {
        let n = tensor.n_rows().min(2);
        file.rows(tensor, 0..n)?;
        file.blocks(tensor)?;
        file.dequantise(tensor)?;
    }
    Ok(Outcome::Accepted)
}
