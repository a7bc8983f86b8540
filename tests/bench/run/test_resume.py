"""Runs that were cut short: gone on with by their own plan, or refused with the reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from rows import case, ceiling, write

import membound
from membound.backends import registry
from membound.bench import api, cli
from membound.bench.machine.fingerprint import fingerprint
from membound.bench.measure.rounds import Pace
from membound.bench.planning.plan import Options, make_plan
from membound.bench.planning.suites import PlanError
from membound.bench.protocol import messages as m
from membound.bench.run import resume
from membound.bench.run.case_rows import UNCHECKED
from membound.bench.run.journal import Journal, journal_of
from membound.bench.run.progress import Silent
from membound.bench.run.resume import check_resumable, find_cut, keep_plan, partial_of, remaining
from membound.results.stats import records, summarize
from membound.results.store import RunWriter, StoreError, load_rows
from membound.results.turns import StoredTurn

FAKES = Path(__file__).parents[2] / "fakes"
NAME = f"{registry.names()[0]}:cpu"
RUN = "20261122T010203-some-cpu-1234"
WORKS = [f"linear:n=64,k=64,m={m},weight=f32,act=float" for m in (1, 2)]


@pytest.fixture
def plan(tmp_path):
    options = Options(out=tmp_path, threads=1, command="membound run …", pace=Pace(3, 1e9, 3))
    return make_plan([NAME], WORKS, options, 10**9)


@pytest.fixture
def cut(tmp_path, plan):
    """A run that was cut short after one case; returns its (future) file."""
    path = tmp_path / f"{RUN}.jsonl"
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
        check_resumable(plan.cells, [case()], 1)
    check_resumable(plan.cells, [case(machine=fingerprint())], 1)
    monkeypatch.setattr(resume, "available_memory_bytes", lambda: 1000)
    with pytest.raises(PlanError, match="does not fit memory"):
        check_resumable(plan.cells, [], 1)


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


def turned_case(plan, replicate, work, rates):
    """A case whose turns lie between ceilings of these rates."""
    moments = [{"read": rate, "fma_f32": 10 * rate} for rate in rates]
    turns = [
        StoredTurn(i, 1.0, 0.01, 1, before=before, after=after)
        for i, (before, after) in enumerate(pairwise(moments))
    ]
    return case(
        NAME, work, samples=(), turns=turns, replicate=replicate, run_id=RUN, threads=1, machine=fingerprint()
    )


def closing(rows):
    """Name, replicate, value, lowest, highest and count of the ceilings that took turns."""
    return {
        (r.work, r.replicate): (r.value, r.config["lowest"], r.config["highest"], r.config["turns"], r.unit)
        for r in rows
        if r.kind == "ceiling" and "turns" in r.config
    }


def test_a_run_killed_after_its_last_case_gets_its_closing_ceilings(tmp_path, plan, cut, workers):
    """Nothing is left to measure: they are those that its turns were compared with, each moment once."""
    rates = {(n, work): [(n + 1) * 1e9, 8e9, 9e9 + i] for n in range(3) for i, work in enumerate(WORKS)}
    write(partial_of(cut), [turned_case(plan, n, work, seen) for (n, work), seen in rates.items()])
    found = api.go_on(plan, cut, Silent())
    assert workers.log == []
    assert closing(found) == {
        (name, n): (scale * 8.5e9, scale * (n + 1) * 1e9, scale * (9e9 + 1), 4, unit)
        for n in range(3)
        for name, scale, unit in (("read", 1, "bytes/s"), ("fma_f32", 10, "FLOP/s"))
    }
    assert {r.backend for r in found if r.kind == "ceiling"} == {"cpu"}
    assert load_rows(tmp_path) == found
    assert list(tmp_path.iterdir()) == [cut]


def test_of_closing_ceilings_that_were_cut_short_only_the_others_are_written(plan, cut, workers):
    rows = [turned_case(plan, n, work, [1e9, 2e9]) for n in range(3) for work in WORKS]
    rows.append(
        ceiling(
            "read", 5e9, "bytes/s", "cpu", replicate=2, config={"turns": 3, "lowest": 5e9, "highest": 5e9}
        )
    )
    write(partial_of(cut), rows)
    found = api.go_on(plan, cut, Silent())
    assert sorted(closing(found)) == sorted((name, n) for n in range(3) for name in ("read", "fma_f32"))
    assert closing(found)["read", 2][0] == 5e9
    assert len([r for r in found if (r.work, r.replicate) == ("read", 2)]) == 1


def test_closing_ceilings_of_a_replicate_tell_of_both_its_processes(plan, cut, workers):
    last = plan.cells[-1].replicate
    known = [turned_case(plan, n, work, [7e12, 8e12]) for n in range(3) for work in WORKS]
    del known[-1]
    write(partial_of(cut), known)
    found = api.go_on(plan, cut, Silent())
    lowest, highest = closing(found)["read", last][1:3]
    assert lowest < 1e10, "of the process that went on"
    assert highest == 8e12, "of the one that was killed"


def test_turns_of_a_killed_process_belong_to_the_case_that_goes_on(tmp_path, plan, cut, workers):
    left = {
        work: [StoredTurn(n, 1.0, 0.5 + n, 1, disturbance=0.0) for n in range(count)]
        for work, count in zip(WORKS, (2, 3), strict=True)
    }
    write(partial_of(cut), [])
    with suppress(ZeroDivisionError), Journal(cut) as journal:
        for work, turns in left.items():
            for turn in turns:
                journal.add(NAME, 0, work, turn)
        raise ZeroDivisionError
    rows = {(r.replicate, r.work): r for r in api.go_on(plan, cut, Silent()) if r.kind == "case"}
    for work, turns in left.items():
        row = rows[0, work]
        assert row.turns[: len(turns)] == turns
        fresh = row.turns[len(turns) :]
        assert [t.round for t in fresh] == [len(turns) + i for i in range(len(fresh))]
        assert {t.process for t in fresh} == {1}
        assert {t.process for t in rows[1, work].turns} == {0}
    assert list(tmp_path.iterdir()) == [cut]


def test_turns_that_an_interrupted_run_did_not_come_to_are_kept_and_set_aside(plan, cut, workers):
    """Ctrl-C while the process that would go on with them starts; the case has two processes that count."""

    def acts(worker, command):
        if isinstance(command, m.Open):
            raise KeyboardInterrupt

    workers.acts = acts
    turns = [
        StoredTurn(n, 1.0, 9.0, 1, before={"read": 1e9}, after={"read": 2e9}, disturbance=0.0)
        for n in range(3)
    ]
    write(partial_of(cut), [turned_case(plan, n, WORKS[0], [1e9, 2e9]) for n in range(2)])
    with suppress(ZeroDivisionError), Journal(cut) as journal:
        for turn in turns:
            journal.add(NAME, 2, WORKS[0], turn)
        raise ZeroDivisionError
    rows = api.go_on(plan, cut, Silent())
    assert load_rows(cut) == rows
    (kept,) = (r for r in rows if r.kind == "case" and r.replicate == 2)
    assert (kept.status, kept.turns, kept.error) == ("ok", turns, None)
    assert (kept.grade, kept.grade_reasons) == ("invalid", [UNCHECKED])
    assert (kept.device, kept.versions) == (rows[0].device, rows[0].versions)
    (line,) = records(summarize(rows))
    assert (line["status"], line["time_s"], line["replicates"], line["replicates_aside"]) == (
        "ok",
        0.01,
        2,
        1,
    )
    assert not journal_of(cut).exists()


def test_turns_of_a_case_that_cannot_go_on_are_kept_with_its_failure(plan, cut, workers):
    workers.acts = lambda worker, command: (
        m.Failed("oom", "MemoryError") if isinstance(command, m.Prepare) else None
    )
    write(partial_of(cut), [])
    turn = StoredTurn(0, 1.0, 0.5, 1)
    with suppress(ZeroDivisionError), Journal(cut) as journal:
        journal.add(NAME, 0, WORKS[1], turn)
        raise ZeroDivisionError
    rows = api.go_on(plan, cut, Silent())
    assert {r.work: (r.status, r.turns) for r in rows if r.kind == "case"} == {
        WORKS[0]: ("oom", []),
        WORKS[1]: ("oom", [turn]),
    }


@pytest.mark.parametrize("what", ["turns", "rows", "closing ceilings"])
def test_a_disk_that_fills_up_ends_the_run_and_the_next_one_goes_on(
    tmp_path, plan, workers, monkeypatch, what
):
    """One line says so, no process is left, and nothing that was written is lost."""
    written = {"turns": 0, "rows": 0, "closing ceilings": 0}

    def failing(real, kind_of):
        def write(self, *given):
            kind = kind_of(*given)
            written[kind] += 1
            if kind == what and written[kind] == 4:
                raise StoreError("the disk is full")
            real(self, *given)

        return write

    def of_row(row):
        return "closing ceilings" if "turns" in row.config else "rows"

    with monkeypatch.context() as full:
        full.setattr(Journal, "add", failing(Journal.add, lambda *_: "turns"))
        full.setattr(RunWriter, "append", failing(RunWriter.append, of_row))
        with pytest.raises(StoreError, match="the disk is full"):
            api.measure(plan, Silent())
    assert not workers.alive
    _, path = find_cut("latest", tmp_path)
    before = load_rows(partial_of(path))
    assert len(before) == written["rows"] + written["closing ceilings"] - (what != "turns")
    rows = api.go_on(plan, path, Silent())
    assert rows[: len(before)] == before
    cases = [(r.replicate, r.work) for r in rows if r.kind == "case"]
    assert sorted(cases) == sorted((n, work) for n in range(3) for work in WORKS)
    assert set(closing(rows)) >= {("read", n) for n in range(3)}
    assert list(tmp_path.iterdir()) == [path]


def test_turns_beyond_the_plan_get_their_row(plan, cut, workers):
    """A process that repeated an invalid one was killed: its number is not among the cells that are left."""
    write(partial_of(cut), [turned_case(plan, n, work, [1e9, 2e9]) for n in range(3) for work in WORKS])
    turn = StoredTurn(0, 1.0, 0.5, 1, disturbance=0.0)
    with suppress(ZeroDivisionError), Journal(cut) as journal:
        journal.add(NAME, 3, WORKS[1], turn)
        raise ZeroDivisionError
    rows = [r for r in api.go_on(plan, cut, Silent()) if r.kind == "case"]
    (beyond,) = (r for r in rows if r.replicate > 2)
    assert (beyond.replicate, beyond.work, beyond.status, beyond.turns[0]) == (3, WORKS[1], "ok", turn)


def test_what_was_repeated_is_not_repeated_again(plan, cut, workers):
    rows = [turned_case(plan, n, work, [1e9, 2e9]) for n in range(4) for work in WORKS]
    for row in rows[:2]:
        row.grade = "invalid"
    write(partial_of(cut), rows[:-1])
    found = [r for r in api.go_on(plan, cut, Silent()) if r.kind == "case"]
    assert [(r.replicate, r.work) for r in found[len(rows) - 1 :]] == [(4, WORKS[1])]


@pytest.mark.slow
def test_runs_killed_at_random_points_come_to_their_end(tmp_path):
    """SIGKILL before, within and after rows, again and again; each case is there once, and nothing was lost."""
    seed = str(os.getpid())
    driver = [sys.executable, str(FAKES / "killed_runs.py"), str(tmp_path), seed, "6"]
    done = subprocess.run(driver, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    assert int(done.stdout) >= 6


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


def test_the_command_goes_on_and_shows_the_whole_run(tmp_path, cut, capsys, workers):
    assert command("--resume", "latest", "--out", tmp_path, "--json") == 0
    out, err = capsys.readouterr()
    assert f"going on with {cut.stem}: 5 of 6 cases are left" in err
    lines = json.loads(out)
    assert {line["work"] for line in lines} == set(WORKS)
    assert all(line["replicates"] == 3 for line in lines)
    assert all(line["mbu"] > 0 for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == [cut.name]
