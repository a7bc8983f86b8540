"""The step of a served engine alone, as `membound run` measured it: which row belongs to a point of load.

>>> step = engine_step_of(row, decoding, model, rows)
>>> step.seconds, step.work
(0.0161, 'step:model=tiny,batch=4,context=120,weight=f32,kv=f32,act=float,cache=prompt')

A case belongs to a point if engine, versions, machine, threads, model, formats and batch are the same and its bytes are those of the
point's step, or nearly so: the context of a stored step is rarely that of a load to the token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from membound.results.checksum import unsealed
from membound.results.row import Row
from membound.results.run_files import StoreError, run_files
from membound.results.serving.decode import Decoding
from membound.results.serving.step_model import StepModel
from membound.spec_text import pieces

NEAR = 0.05
"""By so much may the bytes of a stored step differ from those of the point."""
SIZES = ("batch", "context")
SIZE = re.compile("[0-9]{1,18}")
MARKS = (b'"kind":"case"', b'"work":"step:')
"""What the line of such a case holds."""


@dataclass(frozen=True, slots=True)
class EngineStep:
    """`seconds`: the median over its processes."""

    seconds: float
    work: str
    run_id: str
    processes: int


def engine_step_of(row: Row, decoding: Decoding, model: StepModel, rows: Iterable[Row]) -> EngineStep | None:
    """The step that fits a point of load best among `rows`: of its own run, else of the latest; None if none fits."""
    if not step_backend(row) or decoding.context is None:
        return None
    wanted = model.bytes_of(_batch(decoding), decoding.context)
    if wanted <= 0:
        return None
    found: dict[tuple[bool, str, float, str], list[float]] = {}
    for one in rows:
        if (context := _context_of(row, one, _batch(decoding))) is None:
            continue
        off = abs(model.bytes_of(_batch(decoding), context) / wanted - 1)
        if off <= NEAR:
            key = one.run_id == row.run_id, one.run_id, -off, one.work
            found.setdefault(key, []).append(median(one.times_s))
    if not found:
        return None
    best = max(found)
    return EngineStep(median(found[best]), best[3], best[1], len(found[best]))


def wanted_step(row: Row, decoding: Decoding) -> str:
    """The spec of the step that a point of load is to be set beside; '' where it is not known."""
    if not step_backend(row) or decoding.context is None:
        return ""
    sizes = {"batch": _batch(decoding), "context": max(1, round(decoding.context))}
    parts = [(part, part.partition("=")[0]) for part in pieces(_work(row))]
    return ",".join(f"{name}={sizes[name]}" if name in sizes else part for part, name in parts)


def how_to_measure(row: Row, decoding: Decoding) -> str:
    """The command that measures that step; '' where nothing can."""
    spec = wanted_step(row, decoding)
    return spec and f"membound run {spec} --backends {step_backend(row)} --threads {row.threads}"


def step_backend(row: Row) -> str:
    """The backend and device that measure steps of the engine alone, or ''."""
    return str(row.config.get("roofline", {}).get("step_backend", ""))


def stored_steps(folder: Path) -> Iterator[Row]:
    """The steps in the row files below a folder; no other line is read, and what cannot be read is passed by."""
    with suppress(StoreError, OSError):
        for file in run_files(folder) if folder.is_dir() else []:
            with file.open("rb") as lines:
                for line in lines:
                    with suppress(ValueError):
                        if all(mark in line for mark in MARKS):
                            yield Row.from_json(unsealed(line).decode())


def with_stored_steps(rows: Sequence[Row], folder: Path) -> list[Row]:
    """These rows and, where points among them may have their engine's step in another run of the folder, those steps too."""
    runs = {row.run_id for row in rows}
    if not any(row.kind == "serving" and step_backend(row) for row in rows):
        return list(rows)
    return [*rows, *(row for row in stored_steps(folder) if row.run_id not in runs)]


def _batch(decoding: Decoding) -> int:
    return max(1, round(decoding.batch))


def _work(row: Row) -> str:
    return str(row.config["roofline"].get("work", ""))


def _context_of(row: Row, one: Row, batch: int) -> int | None:
    """The context of a case that is a step of the same engine, model, formats and batch on the same machine, else None."""
    alike = (
        (one.kind, one.status, one.backend.partition("#")[0], one.threads)
        == ("case", "ok", step_backend(row), row.threads)
        and bool(one.times_s)
        and one.machine.get("cpu") == row.machine.get("cpu")
        and _same_versions(row, one)
    )
    if not alike or _fixed(one.work) != _fixed(_work(row)):
        return None
    sizes = {name: value for name, _, value in (part.partition("=") for part in pieces(one.work))}
    context = sizes.get("context", "")
    if sizes.get("batch") != str(batch) or not SIZE.fullmatch(context):
        return None
    return int(context)


def _fixed(work: str) -> list[str]:
    """What does not change from step to step of an engine."""
    return [part for part in pieces(work) if part.partition("=")[0] not in SIZES]


def _same_versions(row: Row, one: Row) -> bool:
    """Whether the engine is the one that served, as far as both name versions."""
    served = row.config.get("engine", {}).get("versions", {})
    named = served if isinstance(served, dict) else {}
    return all(one.versions[name] == version for name, version in named.items() if name in one.versions)
