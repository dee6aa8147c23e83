"""Writes fixture.json: NF4's values from their definition, and a matrix quantised by bitsandbytes.

    python3 -m venv venv
    venv/bin/pip install -r crates/mopo-ops/tests/quant/requirements.txt
    venv/bin/python crates/mopo-ops/tests/quant/make_fixtures.py

The values are computed here (quantiles of a normal distribution) and must equal those of bitsandbytes.
So must codes and magnitudes, which are computed here in double precision. The matrix is a formula of the index, so that it need not be stored: see `weights`. It has more than 256
blocks, a last block that is not full, and a block of zeros.
"""

import json
import math
import pathlib
from statistics import NormalDist

import bitsandbytes.functional as bnb
import numpy as np
import torch

OUTPUTS, INPUTS, BLOCK, GROUP = 190, 99, 64, 256


def nf4_values(outer=0.9677083):
    """Eight quantiles above 0, seven below it, and 0; the largest is 1 (QLoRA, appendix E)."""
    quantile = NormalDist().inv_cdf
    above = [quantile(outer + (0.5 - outer) * i / 8) for i in range(8)]
    below = [-quantile(outer + (0.5 - outer) * i / 7) for i in range(7)]
    values = sorted([*above, 0.0, *below])
    return [value / max(values) for value in values]


def dynamic_values():
    """8 bits: a sign, a decimal exponent, and a fraction with the remaining bits."""
    values = [0.0, 1.0]
    for exponent in range(7):
        n = 2**exponent
        for i in range(n):
            mean = 0.1 + 0.9 * (i + 0.5) / n
            values += [mean * 10.0 ** (exponent - 6), -mean * 10.0 ** (exponent - 6)]
    return sorted(values)


def weights():
    """Number i: 24 pseudo-random bits within ±0.5, times a factor of its block."""
    i = np.arange(OUTPUTS * INPUTS, dtype=np.uint64)
    bits = (i * np.uint64(2654435761) % np.uint64(2**32)) >> np.uint64(8)
    uniform = (bits.astype(np.float64) / 2**24 - 0.5).astype(np.float32)
    block = i // np.uint64(BLOCK)
    factor = (np.float32(1) + (block % np.uint64(37)).astype(np.float32)) / np.float32(64)
    out = uniform * factor
    out[5 * BLOCK : 6 * BLOCK] = 0
    return out


def codes_of(numbers, values):
    """The nearest value of each number, and whether rounding could choose another."""
    values = np.array(values)
    distance = np.abs(numbers[:, None] - values[None])
    near = np.sort(distance, axis=1)[:, :2]
    return distance.argmin(axis=1), (near[:, 1] - near[:, 0]).min()


def main():
    values = nf4_values()
    flat = weights()
    matrix = torch.from_numpy(flat.reshape(OUTPUTS, INPUTS))
    packed, state = bnb.quantize_4bit(matrix, blocksize=BLOCK, quant_type="nf4")
    assert np.allclose(values, state.code.numpy()[:16], atol=2e-7), "NF4's values"
    packed = packed.numpy().reshape(-1)
    codes = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[: flat.size]

    padded = np.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK).astype(np.float64)
    magnitudes = np.abs(padded).max(axis=1)
    scaled = padded / np.where(magnitudes == 0, 1, magnitudes)[:, None]
    ours, margin = codes_of(scaled.reshape(-1)[: flat.size], state.code.numpy()[:16])
    assert margin > 1e-7, margin
    assert (ours == codes).all(), "codes"
    assert np.array_equal(state.absmax.numpy(), magnitudes.astype(np.float32)), "magnitudes"

    packed, nested = bnb.quantize_4bit(matrix, blocksize=BLOCK, quant_type="nf4",
                                       compress_statistics=True)
    table = dynamic_values()
    assert np.allclose(table, nested.state2.code.numpy(), rtol=1e-6, atol=1e-9), "8-bit values"
    offset = magnitudes.mean()
    assert math.isclose(offset, float(nested.offset), rel_tol=1e-6), "offset"
    for start in range(0, len(magnitudes), GROUP):
        group = magnitudes[start : start + GROUP] - offset
        ours, _ = codes_of(group / np.abs(group).max(), table)
        assert (ours == nested.absmax.numpy()[start : start + GROUP]).all(), "8-bit codes"

    out = {
        "shape": [OUTPUTS, INPUTS],
        "values": values,
        "codes": "".join(f"{code:x}" for code in codes),
        "magnitudes": state.absmax.tolist(),
        "offset": float(nested.offset),
        "magnitude_codes": nested.absmax.tolist(),
        "group_scales": nested.state2.absmax.tolist(),
        # Of some numbers, with double quantisation: every 100th.
        "dequantised": bnb.dequantize_4bit(packed, nested).reshape(-1)[::100].tolist(),
    }
    path = pathlib.Path(__file__).parent / "fixture.json"
    path.write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
