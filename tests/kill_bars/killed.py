"""A run that is killed, looked at and resumed, and what it is compared with.

>>> Killed(folder / "0", undisturbed(folder / "whole"), Tally(), Random(1), signal.SIGTERM).to_its_end()
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from killed_runs import Turn, on_disk, turns_of

from membound.bench.planning.suites import PlanError
from membound.bench.run.resume import find_cut, partial_of
from membound.results.row import Row
from membound.results.store import StoreError, load_rows

WORKS = ("linear:n=1024,k=1024,m=1,weight=f32", "linear:n=1024,k=1024,m=1,weight=int8")
BACKENDS = "numba,numpy,onnxruntime"
LAST = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL)
KILLS_A_RUN = 3
MARK = "MEMBOUND_KILL_BAR"
ENDED_S, ORDERLY_S, WHOLE_S = 20.0, 300.0, 1800.0
"""How long processes and files may outlive a kill, an orderly end may take, and a whole run."""
SHM = Path("/dev/shm")
Case = tuple[str, int, str]


@dataclass(slots=True)
class Tally:
    """What was counted, and what was found that should not be."""

    kills: Counter[str] = field(default_factory=Counter)
    after_rows: int = 0
    resumed: int = 0
    whole: int = 0
    ended_in_order: int = 0
    found: list[str] = field(default_factory=list)

    def bad(self, what: str, **more: Any) -> None:
        """Keep and print a finding."""
        self.found.append(what)
        say(found=what, **more)


@dataclass(frozen=True, slots=True)
class Whole:
    """A run that nobody disturbed."""

    seconds: float
    start_s: float
    """Until it had a file of rows."""
    rows: int
    cases: frozenset[tuple[str, str]]
    ceilings: frozenset[tuple[str, str]]


def say(**told: Any) -> None:
    """One line of JSON with the time of day."""
    print(json.dumps({"at": time.strftime("%H:%M:%S")} | told), flush=True)


def started(out: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The command as users start it, with temporary files of its own."""
    temporary_of(out).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "membound", "run", "--out", str(out), *arguments]
    environment = os.environ | {MARK: str(out), "TMPDIR": str(temporary_of(out))}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def temporary_of(out: Path) -> Path:
    """Where runs into `out` put temporary files."""
    return out.with_name(f"{out.name}.tmp")


def undisturbed(out: Path) -> Whole:
    """Measure once: how long it takes, and what it has."""
    began, process = time.monotonic(), started(out, *WORKS, "--backends", BACKENDS)
    while process.poll() is None and not list(out.glob("*.partial")):
        time.sleep(0.1)
    start_s = time.monotonic() - began
    printed, _ = process.communicate(timeout=WHOLE_S)
    if process.returncode:
        sys.exit(printed.decode(errors="replace"))
    (path,) = out.glob("*.jsonl")
    rows = load_rows(path)
    return Whole(time.monotonic() - began, start_s, len(rows), _names(rows, "case"), _names(rows, "ceiling"))


def _names(rows: Sequence[Row], kind: str) -> frozenset[tuple[str, str]]:
    return frozenset((row.backend, row.work) for row in rows if row.kind == kind)


def alive(out: Path) -> list[str]:
    """Processes that a run into `out` started, zombies aside."""
    mark = f"{MARK}={out}\0".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes():
                state = (place / "stat").read_text().rpartition(")")[2].split()[0]
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found += [f"{place.name} {command:.80}"] if state != "Z" else []
        except OSError:
            continue
    return found


def once_gone(left: Callable[[], list[str]]) -> list[str]:
    """What is still left after as long as it may take."""
    end = time.monotonic() + ENDED_S
    while (found := left()) and time.monotonic() < end:
        time.sleep(0.2)
    return found


