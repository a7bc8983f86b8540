"""Ends all that workers have started when the harness ends, and removes its temporary files, however that ends: by KILL too.

    python -I -S guardian.py MARK                # waits for the end of its standard input, which the harness holds open

It leaves its parent at once: Ray, and other managers of processes, kill the children of a process that they end.
What it reads there until then are the folders to remove, a NUL behind each. Workers carry a mark in their environment, and so
does whatever they start, in whichever session, whoever its parent is by now; a process that was given an empty environment is
not found. This file is a program of its own and imports nothing of the package.
"""

from __future__ import annotations

import atexit
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock

PROC = Path("/proc")
HARNESS, WORKER = "MEMBOUND_HARNESS", "MEMBOUND_WORKER"
"""Variables with the marks of all workers of a harness, and of one."""
PASSES = 20
"""A process may start another one while it is looked for: the search is repeated until it finds none."""
FAREWELL_S = 5.0
TRACKER = b"multiprocessing.resource_tracker"
TRACKER_S, TURN_S = 2.0, 0.02
"""How long such a process may take when all others are gone, and how often it is looked for."""
_STARTING = Lock()


def end_marked(name: str, value: str) -> int:
    """Kill every process that has the variable in the environment that it was started with; how many those were."""
    mark, ended = f"{name}={value}".encode(), set[int]()
    _end_all(mark, ended, sparing=True)
    until = time.monotonic() + TRACKER_S
    while any(_has(pid, mark) for pid in _pids() if pid not in ended) and time.monotonic() < until:
        time.sleep(TURN_S)
    _end_all(mark, ended, sparing=False)
    return len(ended)


def _end_all(mark: bytes, ended: set[int], sparing: bool) -> None:
    """Kill until no more are found; `sparing` leaves out those that clean up by themselves."""
    for _ in range(PASSES):
        found = [
            pid for pid in _pids() if pid not in ended and not (sparing and _cleans(pid)) and _kill(pid, mark)
        ]
        if not found:
            return
        ended.update(found)


def _cleans(pid: int) -> bool:
    """Whether it is Python's own process that removes semaphores and shared memory once those who used them are gone."""
    with suppress(OSError):
        return TRACKER in (PROC / str(pid) / "cmdline").read_bytes()
    return False


def marked(name: str, value: str) -> list[int]:
    """The numbers of the processes that have the variable in the environment that they were started with."""
    mark = f"{name}={value}".encode()
    return [pid for pid in _pids() if _has(pid, mark)]


def _has(pid: int, mark: bytes) -> bool:
    with suppress(OSError):
        return mark in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    return False


def _pids() -> list[int]:
    with suppress(OSError):
        return [int(entry) for entry in os.listdir(PROC) if entry.isdecimal() and int(entry) != os.getpid()]
    return []


def _kill(pid: int, mark: bytes) -> bool:
    """Whether it had the mark. The process is held by a descriptor, so that nobody else gets its number meanwhile."""
    try:
        held = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return False
    try:
        if mark not in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            return False
        signal.pidfd_send_signal(held, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(held)
    return True


def harness_mark() -> str:
    """The mark of this process's workers. The first call starts the guardian that looks for it in the end."""
    with _STARTING:  # workers are started by several threads at once
        return _guarded()[0]


def scratch_folder() -> Path:
    """Where this process and its workers put temporary files: it goes with the process."""
    with _STARTING:
        return _scratch()


def remove_in_the_end(folder: Path) -> None:
    """Have a folder removed once this process and its workers have ended."""
    with _STARTING:
        _remove_in_the_end(folder)


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="membound-"))
    _remove_in_the_end(folder)
    return folder


@cache
def _remove_in_the_end(folder: Path) -> None:
    _, watching = _guarded()
    try:
        if watching is None or watching.stdin is None:
            raise BrokenPipeError
        watching.stdin.write(os.fsencode(folder.absolute()) + b"\0")
        watching.stdin.flush()
    except OSError:  # there is no guardian, or it was ended
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


@cache
def _guarded() -> tuple[str, subprocess.Popen[bytes] | None]:
    """The mark, and who looks for it."""
    mark = secrets.token_hex(16)
    kept = {name: value for name, value in os.environ.items() if name not in (HARNESS, WORKER)}
    watching = None
    with suppress(OSError):  # without one, workers still end with the harness
        watching = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,  # whose end tells the guardian's
            stderr=subprocess.DEVNULL,
            env=kept,
            start_new_session=True,
        )
        watching.wait()  # until it has left
        atexit.register(_dismiss, watching)
    return mark, watching


def _dismiss(watching: subprocess.Popen[bytes]) -> None:
    """Let it look once more and end."""
    if watching.stdin is None or watching.stdout is None:
        raise AssertionError("it has no standard input and output")
    with suppress(OSError):
        watching.stdin.close()
        select.select([watching.stdout], [], [], FAREWELL_S)
    watching.stdout.close()


if __name__ == "__main__":
    if os.fork():
        os._exit(0)
    told = sys.stdin.buffer.read()
    end_marked(HARNESS, sys.argv[1])
    for name in told.split(b"\0")[:-1]:
        shutil.rmtree(name, ignore_errors=True)
