"""Fleets whose truth is known: devices that differ by chance alone, and one that is slow."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from math import exp
from typing import Any

from rows import MACHINE, case, ceiling, failed

from membound.results.fleet.device_run import DeviceRun, Figure, Make
from membound.results.row import Row

MAKE = Make("Test GPU", "0.1.0", "3.12.3", "avx2 avx512f")
READ = Figure("cuda:0", "read", 8, "bytes/s")
WORKS = tuple(
    Figure("alpha:cuda:0", f"linear:n={n},k=4096,m=1,weight=bf16,act=float", 8, "bytes/s")
    for n in (4096, 8192, 14336)
)
RATE = 4e12


def fleet(
    count: int,
    rng: random.Random,
    between: float,
    within: float,
    slow: Mapping[int, float] | None = None,
    figures: Sequence[Figure] = (READ, *WORKS),
    processes: int = 3,
) -> list[DeviceRun]:
    """That many devices. `between` and `within`: standard deviations of logarithms, of devices and of a device's processes.

    slow: the share of its rate that a device has left, by its number.
    """
    found = []
    for number in range(count):
        own = rng.gauss(0.0, between)
        left = (slow or {}).get(number, 1.0)
        one = DeviceRun(f"node-{number // 8:03}", f"cuda:{number % 8}", f"fleet.{number}", make=MAKE)
        for figure in figures:
            draws = (rng.gauss(0.0, 1.0) for _ in range(processes))
            one.rates[figure] = [RATE * left * exp(own + within * draw) for draw in draws]
        found.append(one)
    return found


def fleet_rows(
    count: int = 12,
    slow: Mapping[int, float] | None = None,
    days: Sequence[str] = ("2026-11-28",),
    racks: bool = True,
    names: Mapping[int, str] | None = None,
    odd: str = "6.8",
) -> list[Row]:
    """Rows of a fleet as `membound fleet` stores them: two works and a ceiling, three processes each; one node was lost.

    Devices lie 0.2 % apart from neighbour to neighbour. A slow one has ECC on, its memory clock low, and `odd` for a kernel.
    """
    rows: list[Row] = []
    for day in days:
        for number in range(count):
            left = (slow or {}).get(number, 1.0)
            node = (names or {}).get(number, f"node-{number:02}")
            where = {"node": node} | ({"rack": f"r{number % 3}"} if racks else {})
            common: dict[str, Any] = {
                "run_id": f"{day}.{node}.cuda:0",
                "machine": MACHINE
                | where
                | {"python": "3.12.3", "isa": ["avx2"], "kernel": odd if left < 1 else "6.8"},
                "started_at": f"{day}T10:00:00+00:00",
            }
            rate = left * (1 + 0.002 * (number % 5 - 2))
            for replicate in range(3):
                common |= {"replicate": replicate}
                rows += _process(rate * (1 + 0.001 * (replicate - 1)), left < 1, common)
    lost = {"run_id": "lost", "machine": {"node": "node-lost"}}
    return [*rows, failed("crashed", "the node died", backend="alpha:cuda:0", **lost)]


def _process(rate: float, bad: bool, common: Mapping[str, Any]) -> list[Row]:
    values = {
        "device": "Test GPU",
        "accelerator": {"ecc": bad, "uuid": f"GPU-{common['run_id']}", "memory_bytes": 80 << 30},
        "versions": {"membound": "0.1.0"},
        "telemetry": {
            "device_memory_clock_ratio": 0.8 if bad else 1.0,
            "device_throttle": "heat" if bad else "",
        },
        **common,
    }
    turns = {"turns": 10, "lowest": 0.9e12, "highest": 1.1e12}
    return [
        ceiling("read", 1e12 * rate, "bytes/s", backend="alpha:cuda:0", config=turns, device="", **common),
        case("alpha:cuda:0", samples=[1e-3 / rate], **values),
        case("alpha:cuda:0", work="attention:context=8192,kv=bf16", samples=[2e-3 / rate], **values),
    ]
