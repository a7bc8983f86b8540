"""Runs for services that keep a history of benchmarks: github-action-benchmark and Bencher.

>>> path.write_text(action_text(rows))      # tool: customSmallerIsBetter
>>> path.write_text(bencher_text(rows))     # bencher run --adapter json

Both know benchmarks by name: here backend and work. A run of several threads or devices would give one name to two
figures, so these are part of the name where a run has more than one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from membound.errors import MemboundError
from membound.results.plain_text import visible
from membound.results.row import Row
from membound.results.stats import records, summarize

NANOSECONDS = 1e9
"""Bencher's own measure `latency` is in nanoseconds."""


class NameTwice(MemboundError, ValueError):
    """Two cases of what is exported have one name; the message names it."""


def action_text(rows: Iterable[Row]) -> str:
    """A list of benchmarks, smaller is better; the range is half of the interval."""
    found = [
        {
            "name": name,
            "unit": "s",
            "value": line["time_s"],
            **({"range": f"± {(ci[1] - ci[0]) / 2:.3g}"} if (ci := line["time_ci_s"]) else {}),
            "extra": "\n".join(
                f"{key}: {visible(str(line[key]))}"
                for key in ("device", "mbu", "verdict", "validity")
                if line[key]
            ),
        }
        for name, line in _named(rows).items()
    ]
    return json.dumps(found, indent=2, allow_nan=False) + "\n"


def bencher_text(rows: Iterable[Row]) -> str:
    """Bencher Metric Format: for each benchmark its latency with the interval and, where known, its share of the limit."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, line in _named(rows).items():
        latency = {"value": line["time_s"] * NANOSECONDS}
        if line["time_ci_s"]:
            low, high = line["time_ci_s"]
            latency |= {"lower_value": low * NANOSECONDS, "upper_value": high * NANOSECONDS}
        found[name] = {"latency": latency}
        if line["of_bound"] is not None:
            found[name]["of-bound"] = {"value": line["of_bound"]}
    return json.dumps(found, indent=2, allow_nan=False) + "\n"


def _named(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """The timed cases by name. Raises NameTwice."""
    timed = [line for line in records(summarize(rows)) if line["time_s"] is not None]
    more = [key for key in ("run_id", "threads") if len({line[key] for line in timed}) > 1]
    named: dict[str, dict[str, Any]] = {}
    for line in timed:
        name = visible(" ".join(str(line[key]) for key in ("backend", "work", *more)))
        if name in named:
            raise NameTwice(f"two cases are called {name}; export one run at a time")
        named[name] = line
    return named