class Killed:
    """One run: killed, looked at, resumed."""

    def __init__(
        self, out: Path, whole: Whole, tally: Tally, rng: random.Random, last: signal.Signals
    ) -> None:
        """`last` is the last signal; those before are KILL. Their moments are uniform over what a whole run takes."""
        self._out, self._whole, self._tally = out, whole, tally
        moments = sorted(rng.uniform(0, whole.seconds) for _ in range(KILLS_A_RUN))
        starts = (0.0, *(whole.start_s for _ in moments[1:]))  # which a resumed run takes again
        lives = (
            start + end - begin for start, (begin, end) in zip(starts, pairwise((0.0, *moments)), strict=True)
        )
        self._ends = list(zip((signal.SIGKILL,) * (KILLS_A_RUN - 1) + (last,), lives, strict=True))
        self._rows: list[Row] = []
        self._turns: set[Turn] = set()
        self._shm = set(os.listdir(SHM))

    def to_its_end(self) -> None:
        """Kill it until it is whole, or was ended in order."""
        while True:
            by, life_s = self._ends.pop(0) if self._ends else (None, WHOLE_S)
            status, printed = self._once(by, life_s)
            self._look_around(by)
            if "Traceback" in printed:
                self._tally.bad("traceback", printed=printed[-800:])
            if self._cut() is None and (finished := list(self._out.glob("*.jsonl"))):
                self._judge(finished, load_rows(finished[0]), status)
                shutil.rmtree(self._out)
                return

    def _cut(self) -> Path | None:
        """Where the run that was cut short would be whole."""
        try:
            return find_cut("latest", self._out)[1] if self._out.is_dir() else None
        except (StoreError, PlanError):
            return None

    def _once(self, by: signal.Signals | None, life_s: float) -> tuple[int, str]:
        """Begin or go on, for so long; the exit status and what was printed."""
        going_on = self._cut() is not None
        self._tally.resumed += going_on
        arguments = ("--resume", "latest") if going_on else (*WORKS, "--backends", BACKENDS)
        process = started(self._out, *arguments)
        try:
            printed, _ = process.communicate(timeout=life_s)
            return process.returncode, printed.decode(errors="replace")
        except subprocess.TimeoutExpired:
            if by is None:
                self._tally.bad("hang")
                by = signal.SIGKILL
            process.send_signal(by)
        try:
            printed, _ = process.communicate(timeout=ORDERLY_S)
        except subprocess.TimeoutExpired:
            self._tally.bad("not ended by its signal", signal=by.name)
            process.kill()
            printed, _ = process.communicate()
        self._count(by, life_s, process.returncode)
        return process.returncode, printed.decode(errors="replace")

    def _count(self, by: signal.Signals, life_s: float, status: int) -> None:
        """A kill: rows and turns that were there are there."""
        self._tally.kills[by.name] += 1
        if status not in (-by, 0, 130):
            self._tally.bad("exit status", status=status, signal=by.name)
        path = self._cut()
        rows = load_rows(partial_of(path)) if path else []
        if path:
            if rows[: len(self._rows)] != self._rows:
                self._tally.bad("rows lost", before=len(self._rows), now=len(rows))
            self._rows, self._turns = rows, self._turns | on_disk(path)
        finished = not path and next(self._out.glob("*.jsonl"), None)
        stored = len(rows) or (len(load_rows(finished)) if finished else 0)
        self._tally.after_rows += stored > 0
        say(kill=self._tally.kills.total(), by=by.name, after_s=round(life_s, 1), status=status, rows=stored,
            turns=len(self._turns), run=self._out.name)  # fmt: skip

    def _look_around(self, by: signal.Signals | None) -> None:
        name = by.name if by else ""
        if found := once_gone(lambda: alive(self._out)):
            self._tally.bad("left alive", signal=name, processes=found)
        if found := once_gone(lambda: os.listdir(temporary_of(self._out))):
            self._tally.bad("temporary files", signal=name, files=found)
        if found := once_gone(self._new_in_shm):
            self._tally.bad("in /dev/shm", signal=name, files=found)
        if self._out.is_dir() and len(list(self._out.glob("*.partial"))) > 1:
            self._tally.bad("several runs cut short", files=os.listdir(self._out))

    def _new_in_shm(self) -> list[str]:
        """Files of this package but for those of fuzzing that goes on beside."""
        new = set(os.listdir(SHM)) - self._shm
        return [name for name in new if "membound" in name and not name.startswith("membound-fuzz")]

    def _judge(self, finished: list[Path], rows: list[Row], status: int) -> None:
        """A run at its end: all of it, once; less than all of it if it was ended in order."""
        tally, whole = self._tally, self._whole
        cases = Counter((row.backend, row.replicate, row.work) for row in rows if row.kind == "case")
        if len(finished) > 1 or len(list(self._out.iterdir())) > 1:
            tally.bad("other files", files=os.listdir(self._out))
        if rows[: len(self._rows)] != self._rows:
            tally.bad("rows lost in the end", before=len(self._rows), now=len(rows))
        if lost := self._turns - turns_of(rows):
            tally.bad("turns lost", turns=[str(turn)[:200] for turn in lost])
        if twice := [case for case, count in cases.items() if count > 1]:
            tally.bad("cases twice", cases=twice)
        if again := [row.work for row in rows if len({turn.round for turn in row.turns}) < len(row.turns)]:
            tally.bad("turns twice", works=again)
        statuses = Counter(row.status for row in rows if row.kind == "case")
        say(run=self._out.name, status=status, rows=len(rows), cases=len(cases), statuses=statuses)
        if status == 130:
            tally.ended_in_order += 1
        elif _names(rows, "case") != whole.cases or _names(rows, "ceiling") != whole.ceilings:
            tally.bad("other cases or ceilings", cases=sorted(whole.cases ^ _names(rows, "case")),
                      ceilings=sorted(whole.ceilings ^ _names(rows, "ceiling")))  # fmt: skip
        else:
            tally.whole += 1
        ok = {(row.backend, row.work) for row in rows if row.kind == "case" and row.status == "ok"}
        few = [name for name in whole.cases & ok if sum(c[::2] == name for c in cases) < 3]
        if status != 130 and few:
            tally.bad("fewer than three processes", cases=few)
