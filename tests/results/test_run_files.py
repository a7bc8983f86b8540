"""Which files are rows: what is below a folder, without what no one may read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rows import case

from membound.results import run_files
from membound.results.row import Row
from membound.results.run_files import StoreError
from membound.results.store import RunWriter, load_rows
from membound.results.stored_runs import stored_runs


def numbered(number: int) -> Row:
    return case(replicate=number)


def stored(path: Path, rows: list[Row]) -> Path:
    with RunWriter(path) as writer:
        for row in rows:
            writer.append(row)
    return path


def test_the_kernels_own_trees_are_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [numbered(1)]
    stored(tmp_path / "a.jsonl", rows)
    (tmp_path / "proc/1").mkdir(parents=True)
    stored(tmp_path / "proc/1/b.jsonl", [numbered(2)])
    monkeypatch.setattr(run_files, "KERNELS", (str(tmp_path / "proc"),))
    with pytest.warns(UserWarning, match="proc is passed by: it is the kernel's"):
        assert load_rows(tmp_path) == rows
    with pytest.raises(StoreError, match="proc/1 is the kernel's and holds no runs"):
        load_rows(tmp_path / "proc/1")


def test_what_is_no_file_is_passed_by_with_a_line(tmp_path: Path) -> None:
    rows = [numbered(1)]
    path = stored(tmp_path / "a.jsonl", rows)
    os.mkfifo(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").symlink_to(tmp_path / "nothing")
    (tmp_path / "d.jsonl").symlink_to(tmp_path / "d.jsonl")
    (tmp_path / "e.jsonl").symlink_to("/dev/zero")
    (tmp_path / "f.jsonl").symlink_to(path)
    with pytest.warns(UserWarning, match="passed by|count once") as told:
        assert load_rows(tmp_path) == rows
    assert sorted(str(w.message).partition(" ")[0][-7] for w in told) == ["b", "c", "d", "e", "f"]
    with pytest.warns(UserWarning, match="passed by"):
        assert sorted(p.name for p in stored_runs(tmp_path)) == ["a.jsonl", "f.jsonl"]
    for name, words in (("b", "no file"), ("c", "a link to nothing"), ("e", "no file")):
        with pytest.raises(StoreError, match=words):
            load_rows(tmp_path / f"{name}.jsonl")
