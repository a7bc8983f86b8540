"""`membound fleet` as a process, and the rows that it stores.

>>> drivers = FleetDrivers(tmp_path, "10.0.0.1:6379")
>>> drivers.fleet("--nodes", "1")
(0, 'rows: …', '')
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from membound.results.row import Row
from membound.results.store import load_rows

LIMIT_S = 200.0


class FleetDrivers:
    """Drivers of one cluster. `before`: words that a command begins with, such as those that have it run on another host."""

    def __init__(self, folder: Path, address: str, before: Sequence[str] = ()) -> None:
        self.folder = folder
        self.out = folder / "fleets"
        self.address = address
        self.before = before
        self.processes: list[subprocess.Popen[str]] = []

    def end_processes(self) -> None:
        """Kill those that are left."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.processes.clear()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`membound fleet` with these arguments, as a process of its own."""
        command = [
            sys.executable,
            "-m",
            "membound",
            "fleet",
            "--address",
            self.address,
            "--out",
            str(self.out),
        ]
        process = subprocess.Popen(
            [*self.before, *command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def fleet(self, *arguments: str) -> tuple[int, str, str]:
        """The same to its end: (status, standard output, standard error)."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=LIMIT_S)
        return process.returncode, out, err

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that the fleet does."""
        until = time.monotonic() + LIMIT_S
        while not holds():
            ended = [process for process in self.processes if process.poll() is not None]
            if ended or time.monotonic() > until:
                raise AssertionError(f"it never came: {[process.communicate() for process in ended]}")
            time.sleep(0.05)

    def stored(self) -> int:
        """Rows on the driver's disk at the moment."""
        return sum(path.read_bytes().count(b"\n") for path in self._files())

    def stored_of(self, name: str) -> int:
        """The same of one node."""
        mark = json.dumps({"node": name})[1:-1].replace(": ", ":").encode()
        return sum(path.read_bytes().count(mark) for path in self._files())

    def rows(self) -> list[Row]:
        """Those of the only fleet."""
        (path,) = self.out.glob("*.jsonl")
        return load_rows(path)

    def _files(self) -> list[Path]:
        return [path for path in self.out.glob("*.jsonl*") if path.suffix != ".fleet"]
