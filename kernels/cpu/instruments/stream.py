"""What this processor can do at most: read, copy and triad bandwidth, float32 FMAs, dot products of int8 and bfloat16.

>>> values = allocate(1 << 30, threads=2)
>>> place = arrange(values.size, threads=2, streams=8, window_bytes=64 << 20)
>>> read(values, place, window=0, ahead=0)                      # the sum of what was read
>>> place.window_bytes                                          # how many bytes that were

Each thread walks its own contiguous range, as `streams` far-apart streams: on some processors 8 streams
a thread read a quarter more than one does, and 16 another 4 %. Every kernel gives a result that follows from all
it did, so that nothing can be left out, and that a caller can check.

Bytes are counted as STREAM does (McCalpin, https://www.cs.virginia.edu/stream/ref.html): one array for a
read, two for a copy, three for a triad; lines that a store fetches before writing are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import prange

from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.simd.arithmetic import add_tiles, fma_chains, fma_tile
from membound.kernels.cpu.simd.dot_products import dot_bf16_broadcast, dot_u8_broadcast
from membound.kernels.cpu.simd.features import LANES, REGISTERS
from membound.kernels.cpu.simd.lanes import add_lanes
from membound.kernels.cpu.simd.loads import load_each, load_next, load_tile
from membound.kernels.cpu.simd.stores import store_each, store_tile
from membound.kernels.cpu.simd.streams import prefetch_each
from membound.kernels.cpu.simd.vectors import splat, zeros, zeros_i32
from membound.kernels.weights.formats import to_bf16

F32 = npt.NDArray[np.float32]

STREAMS = (1, 2, 4, 8, 16)
LINE = 16
"""float32 numbers in a cache line of 64 bytes."""
PAGE_LINES = 64
"""Lines in 4 KiB: addresses equal modulo this compete for the same L1 sets, and loads wait for stores."""
PREFETCH_FLOATS = (128, 256, 512)
"""512 to 2048 bytes ahead: 10 % more on an Intel Emerald Rapids, 5-25 % less on an AMD Milan; so all are tried."""
ARRAY_SHIFT = {1: 0, 2: 36, 3: 18}
"""Lines modulo a page from an array to the next, by the number of arrays: stores fall between loads."""
STREAM_SHIFT = 8
"""Lines modulo a page from a stream to the next."""

CHAINS = 3 * REGISTERS // 4
"""Independent FMAs: beyond latency 4 × 2 units, with registers left for the operands."""
DOT_ROWS, DOT_COLUMNS = (4, 4) if REGISTERS == 32 else (2, 3)
TOGETHER = {"int8": 4, "bf16": 2}
"""Numbers in a lane."""
DOT_STEPS = 64
"""Steps of distinct rows, 4 to 16 KiB: they stay in L1, and no product can be moved out of the loop."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each thread works in one shared array; all lengths in float32 numbers.

    Thread t owns [t·stride, (t+1)·stride). It holds `arrays` ranges `array_distance` apart, each cut into
    `windows` windows of `streams` streams of `distance` numbers.
    """

    threads: int
    streams: int
    stride: int
    distance: int
    windows: int
    arrays: int
    array_distance: int

    @property
    def window_bytes(self) -> int:
        """Bytes of one window over all threads, in one array."""
        return 4 * self.threads * self.streams * self.distance

    @property
    def rotation_bytes(self) -> int:
        """Bytes that are touched before a window comes again."""
        return self.window_bytes * self.windows * self.arrays

    def slices(self, window: int, array: int = 0) -> Iterator[slice]:
        """The part of the shared array that each thread has in a window."""
        length = self.streams * self.distance
        for thread in range(self.threads):
            start = thread * self.stride + array * self.array_distance + window * length
            yield slice(start, start + length)


def arrange(size: int, threads: int, streams: int, window_bytes: int, arrays: int = 1) -> Layout:
    """Share `size` float32 numbers out. Raises ValueError if not one window fits.

    Streams and arrays are kept off power-of-two distances, which would compete for the same cache sets.
    """
    stride = size // threads // LINE * LINE
    array_distance = _shift(stride // LINE // arrays, ARRAY_SHIFT[arrays], 1) * LINE
    distance = _shift(window_bytes // (4 * LINE * threads * streams), STREAM_SHIFT, 8) * LINE
    windows = array_distance // (streams * distance) if distance else 0
    if windows < 1:
        raise ValueError(f"{size} numbers hold no window of {window_bytes} bytes for {threads} threads")
    return Layout(threads, streams, stride, distance, windows, arrays, array_distance)


def _shift(lines: int, shift: int, multiple: int) -> int:
    """At most `lines`, equal to `shift` modulo a page where that is small beside it; a multiple of `multiple`."""
    if lines < 2 * PAGE_LINES or not shift:
        return lines // multiple * multiple
    return (lines - shift) // PAGE_LINES * PAGE_LINES + shift


def allocate(size_bytes: int, threads: int) -> F32:
    """float32 memory aligned to a line, written by the threads that will own it: whole numbers 0 to 15."""
    size = size_bytes // (4 * LINE) * LINE
    raw = np.empty(size + LINE, np.float32)
    start = -(raw.ctypes.data // 4) % LINE
    values = raw[start : start + size]
    numba.set_num_threads(threads)
    _fill(values, size // threads // LINE * LINE, threads)
    return values


@kernel(parallel=True)
def _fill(values: Any, stride: Any, threads: Any) -> None:
    for t in prange(threads):
        for i in range(t * stride, values.size if t == threads - 1 else (t + 1) * stride):
            values[i] = np.float32(((i * 2654435761) >> 28) & 15)


def read(values: F32, place: Layout, window: int, ahead: int, repeats: int = 1) -> float:
    """Read a window `repeats` times, prefetching `ahead` numbers ahead (0: not); the sum of all that was read.

    Exact for numbers from `allocate` while each of the 8·LANES partial sums a thread stays below 2^24.
    """
    sums = np.empty(place.threads * 8 * LANES, np.float32)
    numba.set_num_threads(place.threads)
    first = window * place.streams * place.distance
    read_kernel(place.streams, ahead)(
        values, place.stride, first, place.distance, repeats, sums, place.threads
    )
    return float(sums.sum(dtype=np.float64))


def copy(values: F32, place: Layout, window: int, mode: str) -> None:
    """Array 1 = array 0 in a window; mode "cached", or "streaming" for stores past the caches."""
    numba.set_num_threads(place.threads)
    first = window * place.streams * place.distance
    copy_kernel(place.streams, mode)(
        values, place.stride, first, place.distance, place.array_distance, place.threads
    )


def triad(values: F32, place: Layout, window: int, mode: str, factor: float) -> None:
    """Array 2 = array 0 + factor · array 1 in a window; modes as for `copy`."""
    numba.set_num_threads(place.threads)
    first = window * place.streams * place.distance
    triad_kernel(place.streams, mode)(
        values,
        place.stride,
        first,
        place.distance,
        place.array_distance,
        np.float32(factor),
        place.threads,
    )


def _offsets(streams: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Eight places a step, as (streams away, numbers away); and the numbers a stream advances a step.

    Fewer than eight streams take several neighbouring lines each, so that a step is always eight lines; of more,
    these are the first eight.
    """
    away = tuple(i % streams for i in range(8))
    along = tuple(i // streams * LINE for i in range(8))
    return away, along, max(1, 8 // streams) * LINE


@numba.njit(inline="always")
def _places(o: Any, distance: Any, away: Any, along: Any) -> Any:
    """Where the eight places of `_offsets` start, from number `o` on."""
    return (
        o + away[0] * distance + along[0],
        o + away[1] * distance + along[1],
        o + away[2] * distance + along[2],
        o + away[3] * distance + along[3],
        o + away[4] * distance + along[4],
        o + away[5] * distance + along[5],
        o + away[6] * distance + along[6],
        o + away[7] * distance + along[7],
    )


@cache
def read_kernel(streams: int, ahead: int) -> Any:
    """A kernel that sums windows of all threads, `streams` streams each: up to 8, or 16."""
    AWAY, ALONG, STEP = _offsets(streams)
    MORE = streams > 8

    @kernel(parallel=True)
    def stream_read(
        values: Any, stride: Any, first: Any, distance: Any, repeats: Any, sums: Any, threads: Any
    ) -> None:
        for t in prange(threads):
            acc = zeros(8)
            for r in range(repeats):
                # Always zero, which the compiler cannot know: it must load every line each time.
                nothing = r & (repeats >> 40)
                starts = _places(t * stride + first + nothing, distance, AWAY, ALONG)
                others = _places(t * stride + first + nothing + 8 * distance, distance, AWAY, ALONG)
                for i in range(0, distance, STEP):
                    if ahead:
                        prefetch_each(values, starts, i + ahead)
                    if ahead and MORE:
                        prefetch_each(values, others, i + ahead)
                    for j in range(i, i + LINE, LANES):
                        acc = add_tiles(acc, load_each(values, starts, j, "f32"))
                        if MORE:
                            acc = add_tiles(acc, load_each(values, others, j, "f32"))
            store_tile(sums, 8 * LANES * t, acc)

    return stream_read


@cache
def copy_kernel(streams: int, mode: str) -> Any:
    """A kernel that copies windows of all threads from array 0 to array 1."""
    AWAY, ALONG, STEP = _offsets(streams)

    @kernel(parallel=True)
    def stream_copy(values: Any, stride: Any, first: Any, distance: Any, apart: Any, threads: Any) -> None:
        for t in prange(threads):
            starts = _places(t * stride + first, distance, AWAY, ALONG)
            for i in range(0, distance, STEP):
                for j in range(i, i + LINE, LANES):
                    store_each(values, starts, j + apart, load_each(values, starts, j, "f32"), mode)

    return stream_copy


@cache
def triad_kernel(streams: int, mode: str) -> Any:
    """A kernel that sets array 2 to array 0 + factor · array 1 in windows of all threads."""
    AWAY, ALONG, STEP = _offsets(streams)

    @kernel(parallel=True)
    def stream_triad(
        values: Any, stride: Any, first: Any, distance: Any, apart: Any, factor: Any, threads: Any
    ) -> None:
        for t in prange(threads):
            starts = _places(t * stride + first, distance, AWAY, ALONG)
            for i in range(0, distance, STEP):
                for j in range(i, i + LINE, LANES):
                    b = load_each(values, starts, j, "f32")
                    c = load_each(values, starts, j + apart, "f32")
                    a = fma_tile(b, (splat(factor),), c)
                    store_each(values, starts, j + 2 * apart, a, mode)

    return stream_triad


def fma_flops(threads: int, iterations: int) -> int:
    """FLOPs of `fma`: a multiplication and an addition in every lane."""
    return 2 * threads * iterations * CHAINS * LANES


def fma(threads: int, iterations: int) -> npt.NDArray[np.float32]:
    """v = v·0.75 + 0.25, `iterations` times from 0, 1, 2, …; the sum [threads, CHAINS] over each vector."""
    starts = np.arange(CHAINS * LANES, dtype=np.float32)
    sums = np.empty((threads, CHAINS), np.float32)
    numba.set_num_threads(threads)
    _fma_kernel()(starts, np.float32(0.75), np.float32(0.25), iterations, sums)
    return sums


@cache
def _fma_kernel() -> Any:
    @kernel(parallel=True)
    def peak_fma(starts: Any, factor: Any, addend: Any, iterations: Any, sums: Any) -> None:
        for t in prange(sums.shape[0]):
            v = load_next(starts, 0, CHAINS, "f32")
            for _ in range(iterations):
                v = fma_chains(v, splat(factor), splat(addend))
            for i, total in enumerate(add_lanes(v)):
                sums[t, i] = total

    return peak_fma


def dot_operations(threads: int, repeats: int, fmt: str = "int8") -> int:
    """Operations of `dot`: a multiplication and an addition for each of the 4 int8 or 2 bfloat16 in every lane."""
    return 2 * threads * repeats * DOT_STEPS * DOT_ROWS * DOT_COLUMNS * LANES * TOGETHER[fmt]


def dot_operands(fmt: str = "int8") -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Rows [DOT_STEPS, DOT_ROWS, TOGETHER[fmt]·LANES] and columns [DOT_COLUMNS, TOGETHER[fmt]].

    int8: rows of 0..127 as uint8, columns of −127..127. bf16: whole numbers of −3..3, as the bits of bfloat16.
    """
    rng = np.random.default_rng(7)
    together = TOGETHER[fmt]
    rows, columns = (DOT_STEPS, DOT_ROWS, together * LANES), (DOT_COLUMNS, together)
    if fmt == "bf16":
        left, right = (rng.integers(-3, 4, shape).astype(np.float32) for shape in (rows, columns))
        return to_bf16(left), to_bf16(right)
    return rng.integers(0, 128, rows, np.uint8), rng.integers(-127, 128, columns, np.int8)


def dot(
    threads: int, repeats: int, rows: npt.NDArray[Any], columns: npt.NDArray[Any], fmt: str = "int8"
) -> npt.NDArray[Any]:
    """Σ rows · columns over all steps and lanes, `repeats` times: [threads, DOT_ROWS·DOT_COLUMNS].

    int32, modulo 2^32, for int8; float32 for bf16, which only processors with BF16_DOT can do.
    """
    sums = np.empty((threads, DOT_ROWS * DOT_COLUMNS), np.float32 if fmt == "bf16" else np.int32)
    numba.set_num_threads(threads)
    if fmt == "bf16":
        _bf16_dot_kernel()(rows.reshape(-1).view(np.int32), columns.reshape(-1).view(np.int32), repeats, sums)
    else:
        _dot_kernel()(rows.reshape(-1), columns.reshape(-1), repeats, sums)
    return sums


@cache
def _bf16_dot_kernel() -> Any:
    TILE = DOT_ROWS * DOT_COLUMNS
    STEP = DOT_ROWS * LANES

    @kernel(parallel=True)
    def peak_bf16_dot(rows: Any, columns: Any, repeats: Any, sums: Any) -> None:
        for t in prange(sums.shape[0]):
            acc = zeros(TILE)
            for _ in range(repeats):
                for i in range(0, rows.size, STEP):
                    acc = dot_bf16_broadcast(acc, load_tile(rows, i, zeros_i32(DOT_ROWS)), columns, 0)
            for i, total in enumerate(add_lanes(acc)):
                sums[t, i] = total

    return peak_bf16_dot


@cache
def _dot_kernel() -> Any:
    TILE = DOT_ROWS * DOT_COLUMNS
    STEP = DOT_ROWS * 4 * LANES

    @kernel(parallel=True)
    def peak_dot(rows: Any, columns: Any, repeats: Any, sums: Any) -> None:
        for t in prange(sums.shape[0]):
            acc = zeros_i32(TILE)
            for _ in range(repeats):
                for i in range(0, rows.size, STEP):
                    acc = dot_u8_broadcast(acc, load_tile(rows, i, zeros_i32(DOT_ROWS)), columns, 0)
            for i, total in enumerate(add_lanes(acc)):
                sums[t, i] = total

    return peak_dot
