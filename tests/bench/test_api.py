import pandas as pd
import pytest
from fake_workers import turned
from rows import LINEAR, run_rows, write

import membound
from membound.backends import registry
from membound.bench import api
from membound.bench.planning import choice as setup
from membound.bench.planning.choice import choose_backends, split, split_works
from membound.bench.planning.plan import DEFAULT_PACE, HIGH_REPLICATES
from membound.bench.planning.probe import Found
from membound.bench.protocol.messages import TakeTurn
from membound.bench.run.progress import Silent
from membound.results.stats import COLUMNS, records

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


def test_a_run_compared_with_its_copy_is_told(tmp_path):
    path, copy = write(tmp_path / "a.jsonl", run_rows()), tmp_path / "b.jsonl"
    copy.write_bytes(path.read_bytes())
    with pytest.warns(UserWarning, match="are the same run, or copies of it: it is compared with itself"):
        table = membound.compare(path, copy)
    assert set(table["time_ratio"].dropna()) == {1.0}


@pytest.fixture
def fakes(monkeypatch, workers):
    """One device is found and its workers answer at once; returns the plans that were executed."""
    plans, execute = [], api.execute

    def probe(entries, threads, pythons=None):
        return [Found(f"{NAME}:cpu", registry.entry_for(NAME), True)]

    def noted(plan, writer, progress):
        plans.append(plan)
        return execute(plan, writer, progress)

    monkeypatch.setattr(setup, "probe", probe)
    monkeypatch.setattr(api, "execute", noted)
    return plans


def test_run_measures_stores_and_summarises(fakes, tmp_path):
    table = membound.run([SPEC], threads=1, seed=5, out=tmp_path)
    assert list(table.backend) == [f"{NAME}:cpu"]
    assert (table.replicates[0], table.status[0], table.turns[0]) == (3, "ok", 3 * DEFAULT_PACE.rounds)
    low, high = table.time_ci_s[0]
    assert low < table.time_s[0] < high
    assert 0.01 < table.time_s[0] < 0.02
    assert table.mbu[0] > 0
    (path,) = tmp_path.iterdir()
    assert table.attrs["path"] == str(path)
    assert records(membound.load(path)) == records(table)
    assert (fakes[0].seed, fakes[0].threads) == (5, 1)


def test_the_same_backend_twice_shows_the_noise(fakes, tmp_path):
    """In the table of a run, in the stored file, and compared."""
    names = [f"{NAME}:cpu", f"{NAME}:cpu#2", f"{NAME}:cpu#other"]
    table = membound.run([SPEC], names, threads=1, out=tmp_path)
    assert list(table.backend) == names
    assert 1.0 in {*table.ratio_to_fastest}, (
        "the fastest by its time; by rounds another one may be a little ahead"
    )
    assert all(0.5 <= ratio <= 2.0 for ratio in table.ratio_to_fastest)
    ours = table.ratio_to_fastest_ci[table.ratio_to_fastest != 1.0]
    assert all(low < high for low, high in ours)
    assert records(membound.load(tmp_path)) == records(table)
    pair = membound.compare(table.attrs["path"], backends=(names[0], names[2]))
    assert (pair.backend_a[0], pair.backend_b[0], pair.paired[0]) == (names[0], names[2], True)
    assert pair.time_ratio[0] > 0


def test_run_tells_its_progress(fakes, tmp_path):
    class Told(Silent):
        turns, rows = 0, 0

        def turn(self, backend, work, replicate, turn):
            assert (backend, work, turn.round) == (f"{NAME}:cpu", SPEC, Told.turns)
            Told.turns += 1

        def done(self, row):
            Told.rows += row.kind == "case"

    membound.run([SPEC], replicates=1, out=tmp_path, progress=Told())
    assert (Told.turns, Told.rows) == (DEFAULT_PACE.rounds, 1)


@pytest.mark.parametrize(
    ("works", "backends"),
    [(SPEC, NAME), ([SPEC], [f"{NAME}:cpu"]), (f"{SPEC},linear:n=8,k=32", f"{NAME},{NAME}:cpu")],
)
def test_run_takes_one_text_as_the_command_does(fakes, tmp_path, works, backends):
    table = membound.run(works, backends, threads=1, out=str(tmp_path))
    assert SPEC in set(table.work)
    assert len(table) == (2 if isinstance(works, str) and works != SPEC else 1)
    assert set(table.backend) == {f"{NAME}:cpu"}


def test_run_has_the_options_of_the_command(fakes, workers, tmp_path):
    workers.acts = lambda worker, command: turned(0.01) if isinstance(command, TakeTurn) else None
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
