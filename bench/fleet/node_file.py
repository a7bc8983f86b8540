"""The file that a node keeps of its own suite until the driver has all rows: a run like any other, in the node's cache folder.

>>> reader = NodeFile("20261129T121500-fleet-1f3a.gpu-07.all")
>>> reader.lines_from(0)
(b'{"run_id":…}', …)
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from membound.bench.run.journal import journal_of
from membound.bench.run.resume import partial_of, plan_path
from membound.kernels.cpu.kernel_cache import cache_base, private_folder
from membound.results.store import SUFFIX

KEPT_DAYS = 14
"""What no driver came back for is removed by the next fleet after that."""
MOST_BYTES = 64_000
"""Of lines that are handed over at once. Ray sends results of up to 100 kB with the reply itself, past the object store."""


def node_folder() -> Path:
    """Where a node keeps its files. Raises CacheRefused, OSError."""
    return private_folder(cache_base() / "fleet")


class NodeFile:
    """The rows of a node's suite, read while they are written."""

    def __init__(self, run_id: str) -> None:
        self.path = node_folder() / f"{run_id}{SUFFIX}"
        self._at = (0, 0)

    @property
    def is_finished(self) -> bool:
        """Whether an earlier try came to its end, and nobody has taken all of it."""
        return self.path.exists()

    @property
    def is_cut(self) -> bool:
        """Whether an earlier try can be continued."""
        return partial_of(self.path).exists() and plan_path(self.path).exists()

    def lines_from(self, index: int) -> tuple[bytes, ...]:
        """Whole lines from that one on, as they were stored, up to MOST_BYTES but one at least."""
        known, offset = self._at
        if index < known:
            known = offset = 0
        found: list[bytes] = []
        size = 0
        try:
            file = self.path.open("rb") if self.path.exists() else partial_of(self.path).open("rb")
        except FileNotFoundError:
            return ()
        with file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                if known >= index:
                    if found and size + len(line) > MOST_BYTES:
                        break
                    found.append(line.rstrip(b"\n"))
                    size += len(line)
                else:
                    self._at = (known + 1, offset + len(line))
                known, offset = known + 1, offset + len(line)
        return tuple(found)

    def rebuild(self, lines: tuple[bytes, ...]) -> None:
        """Write what was handed over before, for a suite that continues although its file was lost. Raises OSError."""
        with partial_of(self.path).open("xb") as file:
            file.writelines(line + b"\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    def clear(self) -> None:
        """Remove everything of it."""
        for path in (self.path, partial_of(self.path), plan_path(self.path), journal_of(self.path)):
            path.unlink(missing_ok=True)


def remove_old() -> None:
    """Remove files that no driver came back for."""
    oldest = time.time() - KEPT_DAYS * 86_400
    for path in node_folder().iterdir():
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except OSError:  # another suite of this machine was quicker, or it is nothing of ours
            continue
