"""The machine at hand as a device: its measured ceilings beside its catalogue row, and its works as measured rows.

>>> from membound.results.predict.catalogue import load_catalogue
>>> from membound.results.stored_runs import rows_of
>>> here = here_of(rows_of("latest"), load_catalogue())
>>> here.device.id, here.ceilings["bandwidth_gb_per_s"]
('epyc_9005', 80.6)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from membound.bench.planning.demands import demand_of
from membound.errors import MemboundError
from membound.kernels.work import SpecError
from membound.results import row as stored
from membound.results.frame import encodable
from membound.results.predict.catalogue import Catalogue
from membound.results.predict.demand import Measured, Offer
from membound.results.predict.device import Device
from membound.results.predict.recognition import recognised
from membound.results.roofline import best_ceilings, limits_of
from membound.results.row import Row
from membound.results.stats import records, summarize
from membound.results.store import SUFFIX, load_rows

CEILINGS = {
    "bandwidth_gb_per_s": (("read",), 1e9),
    "f32_tflops": (("fma_f32", "gemm_f32"), 1e12),
    "bf16_tflops": (("dot_bf16", "tile_bf16", "gemm_bf16"), 1e12),
    "f16_tflops": (("tile_f16", "gemm_f16"), 1e12),
    "int8_tops": (("dot_int8", "tile_int8", "gemm_int8"), 1e12),
}
"""The ceilings that a figure of the catalogue is set against, and its unit."""


PUBLISHED = Path(stored.__file__).with_name("published")
"""Runs that ship with the package."""


class HereError(MemboundError, ValueError):
    """A run cannot be used for a prediction."""


@dataclass(frozen=True, slots=True)
class Here:
    """A machine that was measured. device: its row of the catalogue, None if it has none. ceilings: in the units of fields."""

    name: str
    run_id: str
    threads: int
    device: Device | None
    ceilings: dict[str, float]
    rows: tuple[Measured, ...]


def heres_of(rows: Sequence[Row], catalogue: Catalogue) -> list[Here]:
    """What each of several runs says of its machine. Raises HereError if one has no ceilings."""
    runs = dict.fromkeys(row.run_id for row in rows)
    return [here_of([row for row in rows if row.run_id == run], catalogue) for run in runs]


def published_operations(catalogue: Catalogue) -> list[Measured]:
    """Single operations of the published runs, one machine a folder: no others are known of any device."""
    found: list[Measured] = []
    for path in sorted(PUBLISHED.glob(f"*/[0-9]*{SUFFIX}")):
        here = here_of(load_rows(path), catalogue, path.parent.name)
        found += [row for row in here.rows if row.group == "operation"]
    return found


def here_of(rows: Sequence[Row], catalogue: Catalogue, machine: str = "") -> Here:
    """What a run says of its machine, called `machine` where the catalogue does not have it. Raises HereError.

    Its rows count as of the catalogue's device, so that they never predict that device itself.
    """
    row = rows[0]
    name = str(next((r.device for r in rows if r.device), row.machine.get("cpu") or "this machine"))
    best = [(value, ceiling) for value, ceiling in best_ceilings(rows) if ceiling.unit != "s"]
    ceilings = {}
    for field, (names, unit) in CEILINGS.items():
        found = [value for value, ceiling in best if ceiling.work in names]
        if found:
            ceilings[field] = max(found) / unit
    if "bandwidth_gb_per_s" not in ceilings:
        raise HereError(
            f"run {row.run_id} has no read ceiling; measure with `membound run`, which takes them"
        )
    threads = max(r.threads for r in rows)
    cpu_model = "" if row.accelerator else str(row.machine.get("cpu_model", ""))
    device = recognised(name, cpu_model, catalogue)
    called = device.id if device else machine or row.run_id
    return Here(name, row.run_id, threads, device, ceilings, tuple(_measured(rows, row.run_id, called)))


def _measured(rows: Sequence[Row], run_id: str, device: str) -> list[Measured]:
    """The fastest backend of each work, on the bandwidth of its own moment: what it reached of that is what counts."""
    cases = [x for x in records(summarize(rows)) if x["time_s"] and x["mbu"]]
    found = []
    for work in dict.fromkeys(x["work"] for x in cases):
        case = min((x for x in cases if x["work"] == work), key=lambda x: float(x["time_s"]))
        told = work, case["backend"]  # a table escapes what UTF-8 cannot say
        source = next(
            r for r in rows if r.kind == "case" and (encodable(r.work), encodable(r.backend)) == told
        )
        limits = limits_of(source, rows)
        try:
            demand = demand_of(work)
        except SpecError:
            continue
        counted = replace(demand, weights_bytes=case["bytes"] - demand.cache_bytes)
        found.append(
            Measured(
                id=f"{run_id} {work}",
                device=device,
                group={"decode": "single" if demand.batch == 1 else "served"}.get(demand.kind, demand.kind),
                demand=counted,
                offer=Offer(
                    kind="gpu" if source.accelerator else "cpu",
                    bandwidth_bytes_per_s=case["bytes"] / case["time_s"] / case["mbu"],
                    flops_per_s=limits.compute_flops_per_s,
                ),
                seconds=float(case["time_s"]),
                source=run_id,
                label=f"{work}, {case['backend']}",
            )
        )
    return found
