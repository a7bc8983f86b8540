"""The grid of the claim's map: decode steps by batch, context and format, with their bytes and FLOPs.

>>> region_points(["llama-3-8b"])[0].work
'step:model=llama-3-8b,batch=1,context=512,weight=bf16,kv=bf16,act=float'
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from membound.kernels.models import MODELS
from membound.kernels.work import SpecError, Step, parse
from membound.results.claim.file import Claim
from membound.results.claim.region import RegionPoint

MODEL = "llama-3-8b"
BATCHES = (1, 4, 16, 64, 256)
CONTEXTS = (512, 2048, 8192, 32768)
FORMATS = (("bf16", "bf16", "float"), ("int8", "int8", "int8"), ("int4g32", "int8", "int8"))
"""Weights, cache, arithmetic."""


def region_points(models: Iterable[str] = (MODEL,), measured: Iterable[str] = ()) -> list[RegionPoint]:
    """The grid for each model, then the steps among `measured` specs that are not on it."""
    points = [point for model in models for point in _grid(model)]
    points += [_point(step) for step in map(_step, measured) if step is not None]
    return list({point.work: point for point in points}.values())


@cache
def _grid(model: str) -> tuple[RegionPoint, ...]:
    return tuple(
        _point(Step(model, batch, context, weight, kv, act))
        for weight, kv, act in FORMATS
        for context in CONTEXTS
        for batch in BATCHES
    )


def points_for(claim: Claim) -> list[RegionPoint]:
    """The grid of the default model and of every listed model that the claim ran a step of, and those steps."""
    specs = list(dict.fromkeys(one.work for one in claim.observations))
    steps = [step for step in map(_step, specs) if step is not None]
    models = dict.fromkeys([MODEL, *(s.model for s in steps if s.model in MODELS and not s.layers)])
    return region_points(models, specs)


def _step(spec: str) -> Step | None:
    """The step of a spec; None for another kind, and for a model folder that is not here any more."""
    if not spec.startswith("step:"):
        return None
    try:
        work = parse(spec)
    except SpecError:
        return None
    return work if isinstance(work, Step) else None


@cache
def _point(step: Step) -> RegionPoint:
    model = f"{step.model}, {step.layers} layers" if step.layers else step.model
    return RegionPoint(
        step.spec,
        model,
        step.batch,
        step.context,
        f"{step.weight}, cache {step.kv}, {step.act}",
        step.traffic.total_bytes,
        step.flops,
        sum(operation.count for operation in step.operations),
        step.footprint_bytes,
    )
