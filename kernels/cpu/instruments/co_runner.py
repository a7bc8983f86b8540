"""A co-runner that takes bandwidth or FLOPs from others, in a measured dose: processes on separate cores.

    with CpuCoRunner(cpus=[1], memory_bytes=1 << 30) as co_runner:
        co_runner.work("bandwidth", duty=0.5)                 # returns when every process does so
        before = co_runner.taken()
        ...                                                   # the victim runs
        after = co_runner.taken()                             # bytes read and FLOPs done so far
        co_runner.rest()

Three trades: ``bandwidth`` streams its own memory as the read ceiling does, ``fma`` multiplies in registers
as the peak does, ``idle`` counts integers with neither memory nor vectors. For the rest of its core's time
it does what ``idle`` does, so that every dose keeps the core equally awake and clocked. What it took is
counted, not assumed: one that its victim slows down takes less.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.instruments import stream

TRADES = ("rest", "idle", "bandwidth", "fma", "stop")
"""What a co-runner can be asked to do; resting, it sleeps."""
PERIOD_S = 1e-3
"""A duty cycle: several in each of a victim's bursts, each long beside a chunk."""
WINDOW_BYTES = 256 << 10
FMA_ITERATIONS = 4_000
SPINS = 2_000
"""Chunks of some ten microseconds, so that counts are fresh and duties kept."""
STREAMS = 4
NAP_S = 5e-4
ANSWER_S = 60.0
"""How long to wait for an answer: a co-runner may have to compile its kernels first."""
ORDER, DUTY, NUMBER, ANSWER, BYTES, FLOPS, FIELDS = range(7)
"""Shared words of eight bytes: trade, duty in thousandths, number of the order; the answer and the counts."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
Words = npt.NDArray[np.int64]


class CoRunnerError(RuntimeError):
    """A co-runner ended or does not answer."""


class CpuCoRunner:
    """Processes of one trade at a time, one pinned to each of `cpus`, each with a share of `memory_bytes`.

    A context manager: entering starts them at rest, leaving ends them. Raises CoRunnerError, ValueError.
    """

    def __init__(self, cpus: Sequence[int], memory_bytes: int) -> None:
        if not cpus:
            raise ValueError("a co-runner needs a CPU of its own")
        self._cpus = list(cpus)
        self._memory_bytes = memory_bytes // len(self._cpus)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._words: list[Words] = []

    def __enter__(self) -> CpuCoRunner:
        try:
            for cpu in self._cpus:
                self._start(cpu)
            self.rest()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def work(self, trade: str, duty: float = 1.0) -> None:
        """Do that for a share `duty` (0 to 1) of the core; returns when every process has begun."""
        if trade not in TRADES[:-1] or not 0 <= duty <= 1:
            raise ValueError(f"trade {trade!r} with duty {duty} is none of {', '.join(TRADES[:-1])}, 0 to 1")
        for words in self._words:
            words[DUTY] = round(1000 * duty)
            words[ORDER] = TRADES.index(trade)
            words[NUMBER] += 1
        for process, words in zip(self._processes, self._words, strict=True):
            _await_answer(process, words)

    def rest(self) -> None:
        """Sleep."""
        self.work("rest")

    def taken(self) -> tuple[int, int]:
        """Bytes read and FLOPs done by all processes since they started."""
        return sum(int(w[BYTES]) for w in self._words), sum(int(w[FLOPS]) for w in self._words)

    def _start(self, cpu: int) -> None:
        with tempfile.TemporaryFile() as file:
            file.truncate(8 * FIELDS)
            self._words.append(_shared(file.fileno()))
            arguments = [str(n) for n in (file.fileno(), cpu, self._memory_bytes, os.getpid())]
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "membound.kernels.cpu.instruments.co_runner", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[file.fileno()],
                )
            )

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def _shared(descriptor: int) -> Words:
    """The words that a co-runner and its master both see."""
    return np.frombuffer(mmap.mmap(descriptor, 8 * FIELDS), np.int64)


def _await_answer(process: subprocess.Popen[bytes], words: Words) -> None:
    deadline = time.monotonic() + ANSWER_S
    while words[ANSWER] != words[NUMBER]:
        if process.poll() is not None:
            raise CoRunnerError(f"the co-runner ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise CoRunnerError(f"the co-runner did not answer within {ANSWER_S:.0f} s")
        time.sleep(NAP_S)


# In the co-runner's own process


def serve(words: Words, memory_bytes: int, alive: Callable[[], bool]) -> None:
    """Do what `words` says until it says stop, or until `alive` is no longer true."""
    values = stream.allocate(max(memory_bytes, 2 * WINDOW_BYTES), 1)
    place = stream.arrange(values.size, 1, STREAMS, WINDOW_BYTES)
    window = 0
    _spin(1)
    stream.read(values, place, 0, 0)
    stream.fma(1, 1)
    while alive():
        trade, duty = TRADES[words[ORDER]], float(words[DUTY]) / 1000
        words[ANSWER] = words[NUMBER]
        if trade == "stop":
            return
        if trade == "rest":
            time.sleep(NAP_S)
            continue
        start = time.perf_counter()
        while trade != "idle" and time.perf_counter() < start + duty * PERIOD_S:
            if trade == "bandwidth":
                stream.read(values, place, window, 0)
                window = (window + 1) % place.windows
                words[BYTES] += place.window_bytes
            else:
                stream.fma(1, FMA_ITERATIONS)
                words[FLOPS] += stream.fma_flops(1, FMA_ITERATIONS)
        while time.perf_counter() < start + PERIOD_S:
            _spin(SPINS)


@kernel()
def _spin(count: Any) -> Any:
    """Steps of a linear congruential generator, each waiting for the one before: no memory, no vectors."""
    state = np.uint64(count)
    for _ in range(count):
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
    return state


def main() -> None:
    """A co-runner: descriptor of the shared words, CPU, bytes of memory, process id of its master."""
    descriptor, cpu, memory_bytes, master = map(int, sys.argv[1:])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.sched_setaffinity(0, {cpu})
    serve(_shared(descriptor), memory_bytes, lambda: os.getppid() == master)


if __name__ == "__main__":
    main()
