"""Measured ceilings as rows.

>>> rows = ceiling_rows(answer, "20261128T101500-epyc-1f3a", "cpu", replicate=0, threads=2)
>>> [(row.work, row.value, row.unit) for row in rows]
[('read', 4.9e10, 'bytes/s'), ...]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

from membound.bench.machine.validity import grade
from membound.bench.measure.ceiling_process import Moment
from membound.bench.protocol.messages import Ceilings
from membound.results.row import Row, RowError

ARITHMETIC = ("fma_", "dot_", "tile_", "gemm_")
"""How the names of arithmetic peaks begin; every other ceiling that takes turns is a bandwidth."""
MOST_WORDS = 300


def ceiling_rows(answer: Ceilings, run_id: str, backend: str, replicate: int, threads: int) -> list[Row]:
    """The rows of limits that were measured apart from the turns; an error in place of one that cannot be."""
    return [
        _row(ceiling, answer.telemetry, run_id, backend, replicate, threads) for ceiling in answer.ceilings
    ]


def _row(
    told: Mapping[str, Any],
    telemetry: dict[str, Any],
    run_id: str,
    backend: str,
    replicate: int,
    threads: int,
) -> Row:
    try:
        found, reasons = grade(telemetry, threads)
        row = Row(
            run_id=run_id,
            kind="ceiling",
            backend=backend,
            work=told["name"],
            status=told["status"],
            reason=told["reason"],
            replicate=replicate,
            threads=threads,
            started_at=now(),
            value=told["value"],
            unit=told["unit"],
            config=told["config"],
            samples_s=list(told["samples"]),
            telemetry=telemetry,
            grade=found,
            grade_reasons=reasons,
        )
        return Row.from_json(row.to_json())  # no file is spoilt by what its readers would refuse
    except (RowError, KeyError, TypeError, ValueError) as error:
        why = f"it tells of a ceiling what cannot be: {error!r}"
        return failed_ceilings(run_id, backend, replicate, threads, "error", why[:MOST_WORDS])


def turned_rows(
    moments: Sequence[Moment],
    variants: Mapping[str, str],
    run_id: str,
    backend: str,
    replicate: int,
    threads: int,
) -> list[Row]:
    """A row for each ceiling that took turns: the median of its rates, the lowest and the highest.

    What cases are compared with stands in their own turns; these rows say how far the machine moved.
    """
    rows = []
    for name in dict.fromkeys(name for moment in moments for name in moment.rates):
        rates = [moment.rates[name] for moment in moments if name in moment.rates]
        config = {
            "variant": variants.get(name, ""),
            "threads": threads,
            "turns": len(rates),
            "lowest": min(rates),
            "highest": max(rates),
        }
        rows.append(
            Row(
                run_id,
                "ceiling",
                backend,
                name,
                "ok",
                "",
                replicate,
                threads=threads,
                started_at=now(),
                value=median(rates),
                unit="FLOP/s" if name.startswith(ARITHMETIC) else "bytes/s",
                config=config,
            )
        )
    return rows


def failed_ceilings(run_id: str, backend: str, replicate: int, threads: int, status: str, reason: str) -> Row:
    """One row for ceilings that could not be measured."""
    return Row(
        run_id,
        "ceiling",
        backend,
        "ceilings",
        status,
        reason,
        replicate,
        threads=threads,
        started_at=now(),
    )


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
