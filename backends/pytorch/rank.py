"""One rank of a step that several share, a process of its own: `python -m membound.backends.pytorch.rank FD`, which `Ranks` starts.

It holds its part of the model as a decoder of torch's, in which o and down add up what all ranks have, and the first rank
gathers the logits. Commands and answers come and go through the pipe FD, which ends it when it is closed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membound.backends.pytorch.ranks import (
    Begin,
    CheckLimit,
    Failure,
    Fetch,
    Launch,
    NextLimit,
    Prepare,
    Reduce,
    RunLimit,
)

if TYPE_CHECKING:
    import torch

    from membound.backends.api import Limit
    from membound.backends.pytorch.shared_step import SharedStep
    from membound.backends.pytorch.stopwatch import Stopwatch

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
LONGEST = 500


def main(arguments: list[str]) -> None:
    """Serve one conversation."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    link = Connection(int(arguments[0]))
    rank: Any = None
    while True:
        try:
            command = link.recv()
        except (EOFError, OSError):
            os._exit(0)  # without torch's destructors, which wait for ranks that may have gone already
        answer: Any
        try:
            if isinstance(command, Begin):
                rank = _Rank(command)
                answer = None
            else:
                answer = rank.do(command)
        except Exception as error:  # the boundary around a runtime, which raises classes of its own
            kind = "MemoryError" if "OutOfMemory" in type(error).__name__ else type(error).__name__
            answer = Failure(kind, (str(error).strip().splitlines() or [""])[0][:LONGEST])
        link.send(answer)


class _Rank:
    """The rank's part, and the group that it is of."""

    def __init__(self, begin: Begin) -> None:
        os.sched_setaffinity(0, begin.cpus)
        import torch
        from torch import distributed

        from membound.backends.running_threads import check_torch_threads

        torch.set_num_threads(begin.threads)
        self._begin = begin
        if self._on_cpu:
            check_torch_threads("torch")
        else:
            torch.accelerator.set_device_index(torch.device(begin.device).index)
        distributed.init_process_group(
            begin.link,
            init_method=Path(begin.store).as_uri(),
            rank=begin.rank,
            world_size=begin.count,
            timeout=timedelta(seconds=begin.limit_s),
        )
        self._exchanging = self._stopwatch()
        self._decoder: SharedStep | None = None
        self._logits: torch.Tensor | None = None
        self._limits: dict[int, Iterator[Limit]] = {}
        self._made: dict[int, Limit] = {}

    @property
    def _on_cpu(self) -> bool:
        return self._begin.device == "cpu"

    def _stopwatch(self) -> Stopwatch:
        from membound.backends.pytorch.stopwatch import device_stopwatch, host_stopwatch

        return host_stopwatch() if self._on_cpu else device_stopwatch(self._begin.device)

    def _wait(self) -> None:
        """For the accelerator; the CPU is done already."""
        if not self._on_cpu:
            import torch

            torch.accelerator.synchronize()

    def do(self, command: Any) -> Any:
        """What is asked."""
        if isinstance(command, Launch):
            return self._launch()
        if isinstance(command, Prepare):
            return self._prepare(command)
        if isinstance(command, Reduce):
            return self._reduce(command)
        if isinstance(command, Fetch):
            return None if self._logits is None else self._logits.cpu().numpy()
        if isinstance(command, NextLimit):
            return self._next_limit(command)
        if isinstance(command, RunLimit):
            return self._run_limit(command)
        if isinstance(command, CheckLimit):
            return self._made[command.series].check()
        raise AssertionError(f"{type(command).__name__} is no command")

    def _prepare(self, command: Prepare) -> int:
        from membound.backends.pytorch.shared_step import SharedStep
        from membound.kernels.inputs import ModelInputs
        from membound.kernels.seeded import make_inputs
        from membound.kernels.split import rank_inputs
        from membound.kernels.work import parse

        self._decoder, self._logits = None, None
        self._made.clear()
        self._limits.clear()
        inputs = make_inputs(
            parse(command.work), command.seed, folder=Path(command.folder) if command.folder else None
        )
        if not isinstance(inputs, ModelInputs):
            raise AssertionError(f"{type(inputs).__name__} is no ModelInputs")
        begin = self._begin
        part = rank_inputs(inputs, begin.rank, begin.count)
        about = (begin.rank, begin.count, begin.threads, begin.device, self._exchanging)
        self._decoder = SharedStep(part, *about)
        return self._decoder.stored_bytes

    def _launch(self) -> tuple[float, float]:
        if self._decoder is None:
            raise AssertionError("launch before prepare")
        start = time.perf_counter()
        self._logits = self._decoder.run()
        self._wait()
        seconds, exchanging = time.perf_counter() - start, self._exchanging.seconds()
        return seconds - exchanging, exchanging

    def _reduce(self, command: Reduce) -> tuple[list[float], float]:
        import torch
        from torch import distributed

        values = torch.ones(max(1, command.bytes // 4), device=self._begin.device)
        together = torch.zeros(1, device=self._begin.device)
        distributed.all_reduce(together)  # whoever comes early waits here
        self._wait()
        times: list[float] = []
        given = 0.0
        for number in range(command.times):
            stopwatch = self._stopwatch()
            with stopwatch:
                distributed.all_reduce(values)
            self._wait()
            times.append(stopwatch.seconds())
            given = given if number else float(values[-1])
            values.fill_(1.0)
        return times, given

    def _next_limit(self, command: NextLimit) -> tuple[str, float, str, dict[str, Any]] | None:
        """Of the accelerator: all ranks make the same ones in the same order."""
        from membound.backends.pytorch.device import describe
        from membound.backends.pytorch.limits import limits, products

        device, series = self._begin.device, command.series
        if series not in self._limits:
            facts = describe(device)
            self._limits[series] = chain(
                limits(device, facts, command.quick), products(device, command.quick)
            )
        self._made.pop(series, None)  # its tensors are freed before the next one's are made
        limit = next(self._limits[series], None)
        if limit is None:
            del self._limits[series]
            return None
        self._made[series] = limit
        return limit.name, limit.amount, limit.unit, limit.config

    def _run_limit(self, command: RunLimit) -> None:
        for number in range(command.first, command.first + command.times):
            self._made[command.series].launch(number)
        self._wait()


if __name__ == "__main__":
    main(sys.argv[1:])
