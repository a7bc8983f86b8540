"""Rows as a run would store them, for tests of what is made from rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from membound.results.row import Row

MACHINE = {"cpu": "Test CPU", "cores": 2, "last_level_cache_bytes": 1 << 20, "memory_bytes": 8 << 30}
LINEAR = "linear:n=4096,k=4096,m=1,weight=bf16,act=float"


def case(backend: str = "alpha:cpu", work: str = LINEAR, samples: Any = (0.01,), **values: Any) -> Row:
    """A measured case: 100 MB and 1 GFLOP unless told otherwise."""
    base: dict[str, Any] = {
        "run_id": "run-a",
        "kind": "case",
        "status": "ok",
        "threads": 2,
        "device": "Test CPU",
        "bytes": 100_000_000,
        "flops": 1_000_000_000,
        "working_set_bytes": 400_000_000,
        "grade": "clean",
        "machine": MACHINE,
        "error": 1e-3,
        "tolerance": 1e-2,
    }
    return Row(backend=backend, work=work, samples_s=list(samples), **(base | values))


def failed(status: str, reason: str = "", **values: Any) -> Row:
    """A case without a time."""
    return case(**({"samples": (), "status": status, "reason": reason, "error": None} | values))


def ceiling(name: str, value: float, unit: str, backend: str = "alpha:cpu", **values: Any) -> Row:
    """A measured limit."""
    base: dict[str, Any] = {
        "run_id": "run-a",
        "kind": "ceiling",
        "status": "ok",
        "threads": 2,
        "device": "Test CPU",
        "machine": MACHINE,
        "grade": "clean",
    }
    return Row(backend=backend, work=name, value=value, unit=unit, **(base | values))


def run_rows(run_id: str = "run-a", scale: float = 1.0) -> list[Row]:
    """A small run: ceilings, two backends on one work in three processes, one unsupported case."""
    rows = [
        ceiling(
            "read",
            11e9,
            "bytes/s",
            run_id=run_id,
            config={"variant": "4 streams", "array_bytes": 1 << 30, "threads": 2},
        ),
        ceiling("fma_f32", 4e11, "FLOP/s", run_id=run_id),
        ceiling("launch", 2e-6, "s", run_id=run_id),
    ]
    for replicate in range(3):
        time = scale * (1 + 0.01 * replicate)
        common = {"run_id": run_id, "replicate": replicate}
        rows.append(case(samples=[0.01 * time, 0.0101 * time], **common))
        rows.append(case("beta:cpu+x", samples=[0.02 * time, 0.021 * time], **common))
    rows.append(failed("unsupported", "no int4", run_id=run_id, backend="beta:cpu+x", work="linear:n=8,k=32"))
    return rows


def write(path: Path, rows: list[Row]) -> Path:
    """A row file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row.to_json() + "\n" for row in rows), encoding="utf-8")
    return path
