"""Streams and peaks: what they move and compute is right on any geometry, and their loops keep to registers."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import numba
import numpy as np
import pytest

from membound.kernels.cpu.instruments import stream
from membound.kernels.cpu.simd.features import BF16_DOT, INSTRUCTION_SET, LANES, VNNI
from membound.kernels.weights.formats import from_bf16

OFTEN = [*product(stream.STREAMS, [0]), (8, stream.PREFETCH_FLOATS[0])]
"""Which reads plain pytest compiles: each number of streams, and one prefetch, which differ in a constant alone."""
PATTERNS = [
    pytest.param(*one, marks=[] if one in OFTEN else [pytest.mark.slow])
    for one in product(stream.STREAMS, (0, *stream.PREFETCH_FLOATS))
]


@pytest.fixture(scope="module")
def values() -> stream.F32:
    return stream.allocate((1 << 20) + 4 * 1234, threads=2)


def assembly_of(dispatcher: Any) -> str:
    """That of a kernel that has been called; one that was loaded has no text and is compiled anew."""
    try:
        return next(iter(dispatcher.inspect_asm().values()))
    except UserWarning:  # as pytest is told to raise: "inspection disabled for cached code"
        fresh = numba.njit(parallel=True)(dispatcher.py_func)
        fresh.compile(dispatcher.signatures[0])
        return next(iter(fresh.inspect_asm().values()))


def inner_loops(dispatcher: Any) -> list[str]:
    """Assembly of a kernel's loops of one basic block."""
    loops = []
    for block in re.split(r"^(?=\.L\w+:)", assembly_of(dispatcher), flags=re.M):
        label = block.partition(":")[0]
        jump = re.search(rf"^\s+j\w+\s+{re.escape(label)}$", block, re.M)
        if jump:
            loops.append(block[: jump.end()])
    return loops


def vector_loads(loop: str) -> int:
    """Operands of vector instructions that come from memory other than the stack."""
    return len(re.findall(r"^\s+v?(?:addps|movups|movdqu\w*)\s+[-\w]*\((?!%rsp)", loop, re.M))


def test_memory_is_aligned_and_holds_small_whole_numbers(values: stream.F32) -> None:
    assert values.ctypes.data % 64 == 0
    assert values.size == ((1 << 20) // 4 + 1234) // 16 * 16
    assert set(np.unique(values)) == set(range(16))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("arrays", [1, 2, 3])
def test_no_two_threads_arrays_or_windows_share_memory(threads: int, arrays: int) -> None:
    size = int(np.random.default_rng().integers(400_000, 600_000))
    for streams in stream.STREAMS:
        place = stream.arrange(size, threads, streams, 80_000, arrays)
        touched = np.zeros(size, np.uint8)
        for window, array in product(range(place.windows), range(arrays)):
            for part in place.slices(window, array):
                assert part.start % stream.LINE == 0
                assert 0 <= part.start < part.stop <= size
                touched[part] += 1
        assert touched.max() == 1
        assert 4 * touched.sum() == place.rotation_bytes
        assert place.window_bytes <= 80_000


def test_far_apart_streams_do_not_fall_on_the_same_cache_sets() -> None:
    place = stream.arrange(1 << 26, 2, 8, 1 << 24, arrays=3)
    page = stream.PAGE_LINES * stream.LINE
    reads = {(s * place.distance) % page for s in range(8)}
    assert len(reads) == 8
    assert reads.isdisjoint((r + 2 * place.array_distance) % page for r in reads)


def test_a_layout_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="hold no window of 1048576 bytes"):
        stream.arrange(1000, 2, 8, 1 << 20)
    with pytest.raises(ValueError, match="hold no window of 64 bytes"):
        stream.arrange(1 << 20, 2, 8, 64)


@pytest.mark.parametrize(("streams", "ahead"), PATTERNS)
def test_a_read_sums_exactly_its_window(values: stream.F32, streams: int, ahead: int) -> None:
    for threads in (1, 2):
        place = stream.arrange(values.size, threads, streams, 90_000)
        for window in (0, place.windows - 1):
            expected = sum(int(values[part].sum(dtype=np.float64)) for part in place.slices(window))
            assert stream.read(values, place, window, ahead, repeats=3) == 3 * expected


