"""What the harness holds at the moment: asked between two passes of a soak.

>>> held().descriptors
14
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from membound.bench.measure.check import REFERENCE
from membound.bench.protocol import guardian
from membound.kernels.cpu.kernel_cache import cache_base
from membound.results.soak.reading import Reading

PREFIX = "membound-"
"""Of every temporary folder of ours."""


def held() -> Reading:
    """Read once, after a collection.

    References of checks do not count among the cache's files: there is one at most for each input set of a work, and which set a
    pass ends at is chance, so that they go on coming for hours.
    """
    gc.collect()
    process = psutil.Process()
    return Reading(
        resident_bytes=process.memory_info().rss,
        descriptors=process.num_fds(),
        threads=process.num_threads(),
        processes=len(guardian.marked(guardian.HARNESS, guardian.harness_mark())),
        temporary_files=sum(1 for _ in _temporary()),
        cache_files=sum(1 for path in _files(cache_base()) if not path.endswith(REFERENCE)),
    )


def _temporary() -> Iterator[str]:
    """Everything in the harness's own folder, and every folder that begins with PREFIX."""
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:  # others' folder may be unreadable
        yield from (entry.path for entry in entries if entry.name.startswith(PREFIX))
    yield from _files(guardian.scratch_folder())


def _files(folder: Path) -> Iterator[str]:
    """Names below a folder; one that goes meanwhile is not there."""
    for where, folders, files in os.walk(folder):
        yield from (os.path.join(where, name) for name in (*folders, *files))
