"""One timed turn on a machine that others use too: pause, warm up, time a burst, see who disturbed it.

>>> turn = take_turn(lambda: sum(range(1000)), lambda: sum(range(100_000)))
>>> turn.time_s, turn.clean
(0.00213, True)

Contestants follow each other on the same cores. The pause lets the spinning threads of the one before come to rest,
warm calls wake one's own until each has a core. A burst is short, so that clean ones exist even on a loaded machine,
and is timed again while it is disturbed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from membound.bench.machine.environment import COMPANY
from membound.results.turns import DISTURBED, FEWEST_CLEAN

PROC = Path("/proc")

BURST_S = 2e-3
"""A burst lasts about this long: as long as a window of the read ceiling, so that what both spend at their start, when
nothing is on its way yet, weighs alike; short enough to find clean moments."""
ATTEMPTS = 6
PAUSE_S = 0.006
"""Longer than OpenMP's threads spin for more work: libgomp and oneDNN spin for 1 to 5 ms."""
WARM_S = 0.012
"""How long warm-up calls are repeated before a burst. Threads that slept for 20 ms or more wake on one core and share it for
several milliseconds, each waiting half of the time (two threads of an AMD Milan, Linux 6.18: no burst of 40 was
clean after one warm call of 3 ms, 39 were after four); and a core that was idle reads 10-20 % slower at first."""
WORKING = 0.1
"""A thread of a helper that ran for less of a burst than this passes on messages: gloo's ran for 2 to 5 % of small steps of two ranks."""
Scheduled = dict[tuple[str, str], tuple[float, float]]
"""By process and thread."""
OTHERS_GRAIN_S = 0.02
"""Two ticks of /proc/stat, which counts in hundredths of a second: less than that proves nobody else."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A burst's seconds and the share of it that was disturbed; None where the system does not tell.

    `retaken` are the attempts that were more disturbed, as (seconds, disturbance).
    """

    time_s: float
    disturbance: float | None
    retaken: tuple[tuple[float, float], ...] = ()

    @property
    def clean(self) -> bool:
        """Known to be undisturbed."""
        return self.disturbance is not None and self.disturbance <= DISTURBED


def take_turn(
    warm: Callable[[], object] | None,
    burst: Callable[[], object],
    attempts: int = ATTEMPTS,
    pause_s: float = PAUSE_S,
    before: Callable[[], object] | None = None,
    alone: bool = True,
    limit_s: float = inf,
    helpers: Sequence[int] = (),
) -> Turn:
    """Time `burst` until it is clean, at most `attempts` times and for `limit_s`; the least disturbed of them.

    Each attempt is: `before`, a pause that grows with every attempt, `warm` again and again for WARM_S (None:
    not at all), and the timed burst. Not `alone`, others are meant to run on other cores, and only waiting for
    one's own counts as disturbance. `helpers`: other processes that do the work, whose time is one's own.
    """
    best: Turn | None = None
    retaken: list[tuple[float, float]] = []
    begun = time.perf_counter()
    for attempt in range(attempts):
        if before is not None:
            before()
        time.sleep(pause_s * (1 + attempt))
        if warm is not None:
            _repeat(warm, WARM_S)
        turn = _timed(burst, alone, helpers)
        worse = turn
        if best is None or (turn.disturbance or 0.0) < (best.disturbance or 0.0):
            best, worse = turn, best or turn
        if worse is not best:
            retaken.append((worse.time_s, worse.disturbance or 0.0))
        if best.clean or best.disturbance is None or time.perf_counter() - begun > limit_s:
            break
    if best is None:
        raise AssertionError("no attempt was made")
    return replace(best, retaken=tuple(retaken))


def usable(turns: Sequence[Turn]) -> list[float]:
    """Seconds of the clean turns; with fewer than three of them, of the least disturbed third (at least 3).

    Of all, where the system does not tell who was disturbed.
    """
    clean = [turn.time_s for turn in turns if turn.clean]
    if len(clean) >= FEWEST_CLEAN:
        return clean
    if all(turn.disturbance is None for turn in turns):
        return [turn.time_s for turn in turns]
    ranked = sorted(turns, key=lambda turn: inf if turn.disturbance is None else turn.disturbance)
    return [turn.time_s for turn in ranked[: max(FEWEST_CLEAN, len(ranked) // 3)]]


def _repeat(warm: Callable[[], object], seconds: float) -> None:
    """Once at least."""
    end = time.perf_counter() + seconds
    warm()
    while time.perf_counter() < end:
        warm()


def _timed(burst: Callable[[], object], alone: bool, helpers: Sequence[int] = ()) -> Turn:
    watch = Watch(helpers)
    start = time.perf_counter()
    burst()
    time_s = time.perf_counter() - start
    return Turn(time_s, watch.disturbance(time_s, alone))


class Watch:
    """Counters from its making on: how much of a burst was disturbed. `helpers` as for `take_turn`.

    Of helpers the waiting of those threads counts that work (WORKING). Threads that pass on what ranks exchange wait behind the
    one that computes on the same core, which is no disturbance: what they bring is not needed before that one is through.
    """

    def __init__(self, helpers: Sequence[int] = ()) -> None:
        self._helpers = helpers
        self._threads, self._helping = _scheduled("self"), self._of_helpers()
        self._busy_s, self._process_s = _busy_s(), time.process_time()

    def _of_helpers(self) -> Scheduled:
        return {thread: times for pid in self._helpers for thread, times in _scheduled(str(pid)).items()}

    def disturbance(self, time_s: float, alone: bool = True) -> float | None:
        """The share of `time_s` in which own threads waited or, if it should be `alone`, others ran; None: unknown."""
        process_s, threads, helping = (
            time.process_time() - self._process_s,
            _scheduled("self"),
            self._of_helpers(),
        )
        busy_s = _busy_s()
        if not self._threads or not threads or self._busy_s is None or busy_s is None:
            return None
        waited_s = sum(waited for _, waited in threads.values()) - sum(w for _, w in self._threads.values())
        own_s = process_s
        for thread, (ran, waited) in helping.items():
            ran_before, waited_before = self._helping.get(thread, (0.0, 0.0))
            own_s += ran - ran_before
            if ran - ran_before >= WORKING * time_s:
                waited_s += waited - waited_before
        alone = alone and COMPANY not in os.environ
        others_s = max(0.0, busy_s - self._busy_s - own_s - OTHERS_GRAIN_S) if alone else 0.0
        return max(0.0, (waited_s + others_s) / time_s)


def _scheduled(process: str) -> Scheduled:
    """Of a process's threads, in seconds, how long they ran, and how long they were ready but did not run: schedstat, in ns."""
    found: Scheduled = {}
    for folder in (PROC / process / "task").glob("*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            ran, waited, _ = (folder / "schedstat").read_text().split()
            found[process, folder.name] = int(ran) / 1e9, int(waited) / 1e9
    return found


def _busy_s() -> float | None:
    """Seconds of all processors that were not idle, time stolen by the hypervisor included: proc(5), stat."""
    try:
        fields = (PROC / "stat").read_text().partition("\n")[0].split()[1:9]
    except FileNotFoundError:
        return None
    ticks = [int(field) for field in fields]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
