"""Ranks that share a step, each a process: started, told what to do, and ended; every wait has a limit.

>>> ranks = Ranks(count=2, threads=1)
>>> ranks.ask(Reduce(4, times=3))
[[4.1e-05, …], [4.2e-05, …]]
>>> ranks.close()

Ranks carry the marks of the worker that starts them in their environment, die with it, and are of its process group. They meet
by a file in its temporary folder, and talk to each other over the loopback interface.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from membound.deadline import Deadline
from membound.errors import BackendUnavailable, ProcessEnded, ProcessSilent

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
FIRST_S = 240.0
"""How long ranks may take to start, to prepare and for a first step."""
TURN_S, LAUNCHES = 45.0, 20.0
"""How long a later step may take, and that many times the longest so far."""
CLOSE_S = 5.0
GRACE_S = 2.0
"""When one rank has failed, the others may have ended or hang: they are waited for so long, to name who is to blame."""
GLOO = "gloo"
"""By which ranks on processors talk."""
LATE = "imed out"
"""In gloo's message that another rank did not come to an exchange."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Join the others, who meet at `store` and talk by `link`, a name of torch.distributed. `limit_s`: how long an exchange may take."""

    rank: int
    count: int
    threads: int
    cpus: tuple[int, ...]
    device: str
    link: str
    store: str
    limit_s: float


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make the rank's part of a step."""

    work: str
    seed: int
    folder: str


@dataclass(frozen=True, slots=True)
class Launch:
    """A step. Answer: seconds without exchanges, and in them."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """The logits of the last step; None but from the first rank."""


@dataclass(frozen=True, slots=True)
class Reduce:
    """All-reduces of that many bytes of ones. Answer: seconds of each, and what the first one gave for a one."""

    bytes: int
    times: int


@dataclass(frozen=True, slots=True)
class NextLimit:
    """Make the next of a device's ceilings; a new series begins with the first. Answer: its name, amount, unit and config; None after the last."""

    series: int
    quick: bool


@dataclass(frozen=True, slots=True)
class RunLimit:
    """Drive the device to that ceiling `times` times, and wait for it."""

    series: int
    first: int
    times: int


@dataclass(frozen=True, slots=True)
class CheckLimit:
    """Whether what it gave is right."""

    series: int