@pytest.mark.parametrize("mode", ["cached", "streaming"])
@pytest.mark.parametrize("streams", [1, 4])
def test_a_copy_fills_its_window_and_nothing_else(values: stream.F32, streams: int, mode: str) -> None:
    place = stream.arrange(values.size, 2, streams, 50_000, arrays=2)
    expected = values.copy()
    for source, target in zip(place.slices(1, 0), place.slices(1, 1), strict=True):
        expected[target] = expected[source]
    stream.copy(values, place, 1, mode)
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("mode", ["cached", "streaming"])
@pytest.mark.parametrize("streams", [1, 4])
def test_a_triad_fills_its_window_and_nothing_else(streams: int, mode: str) -> None:
    values = stream.allocate(1 << 19, threads=2)
    place = stream.arrange(values.size, 2, streams, 30_000, arrays=3)
    expected = values.copy()
    for b, c, a in zip(*(place.slices(2, i) for i in range(3)), strict=True):
        expected[a] = expected[b] + 3 * expected[c]
    stream.triad(values, place, 2, mode, 3.0)
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_fma_peak_computes_what_it_counts(threads: int) -> None:
    expected = np.arange(stream.CHAINS * LANES, dtype=np.float64)
    for _ in range(11):
        expected = expected * 0.75 + 0.25
    sums = np.tile(expected.reshape(stream.CHAINS, LANES).sum(1), (threads, 1))
    np.testing.assert_allclose(stream.fma(threads, 11), sums, rtol=1e-5)
    assert stream.fma_flops(threads, 11) == threads * 11 * expected.size * 2


@pytest.mark.parametrize("threads", [1, 2])
def test_the_dot_peak_computes_what_it_counts(threads: int) -> None:
    rows, columns = stream.dot_operands()
    expected = np.einsum(
        "srlq,cq->rc", rows.astype(np.int64).reshape(*rows.shape[:2], -1, 4), columns
    ).ravel()
    sums = stream.dot(threads, 3, rows, columns)
    np.testing.assert_array_equal(sums, np.tile(3 * expected, (threads, 1)))
    assert stream.dot_operations(threads, 3) == threads * 3 * 2 * rows.size * len(columns)


@pytest.mark.skipif(not BF16_DOT, reason="this processor, or instruction set, has no AVX512-BF16")
def test_the_peak_of_bfloat16_pairs_computes_what_it_counts() -> None:
    rows, columns = stream.dot_operands("bf16")
    left = from_bf16(rows).astype(np.int64).reshape(*rows.shape[:2], -1, 2)
    expected = np.einsum("srlq,cq->rc", left, from_bf16(columns)).ravel()
    np.testing.assert_array_equal(stream.dot(2, 3, rows, columns, "bf16"), np.tile(3 * expected, (2, 1)))
    assert stream.dot_operations(2, 3, "bf16") == 2 * 3 * 2 * rows.size * len(columns)
    dots = [loop for loop in inner_loops(stream._bf16_dot_kernel()) if "vdpbf16ps" in loop]
    assert dots
    assert all("(%rsp)" not in loop for loop in dots if "extract" not in loop)


@pytest.mark.skipif(INSTRUCTION_SET == "plain", reason="the registers counted are those of AVX2 and AVX-512")
@pytest.mark.parametrize(
    "ahead",
    [
        0,
        stream.PREFETCH_FLOATS[0],
        *(pytest.param(n, marks=pytest.mark.slow) for n in stream.PREFETCH_FLOATS[1:]),
    ],
)
def test_the_read_loop_keeps_to_registers(values: stream.F32, ahead: int) -> None:
    stream.read(values, stream.arrange(values.size, 2, 8, 90_000), 0, ahead)
    loops = [loop for loop in inner_loops(stream.read_kernel(8, ahead)) if vector_loads(loop) >= 8]
    assert loops
    for loop in loops:
        assert "(%rsp)" not in loop
        assert ("prefetcht0" in loop) == bool(ahead)
        assert loop.count("addps") == vector_loads(loop)


@pytest.mark.skipif(INSTRUCTION_SET == "plain", reason="the instructions looked for are AVX2's and AVX-512's")
def test_the_peaks_are_made_of_the_instruction_they_stand_for() -> None:
    stream.fma(1, 1)
    fmas = [loop for loop in inner_loops(stream._fma_kernel()) if "vfmadd" in loop]
    assert fmas
    assert all(loop.count("vfmadd") % stream.CHAINS == 0 and "(%rsp)" not in loop for loop in fmas)
    stream.dot(1, 1, *stream.dot_operands())
    name = "vpdpbusd" if VNNI else "vpmaddubsw"
    dots = [loop for loop in inner_loops(stream._dot_kernel()) if name in loop and "extract" not in loop]
    assert VNNI or INSTRUCTION_SET == "avx2"
    assert dots
    tile = stream.DOT_ROWS * stream.DOT_COLUMNS
    assert all(loop.count(name) % tile == 0 and "(%rsp)" not in loop for loop in dots)


@pytest.mark.skipif(INSTRUCTION_SET == "plain", reason="the instruction looked for is AVX's")
@pytest.mark.parametrize(("mode", "streaming"), [("cached", False), ("streaming", True)])
def test_streaming_stores_go_past_the_caches(values: stream.F32, mode: str, streaming: bool) -> None:
    stream.copy(values, stream.arrange(values.size, 2, 4, 50_000, arrays=2), 0, mode)
    loops = "".join(inner_loops(stream.copy_kernel(4, mode)))
    assert ("vmovntps" in loops) == streaming
    assert bool(re.search(r"vmovups\s+%[yz]mm\d+, [-\w]*\(", loops)) != streaming
