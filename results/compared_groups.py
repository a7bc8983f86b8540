"""Geometric means of the ratios of a comparison, for each pair of sides and kind of work.

>>> groups_of(lines)[["group", "time_ratio", "time_ratio_ci", "words"]]

A geometric mean of ratios is the same whichever side is A. Its interval is of the works that were measured, not of works
at large. Where all pairs took turns, what the machine did has cancelled and their errors are independent: they add in
squares. Else both sides ran at their own time, and one slow minute may have hit all works of a side: then the errors are
taken to go together, and the interval is as wide as the works' own on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, fsum, log, sqrt
from typing import Any

import pandas as pd

from membound.results.frame import frame
from membound.results.wording import ratio_words

COLUMNS = {
    "a": "side A: its backend, and its run where the runs differ",
    "b": "side B, the same",
    "group": "kind of work, or all",
    "pairs": "pairs with a ratio",
    "time_ratio": "geometric mean of the ratios, B over A",
    "time_ratio_ci": "95 % interval of that mean for these works; None where a pair has none",
    "words": "the same in words",
    "faster": "pairs in which B is faster",
    "slower": "pairs in which B is slower",
    "same": "pairs that are the same within 5 %",
    "open": "pairs of which it cannot be told",
}
"""Columns of the groups."""
ALL = "all"


def groups_of(lines: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The groups of a comparison's lines, those of single kinds before the one of all; nothing for groups without a ratio."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in lines:
        if line["time_ratio"] is not None:
            a, b = _sides(line)
            for group in (line["work"].partition(":")[0], ALL):
                groups.setdefault((a, b, group), []).append(line)
    kinds = {(a, b): [g for x, y, g in groups if (x, y) == (a, b)] for a, b, _ in groups}
    told = [
        _group(*key, found)
        for key, found in groups.items()
        if key[2] != ALL or len(kinds[key[0], key[1]]) > 2  # of one kind, all is the same again
    ]
    return frame(told, COLUMNS)


def _sides(line: dict[str, Any]) -> tuple[str, str]:
    if line["run_a"] == line["run_b"]:
        return line["backend_a"], line["backend_b"]
    return tuple(f"{line[f'backend_{s}']} in {line[f'run_{s}']}" for s in "ab")  # type: ignore[return-value]


def _group(a: str, b: str, group: str, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    middle = fsum(log(line["time_ratio"]) for line in lines) / len(lines)
    ci = _interval(middle, lines)
    words = [line["words"].split()[0] for line in lines]
    return {
        "a": a,
        "b": b,
        "group": group,
        "pairs": len(lines),
        "time_ratio": exp(middle),
        "time_ratio_ci": ci,
        "words": ratio_words(ci),
        **{name: words.count(name) for name in ("faster", "slower", "same")},
        "open": words.count("cannot"),
    }


def _interval(middle: float, lines: Sequence[dict[str, Any]]) -> tuple[float, float] | None:
    if any(line["time_ratio_ci"] is None for line in lines):
        return None
    halves = [log(high / low) / 2 for low, high in (line["time_ratio_ci"] for line in lines)]
    independent = all(line["paired"] for line in lines)
    half = sqrt(fsum(h * h for h in halves)) / len(halves) if independent else fsum(halves) / len(halves)
    return exp(middle - half), exp(middle + half)
