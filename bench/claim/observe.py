"""What became of an arm, as an observation with the ceilings of its own moments.

>>> observed(cell, arm, contestant, checked, about)
Observation(experiment=1, backend='mine:cpu', ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from membound.bench.claim.arms import Arm
from membound.bench.claim.plan import CLOCKS, ExperimentCell
from membound.bench.measure.contestant import Contestant
from membound.bench.measure.failures import Failure
from membound.bench.protocol.messages import Checked
from membound.bench.run.ceiling_rows import now
from membound.results.claim.observation import Observation, median_s
from membound.results.roofline import Limits, compute_ceilings
from membound.results.shares import middle
from membound.results.turns import StoredTurn, grade_of, usable

BLIND = "the clocks of memory and cores cannot both be read"


@dataclass(frozen=True, slots=True)
class AboutArm:
    """What an observation says besides its times: threads, and ceilings that took no turns.

    machine_read_bytes_per_s is what all threads of the machine read, for the victim of a co-runner. arithmetic is the
    spec whose arithmetic the FLOPs are.
    """

    threads: int
    limits: Limits
    arithmetic: str
    machine_read_bytes_per_s: float | None = None


def observed(
    cell: ExperimentCell, arm: Arm, one: Contestant, checked: Checked, about: AboutArm
) -> Observation:
    """An observation of an arm whose last output was right."""
    turns = usable(one.turns)
    times = [turn.time_s for turn in turns]
    telemetry = checked.telemetry | {
        "launches": one.prepared.launches,
        "slots": one.prepared.slots,
        "error": checked.error,
        "stored_bytes": one.prepared.stored_bytes,
    }
    factors: dict[str, float | str] = {**arm.factors, **_stolen(one)}
    if arm.trade and about.machine_read_bytes_per_s:
        factors["machine_read_bytes_per_s"] = about.machine_read_bytes_per_s
    if cell.experiment == CLOCKS:
        clocks = _clocks(telemetry)
        if clocks is None:
            return unobserved(cell, arm, Failure("unsupported", BLIND), about, one.turns)
        factors |= clocks
    grade, reasons = _graded(one.turns)
    read, compute = _ceilings(turns, about)
    return _observation(
        cell,
        arm,
        about,
        factors=factors,
        time_s=median_s(times),
        samples_s=times,
        turns=list(one.turns),
        validity=grade,
        validity_reasons=reasons,
        read_bytes_per_s=read,
        compute_flops_per_s=compute,
        telemetry=telemetry,
    )


def unobserved(
    cell: ExperimentCell, arm: Arm, failure: Failure, about: AboutArm, turns: Sequence[StoredTurn] = ()
) -> Observation:
    """An observation of an arm without a time; `turns` are those that it took before it failed."""
    return _observation(
        cell,
        arm,
        about,
        factors=dict(arm.factors),
        turns=list(turns),
        status=failure.status,
        reason=failure.reason,
        read_bytes_per_s=about.limits.read_bytes_per_s,
        compute_flops_per_s=about.limits.compute_flops_per_s,
    )


def _observation(cell: ExperimentCell, arm: Arm, about: AboutArm, **fields: Any) -> Observation:
    return Observation(
        experiment=cell.experiment,
        backend=cell.backend,
        arm=arm.name,
        replicate=cell.replicate,
        work=arm.work,
        bytes=arm.parsed.traffic.total_bytes,
        flops=arm.flops,
        threads=about.threads,
        launch_s=about.limits.launch_s,
        started_at=now(),
        **fields,
    )


def _ceilings(turns: list[StoredTurn], about: AboutArm) -> tuple[float | None, float | None]:
    """Bandwidth and arithmetic peak at the moments of the turns; those of the start where one took no turns."""
    names, others = compute_ceilings(about.arithmetic), about.limits.compute_by_name or {}
    read = middle(turn.ceiling("read") for turn in turns)
    compute = middle(turn.best_ceiling(names, others) for turn in turns)
    return read or about.limits.read_bytes_per_s, compute or about.limits.compute_flops_per_s


def _stolen(one: Contestant) -> dict[str, float]:
    """Medians of what a co-runner took beside each burst."""
    names = one.stolen[0] if one.stolen else {}
    return {name: median(seen[name] for seen in one.stolen) for name in names}


def _graded(turns: list[StoredTurn]) -> tuple[str, list[str]]:
    """As of a row; but a dose is compared with others of the same minutes, so that none is thrown away."""
    grade, reasons = grade_of(turns)
    return ("contended" if grade == "invalid" else grade), reasons


def _clocks(telemetry: dict[str, Any]) -> dict[str, float] | None:
    """The clocks of an accelerator's cores and memory; None unless both can be read. The host's are not its own."""
    core, memory = (telemetry.get(f"device_{name}_hz") for name in ("clock", "memory_clock"))
    return {"core_clock_hz": core, "memory_clock_hz": memory} if core and memory else None
