"""Two runs, or two backends of one run, side by side: ratios of time with intervals over processes.

>>> from membound.results.store import load_rows
>>> table = compare_backends(load_rows([path]), "mine:cpu", "other:cpu")
>>> table[["work", "time_ratio", "time_ratio_ci", "differs"]]

Only like is compared with like: the same spec (so the same shapes, formats and arithmetic) with the same number of
threads on the same kind of machine. A ratio is B's time over A's: below 1, B is faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from membound.errors import MemboundError
from membound.results.ratios import process_medians, ratio_of
from membound.results.row import Row
from membound.results.shares import middle
from membound.results.stats import usable

COLUMNS = {
    "work": "canonical spec of the work",
    "run_a": "run of side A",
    "run_b": "run of side B",
    "backend_a": "backend of side A",
    "backend_b": "backend of side B",
    "threads": "CPU threads",
    "time_a_s": "median over processes of A, seconds",
    "time_b_s": "median over processes of B, seconds",
    "replicates_a": "processes of A",
    "replicates_b": "processes of B",
    "time_ratio": "time of B over time of A; below 1, B is faster: the median over rounds where both took turns",
    "time_ratio_ci": "95 % interval over processes; None with fewer than three on a side",
    "paired": "True where both took turns in the same rounds, so that what the machine did cancels",
    "differs": "True where the interval excludes 1; None without an interval",
    "note": "why there is no ratio",
}
"""Columns of `compare` and what they hold."""


class CompareError(MemboundError, ValueError):
    """The two sides cannot be compared; the message says why and what would help."""


def compare_runs(a: Sequence[Row], b: Sequence[Row], force: bool = False) -> pd.DataFrame:
    """Every backend of two runs compared with itself, a line for each work that both ran.

    Raises CompareError if the machines differ (unless `force`) or if the runs have nothing in common.
    """
    left, right = _by_case(a), _by_case(b)
    common = [key for key in left if key in right]
    if not common:
        raise CompareError("the two runs share no work on the same backend with as many threads")
    if not force:
        refuse_other_machine(a, b)
        _refuse_other_accelerators([*left[key], *right[key]] for key in common)
    return _table(_line(left[key], right[key]) for key in common)


def compare_backends(rows: Sequence[Row], a: str, b: str) -> pd.DataFrame:
    """Two backends of one run, a line for each work that both were given.

    Raises CompareError if a backend is not in the run or if the two have nothing in common.
    """
    ran = list(dict.fromkeys(row.backend for row in rows if row.kind == "case"))
    for name in (a, b):
        if name not in ran:
            raise CompareError(f"the run has no backend {name!r}; it has: {', '.join(ran)}")
    cases = _by_case(rows)
    pairs = [(key, (b, *key[1:])) for key in cases if key[0] == a and (b, *key[1:]) in cases]
    if not pairs:
        raise CompareError(f"{a} and {b} share no work with as many threads in this run")
    return _table(_line(cases[left], cases[right]) for left, right in pairs)


def _by_case(rows: Iterable[Row]) -> dict[tuple[str, str, int], list[Row]]:
    """Replicates by (backend, work, threads)."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        if row.kind == "case":
            groups.setdefault((row.backend, row.work, row.threads), []).append(row)
    return groups


def refuse_other_machine(a: Sequence[Row], b: Sequence[Row]) -> None:
    """Raises CompareError, which names what differs, unless both runs are from the same kind of machine."""
    left, right = (_fingerprint(rows) for rows in (a, b))
    different = [key for key in left | right if left.get(key) != right.get(key)]
    if left and right and not different:
        return
    if left and right:
        first, others = different[0], ", ".join(different[1:])
        what = f"{first}: {left.get(first)!r} against {right.get(first)!r}" + (
            f"; also {others}" if others else ""
        )
        raise CompareError(
            f"the runs are from different machines ({what}); --force compares them all the same"
        )
    raise CompareError("a run carries no fingerprint of its machine; --force compares them all the same")


def _refuse_other_accelerators(cases: Iterable[Sequence[Row]]) -> None:
    """A host may have had another GPU at the time; the fingerprint of a machine does not name it."""
    for rows in cases:
        names = list(dict.fromkeys(row.device for row in rows if row.accelerator and row.device))
        if len(names) > 1:
            raise CompareError(
                f"{rows[0].backend} ran on different devices ({' against '.join(map(repr, names))}); "
                "--force compares them all the same"
            )


def _fingerprint(rows: Sequence[Row]) -> dict[str, Any]:
    """The machine, its memory in whole GiB, since what a kernel keeps for itself varies from boot to boot."""
    machine = dict(next((r.machine for r in rows if r.machine), {}))
    if machine.get("memory_bytes"):
        machine["memory_bytes"] = f"{round(machine['memory_bytes'] / 2**30)} GiB"
    if not machine.get("environment"):
        machine.pop("environment", None)  # older rows have none
    return machine


def _line(a: list[Row], b: list[Row]) -> dict[str, Any]:
    line: dict[str, Any] = dict.fromkeys(COLUMNS)
    line |= {"work": a[0].work, "threads": a[0].threads, "note": ""}
    line |= {"run_a": a[0].run_id, "run_b": b[0].run_id, "backend_a": a[0].backend, "backend_b": b[0].backend}
    left, right = usable(a), usable(b)
    line |= {"replicates_a": len(left), "replicates_b": len(right)}
    line["time_a_s"] = middle(process_medians(left))
    line["time_b_s"] = middle(process_medians(right))
    if not (left and right):
        sides = (("A", a, left), ("B", b, right))
        line["note"] = "; ".join(f"{side}: {_failure(rows)}" for side, rows, used in sides if not used)
        return line
    ratio = ratio_of(left, right)
    line |= {"time_ratio": ratio.value, "paired": ratio.paired}
    if ratio.ci is not None:
        line |= {"time_ratio_ci": ratio.ci, "differs": not ratio.ci[0] <= 1 <= ratio.ci[1]}
    return line


def _failure(rows: list[Row]) -> str:
    row = next((r for r in rows if r.status == "wrong"), rows[0])
    return f"{row.status} ({row.reason})" if row.reason else row.status


def _table(lines: Iterable[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(list(lines), columns=list(COLUMNS))
    floats = ("time_a_s", "time_b_s", "time_ratio")
    table["differs"] = table["differs"].astype(object).where(table["differs"].notna(), None)
    return table.astype(dict.fromkeys(floats, "float64"))
