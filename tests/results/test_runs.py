"""Finding a stored run by what a user types."""

from __future__ import annotations

import os

import pytest
from rows import case, write

from membound.backends import registry
from membound.bench import cli
from membound.results.row import RowError
from membound.results.store import StoreError, load_rows
from membound.results.stored_runs import find_run, rows_of


def stored(folder, name, rows, written_at):
    path = write(folder / name, rows)
    os.utime(path, (written_at, written_at))
    return path


def test_the_latest_is_not_a_run_that_was_killed_before_its_first_row(tmp_path):
    whole = stored(tmp_path, "a.jsonl", [case()], 1)
    stored(tmp_path, "b.jsonl.partial", [], 2)
    torn = stored(tmp_path, "c.jsonl.partial", [], 3)
    torn.write_text(case().to_json()[:40])
    assert find_run("latest", tmp_path) == whole
    assert find_run("b", tmp_path).name == "b.jsonl.partial"
    cut = stored(tmp_path, "d.jsonl.partial", [case()], 4e9)
    assert find_run("latest", tmp_path) == cut
    cut.write_text("{}\n" + case().to_json() + "\n")
    with pytest.raises(RowError, match="line 1: no schema_version"):
        find_run("latest", tmp_path)


def test_the_latest_is_not_a_run_that_was_interrupted_before_its_first_row(tmp_path):
    whole = stored(tmp_path, "a.jsonl", [case()], 1)
    (tmp_path / "b.jsonl").touch()
    assert find_run("latest", tmp_path) == whole
    assert find_run("b", tmp_path).name == "b.jsonl"


def test_with_nothing_but_killed_runs_the_latest_is_one_of_them(tmp_path):
    stored(tmp_path, "a.jsonl.partial", [], 1)
    stored(tmp_path, "b.jsonl.partial", [], 2)
    assert find_run("latest", tmp_path).name == "b.jsonl.partial"
    with pytest.raises(StoreError, match="holds no rows"):
        rows_of("latest", tmp_path)


def test_a_name_too_long_for_a_file_is_no_run(tmp_path):
    for ask in (lambda name: find_run(name, tmp_path), load_rows):
        with pytest.raises(StoreError, match=r"no .*run.*: File name too long$") as raised:
            ask("n" * 300)
        assert "\n" not in str(raised.value)


LONG = "n" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", LONG],
        ["show", "--out", LONG],
        ["compare", LONG, LONG],
        ["run", f"step:model={LONG}"],
        ["run", "--resume", "latest", "--out", LONG],
        ["run", "linear:n=8,k=8", "--python", f"{registry.names()[0]}={LONG}"],
        ["claim-report", LONG],
        ["export-model", "step:model=tiny,cache=prompt,layers=1,weight=f32", LONG],
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_refuses_a_name_too_long_in_one_line(capsys, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
