"""Weights in the order in which a GPU reads them, in NumPy.

Rows are padded to ROWS and columns to COLUMNS (or the group of a scale) with zeros; where nothing is to be
padded the 16- and 32-bit formats stay as they are, without a copy.

f32, bf16, f16: row-major. int8 and int4 are tiles of 16 rows, each a sequence of 512-byte records that a warp
reads with one load, sixteen bytes a lane. Lane 4·g + t holds what the tensor cores want of it (see ptx.py):
rows g and g + 8, and of every 32 columns its eight, from 8t on, as two fragments of four columns from k0 on.

int8, a record of 32 columns, two words a fragment, offset by 128:
    bytes (g, k0), (g, k0 + 1), (g + 8, k0), (g + 8, k0 + 1), then the same from k0 + 2 on
int4, a record of 64 columns, one word a fragment, offset by 8 as stored; nibbles from the lowest:
    (g, k0), (g + 8, k0), (g, k0 + 2), (g + 8, k0 + 2), and above them the same from k0 + 1 on
Scales of int4 stand as pairs of rows g and g + 8 for each tile and group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.weights.formats import FORMATS, Weight
from membound.kernels.weights.grouped import unpack_int4

ROWS = 16
COLUMNS = 64
_INT8_OFFSET = 128
_INT4_OFFSET = 8

Words = npt.NDArray[np.uint32]
Any2 = npt.NDArray[Any]


def padded_rows(n: int) -> int:
    """n rounded up to whole tiles."""
    return -(-n // ROWS) * ROWS


def padded_columns(k: int, fmt: str) -> int:
    """k rounded up to what kernels take at a time; rows of x are as long, zeros behind column k."""
    step = max(COLUMNS, FORMATS[fmt].group)
    return -(-k // step) * step


def pack(weights: Sequence[Weight]) -> tuple[Words, Words | None]:
    """Matrices of one format and k, set below each other: words, and scales as words or None.

    int8's scales are float32, one a padded row. The result may share memory with the only weight.
    """
    fmt = weights[0].format
    if FORMATS[fmt].bits >= 16:
        return _row_major(weights), None
    values = np.concatenate([_integers(weight) for weight in weights])
    offset = _INT8_OFFSET if fmt == "int8" else _INT4_OFFSET
    tiles = _tiles(_padded(values.astype(np.uint8), padded_columns(weights[0].k, fmt), offset))
    scales = np.concatenate([weight.scales for weight in weights if weight.scales is not None])
    if fmt == "int8":
        return _int8_records(tiles), _padded(scales[:, None].astype(np.float32), 1).reshape(-1).view(
            np.uint32
        )
    return _int4_records(tiles), _scale_pairs(_padded(scales.astype(np.float16), scales.shape[1]))


def alternating(gate: Weight, up: Weight) -> Weight:
    """Two matrices of 16 or 32 bits as one whose even rows are the first's: pairs that one warp multiplies (Dot.finish)."""
    if (gate.format, gate.n, gate.k) != (up.format, up.n, up.k) or FORMATS[gate.format].bits < 16:
        raise ValueError(f"{gate.format} [{gate.n}, {gate.k}] and {up.format} [{up.n}, {up.k}] are no pair")
    values = np.stack([gate.values, up.values], axis=1).reshape(2 * gate.n, gate.k)
    return Weight(gate.format, 2 * gate.n, gate.k, values)


def _row_major(weights: Sequence[Weight]) -> Words:
    values = weights[0].values
    if len(weights) > 1:
        values = np.concatenate([weight.values for weight in weights])
    columns = padded_columns(weights[0].k, weights[0].format)
    if values.shape != (padded_rows(len(values)), columns):
        values = _padded(values, columns)
    return np.ascontiguousarray(values).reshape(-1).view(np.uint32)


def _padded(values: Any2, columns: int, fill: int = 0) -> Any2:
    padded = np.full((padded_rows(len(values)), columns), fill, values.dtype)
    padded[: values.shape[0], : values.shape[1]] = values
    return padded


def _integers(weight: Weight) -> Any2:
    """Values with their offset, as bytes [n, k]."""
    if weight.format == "int8":
        return weight.values.astype(np.int16) + _INT8_OFFSET
    return unpack_int4(weight.values.view(np.uint8))


def _tiles(values: Any2) -> Any2:
    """[n, k] to [tile, 32 columns, g, t, fragment, column pair, row half, column of the pair]."""
    n, k = values.shape
    split = values.reshape(n // ROWS, 2, 8, k // 32, 4, 2, 2, 2)
    # axes: tile, row half, g, 32 columns, t, fragment, column pair, column of the pair
    return split.transpose(0, 3, 2, 4, 5, 6, 1, 7)


def _int8_records(tiles: Any2) -> Words:
    return np.ascontiguousarray(tiles).reshape(-1).view(np.uint32)


def _int4_records(tiles: Any2) -> Words:
    """Records of 64 columns: the lane's words of the first 32 columns, then of the second."""
    count, halves, g, t, *_ = tiles.shape
    words = np.zeros((count, halves, g, t, 2), np.uint32)
    for pair, row, column in np.ndindex(2, 2, 2):
        shift = np.uint32(4 * (2 * pair + row) + 16 * column)
        words |= tiles[..., pair, row, column].astype(np.uint32) << shift
    records = words.reshape(count, halves // 2, 2, g, t, 2).transpose(0, 1, 3, 4, 2, 5)
    return np.ascontiguousarray(records).reshape(-1)


def _scale_pairs(scales: Any2) -> Words:
    """[n, groups] to [tile, group, g] pairs of rows g and g + 8."""
    split = scales.reshape(-1, 2, 8, scales.shape[1]).transpose(0, 3, 2, 1)
    return np.ascontiguousarray(split).reshape(-1).view(np.uint32)
