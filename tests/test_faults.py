"""What must hold when things break: every fault is a row, the others go on, nothing is left behind."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fake_backends
import psutil
import pytest

from membound.bench.claim.budget import Budget
from membound.bench.planning.plan import Options, Plan, make_plan
from membound.bench.planning.probe import probe
from membound.bench.protocol.process import Event, Worker, WorkerDiedError
from membound.bench.run.execute import execute
from membound.bench.run.progress import Silent
from membound.kernels.work import parse
from membound.results.roofline import Limits
from membound.results.row import Row
from membound.results.store import RunWriter, load_rows

DEADLY = parse("linear:n=8,k=16,m=13").spec
HARMLESS = parse("linear:n=8,k=16,m=2").spec


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_backends.install(tmp_path / "site", monkeypatch)
    monkeypatch.setenv("FAKE_CHILD", str(tmp_path / "child"))
    return tmp_path


def run(folder: Path, backends: list[str], limits: Limits | None = None, **options: object) -> list[Row]:
    chosen = Options(
        threads=1,
        replicates=1,
        budget=Budget(0.001, 0.002),
        reference_dir=folder / "reference",
        ceilings=False,
        **options,  # type: ignore[arg-type]
    )
    plan = make_plan(backends, [DEADLY, HARMLESS], chosen, 10**9)
    plan = replace(plan, memory_bytes=10_000, repeats=0)
    with RunWriter(folder / "run.jsonl") as writer:
        rows = execute(plan, writer, Silent(), limits)
    assert load_rows(folder) == rows
    return rows


def outcome(rows: list[Row], backend: str, work: str) -> tuple[str, str]:
    (row,) = (r for r in rows if (r.backend, r.work) == (backend, work))
    return row.status, row.reason


def test_crash_kill_and_oom_are_rows_and_the_other_work_is_measured(fakes: Path) -> None:
    rows = run(fakes, ["segv:cpu", "killed:cpu", "oom:cpu"])
    assert len(rows) == 6
    assert outcome(rows, "segv:cpu", DEADLY) == (
        "crashed",
        "while preparing: SIGSEGV: about to touch address zero",
    )
    status, reason = outcome(rows, "killed:cpu", DEADLY)
    assert (status, reason.split(" (")[0]) == ("crashed", "while preparing: SIGKILL")
    assert outcome(rows, "oom:cpu", DEADLY)[0] == "oom"
    for backend in ("segv:cpu", "killed:cpu", "oom:cpu"):
        assert outcome(rows, backend, HARMLESS) == ("ok", "")


class Impatient(Limits):
    """Gives up early, but only where the hang is: starting an interpreter may take its time."""

    def after(self, event: Event, plan: Plan) -> float:
        return 1.0 if (event.get("work"), event.get("phase")) == (DEADLY, "preparing") else 60.0


def test_a_hang_is_ended_with_everything_it_started(fakes: Path) -> None:
    rows = run(fakes, ["hang:cpu"], Impatient())
    status, reason = outcome(rows, "hang:cpu", DEADLY)
    assert (status, reason) == ("timeout", "while preparing: silent for 1 s")
    assert outcome(rows, "hang:cpu", HARMLESS) == ("ok", "")
    for pid in map(int, (fakes / "child").read_text().split()):
        assert gone(pid)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that init has not collected yet counts as ended."""
    try:
        process = psutil.Process(pid)
        process.wait(timeout=10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


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
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return str(path)


def test_what_a_wrapper_of_the_interpreter_prints_before_it_is_passed_by(fakes: Path) -> None:
    talk = ("echo conda activated", "printf '\\377\\n'", "echo 5", "echo '{}'")
    wrapper = script(fakes / "python", *talk, f'exec {sys.executable} "$@"')
    rows = run(fakes, ["ok:cpu"], pythons={"ok": wrapper})
    assert [(r.status, r.reason) for r in rows] == [("ok", "")] * 2


def test_a_stray_line_among_the_events_is_told_and_the_others_go_on(fakes: Path) -> None:
    babbler = script(fakes / "python", """echo '{"event": "hello"}'""", "echo oops")
    rows = run(fakes, ["ok:cpu", "ok:cpu+twin", "oom:cpu"], pythons={"ok": babbler})
    told = {(r.status, r.reason) for r in rows if r.backend.startswith("ok:")}
    assert told == {("crashed", "it printed 'oops' where its events belong")}
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


def kill_when_preparing(worker: Worker) -> None:
    for event in worker.events(lambda _: 60):
        if event.get("phase") == "preparing":
            os.kill(worker.pid, 9)


def test_a_worker_killed_from_outside_is_told_apart(fakes: Path) -> None:
    job = {
        "job": "measure",
        "backend": "hang:cpu",
        "works": [DEADLY],
        "seed": 1,
        "threads": 1,
        "replicate": 0,
    }
    job |= {"budget": {}, "memory_bytes": 10_000, "reference_dir": str(fakes)}
    with Worker(job) as worker, pytest.raises(WorkerDiedError, match=r"^SIGKILL \(killed from outside"):
        kill_when_preparing(worker)
    assert gone(worker.pid)


HARNESS = """
import os, sys
from pathlib import Path
import psutil
from membound.bench.planning.plan import Options, make_plan
from membound.bench.run.progress import Silent
from membound.bench.run.execute import execute
from membound.bench.measure.timing import Budget
from membound.results.store import RunWriter

class Deadly(Silent):
    count = 0
    def done(self, row):
        Deadly.count += 1
        if Deadly.count == 2:
            print(*(child.pid for child in psutil.Process().children()), flush=True)
            os.kill(os.getpid(), 9)

folder = Path(sys.argv[1])
options = Options(threads=1, replicates=9, budget=Budget(0.001, 0.002), reference_dir=folder / "r", ceilings=False)
plan = make_plan(["ok:cpu"], ["linear:n=8,k=16,m=%d" % m for m in range(1, 9)], options, 10**6)
with RunWriter(folder / "run.jsonl") as writer:
    execute(plan, writer, Deadly())
"""


def test_a_killed_harness_keeps_its_rows_and_takes_its_worker_along(fakes: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, str(fakes)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -9, done.stderr
    assert [r.status for r in load_rows(fakes)] == ["ok", "ok"]
    assert (fakes / "run.jsonl.partial").exists()
    (worker,) = map(int, done.stdout.split())
    assert gone(worker)
