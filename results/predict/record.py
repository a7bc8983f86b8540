"""How far predictions were off for devices that they had not seen: the record that each prediction is printed with.

>>> record = Record.of(rows)
>>> record.errors("single", "three terms").median
0.1...

Each device is left out in turn, everything is learnt from the others, and its rows are predicted. Errors are those of
the rate (tokens a second, predicted over measured, less 1), which punishes optimism most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from membound.results.predict.demand import Demand, Measured, Offer
from membound.results.predict.terms import Terms, fit

MODELS = ("three terms", "bandwidth only", "FLOPs only")
COVERAGE = 0.8
"""Share of new measurements that an interval is meant to hold."""
FEWEST_DEVICES = 5
"""A group with fewer devices borrows the spread of all groups, and says so."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """The three models after the same rows: terms, and a median share of bandwidth and of the peak for each group."""

    terms: Terms
    memory: dict[str, float]
    compute: dict[str, float]

    @classmethod
    def of(cls, rows: Sequence[Measured], start: Terms | None = None) -> Learnt:
        """Learn from measured rows; `start` as in `fit`."""
        memory, compute = {}, {}
        for group in dict.fromkeys(row.group for row in rows):
            found = [row for row in rows if row.group == group]
            memory[group] = float(np.median([_memory_s(r.demand, r.offer) / r.seconds for r in found]))
            shares = [s / r.seconds for r in found if (s := _compute_s(r.demand, r.offer)) is not None]
            if shares:
                compute[group] = float(np.median(shares))
        return cls(fit(rows, start), memory, compute)

    def seconds(self, model: str, group: str, demand: Demand, offer: Offer) -> float | None:
        """What a model says; None if it lacks a figure of the device, or rows to learn from."""
        if model == MODELS[0]:
            return self.terms.parts(demand, offer).seconds
        on_bandwidth = model == MODELS[1]
        shares = self.memory if on_bandwidth else self.compute
        seconds = _memory_s(demand, offer) if on_bandwidth else _compute_s(demand, offer)
        if seconds is None or not shares:
            return None
        return seconds / (shares[group] if group in shares else float(np.median([*shares.values()])))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A row and what a model that had seen nothing of its device said. half_width: of its interval, in ln(time)."""

    row: Measured
    model: str
    seconds: float
    half_width: float | None = None

    @property
    def error(self) -> float:
        """Predicted rate over the measured one, less 1."""
        return self.row.seconds / self.seconds - 1

    @property
    def log_error(self) -> float:
        """ln of predicted over measured time."""
        return math.log(self.seconds / self.row.seconds)

    @property
    def is_covered(self) -> bool:
        """Whether the interval holds the measurement."""
        return self.half_width is not None and abs(self.log_error) <= self.half_width


@dataclass(frozen=True, slots=True)
class Errors:
    """The record of a model for a group of works."""

    rows: int
    devices: int
    median: float
    p90: float
    bias: float
    half_width: float
    borrowed: bool


@dataclass(frozen=True, slots=True)
class Record:
    """The held-out predictions of all models."""

    held_out: tuple[HeldOut, ...]

    @classmethod
    def of(cls, rows: Sequence[Measured], start: Terms | None = None) -> Record:
        """Leave out each device in turn; `start` as in `fit`."""
        found: list[HeldOut] = []
        for device in dict.fromkeys(row.device for row in rows):
            learnt = Learnt.of([row for row in rows if row.device != device], start)
            found += predictions(learnt, [row for row in rows if row.device == device])
        return cls(tuple(found))

    def of_model(self, model: str, group: str | None = None) -> list[HeldOut]:
        """Held-out rows of a model, of one group or of all."""
        return [h for h in self.held_out if h.model == model and group in (None, h.row.group)]

    def errors(self, group: str, model: str) -> Errors | None:
        """The record for a group; None if no row of it has such a prediction."""
        found = self.of_model(model, group)
        return errors_of(found, self.half_width(group, model)) if found else None

    def half_width(self, group: str, model: str) -> tuple[float, bool]:
        """(half of the interval in ln(time), whether it is borrowed from all groups)."""
        found = self.of_model(model, group)
        borrowed = len({h.row.device for h in found}) < FEWEST_DEVICES
        return spread(self.of_model(model) if borrowed else found), borrowed


