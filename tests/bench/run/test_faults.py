"""What must hold when things break: every fault is a row, the others go on, nothing is left behind."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_backends
import numpy as np
import pytest
from processes import gone

from membound.bench.measure.contestant import Timeouts
from membound.bench.measure.rounds import Pace
from membound.bench.planning.plan import Options, make_plan
from membound.bench.planning.probe import probe
from membound.bench.protocol.messages import PROTOCOL, Hello, Open, Prepare, encode
from membound.bench.protocol.process import Worker, WorkerDiedError
from membound.bench.run.execute import execute
from membound.bench.run.journal import journal_of
from membound.bench.run.progress import Silent
from membound.kernels.reference import compute, typical_size
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse
from membound.results.row import Row
from membound.results.store import RunWriter, load_rows

DEADLY = parse("linear:n=8,k=16,m=13").spec
HARMLESS = parse("linear:n=8,k=16,m=2").spec
ROUNDS = 3


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_backends.install(tmp_path / "site", monkeypatch)
    monkeypatch.setenv("FAKE_CHILD", str(tmp_path / "child"))
    return tmp_path


def run(
    folder: Path,
    backends: list[str],
    timeouts: Timeouts | None = None,
    works: Any = (DEADLY, HARMLESS),
    **options: Any,
) -> list[Row]:
    chosen = {
        "threads": 1,
        "replicates": 1,
        "pace": Pace(ROUNDS, 1e9, ROUNDS),
        "reference_dir": folder / "reference",
        "ceilings": False,
    }
    plan = make_plan(backends, works, Options(**chosen | options), 10**9)
    plan = replace(plan, memory_bytes=10_000, repeats=0)
    with RunWriter(folder / "run.jsonl") as writer:
        rows = execute(plan, writer, Silent(), timeouts)
    assert load_rows(folder) == rows
    return rows


def outcome(rows: list[Row], backend: str, work: str) -> tuple[str, str]:
    (row,) = (r for r in rows if (r.backend, r.work) == (backend, work))
    assert len(row.turns) == (ROUNDS if row.status == "ok" else 0)
    return row.status, row.reason


def test_crash_kill_and_oom_are_rows_and_the_others_play_on(fakes: Path) -> None:
    rows = run(fakes, ["segv:cpu", "killed:cpu", "oom:cpu", "ok:cpu"])
    assert len(rows) == 8
    assert outcome(rows, "segv:cpu", DEADLY) == (
        "crashed",
        "while preparing: SIGSEGV: about to touch address zero",
    )
    status, reason = outcome(rows, "killed:cpu", DEADLY)
    assert (status, reason.split(" (")[0]) == ("crashed", "while preparing: SIGKILL")
    assert outcome(rows, "oom:cpu", DEADLY)[0] == "oom"
    assert outcome(rows, "ok:cpu", DEADLY) == ("ok", "")
    for backend in ("segv:cpu", "killed:cpu", "oom:cpu", "ok:cpu"):
        assert outcome(rows, backend, HARMLESS) == ("ok", "")


def test_a_hang_is_ended_with_everything_it_started(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up early, but only where the hang is: starting an interpreter may take its time."""
    ask = Worker.ask

    def impatient(self: Any, command: Any, limit_s: float, *rest: Any) -> Any:
        hangs = isinstance(command, Prepare) and command.work == DEADLY
        return ask(self, command, 1.0 if hangs else limit_s, *rest)

    monkeypatch.setattr(Worker, "ask", impatient)
    rows = run(fakes, ["hang:cpu"])
    assert outcome(rows, "hang:cpu", DEADLY) == ("timeout", "while preparing: silent for 1 s")
    assert outcome(rows, "hang:cpu", HARMLESS) == ("ok", "")
    for pid in map(int, (fakes / "child").read_text().split()):
        assert gone(pid)


def test_who_turns_wrong_while_it_is_timed_has_a_row_without_a_time(fakes: Path) -> None:
    rows = {row.backend: row for row in run(fakes, ["laterwrong:cpu", "raises:cpu"], works=[HARMLESS])}
    assert rows["laterwrong:cpu"].status == "wrong"
    # y instead of -y; of few outputs, over their typical size if that is larger, which the input set at hand decides
    inputs = make_inputs(parse(HARMLESS), seed=1, slots=64)
    sizes = [(np.linalg.norm(compute(inputs, slot)), typical_size(inputs, slot)) for slot in range(64)]
    assert rows["laterwrong:cpu"].error in [
        pytest.approx(2 * y / max(y, least), rel=1e-3) for y, least in sizes
    ]
    assert [rows["raises:cpu"].status, rows["raises:cpu"].reason] == [
        "error",
        "RuntimeTroubleError: kernel not registered",
    ]


