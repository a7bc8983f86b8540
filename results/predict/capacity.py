"""Does it fit? Weights and cache against the memory of some devices, and where the cache ends.

>>> capacity(demand, 80e9, 1).most_batch
390
"""

from __future__ import annotations

from dataclasses import dataclass

from membound.results.predict.demand import Demand

MEMORY_SHARE = 0.9
"""What an engine lets weights and cache take: vLLM's default of gpu_memory_utilization (docs.vllm.ai, engine arguments)."""
COUNTS = (1, 2, 4, 8, 16, 32, 64)
"""Counts of devices that are tried: heads and experts divide by them."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Memory that a work needs and has, in bytes over all devices; both ends are None for works without a cache."""

    devices: float
    weights_bytes: float
    cache_bytes: float
    usable_bytes: float
    most_batch: int | None
    most_context: int | None

    @property
    def fits(self) -> bool:
        """Whether weights and cache lie in memory together."""
        return self.weights_bytes + self.cache_bytes <= self.usable_bytes


def capacity(
    demand: Demand, memory_bytes: float, devices: float, share: float = MEMORY_SHARE, offload: float = 0.0
) -> Capacity:
    """Weights and cache spread evenly over devices of `memory_bytes` each; `offload` of the weights lie elsewhere."""
    usable = devices * memory_bytes * share
    weights = demand.resident_bytes * (1 - offload)
    cache = demand.batch * demand.context * demand.token_cache_bytes
    tokens = (usable - weights) / demand.token_cache_bytes if demand.token_cache_bytes else None
    is_step = demand.kind == "decode" and tokens is not None
    return Capacity(
        devices=devices,
        weights_bytes=weights,
        cache_bytes=cache,
        usable_bytes=usable,
        most_batch=max(0, int(tokens / demand.context)) if is_step and tokens is not None else None,
        most_context=max(0, int(tokens / demand.batch)) if is_step and tokens is not None else None,
    )


def fewest_devices(
    demand: Demand, memory_bytes: float, share: float = MEMORY_SHARE, offload: float = 0.0
) -> int | None:
    """The smallest of COUNTS that holds the work; None if none does."""
    fitting = (n for n in COUNTS if capacity(demand, memory_bytes, n, share, offload).fits)
    return next(fitting, None)
