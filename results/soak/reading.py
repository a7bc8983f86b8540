"""What a soak notes after each pass: how long it took, which rows it left, what the harness still holds.

>>> Reading(resident_bytes=210 << 20, descriptors=14, threads=3, processes=0, temporary_files=0, cache_files=41)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """What the harness holds between two passes, when its workers have ended."""

    resident_bytes: int
    """Memory of the harness itself."""
    descriptors: int
    """Open files, pipes and sockets."""
    threads: int
    processes: int
    """Those that a pass started and that are still there."""
    temporary_files: int
    """In the harness's folder of temporary files, and folders of other harnesses and workers."""
    cache_files: int
    """Compiled kernels and prompts' caches; without the references of checks, of which there is one for each input set at most."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The suite, once. `expected` and `stored` count cases; `twice` those stored again; `failed` those without an answer.

    `shares`: of the machine's limit, 0-1, by backend and work, of cases that were measured; `disturbed`: those of them whose
    processes were all invalid.
    """

    run_id: str
    seconds: float
    expected: int
    stored: int
    twice: int
    failed: int
    shares: Mapping[tuple[str, str], float]
    reading: Reading
    disturbed: frozenset[tuple[str, str]] = frozenset()
