"""Reading rows line by line gives what reading them whole gives, from every kind of file, and refuses the same lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rows import case, ceiling, run_rows, write

from membound.results import processes, reader_processes
from membound.results.case_lines import CaseLines
from membound.results.checksum import sealed
from membound.results.exchange import parquet
from membound.results.exchange.exports import export
from membound.results.process import condensed, usable_processes
from membound.results.processes import processes_of
from membound.results.row import RowError
from membound.results.stats import usable
from membound.results.store import RunWriter, StoreError, load_rows
from membound.results.turns import StoredTurn

TURNS = [
    StoredTurn(round=i, at_s=float(i), time_s=1e-3 * (1 + i), launches=2, disturbance=0.5 * (i == 3))
    for i in range(5)
]


def stored(path, rows):
    """A row file with checksums, as a run writes it."""
    with RunWriter(path) as writer:
        for row in rows:
            writer.append(row)
    return path


def rows():
    return [*run_rows(), case(samples=[], turns=TURNS, replicate=7), case(status="wrong", reason="error 0.5")]


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("kind", ["sealed.jsonl", "open.jsonl", "a.parquet", "a.sqlite"])
def test_every_kind_of_file_gives_the_same_processes(tmp_path, kind, turns):
    path = tmp_path / kind
    if kind == "sealed.jsonl":
        stored(path, rows())
    elif kind == "open.jsonl":
        write(path, rows())
    else:
        export(rows(), path)
    found = list(processes_of(path, turns))
    assert found == [condensed(row, turns) for row in load_rows(path) if row.kind == "case"]
    assert [one.times_s for one in found][-2] == [
        pytest.approx(2.5e-3)
    ]  # 1, 2, 3 and 5 ms: the fourth was disturbed
    assert bool(found[-2].turns) == turns


def test_large_files_are_read_in_parts_by_several_processes(tmp_path, monkeypatch):
    many = [case(samples=[0.01 * (i + 1)], replicate=i) for i in range(40)]
    path = stored(tmp_path / "a.jsonl", [ceiling("read", 1e10, "bytes/s"), *many])
    whole = list(processes_of(path))
    monkeypatch.setattr(processes, "LARGE_BYTES", 1)
    monkeypatch.setattr(processes, "CHUNK_BYTES", 3001)
    assert list(processes_of(path)) == whole
    assert [one.replicate for one in whole] == list(range(40))


def test_large_tables_are_read_in_parts_too(tmp_path, monkeypatch):
    rows = [case(samples=[0.01 * (i + 1)], replicate=i) for i in range(40)]
    monkeypatch.setattr(parquet, "BATCH", 5)
    export([ceiling("read", 1e10, "bytes/s"), *rows], tmp_path / "a.parquet")
    assert parquet.group_sizes(tmp_path / "a.parquet") == [5] * 8 + [1]
    whole = list(processes_of(tmp_path / "a.parquet"))
    monkeypatch.setattr(processes, "LARGE_ROWS", 1)
    monkeypatch.setattr(processes, "processes_of_parts", seen := Seen(processes.processes_of_parts))
    assert list(processes_of(tmp_path / "a.parquet")) == whole
    assert [one.replicate for one in whole] == list(range(40))
    assert seen.parts == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]


class Seen:
    """Readers of parts that remember which they were."""

    def __init__(self, readers):
        self.readers = readers

    def __call__(self, path, turns, parts, kind, known):
        self.parts = parts
        return self.readers(path, turns, parts, kind, known)


@pytest.mark.parametrize("text", ['a,"machine":{"cpu":"x"}', ',"machine":{', '{"', "}", '\\",'])
def test_marks_of_the_end_of_a_line_within_texts_and_objects_mislead_nobody(tmp_path, text):
    row = case(
        command=text, reason=text, config={"a": {"b": 1, "machine": {"c": text}}}, versions={text: text}
    )
    nested = case(machine={"cpu": "Test CPU", "more": {"b": 1, "machine": {"c": text}}}, replicate=1)
    path = stored(tmp_path / "a.jsonl", [row, nested, row])
    with pytest.warns(UserWarning, match="also 1 rows that were read before"):
        found = list(processes_of(path))
    assert found == [condensed(one, turns=False) for one in (row, nested)]


def test_what_a_reader_refuses_is_refused_with_its_line(tmp_path, monkeypatch):
    path = stored(tmp_path / "a.jsonl", [case(replicate=i) for i in range(20)])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:12], lines[12].replace(b"0.01", b"0.02"), *lines[13:]]))
    monkeypatch.setattr(processes, "LARGE_BYTES", 1)
    monkeypatch.setattr(processes, "CHUNK_BYTES", 3001)
    with pytest.raises(RowError, match="line 13: it has changed since it was written"):
        list(processes_of(path))


def test_a_reader_that_ends_early_is_told(tmp_path, monkeypatch):
    path = stored(tmp_path / "a.jsonl", [case()])
    monkeypatch.setattr(reader_processes, "CODE", "import sys; sys.stdin.readline(); sys.exit(3)")
    with pytest.raises(StoreError, match=r"a\.jsonl cannot be read: a reading process ended \(3\)"):
        list(reader_processes.processes_of_parts(path, False, [(0, 10)], processes.LINES, {}))


def test_every_line_is_in_one_part_whatever_their_size(tmp_path):
    path = stored(tmp_path / "a.jsonl", [case(replicate=i) for i in range(6)])
    size = path.stat().st_size
    for step in (1, 7, 500, size // 2, size - 1, size):
        parts = [(at, min(at + step, size)) for at in range(0, size, step)]
        if len(parts) < 2000:
            lines = CaseLines(turns=False, known={})
            found = [one.replicate for part in parts for one in processes._of_part(path, lines, part)]
            assert found == list(range(6)), step


class Counted(io.FileIO):
    """A file that counts what is read of it."""

    bytes_read = 0

    def readinto(self, buffer):
        count = super().readinto(buffer)
        Counted.bytes_read += count
        return count


def test_a_line_as_long_as_the_file_is_read_once(tmp_path, monkeypatch):
    path = stored(tmp_path / "a.jsonl", [case()])
    with path.open("ab") as file:
        file.write(bytes(200_000))
    size = path.stat().st_size
    monkeypatch.setattr(processes, "BUFFER_BYTES", 512)
    monkeypatch.setattr(
        Path, "open", lambda self, mode, buffering: io.BufferedReader(Counted(self), buffering)
    )
    lines = CaseLines(turns=False, known={})
    parts = [(at, min(at + 2000, size)) for at in range(0, size, 2000)]
    assert [len(list(processes._of_part(path, lines, part))) for part in parts] == [1] + [0] * (
        len(parts) - 1
    )
    assert Counted.bytes_read <= 3 * size


def test_a_torn_last_line_is_dropped_and_any_other_refused(tmp_path):
    path = stored(tmp_path / "a.jsonl", [case(replicate=i) for i in range(3)])
    lines = path.read_bytes().splitlines(keepends=True)
    (tmp_path / "torn.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:-20])
    assert [one.replicate for one in processes_of(tmp_path / "torn.jsonl")] == [0, 1]
    (tmp_path / "end.jsonl").write_bytes(lines[0] + lines[1][:-1] + b"x")
    with pytest.raises(RowError, match=r"end\.jsonl, line 2: "):
        list(processes_of(tmp_path / "end.jsonl"))
    (tmp_path / "cut.jsonl").write_bytes(lines[0] + lines[1][:-20] + b"\n" + lines[2])
    with pytest.raises(RowError, match=r"cut\.jsonl, line 2: "):
        list(processes_of(tmp_path / "cut.jsonl"))
    (tmp_path / "bit.jsonl").write_bytes(lines[0].replace(b"0.01", b"0.02") + lines[1])
    with pytest.raises(RowError, match="line 1: it has changed since it was written"):
        list(processes_of(tmp_path / "bit.jsonl"))


def test_a_sealed_line_of_a_newer_schema_is_refused_and_one_that_missed_the_reference_is_wrong(tmp_path):
    newer = stored(tmp_path / "a.jsonl", [case(schema_version=99)])
    with pytest.raises(RowError, match="line 1: written by a newer membound"):
        list(processes_of(newer))
    (one,) = processes_of(stored(tmp_path / "b.jsonl", [case(error=0.5)]))
    assert (one.shared.status, one.shared.reason) == ("wrong", "error 0.5 above the tolerance of 0.01")


@pytest.mark.parametrize(
    "change", [{"samples_s": [0.0]}, {"samples_s": [-1.0]}, {"threads": None}, {"work": 5}, {"new": 1}]
)
def test_a_line_without_a_checksum_is_read_strictly(tmp_path, change):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(json.loads(case().to_json()) | change) + "\n")
    with pytest.raises(RowError, match="line 1: "):
        list(processes_of(path))


def test_the_processes_that_count_are_those_of_the_summary():
    groups = [
        [case(grade="invalid"), case(grade="clean")],
        [case(grade="invalid"), case(grade="invalid")],
        [case(), case(status="wrong")],
        [case(), case(status="crashed", samples=())],
    ]
    for group in groups:
        found = usable_processes([condensed(row) for row in group])
        assert [one.shared.grade for one in found] == [row.grade for row in usable(group)]


@pytest.mark.parametrize("replicate", [2**70, -1, "1", None])
def test_a_replicate_that_is_no_number_of_one_is_refused_with_its_line(tmp_path, replicate):
    text = json.dumps(json.loads(case().to_json()) | {"replicate": replicate}, separators=(",", ":"))
    (tmp_path / "a.jsonl").write_bytes(sealed(text.encode()) + b"\n")
    with pytest.raises(RowError, match="line 1: "):
        list(processes_of(tmp_path / "a.jsonl"))
