"""The model of three terms: launches + bytes + FLOPs, with efficiencies learnt from measured rows.

seconds = layers · launch(kind) + batch · schedule + all-reduces
        + bytes / (devices · bandwidth · efficiency(kind, storage, bandwidth))
        + FLOPs / (devices · peak · share)

>>> terms = fit(rows)
>>> terms.parts(demand, offer).seconds
0.0081...

Each effect is the deviation of a group from the whole and is shrunk towards zero, so that a group with few rows,
or a kind of device that nobody measured, gets what the others have. docs/prediction.md gives the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from membound.results.predict.demand import Demand, Measured, Offer
from membound.results.predict.ring import ALL_REDUCES, ring_bytes

F64 = npt.NDArray[np.float64]

PRIORS = {
    "memory": (math.log(0.8), 0.5),
    "memory gpu": (0.0, 0.15),
    "memory soc": (0.0, 0.15),
    "memory cpu": (0.0, 0.15),
    "memory float": (0.0, 0.15),
    "memory int8": (0.0, 0.15),
    "memory int4": (0.0, 0.15),
    "memory mixture": (0.0, 0.3),
    "memory fast": (0.2, 0.2),
    "launch": (math.log(1e-4), 1.5),
    "launch gpu": (0.0, 0.7),
    "launch gpu graphs": (0.0, 0.7),
    "launch soc": (0.0, 0.7),
    "launch cpu": (0.0, 0.7),
    "compute": (math.log(0.5), 0.5),
    "schedule": (math.log(3e-5), 1.0),
    "all-reduce": (math.log(1.5e-5), 1.0),
}
"""Each parameter, a logarithm, with the mean and the deviation that it is shrunk towards.

