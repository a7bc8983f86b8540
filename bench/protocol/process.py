"""A worker process as the harness sees it: started, asked, and ended with all that it started itself.

>>> from membound.bench.protocol.messages import Open
>>> with Worker(threads=2) as worker:
...     worker.greet()
...     worker.ask(Open("mine:cpu", seed=1, memory_bytes=1 << 30, reference_dir="references"), limit_s=300)
Opened(device='my processor', ...)

Every wait has a limit. A worker that dies, hangs, floods the pipe or answers out of turn is an error here and
never one of the harness; its last line on standard error says why it died.
"""

from __future__ import annotations

import os
import queue
import resource
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, cast

from membound.bench.machine.environment import worker_environment
from membound.bench.protocol import guardian
from membound.bench.protocol.messages import (
    ANSWERS,
    MOST_LINE,
    PROTOCOL,
    Answer,
    Close,
    Command,
    Hello,
    Phase,
    ProtocolError,
    decode,
    encode,
)
from membound.kernels.cpu.kernel_cache import runtime_caches, unkept_base
from membound.results.fields import read_json

PIPE_GRACE_S = 2.0
"""How long to read on after a worker's end if something of it still holds the pipe."""
START_S = 120.0
"""How long an interpreter may take to import the worker module: it is slow from a cold network drive."""
CLOSE_S = 10.0
OVERSLEPT_S = 0.5
"""A wait that ended this much too late tells that this process was stopped."""
MOST_WAITING = 2 * MOST_LINE
"""Bytes of memory that lines may take until they are asked for."""
MOST_PHASES = 100_000
KILLED = "killed from outside; most likely by the kernel because memory ran out"
NO_CPU_TIME = "all of the CPU time that it may take, see `ulimit -t`, was spent"
ALMOST = 0.9
"""The kernel ends a process by ticks of its clock, and tells afterwards what it really ran."""


class WorkerUnavailableError(Exception):
    """The interpreter could not be started, or could not run the worker module."""


class WorkerDiedError(Exception):
    """The worker ended before its job. The message names the signal or status and its last words."""


class WorkerTimeoutError(Exception):
    """The worker was silent for longer than its phase allows."""


