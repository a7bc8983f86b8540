"""The worker process: does what the harness asks on standard input, one command a line, until the harness closes it.

    python -m membound.bench.worker 2            # with two threads; see protocol/messages.py for the commands

Answers go to a private copy of standard output; file descriptor 1 itself is pointed at standard error, so that
nothing a runtime prints can break the conversation. Whatever a backend raises becomes an answer with a status.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from membound.bench.machine.fingerprint import pick_cpus
from membound.bench.measure.failures import failure_of
from membound.bench.protocol.messages import (
    COMMANDS,
    PROTOCOL,
    Answer,
    Close,
    Done,
    Failed,
    Hello,
    Open,
    Phase,
    decode,
    encode,
)
from membound.kernels.cpu.settings_file import SETTINGS_FILE, ignore_settings_file

SLOWDOWN = "MEMBOUND_SLOWDOWN"
COUNTS = "MEMBOUND_COUNT_ALLOCATIONS"
"""Variables that `membound gate` sets in the interpreters that it writes: see `measure.gated`."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> int:
    """Serve one conversation; the exit status is 0 if it ended in order."""
    answers = _private_stdout()
    _die_with_parent()
    threads = int(arguments[0])
    os.sched_setaffinity(0, pick_cpus(threads))
    if Path(SETTINGS_FILE).exists():
        ignore_settings_file()

    def say(answer: Answer, number: int) -> None:
        answers.write(encode(answer, number) + "\n")
        answers.flush()

    say(Hello(sys.version.split()[0], PROTOCOL), 0)
    from membound.bench.measure.gated import Gated
    from membound.bench.measure.station import Station

    number = 0
    gated = Gated(float(os.environ.get(SLOWDOWN, "0")), COUNTS in os.environ)
    station = Station(threads, lambda name, who: say(Phase(name, who), number), gated)
    try:
        for line in sys.stdin:
            command, number = decode(line, COMMANDS)
            if isinstance(command, Close):
                station.close()
                say(Done(), number)
                return 0
            say(_answer(station, command), number)
            if isinstance(command, Open):
                gc.collect()
                gc.freeze()  # a collection would walk through all of the runtime: a third of a second of torch's
    finally:
        station.close()
    return 0


def _answer(station: Any, command: Any) -> Answer:
    """What the station makes of a command; its failure, if a backend fails in it."""
    do: Callable[[Any], Answer] = getattr(station, station.METHODS[type(command)])
    try:
        answer = do(command)
        encode(answer, 0)  # what a backend gave for a figure may be no number
    except Exception as error:  # the outermost boundary around runtimes, which raise classes of their own
        failure = failure_of(error)
        gc.collect()
        return Failed(failure.status, failure.reason, failure.error)
    return answer


def _private_stdout() -> TextIO:
    """The real standard output under a new descriptor; descriptor 1 becomes standard error."""
    sys.stdout.flush()
    private = os.dup(1)  # not inherited by processes that a runtime starts
    os.dup2(2, 1)
    return os.fdopen(private, "w", encoding="utf-8")


def _die_with_parent() -> None:
    """End with the harness even if it is killed: a worker left behind would disturb the next run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
