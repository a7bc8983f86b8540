"""A run's plan as text and back: what is read is checked, by a hash and field by field.

>>> plan_of(text_of(plan)) == plan
True
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

from membound.bench.measure.rounds import Pace
from membound.bench.planning.plan import RIGORS, Cell, Plan
from membound.results.fields import read_json, wrong_field
from membound.version import __version__


class UnfitPlanError(ValueError):
    """A stored plan that cannot be used. The message goes on from the file's name."""


@dataclass(frozen=True, slots=True)
class _Fields:
    """`Plan` as JSON holds it."""

    cells: list[dict[str, Any]]
    seed: int
    threads: int
    replicates: int
    max_replicates: int
    rigor: str
    quick: bool
    pace: dict[str, float]
    memory_bytes: int
    time_limit_s: float | None
    repeats: int
    pythons: dict[str, str]
    out: str
    reference_dir: str
    command: str
    ceilings: bool
    notes: list[str]
    placement: str
    beside: list[str]


@dataclass(frozen=True, slots=True)
class _Cell:
    """`Cell` as JSON holds it."""

    backend: str
    replicate: int
    works: list[str]


@dataclass(frozen=True, slots=True)
class _Pace:
    """`Pace` as JSON holds it: a limit that is infinite is left out."""

    rounds: int
    seconds: float
    least: int
    limit_s: float = inf


def text_of(plan: Plan) -> str:
    """One line of JSON, with a hash of what matters in it."""
    content = json.loads(json.dumps(asdict(plan), default=str))
    content["pace"] = {name: value for name, value in content["pace"].items() if value != inf}
    return json.dumps({"membound": __version__, "hash": plan_hash(content), "plan": content}, allow_nan=False)


def plan_of(text: str) -> Plan:
    """The plan of a text. Raises UnfitPlanError: damaged, changed, another version's, or none that could be."""
    try:
        stored = read_json(text)
        content, version, intact = (
            stored["plan"],
            stored["membound"],
            stored["hash"] == plan_hash(stored["plan"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnfitPlanError(f"cannot be read: {error!r}") from None
    if not intact:
        raise UnfitPlanError("was changed since the run began: start afresh")
    if (
        version != __version__
        or not isinstance(content, dict)
        or set(content) != {f.name for f in fields(Plan)}
    ):
        raise UnfitPlanError(f"was written by membound {version}, this is {__version__}: start afresh")
    if wrong := _wrong(content):
        raise UnfitPlanError(f"is none that membound writes ({wrong}): start afresh")
    cells = tuple(Cell(c["backend"], c["replicate"], tuple(c["works"])) for c in content["cells"])
    paths = {name: Path(content[name]) for name in ("out", "reference_dir")}
    texts = {name: tuple(content[name]) for name in ("notes", "beside")}
    return Plan(**content | paths | texts | {"cells": cells, "pace": Pace(**content["pace"])})


def _wrong(content: Mapping[str, Any]) -> str:
    """What no plan has, or ''."""
    wrong = wrong_field(_Fields, content) or wrong_field(_Pace, content["pace"])
    wrong = wrong or next(filter(None, (wrong_field(_Cell, cell) for cell in content["cells"])), "")
    if wrong:
        return wrong
    if not all(isinstance(work, str) for cell in content["cells"] for work in cell["works"]):
        return "a work is not text"
    if content["rigor"] not in RIGORS:
        return f"rigor={content['rigor']!r}"
    cpus = os.cpu_count() or 1
    if not 1 <= content["threads"] <= cpus:
        return f"threads={content['threads']} of {cpus}"
    if not 1 <= content["pace"]["least"] <= content["pace"]["rounds"]:
        return f"pace={content['pace']}"
    return ""


def plan_hash(content: Any) -> str:
    """What a stored plan's hash must be."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
