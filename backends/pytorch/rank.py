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
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membound.backends.pytorch.ranks import Begin, Failure, Fetch, Launch, Prepare, Reduce

if TYPE_CHECKING:
    import torch

    from membound.backends.pytorch.shared_step import SharedStep

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
        check_torch_threads("torch")
        distributed.init_process_group(
            "gloo",
            init_method=Path(begin.store).as_uri(),
            rank=begin.rank,
            world_size=begin.count,
            timeout=timedelta(seconds=begin.limit_s),
        )
        self._begin = begin
        self._decoder: SharedStep | None = None
        self._logits: torch.Tensor | None = None

    def do(self, command: Any) -> Any:
        """What is asked."""
        if isinstance(command, Launch):
            return self._launch()
        if isinstance(command, Prepare):
            return self._prepare(command)
        if isinstance(command, Reduce):
            return self._reduce(command)
        if isinstance(command, Fetch):
            return None if self._logits is None else self._logits.numpy()
        raise AssertionError(f"{type(command).__name__} is no command")

    def _prepare(self, command: Prepare) -> int:
        from membound.backends.pytorch.shared_step import SharedStep
        from membound.kernels.inputs import ModelInputs
        from membound.kernels.seeded import make_inputs
        from membound.kernels.split import rank_inputs
        from membound.kernels.work import parse

        self._decoder, self._logits = None, None
        inputs = make_inputs(
            parse(command.work), command.seed, folder=Path(command.folder) if command.folder else None
        )
        if not isinstance(inputs, ModelInputs):
            raise AssertionError(f"{type(inputs).__name__} is no ModelInputs")
        begin = self._begin
        self._decoder = SharedStep(
            rank_inputs(inputs, begin.rank, begin.count), begin.rank, begin.count, begin.threads
        )
        return self._decoder.stored_bytes

    def _launch(self) -> tuple[float, float]:
        if self._decoder is None:
            raise AssertionError("launch before prepare")
        start = time.perf_counter()
        self._logits = self._decoder.run()
        seconds, exchanging = time.perf_counter() - start, self._decoder.exchange_s
        return seconds - exchanging, exchanging

    def _reduce(self, command: Reduce) -> tuple[list[float], float]:
        import torch
        from torch import distributed

        values = torch.ones(max(1, command.bytes // 4))
        distributed.barrier()
        times: list[float] = []
        given = 0.0
        for number in range(command.times):
            start = time.perf_counter()
            distributed.all_reduce(values)
            times.append(time.perf_counter() - start)
            given = given if number else float(values[-1])
            values.fill_(1.0)
        return times, given


if __name__ == "__main__":
    main(sys.argv[1:])
