import pandas as pd
import pytest
from rows import LINEAR, case, run_rows, write

import membound
from membound.backends import registry
from membound.bench import api
from membound.bench.planning import choice as setup
from membound.bench.planning.choice import choose_backends, split, split_works
from membound.bench.planning.plan import HIGH_REPLICATES
from membound.bench.planning.probe import Found
from membound.bench.run.progress import Lines, Silent, progress_on
from membound.results.stats import COLUMNS

NAME = registry.names()[0]
SPEC = "linear:n=64,k=64,m=1,weight=f32,act=float"


def test_every_public_name_is_there_and_documented():
    for name in membound.__all__:
        assert getattr(membound, name) is not None
        assert name in dir(membound)
        if not name.startswith("__"):
            assert getattr(membound, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        membound.nothing  # noqa: B018


def test_public_errors_are_what_a_user_can_catch():
    for name in (
        "BackendUnavailable",
        "OptionError",
        "PlanError",
        "UnknownBackend",
        "Unsupported",
        "FallbackRefused",
    ):
        assert issubclass(getattr(membound, name), membound.MemboundError)


def test_load_gives_a_tidy_table(tmp_path):
    path = write(tmp_path / "a.jsonl", run_rows())
    table = membound.load(path)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == list(COLUMNS)
    assert table.set_index(["work", "backend"]).loc[(LINEAR, "alpha:cpu"), "time_s"] == pytest.approx(
        0.0101505
    )
    write(tmp_path / "b.jsonl", run_rows("run-b"))
    assert len(membound.load([path, tmp_path / "b.jsonl"])) == len(membound.load(tmp_path)) == 6


def test_load_refuses_what_is_not_there(tmp_path):
    with pytest.raises(membound.StoreError, match="no such run"):
        membound.load(tmp_path / "nothing.jsonl")


def test_compare_takes_paths_and_names(tmp_path):
    a = write(tmp_path / "a.jsonl", run_rows("run-a"))
    write(tmp_path / "b.jsonl", run_rows("run-b", scale=3.0))
    table = membound.compare(a, "b", out=tmp_path)
    assert table.time_ratio.iloc[0] == pytest.approx(3.0)
    assert membound.compare("a", "b", out=str(tmp_path)).equals(table)
    pair = membound.compare(a, backends=("alpha:cpu", "beta:cpu+x"))
    assert list(pair.backend_b) == ["beta:cpu+x"]
    with pytest.raises(membound.CompareError, match="two runs, or one run and two backends"):
        membound.compare(a)


@pytest.fixture
def fakes(monkeypatch):
    plans = []

    def probe(entries, threads, pythons=None):
        return [Found(f"{NAME}:cpu", registry.entry_for(NAME), True)]

    def execute(plan, writer, progress):
        plans.append(plan)
        rows = [case(c.backend, w, run_id="r", threads=plan.threads) for c in plan.cells for w in c.works]
        for row in rows:
            writer.append(row)
            progress.done(row)
        writer.finish()
        return rows

    monkeypatch.setattr(setup, "probe", probe)
    monkeypatch.setattr(api, "execute", execute)
    return plans


def test_run_measures_stores_and_summarises(fakes, tmp_path):
    table = membound.run([SPEC], threads=1, seed=5, out=tmp_path)
    assert list(table.backend) == [f"{NAME}:cpu"]
    assert (table.replicates[0], table.status[0], table.time_s[0]) == (3, "ok", 0.01)
    (path,) = tmp_path.glob("*.jsonl")
    assert table.attrs["path"] == str(path)
    assert membound.load(path).drop(columns="time_ci_s").equals(table.drop(columns="time_ci_s"))
    assert (fakes[0].seed, fakes[0].threads) == (5, 1)


@pytest.mark.parametrize(
    ("works", "backends"),
    [(SPEC, NAME), ([SPEC], [f"{NAME}:cpu"]), (f"{SPEC},linear:n=8,k=32", f"{NAME},{NAME}:cpu")],
)
def test_run_takes_one_text_as_the_command_does(fakes, tmp_path, works, backends):
    table = membound.run(works, backends, threads=1, out=str(tmp_path))
    assert SPEC in set(table.work)
    assert len(table) == (2 if isinstance(works, str) and works != SPEC else 1)
    assert set(table.backend) == {f"{NAME}:cpu"}


def test_run_has_the_options_of_the_command(fakes, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    membound.run(SPEC, out=tmp_path, rigor="high", ceilings=False, python={NAME: python})
    (plan,) = fakes
    assert (plan.rigor, plan.replicates, plan.ceilings) == ("high", HIGH_REPLICATES, False)
    assert plan.pythons[NAME] == str(python)
    with pytest.raises(membound.PlanError, match="rigor"):
        membound.run(SPEC, out=tmp_path, rigor="higher")
    with pytest.raises(membound.OptionError, match="is not an interpreter"):
        membound.run(SPEC, out=tmp_path, python={NAME: tmp_path / "none"})


def test_run_refuses_bad_input_before_measuring(fakes, tmp_path):
    with pytest.raises(membound.SpecError):
        membound.run(["linear:n=0,k=1"], out=tmp_path)
    with pytest.raises(membound.OptionError, match="threads=0"):
        membound.run([SPEC], threads=0, out=tmp_path)
    with pytest.raises(membound.UnknownBackend):
        membound.run([SPEC], backends=["nothere"], out=tmp_path)
    with pytest.raises(membound.PlanError, match="does not fit memory"):
        membound.run(["linear:n=2000000000,k=2000000000"], out=tmp_path)
    assert not fakes
    assert list(tmp_path.iterdir()) == []


def test_names_and_specs_may_be_joined_by_commas():
    assert split(["a,b:cpu", " c "]) == ["a", "b:cpu", "c"]
    joined = "linear:n=8,k=32,attention:context=64,kv=f32"
    assert split_works([joined, SPEC]) == ["linear:n=8,k=32", "attention:context=64,kv=f32", SPEC]


def test_a_device_that_was_not_probed_is_taken_at_its_word(fakes):
    both = (f"{NAME}:cpu+other", f"{NAME}:cpu")
    assert choose_backends(both, 1, {}).chosen == both
    assert choose_backends([f"{NAME}:cpu", NAME], 1, {}).chosen == (f"{NAME}:cpu",)


class Page:
    """A console that keeps what it is told."""

    is_terminal = False

    def __init__(self):
        self.lines = []

    def print(self, text, **_):
        self.lines.append(text)


def test_progress_off_a_terminal_is_lines_for_what_matters():
    page = Page()
    with progress_on(page) as progress:
        assert isinstance(progress, Lines)
        progress.start(4)
        for phase in ("preparing", "compiling a", "compiling b", "timing"):
            progress.cell("alpha:cpu", SPEC, 0, phase)
        progress.done(case(work=SPEC))
        progress.done(case(work=SPEC, status="crashed", reason="SIGSEGV"))
        progress.note("that is all")
    assert page.lines[0] == "4 cells to measure"
    assert [line for line in page.lines if "compiling" in line] == [
        "[0/4] alpha:cpu linear n=64 k=64 m=1 f32: compiling kernels (kept for later runs)"
    ]
    assert any(line.endswith("alpha:cpu linear n=64 k=64 m=1 f32: crashed: SIGSEGV") for line in page.lines)
    assert page.lines[-1] == "that is all"


def test_progress_on_a_terminal_draws_bars():
    import io

    from rich.console import Console

    stream = io.StringIO()
    with progress_on(Console(file=stream, force_terminal=True, width=120)) as progress:
        progress.start(2)
        progress.cell("alpha:cpu", SPEC, 0, "timing [x]")
        progress.done(case())
        progress.done(case(status="error", reason="[red] y"))
        progress.note("a note")
    drawn = stream.getvalue()
    assert "2/2" in drawn
    assert "alpha:cpu linear n=64 k=64 m=1 f32: timing [x]" in drawn
    assert "error: [red] y" in drawn
    assert "a note" in drawn


def test_silent_progress_says_nothing(capsys):
    silent = Silent()
    silent.start(1)
    silent.cell("a", "b", 0, "c")
    silent.done(case())
    silent.note("d")
    assert capsys.readouterr() == ("", "")
