"""The ways to reach a ceiling: access patterns and register kernels, each checked against NumPy.

>>> patterns = read_patterns(values, threads=2, streams=(4, 8))
>>> patterns[0].check()                     # raises CeilingError if the kernel gives a wrong result
>>> patterns[0].call(7); patterns[0].amount, patterns[0].config["variant"]
(39321600, '4 streams')
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from math import ceil
from statistics import median
from typing import Any

import numpy as np

from membound.bench.measure.turns import Turn, usable
from membound.errors import MemboundError
from membound.kernels.cpu.instruments import stream, tile_peak
from membound.kernels.cpu.simd.amx import AMX_BF16, AMX_INT8
from membound.kernels.cpu.simd.features import BF16_DOT, LANES
from membound.kernels.weights.formats import from_bf16

WINDOWS, FEWEST_WINDOWS = 32, 4
"""The most and the fewest windows of a rotation: so short that some are undisturbed on a machine that others use too."""
THREAD_WINDOW_BYTES = 64 << 20
"""A thread's part of a window, if it fits, where one thread has the part of two: 2 to 9 ms, which makes the start of a
call, when no load is in flight yet, negligible: on an AMD Milan, calls of 6 MB read 10-20 % slower than calls of 64 MB; on an Intel Xeon with AMX, two threads
read 24.7 GB/s in calls of 8 MB, 26.3 in calls of 64 MB and 27.5 in calls of 128 MB, one thread 13.4 in calls of 64 MB
and 13.8 in calls of 128 MB (medians of 60 in turn)."""
FMA_ITERATIONS = 400_000
DOT_REPEATS = 10_000
TILE_REPEATS = 20_000
EVICTION_STREAMS = 4
"""Of reads that only push others' operands out of the caches."""


class CeilingError(MemboundError):
    """A ceiling cannot be measured: no memory, or a kernel whose result is wrong."""


