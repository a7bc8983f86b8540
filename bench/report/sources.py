"""What a report is made from: rows and claims, by whatever name the user gave them.

>>> rows, claims = sources(["latest", "published", "claim-2026.jsonl", "results.json"], Path("results/runs"))
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from membound.bench.claim.report import load_reports
from membound.results.claim.file import claim_files
from membound.results.report.text import ClaimReport
from membound.results.row import Row
from membound.results.run_files import CLAIM_PREFIX, run_files
from membound.results.store import StoreError, load_rows
from membound.results.stored_runs import find_run

MARK = b'{"kind":"meta"'
"""How a claim file begins, whatever its name."""


def sources(names: Sequence[str], out: Path) -> tuple[list[Row], list[ClaimReport]]:
    """The rows of all runs and all claims that are named. Raises StoreError, RowError, ObservationError."""
    runs: list[Path] = []
    claims: list[Path] = []
    for name in dict.fromkeys(names):
        path = _claim_of(name, out) or find_run(name, out)
        if path.is_dir():
            found = run_files(path), claim_files(path)
            if not any(found):
                raise StoreError(f"{path} holds neither runs nor claims")
            runs, claims = [*runs, *found[0]], [*claims, *found[1]]
        elif is_claim(path):
            claims.append(path)
        else:
            runs.append(path)
    rows = load_rows(dict.fromkeys(runs))
    if not rows and not claims:
        raise StoreError(f"{', '.join(map(str, runs))}: no rows, so there is nothing to report")
    return rows, load_reports(list(dict.fromkeys(claims))) if claims else []


def _claim_of(name: str, out: Path) -> Path | None:
    """The claim in the folder of runs whose name begins so; None for names of anything else. Raises StoreError."""
    if not name.startswith(CLAIM_PREFIX) or os.path.exists(name):
        return None
    found = [path for path in claim_files(out) if path.name.startswith(name)] if out.is_dir() else []
    if len(found) != 1:
        raise StoreError(f"{name!r} is the start of {len(found)} claims in {out}; name one file")
    return found[0]


def is_claim(path: Path) -> bool:
    """Whether a file holds a claim: by its name, or by how it begins."""
    if path.name.startswith(CLAIM_PREFIX):
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(MARK)) == MARK
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
