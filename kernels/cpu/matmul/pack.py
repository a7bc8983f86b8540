"""Matrices in the order in which the kernels read them.

>>> arena = aligned_bytes(recipe.matrix_bytes(n, k))
>>> pack(weight, recipe, arena)

Packing is done once, before anything is timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import prange

from membound.errors import Unsupported
from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.matmul.recipe import COLUMNS_A_LOAD, Recipe
from membound.kernels.cpu.matmul.records import SUPER_BLOCKS, Record, record_of
from membound.kernels.cpu.matmul.super_blocks import write_super
from membound.kernels.cpu.simd.ir import FP8_FACTOR
from membound.kernels.weights.formats import EVERY_FORMAT, Weight, in_kernel_format, kernel_format

Bytes = npt.NDArray[np.uint8]
_HUGE_PAGE = 2 << 20
LINE = 64
HEAD_BYTES = 192
"""Of matrices of several formats: seven parts at most; six share an input."""


def aligned_bytes(size: int) -> Bytes:
    """`size` bytes of zeros that start on a huge page, so that no vector load crosses a cache line."""
    raw = np.zeros(size + _HUGE_PAGE, np.uint8)
    start = -raw.ctypes.data % _HUGE_PAGE
    return raw[start : start + size]


def pack(weight: Weight, recipe: Recipe, arena: Bytes) -> None:
    """Write `weight` into `arena` (zeroed, `recipe.matrix_bytes` long) as `recipe` wants it."""
    pack_rows([weight], recipe, arena)


def pack_rows(weights: Sequence[Weight], recipe: Recipe, arena: Bytes) -> None:
    """Like `pack`, for several matrices of the same k set below each other as one."""
    weights = [in_kernel_format(weight) for weight in weights]
    if recipe.mixed:
        _pack_mixed(weights, recipe, arena)
        return
    k = weights[0].k
    panels = _Panels(recipe, k)
    row = 0
    for weight in weights:
        panels.write(weight, arena, row)
        row += weight.n
    if recipe.format == "int8":
        start = recipe.padded_n(row) // recipe.panel_rows * recipe.panel_bytes(k)
        scales = np.concatenate([w.scales for w in weights if w.scales is not None])
        arena[start : start + 4 * row].view(np.float32)[:] = scales


def packed_bytes(recipe: Recipe, parts: Sequence[tuple[str, int]], k: int) -> int:
    """Bytes of matrices of k columns as `pack_rows` sets them below each other, of which `parts` has formats and rows."""
    if not recipe.mixed:
        return recipe.matrix_bytes(sum(n for _, n in parts), k)
    members = {one.format: one for one in recipe.members}
    return HEAD_BYTES + sum(_aligned(members[fmt].matrix_bytes(n, k)) for fmt, n in _runs(parts))


def _runs(parts: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Formats and rows of neighbours that are packed as one."""
    kinds = groupby(((kernel_format(fmt), n) for fmt, n in parts), key=itemgetter(0))
    return [(fmt, sum(n for _, n in group)) for fmt, group in kinds]


def _pack_mixed(weights: Sequence[Weight], recipe: Recipe, arena: Bytes) -> None:
    """Matrices of several formats behind a head (mixed_panels.py). Raises Unsupported where one ends within a panel."""
    k, formats = weights[0].k, [one.format for one in recipe.members]
    head = arena[:HEAD_BYTES].view(np.int64)
    runs = [list(group) for _, group in groupby(weights, key=attrgetter("format"))]
    place, panel = HEAD_BYTES, 0
    for number, run in enumerate(runs):
        member, rows = recipe.members[formats.index(run[0].format)], sum(weight.n for weight in run)
        if rows % recipe.panel_rows and number < len(runs) - 1:
            raise Unsupported(
                f"{rows} rows of {member.format} before others of {runs[number + 1][0].format} fill no whole panels of {recipe.panel_rows}"
            )
        size = member.matrix_bytes(rows, k)
        pack_rows(run, member, arena[place : place + size])
        panel += member.padded_n(rows) // recipe.panel_rows
        head[1 + 3 * number : 4 + 3 * number] = formats.index(member.format), panel, place
        place += _aligned(size)
    head[0] = len(runs)


