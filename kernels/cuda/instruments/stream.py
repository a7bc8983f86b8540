"""Read, copy and triad: what the memory of a GPU can do at most, the ceilings of every other kernel.

>>> launch = bind_copy(gpu, source, target, size_bytes=1 << 30, unroll=4)

Packets of sixteen bytes, a warp's next to each other; each thread has `unroll` of them in flight. The names
are STREAM's: copy b = a, triad a = b + s·c (https://www.cs.virginia.edu/stream/ref.html), on float32.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from membound.kernels.cuda.compile import WARP, Kernel, cuda
from membound.kernels.cuda.device.gpu import Gpu, Launch
from membound.kernels.cuda.ptx import as_f32, as_u32, load4, store4

PACKET_BYTES = 16
THREADS = 256
UNROLLS = (1, 2, 4, 8)
_ALL = 0xFFFFFFFF
_WARPS = THREADS // WARP


def bind_copy(gpu: Gpu, source: Any, target: Any, size_bytes: int, unroll: int = 4) -> Launch:
    """target = source."""
    packets = _packets(size_bytes)
    return gpu.bind(copy_kernel(unroll), _blocks(packets, unroll), (source, target, packets))


def bind_triad(gpu: Gpu, b: Any, c: Any, a: Any, factor: float, size_bytes: int, unroll: int = 2) -> Launch:
    """a = b + factor·c, each of `size_bytes`."""
    packets = _packets(size_bytes)
    return gpu.bind(triad_kernel(unroll), _blocks(packets, unroll), (b, c, a, factor, packets))


def bind_read(
    gpu: Gpu, source: Any, sums: Any, size_bytes: int, unroll: int = 4, blocks: int = 0, passes: int = 1
) -> Launch:
    """Read all of `source`, `passes` times; `sums` [read_sums(blocks)] gets one word a warp.

    The exclusive or of all is that of source if `passes` is odd. `blocks`: how many share the work; 0 for eight a
    multiprocessor, as many as fit it.
    """
    blocks = blocks or 8 * gpu.multiprocessors
    return gpu.bind(read_kernel(unroll), blocks, (source, sums, _packets(size_bytes), passes))


def read_sums(blocks: int) -> int:
    """Words that `bind_read` writes."""
    return blocks * _WARPS


def _packets(size_bytes: int) -> int:
    if size_bytes <= 0 or size_bytes % PACKET_BYTES:
        raise ValueError(f"{size_bytes} bytes are no positive multiple of {PACKET_BYTES}")
    return size_bytes // PACKET_BYTES


def _blocks(packets: int, unroll: int) -> int:
    return -(-packets // (THREADS * unroll))


@cache
def copy_kernel(unroll: int) -> Kernel:
    """A block copies THREADS · unroll packets."""
    words = 4 * unroll

    def copy(source: Any, target: Any, packets: Any) -> None:
        first = cuda.blockIdx.x * (THREADS * unroll) + cuda.threadIdx.x
        kept = cuda.local.array(words, np.uint32)
        if first + (unroll - 1) * THREADS < packets:
            for u in range(unroll):
                a, b, c, d = load4(source, 4 * (first + u * THREADS))
                kept[4 * u] = a
                kept[4 * u + 1] = b
                kept[4 * u + 2] = c
                kept[4 * u + 3] = d
            for u in range(unroll):
                to = 4 * (first + u * THREADS)
                store4(target, to, kept[4 * u], kept[4 * u + 1], kept[4 * u + 2], kept[4 * u + 3])
        else:
            packet = first
            while packet < packets:
                a, b, c, d = load4(source, 4 * packet)
                store4(target, 4 * packet, a, b, c, d)
                packet += THREADS

    return Kernel(f"stream_copy_u{unroll}", copy, ("u32*", "u32*", "i32"), THREADS)


@cache
def triad_kernel(unroll: int) -> Kernel:
    """A block computes THREADS · unroll packets."""
    words = 4 * unroll

    def triad(b: Any, c: Any, a: Any, factor: Any, packets: Any) -> None:
        first = cuda.blockIdx.x * (THREADS * unroll) + cuda.threadIdx.x
        sums = cuda.local.array(words, np.float32)
        if first + (unroll - 1) * THREADS < packets:
            for u in range(unroll):
                at = 4 * (first + u * THREADS)
                p, q, r, s = load4(b, at)
                w, x, y, z = load4(c, at)
                sums[4 * u] = as_f32(p) + factor * as_f32(w)
                sums[4 * u + 1] = as_f32(q) + factor * as_f32(x)
                sums[4 * u + 2] = as_f32(r) + factor * as_f32(y)
                sums[4 * u + 3] = as_f32(s) + factor * as_f32(z)
            for u in range(unroll):
                to, at = 4 * (first + u * THREADS), 4 * u
                store4(
                    a, to, as_u32(sums[at]), as_u32(sums[at + 1]), as_u32(sums[at + 2]), as_u32(sums[at + 3])
                )
        else:
            packet = first
            while packet < packets:
                p, q, r, s = load4(b, 4 * packet)
                w, x, y, z = load4(c, 4 * packet)
                store4(
                    a,
                    4 * packet,
                    as_u32(as_f32(p) + factor * as_f32(w)),
                    as_u32(as_f32(q) + factor * as_f32(x)),
                    as_u32(as_f32(r) + factor * as_f32(y)),
                    as_u32(as_f32(s) + factor * as_f32(z)),
                )
                packet += THREADS

    return Kernel(f"stream_triad_u{unroll}", triad, ("u32*", "u32*", "u32*", "f32", "i32"), THREADS)


@cache
def read_kernel(unroll: int) -> Kernel:
    """All blocks walk through the memory side by side, from its beginning in each pass.

    From pass to pass a block takes the place of its neighbour, which runs on another multiprocessor: what it read itself may
    still be in the first-level cache.
    """

    def read(source: Any, sums: Any, packets: Any, passes: Any) -> None:
        step = cuda.gridDim.x * THREADS
        total = np.uint32(0)
        left = passes
        while left > 0:
            packet = (cuda.blockIdx.x + left) % cuda.gridDim.x * THREADS + cuda.threadIdx.x
            while packet + (unroll - 1) * step < packets:
                for u in range(unroll):
                    a, b, c, d = load4(source, 4 * (packet + u * step))
                    total = np.uint32(total ^ a ^ b ^ c ^ d)
                packet += unroll * step
            while packet < packets:
                a, b, c, d = load4(source, 4 * packet)
                total = np.uint32(total ^ a ^ b ^ c ^ d)
                packet += step
            left = np.int32(left - 1)
        total = np.uint32(total ^ as_u32(cuda.shfl_xor_sync(_ALL, as_f32(total), 16)))
        total = np.uint32(total ^ as_u32(cuda.shfl_xor_sync(_ALL, as_f32(total), 8)))
        total = np.uint32(total ^ as_u32(cuda.shfl_xor_sync(_ALL, as_f32(total), 4)))
        total = np.uint32(total ^ as_u32(cuda.shfl_xor_sync(_ALL, as_f32(total), 2)))
        total = np.uint32(total ^ as_u32(cuda.shfl_xor_sync(_ALL, as_f32(total), 1)))
        if cuda.threadIdx.x % WARP == 0:
            sums[cuda.blockIdx.x * _WARPS + cuda.threadIdx.x // WARP] = total

    return Kernel(f"stream_read_u{unroll}", read, ("u32*", "u32*", "i32", "i32"), THREADS)
