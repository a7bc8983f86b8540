"""A worker as the harness sees it: a process group that sends events and can be ended, whatever it does.

>>> with Worker({"job": "probe", "entry": "torch", "threads": 2}) as worker:
...     for event in worker.events(limit_s=lambda event: 60):
...         ...

The worker gets a session of its own, so that a hang is ended together with everything it started, and
so that Ctrl-C reaches the harness alone. Its standard error goes to a temporary file: a full pipe could
stall it, and the last line says why it died.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

Event = dict[str, Any]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
POLICY_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PROC_BIND", "OMP_PLACES")
"""Unset in workers: spinning and pinning set for something else would favour one runtime."""

SPIN_COUNT = 10_000
"""Turns that a waiting thread of GNU OpenMP spins before it sleeps, a fraction of a millisecond. By its own
choice it spins for several: where another process holds a core, the scheduler then keeps two threads of a
team on one core, and every parallel region takes a whole time slice (8 ms measured, against 35 µs)."""

PIPE_GRACE_S = 2.0
"""How long to read on after a worker's end if something of it still holds the pipe."""


class WorkerUnavailableError(Exception):
    """The interpreter could not be started, or could not run the worker module."""


class WorkerDiedError(Exception):
    """The worker ended before its job. The message names the signal or status and its last words."""


class WorkerTimeoutError(Exception):
    """The worker was silent for longer than its phase allows."""


def worker_environment(threads: int, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: one thread count for every pool, spinning kept short."""
    kept = {name: value for name, value in base.items() if name not in POLICY_VARIABLES}
    return kept | {name: str(threads) for name in THREAD_VARIABLES} | {"GOMP_SPINCOUNT": str(SPIN_COUNT)}


class Worker:
    """One worker process with one job. A context manager: leaving it ends the whole process group."""

    def __init__(self, job: Mapping[str, Any], python: str = sys.executable) -> None:
        self._job = job
        self._python = python
        self._events: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def __enter__(self) -> Worker:
        self._stderr = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                # -P: a file such as random.py in the current folder must not shadow a module
                [self._python, "-P", "-m", "membound.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=worker_environment(self._job["threads"], os.environ),
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise WorkerUnavailableError(f"{self._python} cannot be started: {error.strerror}") from None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._waiter = threading.Thread(target=self._wait, daemon=True)
        self._reader.start()
        self._waiter.start()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(json.dumps(self._job).encode() + b"\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._end_group()
        self._waiter.join()
        if not self._reader.is_alive():
            assert self._process.stdout is not None
            self._process.stdout.close()
        self._stderr.close()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    def events(self, limit_s: Callable[[Event], float]) -> Iterator[Event]:
        """The worker's events up to and without ``end``; `limit_s` gives how long to wait after each.

        Raises WorkerUnavailableError if it never spoke, WorkerDiedError if it ended early or said what is no event
        after its first, WorkerTimeoutError.
        """
        event: Event = {"event": "spawned"}
        while True:
            limit = limit_s(event)
            try:
                line = self._events.get(timeout=limit)
            except queue.Empty:
                raise WorkerTimeoutError(f"silent for {limit:.0f} s") from None
            if line is None:
                raise self._death(spoke=event["event"] != "spawned")
            found = _event(line)
            if found is not None:
                event = found
                if event["event"] == "end":
                    return
                yield event
            elif event["event"] != "spawned":  # before that, a wrapper of the interpreter may talk
                raise WorkerDiedError(f"it printed {line.strip()[:300]!r} where its events belong")

    def _read(self) -> None:
        """Hand whole lines over as they come."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):
                self._events.put(line.decode(errors="replace"))

    def _wait(self) -> None:
        """When the worker has ended, end what it left behind and say so, after its last line.

        A child that it forked may hold the pipe open, so the end of the pipe is not waited for in full.
        """
        self._process.wait()
        self._end_group()
        self._reader.join(timeout=PIPE_GRACE_S)
        self._events.put(None)

    def _end_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _death(self, spoke: bool) -> WorkerUnavailableError | WorkerDiedError:
        status = self._process.returncode
        words = self._last_words()
        if not spoke and status >= 0:
            silent = (
                f"exit status {status}"
                if status
                else "it ended without a word; is it a Python with membound?"
            )
            return WorkerUnavailableError(f"{self._python} cannot run a worker: {words or silent}")
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        if status == -signal.SIGKILL:
            how += " (killed from outside; most likely by the kernel because memory ran out)"
        return WorkerDiedError(f"{how}: {words}" if words else how)

    def _last_words(self) -> str:
        """The last line that the worker wrote to standard error."""
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - 4096))
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _event(line: str) -> Event | None:
    """The event that a line holds; None where it is something else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else None
