"""Experiment 9 from what two runs have stored: decoding and prompts on machines that differ in their memory.

>>> observations = pair_observations(("h100-run.jsonl", "h200-run.jsonl"), Path("results/runs"))
>>> {one.factors["machine"] for one in observations}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from membound.bench.claim.plan import ClaimError
from membound.kernels.work import Linear, Prefill, Step, parse
from membound.results.claim.observation import Observation, median_s
from membound.results.roofline import limits_of
from membound.results.row import Row
from membound.results.shares import shares_of
from membound.results.stored_runs import rows_of

PAIR = 9
FEW_ROWS = 4
"""Products of up to so many rows are decoding at small batch."""
MANY_ROWS = 256
"""Products of so many rows are as compute-bound as a prompt; those between are neither."""


def pair_observations(runs: tuple[str, str], out: Path) -> list[Observation]:
    """The works that both runs measured, as observations. Raises ClaimError, StoreError, RowError."""
    first, second = (rows_of(run, out) for run in runs)
    names = [_machine(rows) for rows in (first, second)]
    if names[0] == names[1]:
        raise ClaimError(f"--pair needs runs of two machines; both are of {names[0]}")
    known = [{(r.backend, r.work) for r in rows if _arm(r)} for rows in (first, second)]
    both = known[0] & known[1]
    if not both:
        raise ClaimError(f"--pair: runs {runs[0]} and {runs[1]} have no decode or prompt work in common")
    return [one for rows in (first, second) for one in _observations(rows, both)]


def _observations(rows: Sequence[Row], both: set[tuple[str, str]]) -> Iterator[Observation]:
    machine = _machine(rows)
    for row in rows:
        arm = _arm(row)
        limits = limits_of(row, rows)
        if not arm or (row.backend, row.work) not in both:
            continue
        shares = shares_of(row, limits)
        read = shares.read_bytes_per_s
        if read is None:
            continue
        yield Observation(
            experiment=PAIR,
            backend=row.backend,
            arm=arm,
            replicate=row.replicate,
            factors={"machine": machine, "read_bytes_per_s": read},
            work=row.work,
            bytes=row.bytes,
            flops=row.flops,
            time_s=median_s(row.times_s),
            samples_s=list(row.times_s),
            turns=list(row.turns),
            validity=row.grade,
            validity_reasons=list(row.grade_reasons),
            threads=row.threads,
            read_bytes_per_s=read,
            compute_flops_per_s=shares.compute_flops_per_s,
            launch_s=limits.launch_s,
            started_at=row.started_at,
            telemetry=row.telemetry,
        )


def _arm(row: Row) -> str:
    """``decode`` or ``prefill`` for a measured case; empty for all else."""
    if row.kind != "case" or row.status != "ok" or not row.times_s:
        return ""
    work = parse(row.work)
    if isinstance(work, Prefill) or (isinstance(work, Linear) and work.m >= MANY_ROWS):
        return "prefill"
    rows = work.m if isinstance(work, Linear) else work.rows if isinstance(work, Step) else work.batch
    return "decode" if rows <= FEW_ROWS else ""


def _machine(rows: Sequence[Row]) -> str:
    """The device that a run measured: an accelerator's name where there is one, else the processor's."""
    cases = [row for row in rows if row.kind == "case" and row.status == "ok"]
    named = sorted(
        {row.device for row in cases if row.accelerator} or {str(row.machine.get("cpu")) for row in cases}
    )
    if len(named) != 1:
        raise ClaimError(f"--pair: a run must be of one device, not {', '.join(named) or 'none'}")
    return named[0]
