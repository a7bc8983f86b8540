"""Runs killed with SIGKILL at random points and gone on with: `python killed_runs.py FOLDER SEED TIMES`.

Workers are faked, so that a run takes milliseconds; the harness, its files and the kill are real. Each run is
killed again and again until it comes to its end. Prints how often runs were killed, and exits with 0 if every
run holds each case once, every row and every turn that an earlier process wrote, and the ceilings of each replicate.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_workers
import pytest

from membound.bench import api
from membound.bench.measure.rounds import Pace
from membound.bench.planning.plan import Options, Plan, make_plan
from membound.bench.protocol import messages as m
from membound.bench.run.journal import Journal, _parsed, journal_of
from membound.bench.run.progress import Silent
from membound.bench.run.resume import find_cut, partial_of
from membound.results.row import Row, RowError
from membound.results.store import RunWriter, StoreError, load_rows, parsed_lines

WORKS = [f"linear:n=8,k=32,m={m},weight=f32,act=float" for m in (1, 2, 3)]
BACKENDS = ("numba:cpu", "numpy:cpu")
REFUSED = "linear:n=8,k=32,m=2,weight=f32,act=float"
OWN = ("launch", "gemm_f32", "gemm_bf16")
INVALID = 0.1
"""Share of cases none of whose turns is clean: they are measured again, beyond the plan."""
Turn = tuple[tuple[str, int, str], str]


def acts(worker: Any, command: Any) -> Any:
    """One backend refuses one work; now and then a process is disturbed all the time."""
    if isinstance(command, m.Prepare):
        worker.disturbance = 0.5 if random.random() < INVALID else 0.0
        if (worker.who, command.work) == (BACKENDS[1], REFUSED):
            return m.Failed("unsupported", "no such product")
    if isinstance(command, m.MeasureBackend):
        return m.Ceilings([fake_workers.ceiling(name, 1e9, "FLOP/s") for name in OWN], {})
    if isinstance(command, m.TakeTurn):
        return fake_workers.turned(random.random() + 1e-6, disturbance=worker.disturbance)
    return None


def plan_in(folder: Path) -> Plan:
    """Three processes of two backends through three works, three rounds of each."""
    return make_plan(BACKENDS, WORKS, Options(threads=1, pace=Pace(3, 1e9, 3), out=folder), 10**9)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(countdown: int, how: str) -> None:
    """Have this process killed at its `countdown`-th write: before it, with half of it written, or after it."""
    left = [countdown]

    def dying(cls: Any, name: str, text_of: Callable[..., str]) -> None:
        real = getattr(cls, name)

        def write(self: Any, *given: Any) -> None:
            left[0] -= 1
            if left[0]:
                real(self, *given)
                return
            if how == "half":
                line = text_of(*given).encode()
                os.write(self._file.fileno(), line[: len(line) // 2])
            elif how == "after":
                real(self, *given)
            die()

        setattr(cls, name, write)

    dying(RunWriter, "append", lambda row: row.to_json())
    dying(Journal, "add", lambda backend, replicate, work, turn: f'{{"backend":"{backend}","turn":{{}}}}')
    dying(Journal, "settle", lambda done: "")


def in_child(folder: Path, countdown: int, how: str) -> bool:
    """Begin a run in `folder`, or go on with the one there, in a process to be killed; whether it was."""
    pid = os.fork()
    if pid == 0:
        random.seed()
        kill_at(countdown, how)
        try:
            found = find_cut("latest", folder)
        except StoreError:
            api.measure(plan_in(folder), Silent())
        else:
            api.go_on(*found, Silent())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def turns_of(rows: list[Row]) -> set[Turn]:
    """Every turn with its case."""
    return {((r.backend, r.replicate, r.work), repr(turn)) for r in rows for turn in r.turns}


def on_disk(path: Path) -> set[Turn]:
    """The turns in rows and in the journal of a run that was killed."""
    journal = journal_of(path)
    lines = parsed_lines(journal, _parsed, RowError) if journal.exists() else ()
    return turns_of(load_rows(partial_of(path))) | {(key, repr(turn)) for key, turn in lines}


def check(folder: Path, plan: Plan, before: list[Row], turns: set[Turn]) -> None:
    """Each case once, nothing lost, the ceilings of each replicate once."""
    (path,) = folder.iterdir()
    rows = load_rows(path)
    assert rows[: len(before)] == before
    cases = [r for r in rows if r.kind == "case"]
    counts = Counter((r.backend, r.replicate, r.work) for r in cases)
    planned = {(cell.backend, cell.replicate, work) for cell in plan.cells for work in cell.works}
    hopeless = {case for case in planned if (case[0], case[2]) == (BACKENDS[1], REFUSED) and case[1]}
    again = {case for case in counts if case[1] >= plan.replicates}
    assert set(counts) - again == planned - hopeless, planned ^ set(counts)
    assert set(counts.values()) == {1}
    assert turns <= turns_of(rows), turns - turns_of(rows)
    for row in cases:
        assert (row.status, len(row.turns) >= 3) in (("ok", True), ("unsupported", False)), row
        assert len({turn.round for turn in row.turns}) == len(row.turns)
    closing = Counter((r.work, r.replicate) for r in rows if r.kind == "ceiling" and "turns" in r.config)
    wanted = {(name, r.replicate) for r in cases for turn in r.turns for name in turn.before}
    assert wanted <= set(closing), wanted - set(closing)
    assert set(closing.values()) == {1}, closing
    apart = Counter((r.backend, r.work) for r in rows if r.kind == "ceiling" and "turns" not in r.config)
    own = {(backend, name) for backend in BACKENDS for name in OWN}
    assert apart == dict.fromkeys({("cpu", "read"), ("cpu", "fma_f32"), *own}, 1), apart


def main(folder: Path, seed: int, times: int) -> None:
    """Kill `times` runs again and again, and check each when it has come to its end."""
    fake_workers.install(pytest.MonkeyPatch()).acts = acts
    rng, kills = random.Random(seed), 0
    for number in range(times):
        out = folder / str(number)
        out.mkdir()
        plan, before, turns = plan_in(out), list[Row](), set[Turn]()
        while in_child(out, rng.randint(1, 50), rng.choice(("before", "half", "after"))):
            kills += 1
            kept, path = find_cut("latest", out)
            assert kept == plan
            rows = load_rows(partial_of(path))
            assert rows[: len(before)] == before
            before, turns = rows, turns | on_disk(path)
        check(out, plan, before, turns)
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
