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
COMPANY = "MEMBOUND_COMPANY"
"""Variable of workers beside which others are meant to run, on other cores: see `run.companion`."""
RAN, WAITED = 0, 1
"""Entries of schedstat."""
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
    """Counters from its making on: how much of a burst was disturbed. `helpers` as for `take_turn`."""

    def __init__(self, helpers: Sequence[int] = ()) -> None:
        self._helpers = helpers
        self._waited_s, self._busy_s, self._own_s = self._waited(), _busy_s(), self._own()

    def _own(self) -> float:
        return time.process_time() + sum(_scheduled_s(str(pid), RAN) or 0.0 for pid in self._helpers)

    def _waited(self) -> float | None:
        own = _scheduled_s("self", WAITED)
        return None if own is None else own + sum(_scheduled_s(str(p), WAITED) or 0.0 for p in self._helpers)

    def disturbance(self, time_s: float, alone: bool = True) -> float | None:
        """The share of `time_s` in which own threads waited or, if it should be `alone`, others ran; None: unknown."""
        own_s, waited_s, busy_s = self._own() - self._own_s, self._waited(), _busy_s()
        if self._waited_s is None or waited_s is None or self._busy_s is None or busy_s is None:
            return None
        alone = alone and COMPANY not in os.environ
        others_s = max(0.0, busy_s - self._busy_s - own_s - OTHERS_GRAIN_S) if alone else 0.0
        return max(0.0, (waited_s - self._waited_s + others_s) / time_s)


def _scheduled_s(process: str, entry: int) -> float | None:
    """Seconds that a process's threads ran (RAN), or were ready but did not run (WAITED): schedstat, in ns."""
    found_ns = []
    for folder in (PROC / process / "task").glob("*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found_ns.append(int((folder / "schedstat").read_text().split()[entry]))
    return sum(found_ns) / 1e9 if found_ns else None


def _busy_s() -> float | None:
    """Seconds of all processors that were not idle, time stolen by the hypervisor included: proc(5), stat."""
    try:
        fields = (PROC / "stat").read_text().partition("\n")[0].split()[1:9]
    except FileNotFoundError:
        return None
    ticks = [int(field) for field in fields]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
