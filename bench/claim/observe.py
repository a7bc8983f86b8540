"""What a worker told about an arm, as an observation with the ceilings that it is held against.

>>> observed(cell, arm, event, plan, limits)
Observation(experiment=1, backend='mine:cpu', ...)
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from membound.bench.claim.arms import Arm
from membound.bench.claim.plan import CLOCKS, Cell, ClaimPlan
from membound.bench.protocol.process import Event
from membound.results.claim.observation import Observation, median_s
from membound.results.roofline import Limits

LimitsOf = Callable[[str, Arm, int], Limits]
"""The measured ceilings of a backend for an arm with so many threads."""
BLIND = "the clocks of memory and cores cannot both be read"


def observed(cell: Cell, arm: Arm, event: Event, plan: ClaimPlan, limits_of: LimitsOf) -> Observation:
    """An observation of an `outcome` event."""
    ok, status, reason = event["status"] == "ok", event["status"], event["reason"]
    threads = plan.threads_of(cell.experiment)
    limits = limits_of(cell.backend, arm, threads)
    factors = arm.factors | event["factors"]
    whole = limits_of(cell.backend, arm, plan.threads).read_bytes_per_s
    if arm.thief and whole:
        factors["machine_read_bytes_per_s"] = whole
    if cell.experiment == CLOCKS and ok:
        factors |= _clocks(event["telemetry"])
        if len(factors) < 2:
            ok, status, reason = False, "unsupported", BLIND
    return Observation(
        cell.experiment,
        cell.backend,
        arm.name,
        cell.replicate,
        factors,
        arm.work,
        arm.parsed.traffic.total_bytes,
        arm.flops,
        median_s(event["samples_s"]) if ok else None,
        event["samples_s"] if ok else [],
        event["grade"],
        event["grade_reasons"],
        status,
        reason,
        threads,
        limits.read_bytes_per_s,
        limits.compute_flops_per_s,
        limits.launch_s,
        now(),
        event["telemetry"],
    )


def nothing(status: str, reason: str) -> Event:
    """The outcome of an arm that a worker could not report on itself."""
    return {
        "status": status,
        "reason": reason,
        "factors": {},
        "telemetry": {},
        "samples_s": [],
        "grade": "unknown",
        "grade_reasons": [],
    }


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _clocks(telemetry: dict[str, Any]) -> dict[str, float]:
    """The clocks that could be read, of an accelerator or of the processor."""
    core = telemetry.get("device_clock_hz") or telemetry.get("frequency_hz")
    memory = telemetry.get("device_memory_clock_hz")
    return {name: value for name, value in (("core_clock_hz", core), ("memory_clock_hz", memory)) if value}
