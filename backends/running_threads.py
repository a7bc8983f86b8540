"""How many threads a runtime really has: counted in the process while it works, whatever it says of itself.

>>> running_threads(lambda: values.add_(1))
2

OpenMP gives a team fewer threads than were asked for where OMP_THREAD_LIMIT, OMP_DYNAMIC or a cgroup's limit of tasks
say so, and reports the number that was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import get_native_id

from membound.errors import BackendUnavailable

TASKS = Path("/proc/self/task")
LEAST_S = 0.1
"""A launch of 2 ms is repeated for so long: on a busy machine a thread that only hands one request on may take a tenth of what
the other one computes, but not on average over fifty."""
SETTLE_S = 0.005
"""After so long a thread that has finished sleeps, and the kernel has added up what it ran."""
SHARE = 0.1
"""Of what the busiest thread ran: llama.cpp's second thread runs half as long as the first or more, the one that hands requests
on a fiftieth."""
TRIES = 3
"""On a machine that others use too, a thread may come too late for its share of the work."""
TORCH_VALUES = 1 << 21
"""Float32 values a thread, 8 MB, over which each of torch's threads works for a millisecond or more. torch gives a thread
32768 at least, and leaves those without a share asleep."""
REMEDY = "unset OMP_THREAD_LIMIT OMP_DYNAMIC   # and look at `ulimit -u`"


def running_threads(
    run: Callable[[], object], caller_waits: bool = False, least_s: float = LEAST_S
) -> int | None:
    """Threads of this process that ran during `run`, repeated until it has taken `least_s`; None where /proc does not say.

    `caller_waits`: the thread that calls `run` leaves the work to others, and does not count; neither do those that only
    pass it on.
    """
    time.sleep(SETTLE_S)
    before = _ran_ns()
    begin = time.monotonic()
    run()
    while time.monotonic() < begin + least_s:
        run()
    time.sleep(SETTLE_S)
    ran = {task: ns - before.get(task, 0) for task, ns in _ran_ns().items() if ns > before.get(task, 0)}
    if not ran:
        return None
    if caller_waits:
        ran.pop(str(get_native_id()), None)
        least = SHARE * max(ran.values(), default=0)
        ran = {task: ns for task, ns in ran.items() if ns >= least}
    return len(ran)


def check_threads(what: str, threads: int, run: Callable[[], object], caller_waits: bool = False) -> None:
    """Raises BackendUnavailable if fewer than `threads` work on `run`, which must be enough work for all of them."""
    run()  # the team is made at its first use
    most = 0
    for number in range(TRIES):
        # who ran at all counts, and most often all do at once; who only hands requests on is told apart over many
        once = number == 0 and not caller_waits
        counted = running_threads(run, caller_waits, 0.0 if once else LEAST_S)
        if counted is None or counted >= threads:
            return
        most = max(most, counted)
    raise BackendUnavailable(f"{what} works with {most} of {threads} threads here", REMEDY)


def check_torch_threads(what: str) -> None:
    """Raises BackendUnavailable if fewer threads work than torch says that it has."""
    import torch

    threads = torch.get_num_threads()
    values = torch.zeros(TORCH_VALUES * threads)
    check_threads(what, threads, lambda: values.add_(1).mul_(0.5).add_(1))


def _ran_ns() -> dict[str, int]:
    """Nanoseconds that each thread has run; empty where the system does not count them."""
    found = {}
    for task in TASKS.glob("[0-9]*"):
        try:
            found[task.name] = int((task / "schedstat").read_text().split()[0])
        except (OSError, ValueError, IndexError):  # it has ended, or the kernel keeps no such count
            continue
    return found
