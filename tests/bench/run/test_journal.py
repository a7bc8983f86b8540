"""Turns on disk before their rows: torn lines, damaged ones, full disks, and whose turns may be forgotten."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flips import unnoticed

from membound.bench.run.journal import Journal, journal_of
from membound.results.row import RowError
from membound.results.store import StoreError
from membound.results.turns import StoredTurn

A, B = ("mine:cpu", 0, "linear:n=8,k=32"), ("other:cpu", 2, "linear:n=8,k=64")


def turn(number: int, **more: Any) -> StoredTurn:
    """A turn of random figures."""
    rates = {"read": random.uniform(1e9, 1e11)}
    return StoredTurn(number, random.random(), random.uniform(1e-9, 1.0), 3, 0.25, rates, dict(rates), **more)


def written(path: Path, *turns: tuple[tuple[str, int, str], StoredTurn]) -> None:
    """What a process that was killed then leaves."""
    with suppress(ZeroDivisionError), Journal(path) as journal:
        for key, one in turns:
            journal.add(*key, one)
        raise ZeroDivisionError


def left(path: Path) -> dict[tuple[str, int, str], list[StoredTurn]]:
    with suppress(ZeroDivisionError), Journal(path) as journal:
        raise ZeroDivisionError
    return journal.left


def test_turns_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    turns = [turn(0), turn(1, device_s=0.5, disturbance=0.02, retaken_s=[0.1, 0.2]), turn(2, process=1)]
    written(path, (A, turns[0]), (B, turns[1]), (A, turns[2]))
    assert journal_of(path).name == "run.jsonl.turns"
    assert left(path) == {A: [turns[0], turns[2]], B: [turns[1]]}


def test_leaving_it_normally_removes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Journal(path) as journal:
        journal.add(*A, turn(0))
        assert journal_of(path).stat().st_size > 0
    assert list(tmp_path.iterdir()) == []


def test_a_line_torn_at_any_byte_is_cut_off_and_the_next_one_stands_alone(tmp_path: Path) -> None:
    path, first, torn, later = tmp_path / "run.jsonl", turn(0), turn(1), turn(2)
    written(path, (A, first))
    whole = journal_of(path).read_bytes()
    written(path, (A, torn))
    both = journal_of(path).read_bytes()
    for size in range(len(whole), len(both)):
        journal_of(path).write_bytes(both[:size])
        written(path, (B, later))
        assert left(path) == {A: [first], B: [later]}, both[:size]


def test_every_flipped_bit_of_a_whole_line_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    written(path, (A, turn(0)), (B, turn(1)), (A, turn(2)))
    assert unnoticed(journal_of(path), RowError, lambda: left(path), range(2), 3) == []


def test_turns_are_forgotten_with_their_rows_and_those_of_others_stay(tmp_path: Path) -> None:
    path, first, later = tmp_path / "run.jsonl", turn(0), turn(1)
    with suppress(ZeroDivisionError), Journal(path) as journal:
        journal.add(*A, first)
        journal.add(*B, later)
        journal.settle([A])
        raise ZeroDivisionError
    assert left(path)[B] == [later]
    with Journal(path) as journal:
        journal.settle([A])
        assert journal.left == {B: [later]}, "an earlier process has turns whose case has no row yet"
        assert journal_of(path).stat().st_size > 0
        journal.settle([B])
        assert journal.left == {}
        assert journal_of(path).stat().st_size == 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("not json", "not JSON|Expecting value"),
        ("[]", "not a turn: no JSON object"),
        ('{"backend":"b","replicate":0,"work":"w"}', "not a turn: no field 'turn'"),
        ('{"backend":"b","replicate":0,"work":"w","turn":3}', "not a turn"),
        (
            '{"backend":"b","replicate":0,"work":"w","turn":{"round":0,"at_s":1,"time_s":0,"launches":1}}',
            "0 s",
        ),
        (
            '{"backend":"b","replicate":0,"work":"w","turn":{"round":0,"at_s":1,"time_s":NaN,"launches":1}}',
            "NaN",
        ),
    ],
)
def test_a_damaged_line_is_told_with_its_number_and_what_to_do(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "run.jsonl"
    written(path, (A, turn(0)))
    with journal_of(path).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(RowError, match=says) as raised, Journal(path):
        pass
    message = str(raised.value)
    assert message.startswith(f"{journal_of(path)}, line 2: ")
    assert message.endswith("; remove that file to go on without the turns in it")
    assert "\n" not in message


def test_a_journal_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    journal_of(tmp_path / "run.jsonl").mkdir()
    with pytest.raises(StoreError, match=r"run\.jsonl\.turns cannot be written: Is a directory"):
        Journal(tmp_path / "run.jsonl").__enter__()


FULL_DISK = """
import json, resource, signal, sys
from pathlib import Path
from membound.bench.run.journal import Journal
from membound.results.store import StoreError
from membound.results.turns import StoredTurn
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
kept = 0
try:
    with Journal(Path(sys.argv[1])) as journal:
        for number in range(100):
            journal.add("mine:cpu", 0, "w", StoredTurn(number, 1.0, 0.5, 1))
            kept += 1
except StoreError as error:
    print(error)
print(kept)
"""


@pytest.mark.parametrize("limit", [1, 1000, 1001])
def test_a_full_disk_keeps_the_turns_that_were_written(tmp_path: Path, limit: int) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "run.jsonl"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    message, kept = done.stdout.strip().split("\n")
    assert message.endswith("run.jsonl.turns cannot be written: File too large; the rows so far are kept")
    assert (int(kept) == 0) == (limit == 1)
    found = left(tmp_path / "run.jsonl")
    assert [t.round for turns in found.values() for t in turns] == list(range(int(kept)))
    lines = journal_of(tmp_path / "run.jsonl").read_text().splitlines()
    assert all(json.loads(line) for line in lines)
