"""From what another tool measured to rows: times in seconds, what it reported beside them, and where it contradicts itself.

>>> source = Source("llama-bench", document)
>>> source.case("llama.cpp:cpu", custom("tg128", model="llama 7B"), [0.0076, 0.0075], {"mean": 0.00755})

A unit is never guessed: `seconds` knows the names of units and refuses others. What a file does not say stays missing.
A contradiction (a mean that is not that of the samples, a total that is not the sum) is stored with the row, under
`contradictions` in its `config`, and reported; which of the two is right, nobody can tell afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, isfinite
from typing import Any

import numpy as np

from membound.results.exchange.document import Document
from membound.results.row import SUMMARY, Row, RowError
from membound.results.turns import SHORTEST_S
from membound.spec_text import quoted

TIME_UNITS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "µs", "μs", "usec", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nsec", "nanosecond", "nanoseconds"), 1e-9),
}
TOLERANCE = 0.01
"""Two figures of one file that differ by more than this share contradict each other; tools round to three digits or more."""
MOST_SAMPLES = 10_000
"""Of a row. A longer list is replaced by as many of its quantiles, and the row says so."""


def time_of(value: Any, what: str) -> float:
    """A time as a file has it, in whatever unit. Raises RowError unless it is a finite number from 0."""
    number = number_of(value)
    if number is None or not 0 <= number < inf:
        raise RowError(f"{what} is {str(value)[:60]}, which is no time")
    return number


def number_of(value: Any) -> float | None:
    """A number, or text that is one; None for everything else. NaN is none; infinite ones are settings (``rate=inf``)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return None if number != number else number


def scale_of(unit: Any, what: str) -> float:
    """Seconds in one of a unit of time. Raises RowError on a unit that is none."""
    if not isinstance(unit, str) or unit.strip() not in TIME_UNITS:
        known = "s, ms, us, ns"
        raise RowError(f"{what} has the unit {unit!r}, which is no unit of time; known are {known}")
    return TIME_UNITS[unit.strip()]


def custom(name: str, kind: str = "custom", **settings: Any) -> str:
    """A spec for what another tool ran; settings that are None or empty are left out."""
    named = {"name": name} | settings if kind == "custom" else settings
    told = (
        f"{key}={clean(value)}"
        for key, value in named.items()
        if value is not None and value != "" and value != []
    )
    return f"{kind}:{','.join(told)}"


def clean(value: Any) -> str:
    """A value as it can stand in a spec: on one line, quoted where it holds a comma."""
    if isinstance(value, float) and isfinite(value):
        return f"{value:.6g}"
    return quoted(" ".join(str(value).split()))


