"""Runs that were cut short: gone on with by their own plan, or refused with the reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rows import case, ceiling, write

import membound
from membound.backends import registry
from membound.bench import api, cli
from membound.bench.machine.fingerprint import fingerprint
from membound.bench.planning.plan import Options, make_plan
from membound.bench.planning.suites import PlanError
from membound.bench.run import resume
from membound.bench.run.execute import execute
from membound.bench.run.progress import Silent
from membound.bench.run.resume import check_resumable, find_cut, keep_plan, partial_of, remaining
from membound.results.roofline import Limits
from membound.results.store import RunWriter, StoreError, load_rows

HERE = Path(__file__).parent
NAME = f"{registry.names()[0]}:cpu"
WORKS = [f"linear:n=64,k=64,m={m},weight=f32,act=float" for m in (1, 2)]


@pytest.fixture
def plan(tmp_path):
    return make_plan([NAME], WORKS, Options(out=tmp_path, threads=1, command="membound run …"), 10**9)


@pytest.fixture
def cut(tmp_path, plan):
    """A run that was cut short after one case; returns its (future) file."""
    path = tmp_path / "20261122T010203-some-cpu-1234.jsonl"
    keep_plan(plan, path)
    write(partial_of(path), [case(NAME, plan.cells[0].works[0], machine=fingerprint(), run_id=path.stem)])
    return path


def test_a_plan_comes_back_as_it_was(tmp_path, plan, cut):
    assert find_cut("latest", tmp_path) == (plan, cut)
    assert find_cut("20261122", tmp_path) == (plan, cut)


def test_only_what_has_no_row_remains(plan):
    first, _, third = plan.cells
    rows = [case(NAME, first.works[0]), *(case(NAME, w, replicate=1) for w in WORKS)]
    rows.append(ceiling("read", 1e9, "bytes/s"))
    assert remaining(plan, rows) == (replace(first, works=first.works[1:]), third)
    assert remaining(plan, []) == plan.cells
    assert remaining(plan, [case(NAME, w, replicate=r) for w in WORKS for r in range(3)]) == ()


def test_what_cannot_be_gone_on_with_is_told(tmp_path, cut):
    with pytest.raises(StoreError, match=r"names 0 of the runs .*: 20261122T010203-some-cpu-1234$"):
        find_cut("2030", tmp_path)
    other = cut.with_name("20261122T020304-some-cpu-5678.jsonl")
    write(partial_of(other), [case()])
    with pytest.raises(StoreError, match="'2026' names 2 of the runs"):
        find_cut("2026", tmp_path)
    with pytest.raises(PlanError, match=r"5678\.jsonl\.plan is not there.*start afresh"):
        find_cut("20261122T02", tmp_path)
    with pytest.raises(StoreError, match="nothing to resume"):
        find_cut("latest", tmp_path / "elsewhere")


def test_the_latest_is_one_with_a_plan_and_never_a_claim(tmp_path, plan, cut):
    for name in (
        "20261122T020304-some-cpu-5678.jsonl.partial",
        "claim-20261122T030405-some-cpu-9abc.jsonl.partial",
    ):
        write(tmp_path / name, [case()])
    assert find_cut("latest", tmp_path) == (plan, cut)
    with pytest.raises(StoreError, match="'claim-' names 0 of the runs"):
        find_cut("claim-", tmp_path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:50], "cannot be read"),
        (lambda text: "[]", "cannot be read"),
        (lambda text: text.replace('"seed": 1', '"seed": 2'), "was changed since the run began"),
        (
            lambda text: text.replace(f'"membound": "{membound.__version__}"', '"membound": "9"'),
            "by membound 9",
        ),
    ],
)
def test_a_plan_in_doubt_is_refused(tmp_path, cut, damage, says):
    where = cut.with_name(cut.name + ".plan")
    changed = damage(where.read_text())
    assert changed != where.read_text()
    where.write_text(changed)
    with pytest.raises(PlanError, match=says) as raised:
        find_cut("latest", tmp_path)
    assert "\n" not in str(raised.value)


def test_another_machine_or_too_little_memory_is_refused(plan, monkeypatch):
    with pytest.raises(PlanError, match="begun on Test CPU, this is"):
        check_resumable(plan.cells, [case()])
    check_resumable(plan.cells, [case(machine=fingerprint())])
    monkeypatch.setattr(resume, "available_memory_bytes", lambda: 1000)
    with pytest.raises(PlanError, match="does not fit memory"):
        check_resumable(plan.cells, [])


def test_a_torn_line_is_cut_off_before_rows_are_added(cut):
    whole = partial_of(cut).read_bytes()
    with partial_of(cut).open("ab") as file:
        file.write(whole[: len(whole) // 2])
    with RunWriter(cut, resume=True) as writer:
        assert partial_of(cut).read_bytes() == whole
        writer.append(case(NAME, WORKS[1], run_id=cut.stem))
    assert [row.work for row in load_rows(cut)] == [load_rows(cut)[0].work, WORKS[1]]
    assert not partial_of(cut).exists()


def test_a_run_that_another_process_writes_is_left_alone(cut):
    with (
        RunWriter(cut, resume=True) as writer,
        pytest.raises(StoreError, match="is being written by another process"),
        RunWriter(cut, resume=True),
    ):
        pass
    assert writer.path.exists()
    assert len(load_rows(cut)) == 1


def test_a_plan_lies_beside_its_rows_until_they_are_complete(tmp_path, plan, monkeypatch):
    found = []

    def measured(plan, writer, progress):
        found.extend(sorted(path.name.partition(".")[2] for path in tmp_path.iterdir()))
        if len(found) > 2:
            raise StoreError("the disk is full")
        return writer.finish() and []

    monkeypatch.setattr(api, "execute", measured)
    path, _ = api.measure(plan, Silent())
    assert found == ["jsonl.partial", "jsonl.plan"]
    assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    with pytest.raises(StoreError, match="full"):
        api.measure(plan, Silent())
    assert find_cut("latest", tmp_path)[0] == plan


def test_ceilings_are_measured_again_only_if_they_were_cut_short(tmp_path, plan, monkeypatch):
    """They come before everything else: with a case or a backend's own ceiling there, they are complete."""
    import killed_runs

    from membound.bench.run.execute import execute as run

    jobs = []

    class Worker(killed_runs.FakeWorker):
        def __enter__(self):
            kind = "read" if self.job.get("only_read") else self.job["job"]
            jobs.append((kind, self.job.get("ceilings")))
            return self

    monkeypatch.setattr(run, "Worker", Worker)
    plan = replace(plan, cells=plan.cells[:1], repeats=0)
    half = [ceiling("read", 1e9, "bytes/s", "cpu")]
    own = [*half, ceiling("launch", 1e-6, "s", NAME)]
    begun = [*own, case(NAME, WORKS[0])]
    for number, (known, expected) in enumerate(
        [
            ([], [("ceilings", None), ("measure", True)]),
            (half, [("ceilings", None), ("measure", True)]),
            (own, [("measure", True)]),
            (begun, [("measure", False)]),
        ]
    ):
        jobs.clear()
        with RunWriter(tmp_path / f"{number}.jsonl") as writer:
            execute(plan, writer, Silent(), Limits(), known)
        assert jobs == [*expected, ("read", None)]


