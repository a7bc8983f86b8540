"""A node's own file: read while it is written, from any row on."""

from __future__ import annotations

import os
import time

import pytest

from membound.bench.fleet import node_file
from membound.bench.fleet.node_file import KEPT_DAYS, NodeFile, node_folder, remove_old


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(tmp_path / "cache"))


def test_lines_are_read_as_they_come_and_again(monkeypatch):
    file = NodeFile("fleet.host.all")
    assert file.lines_from(0) == ()
    partial = file.path.with_name(file.path.name + ".partial")
    partial.write_bytes(b"a\nb\nc")
    assert file.lines_from(0) == (b"a", b"b")
    assert file.lines_from(2) == ()
    partial.write_bytes(b"a\nb\nc\nd\n")
    assert file.lines_from(2) == (b"c", b"d")
    assert file.lines_from(4) == ()
    assert file.lines_from(1) == (b"b", b"c", b"d")
    partial.rename(file.path)
    assert file.is_finished
    assert file.lines_from(3) == (b"d",)


def test_a_reply_is_small_but_never_empty(monkeypatch):
    monkeypatch.setattr(node_file, "MOST_BYTES", 10)
    file = NodeFile("fleet.host.all")
    file.path.write_bytes(b"x" * 30 + b"\n" + b"1234\n" * 3)
    assert file.lines_from(0) == (b"x" * 30,)
    assert file.lines_from(1) == (b"1234", b"1234")
    assert file.lines_from(3) == (b"1234",)


def test_a_file_that_was_lost_is_written_from_what_was_handed_over():
    file = NodeFile("fleet.host.all")
    file.rebuild((b"a", b"b"))
    assert file.lines_from(1) == (b"b",)
    assert not file.is_finished
    file.clear()
    assert list(node_folder().iterdir()) == []


def test_what_nobody_came_back_for_goes_after_two_weeks():
    old, new = node_folder() / "old.jsonl", node_folder() / "new.jsonl"
    for path, days in ((old, KEPT_DAYS + 1), (new, KEPT_DAYS - 1)):
        path.touch()
        os.utime(path, (time.time() - days * 86_400,) * 2)
    other = node_folder() / "a folder"
    other.mkdir()
    os.utime(other, (1, 1))
    remove_old()
    assert sorted(node_folder().iterdir()) == sorted([new, other])
