"""Counters during a replicate: was the machine quiet while it was timed?

>>> before = snapshot()
>>> ...                                            # the timed part
>>> delta(before, snapshot())["steal_fraction"]
0.0

A counter that cannot be read is None, which means unknown and never healthy. `validity.py` judges.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from membound.bench.machine.proc import count, real, text_of

PROC = Path("/proc")
SYS = Path("/sys")

_STEAL_FIELD = 7  # of the cpu line in /proc/stat, proc(5); guest time (fields 8, 9) is part of user time


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Running totals at one moment. None is unknown.

    Pressure totals are seconds in which some task waited (PSI). CPU ticks are of all processors together.
    `run_queue_s` holds, by thread id, the seconds for which a thread of this process was ready but not running.
    """

    wall_s: float
    cpu_s: float
    voluntary_switches: int
    involuntary_switches: int
    minor_faults: int
    major_faults: int
    load_1min: float | None
    psi_cpu_s: float | None
    psi_memory_s: float | None
    steal_ticks: int | None
    total_ticks: int | None
    run_queue_s: dict[str, float] | None
    frequency_hz: float | None
    base_frequency_hz: float | None


def snapshot(proc: Path = PROC, sys: Path = SYS) -> Snapshot:
    """Read all counters of this process and its machine, in less than a millisecond."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    ticks = _cpu_ticks(proc)
    return Snapshot(
        wall_s=time.perf_counter(),
        cpu_s=usage.ru_utime + usage.ru_stime,
        voluntary_switches=usage.ru_nvcsw,
        involuntary_switches=usage.ru_nivcsw,
        minor_faults=usage.ru_minflt,
        major_faults=usage.ru_majflt,
        load_1min=_load(proc),
        psi_cpu_s=_pressure(proc, "cpu"),
        psi_memory_s=_pressure(proc, "memory"),
        steal_ticks=ticks[_STEAL_FIELD] if ticks else None,
        total_ticks=sum(ticks) if ticks else None,
        run_queue_s=_run_queue(proc),
        frequency_hz=_frequency(sys, "scaling_cur_freq"),
        base_frequency_hz=_frequency(sys, "base_frequency"),
    )


def delta(before: Snapshot, after: Snapshot) -> dict[str, float | None]:
    """What happened between two snapshots, as stored in a row.

    Fractions are of wall time (pressure), of all processors' time (steal), or of the base clock
    (frequency_ratio). run_queue_wait_s adds up over this process's threads.
    """
    wall_s = after.wall_s - before.wall_s
    return {
        "wall_s": wall_s,
        "cpu_s": after.cpu_s - before.cpu_s,
        "load_1min": before.load_1min,
        "psi_cpu_some_fraction": _share(_change(before.psi_cpu_s, after.psi_cpu_s), wall_s),
        "psi_memory_some_fraction": _share(_change(before.psi_memory_s, after.psi_memory_s), wall_s),
        "steal_fraction": _share(
            _change(before.steal_ticks, after.steal_ticks), _change(before.total_ticks, after.total_ticks)
        ),
        "voluntary_switches": after.voluntary_switches - before.voluntary_switches,
        "involuntary_switches": after.involuntary_switches - before.involuntary_switches,
        "minor_faults": after.minor_faults - before.minor_faults,
        "major_faults": after.major_faults - before.major_faults,
        "run_queue_wait_s": _waited(before.run_queue_s, after.run_queue_s),
        "frequency_hz": after.frequency_hz,
        "frequency_ratio": _share(after.frequency_hz, after.base_frequency_hz),
    }


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _share(part: float | None, whole: float | None) -> float | None:
    """part / whole; None if either is unknown or no time passed."""
    return None if part is None or not whole else part / whole


def _waited(before: dict[str, float] | None, after: dict[str, float] | None) -> float | None:
    """Seconds that the threads alive at the end have waited; those that ended in between are not counted."""
    if before is None or after is None:
        return None
    return sum(wait - before.get(thread, 0.0) for thread, wait in after.items())


def _load(proc: Path) -> float | None:
    return real((text_of(proc / "loadavg") or "").partition(" ")[0])


def _pressure(proc: Path, resource_name: str) -> float | None:
    """Seconds in which some task waited for a resource: ``some … total=<µs>`` of /proc/pressure."""
    for line in (text_of(proc / "pressure" / resource_name) or "").splitlines():
        if line.startswith("some "):
            waited = count(line.rpartition("total=")[2])
            return None if waited is None else waited / 1e6
    return None


def _cpu_ticks(proc: Path) -> list[int] | None:
    """User, nice, system, idle, iowait, irq, softirq, steal of all processors; None if steal is missing."""
    first = (text_of(proc / "stat") or "").partition("\n")[0].split()
    ticks = [count(field) for field in first[1 : _STEAL_FIELD + 2]]
    known = [one for one in ticks if one is not None]
    return known if len(known) == _STEAL_FIELD + 1 else None


def _run_queue(proc: Path) -> dict[str, float] | None:
    """The second field of schedstat (ns spent waiting on a run queue), by thread."""
    waits = {}
    try:
        threads = os.listdir(proc / "self/task")
    except OSError:
        return None
    for thread in threads:
        fields = (text_of(proc / "self/task" / thread / "schedstat") or "").split()
        waited = count(fields[1]) if len(fields) > 1 else None
        if waited is not None:
            waits[thread] = waited / 1e9
    return waits or None


def _frequency(sys: Path, name: str) -> float | None:
    """Mean over processors of a cpufreq file in Hz (the files are in kHz); None where not exposed."""
    paths = sorted((sys / "devices/system/cpu").glob(f"cpu[0-9]*/cpufreq/{name}"))
    values = [1e3 * khz for khz in (count(text_of(path)) for path in paths) if khz is not None]
    return sum(values) / len(values) if values else None