class Ranks:
    """Processes, each of `threads` and, on accelerators, with a device of its own. Leaves none behind once it is closed."""

    def __init__(
        self,
        count: int,
        threads: int,
        first_s: float = FIRST_S,
        turn_s: float = TURN_S,
        python: str = "",
        devices: Sequence[str] = (),
        link: str = GLOO,
    ) -> None:
        self.count, self.threads = count, threads
        self._devices, self._link = devices, link
        self._first_s, self._turn_s, self._longest_s = first_s, turn_s, 0.0
        self._python = python or sys.executable
        self._processes: list[subprocess.Popen[bytes]] = []
        self._links: list[Connection] = []
        self._open = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def pids(self) -> list[int]:
        """Of the processes, in the order of their ranks."""
        return [process.pid for process in self._processes]

    def start(self) -> None:
        """Start them and have them meet. Raises BackendUnavailable, ProcessEnded, ProcessSilent."""
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        store = str(Path(self._folder.name) / "ranks")
        cpus = sorted(os.sched_getaffinity(0))
        try:
            for rank in range(self.count):
                if self._devices:
                    own, device = tuple(cpus), self._devices[rank]
                else:
                    own, device = tuple(cpus[rank * self.threads : (rank + 1) * self.threads]), "cpu"
                about = (rank, self.count, self.threads, own, device, self._link, store, self._turn_s)
                self._start_one(Begin(*about))
            self._open += 1
            self.collect(self._first_s)
        except BaseException:
            self.close()
            raise

    def _start_one(self, begin: Begin) -> None:
        here, there = Pipe()
        with there:
            variables = dict.fromkeys(THREAD_VARIABLES, str(self.threads)) | loopback()
            process = subprocess.Popen(
                [self._python, "-P", "-m", "membound.backends.pytorch.rank", str(there.fileno())],
                stdin=subprocess.DEVNULL,
                env=os.environ | variables,
                pass_fds=(there.fileno(),),
            )
        self._processes.append(process)
        self._links.append(here)
        here.send(begin)

    def post(self, command: Any) -> None:
        """Tell all ranks something. Raises ProcessEnded."""
        if not self._links:
            self.start()
        for rank, link in enumerate(self._links):
            try:
                link.send(command)
            except OSError:
                self._fail(self._ended(rank))
        self._open += 1

    def collect(self, limit_s: float = 0.0) -> list[Any]:
        """What all of them answer to the earliest command whose answer is due, within `limit_s` or what a step may take.

        Raises what a rank raised, ProcessEnded, ProcessSilent; the ranks have ended then.
        """
        if not self._open:
            raise AssertionError("nothing was asked")
        began, step = time.monotonic(), not limit_s
        if step:
            limit_s = self._turn_s + LAUNCHES * self._longest_s if self._longest_s else self._first_s
        deadline, failed = Deadline(limit_s), ""
        answers: dict[int, Any] = {}
        while waiting := [rank for rank in range(self.count) if rank not in answers]:
            ready = wait([self._links[rank] for rank in waiting], deadline.pause())
            if not ready and deadline.left() > 0:
                continue
            if not ready and failed and LATE not in failed:
                break
            if not ready:
                waited = time.monotonic() - began
                self._fail(ProcessSilent(f"{self._names(waiting)} gave no answer for {waited:.0f} s"))
            for rank in (rank for rank in waiting if self._links[rank] in ready):
                try:
                    answers[rank] = self._links[rank].recv()
                except (EOFError, OSError):
                    self._fail(self._ended(rank))
                if isinstance(answers[rank], Failure) and not failed:
                    failed, deadline = answers[rank].text, Deadline(min(deadline.left(), GRACE_S))
        for rank, answer in sorted(answers.items()):
            if isinstance(answer, Failure):
                self._fail(answer.raised(f"rank {rank} of {self.count}"))
        self._open -= 1
        if step:
            self._longest_s = max(self._longest_s, time.monotonic() - began)
        return [answers[rank] for rank in range(self.count)]

    def ask(self, command: Any) -> list[Any]:
        """Tell all ranks something and wait for what they answer, as long as a first step may take. Raises as `collect`."""
        self.post(command)
        while self._open > 1:
            self.collect()
        return self.collect(self._first_s)

    def sync(self) -> list[Any]:
        """The answers to the last command, once those to all earlier ones have come; [] if nothing is due."""
        last: list[Any] = []
        while self._open:
            last = self.collect()
        return last

    def close(self) -> None:
        """End them: those that do not end by themselves are killed."""
        for link in self._links:
            link.close()  # which ends a rank that waits for a command
        until = time.monotonic() + CLOSE_S
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        self._kill()
        self._links, self._processes, self._open = [], [], 0
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def _fail(self, error: Exception) -> NoReturn:
        self._kill()
        self.close()
        raise error

    def _names(self, ranks: Sequence[int]) -> str:
        named = ", ".join(str(rank) for rank in ranks)
        return f"rank{'s' * (len(ranks) > 1)} {named} of {self.count}"

    def _ended(self, rank: int) -> ProcessEnded:
        """How it ended."""
        process = self._processes[rank]
        try:
            status = process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return ProcessEnded(f"rank {rank} of {self.count} closed its pipe and goes on")
        how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        return ProcessEnded(f"rank {rank} of {self.count} ended: {how}")


@dataclass(frozen=True, slots=True)
class Failure:
    """What a rank answers if a command failed there: the class of the exception, and its text."""

    kind: str
    text: str

    def raised(self, who: str) -> Exception:
        """The exception as the worker raises it."""
        text = f"{who}: {self.text}"
        if self.kind == "MemoryError":
            return MemoryError(text)
        if self.kind == "BackendUnavailable":
            return BackendUnavailable(text)
        return RuntimeError(f"{who}: {self.kind}: {self.text}")


def loopback() -> dict[str, str]:
    """What has gloo and NCCL listen on the loopback interface alone. Raises BackendUnavailable if there is none."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if not names:
        raise BackendUnavailable("ranks talk over the loopback interface, and there is none")
    return dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), names[0])
