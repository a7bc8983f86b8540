"""ggml's types against its C sources, number by number in Python."""

import math

import numpy as np
import pytest

from membound.kernels.weights.formats import dequantize, in_kernel_format, quantize
from membound.kernels.weights.ggml import blocks, from_blocks, widen_q4_k, widen_q6_k
from membound.kernels.weights.grouped import unpack_int4


def q8_0_block(numbers):
    """quantize_row_q8_0_ref of one block: its bytes."""
    d = np.float32(max(abs(v) for v in numbers)) / np.float32(127)
    inverse = np.float32(1) / d if d else np.float32(0)
    scaled = [np.float32(v) * inverse for v in numbers]
    codes = [int(math.copysign(math.floor(abs(float(v)) + 0.5), v)) for v in scaled]
    return np.float16(d).tobytes() + np.array(codes, np.int8).tobytes()


def q4_0_block(numbers):
    """quantize_row_q4_0_ref of one block: its bytes."""
    largest = max(numbers, key=abs)
    d = np.float32(largest) / np.float32(-8)
    inverse = np.float32(1) / d if d else np.float32(0)
    codes = [min(15, int(float(np.float32(v)) * float(inverse) + 8.5)) for v in numbers]
    return np.float16(d).tobytes() + bytes(codes[i] | codes[16 + i] << 4 for i in range(16))


@pytest.mark.parametrize(("fmt", "block", "size"), [("q8_0", q8_0_block, 34), ("q4_0", q4_0_block, 18)])
def test_blocks_are_those_of_ggml(fmt, block, size):
    w = np.random.default_rng(4).standard_normal((5, 96)).astype(np.float32)
    w[2, 32:64] = 0
    stored = quantize(w, fmt)
    rows = blocks(stored.values, stored.scales)
    assert rows.shape == (5, 3 * size)
    expected = [b"".join(block(row[i : i + 32].tolist()) for i in (0, 32, 64)) for row in w]
    assert [row.tobytes() for row in rows] == expected
    values, scales = from_blocks(rows, fmt)
    assert np.array_equal(values, stored.values)
    assert np.array_equal(scales, stored.scales)


def test_q4_0_means_what_ggml_says():
    stored = quantize(np.random.default_rng(4).standard_normal((3, 64)).astype(np.float32), "q4_0")
    expected = np.empty((3, 64), np.float32)
    for row in range(3):
        for b in range(2):
            d = np.float32(stored.scales[row, b])
            for i, byte in enumerate(stored.values[row, 16 * b : 16 * b + 16].tolist()):
                expected[row, 32 * b + i] = (byte & 15) * d - 8 * d
                expected[row, 32 * b + 16 + i] = (byte >> 4) * d - 8 * d
    assert np.array_equal(dequantize(stored), expected)
    same = in_kernel_format(stored)
    assert same.format == "int4g32"
    assert np.array_equal(dequantize(same), expected)
    assert unpack_int4(same.values).max() <= 15


def q4_k_block(block):
    """dequantize_row_q4_K of 144 bytes."""
    d, least = (float(v) for v in np.frombuffer(block[:4], np.float16))
    q, qs, out = block[4:16], block[16:], []

    def six_bits(j):
        if j < 4:
            return q[j] & 63, q[j + 4] & 63
        return (q[j + 4] & 15) | (q[j - 4] >> 6) << 4, (q[j + 4] >> 4) | (q[j] >> 6) << 4

    for pair in range(4):
        for half in (0, 1):
            scale, minimum = six_bits(2 * pair + half)
            for byte in qs[32 * pair : 32 * pair + 32]:
                out.append(d * scale * (byte >> 4 * half & 15) - least * minimum)
    return out


def q6_k_block(block):
    """dequantize_row_q6_K of 210 bytes."""
    low, high, scales = block[:128], block[128:192], np.frombuffer(block[192:208], np.int8).tolist()
    d, out = float(np.frombuffer(block[208:], np.float16)[0]), [0.0] * 256
    for half in (0, 1):
        ql, qh = low[64 * half : 64 * half + 64], high[32 * half : 32 * half + 32]
        for i in range(32):
            codes = (
                (ql[i] & 15) | (qh[i] & 3) << 4,
                (ql[i + 32] & 15) | (qh[i] >> 2 & 3) << 4,
                (ql[i] >> 4) | (qh[i] >> 4 & 3) << 4,
                (ql[i + 32] >> 4) | (qh[i] >> 6 & 3) << 4,
            )
            for part, code in enumerate(codes):
                scale = scales[8 * half + i // 16 + 2 * part]
                out[128 * half + 32 * part + i] = d * scale * (code - 32)
    return out


@pytest.mark.parametrize(
    ("widen", "one", "size", "halves"),
    [(widen_q4_k, q4_k_block, 144, (0, 2)), (widen_q6_k, q6_k_block, 210, (208,))],
)
def test_super_blocks_mean_what_ggml_says(widen, one, size, halves):
    rows = np.random.default_rng(4).integers(0, 256, (3, 2 * size), np.uint8)
    for at in halves:
        for block in (0, size):
            rows[:, block + at : block + at + 2] = np.float16([0.37]).view(np.uint8)
    expected = [one(row[:size].tobytes()) + one(row[size:].tobytes()) for row in rows]
    assert np.allclose(widen(rows), expected, rtol=1e-5, atol=1e-6)
