"""Finding a stored run by what a user types."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rows import case, write

from membound.backends import registry
from membound.bench import cli
from membound.bench.run.resume import find_cut
from membound.results import stored_runs
from membound.results.row import RowError
from membound.results.store import StoreError, load_rows, new_run_path
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


def test_a_run_that_ends_while_it_is_looked_for_is_found(tmp_path, monkeypatch):
    """It gets its last name between any two looks: nobody warns of it, and no older run is taken for the latest."""
    stored(tmp_path, "a.jsonl", [case()], 1)
    named, written_at = stored_runs._named, stored_runs._written_at

    def end():
        (tmp_path / "b.jsonl.partial").rename(tmp_path / "b.jsonl")

    def listed(folder, ending):
        found = named(folder, ending)
        if ending.endswith("partial"):
            end()
        return found

    def looked_at(path):
        found = written_at(path)
        if path.name.endswith("partial"):
            end()
        return found

    for name, changed in (("_named", listed), ("_written_at", looked_at)):
        stored(tmp_path, "b.jsonl.partial", [case()], 2)
        (tmp_path / "b.jsonl").unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(stored_runs, name, changed)
            assert find_run("latest", tmp_path) == tmp_path / "b.jsonl"


def test_a_run_that_is_removed_while_it_is_looked_for_is_not_the_latest(tmp_path, monkeypatch):
    kept = stored(tmp_path, "a.jsonl", [case()], 1)
    gone = stored(tmp_path, "b.jsonl", [case()], 2)
    ended = stored_runs._ended

    def removed(path):
        gone.unlink(missing_ok=True)
        return ended(path)

    monkeypatch.setattr(stored_runs, "_ended", removed)
    assert find_run("latest", tmp_path) == kept


def test_a_name_too_long_for_a_file_is_no_run(tmp_path):
    for ask in (lambda name: find_run(name, tmp_path), load_rows):
        with pytest.raises(StoreError, match=r"no .*run.*: File name too long$") as raised:
            ask("n" * 300)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "why"), [("loop", "it is a link to nothing"), ("gone", "it is a link to nothing"),
                      ("file", "it is no folder"), ("pipe", "it is no folder")]
)  # fmt: skip
def test_what_stands_where_a_folder_was_named_is_said(tmp_path, name, why):
    """ "there are no runs in loop yet" and "File exists" led nobody to the link, or to the disk that is not there."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("/nowhere/at/all")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    out = tmp_path / name
    with pytest.raises(StoreError, match=f"results folder {out} cannot be read: {why}"):
        find_run("latest", out)
    with pytest.raises(StoreError, match=f"results folder {out} cannot be made: {why}"):
        new_run_path(out, "a")
    if why.endswith("nothing"):
        with pytest.raises(StoreError, match="it is a link to nothing"):
            find_run(str(out), tmp_path)


def test_a_folder_that_may_not_be_read_is_not_an_empty_one(tmp_path, monkeypatch):
    """ "there are no runs in it yet" was said, and "there is nothing to resume"."""
    stored(tmp_path, "runs/a.jsonl", [case()], 1)
    tmp_path.chmod(0o755)
    (tmp_path / "runs").chmod(0)
    monkeypatch.chdir(tmp_path)
    user = os.geteuid()
    try:
        if not user:
            os.seteuid(65534)  # root may read everything
        for ask in (find_run, find_cut):
            with pytest.raises(StoreError, match=r"^results folder runs cannot be read: Permission denied$"):
                ask("latest", Path("runs"))
    finally:
        os.seteuid(user)
        (tmp_path / "runs").chmod(0o700)


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
