"""Runs, backends or devices side by side: ratios of time with intervals over processes, in words, and what has no partner.

>>> from membound.results.processes import processes_of
>>> comparison = compare_backends(processes_of(path, turns=True), "mine:cpu", "other:cpu")
>>> comparison.table[["work", "time_ratio", "time_ratio_ci", "words"]]

Only like is compared with like: the same spec (so the same shapes, formats and arithmetic) with the same number of
threads on the same kind of machine. A ratio is B's time over A's: below 1, B is faster.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import Any

import pandas as pd

from membound.errors import MemboundError
from membound.results.compared_groups import groups_of
from membound.results.frame import frame
from membound.results.partners import COLUMNS as PARTNER_COLUMNS
from membound.results.partners import WITHOUT_PARTNER, Case, without_partner
from membound.results.process import Process, Shared, condensed, usable_processes
from membound.results.ratios import process_medians, ratio_of
from membound.results.roofline import device_class
from membound.results.row import Row
from membound.results.wording import ratio_words
from membound.spec_text import identity

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
    "words": "the same in words: B is faster or slower by at least so much, the same within so much, or it cannot be told",
    "note": "why there is no ratio",
}
"""Columns of `compare` and what they hold."""
BY = ("run", "backend", "device")
DEVICE = re.compile(r":[^+#]*")
"""Of a backend, the first that matches: ``:cuda:0`` of ``torch:cuda:0+compile``."""
LATER = ("bios",)
"""Entries of a machine's fingerprint that older rows lack: unknown, and so no difference."""


class CompareError(MemboundError, ValueError):
    """The two sides cannot be compared; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Pairs with their ratios, geometric means over groups of them, and the cases that have no partner.

    The columns are COLUMNS, `compared_groups.COLUMNS` and `partners.COLUMNS`. `doubt` is what to know of all of it.
    """

    table: pd.DataFrame
    groups: pd.DataFrame
    without_partner: pd.DataFrame
    doubt: str = ""


Measured = Iterable[Row] | Iterable[Process]
Sides = Sequence[tuple[dict[Any, list[Process]], dict[Any, list[Process]]]]


def compare_runs(a: Measured, *others: Measured, force: bool = False) -> Comparison:
    """Every backend of each other run compared with itself in run `a`, a pair for each work that both ran.

    Raises CompareError if the machines differ (unless `force`) or if the runs have nothing in common.
    """
    left = _by_case(_processes(a))
    sides = []
    doubts = []
    for other in others:
        right = _by_case(_processes(other))
        common = [key for key in left if key in right]
        if not common:
            raise CompareError(
                "the two runs share no work on the same backend with as many threads" + _nearest(left, right)
            )
        if not force:
            both = [_shared(one for some in side.values() for one in some) for side in (left, right)]
            machines = [machine_of(one.machine for one in some) for some in both]
            imported = all(one.imported for some in both for one in some)
            doubts.append(refuse_other_machine(machines[0], machines[1], imported))
            _refuse_other_accelerators(_shared(chain(left[key], right[key])) for key in common)
        sides.append((left, right))
    return _comparison(sides, next(filter(None, doubts), ""))


def compare_backends(rows: Measured, a: str, b: str) -> Comparison:
    """Two backends of one run, a pair for each work that both were given.

    Raises CompareError if a backend is not in the run or if the two have nothing in common.
    """
    processes = list(_processes(rows))
    ran = list(dict.fromkeys(one.shared.backend for one in processes))
    for name in (a, b):
        if name not in ran:
            raise CompareError(f"the run has no backend {name!r}; it has: {', '.join(ran)}")
    left, right = ([one for one in processes if one.shared.backend == name] for name in (a, b))
    return _of_two(left, right, f"{a} and {b} share no work with as many threads in this run")


