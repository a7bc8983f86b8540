"""A point of load on the roofline: bytes a token, the share of the bandwidth, and what the rest of a token's time is.

>>> point = roofline_of(row)
>>> point.bytes_per_token, point.mbu, point.split["bytes"]
(4.1e6, 0.42, 0.0113)

A step streams the weights once for all sequences, and of each its cache. Ceilings were measured on the same device, with the
engine's threads, right before and after the point, while the server was idle. A part of the time is shown only if it was
measured: the others are not known, and None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from membound.results.claim.knee import knee
from membound.results.roofline import compute_ceilings
from membound.results.row import Row
from membound.results.serving.decode import Decoding, decoding_of
from membound.results.serving.engine_step import EngineStep, engine_step_of
from membound.results.serving.point import point_of
from membound.results.serving.step_model import StepModel
from membound.results.serving.window import Window

READ = "read"
PARTS = {
    "bytes": "bytes, at the measured bandwidth",
    "step": "the rest of the engine's step alone: kernels, scheduler, sampling",
    "engine": "the rest of the engine's own time under load: prompts, other requests, output",
    "http": "API server and HTTP",
    "client": "the client, as measured before the run",
}
"""Parts of the mean time between two tokens, in the order in which they add up."""
FEWEST_BATCHES = 4
"""A bend needs two points on either side."""


@dataclass(frozen=True, slots=True)
class ServingRoofline:
    """Seconds, bytes, shares from 0 to 1; None is not known."""

    decoding: Decoding
    bytes_per_token: float | None = None
    """Weights over the batch, and a sequence's cache at its mean length."""
    read_bytes_per_s: float | None = None
    """Median of the ceilings around the point."""
    bytes_s: float | None = None
    """What a step's bytes take at that bandwidth."""
    flops_s: float | None = None
    mbu: float | None = None
    split: dict[str, float | None] = field(default_factory=dict)
    """By the names of PARTS. Where the engine's step alone is not known, `engine` is all of its own time but the bytes."""
    step: EngineStep | None = None
    """The engine's step alone at that batch and context."""
    cached: bool = False
    """Whether the weights fit the last-level cache, so that the share says nothing of memory."""

    @property
    def bound_s(self) -> float | None:
        """The least time of a step: of its bytes or of its arithmetic."""
        return None if self.bytes_s is None else max(self.bytes_s, self.flops_s or 0.0)


def roofline_of(row: Row, steps: Sequence[Row] = ()) -> ServingRoofline | None:
    """Of a stored point; None where nothing decoded in its window. `steps`: rows among which that of the engine's step may be."""
    decoding = decoding_of(row.requests, Window(row.config["warm_s"], row.config["end_s"]))
    if decoding is None:
        return None
    stored = row.config.get("roofline", {})
    model = _model(stored)
    if model is None or decoding.context is None:
        return ServingRoofline(decoding, split=_split(row, None, None))
    step = engine_step_of(row, decoding, model, steps)
    bytes_ = model.bytes_of(decoding.batch, decoding.context)
    per_token = bytes_ / decoding.batch
    read, peak = ceilings_of(stored)
    if read is None:
        return ServingRoofline(decoding, per_token, split=_split(row, None, step), step=step)
    bytes_s = bytes_ / read
    flops_s = None if peak is None else model.flops_of(decoding.batch, decoding.context) / peak
    split = _split(row, bytes_s, step)
    cached = model.weights_bytes <= (row.machine.get("last_level_cache_bytes") or 0)
    return ServingRoofline(
        decoding, per_token, read, bytes_s, flops_s, bytes_s / decoding.itl_s, split, step, cached
    )


def _model(stored: Mapping[str, Any]) -> StepModel | None:
    told = stored.get("step", {})
    return StepModel(**told) if told else None


def ceilings_of(stored: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """(Bytes, FLOPs a second): the median of each ceiling's turns, of the peaks the best."""
    turns: Sequence[Mapping[str, float]] = stored.get("ceilings", [])
    names = compute_ceilings(str(stored.get("work", "")))
    middle = {name: median([t[name] for t in turns if name in t]) for t in turns for name in t}
    return middle.get(READ), max((middle[name] for name in names if name in middle), default=None)


def _split(row: Row, bytes_s: float | None, step: EngineStep | None) -> dict[str, float | None]:
    """What was measured of a token's time; a part that is smaller than the error of two clocks comes out as 0."""
    server = row.config.get("server") or {}
    own, seen = server.get("mean_itl_s"), server.get("client_mean_itl_s")
    added = row.config.get("client", {}).get("null_server", {}).get("added_itl_p50_s")
    alone = None if step is None or bytes_s is None else max(0.0, step.seconds - bytes_s)
    engine = None if own is None or bytes_s is None else max(0.0, own - bytes_s - (alone or 0.0))
    http = None if own is None or seen is None else max(0.0, seen - own - (added or 0.0))
    return {"bytes": bytes_s, "step": alone, "engine": engine, "http": http, "client": added}


def frontier(rows: Sequence[Row]) -> list[tuple[Row, float, float, bool]]:
    """(Point, tokens a second of the device, of one user, whether no other point is better in both) of each that is ok."""
    found = []
    for row in rows:
        if row.kind == "serving" and row.status == "ok":
            point = point_of(row.requests, Window(row.config["warm_s"], row.config["end_s"]))
            tpot = point.latency["tpot"].at.get(50)
            if tpot:
                found.append((row, point.output_tokens_per_s, 1 / tpot))
    return [
        (row, device, user, not any(d > device and u > user for _, d, u in found))
        for row, device, user in found
    ]


@dataclass(frozen=True, slots=True)
class Knee:
    """The batch from which a token's time follows the batch; infinity: it does not up to the largest."""

    measured: float
    predicted: float | None
    """Of the step model with the measured ceilings, at the same batches; None where these are not known."""


def knee_of(rows: Sequence[Row]) -> Knee | None:
    """Of the points of one run that are ok; None with fewer than FEWEST_BATCHES different batches."""
    found = [
        one for row in rows if row.kind == "serving" and row.status == "ok" and (one := roofline_of(row))
    ]
    found.sort(key=lambda one: one.decoding.batch)
    batches = np.log([one.decoding.batch for one in found])
    if len({round(float(b), 2) for b in batches}) < FEWEST_BATCHES:
        return None
    seen = np.log([[one.decoding.itl_s for one in found]])
    bounds = [one.bound_s for one in found]
    predicted = None
    if all(bound is not None for bound in bounds):
        predicted = float(np.exp(knee(batches, np.log(np.array([bounds], np.float64))).value))
    return Knee(float(np.exp(knee(batches, seen).value)), predicted)
