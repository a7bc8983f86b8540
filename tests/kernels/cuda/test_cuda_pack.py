"""Packed weights hold every value where the docstring of pack.py says, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from membound.kernels.cuda.matmul.linear import WEIGHT_FORMATS
from membound.kernels.cuda.matmul.pack import alternating, pack, padded_columns, padded_rows
from membound.kernels.weights.formats import FORMATS, Weight
from membound.kernels.weights.generate import random_weight
from membound.kernels.weights.grouped import unpack_int4

SHAPES = [(16, 128), (5, 128), (33, 256), (16, 384)]


def weight(fmt: str, n: int, k: int) -> Weight:
    return random_weight(fmt, n, k, int(np.random.default_rng().integers(1 << 40)))


def restored(fmt: str, words: np.ndarray, n: int, k: int) -> np.ndarray:
    """Integers with their offset, fetched one by one from the place that the docstring names."""
    columns = padded_columns(k, fmt)
    out = np.empty((padded_rows(n), columns), np.int64)
    for row, column in np.ndindex(out.shape):
        tile, within = divmod(row, 16)
        high, g = divmod(within, 8)
        t, own = divmod(column % 32, 8)
        fragment, k0 = divmod(own, 4)
        lane = 4 * g + t
        if fmt == "int8":
            record = tile * (columns // 32) + column // 32
            word = record * 128 + lane * 4 + 2 * fragment + k0 // 2
            out[row, column] = words[word] >> np.uint32(8 * (2 * high + k0 % 2)) & 255
        else:
            record = tile * (columns // 64) + column // 64
            word = record * 128 + lane * 4 + 2 * (column % 64 // 32) + fragment
            nibble = 2 * (k0 // 2) + high + 4 * (k0 % 2)
            out[row, column] = words[word] >> np.uint32(4 * nibble) & 15
    return out


@pytest.mark.parametrize("fmt", ["int8", "int4g32", "int4g128"])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_integers_stand_where_lanes_read_them(fmt, n, k):
    w = weight(fmt, n, k)
    words, scales = pack([w])
    assert words.size * 32 == padded_rows(n) * padded_columns(k, fmt) * FORMATS[fmt].bits
    offset = 128 if fmt == "int8" else 8
    found = restored(fmt, words, n, k)
    stored = w.values.astype(np.int64) + 128 if fmt == "int8" else unpack_int4(w.values)
    np.testing.assert_array_equal(found[:n, :k], stored)
    assert (found[n:] == offset).all()
    assert (found[:, k:] == offset).all()
    assert scales is not None
    if fmt == "int8":
        np.testing.assert_array_equal(scales.view(np.float32)[:n], w.scales)
        return
    pairs = scales.view(np.float16).reshape(-1, k // FORMATS[fmt].group, 8, 2)
    for row in range(n):
        np.testing.assert_array_equal(pairs[row // 16, :, row % 8, row % 16 // 8], w.scales[row])


@pytest.mark.parametrize("fmt", ["f32", "bf16", "f16"])
def test_wide_formats_stay_as_they_are_where_they_fit(fmt):
    w = weight(fmt, 32, 128)
    words, scales = pack([w])
    assert scales is None
    assert np.shares_memory(words, w.values)
    np.testing.assert_array_equal(words.view(w.values.dtype).reshape(32, 128), w.values)


@pytest.mark.parametrize("fmt", ["f32", "bf16", "f16"])
def test_wide_formats_are_padded_with_zeros(fmt):
    w = weight(fmt, 19, 70)
    words, _ = pack([w])
    found = words.view(w.values.dtype).reshape(32, 128)
    np.testing.assert_array_equal(found[:19, :70], w.values)
    assert not found[19:].any()
    assert not found[:, 70:].any()


@pytest.mark.parametrize("fmt", WEIGHT_FORMATS)
def test_matrices_stand_below_each_other(fmt):
    a, b = weight(fmt, 5, 128), weight(fmt, 24, 128)
    both = Weight(
        fmt,
        29,
        128,
        np.concatenate([a.values, b.values]),
        None if a.scales is None else np.concatenate([a.scales, b.scales]),
    )
    for found, expected in zip(pack([a, b]), pack([both]), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("fmt", ["f32", "bf16"])
def test_rows_of_two_matrices_take_turns(fmt):
    gate, up = weight(fmt, 5, 70), weight(fmt, 5, 70)
    both = alternating(gate, up)
    assert (both.format, both.n, both.k) == (fmt, 10, 70)
    np.testing.assert_array_equal(both.values[::2], gate.values)
    np.testing.assert_array_equal(both.values[1::2], up.values)
    for other in (weight(fmt, 6, 70), weight("f16", 5, 70)):
        with pytest.raises(ValueError, match="are no pair"):
            alternating(gate, other)
    with pytest.raises(ValueError, match="are no pair"):
        alternating(weight("int8", 5, 70), weight("int8", 5, 70))
