"""What a work asks of a device, and what a device of some size offers: all that the models of prediction see.

>>> demand = Demand("step", "decode", "float", "bf16", False, 15.0e9, 0.13e9, 15e9, 32, 4096, 1)
>>> offer = Offer("gpu", 3.35e12, 989e12)
>>> demand.bytes / offer.bandwidth_bytes_per_s  # seconds
0.0045...

bench.planning.demands makes demands from works, whose bytes and FLOPs `membound.kernels` counts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """One step, prompt or operation. kind: decode, prefill or operation. Bytes, FLOPs and counts of one launch of it.

    layers: a single operation is the share of one that it is. storage: float (16 bits and more a weight), int8, int4 (fewer than 7). arithmetic: whose peak bounds it.
    tokens: what comes out of it. resident_bytes: all weights; token_cache_bytes: cache for a token of a sequence.
    prompt_flops: work on others' prompts that a step carries along, with continuous batching.
    """

    work: str
    kind: str
    storage: str
    arithmetic: str
    mixture: bool
    weights_bytes: float
    cache_bytes: float
    flops: float
    layers: float
    hidden: int
    batch: float
    resident_bytes: float = 0.0
    token_cache_bytes: float = 0.0
    context: float = 0.0
    prompt_flops: float = 0.0

    @property
    def bytes(self) -> float:
        """All bytes that move."""
        return self.weights_bytes + self.cache_bytes

    @property
    def needed_bytes(self) -> float:
        """Memory for all weights and the cache of every sequence."""
        return self.resident_bytes + self.batch * self.context * self.token_cache_bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """A device's paper figures, `devices` of them together, and how its launches are made.

    bandwidth_bytes_per_s and flops_per_s are of one device; flops_per_s is None if unknown. link_bytes_per_s: to
    the neighbours, one direction. graphs: launches of a step are recorded once and replayed together. served: a
    serving engine schedules each sequence. devices may be a fraction: one die of two.
    """

    kind: str
    bandwidth_bytes_per_s: float
    flops_per_s: float | None
    devices: float = 1
    link_bytes_per_s: float | None = None
    graphs: bool = True
    served: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """A published or own measurement: seconds of one step. group: single, parallel or served."""

    id: str
    device: str
    group: str
    demand: Demand
    offer: Offer
    seconds: float
    source: str
    label: str
