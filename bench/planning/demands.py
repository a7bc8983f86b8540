"""Works as demands: what they move and compute, counted by the kernels, for the models of prediction.

>>> demand_of("step:model=llama-3-8b,batch=1,context=1024").bytes
15143600128.0
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from membound.kernels.served import WEIGHT_BITS, ServedPrefill, ServedStep
from membound.kernels.work import KINDS, RoutedExperts, parse_as
from membound.results.predict.demand import Demand

PREDICTED = {**KINDS, "step": ServedStep, "prefill": ServedPrefill}
"""The kinds of work, with more models and formats of steps and prompts than are run here."""
INT8_BITS, INT4_BITS = 8.5, 7.0
"""The most bits a weight that count as int8 and as int4."""
LAYER_LAUNCHES = 8
"""Operations of a layer, whose launches are learnt together: q, k, v, o, gate, up, down, attention."""


def parse_predicted(spec: str) -> Any:
    """A work that can be predicted. Raises SpecError."""
    return parse_as(spec, PREDICTED)


def demand_of(spec: str, batch: int | None = None) -> Demand:
    """What a work asks for, at another batch if one is given. Raises SpecError."""
    work = parse_predicted(spec)
    if batch is not None and hasattr(work, "batch"):
        work = replace(
            work, batch=batch, **({"distinct": 0} if isinstance(work, RoutedExperts) else {})
        )  # which experts are read follows from the batch
    if isinstance(work, ServedStep | ServedPrefill):
        return served_demand(work)
    weight = getattr(work, "weight", getattr(work, "kv", "bf16"))
    traffic = work.traffic
    cache = traffic.kv_read_bytes + traffic.kv_written_bytes
    weights = float(traffic.total_bytes - cache)
    return Demand(
        work=work.spec,
        kind="operation",
        storage=storage_of(weight),
        arithmetic=arithmetic_of(weight, getattr(work, "act", "float")),
        mixture=False,
        weights_bytes=weights,
        cache_bytes=float(cache),
        flops=float(work.flops),
        layers=1 / LAYER_LAUNCHES,
        hidden=1,
        batch=1,
        resident_bytes=weights,
        token_cache_bytes=float(cache),
        context=1,
    )


def served_demand(work: ServedStep | ServedPrefill) -> Demand:
    """What a step or a prompt asks for."""
    step = isinstance(work, ServedStep)
    return Demand(
        work=work.spec,
        kind="decode" if step else "prefill",
        storage=storage_of(work.weight),
        arithmetic=arithmetic_of(work.weight, work.act),
        mixture=work.shape.experts,
        weights_bytes=work.streamed_bytes,
        cache_bytes=work.cache_bytes,
        flops=work.flops,
        layers=len(work.shape.layers),
        hidden=work.shape.hidden,
        batch=work.batch if isinstance(work, ServedStep) else work.batch * work.tokens,
        resident_bytes=work.resident_bytes,
        token_cache_bytes=work.token_cache_bytes,
        context=work.context if isinstance(work, ServedStep) else 1,
    )


def storage_of(weight: str) -> str:
    """How weights lie: float, int8 or int4. Fewer bits cost more work to unpack."""
    bits = WEIGHT_BITS.get(weight, 8.0)
    return "float" if bits > INT8_BITS else "int8" if bits > INT4_BITS else "int4"


def arithmetic_of(weight: str, act: str) -> str:
    """Whose peak bounds the products: integers and small floats only where activations have them too."""
    if act == "int8":
        return "int8"
    return {"fp8": "fp8", "nvfp4": "fp4", "mxfp4": "fp8", "f32": "f32"}.get(weight, "bf16")
