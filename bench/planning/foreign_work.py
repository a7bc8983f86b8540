"""Bytes and FLOPs of what another tool ran, where its file names a model that is known here, its format and its shape.

>>> sized(row).bytes
2471755776

A row of the kind `model` becomes the work that its phase is: a step in the middle of what was generated, or the prompt.
Everything else stays as it was: what a file does not say is not guessed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from membound.kernels.work import FORMATS, SpecError, parse
from membound.results.exchange.ceilings import with_ceilings
from membound.results.exchange.exports import export
from membound.results.exchange.formats import read_foreign
from membound.results.file_kinds import FOREIGN, kind_of
from membound.results.row import SUMMARY, Row
from membound.results.store import StoreError, new_run_path
from membound.spec_text import settings

STEPS = {"per_token": 1, "decode": -1}
"""Phases that are steps; `decode` generates all tokens but the first, which the prompt gave."""


def sized(row: Row) -> Row:
    """The row with its bytes and FLOPs, its time by step, and the spec of its work; as it was if something is missing."""
    keys = settings(row.work)
    phase, model = keys.get("phase", ""), keys.get("model", "").rpartition("/")[2].lower()
    if row.bytes or not row.work.startswith("model:") or keys.get("weight") not in FORMATS:
        return row
    try:
        batch, prompt = int(keys["batch"]), int(keys["input"])
        generated = int(keys.get("output", 0))
    except (KeyError, ValueError):
        return row
    weight = keys["weight"]
    shape = f"model={model},batch={batch},weight={weight},kv={weight}"
    steps = 1
    if phase in STEPS and generated > 1:
        steps = 1 if STEPS[phase] > 0 else generated - 1
        spec = f"step:{shape},context={prompt + generated // 2}"
    elif phase == "prefill":
        spec = f"prefill:{shape},tokens={prompt}"
    else:
        return row
    try:
        work = parse(spec)
    except SpecError:
        return row  # no model of that name is known here
    return replace(
        row,
        work=work.spec,
        bytes=work.traffic.total_bytes,
        flops=work.flops,
        traffic=asdict(work.traffic),
        samples_s=[time / steps for time in row.samples_s],
        config=row.config | {"asked": row.work},
    )


@dataclass(frozen=True, slots=True)
class ImportedRun:
    """A file of another tool as a run that can be written."""

    file: Path
    run_id: str
    format: str
    rows: list[Row]
    contradictions: list[str]

    def write(self, out: Path) -> dict[str, Any]:
        """Write the run into a folder, whole or not at all, and tell what it is. Raises StoreError."""
        path = new_run_path(out, self.run_id)
        export(self.rows, path, "jsonl")
        return {
            "file": str(self.file),
            "format": self.format,
            "run": str(path),
            "rows": len(self.rows),
            "contradictions": self.contradictions,
            "missing": self.missing(),
        }

    def missing(self) -> list[str]:
        """What the rows have no figures of, in words."""
        cases = [row for row in self.rows if row.kind == "case"]
        absent = {
            "the device": not any(row.device for row in cases),
            "bytes": bool(cases) and not any(row.bytes for row in cases),
            "single samples": bool(cases) and all(SUMMARY in row.config for row in cases),
            "when it ran": not any(row.started_at for row in self.rows),
        }
        return [name for name, is_absent in absent.items() if is_absent]


def import_run(path: Path, limits: Sequence[Row] | None = None, name: str = "") -> ImportedRun:
    """A file of another tool as a run, its bytes against the ceilings of `limits`, the run of that name.

    Raises StoreError, RowError, CeilingsMissing.
    """
    if not path.is_file():
        raise StoreError(f"{path} is no file" if os.path.lexists(path) else f"no such file: {path}")
    try:
        if kind_of(path, by_name=False) != FOREIGN:
            raise StoreError(
                f"{path} holds rows of membound already; show it, or copy it into the folder of runs"
            )
        found = read_foreign(path)
    except OSError as error:
        raise (
            error
            if isinstance(error, StoreError)
            else StoreError(f"{path} cannot be read: {error.strerror or error}")
        ) from None
    rows = [sized(row) for row in found.rows]
    if limits is not None:
        rows = with_ceilings(rows, limits, name)
    return ImportedRun(path, found.run_id, found.format.name, rows, found.contradictions)
