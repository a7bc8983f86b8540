"""A co-runner on a share of a GPU's multiprocessors that takes bandwidth or FLOPs from others, in a measured dose.

    with GpuCoRunner(open_gpu(0), memory_bytes=256 << 20) as co_runner:  # a GPU object, so a stream, of its own
        co_runner.work("bandwidth", duty=0.5)                         # returns when every block has begun
        before = co_runner.taken()
        ...                                                           # the victim runs in its own stream
        after = co_runner.taken()                                     # bytes read and FLOPs done so far
        co_runner.rest()

Three trades: ``bandwidth`` streams its own memory, ``fma`` multiplies in registers, ``idle`` sleeps. `duty` is
the share of the multiprocessors that get a block of half the threads that fit one; the victim has the others, and
what is left of these. So ``idle`` at the same duty is the control: it holds as many threads and takes nothing.
Blocks count their chunks in memory of the host, and look there for the word to end; whatever happens, they
end by themselves after LIMIT_US, and a co-runner that did is an error, not a dose.
"""

from __future__ import annotations

import time
from functools import cache
from types import TracebackType
from typing import Any

import numpy as np

from membound.kernels.cuda.compile import Kernel, cuda
from membound.kernels.cuda.device.gpu import Gpu, GpuError
from membound.kernels.cuda.instruments.chains import CHAINS, ROUND, begin, constants, nothing_of, spinner
from membound.kernels.cuda.ptx import as_u32, load4, load_host, microseconds, store_host

TRADES = ("idle", "bandwidth", "fma")
THREADS = 1024
"""One block leaves room for as many threads of the victim (2048 a multiprocessor)."""
LIMIT_US = 2_000_000
"""Far longer than a victim's burst, and short enough to wait for."""
ANSWER_S = 10.0
"""How long to wait until all blocks have begun."""
CHUNK_BYTES = 1 << 20
DOSE = 64
"""A chunk takes a multiprocessor some ten microseconds: many of what asking the host takes."""
SLEEP_NS = 20_000
UNROLL = 4
STOP, FIRST = 0, 1
"""Words of the host: the word to end, then each block's chunks, then for each whether it has ended."""


@cache
def co_runner_kernel(trade: str, threads: int = THREADS) -> Kernel:
    """A block does chunks of its trade until it is told to end, or for limit_us.

    Arguments: words, of the host, 1 + 2 · blocks; source, `packets` of sixteen bytes, a multiple of `chunk`; sums, a
    word a thread; numbers, `constants(dose)`; packets; chunk, in packets; limit_us.
    """
    READS, MULTIPLIES, SLEEPS = (trade == name for name in ("bandwidth", "fma", "idle"))
    SPAN, spin, THREAD_COUNT = threads * UNROLL, spinner(ROUND), threads

    def work(
        words: Any, source: Any, sums: Any, numbers: Any, packets: Any, chunk: Any, limit_us: Any
    ) -> None:
        told = cuda.shared.array(1, np.uint32)
        chains = cuda.local.array(CHAINS, np.float32)
        half, nothing, dose = begin(numbers, chains)
        block, thread = cuda.blockIdx.x, cuda.threadIdx.x
        start, done, total = np.uint32(0), np.uint32(0), np.uint32(0)
        if thread == 0:
            start = microseconds()
        first, going = np.int64(block) * chunk, True
        while going:
            if READS:
                packet = first + thread
                while packet + (UNROLL - 1) * THREAD_COUNT < first + chunk:
                    for u in range(UNROLL):
                        a, b, c, d = load4(source, 4 * (packet + u * THREAD_COUNT))
                        total = np.uint32(total ^ a ^ b ^ c ^ d)
                    packet += SPAN
                first = (first + cuda.gridDim.x * chunk) % packets
            if MULTIPLIES:
                spin(chains, half, dose)
            if SLEEPS:
                cuda.nanosleep(np.uint32(SLEEP_NS))
            cuda.syncthreads()  # all have done the chunk that is counted
            if thread == 0:
                done = np.uint32(done + np.uint32(1))
                store_host(words, FIRST + block, done)
                told[0] = load_host(words, STOP)
                if np.uint32(microseconds() - start) >= limit_us:
                    told[0] = np.uint32(1)
            cuda.syncthreads()
            going = told[0] == np.uint32(0)
        if thread == 0:
            store_host(words, FIRST + cuda.gridDim.x + block, np.uint32(1))
        sums[block * THREAD_COUNT + thread] = np.uint32(total ^ as_u32(nothing_of(chains, nothing)))

    parameters = ("u32*", "u32*", "u32*", "f32*", "i32", "i32", "u32")
    return Kernel(f"co_runner_{trade}_t{threads}", work, parameters, threads)


