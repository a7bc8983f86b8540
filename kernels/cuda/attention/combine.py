"""The parts of split attention put together: weighed means of [B, Hq, splits, D], one block a head.

    launch(combine_kernel(128), batch * q_heads, (parts, logs, out, splits))

A thread has four neighbouring columns; the threads of a block share the splits, each with several parts under way, so
that the time hardly depends on how many there are. The weights are those of Flash-Decoding (Dao et al., 2023).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from membound.kernels.cuda import ptx
from membound.kernels.cuda.attention.warp import LEAST
from membound.kernels.cuda.compile import WARP, Kernel, cuda
from membound.kernels.cuda.step.elementwise import warp_max, warp_sum

LEAST_THREADS = 256
_WIDTH = 4
_AT_ONCE = 4
"""Parts that a thread has under way."""


def threads_of(head_dim: int) -> int:
    """Threads of a block: several splits side by side even where one takes many threads."""
    return max(LEAST_THREADS, head_dim)


def rounds(head_dim: int, splits: int) -> int:
    """How often a thread waits for parts: what combining so many splits takes, in trips to memory."""
    side_by_side = threads_of(head_dim) * _WIDTH // head_dim
    return -(-splits // (side_by_side * _AT_ONCE))


@cache
def combine_kernel(head_dim: int) -> Kernel:
    """out [B, Hq, D] = the parts [B, Hq, splits, D], weighed by the denominators in logs [B, Hq, splits].

    A block a head: grid = B·Hq. Arguments: parts, logs, out, splits.
    """
    D, ACROSS, THREADS = head_dim, head_dim // _WIDTH, threads_of(head_dim)
    GROUPS = THREADS // ACROSS
    SPAN, SHARED = GROUPS * _AT_ONCE, THREADS * _WIDTH

    def combine(parts: Any, logs: Any, out: Any, splits: Any) -> None:
        sums = cuda.shared.array(SHARED, np.float32, 16)
        own = cuda.local.array(_WIDTH, np.float32)
        head, thread = np.int64(cuda.blockIdx.x), cuda.threadIdx.x
        group, column = thread // ACROSS, _WIDTH * (thread % ACROSS)
        top = LEAST
        i = np.int32(thread % WARP)
        while i < splits:
            top = max(top, logs[head * splits + i])
            i += WARP
        top = warp_max(top)
        denominator = np.float32(0)
        i = np.int32(thread % WARP)
        while i < splits:
            denominator += ptx.exp2_fast(logs[head * splits + i] - top)
            i += WARP
        denominator = warp_sum(denominator)
        for c in range(_WIDTH):
            own[c] = np.float32(0)
        first = np.int32(group)
        while first < splits:
            for u in range(_AT_ONCE):
                split = min(first + u * GROUPS, splits - 1)
                weight = ptx.exp2_fast(logs[head * splits + split] - top)
                if first + u * GROUPS >= splits:
                    weight = np.float32(0)
                a, b, c, d = ptx.load4(parts, (head * splits + split) * D + column)
                own[0] += weight * ptx.as_f32(a)
                own[1] += weight * ptx.as_f32(b)
                own[2] += weight * ptx.as_f32(c)
                own[3] += weight * ptx.as_f32(d)
            first += SPAN
        for c in range(_WIDTH):
            sums[group * D + column + c] = own[c]
        cuda.syncthreads()
        at = np.int32(thread)
        while at < D:
            mean = np.float32(0)
            for other in range(GROUPS):
                mean += sums[other * D + at]
            out[head * D + at] = mean / denominator
            at += THREADS

    return Kernel(f"combine_d{D}", combine, ("f32*", "f32*", "f32*", "i32"), THREADS, fastmath=True)