def test_runs_killed_at_random_points_come_to_their_end(tmp_path):
    """SIGKILL before, within and after rows, again and again; each case is there once, and nothing was lost."""
    seed = str(os.getpid())
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_runs.py"), str(tmp_path), seed, "20"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    assert int(done.stdout) >= 20


# The command


def command(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", *map(str, arguments)])
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--resume", "latest"], "nothing to resume"),
        (["--resume", "latest", "--quick"], "--resume continues a run by the plan it had"),
        (["linear:n=8,k=8", "--resume", "latest"], "--resume continues a run by the plan it had"),
        (["--resume", "latest", "--seed", "3"], "--resume continues a run by the plan it had"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, capsys, arguments, says):
    assert command(*arguments, "--out", tmp_path) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err


def test_the_command_goes_on_and_shows_the_whole_run(tmp_path, cut, plan, capsys, monkeypatch):
    import killed_runs

    from membound.bench.run.execute import execute as run

    monkeypatch.setattr(run, "Worker", killed_runs.FakeWorker)
    assert command("--resume", "latest", "--out", tmp_path, "--json") == 0
    out, err = capsys.readouterr()
    assert f"going on with {cut.stem}: 5 of 6 cases are left" in err
    lines = json.loads(out)
    assert {line["work"] for line in lines} == set(WORKS)
    assert all(line["replicates"] == 3 for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == [cut.name]