def compare_by(rows: Measured, by: str) -> Comparison:
    """Everything named together, the first run, backend or device against each other one.

    Raises CompareError if there is only one, or if two have nothing in common.
    """
    if by not in BY:
        raise CompareError(f"--by takes {', '.join(BY)}, not {by!r}")
    sides: dict[str, list[Process]] = {}
    for one in _processes(rows):
        sides.setdefault(_side(one.shared, by), []).append(one)
    names = list(sides)
    if len(names) < 2:
        raise CompareError(f"there is only one {by} to compare: {names[0] if names else 'none at all'}")
    if by == "run":
        return compare_runs(*sides.values())
    joined = _of_devices if by == "device" else _of_two
    found = [
        joined(sides[names[0]], sides[name], f"{names[0]} and {name} share no work with as many threads")
        for name in names[1:]
    ]
    return Comparison(
        pd.concat([one.table for one in found]),
        pd.concat([one.groups for one in found]),
        pd.concat([one.without_partner for one in found]),
    )


def _side(shared: Shared, by: str) -> str:
    if by == "device":
        return shared.device or device_class(shared.backend)
    return shared.run_id if by == "run" else shared.backend


def _of_two(a: Sequence[Process], b: Sequence[Process], nothing: str) -> Comparison:
    """Two lists joined on work and threads alone."""
    left, right = ({(k[1], k[2]): v for k, v in _by_case(side).items()} for side in (a, b))
    if not left.keys() & right.keys():
        raise CompareError(nothing + _nearest(left, right))
    return _comparison([(left, right)], "")


def _of_devices(a: Sequence[Process], b: Sequence[Process], nothing: str) -> Comparison:
    """Two lists joined on backend, but for its device, work and threads; where each side has one backend, on the latter two."""
    left, right = (_by_name(side) for side in (a, b))
    one, other = _only(left), _only(right)
    same = {other[of]: one[of] for of in one.keys() & other.keys()}
    right = {same.get(key, key): some for key, some in right.items()}
    if not left.keys() & right.keys():
        raise CompareError(nothing + _nearest(left, right))
    return _comparison([(left, right)], "")


def _by_name(processes: Iterable[Process]) -> dict[Case, list[Process]]:
    """As `_by_case`, of backends without their device: ``torch+compile`` for ``torch:cuda:0+compile`` and ``torch:cpu+compile``."""
    groups: dict[Case, list[Process]] = {}
    for (backend, work, threads), some in _by_case(processes).items():
        groups.setdefault((DEVICE.sub("", backend, count=1), work, threads), []).extend(some)
    return groups


def _only(groups: Iterable[Case]) -> dict[tuple[str, int], Case]:
    """The case of each work, with its threads, that one backend alone ran."""
    found: dict[tuple[str, int], list[Case]] = {}
    for case in groups:
        found.setdefault(case[1:], []).append(case)
    return {of: cases[0] for of, cases in found.items() if len(cases) == 1}


def _processes(rows: Measured) -> Iterable[Process]:
    for one in rows:
        if isinstance(one, Process):
            yield one
        elif one.kind == "case":
            yield condensed(one)


def _by_case(processes: Iterable[Process]) -> dict[Case, list[Process]]:
    """Replicates by (backend, work, threads); a model folder is the same wherever it lies."""
    groups: dict[Case, list[Process]] = {}
    works: dict[str, str] = {}
    known: dict[int, list[Process]] = {}
    for one in processes:  # which keep what they share, and so its id
        group = known.get(id(one.shared))
        if group is None:
            shared = one.shared
            if shared.work not in works:
                works[shared.work] = identity(shared.work)
            case = (shared.backend, works[shared.work], shared.threads)
            group = known[id(shared)] = groups.setdefault(case, [])
        group.append(one)
    return groups


def _shared(processes: Iterable[Process]) -> list[Shared]:
    """What these processes share, each once, in their order."""
    return list({id(one.shared): one.shared for one in processes}.values())


def _nearest(left: dict[Any, list[Process]], right: dict[Any, list[Process]]) -> str:
    """The first pair that differs in one field, for a message."""
    why = next((line["why"] for line in without_partner(left, right) if line["why"] != WITHOUT_PARTNER), "")
    return f"; nearest: {why}" if why else ""