class Worker:
    """One worker process and the conversation with it. A context manager: leaving it ends all that the worker started."""

    def __init__(self, threads: int, python: str = sys.executable) -> None:
        self._threads, self._python = threads, python
        self._mark = secrets.token_hex(16)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._waiting_bytes, self._counting = 0, threading.Lock()
        self._flooded = False
        self._number, self._spent_s = 0, 0.0
        self._unanswered: set[int] = set()

    def __enter__(self) -> Worker:
        caches = runtime_caches()
        if (unkept := unkept_base()) is not None:
            guardian.remove_in_the_end(unkept)
        self._scratch = tempfile.TemporaryDirectory(dir=guardian.scratch_folder(), ignore_cleanup_errors=True)
        self._stderr = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                # -P: a file such as random.py in the current folder must not shadow a module
                [self._python, "-P", "-m", "membound.bench.worker", str(self._threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=worker_environment(self._threads, os.environ)
                | caches
                | {guardian.HARNESS: guardian.harness_mark(), guardian.WORKER: self._mark}
                | {"TMPDIR": self._scratch.name},  # what a killed worker left there is removed for it
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            self._scratch.cleanup()
            raise WorkerUnavailableError(f"{self._python} cannot be started: {error.strerror}") from None
        os.set_blocking(self._commands.fileno(), False)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._waiter = threading.Thread(target=self._wait, daemon=True)
        self._reader.start()
        self._waiter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._end_group()
        self._waiter.join()
        with suppress(OSError):
            self._commands.close()
        if not self._reader.is_alive():
            self._answers.close()
        self._stderr.close()
        self._scratch.cleanup()

    @property
    def _commands(self) -> IO[bytes]:
        """The pipe to the worker."""
        return cast(IO[bytes], self._process.stdin)

    @property
    def _answers(self) -> IO[bytes]:
        """The pipe from it."""
        return cast(IO[bytes], self._process.stdout)

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    def greet(self, limit_s: float = START_S) -> None:
        """Wait until the worker has started, `limit_s` in all: a wrapper of the interpreter may talk first.

        Raises as `ask`, and WorkerUnavailableError if it speaks another membound, or never any.
        """
        end = time.monotonic() + limit_s
        try:
            while (protocol := _protocol_of(self._next(end - time.monotonic(), spoke=False))) is None:
                pass
        except WorkerTimeoutError:
            raise WorkerTimeoutError(f"no word of membound for {limit_s:.0f} s") from None
        if protocol != PROTOCOL:
            raise WorkerUnavailableError(
                f"the membound of {self._python} speaks protocol {protocol}, this one {PROTOCOL}: install this version there"
            )

    def ask(
        self, command: Command, limit_s: float, on_phase: Callable[[Phase], None] = lambda phase: None
    ) -> Answer:
        """Send a command and wait for its answer, `limit_s` at most between any two signs of life.

        An answer to an earlier command, whose wait Ctrl-C broke off, is passed by. Raises WorkerDiedError if the
        worker ends, says what is no message, answers a command that was never sent or floods the pipe;
        WorkerTimeoutError. After either the worker is of no more use.
        """
        self.post(command, limit_s)
        return self.answered(limit_s, on_phase)

    def post(self, command: Command, limit_s: float) -> None:
        """Send a command; `answered` waits for what the worker says to it. Raises WorkerTimeoutError."""
        self._number += 1
        self._unanswered.add(self._number)
        with suppress(BrokenPipeError):  # its last words say why it ended
            self._send(encode(command, self._number).encode() + b"\n", limit_s)

    def answered(self, limit_s: float, on_phase: Callable[[Phase], None] = lambda phase: None) -> Answer:
        """The answer to the latest command. Raises as `ask`."""
        for _ in range(MOST_PHASES):
            line = self._next(limit_s, spoke=True)
            try:
                answer, number = decode(line, ANSWERS)
            except ProtocolError as error:
                raise WorkerDiedError(f"it broke the protocol: {error}") from None
            if number not in self._unanswered:
                what = type(answer).__name__
                raise WorkerDiedError(
                    f"it broke the protocol: {what} answers command {number}, not {self._number}"
                )
            if not isinstance(answer, Phase):
                self._unanswered.discard(number)
                if number == self._number:
                    return cast(Answer, answer)
            elif number == self._number:
                on_phase(answer)
        raise WorkerDiedError(f"it flooded the pipe: {MOST_PHASES} signs of life and no answer")

    def close(self, limit_s: float = CLOSE_S) -> None:
        """Let the worker give everything back and end; what it will not do in time is done for it."""
        with suppress(WorkerDiedError, WorkerTimeoutError):
            self.ask(Close(), limit_s)

    def _send(self, line: bytes, limit_s: float) -> None:
        """All of a command; a worker that does not read takes no more than the pipe holds."""
        pipe, end = self._commands.fileno(), time.monotonic() + limit_s
        ready = select.poll()
        ready.register(pipe, select.POLLOUT)
        while line:
            if not ready.poll(1e3 * max(0.0, end - time.monotonic())):
                raise WorkerTimeoutError(f"took no command for {limit_s:.0f} s")
            line = line[os.write(pipe, line) :]

    def _next(self, limit_s: float, spoke: bool) -> str:
        line = self._waited(limit_s)
        if self._flooded:
            raise WorkerDiedError(
                f"it flooded the pipe: more than {MOST_LINE >> 20} MiB without an answer in it"
            )
        if line is None:
            raise self._death(spoke)
        with self._counting:
            self._waiting_bytes -= sys.getsizeof(line)
        return line

    def _waited(self, limit_s: float) -> str | None:
        """The next line. Raises WorkerTimeoutError.

        If this process was stopped meanwhile (Ctrl-Z, a container that was paused), nobody knows how long the worker was
        silent: it may have been stopped too, and what it said may not have been read yet. So it has the limit once more.
        """
        while limit_s > 0:
            began = time.monotonic()
            with suppress(queue.Empty):
                return self._lines.get(timeout=limit_s)
            if time.monotonic() - began < limit_s + OVERSLEPT_S:
                break
        raise WorkerTimeoutError(f"silent for {limit_s:.0f} s")

    def _read(self) -> None:
        """Hand whole lines over as they come; stop where one, or all that wait, are longer than any answer."""
        while line := self._answers.readline(MOST_LINE):
            whole, text = line.endswith(b"\n"), line.decode(errors="replace")
            with self._counting:  # an empty line takes a hundred bytes of memory too
                self._waiting_bytes += sys.getsizeof(text) if whole else 0
                self._flooded = self._waiting_bytes > MOST_WAITING or (not whole and len(line) >= MOST_LINE)
            if self._flooded:
                self._lines.put(None)
                return
            if whole:
                self._lines.put(text)

    def _wait(self) -> None:
        """When the worker has ended, end what it left behind and say so, after its last line.

        A child that it forked may hold the pipe open, so the end of the pipe is not waited for in full.
        """
        with suppress(OSError):  # if somebody else has asked how it ended
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self._spent_s = _cpu_s(self.pid)
        self._process.wait()
        self._end_group()
        self._reader.join(timeout=PIPE_GRACE_S)
        self._lines.put(None)

    def _end_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        guardian.end_marked(guardian.WORKER, self._mark)

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
        how = _signal_name(-status) if status < 0 else f"exit status {status}"
        allowed_s = resource.getrlimit(resource.RLIMIT_CPU)[1]  # a worker's is the harness's
        spent = allowed_s != resource.RLIM_INFINITY and self._spent_s > ALMOST * allowed_s
        if status == -signal.SIGXCPU or (status == -signal.SIGKILL and spent):
            how += f" ({NO_CPU_TIME})"
        elif status == -signal.SIGKILL:
            how += f" ({KILLED})"
        return WorkerDiedError(f"{how}: {words}" if words else how)

    def _last_words(self) -> str:
        """The last line that the worker wrote to standard error."""
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - 4096))
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _protocol_of(line: str) -> int | None:
    """What a worker's greeting says that it speaks, whatever else that holds; None if the line is no greeting."""
    try:
        body = read_json(line)
    except ValueError:
        return None
    if not isinstance(body, dict) or body.get("message") != Hello.__name__:
        return None
    protocol = body.get("protocol")
    return protocol if type(protocol) is int else None


def _cpu_s(pid: int) -> float:
    """CPU time of a process that has ended and was not asked for yet: proc_pid_stat(5), fields 14 and 15."""
    fields = (
        Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    )
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _signal_name(number: int) -> str:
    """``SIGSEGV``; real-time signals have names for the first and the last alone."""
    known = {one.value: one.name for one in signal.Signals}
    return known.get(number, f"signal {number}")
