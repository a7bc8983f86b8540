"""What else is busy while a run measures: on each other device a process that reads memory as fast as it can.

>>> from membound.bench.run.execute import execute
>>> with companions(["node1", "mine:gpu:1"]):
...     rows = execute(plan, writer, progress)

    python -m membound.bench.run.companion node1         # until its standard input ends

A companion is a placement of CPUs, each of whose cores streams memory of its own, or a ``backend:device``, whose own co-runner
does. Workers are told that they have company (`COMPANY`), so that what it does is no disturbance.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, cast

from membound.backends import registry
from membound.backends.api import CoRunner
from membound.bench.ceilings.rotating import rotating_bytes
from membound.bench.machine.environment import COMPANY, worker_environment
from membound.bench.machine.fingerprint import default_threads, pick_cpus
from membound.bench.machine.placement import NAME, placed
from membound.bench.protocol import guardian
from membound.errors import MemboundError

READY = b"ready\n"
START_S = 180.0
"""How long one may take to compile its kernels and touch its memory."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class CompanionError(MemboundError, RuntimeError):
    """A companion could not be started; the message has its last words."""


_meant: list[str] = []
"""Others that somebody else keeps busy."""


@contextmanager
def meant_beside(names: str) -> Iterator[None]:
    """Let workers of this process know of company that it did not start: other suites of a fleet. '' is none."""
    before = list(_meant)
    _meant[:] = [names] if names else []
    try:
        yield
    finally:
        _meant[:] = before


@contextmanager
def companions(names: Sequence[str]) -> Iterator[None]:
    """Keep each of them busy until the block ends; without any, workers know of no company but that which is `meant_beside`.

    Raises CompanionError.
    """
    with ExitStack() as stack:
        started = [stack.enter_context(_companion(name)) for name in names]
        for name, (process, errors) in zip(names, started, strict=True):
            _await_ready(name, process, errors)
        before = os.environ.pop(COMPANY, None)
        if told := (*names, *_meant):
            os.environ[COMPANY] = ", ".join(told)
        try:
            yield
        finally:
            os.environ.pop(COMPANY, None)
            if before is not None:
                os.environ[COMPANY] = before


@contextmanager
def _companion(name: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "membound.bench.run.companion", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=worker_environment(1, os.environ) | {guardian.HARNESS: guardian.harness_mark()},
        )
        try:
            yield process, errors
        finally:
            process.kill()
            process.communicate()


def _await_ready(name: str, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    answers = cast(IO[bytes], process.stdout)
    if select.select([answers], [], [], START_S)[0] and answers.readline() == READY:
        return
    errors.seek(0)
    words = errors.read().decode(errors="backslashreplace").strip().splitlines()
    raise CompanionError(
        f"{name} cannot be kept busy: {words[-1][:200] if words else 'it did not get ready'}"
    )


# In the companion's own process


def main(arguments: Sequence[str]) -> int:
    """Be busy on the device of that name until standard input ends."""
    (name,) = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with ExitStack() as stack:
        busy: CoRunner
        if NAME.fullmatch(name):
            from membound.kernels.cpu.instruments.co_runner import CpuCoRunner

            stack.enter_context(placed(name))
            cpus = pick_cpus(default_threads())
            busy = stack.enter_context(CpuCoRunner(cpus, rotating_bytes(len(cpus))))
        else:
            backend = registry.create(name)
            stack.callback(backend.close)
            backend.open(registry.device_of(name), 1)
            busy = stack.enter_context(backend.co_runner())
        busy.work("bandwidth")
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        sys.stdin.buffer.read()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
