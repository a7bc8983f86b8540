"""The ceilings that belong to a case: measured in the same run, on the same device, with the same number of threads.

>>> limits = limits_of(row, rows)
>>> limits.read_bytes_per_s, limits.compute_flops_per_s, limits.launch_s
(2.1e10, 3.4e11, 4e-07)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from membound.results.row import Row
from membound.spec_text import settings

SHARED = re.compile(r"tp[1-9][0-9]*")
"""The variant of a device that shares a step with those after it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Measured ceilings of one case; None is "not measured in this run".

    read_bytes_per_s is the bandwidth that the row's `memory_ceiling` names: memory's, or a link's.
    read_lowest_bytes_per_s is the lowest of its measurements: what others who use the memory left.
    """

    read_bytes_per_s: float | None
    compute_flops_per_s: float | None
    launch_s: float | None
    read_lowest_bytes_per_s: float | None = None
    compute_by_name: dict[str, float] | None = None
    """The best measurement of each ceiling that bounds the work's arithmetic."""


@lru_cache(1 << 10)
def device_class(backend: str) -> str:
    """The hardware behind ``backend:device+variant#label``: ``cpu``, ``cuda:0``; what two backends may share.

    Accelerators that share a step are another device than the first of them: ``cuda:0+tp2``.
    """
    device, *variants = (backend.partition("#")[0].partition(":")[2] or "cpu").split("+")
    kind, _, index = device.partition(":")
    ranks = "".join(f"+{variant}" for variant in variants if SHARED.fullmatch(variant))
    return kind if kind == "cpu" else f"{kind}:{index or 0}{ranks}"


@lru_cache(1 << 10)
def compute_ceilings(work: str) -> tuple[str, ...]:
    """Names of the ceilings that bound a work's arithmetic.

    Integer arithmetic (act=int8) is compared with integer ceilings. Float arithmetic is compared with float32
    multiply-adds and GEMMs, and with the dot products, matrix tiles and GEMM of the stored format. bfloat16 holds
    integers that are widened to floats exactly, so its GEMM counts for them.
    """
    keys = settings(work)
    if keys.get("act") == "int8":
        return ("dot_int8", "tile_int8", "gemm_int8")
    stored = keys.get("weight", keys.get("kv", "f32"))
    if stored == "f32":
        return ("fma_f32", "gemm_f32")
    if stored == "f16":
        return ("fma_f32", "gemm_f32", "tile_f16", "gemm_f16")
    return ("fma_f32", "gemm_f32", "dot_bf16", "tile_bf16", "gemm_bf16")


def limits_of(row: Row, rows: Iterable[Row]) -> Limits:
    """The ceilings for a row among `rows`; the best if several apply or one was measured repeatedly.

    A measured ceiling is a lower bound of the true one, so the best measurement is the closest to it.
    """
    near = [
        r
        for r in rows
        if r.kind == "ceiling"
        and r.status == "ok"
        and r.value is not None
        and r.run_id == row.run_id
        and device_class(r.backend) == device_class(row.backend)
        and r.threads == row.threads
    ]
    launches = [r.value for r in near if r.backend == row.backend and r.work == "launch" and r.value]
    return Limits(
        read_bytes_per_s=_best(near, (row.memory_ceiling,)),
        compute_flops_per_s=_best(near, compute_ceilings(row.work)),
        launch_s=min(launches, default=None),
        read_lowest_bytes_per_s=min(
            (r.value for r in near if r.work == row.memory_ceiling and r.value is not None), default=None
        ),
        compute_by_name={
            name: best for name in compute_ceilings(row.work) if (best := _best(near, (name,))) is not None
        },
    )


def best_ceilings(rows: Iterable[Row]) -> list[tuple[float, Row]]:
    """(value, its row) of every ceiling, the best measurement of each; launch overhead of each backend.

    The order is that of the rows.
    """
    best: dict[tuple[str, str], tuple[float, Row]] = {}
    for row in rows:
        if row.kind != "ceiling" or row.status != "ok" or row.value is None:
            continue
        is_time = row.unit == "s"
        key = (row.work, row.backend if is_time else device_class(row.backend))
        if key not in best or (row.value < best[key][0] if is_time else row.value > best[key][0]):
            best[key] = row.value, row
    return list(best.values())


def _best(ceilings: list[Row], names: tuple[str, ...]) -> float | None:
    return max((r.value for r in ceilings if r.work in names and r.value is not None), default=None)
