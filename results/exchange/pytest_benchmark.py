"""Files of pytest-benchmark (``--benchmark-json``, ``--benchmark-save``) as rows, and what membound adds to them.

>>> rows_from(Path("bench.json"))                  # what `load_rows` does with a name that ends in .json
>>> benchmark.extra_info |= info_of(row, figures)  # what the fixture of bench/pytest_plugin/hooks.py stores there

A benchmark that was timed by that fixture becomes the same row again, ceilings included. Any other
benchmark becomes a row without bytes and FLOPs: its times can be shown and compared, its share of a ceiling
is not known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from membound.results.row import Row, RowError
from membound.spec_text import quoted

SUFFIX = ".json"
KEY = "membound"
"""The key of the row in a benchmark's ``extra_info``, and of the ceilings at the top of the file."""

FIGURES = (
    *("achieved_bytes_per_s", "achieved_flops_per_s", "read_ceiling_bytes_per_s"),
    *("compute_ceiling_flops_per_s", "mbu", "mfu", "roofline", "verdict", "verdict_reason", "validity"),
)
"""The columns of the summary that ``extra_info`` has as separate keys, for readers of the file."""

FIVE_NUMBERS = ("min", "q1", "median", "q3", "max")


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


def rows_from(path: Path) -> list[Row]:
    """The rows of a file: ceilings first, then a case for each benchmark.

    Raises RowError, which names the file and what is wrong with it, and OSError if it cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RowError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("benchmarks"), list):
        raise RowError(f"{path} is not a file of pytest-benchmark: it has no list of benchmarks")
    try:
        ceilings = [_row(stored) for stored in content.get(KEY, {}).get("ceilings", ())]
        return ceilings + [_case(path, content, found) for found in content["benchmarks"]]
    except RowError as error:
        raise RowError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise RowError(f"{path} is not a file of pytest-benchmark: {error!r}") from None


def _row(stored: Mapping[str, Any]) -> Row:
    return Row.from_json(json.dumps(stored))


def _case(path: Path, content: Mapping[str, Any], found: Mapping[str, Any]) -> Row:
    """One benchmark, with the raw samples if the file has them, else with their statistics."""
    stats = found["stats"]
    samples, note = stats.get("data"), {}
    if not samples:
        samples = [stats[name] for name in FIVE_NUMBERS]
        note = {"samples": f"{', '.join(FIVE_NUMBERS)} of {stats['rounds']}: the file holds no raw ones"}
    stored = found.get("extra_info", {}).get(KEY)
    if stored is not None and stored.get("turns"):
        return _row(stored)
    if stored is not None:
        return _row({**stored, "samples_s": samples, "config": {**stored["config"], **note}})
    processor = content.get("machine_info", {}).get("cpu", {}).get("brand_raw", "")
    row = Row(
        run_id=path.stem,
        kind="case",
        backend=f"{found['name'].replace(':', '-')}:cpu",
        work=f"custom:name={quoted(found['fullname'])}",
        status="ok",
        device=processor,
        started_at=content.get("datetime", ""),
        launches=stats["iterations"],
        samples_s=list(samples),
        config=note,
        machine={"cpu": processor} if processor else {},
    )
    return Row.from_json(row.to_json())  # what a foreign file holds is checked as a stored row is