memory: the share of the paper bandwidth; fast: its power above FAST_BYTES_PER_S, as few loads in flight cannot fill a fast
memory; launch: seconds a layer; compute: the share of the paper peak; schedule: seconds a sequence and step in a serving
engine; all-reduce: seconds of latency each."""
NAMES = tuple(PRIORS)
MEANS = np.array([mean for mean, _ in PRIORS.values()])
DEVIATIONS = np.array([deviation for _, deviation in PRIORS.values()])
FAST_BYTES_PER_S = 1e12
NOISE = {"single": 0.15, "operation": 0.15, "prefill": 0.3, "parallel": 0.3, "served": 0.4}
"""How far rows of a group scatter, in ln(time): what the fit trusts them by."""
TAIL = 3.0
"""Degrees of freedom of the loss: rows further off than a few times NOISE count ever less (Student's t)."""
ACTIVATION_BYTES = 2
MOST_FAST = 0.9
"""Below 1, so that a faster memory is never slower."""


TERMS = ("launch", "schedule", "memory", "compute", "all-reduce")


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds of each term. compute_s is 0 where no peak is known; link_s: all-reduces."""

    launch_s: float
    memory_s: float
    compute_s: float
    link_s: float

    @property
    def seconds(self) -> float:
        """All of it: the terms do not overlap in this model."""
        return self.launch_s + self.memory_s + self.compute_s + self.link_s


def constants(demand: Demand, offer: Offer) -> F64:
    """Seconds of each of TERMS where its parameters are all 0 (launch, all-reduce: their counts), shape (5,)."""
    whole = offer.devices * offer.bandwidth_bytes_per_s
    flops = demand.flops + demand.prompt_flops
    peak = offer.flops_per_s
    several = demand.layers * ALL_REDUCES if offer.devices > 1 else 0
    return np.array(
        [
            demand.layers,
            demand.batch if offer.served else 0.0,
            demand.bytes / whole,
            flops / (offer.devices * peak) if peak else 0.0,
            several,
        ]
    )


def signs(demand: Demand, offer: Offer) -> F64:
    """How the parameters act on the logarithm of each of TERMS, shape (5, parameters)."""
    fast = max(0.0, math.log(offer.bandwidth_bytes_per_s / FAST_BYTES_PER_S))
    launch = "launch gpu graphs" if offer.kind == "gpu" and offer.graphs else f"launch {offer.kind}"
    storage = f"memory {demand.storage}"
    table: tuple[dict[str, float], ...] = (
        {"launch": 1, launch: 1},
        {"schedule": 1},
        {
            "memory": -1,
            f"memory {offer.kind}": -1,
            storage: -1,
            "memory mixture": -demand.mixture,
            "memory fast": fast,
        },
        {"compute": -1},
        {"all-reduce": 1},
    )
    return np.array([[line.get(name, 0.0) for name in NAMES] for line in table])


def wire_seconds(demand: Demand, offer: Offer) -> float:
    """All-reduces of a ring on the wire: each moves 2(n − 1)/n of the activations over a device's link."""
    if offer.devices <= 1 or not offer.link_bytes_per_s:
        return 0.0
    moved = ring_bytes(offer.devices, demand.batch * demand.hidden * ACTIVATION_BYTES)
    return demand.layers * ALL_REDUCES * moved / offer.link_bytes_per_s


@dataclass(frozen=True, slots=True)
class Terms:
    """Fitted parameters by name."""

    values: dict[str, float]

    @property
    def theta(self) -> F64:
        """The parameters in the order of NAMES."""
        return np.array([self.values[name] for name in NAMES])

    def efficiency(self, demand: Demand, offer: Offer) -> float:
        """Share of the paper bandwidth that such a work reaches there."""
        return float(np.exp(-signs(demand, offer)[2] @ self.theta))

    def parts(self, demand: Demand, offer: Offer) -> Parts:
        """Seconds of each term for a work on a device."""
        launch, schedule, memory, compute, reduces = (
            constants(demand, offer) * np.exp(signs(demand, offer) @ self.theta)
        ).tolist()
        return Parts(launch + schedule, memory, compute, reduces + wire_seconds(demand, offer))


def fit(rows: Sequence[Measured], start: Terms | None = None) -> Terms:
    """The parameters that explain measured rows best, shrunk towards PRIORS; `start` saves steps on the way there."""
    if not rows:
        return Terms(dict(zip(NAMES, MEANS.tolist(), strict=True)))
    measured = np.log([row.seconds for row in rows])
    noise = np.array([NOISE[row.group] for row in rows])
    counts = np.array([constants(row.demand, row.offer) for row in rows])
    design = np.array([signs(row.demand, row.offer) for row in rows])
    wires = np.array([wire_seconds(row.demand, row.offer) for row in rows])

    def terms_of(theta: F64) -> tuple[F64, F64]:
        terms = counts * np.exp(design @ theta)
        return terms, terms.sum(1) + wires

    def residuals(theta: F64) -> F64:
        off = (np.log(terms_of(theta)[1]) - measured) / noise
        whole: F64 = np.concatenate([_soften(off), (theta - MEANS) / DEVIATIONS])
        return whole

    def slopes(theta: F64) -> F64:
        terms, seconds = terms_of(theta)
        off = (np.log(seconds) - measured) / noise
        logs = np.einsum("ik,ikp->ip", terms, design) / seconds[:, None] / noise[:, None]
        soft = _soften(off)
        safe = np.where(soft == 0, 1.0, soft)
        steep = np.where(soft == 0, 1.0, off / (1 + off * off / TAIL) / safe)
        whole: F64 = np.concatenate([steep[:, None] * logs, np.diag(1 / DEVIATIONS)])
        return whole

    fast = np.array(NAMES) == "memory fast"
    bounds = (np.where(fast, 0.0, -np.inf), np.where(fast, MOST_FAST, np.inf))
    found = least_squares(
        residuals, MEANS if start is None else start.theta, slopes, bounds=bounds, x_scale=DEVIATIONS
    )
    return Terms(dict(zip(NAMES, found.x.tolist(), strict=True)))


def _soften(off: F64) -> F64:
    """Residuals whose squares are Student's loss."""
    softened: F64 = np.sign(off) * np.sqrt(TAIL * np.log1p(off * off / TAIL))
    return softened
