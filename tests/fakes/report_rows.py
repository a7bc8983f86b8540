"""Rows of a report with something in every chart: two machines, sweeps, repeated runs, a point of load."""

from __future__ import annotations

from typing import Any

from rows import MACHINE, case, ceiling, failed

from membound.results.row import Row
from membound.results.serving.request import Request

STEP = "step:model=llama-3.2-1b,batch={batch},context={context},weight=bf16,kv=bf16,act=float"
EVIL = "<script>alert(1)</script>"
"""A name that a page must show and never run."""
STEERING = "be\x1b[31mta:cpu"


def report_rows(evil: bool = False) -> list[Row]:
    """Two runs of one machine and one of another; batches 1, 8, 64 and contexts of a step; failures; a load."""
    rows: list[Row] = []
    for run, cpu, day in (("run-a", "Test CPU", 1), ("run-b", "Test CPU", 2), ("run-c", "Other CPU", 3)):
        common = {
            "run_id": run,
            "machine": MACHINE | {"cpu": EVIL if evil and cpu == "Other CPU" else cpu},
            "started_at": f"2026-11-0{day}T10:00:00+00:00",
        }
        rows += _ceilings(common)
        for batch, context in ((1, 1024), (8, 1024), (64, 1024), (1, 256), (1, 4096)):
            rows += _step(batch, context, common, STEERING if evil else "beta:cpu")
        rows.append(
            failed(
                "unsupported",
                "=cmd|' /C calc'!A0" if evil else "no int4",
                backend="beta:cpu",
                work="linear:n=8,k=32,m=1,weight=int4g32,act=int8",
                **common,
            )
        )
        rows.append(failed("crashed", "the worker died of SIGSEGV", backend="beta:cpu", **common))
    return [*rows, load_row()]


def _ceilings(common: dict[str, Any]) -> list[Row]:
    turns = {"turns": 30, "lowest": 1.6e10, "highest": 2.2e10}
    return [
        ceiling("read", 2e10, "bytes/s", config=turns, **common),
        ceiling("fma_f32", 4e11, "FLOP/s", **common),
        ceiling("launch", 5e-3, "s", **common),
    ]


def _step(batch: int, context: int, common: dict[str, Any], second: str) -> list[Row]:
    """Three processes of two backends: the first at 80 % of the limit, the other at half of that."""
    moved, flops = 2_000_000_000 + 1_000 * batch * context, 2_500_000_000 * batch
    least_s = max(moved / 2e10, flops / 4e11)
    values = {
        "work": STEP.format(batch=batch, context=context),
        "bytes": moved,
        "flops": flops,
        "traffic": {"weights_bytes": 2_000_000_000, "kv_read_bytes": 1_000 * batch * context},
        "seed": 1,
        **common,
    }
    return [
        case(
            backend,
            samples=[share * least_s * (1 + 0.01 * replicate)],
            replicate=replicate,
            grade=grade,
            **values,
        )
        for backend, share, grade in (("alpha:cpu", 1.25, "clean"), (second, 2.5, "contended"))
        for replicate in range(3)
    ]


def load_row() -> Row:
    """A point of load with eighty whole answers."""
    requests = [
        Request(
            due_s=0.1 * i, sent_s=0.1 * i, arrivals_s=[0.1 * i + 0.05 + 0.01 * n for n in range(5)],
            tokens=[1] * 5, reads=list(range(5)), ended_s=0.1 * i + 0.1, prompt_tokens=10,
        )
        for i in range(80)
    ]  # fmt: skip
    return Row(
        run_id="load-a", kind="serving", backend="url", work="load:rate=10", status="ok", device="http://127.0.0.1:8000",
        requests=requests, config={"warm_s": 1.0, "end_s": 8.0}, grade="clean", command="membound load --rate 10",
        machine=MACHINE, started_at="2026-11-04T10:00:00+00:00",
    )  # fmt: skip