def refuse_other_machine(a: Mapping[str, Any], b: Mapping[str, Any], imported: bool = False) -> str:
    """Raises CompareError, which names what differs, unless both machines (`machine_of`) are the same.

    Returns a doubt where files of other tools name no machine, so that nobody can tell.
    """
    told = [key for key in {**a, **b} if key not in LATER or (key in a and key in b)]
    different = [key for key in told if a.get(key) != b.get(key)]
    if a and b and not different:
        return ""
    if a and b:
        first, others = different[0], ", ".join(different[1:])
        what = f"{first}: {a.get(first)!r} against {b.get(first)!r}" + (f"; also {others}" if others else "")
        raise CompareError(
            f"the runs are from different machines ({what}); --force compares them all the same"
        )
    if imported:
        return "the files do not name their machines: whether the ratios are of one machine cannot be told"
    raise CompareError("a run carries no fingerprint of its machine; --force compares them all the same")


def machine_of(machines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The first that is known, its memory in whole GiB, since what a kernel keeps for itself varies from boot to boot."""
    machine = dict(next((one for one in machines if one), {}))
    if machine.get("memory_bytes"):
        machine["memory_bytes"] = f"{round(machine['memory_bytes'] / 2**30)} GiB"
    for name in ("environment", *LATER):
        if not machine.get(name):
            machine.pop(name, None)  # older rows have none
    return machine


def _refuse_other_accelerators(cases: Iterable[Sequence[Shared]]) -> None:
    """A host may have had another GPU at the time; the fingerprint of a machine does not name it."""
    for some in cases:
        names = list(dict.fromkeys(one.device for one in some if one.accelerated and one.device))
        if len(names) > 1:
            raise CompareError(
                f"{some[0].backend} ran on different devices ({' against '.join(map(repr, names))}); "
                "--force compares them all the same"
            )


def _comparison(sides: Sides, doubt: str) -> Comparison:
    lines = [_line(left[key], right[key]) for left, right in sides for key in left if key in right]
    table = frame(lines, COLUMNS)
    table["differs"] = table["differs"].astype(object).where(table["differs"].notna(), None)
    table = table.astype(dict.fromkeys(("time_a_s", "time_b_s", "time_ratio"), "float64"))
    alone = [line for left, right in sides for line in without_partner(left, right)]
    return Comparison(table, groups_of(lines), frame(alone, PARTNER_COLUMNS), doubt)


def _line(a: list[Process], b: list[Process]) -> dict[str, Any]:
    line: dict[str, Any] = dict.fromkeys(COLUMNS)
    one, other = a[0].shared, b[0].shared
    line |= {"work": one.work, "threads": one.threads, "note": "", "words": ""}
    line |= {"run_a": one.run_id, "run_b": other.run_id, "backend_a": one.backend, "backend_b": other.backend}
    left, right = usable_processes(a), usable_processes(b)
    line |= {"replicates_a": len(left), "replicates_b": len(right)}
    for name, used in (("time_a_s", left), ("time_b_s", right)):
        line[name] = median(process_medians(used)) if used else None
    if not (left and right):
        sides = (("A", a, left), ("B", b, right))
        line["note"] = "; ".join(f"{side}: {_failure(rows)}" for side, rows, used in sides if not used)
        return line
    ratio = ratio_of(left, right)
    line |= {"time_ratio": ratio.value, "paired": ratio.paired, "words": ratio_words(ratio.ci)}
    if ratio.ci is not None:
        line |= {"time_ratio_ci": ratio.ci, "differs": not ratio.ci[0] <= 1 <= ratio.ci[1]}
    return line


def _failure(processes: list[Process]) -> str:
    shared = _shared(processes)
    one = next((some for some in shared if some.status == "wrong"), shared[0])
    return f"{one.status} ({one.reason})" if one.reason else one.status
