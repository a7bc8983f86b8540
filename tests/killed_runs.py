"""Runs killed with SIGKILL at random points and gone on with: `python killed_runs.py FOLDER SEED TIMES`.

Workers are faked, so that a run takes milliseconds; the harness, its files and the kill are real. Each run is
killed again and again until it comes to its end. Prints how often runs were killed, and exits with 0 if every
run holds each case once, and every row that an earlier process wrote.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from membound.bench import api
from membound.bench.ceilings.ceiling import Ceiling
from membound.bench.machine.telemetry import delta, snapshot
from membound.bench.planning.plan import Cell, Options, make_plan
from membound.bench.run.execute import execute as run
from membound.bench.run.progress import Silent
from membound.bench.run.resume import find_cut, partial_of
from membound.results.row import Row
from membound.results.store import RunWriter, StoreError, load_rows

WORKS = [f"linear:n=8,k=32,m={m},weight=f32,act=float" for m in (1, 2, 3)]
BACKENDS = ("numba:cpu", "numpy:cpu")
PERSISTENT = "linear:n=8,k=32,m=2,weight=f32,act=float"


class FakeWorker:
    """What a worker would send, at once."""

    def __init__(self, job: dict[str, Any], python: str = "") -> None:
        self.job = job

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def events(self, limit_s: Any) -> Any:
        names = ("read", "fma_f32") if self.job["job"] == "ceilings" else ("launch",)
        if self.job["job"] == "ceilings" or self.job["ceilings"]:
            found = [
                asdict(Ceiling(n, random.random(), "s" if n == "launch" else "bytes/s", (), {}))
                for n in names
            ]
            before = snapshot()
            yield {"event": "ceilings", "ceilings": found, "telemetry": delta(before, snapshot())}
        for work in self.job.get("works", ()):
            yield {"event": "phase", "work": work, "phase": "timing"}
            samples = [random.random() for _ in range(3)]
            status = "unsupported" if (self.job["backend"], work) == (BACKENDS[1], PERSISTENT) else "ok"
            row = Row("", "case", self.job["backend"], work, status, replicate=self.job["replicate"])
            row.samples_s, row.grade, row.bytes = samples, "clean", 1
            yield {"event": "result", "work": work, "row": asdict(row)}


def kill_at(countdown: int, how: str) -> None:
    """Have this process killed at its `countdown`-th row: before it, with half of it written, or after it."""
    append, left = RunWriter.append, [countdown]

    def dying(self: RunWriter, row: Row) -> None:
        left[0] -= 1
        if left[0]:
            append(self, row)
            return
        if how == "half":
            line = row.to_json().encode()
            os.write(self._file.fileno(), line[: len(line) // 2])
        elif how == "after":
            append(self, row)
        os.kill(os.getpid(), signal.SIGKILL)

    RunWriter.append = dying  # type: ignore[method-assign]


def in_child(folder: Path, countdown: int, how: str) -> bool:
    """Begin a run in `folder`, or go on with the one there, in a process to be killed; whether it was."""
    pid = os.fork()
    if pid == 0:
        kill_at(countdown, how)
        try:
            api.go_on(*find_cut("latest", folder), Silent())
        except StoreError:
            options = Options(threads=1, out=folder)
            api.measure(make_plan(BACKENDS, WORKS, options, 10**9), Silent())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def check(folder: Path, cells: tuple[Cell, ...]) -> None:
    """Each case of the plan once, but those that were found to be unsupported in an earlier replicate."""
    (path,) = folder.iterdir()
    counts = Counter((r.backend, r.replicate, r.work) for r in load_rows(path) if r.kind == "case")
    planned = {(cell.backend, cell.replicate, work) for cell in cells for work in cell.works}
    hopeless = {case for case in planned if (case[0], case[2]) == (BACKENDS[1], PERSISTENT) and case[1]}
    assert set(counts) == planned - hopeless, planned ^ set(counts)
    assert set(counts.values()) == {1}


def main(folder: Path, seed: int, times: int) -> None:
    run.Worker = FakeWorker  # type: ignore[misc, assignment]
    rng, kills = random.Random(seed), 0
    cells = make_plan(BACKENDS, WORKS, Options(threads=1), 10**9).cells
    for number in range(times):
        out = folder / str(number)
        out.mkdir()
        before: list[Row] = []
        while in_child(out, rng.randint(1, 12), rng.choice(("before", "half", "after"))):
            kills += 1
            _, path = find_cut("latest", out)
            rows = load_rows(partial_of(path))
            assert rows[: len(before)] == before
            before = rows
        check(out, cells)
        assert load_rows(out)[: len(before)] == before
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