@dataclass(slots=True)
class Source:
    """A file while its rows are made: what they have in common, and what was found to be contradictory."""

    format: str
    document: Document
    started_at: str = ""
    contradictions: list[str] = field(default_factory=list)
    """Of the file as a whole; those of a row stand in the row."""

    def case(
        self,
        backend: str,
        work: str,
        samples_s: Sequence[float],
        reported: Mapping[str, float] | None = None,
        note: str = "",
        summary: str = "",
        config: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> Row:
        """A measured case. `reported` are the tool's statistics of these samples, in seconds by `mean`, `p50` and so on.

        `summary` says what the samples are if they are no single measurements; `note` is anything else to know of them.
        Without samples the median, else the mean, stands for them, and the row says so. Samples of 0 s
        are left out and told of; a case that has nothing else is an error. Raises RowError on what no row can hold.
        """
        told = {name: value for name, value in (reported or {}).items() if value is not None}
        doubts = [*contradictions_within(told), *contradictions_with(samples_s, told)]
        used, thinned, zeros = _samples(samples_s, told)
        doubts += zeros
        summary = "; ".join(filter(None, (summary, thinned)))
        if not used and values.get("status", "ok") == "ok":
            values |= {"status": "error", "reason": doubts[-1] if doubts else "the file holds no time of it"}
        stored = {"format": self.format, "file": self.document.path.name} | dict(config or {})
        stored |= {SUMMARY: summary} if summary else {}
        stored |= {"note": note} if note else {}
        stored |= {"reported": told} if told else {}
        stored |= {"contradictions": doubts} if doubts else {}
        return self.row("case", backend, work, samples_s=used, config=stored, **values)

    def ceiling(self, backend: str, name: str, value: float, unit: str, **values: Any) -> Row:
        """A measured limit: bytes/s, FLOP/s or s."""
        stored = {"format": self.format, "file": self.document.path.name} | values.pop("config", {})
        return self.row("ceiling", backend, name, value=value, unit=unit, config=stored, **values)

    def row(self, kind: str, backend: str, work: str, **values: Any) -> Row:
        """A row, checked as a stored one is."""
        base = {"status": "ok", "run_id": self.document.run_id, "started_at": self.started_at}
        row = Row(kind=kind, backend=backend, work=work, **(base | values))
        try:
            return Row.from_json(row.to_json())
        except ValueError as error:
            raise RowError(f"{work}: {error}") from None

    def contradiction(self, text: str) -> None:
        """Note that the file as a whole contradicts itself."""
        if text not in self.contradictions:
            self.contradictions.append(text)

    def expect(self, what: str, said: Any, computed: float | None, how: str) -> None:
        """Note a contradiction if both figures are there and differ by more than TOLERANCE."""
        number = number_of(said)
        if number is not None and computed is not None and differ(number, computed):
            self.contradiction(f"{what} is {number:.6g}, but {how} gives {computed:.6g}")


def _samples(samples_s: Sequence[float], told: Mapping[str, float]) -> tuple[list[float], str, list[str]]:
    """The samples that a row can hold, what they are if no single ones, and what was wrong with them."""
    used = [s for s in samples_s if s >= SHORTEST_S]
    if len(used) < len(samples_s):
        zeros = len(samples_s) - len(used)
        text = f"{zeros} of {len(samples_s)} times are 0 s: whoever measured was too busy to see them pass"
        if zeros * 2 >= len(samples_s):
            return [], "", [f"{text}; the median is none"]
        return used, "", [text]
    if len(used) > MOST_SAMPLES:
        quantiles = np.quantile(np.asarray(used), np.linspace(0, 1, MOST_SAMPLES))
        return [float(q) for q in quantiles], f"{MOST_SAMPLES} quantiles of {len(used)}", []
    if used or not told:
        return used, "", []
    name = next((n for n in ("p50", "mean") if n in told), next(iter(told)))
    if told[name] < SHORTEST_S:
        return [], "", [f"its {name} is 0 s: whoever measured was too busy to see the time pass"]
    return [told[name]], f"{name} alone: the file holds no raw ones", []


def differ(a: float, b: float) -> bool:
    """Whether two figures are more than TOLERANCE apart."""
    return abs(a - b) > TOLERANCE * max(abs(a), abs(b))


def contradictions_within(told: Mapping[str, float]) -> list[str]:
    """Statistics that no samples can have: percentiles that fall, a mean outside of the range, a sum that is another."""
    found = []
    ranked = sorted((float(name[1:]), name) for name in told if number_of(name[1:]) is not None)
    order = [
        *(["min"] if "min" in told else []),
        *(n for _, n in ranked),
        *(["max"] if "max" in told else []),
    ]
    for lower, higher in pairwise(order):
        if told[lower] > told[higher] and differ(told[lower], told[higher]):
            found.append(f"{lower} ({told[lower]:.6g} s) is above {higher} ({told[higher]:.6g} s)")
    if {"min", "max", "mean"} <= told.keys():
        low, high = told["min"] * (1 - TOLERANCE), told["max"] * (1 + TOLERANCE)
        if not low <= told["mean"] <= high:
            found.append(f"the mean ({told['mean']:.6g} s) lies outside of min and max")
    if {"sum", "mean", "count"} <= told.keys() and differ(told["sum"], told["mean"] * told["count"]):
        found.append(f"the sum ({told['sum']:.6g} s) is not the mean times the count")
    return found


def contradictions_with(samples: Sequence[float], told: Mapping[str, float]) -> list[str]:
    """Statistics that are not those of the samples beside them. Percentiles have many definitions: only bounds are checked."""
    if not len(samples):
        return []
    values = np.sort(np.asarray(samples, dtype=float))
    actual = {"mean": float(values.mean()), "min": float(values[0]), "max": float(values[-1])}
    found = [
        f"the {name} is reported as {told[name]:.6g} s, that of the {len(values)} samples is {value:.6g} s"
        for name, value in actual.items()
        if name in told and differ(told[name], value)
    ]
    if "count" in told and int(told["count"]) != len(values):
        found.append(f"the count is reported as {told['count']:.0f}, there are {len(values)} samples")
    if "p50" in told:
        middle = (len(values) - 1) / 2
        low, high = (
            float(values[max(0, int(middle) - 1)]),
            float(values[min(len(values) - 1, int(middle) + 2)]),
        )
        if not low * (1 - TOLERANCE) <= told["p50"] <= high * (1 + TOLERANCE):
            found.append(
                f"the median is reported as {told['p50']:.6g} s, the middle samples are {low:.6g} s and {high:.6g} s"
            )
    return found
