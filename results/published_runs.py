"""The runs and claims that ship with the package: where they lie, and what each one is in a line.

>>> [entry.run for entry in index_of(folder())]
['20261122T034924-intel-xeon-ef84', …]

`index.json` beside them is made from this by `membound published --into`, so that others need not load rows to know
what there is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from membound.results.row import Row
from membound.results.run_files import run_files
from membound.results.stats import records, summarize
from membound.results.store import load_rows

INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A published run. Shares are from 0 to 1; None where no ceiling was measured."""

    folder: str
    run: str
    machine: str
    threads: int
    started_at: str
    works: int
    backends: list[str]
    cases: int
    failed: int
    read_ceiling_bytes_per_s: float | None
    lowest_of_bound: float | None
    """The smallest share of the machine's limit that the fastest backend of a work reaches."""
    highest_of_bound: float | None
    verdicts: dict[str, int]
    """Of the fastest backend of each work."""


def folder() -> Path:
    """The folder of published files within the installed package."""
    return Path(__file__).with_name("published")


def index_of(place: Path) -> list[Entry]:
    """Every run below a folder in order of time. Raises RowError, StoreError."""
    found = [entry_of(path.parent.name, load_rows(path)) for path in run_files(place)]
    return sorted(found, key=lambda entry: (entry.started_at, entry.run))


def entry_of(place: str, rows: Sequence[Row]) -> Entry:
    """The entry of one run."""
    lines = records(summarize(rows))
    best = fastest(lines)
    shares = [line["of_bound"] for line in best if line["of_bound"] is not None]
    ceilings = [line["read_ceiling_bytes_per_s"] for line in lines if line["read_ceiling_bytes_per_s"]]
    return Entry(
        folder=place,
        run=rows[0].run_id,
        machine=next((str(row.machine["cpu"]) for row in rows if row.machine.get("cpu")), ""),
        threads=max(row.threads for row in rows),
        started_at=min((row.started_at for row in rows if row.started_at), default=""),
        works=len({line["work"] for line in lines}),
        backends=sorted({line["backend"] for line in lines if line["time_s"] is not None}),
        cases=len(lines),
        failed=sum(line["status"] not in ("ok", "unsupported", "unavailable") for line in lines),
        read_ceiling_bytes_per_s=max(ceilings, default=None),
        lowest_of_bound=min(shares, default=None),
        highest_of_bound=max(shares, default=None),
        verdicts=dict(sorted(Counter(line["verdict"] for line in best).items())),
    )


def fastest(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The line of the fastest backend of each work, in the order of the works."""
    return [line for line in lines if line["time_s"] is not None and line["ratio_to_fastest"] == 1.0]


def index_json(entries: Sequence[Entry]) -> str:
    """The text of `index.json`; figures in three digits, which is more than a machine repeats."""
    return json.dumps([_rounded(asdict(entry)) for entry in entries], indent=1, allow_nan=False) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return float(f"{value:.3g}") if isinstance(value, float) else value