def test_interpreters_that_cannot_run_a_worker_are_unavailable(fakes: Path) -> None:
    bare = fakes / "python"
    bare.write_text("#!/bin/sh\necho 'No module named membound' >&2\nexit 1\n")
    bare.chmod(0o755)
    rows = run(fakes, ["ok:cpu", "segv:cpu"], pythons={"ok": str(bare), "segv": str(fakes / "nowhere")})
    assert {(r.backend, r.status, r.reason) for r in rows} == {
        ("ok:cpu", "unavailable", f"{bare} cannot run a worker: No module named membound"),
        ("segv:cpu", "unavailable", f"{fakes}/nowhere cannot be started: No such file or directory"),
    }
    assert len(rows) == 4


def script(path: Path, *lines: str) -> str:
    path.write_text("\n".join(("#!/bin/sh", *lines, "")), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_what_a_wrapper_of_the_interpreter_prints_before_it_is_passed_by(fakes: Path) -> None:
    talk = ("echo conda activated", "printf '\\377\\n'", "echo 5", "echo '{}'")
    wrapper = script(fakes / "python", *talk, f'exec {sys.executable} "$@"')
    rows = run(fakes, ["ok:cpu"], pythons={"ok": wrapper})
    assert [(r.status, r.reason) for r in rows] == [("ok", "")] * 2


def test_a_stray_line_among_the_answers_is_told_and_the_others_go_on(fakes: Path) -> None:
    hello = encode(Hello("3", PROTOCOL), 0)
    babbler = script(fakes / "python", f"echo '{hello}'", "echo oops", "read line")
    rows = run(fakes, ["ok:cpu", "ok:cpu+twin", "oom:cpu"], pythons={"ok": babbler})
    told = {(r.status, r.reason) for r in rows if r.backend.startswith("ok:")}
    ((status, reason),) = told
    assert status == "crashed"
    assert reason.startswith("while opening: it broke the protocol: 'oops' is no message")
    assert outcome(rows, "oom:cpu", HARMLESS) == ("ok", "")


def test_a_program_that_is_no_python_is_told(fakes: Path) -> None:
    (found,) = probe(["ok"], 1, {"ok": script(fakes / "python", "exit 0")})
    assert not found.available
    assert found.reason.endswith(
        "python cannot run a worker: it ended without a word; is it a Python with membound?"
    )


def test_a_runtime_that_exits_in_open_fails_work_by_work(fakes: Path) -> None:
    rows = run(fakes, ["exits:cpu"])
    assert [(r.status, r.reason) for r in rows] == [
        ("crashed", "while opening: exit status 3: licence server not found")
    ] * 2


def test_a_worker_killed_from_outside_is_told_apart(fakes: Path) -> None:
    with Worker(1) as worker:
        worker.greet()
        worker.ask(Open("hang:cpu", 1, 10_000, str(fakes)), 60)
        with pytest.raises(WorkerDiedError, match=r"^SIGKILL \(killed from outside"):
            worker.ask(
                Prepare(0, DEADLY), 60, lambda phase: phase.name == "preparing" and os.kill(worker.pid, 9)
            )
    assert gone(worker.pid)


HARNESS = """
import os, sys
from pathlib import Path
import psutil
from membound.bench.measure.rounds import Pace
from membound.bench.planning.plan import Options, make_plan
from membound.bench.run.progress import Silent
from membound.bench.run.execute import execute
from membound.results.store import RunWriter

class Deadly(Silent):
    turns = 0
    def turn(self, *_):
        Deadly.turns += 1
        if Deadly.turns == 5:  # the second one of the second work
            print(*(child.pid for child in psutil.Process().children()), flush=True)
            os.kill(os.getpid(), 9)

folder = Path(sys.argv[1])
options = Options(threads=1, replicates=9, pace=Pace(3, 1e9, 3), reference_dir=folder / "r", ceilings=False)
plan = make_plan(["ok:cpu"], ["linear:n=8,k=16,m=%d" % m for m in range(1, 9)], options, 10**6)
with RunWriter(folder / "run.jsonl") as writer:
    execute(plan, writer, Deadly())
"""


def test_a_killed_harness_keeps_its_rows_and_turns_and_takes_its_worker_along(fakes: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, str(fakes)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -9, done.stderr
    assert [(r.status, len(r.turns)) for r in load_rows(fakes)] == [("ok", 3)]
    assert (fakes / "run.jsonl.partial").exists()
    assert len(journal_of(fakes / "run.jsonl").read_text().splitlines()) == 2
    assert all(map(gone, map(int, done.stdout.split()))), "the worker, and the guardian of what it started"
