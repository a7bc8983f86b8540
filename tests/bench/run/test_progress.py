"""What a run says off a terminal: one line a work, failures and compiling at once, nothing else but now and then."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fake_workers import Workers
from rich.console import Console
from rows import case, failed
from small_runs import planned

from membound.bench.protocol import messages as m
from membound.bench.run import progress as module
from membound.bench.run.execute import execute
from membound.bench.run.live import Live
from membound.bench.run.progress import Lines, Reporter, Silent, progress_on
from membound.bench.run.scope import Scope, scope_of
from membound.kernels.cpu import kernel_cache
from membound.results.store import RunWriter
from membound.results.turns import StoredTurn

SPEC = "linear:n=64,k=64,m=1,weight=f32,act=float"
OTHER = "linear:n=64,k=64,m=2,weight=f32,act=float"


class Page(Console):
    """A console that is no terminal, and keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(file=StringIO(), width=40, force_terminal=False)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still but for what is added."""
    made = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: made[0])
    return made


def test_the_console_decides_between_lines_and_a_table() -> None:
    with progress_on(Page()) as progress:
        assert isinstance(progress, Lines)
    with progress_on(Console(file=StringIO(), force_terminal=True)) as progress:
        assert isinstance(progress, Live)


def test_there_is_a_line_for_each_work_with_the_fastest_first(now: list[float]) -> None:
    page = Page()
    progress = Lines(page)
    progress.start(Scope(8, (SPEC, OTHER), ("alpha:cpu", "beta:cpu")))
    for work in (SPEC, OTHER):
        for backend, times in (("alpha:cpu", (0.2, 0.1, 0.9)), ("beta:cpu", (0.01, 0.02, 0.03))):
            progress.cell(backend, work, 0, "preparing")
            progress.turn(backend, work, 0, StoredTurn(0, 1.0, 0.1, 1))
            now[0] += 1
            progress.done(case(backend, work, times))
        progress.worked(work, 0)
    assert (
        page.lines
        == [
            "8 cases to measure",
            "[2/8, 6 s left] linear n=64 k=64 m=1 f32: beta:cpu 20 ms, alpha:cpu 200 ms",
            "[4/8, 4 s left] linear n=64 k=64 m=2 f32: beta:cpu 20 ms, alpha:cpu 200 ms",
        ][: len(page.lines)]
    )


def test_failures_are_told_at_once_and_have_no_time(now: list[float]) -> None:
    page = Page()
    progress = Lines(page)
    progress.start(Scope(4))
    turns = [StoredTurn(0, 1.0, 0.1, 1)]
    progress.done(failed("wrong", "error 0.5", work=SPEC, turns=turns))
    progress.done(failed("unsupported", "no int4", work=SPEC))
    progress.done(failed("crashed", "SIGSEGV [x]", backend="beta:cpu", work=SPEC))
    progress.worked(SPEC, 0)
    progress.note("that is all")
    assert page.lines == [
        "4 cases to measure",
        "[1/4] alpha:cpu linear n=64 k=64 m=1 f32: wrong: error 0.5",
        "[3/4] beta:cpu linear n=64 k=64 m=1 f32: crashed: SIGSEGV [x]",
        "that is all",
    ]


def test_compiling_is_told_once_for_each_backend_and_work(now: list[float]) -> None:
    page = Page()
    progress = Lines(page)
    progress.start(Scope(4))
    for _ in range(2):
        for phase in ("preparing", "compiling a", "compiling b", "checking"):
            progress.cell("alpha:cpu", SPEC, 0, phase)
    progress.phase("ceilings", "compiling read")
    assert page.lines == [
        "4 cases to measure",
        "[0/4] alpha:cpu linear n=64 k=64 m=1 f32: compiling kernels (kept for later runs)",
        "[0/4] ceilings: compiling kernels (kept for later runs)",
    ]


def test_kernels_that_go_with_the_run_are_not_called_kept(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_cache, "_UNKEPT", [Path("of-this-run")])
    page = Page()
    Lines(page).phase("ceilings", "compiling read")
    assert page.lines == ["[0/0] ceilings: compiling kernels"]


@pytest.mark.parametrize(
    ("cases", "line"), [(0, "0 cases to measure"), (1, "1 case to measure"), (2, "2 cases to measure")]
)
def test_one_case_is_one(cases: int, line: str) -> None:
    page = Page()
    Lines(page).start(Scope(cases))
    assert page.lines == [line]


def test_what_takes_long_says_now_and_then_what_it_is_at(now: list[float]) -> None:
    page = Page()
    progress = Lines(page)
    progress.start(Scope(4))
    progress.cell("alpha:cpu", SPEC, 0, "preparing")
    now[0] += module.PLAIN_EVERY_S
    progress.phase("alpha:cpu", "alpha:cpu: gemm_bf16")
    progress.phase("alpha:cpu", "checking")
    assert page.lines[1:] == ["[0/4] alpha:cpu linear n=64 k=64 m=1 f32: gemm_bf16"]


def test_a_whole_run_is_as_many_lines_as_works(tmp_path: Any, workers: Workers) -> None:
    page = Page()
    plan = planned(replicates=2, ceilings=True)
    with RunWriter(tmp_path / "run.jsonl") as writer:
        execute(plan, writer, Lines(page))
    assert page.lines[0] == "8 cases to measure"
    assert [line.split("]")[0].split(",")[0] for line in page.lines[1:]] == ["[2/8", "[4/8", "[6/8", "[8/8"]
    assert all("numba:cpu " in line and "numba:cpu+x " in line for line in page.lines[1:])
    assert not any("left" in line for line in page.lines[-1:])


def test_reporters_are_told_everything_in_its_order(tmp_path: Any, workers: Workers) -> None:
    """What `membound.run(progress=...)` is called with: between the turns, never while one is taken."""
    told: list[str] = []

    class Told(Silent):
        def __getattribute__(self, name: str) -> Any:
            told.append(name)
            return super().__getattribute__(name)

    progress: Reporter = Told()

    def acts(worker: Any, command: Any) -> None:
        told.append(f"<{type(command).__name__}>")

    workers.acts = acts
    with RunWriter(tmp_path / "run.jsonl") as writer:
        execute(planned(["numba:cpu"], [SPEC], replicates=1), writer, progress)
    names = [name for name in told if name != "phase"]
    expected = ["start", "cell", "<Open>", "cell", "<Prepare>", *["<TakeTurn>", "turn"] * 4]
    assert names == [*expected, "<TakeTurn>", "<Check>", "done", "<Release>", "worked", "<Close>"]
    assert workers.said(m.TakeTurn)[-1].hot


def test_a_scope_counts_cases_and_names_columns() -> None:
    plan = planned(["numba:cpu+x", "numba:cpu"], [SPEC, OTHER], replicates=3, time_limit_s=60.0)
    assert scope_of(plan) == Scope(12, (SPEC, OTHER), ("numba:cpu", "numba:cpu+x"), 3, 60.0)


def test_silent_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silent = Silent()
    silent.start(Scope(1))
    silent.cell("a", "b", 0, "c")
    silent.phase("a", "c")
    silent.turn("a", "b", 0, StoredTurn(0, 1.0, 0.1, 1))
    silent.done(case())
    silent.worked("b", 0)
    silent.note("d")
    assert capsys.readouterr() == ("", "")