def _aligned(size: int) -> int:
    return -(-size // LINE) * LINE


class _Panels:
    """Places rows of a matrix into panels: column groups of `together` values stay next to each other."""

    def __init__(self, recipe: Recipe, k: int) -> None:
        self.recipe = recipe
        self.panel_bytes = recipe.panel_bytes(k)
        fmt = EVERY_FORMAT[recipe.format]
        size = max(1, fmt.bits // 8)
        wide = COLUMNS_A_LOAD.get(recipe.format, 1)
        self.together = 4 if recipe.method in ("integer", "tile") else size * wide

    def write(self, weight: Weight, arena: Bytes, first_row: int) -> None:
        if weight.format in SUPER_BLOCKS:
            together = 4 if self.recipe.method == "integer" else 1
            values = weight.values.view(np.uint8)
            write_super(weight.format, values, arena, first_row, self.panel_bytes, together)
            return
        record = record_of(weight.format)
        if record is not None:
            self._write_records(weight, record, arena, first_row)
            return
        values = weight.values.view(np.uint8).reshape(weight.n, -1)
        rest = -values.shape[1] % self.together
        if rest:
            values = np.pad(values, ((0, 0), (0, rest)))
        unit = np.dtype(f"u{self.together}")
        _write_columns(
            values.view(unit),
            arena[: arena.size // unit.itemsize * unit.itemsize].view(unit),
            np.int64(first_row),
            np.int64(self.panel_bytes // unit.itemsize),
            np.int64(self.recipe.panel_rows),
        )

    def _write_records(self, weight: Weight, record: Record, arena: Bytes, first_row: int) -> None:
        scales = _scales_by_row(weight)
        points = np.zeros((weight.n, 0), np.uint8) if weight.zeros is None else -weight.zeros.view(np.uint8)
        nibbles = record.values == "nibbles"
        write = _write_nibbles if nibbles else _write_bytes
        write(
            weight.values.view(np.uint8),
            scales.view(np.uint8).reshape(weight.n, scales.shape[1], -1),
            points,
            arena,
            np.int64(first_row),
            np.int64(self.panel_bytes),
            np.int64(self.recipe.panel_rows),
            np.int64(record.group),
            np.int64(4 if nibbles or self.recipe.method == "integer" else 1),
        )


def _scales_by_row(weight: Weight) -> npt.NDArray[Any]:
    """A scale of each row and group [n, groups] as kernels multiply by it."""
    if weight.scales is None:
        raise AssertionError("no scales")
    scales = np.ascontiguousarray(weight.scales)
    if not weight.format.startswith("fp8"):
        return scales
    return scales.view(np.float32) * np.float32(1 / FP8_FACTOR)


@kernel(parallel=True)
def _write_columns(values: Any, arena: Any, first_row: Any, panel_size: Any, panel_rows: Any) -> None:
    """values [n, column groups] to panels [row // panel_rows][column group][row % panel_rows], a group a word."""
    n, groups = values.shape
    for i in prange(n):
        row = first_row + i
        base = row // panel_rows * panel_size + row % panel_rows
        for group in range(groups):
            arena[base + group * panel_rows] = values[i, group]


@numba.njit(inline="always")
def _nibble(packed: Any, i: Any, k: Any) -> Any:
    byte = np.int64(packed[i, k >> 1])
    return (byte >> 4) if k & 1 else (byte & 15)


@numba.njit(inline="always")
def _write_head(
    scales: Any, points: Any, arena: Any, i: Any, g: Any, start: Any, lane: Any, panel_rows: Any
) -> Any:
    """A row's scale and zero point in a record; returns where the record's values begin."""
    size = scales.shape[2]
    for b in range(size):
        arena[start + size * lane + b] = scales[i, g, b]
    values = start + size * panel_rows
    if points.shape[1]:
        arena[values + lane] = points[i, g]
        values += panel_rows
    return values


@kernel(parallel=True)
def _write_nibbles(
    packed: Any, scales: Any, points: Any, arena: Any, first_row: Any, panel_bytes: Any, panel_rows: Any,
    group: Any, together: Any,
) -> None:  # fmt: skip
    """Panels of records (records.py) of words of eight columns.

    Byte i of a row's word holds column i in its low and column 4 + i in its high nibble, so that one
    mask and one shift give two operands of a four-byte dot product.
    """
    n, groups = packed.shape[0], scales.shape[1]
    record = panel_rows * (scales.shape[2] + (points.shape[1] > 0) + group // 2)
    for i in prange(n):
        row = first_row + i
        lane = row % panel_rows
        base = row // panel_rows * panel_bytes
        for g in range(groups):
            words = _write_head(scales, points, arena, i, g, base + g * record, lane, panel_rows)
            words += together * lane
            for word in range(group // 8):
                k = g * group + 8 * word
                for b in range(together):
                    low, high = _nibble(packed, i, k + b), _nibble(packed, i, k + together + b)
                    arena[words + word * together * panel_rows + b] = low | (high << 4)


@kernel(parallel=True)
def _write_bytes(
    values: Any, scales: Any, points: Any, arena: Any, first_row: Any, panel_bytes: Any, panel_rows: Any,
    group: Any, together: Any,
) -> None:  # fmt: skip
    """Panels of records (records.py) of bytes, `together` columns of a row next to each other."""
    n, groups = values.shape[0], scales.shape[1]
    record = panel_rows * (scales.shape[2] + (points.shape[1] > 0) + group)
    for i in prange(n):
        row = first_row + i
        lane = row % panel_rows
        base = row // panel_rows * panel_bytes
        for g in range(groups):
            first = _write_head(scales, points, arena, i, g, base + g * record, lane, panel_rows)
            first += together * lane
            for j in range(0, group, together):
                for b in range(together):
                    arena[first + j * panel_rows + b] = values[i, g * group + j + b]
