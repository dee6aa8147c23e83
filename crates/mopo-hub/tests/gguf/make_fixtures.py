"""Writes fixtures/types.gguf, a tensor of each type and metadata of each, and fixtures/types.f32, the values.

    python3 -m venv venv
    venv/bin/pip install -r crates/mopo-hub/tests/gguf/requirements.txt
    venv/bin/python crates/mopo-hub/tests/gguf/make_fixtures.py --ggml LIBRARY

The package gguf quantises the values of tensor `f32` where it can; tensors of other types are random blocks. Its
values of each tensor, in the file's order, are types.f32. LIBRARY is one of ggml that exports
`ggml_init` and `quantize_row_q4_K_reference` (or `…_ref`), and makes the blocks of `q4_k.quantised`: the committed file was made with
lib/basic/libctransformers.so of the wheel ctransformers 0.2.27.

    venv/bin/python crates/mopo-hub/tests/gguf/make_fixtures.py --check FILE

reads FILE, which the test `what_is_written_is_read_back` writes where MOPO_GGUF_OUT says, and compares it with
types.gguf: the metadata, and the blocks of the tensors that both have.
"""

import argparse
import ctypes
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

HERE = pathlib.Path(__file__).parent / "fixtures"
ROWS, WIDTH = 3, 256


def values(rng):
    """Blocks of 32 that quantisers treat differently, and ordinary ones."""
    x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    x[0, :32] = 0
    x[0, 32:64] = 0.75
    x[0, 64:96] = -np.abs(x[0, 64:96])
    x[0, 96:128] = np.abs(x[0, 96:128]) + 3
    # Two of the same magnitude, and values halfway between codes.
    x[0, 128:160] = np.resize(np.float32([-4, 4, 0.25, -0.25, 0.5, 1.5]), 32)
    x[0, 160:192] = np.arange(32) * 0.5 - 8
    x[1] *= 1e-3
    x[2] *= np.float32(40)
    return x


def random_blocks(rng, kind, n_rows, width):
    """Any bytes are valid but for the F16 factors, which must be finite."""
    length, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (n_rows, width // length, size), dtype=np.uint8)
    factors = {Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208]}
    for at in factors[kind]:
        factor = rng.standard_normal(blocks.shape[:2]).astype(np.float16)
        blocks[..., at : at + 2] = factor[..., None].view(np.uint8)
    return blocks.reshape(n_rows, -1)


class InitParams(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def reference_q4_k(library, x):
    ggml = ctypes.CDLL(library)
    # Fills the table of F16 numbers, without which all scales are read as 0.
    ggml.ggml_init.restype = ctypes.c_void_p
    assert ggml.ggml_init(InitParams(1 << 16, None, False))
    names = ["quantize_row_q4_K_reference", "quantize_row_q4_K_ref"]
    name = next(name for name in names if hasattr(ggml, name))
    out = np.zeros((ROWS, WIDTH // 256 * 144), dtype=np.uint8)
    pointer = lambda array: array.ctypes.data_as(ctypes.c_void_p)
    getattr(ggml, name)(pointer(x), pointer(out), ctypes.c_int64(x.size))
    return out


def add_metadata(writer):
    writer.add_string("text", "ein Wört")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60_000)
    writer.add_int16("i16", -30_000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -2_000_000_000)
    writer.add_uint64("u64", 2**63 + 1)
    writer.add_int64("i64", -(2**62) - 1)
    writer.add_float32("f32", 1.5)
    writer.add_float64("f64", 1e-300)
    writer.add_bool("yes", True)
    writer.add_bool("no", False)
    writer.add_array("texts", ["a", "", "ü\n"])
    writer.add_array("floats", [0.5, -2.0])
    writer.add_array("integers", [1, -2, 3])
    writer.add_array("truths", [True, False, True])
    writer.add_key_value("nested", [[1, 2], [3, 4]], GGUFValueType.ARRAY)
    writer.add_key_value("bytes", [1, 255], GGUFValueType.ARRAY, GGUFValueType.UINT8)


def make(library):
    rng = np.random.default_rng(20)
    x = values(rng)
    tensors = [("f32", Type.F32, x)]
    for kind in [Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]:
        tensors.append((kind.name.lower(), kind, quantize(x, kind)))
    for kind in [Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K]:
        tensors.append((kind.name.lower(), kind, random_blocks(rng, kind, 2, 256)))
    tensors.append(("q4_k.quantised", Type.Q4_K, reference_q4_k(library, x)))
    tensors.append(("cube", Type.F32, rng.standard_normal((2, 3, 5)).astype(np.float32)))

    writer = GGUFWriter(HERE / "types.gguf", "llama")
    add_metadata(writer)
    for name, kind, blocks in tensors:
        writer.add_tensor(name, blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open(HERE / "types.f32", "wb") as out:
        for tensor in GGUFReader(HERE / "types.gguf").tensors:
            out.write(dequantize(tensor.data, tensor.tensor_type).astype("<f4").tobytes())


def check(path):
    ours, theirs = GGUFReader(path), GGUFReader(HERE / "types.gguf")
    keys = lambda reader: {name for name in reader.fields if not name.startswith("GGUF.")}
    assert keys(ours) == keys(theirs), keys(ours) ^ keys(theirs)
    for key in keys(ours):
        assert ours.fields[key].types == theirs.fields[key].types, key
        assert ours.fields[key].contents() == theirs.fields[key].contents(), key
    blocks = {tensor.name: tensor for tensor in theirs.tensors}
    assert ours.tensors
    for tensor in ours.tensors:
        other = blocks[tensor.name]
        assert tensor.tensor_type == other.tensor_type and list(tensor.shape) == list(other.shape), tensor.name
        assert tensor.data.tobytes() == other.data.tobytes(), tensor.name
    print(f"{path}: {len(keys(ours))} keys and {len(ours.tensors)} tensors agree")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ggml")
    parser.add_argument("--check")
    arguments = parser.parse_args()
    if arguments.check:
        check(arguments.check)
    else:
        make(arguments.ggml)
