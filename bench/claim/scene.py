"""What the arms of an experiment depend on: the caches, the room and the measured limits of one backend's device.

>>> scene_of("mine:cpu", machine, ceilings, threads=2, room_bytes=8 << 30, co_runner_cores=1).ridge
11.2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

from membound.kernels.work import Linear
from membound.results.roofline import device_class, limits_of
from membound.results.row import Row

LAUNCH_S = 1e-4
"""Works are so large that their bytes take at least this long: far beyond what launching costs on a GPU."""
PLAIN_BYTES = 64 << 20
"""About what the works of a scene of scale 1 move."""
MOST_SCALE = 8
DEVICE_FLOATS = "bf16"
"""What models are served in on accelerators; matrix units take no float32 cache."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Sizes in bytes; a ridge (FLOP/B of float32) or `knee_rows` of 0 is unknown.

    core_cache_bytes: what the caches of the cores in use hold, 0 where nobody else fills the last-level cache.
    knee_rows: rows of x at which the last format of linear products turns compute-bound. scale: by how much
    works are larger than on a CPU. co_runner_cores: those that co-runners may have; on an accelerator one,
    which the backend may offer. spatial: a co-runner takes a share of the device, and not of a core's time.
    floats: the format of caches and steps where no format is varied. variants: what the device is also
    offered as, one word behind a plus sign.
    """

    cache_bytes: int
    room_bytes: int = 1 << 62
    ridge: float = 0.0
    co_runner_cores: int = 0
    core_cache_bytes: int = 0
    knee_rows: float = 0.0
    scale: int = 1
    spatial: bool = False
    floats: str = "f32"
    variants: tuple[str, ...] = ()


def scene_of(
    backend: str,
    machine: Mapping[str, Any],
    ceilings: Sequence[Row],
    threads: int,
    room_bytes: int,
    co_runner_cores: int,
    device_cache_bytes: int = 0,
    variants: Sequence[str] = (),
) -> Scene:
    """The scene of a backend among the rows of one run; `device_cache_bytes` is that of an accelerator."""

    def limits(weight: str) -> tuple[float, float]:
        run_id = ceilings[0].run_id if ceilings else ""
        spec = Linear(1, 1, weight=weight).spec
        found = limits_of(Row(run_id, "case", backend, spec, "ok", threads=threads), ceilings)
        return found.read_bytes_per_s or 0.0, found.compute_flops_per_s or 0.0

    read, peak = limits("f32")
    ridge = {weight: limits(weight)[1] / read if read else 0.0 for weight in ("f32", "bf16")}
    on_cpu = device_class(backend) == "cpu"
    scale = 1 << max(0, ceil(log2(read * LAUNCH_S / PLAIN_BYTES))) if read else 1
    return Scene(
        cache_bytes=device_cache_bytes or machine["last_level_cache_bytes"],
        room_bytes=room_bytes,
        ridge=peak / read if read else 0.0,
        co_runner_cores=co_runner_cores if on_cpu else 1,
        spatial=not on_cpu,
        core_cache_bytes=_core_cache_bytes(machine, threads) if on_cpu else 0,
        knee_rows=max(2 * ridge["f32"], ridge["bf16"]),  # bytes of a weight over its two FLOPs a row
        scale=min(scale, MOST_SCALE),
        floats="f32" if on_cpu else DEVICE_FLOATS,
        variants=tuple(variants),
    )


def _core_cache_bytes(machine: Mapping[str, Any], threads: int) -> int:
    """Second-level caches of the cores in use, where a hypervisor may give the last level to others too."""
    if not machine["hypervisor"] or not machine["l2_bytes"]:
        return 0
    return int(machine["l2_bytes"] / machine["cores"] * threads)