class GpuCoRunner:
    """One trade at a time on a share of the multiprocessors of `gpu`, which must have a stream of its own.

    Streams `memory_bytes`, rounded up to whole chunks; `threads` a block, `chunk_bytes` and `dose` make a chunk.
    A context manager: entering takes the memory, leaving ends it. Raises GpuError, ValueError.
    """

    def __init__(
        self,
        gpu: Gpu,
        memory_bytes: int,
        threads: int = THREADS,
        chunk_bytes: int = CHUNK_BYTES,
        dose: int = DOSE,
        limit_us: int = LIMIT_US,
    ) -> None:
        if chunk_bytes % (16 * threads * UNROLL):
            raise ValueError(
                f"chunk_bytes={chunk_bytes} is no multiple of what {threads} threads load at once"
            )
        self._gpu, self._threads, self._limit_us, self._dose = gpu, threads, limit_us, dose
        chunks = max(gpu.multiprocessors, -(-memory_bytes // chunk_bytes))
        self._sizes = (chunks * chunk_bytes // 16, chunk_bytes // 16)
        self._each = {
            "idle": (0, 0),
            "bandwidth": (chunk_bytes, 0),
            "fma": (0, 2 * ROUND * dose * threads),
        }
        self._trade, self._blocks, self._taken = "", 0, (0, 0)

    def _allocate(self) -> None:
        """Take the memory that it works on: not before it is entered, as whoever only asks for one gives none back."""
        gpu, blocks = self._gpu, self._gpu.multiprocessors
        rng = np.random.default_rng(1)
        self._source = gpu.array(rng.integers(0, 1 << 32, 4 * self._sizes[0], np.uint32))
        self._sums = gpu.zeros(blocks * self._threads, np.uint32)
        self._numbers = gpu.array(constants(self._dose))
        self._words = gpu.shared(FIRST + 2 * blocks)

    def __enter__(self) -> GpuCoRunner:
        try:
            self._allocate()
            for trade in TRADES:  # code is loaded before anybody is timed
                self.work(trade, 1 / self._gpu.multiprocessors)
            self.rest()
        except BaseException:
            self._gpu.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rest()
        self._gpu.close()

    def work(self, trade: str, duty: float = 1.0) -> None:
        """Do that on a share `duty` (above 0, to 1) of the multiprocessors; returns when every block has begun."""
        if trade not in TRADES or not 0 < duty <= 1:
            raise ValueError(
                f"trade {trade!r} with duty {duty} is none of {', '.join(TRADES)}, above 0 and to 1"
            )
        self.rest()
        self._blocks = max(1, round(duty * self._gpu.multiprocessors))
        self._trade = trade
        kernel = co_runner_kernel(trade, self._threads)
        arguments = (self._words, self._source, self._sums, self._numbers, *self._sizes, self._limit_us)
        self._gpu.bind(kernel, self._blocks, arguments).start()
        deadline = time.monotonic() + ANSWER_S
        while not self._counts().all():
            if time.monotonic() > deadline:
                self.rest()
                raise GpuError(f"the co-runner did not begin within {ANSWER_S:.0f} s")

    def rest(self) -> None:
        """End what runs, and wait for it; what it has taken stays counted."""
        words = self._words.values
        words[STOP] = 1
        self._gpu.synchronize()
        self._taken, self._trade = self._so_far(), ""
        words[:] = 0

    def taken(self) -> tuple[int, int]:
        """Bytes read and FLOPs done since it was made. Raises GpuError if it ended before it was asked to."""
        ended = self._words.values[FIRST + self._blocks : FIRST + 2 * self._blocks]
        if self._trade and ended.any():
            raise GpuError(f"the co-runner ended by itself after {self._limit_us / 1e6} s, before its victim")
        return self._so_far()

    def _counts(self) -> Any:
        """Chunks of each block that works."""
        return self._words.values[FIRST : FIRST + self._blocks].copy()

    def _so_far(self) -> tuple[int, int]:
        if not self._trade:
            return self._taken
        chunks = int(self._counts().sum(dtype=np.int64))
        read, flops = self._each[self._trade]
        return self._taken[0] + chunks * read, self._taken[1] + chunks * flops
