"""ggml's types against its C sources, number by number in Python."""

import math

import numpy as np
import pytest

from membound.kernels.weights.formats import dequantize, in_kernel_format, quantize
from membound.kernels.weights.ggml import blocks, from_blocks, parts_of_q4_k, widen_q4_k, widen_q6_k
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


F32 = np.float32


def nearest(inverse, x, low):
    return min(15, max(0, int(np.rint(inverse * (x - low)))))


def searched(xs):
    """make_qkx2_quants of 32 numbers with 0..15, ranges from −1 in steps of 0.1 up to 20: scale, minus the least value."""
    squares = total = sum_x = F32(0)
    for x in xs:
        squares += x * x
    weights = [np.sqrt(squares / F32(32)) + abs(x) for x in xs]
    for x, weight in zip(xs, weights, strict=True):
        total, sum_x = total + weight, sum_x + weight * x
    low, largest = min(min(xs), F32(0)), max(xs)
    if low == largest:
        return F32(0), -low

    def error_of(scale, low, numbers):
        found = F32(0)
        for x, weight, q in zip(xs, weights, numbers, strict=True):
            off = scale * F32(q) + low - x
            found += weight * (off * off)
        return found

    inverse = F32(15) / (largest - low)
    scale = F32(1) / inverse
    best = error_of(scale, low, [nearest(inverse, x, low) for x in xs])
    for step in range(21):
        inverse = (F32(-1) + F32(0.1) * F32(step) + F32(15)) / (largest - low)
        numbers = [nearest(inverse, x, low) for x in xs]
        sum_q = sum_q2 = sum_xq = F32(0)
        for x, weight, q in zip(xs, weights, map(F32, numbers), strict=True):
            sum_q, sum_q2, sum_xq = sum_q + weight * q, sum_q2 + weight * q * q, sum_xq + weight * q * x
        size = total * sum_q2 - sum_q * sum_q
        if size <= 0:
            continue
        own = (total * sum_xq - sum_x * sum_q) / size
        own_low = (sum_q2 * sum_x - sum_q * sum_xq) / size
        if own_low > 0:
            own, own_low = sum_xq / sum_q2, F32(0)
        error = error_of(own, own_low, numbers)
        if error < best:
            best, scale, low = error, own, own_low
    return scale, -low


def quantised_q4_k(xs):
    """quantize_row_q4_K_ref of 256 numbers: its 144 bytes."""
    scales, leasts = zip(*(searched(xs[at : at + 32]) for at in range(0, 256, 32)), strict=True)
    heads, small = [], []
    for values in (scales, leasts):
        largest = max(values)
        inverse = F32(63) / largest if largest > 0 else F32(0)
        small.append([min(63, int(np.rint(inverse * value))) for value in values])
        heads.append(np.float16(largest / F32(63)))
    packed = [0] * 12
    for j, (scale, least) in enumerate(zip(*small, strict=True)):
        if j < 4:
            packed[j], packed[j + 4] = scale, least
        else:
            packed[j + 4] = (scale & 15) | (least & 15) << 4
            packed[j - 4] |= scale >> 4 << 6
            packed[j] |= least >> 4 << 6
    numbers = []
    for at, x in enumerate(xs):
        d, low = (F32(head) * F32(six[at // 32]) for head, six in zip(heads, small, strict=True))
        numbers.append(min(15, max(0, int(np.rint((x + low) / d)))) if d else 0)
    halves = [numbers[at + i] | numbers[at + 32 + i] << 4 for at in range(0, 256, 64) for i in range(32)]
    return b"".join(head.tobytes() for head in heads) + bytes(packed) + bytes(halves)


def test_super_blocks_are_those_of_ggml():
    w = np.random.default_rng().standard_normal((3, 512)).astype(np.float32)
    w[0, 64:96] = 0
    w[1, :256] = 0
    w[1, 256:288] = -1.5
    w[1, 288:320] = 2
    w[2] = np.abs(w[2]) * np.float32(1e-4)
    found = quantize(w, "q4_k").values
    assert found.shape == (3, 288)
    for row, made in zip(w, found, strict=True):
        assert made.tobytes() == quantised_q4_k(list(row[:256])) + quantised_q4_k(list(row[256:]))


@pytest.mark.parametrize("gain", [0.01, 1.0, 60.0])
def test_q4_k_of_normal_numbers_is_nearer_than_q4_0(gain):
    w = (gain * np.random.default_rng().standard_normal((64, 1024))).astype(np.float32)
    error = {
        fmt: np.linalg.norm(dequantize(quantize(w, fmt)) - w) / np.linalg.norm(w) for fmt in ("q4_0", "q4_k")
    }
    assert 0.068 < error["q4_k"] < 0.075 < 0.08 < error["q4_0"]


@pytest.mark.parametrize("largest", [63 * 65504, -63 * 65504])
def test_the_largest_weight_of_a_folder_stays_finite(largest):
    w = np.random.default_rng().standard_normal((4, 256)).astype(np.float32)
    w[1, 5], w[2, 32:40], w[3] = largest, largest, largest
    wide = dequantize(quantize(w, "q4_k"))
    assert np.isfinite(wide).all()
    assert wide[1, 5] == pytest.approx(largest, rel=0.02)
    assert wide[3] == pytest.approx(w[3], rel=0.02)


def test_numbers_too_small_for_a_scale_become_zero_and_spoil_no_others():
    w = np.random.default_rng(5).standard_normal((2, 512)).astype(np.float32)
    w[0, 32:64] *= 1e-42
    w[1] *= 1e-30
    wide = dequantize(quantize(w, "q4_k"))
    assert not wide[0, 32:64].any()
    assert not wide[1].any()
    assert 0.05 < np.linalg.norm(wide[0] - w[0]) / np.linalg.norm(w[0]) < 0.09


def test_groups_of_one_number_are_exact_to_six_bits():
    w = np.repeat(np.random.default_rng(7).uniform(-3, 3, (5, 8)), 32, axis=1).astype(np.float32)
    stored = quantize(w, "q4_k")
    heads, small, _ = parts_of_q4_k(stored.values)
    assert (heads[..., 0] > 0).all()
    assert small.max() == 63
    assert np.abs(dequantize(stored) - w).max() < 3 / 63


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