class CeilingMemoryError(CeilingError, MemoryError):
    """There is no memory for what a ceiling reads."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One way to reach a ceiling: `call(number)` moves or computes `amount`; `check` raises CeilingError."""

    amount: float
    config: dict[str, Any]
    call: Callable[[int], object]
    check: Callable[[], None]
    turns: list[Turn] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Amount per second."""
        return self.amount / median(usable(self.turns))


def window_bytes(values: stream.F32, threads: int, arrays: int = 1) -> int:
    """The bytes of a window in each of the arrays that share the memory."""
    wanted = min(max(threads, 2) * THREAD_WINDOW_BYTES, values.nbytes // FEWEST_WINDOWS)
    return max(wanted, values.nbytes // WINDOWS) // arrays


def read_patterns(values: stream.F32, threads: int, streams: Sequence[int]) -> list[Pattern]:
    """Reads of rotating windows by that many threads, without prefetch, and with it near and far ahead."""
    patterns = []
    for parts, ahead in product(streams, (0, *stream.PREFETCH_FLOATS)):
        place = stream.arrange(values.size, threads, parts, window_bytes(values, threads))
        patterns.append(
            Pattern(
                place.window_bytes,
                _config(
                    place,
                    f"{parts} streams{f', {4 * ahead} B ahead' if ahead else ''}",
                    prefetch_bytes=4 * ahead,
                ),
                partial(_read, values, place, ahead),
                partial(_check_read, values, place, ahead),
            )
        )
    return patterns


def copy_patterns(values: stream.F32, threads: int) -> list[Pattern]:
    """Copies of rotating windows, with stores through and past the caches."""
    patterns = []
    for parts, mode in product((1, 4), ("streaming", "cached")):
        place = stream.arrange(values.size, threads, parts, window_bytes(values, threads, 2), arrays=2)
        patterns.append(
            Pattern(
                2 * place.window_bytes,
                _config(place, f"{parts} streams, {mode} stores"),
                partial(_copy, values, place, mode),
                partial(_check_copy, values, place, mode),
            )
        )
    return patterns


def triad_patterns(values: stream.F32, threads: int) -> list[Pattern]:
    """Triads of rotating windows, with stores through and past the caches."""
    patterns = []
    for parts, mode in product((1, 4), ("streaming", "cached")):
        place = stream.arrange(values.size, threads, parts, window_bytes(values, threads, 3), arrays=3)
        patterns.append(
            Pattern(
                3 * place.window_bytes,
                _config(place, f"{parts} streams, {mode} stores"),
                partial(_triad, values, place, mode),
                partial(_check_triad, values, place, mode),
            )
        )
    return patterns


def cached_read_patterns(values: stream.F32, threads: int, set_bytes: int, read_bytes: int) -> list[Pattern]:
    """Reads of one working set of `set_bytes` over and over, until `read_bytes` or more are read."""
    patterns = []
    for parts in (1, 4):
        place = stream.arrange(values.size, threads, parts, set_bytes)
        repeats = ceil(read_bytes / place.window_bytes)
        patterns.append(
            Pattern(
                repeats * place.window_bytes,
                _config(place, f"{parts} streams", repeats=repeats)
                | {"array_bytes": place.window_bytes, "rotation_bytes": place.window_bytes},
                partial(_read_again, values, place, repeats),
                partial(_check_read, values, place, 0),
            )
        )
    return patterns


def fma_pattern(threads: int) -> Pattern:
    """float32 multiply-adds on registers."""
    return Pattern(
        stream.fma_flops(threads, FMA_ITERATIONS),
        {"threads": threads, "variant": f"{stream.CHAINS} chains"},
        lambda _: stream.fma(threads, FMA_ITERATIONS),
        partial(_check_fma, threads),
    )


def dot_patterns(fmt: str, threads: int) -> list[Pattern]:
    """Dot products with operands in L1 and registers: int8 into int32, and bf16 if the processor has them."""
    if not {"int8": True, "bf16": BF16_DOT}.get(fmt, False):
        return []
    rows, columns = stream.dot_operands(fmt)
    return [
        Pattern(
            stream.dot_operations(threads, DOT_REPEATS, fmt),
            {"threads": threads, "variant": f"{stream.DOT_ROWS} x {stream.DOT_COLUMNS} tile"},
            lambda _: stream.dot(threads, DOT_REPEATS, rows, columns, fmt),
            partial(_check_dot, fmt, threads, rows, columns),
        )
    ]


def tile_patterns(fmt: str, threads: int) -> list[Pattern]:
    """Products on matrix tiles for bf16 and int8, if the processor has them."""
    if not {"bf16": AMX_BF16, "int8": AMX_INT8}.get(fmt, False):
        return []
    x, w = tile_peak.tile_operands(fmt)
    return [
        Pattern(
            tile_peak.tile_flops(fmt, threads, TILE_REPEATS),
            {"threads": threads, "variant": f"{tile_peak.TILES} x 1 matrix tiles"},
            lambda _: tile_peak.tile_product(fmt, threads, TILE_REPEATS, x, w),
            partial(_check_tile, fmt, threads, x, w),
        )
    ]


def _config(place: stream.Layout, variant: str, **more: Any) -> dict[str, Any]:
    return {
        "threads": place.threads,
        "streams": place.streams,
        "variant": variant,
        "window_bytes": place.window_bytes,
        "array_bytes": place.window_bytes * place.windows,
        "arrays": place.arrays,
        "rotation_bytes": place.rotation_bytes,
        **more,
    }


# The calls and their checks


def _read(values: stream.F32, place: stream.Layout, ahead: int, number: int) -> float:
    return stream.read(values, place, number % place.windows, ahead)


def _read_again(values: stream.F32, place: stream.Layout, repeats: int, number: int) -> float:
    return stream.read(values, place, 0, 0, repeats)


def _copy(values: stream.F32, place: stream.Layout, mode: str, number: int) -> None:
    stream.copy(values, place, number % place.windows, mode)


def _triad(values: stream.F32, place: stream.Layout, mode: str, number: int) -> None:
    stream.triad(values, place, number % place.windows, mode, 0.5)


def _check_read(values: stream.F32, place: stream.Layout, ahead: int) -> None:
    expected = sum(float(values[part].sum(dtype=np.float64)) for part in place.slices(0))
    _require(stream.read(values, place, 0, ahead, 2) == 2 * expected, "read", place.streams)


def _check_copy(values: stream.F32, place: stream.Layout, mode: str) -> None:
    stream.copy(values, place, 0, mode)
    pairs = zip(place.slices(0), place.slices(0, 1), strict=True)
    _require(all(np.array_equal(values[a], values[b]) for a, b in pairs), "copy", place.streams)


def _check_triad(values: stream.F32, place: stream.Layout, mode: str) -> None:
    stream.triad(values, place, 0, mode, 0.5)
    parts = zip(place.slices(0), place.slices(0, 1), place.slices(0, 2), strict=True)
    same = (np.array_equal(values[a] + np.float32(0.5) * values[b], values[c]) for a, b, c in parts)
    _require(all(same), "triad", place.streams)


def _check_fma(threads: int) -> None:
    expected = np.arange(stream.CHAINS * LANES, dtype=np.float64)
    for _ in range(20):
        expected = expected * 0.75 + 0.25
    sums = expected.reshape(stream.CHAINS, -1).sum(1)
    _require(np.allclose(stream.fma(threads, 20), sums, rtol=1e-5), "fma", threads)


def _check_tile(fmt: str, threads: int, x: Any, w: Any) -> None:
    if fmt == "int8":
        rows, columns = x.view(np.int8), w.view(np.int8)
    else:
        rows, columns = from_bf16(x.view(np.uint16)), from_bf16(w.view(np.uint16))
    together = 2 if fmt == "bf16" else 4
    depth = len(columns) // 16
    left = rows.reshape(tile_peak.TILES, 16, depth).astype(np.float64)
    right = columns.reshape(depth // together, 16, together).transpose(1, 0, 2).reshape(16, depth)
    expected = 3 * np.einsum("tmk,nk->tmn", left, right.astype(np.float64))
    _require(np.array_equal(tile_peak.tile_product(fmt, threads, 3, x, w)[-1], expected), "tile", threads)


def _check_dot(fmt: str, threads: int, rows: Any, columns: Any) -> None:
    left, right = (from_bf16(a) if fmt == "bf16" else a for a in (rows, columns))
    together = stream.TOGETHER[fmt]
    expected = np.einsum("srlq,cq->rc", left.astype(np.int64).reshape(*rows.shape[:2], -1, together), right)
    sums = stream.dot(threads, 1, rows, columns, fmt)
    _require(bool((sums == expected.ravel()).all()), f"{fmt} dot", threads)


def _require(right: bool, kernel: str, variant: int) -> None:
    if not right:
        raise CeilingError(f"the {kernel} kernel (variant {variant}) gives a wrong result on this machine")
