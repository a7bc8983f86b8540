"""Files on other file systems: whole or not there, written once, and what cannot be written told in a line."""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from pathlib import Path

import pytest
from rows import run_rows

from membound.results.exchange.exports import export, format_of
from membound.results.exchange.remote_file import RemoteUnavailable, remote_file, shown
from membound.results.exchange.whole_file import whole_file
from membound.results.store import StoreError, load_rows

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory():
    """An empty file system in memory, which renames."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


@pytest.fixture
def store(memory, monkeypatch):
    """The same as a store that shows whole objects; it notes how they were sent."""
    sent = []

    class Store(type(memory)):
        protocol = ("gs", "gcs")

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.replace("gs://", "memory://"))

        def put_file(self, local, remote, mode="overwrite", **more):
            sent.append((remote, mode))
            if mode == "create" and self.exists(remote):
                raise FileExistsError(remote)
            super().put_file(local, remote)

        def mv(self, *paths, **more):
            raise AssertionError("nothing is renamed where renaming copies")

    monkeypatch.setitem(import_module("fsspec.registry")._registry, "gs", Store)
    return memory, sent


def overtaken(memory, address, path):
    """Write a file that another one writes meanwhile."""
    with remote_file(address) as scratch:
        scratch.write_text("mine")
        memory.pipe_file(path, b"theirs")


def test_rows_go_to_a_file_system_and_come_back(memory, tmp_path):
    assert export(run_rows(), "memory://fleet/rows.parquet") == "parquet"
    assert memory.ls("/fleet", detail=False) == ["/fleet/rows.parquet"]  # and nothing beside it
    memory.get_file("/fleet/rows.parquet", str(tmp_path / "rows.parquet"))
    assert load_rows(tmp_path / "rows.parquet") == run_rows()


def test_a_file_is_written_once(memory):
    export(run_rows(), "memory://fleet/rows.csv")
    before = memory.cat_file("/fleet/rows.csv")
    with pytest.raises(
        StoreError, match=r"memory://fleet/rows\.csv is there already; name another file, or give"
    ):
        export(run_rows("run-b"), "memory://fleet/rows.csv")
    assert memory.cat_file("/fleet/rows.csv") == before
    export(run_rows("run-b"), "memory://fleet/rows.csv", replace=True)
    assert b"run-b" in memory.cat_file("/fleet/rows.csv")


def test_who_comes_second_while_another_writes_is_refused(memory):
    with pytest.raises(StoreError, match="is there already"):
        overtaken(memory, "memory://fleet/a.csv", "/fleet/a.csv")
    assert memory.cat_file("/fleet/a.csv") == b"theirs"
    assert memory.ls("/fleet", detail=False) == ["/fleet/a.csv"]


def test_what_fails_leaves_nothing(memory):
    with pytest.raises(ZeroDivisionError), remote_file("memory://fleet/a.csv") as scratch:
        scratch.write_text(str(1 / 0))
    assert not memory.exists("/fleet")


def test_an_object_is_sent_once_to_its_own_name(store):
    memory, sent = store
    export(run_rows(), "gs://bucket/rows.jsonl")
    assert [mode for _, mode in sent] == ["create"]
    with pytest.raises(StoreError, match="is there already"):
        overtaken(memory, "gs://bucket/b.csv", "/bucket/b.csv")
    assert memory.cat_file("/bucket/b.csv") == b"theirs"
    export(run_rows(), "gs://bucket/rows.jsonl", replace=True)
    assert sent[-1][1] == "overwrite"


def test_a_local_address_is_a_file_here(tmp_path):
    export(run_rows(), f"file://{tmp_path}/rows.jsonl")
    assert load_rows(tmp_path / "rows.jsonl") == run_rows()
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nosuch://bucket/rows.csv", "Protocol not known"),
        ("memory://", "is a folder; name a file"),
        ("file:///nobody/has/this/rows.csv", "cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_told_in_a_line(memory, address, words):
    with pytest.raises(StoreError, match=words) as error, remote_file(address) as scratch:
        scratch.write_text("x")
    assert "\n" not in str(error.value)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(RemoteUnavailable, match=r"s3://bucket/rows\.csv cannot be written here: .*s3fs"):
        export(run_rows(), "s3://key:secret@bucket/rows.csv")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(
        RemoteUnavailable, match=r"needs fsspec, which is not installed: pip install 'membound\[parquet\]'"
    ):
        export(run_rows(), "s3://bucket/rows.csv")


def test_passwords_are_not_shown_and_endings_are_those_of_the_path():
    assert shown("sftp://me:secret@host/a@b.csv") == "sftp://host/a@b.csv"
    assert shown("simplecache::sftp://me:secret@host/a.csv") == "simplecache::sftp://host/a.csv"
    assert format_of("s3://bucket/rows.parquet") == "parquet"


def test_of_several_who_write_a_file_here_at_once_one_does(tmp_path):
    path, done, refused = tmp_path / "rows.csv", [], []
    together = threading.Barrier(4)

    def write(number: int) -> None:
        try:
            with whole_file(path) as scratch:
                scratch.write_text(str(number))
                together.wait()
            done.append(number)
        except StoreError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert (len(done), len(refused)) == (1, 3)
    assert path.read_text() == str(done[0])
    assert all("is there already" in one for one in refused)
    assert [one.name for one in Path(tmp_path).iterdir()] == ["rows.csv"]
