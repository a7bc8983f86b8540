"""Claim files, which hold what `membound claim` measured: one line of meta, the ceilings as rows, the observations.

>>> from membound.results.store import RunWriter, new_run_id
>>> with RunWriter(new_claim_path(Path("results/runs"), new_run_id("AMD EPYC 9654"))) as writer:
...     writer.append(meta)                 # ClaimMeta first, then ceilings (Row) and Observations as they come
...     writer.append(ceiling)
...     writer.append(observation)
>>> claim = load_claim(writer.path)
>>> claim.meta.experiments_version, len(claim.observations)

They are written as rows are (`store.py`): each line is on disk before `append` returns, a torn last line is dropped
on load, a newer schema is refused. Their names are ``claim-<run>.jsonl``, and readers of rows skip them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from membound.results.claim.observation import ClaimMeta, Observation, ObservationError
from membound.results.fields import read_json
from membound.results.row import Row
from membound.results.run_files import CLAIM_PREFIX, files_below, regular
from membound.results.store import StoreError, new_run_path, parsed_lines


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim file as it was loaded."""

    meta: ClaimMeta
    ceilings: tuple[Row, ...]
    observations: tuple[Observation, ...]


def new_claim_path(out: Path, run_id: str) -> Path:
    """The path of a new claim in folder `out`, which is made. Raises StoreError if it cannot be written."""
    return new_run_path(out, f"{CLAIM_PREFIX}{run_id}")


def claim_files(folder: Path) -> list[Path]:
    """Every claim file below a folder, including those that were cut short, by name; what is no file is passed by."""
    return sorted(p for p in regular(files_below(folder)) if p.name.startswith(CLAIM_PREFIX))


def load_claims(paths: Iterable[Path]) -> Iterator[tuple[Path, Claim]]:
    """The claims of these files, each once: of files that hold the same one, the first, with a warning for each other.

    Raises as `load_claim`.
    """
    homes: dict[str, tuple[Path, Claim]] = {}
    for path in paths:
        claim = load_claim(path)
        home, known = homes.setdefault(claim.meta.claim_id, (path, claim))
        if known is claim:
            yield path, claim
        elif known == claim:
            warnings.warn(f"{path} is a copy of {home}: it counts once", stacklevel=2)
        else:
            raise ObservationError(
                f"{path} and {home} both hold claim {claim.meta.claim_id}, and differ: name one of them"
            )


def load_claim(path: Path) -> Claim:
    """Read a claim file. Raises ObservationError with file and line, StoreError if it cannot be read."""
    if not path.is_file():
        there = os.path.lexists(path)
        raise StoreError(
            f"{path} is no file that could hold a claim" if there else f"no such claim file: {path}"
        )
    lines = list(parsed_lines(path, _parsed, ObservationError))
    first, rest = (lines[0], lines[1:]) if lines else (None, [])
    if not isinstance(first, ClaimMeta):
        raise ObservationError(f"{path} does not begin with a line of kind meta: it is no claim file")
    if any(isinstance(line, ClaimMeta) for line in rest):
        raise ObservationError(f"{path} has a second line of kind meta: it is two claim files in one")
    return Claim(
        first,
        tuple(line for line in rest if isinstance(line, Row)),
        tuple(line for line in rest if isinstance(line, Observation)),
    )


def _parsed(line: str) -> ClaimMeta | Row | Observation:
    try:
        kind = read_json(line).get("kind")
    except (ValueError, AttributeError) as error:
        raise ObservationError(f"not a JSON object: {error}") from None
    if kind == "meta":
        return ClaimMeta.from_json(line)
    return Observation.from_json(line) if kind == "observation" else Row.from_json(line)
