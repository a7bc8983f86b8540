"""Was a replicate disturbed? Grades from telemetry, every threshold in this one place.

>>> from membound.bench.machine.telemetry import delta
>>> grade(delta(before, after), threads=2)
('contended', ['CPU pressure 7.1 % > 5 %'])

clean      every counter was read and none is over its threshold
contended  others used the machine; the time may be long, never short
invalid    the time says more about the disturbance than about the work; kept, flagged, measured again
unknown    a counter that the grade rests on cannot be read, and no other one is over

A quiet machine stays below the first set of thresholds. On a shared 2-core machine nearly all samples exceed it, which is
why that alone does not make a replicate invalid. The second set is five times as wide. The clock is judged only if the
system reports it; most guests do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from membound.results.turns import StoredTurn, grade_of

CPU_PRESSURE = 0.05
"""Share of the time in which some task on the machine waited for a CPU."""
STEAL = 0.01
"""Share of all CPU time that the hypervisor gave to others."""
RUN_QUEUE_WAIT = 0.05
"""Share of its threads' time that this process was ready and did not run."""
IDLE_SHARE = 0.05
"""1 - CPU time / wall time of a single thread, which never waits by itself."""
MEMORY_PRESSURE = 0.01
"""Share of the time in which some task waited for memory: reclaim or swap."""
INVALID_FACTOR = 5
"""A counter above this many times its threshold makes a replicate invalid."""
CLOCK_RATIO = 0.75
"""Below this share of its base frequency a processor is throttled; of its highest clock, an accelerator."""
DEVICE_LIMITED = 0.01
"""Share of the time in which power or heat held an accelerator below its clocks."""

POWER_CAP, POWER = "power cap", "power-limited"
"""At its power limit a device is where large products and prompts put it, not disturbed: contended, however long. Clocks that
fall far are judged by CLOCK_RATIO."""

OWN = ("major_faults", "frequency_ratio")
"""Counters that tell about a process, or the clock, however many others take turns with it."""

DEVICE_COUNTERS = {
    "device_clock_ratio": "the device's clock",
    "device_throttle": "what throttles the device",
    "device_other_processes": "other processes on the device",
}
"""The counters that an accelerator's grade rests on; a row without an accelerator has none of them."""


def grade(telemetry: Mapping[str, Any], threads: int) -> tuple[str, list[str]]:
    """Judge what `telemetry.delta` returned: (grade, reasons); there are no reasons if it is clean."""
    invalid, contended = _disturbances(telemetry, threads)
    unknown = [f"{name} cannot be read" for name, value, _ in _shares(telemetry, threads) if value is None]
    if telemetry.get("major_faults") is None:
        unknown.append("page faults cannot be read")
    unknown += [
        f"{what} cannot be read" for name, what in DEVICE_COUNTERS.items() if telemetry.get(name, 0) is None
    ]
    if invalid:
        return "invalid", invalid + contended
    if contended:
        return "contended", contended
    return ("unknown", unknown) if unknown else ("clean", [])


def _disturbances(telemetry: Mapping[str, Any], threads: int) -> tuple[list[str], list[str]]:
    """What is over its threshold: (grossly, somewhat)."""
    invalid: list[str] = []
    contended: list[str] = []
    for name, value, threshold in _shares(telemetry, threads):
        if value is not None and value > threshold:
            grossly = value > INVALID_FACTOR * threshold and not name.startswith(POWER)
            limit = INVALID_FACTOR * threshold if grossly else threshold
            (invalid if grossly else contended).append(f"{name} {value:.1%} > {limit:.0%}")
    faults = telemetry.get("major_faults")
    if faults:
        invalid.append(f"{faults:.0f} page faults that went to disk")
    clock = telemetry.get("frequency_ratio")
    if clock is not None and clock < CLOCK_RATIO:
        invalid.append(f"clock at {clock:.0%} of its base < {CLOCK_RATIO:.0%}")
    invalid += _device_failures(telemetry)
    if POWER_CAP in (telemetry.get("device_throttle") or "").split(", "):
        contended.append(f"device throttled: {POWER_CAP}")
    others = telemetry.get("device_other_processes")
    if others:
        contended.append(f"{others} other process{'es' * (others != 1)} on the device")
    return invalid, contended


def _device_failures(telemetry: Mapping[str, Any]) -> list[str]:
    """Why the time of an accelerator says more about its state than about the work."""
    found = []
    for name, what in (("device_clock_ratio", "clock"), ("device_memory_clock_ratio", "memory clock")):
        ratio = telemetry.get(name)
        if ratio is not None and ratio < CLOCK_RATIO:
            found.append(f"device {what} at {ratio:.0%} of its highest < {CLOCK_RATIO:.0%}")
    throttles = [one for one in (telemetry.get("device_throttle") or "").split(", ") if one != POWER_CAP]
    if any(throttles):
        found.append(f"device throttled: {', '.join(throttles)}")
    errors = telemetry.get("device_uncorrected_errors")
    if errors:
        found.append(f"{errors} uncorrected memory errors on the device")
    return found


def _shares(telemetry: Mapping[str, Any], threads: int) -> list[tuple[str, float | None, float]]:
    """(name, share, threshold) of every counter that is a share of time."""
    wall_s, cpu_s = telemetry.get("wall_s"), telemetry.get("cpu_s")
    wait_s = telemetry.get("run_queue_wait_s")
    waited = None if wait_s is None or not wall_s or not threads else wait_s / (wall_s * threads)
    shares = [
        ("CPU pressure", telemetry.get("psi_cpu_some_fraction"), CPU_PRESSURE),
        ("memory pressure", telemetry.get("psi_memory_some_fraction"), MEMORY_PRESSURE),
        ("stolen time", telemetry.get("steal_fraction"), STEAL),
        ("run-queue wait", waited, RUN_QUEUE_WAIT),
    ]
    for name, what in (("power", POWER), ("heat", "heat-limited")):
        share = telemetry.get(f"device_{name}_limited_fraction")
        if share is not None:
            shares.append((f"{what} time of the device", share, DEVICE_LIMITED))
    if threads == 1:
        idle = None if cpu_s is None or not wall_s else 1 - cpu_s / wall_s
        shares.append(("idle time", idle, IDLE_SHARE))
    return shares


def grade_turns(turns: Sequence[StoredTurn], telemetry: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Judge a process by its turns, and by what no turn can tell: its faults, clocks and accelerator."""
    found, reasons = grade_of(turns)
    own = {name: value for name, value in telemetry.items() if name.startswith("device_") or name in OWN}
    invalid, contended = _disturbances(own, threads=0)
    unknown = [f"{what} cannot be read" for name, what in DEVICE_COUNTERS.items() if own.get(name, 0) is None]
    if invalid or found == "invalid":
        return "invalid", [*invalid, *reasons]
    if contended or found == "contended":
        return "contended", [*contended, *reasons]
    return ("unknown", [*reasons, *unknown]) if unknown or found == "unknown" else ("clean", [])