@dataclass(frozen=True, slots=True)
class DisputedPair:
    """Two rows of one work, measured alike on two devices, that bandwidth and FLOPs put in opposite orders.

    right: the models whose order is the measured one.
    """

    faster: Measured
    slower: Measured
    right: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """How many times as fast the faster one is."""
        return self.slower.seconds / self.faster.seconds


def disputed_pairs(record: Record) -> list[DisputedPair]:
    """The pairs that tell the models apart, by predictions that had seen neither device's own rows."""
    said = {(h.row.id, h.model): h.seconds for h in record.held_out}
    rows = {h.row.id: h.row for h in record.held_out}
    found = []
    for one, other in combinations(rows.values(), 2):
        alike = (
            one.label == other.label and one.group == other.group and one.offer.devices == other.offer.devices
        )
        if not alike or one.device == other.device or one.seconds == other.seconds:
            continue
        faster, slower = (one, other) if one.seconds < other.seconds else (other, one)
        order = {
            model: said[faster.id, model] < said[slower.id, model]
            for model in MODELS
            if (faster.id, model) in said and (slower.id, model) in said
        }
        if set(MODELS) <= set(order) and order[MODELS[1]] != order[MODELS[2]]:
            found.append(DisputedPair(faster, slower, tuple(m for m in MODELS if order[m])))
    return found


def predictions(learnt: Learnt, rows: Iterable[Measured]) -> list[HeldOut]:
    """What each model says of rows, where it has the figures."""
    return [
        HeldOut(row, model, seconds)
        for row in rows
        for model in MODELS
        if (seconds := learnt.seconds(model, row.group, row.demand, row.offer)) is not None
    ]


def errors_of(found: Sequence[HeldOut], half_width: tuple[float, bool]) -> Errors:
    """Median and 90th percentile of the error's size, and its geometric mean."""
    sizes = np.abs([h.error for h in found])
    return Errors(
        rows=len(found),
        devices=len({h.row.device for h in found}),
        median=float(np.median(sizes)),
        p90=float(np.quantile(sizes, 0.9)),
        bias=math.expm1(-float(np.mean([h.log_error for h in found]))),
        half_width=half_width[0],
        borrowed=half_width[1],
    )


def spread(found: Sequence[HeldOut]) -> float:
    """The size of ln error that COVERAGE of the rows stay below, each device counting once (a conformal quantile)."""
    counts = {h.row.device: 0 for h in found}
    for one in found:
        counts[one.row.device] += 1
    ranked = sorted((abs(one.log_error), 1 / counts[one.row.device]) for one in found)
    target = COVERAGE * (len(counts) + 1) if len(counts) > 4 else len(counts)
    reached = 0.0
    for size, weight in ranked:
        reached += weight
        if reached >= target - 1e-9:
            return size
    return ranked[-1][0]


def with_intervals(rows: Sequence[Measured]) -> Record:
    """The record with an interval for each held-out row, made from the other devices alone (a record within each).

    Slow: devices² fits, some ten seconds.
    """
    return further(rows, rows)


def further(known: Sequence[Measured], fresh: Sequence[Measured]) -> Record:
    """The record for fresh rows: each predicted, with its interval, from the known rows of other devices alone."""
    found: list[HeldOut] = []
    for device in dict.fromkeys(row.device for row in fresh):
        others = [row for row in known if row.device != device]
        learnt = Learnt.of(others)
        inner = Record.of(others, learnt.terms)
        for one in predictions(learnt, [row for row in fresh if row.device == device]):
            found.append(replace(one, half_width=inner.half_width(one.row.group, one.model)[0]))
    return Record(tuple(found))


def _memory_s(demand: Demand, offer: Offer) -> float:
    return demand.bytes / (offer.devices * offer.bandwidth_bytes_per_s)


def _compute_s(demand: Demand, offer: Offer) -> float | None:
    if offer.flops_per_s is None:
        return None
    return (demand.flops + demand.prompt_flops) / (offer.devices * offer.flops_per_s)
