"""Files of pytest-benchmark (``--benchmark-json``, ``--benchmark-save``) as rows, and what membound adds to them.

>>> rows_from(Path("bench.json"))                  # what `load_rows` does with such a file
>>> benchmark.extra_info |= info_of(row, figures)  # what the fixture of bench/pytest_plugin/hooks.py stores there

A benchmark that was timed by that fixture becomes the same row again, ceilings included. Any other
benchmark becomes a row without bytes and FLOPs: its times can be shown and compared, its share of a ceiling
is not known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from membound.results.exchange.document import Document
from membound.results.exchange.moment import moment_of
from membound.results.row import SUMMARY, Row, RowError
from membound.spec_text import quoted

KEY = "membound"
"""The key of the row in a benchmark's ``extra_info``, and of the ceilings at the top of the file."""

FIGURES = (
    *("achieved_bytes_per_s", "achieved_flops_per_s", "read_ceiling_bytes_per_s"),
    *("compute_ceiling_flops_per_s", "mbu", "mfu", "roofline", "verdict", "verdict_reason", "validity"),
)
"""The columns of the summary that ``extra_info`` has as separate keys, for readers of the file."""

UNVERSIONED = "unversioned"
"""The commit's id where pytest-benchmark found no repository."""

PAIRS = (("min", "max"), ("q1", "q3"))
"""Numbers around the median that files have instead of raw samples; a pair leaves the median what it is."""


def info_of(row: Row, figures: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into ``extra_info``: the FIGURES of the summary line, and the row without its samples.

    The samples stand in the file already, as pytest-benchmark's own data; turns come with the row.
    """
    stored = json.loads(row.to_json())
    del stored["samples_s"]
    return {name: figures[name] for name in FIGURES} | {KEY: stored}


def file_info(ceilings: Iterable[Row]) -> dict[str, Any]:
    """What goes to the top of the file: the ceilings that its benchmarks are held against."""
    return {"ceilings": [json.loads(row.to_json()) for row in ceilings]}


def recognises(document: Document) -> bool:
    """Whether it is a file of the plugin: a list of benchmarks beside the machine or membound's own entry."""
    return document.has("benchmarks") and (document.has("machine_info") or document.has(KEY))


def rows_from(path: Path, run_id: str | None = None) -> list[Row]:
    """The rows of a file: ceilings first, then a case for each benchmark.

    `run_id` is that of benchmarks of other fixtures, which name no run; the file's name unless given.

    Raises RowError, which names the file and what is wrong with it, and OSError if it cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RowError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("benchmarks"), list):
        raise RowError(f"{path} is not a file of pytest-benchmark: it has no list of benchmarks")
    try:
        ceilings = [_row(stored) for stored in _object(content, KEY, "the file").get("ceilings") or ()]
        cases = [
            _case(run_id or path.stem, content, found, f"benchmarks[{i}]")
            for i, found in enumerate(content["benchmarks"])
        ]
    except RowError as error:
        raise RowError(f"{path}: {error}") from None
    return ceilings + cases


def _object(holder: Any, name: str, where: str) -> Mapping[str, Any]:
    """A part of the file; empty where it is missing or null, as versions of pytest-benchmark leave it. Raises RowError."""
    found = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(holder, dict) or not isinstance(found, dict | None):
        raise RowError(f"not a file of pytest-benchmark: {name} of {where} is no object")
    return found or {}


def _text(holder: Mapping[str, Any], name: str, where: str = "") -> str:
    """A text of the file; empty where it is missing or null, unless `where` says who needs it. Raises RowError."""
    found = holder.get(name)
    if found is None and not where:
        return ""
    if not isinstance(found, str):
        raise RowError(
            f"not a file of pytest-benchmark: {name} of {where or 'the file'} is {found!r:.60}, not a text"
        )
    return found


def _row(stored: Any) -> Row:
    if not isinstance(stored, dict):
        raise RowError(f"not a row: {stored!r:.60}")
    return Row.from_json(json.dumps(stored))


def _samples(stats: Mapping[str, Any], where: str) -> tuple[list[float], dict[str, str]]:
    """The raw samples, or the numbers that the file has of them and a note that says which. Raises RowError."""
    if stats.get("data"):
        return list(stats["data"]), {}
    if stats.get("median") is None:
        raise RowError(f"not a file of pytest-benchmark: stats of {where} has neither data nor a median")
    held = {"median": stats["median"]}
    for low, high in PAIRS:
        if stats.get(low) is not None and stats.get(high) is not None:
            held |= {low: stats[low], high: stats[high]}
    names = [name for name in ("min", "q1", "median", "q3", "max") if name in held]
    rounds = f" of {stats['rounds']}" if stats.get("rounds") else ""
    return [held[name] for name in names], {
        SUMMARY: f"{', '.join(names)}{rounds}: the file holds no raw ones"
    }


def _case(run_id: str, content: Mapping[str, Any], found: Any, where: str) -> Row:
    """One benchmark, with the raw samples if the file has them, else with their statistics. Raises RowError."""
    stats = _object(found, "stats", where)
    stored = _object(found, "extra_info", where).get(KEY)
    if stored is not None and not (isinstance(stored, dict) and isinstance(stored.get("config", {}), dict)):
        raise RowError(f"{KEY} in extra_info of {where} is no row")
    if stored is not None and stored.get("turns"):
        return _row(stored)
    samples, note = _samples(stats, where)
    if stored is not None:
        return _row({**stored, "samples_s": samples, "config": {**stored.get("config", {}), **note}})
    cpu = _object(_object(content, "machine_info", "the file"), "cpu", "machine_info")
    processor = _text(cpu, "brand_raw") or _text(cpu, "brand")  # so called before version 3.4
    stored = {
        **asdict(Row(run_id, "case", "", "", "ok")),
        "backend": f"{_text(found, 'name', where).replace(':', '-')}:cpu",
        "work": f"custom:name={quoted(_text(found, 'fullname', where))}",
        "device": processor,
        "started_at": moment_of(_text(content, "datetime")),
        "launches": stats.get("iterations") or 1,
        "samples_s": samples,
        "config": note,
        "machine": {"cpu": processor} if processor else {},
        "versions": _commit(content),
    }
    return _row(stored)  # what a foreign file holds is checked as a stored row is


def _commit(content: Mapping[str, Any]) -> dict[str, str]:
    """The commit that was measured, where pytest-benchmark found a repository. Raises RowError."""
    info = _object(content, "commit_info", "the file")
    commit = _text(info, "id")
    if commit in ("", UNVERSIONED):
        return {}
    return {"commit": f"{commit}{'-dirty' * bool(info.get('dirty'))}"}
