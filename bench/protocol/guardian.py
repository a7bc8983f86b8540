"""Ends all that workers have started when the harness ends, however that ends: by KILL too.

    python -I -S guardian.py MARK                # waits for the end of its standard input, which the harness holds open

Workers carry a mark in their environment, and so does whatever they start, in whichever session, whoever its parent is by
now; a process that was given an empty environment is not found. This file is a program of its own and imports nothing
of the package.
"""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import subprocess
import sys
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
_STARTING = Lock()


def end_marked(name: str, value: str) -> int:
    """Kill every process that has the variable in the environment that it was started with; how many those were."""
    mark, ended = f"{name}={value}".encode(), set[int]()
    for _ in range(PASSES):
        found = [pid for pid in _pids() if pid not in ended and _kill(pid, mark)]
        if not found:
            break
        ended.update(found)
    return len(ended)


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
        return _mark()


@cache
def _mark() -> str:
    mark = secrets.token_hex(16)
    kept = {name: value for name, value in os.environ.items() if name not in (HARNESS, WORKER)}
    with suppress(OSError):  # without one, workers still end with the harness
        watching = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=kept,
            start_new_session=True,
        )
        atexit.register(_dismiss, watching)
    return mark


def _dismiss(watching: subprocess.Popen[bytes]) -> None:
    """Let it look once more and end."""
    if watching.stdin is None:
        raise AssertionError("it has no standard input")
    with suppress(OSError, subprocess.TimeoutExpired):
        watching.stdin.close()
        watching.wait(FAREWELL_S)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end_marked(HARNESS, sys.argv[1])
