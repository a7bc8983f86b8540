"""The table of passes: on disk line by line, and refused by its name where there is no room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from membound.bench.soak.log import Log
from membound.results.soak.reading import Pass, Reading
from membound.results.store import StoreError

PASS = Pass("a-run", 1.5, 4, 4, 0, 0, {}, Reading(1 << 20, 10, 3, 0, 0, 5))


def test_a_line_is_on_disk_when_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "soak" / "passes.csv"
    with Log(path) as log:
        log.write(PASS)
        assert path.read_text().splitlines() == [
            "run_id,seconds,expected,stored,twice,failed,resident_bytes,descriptors,threads,processes,temporary_files,cache_files",
            "a-run,1.5,4,4,0,0,1048576,10,3,0,0,5",
        ]
    with pytest.raises(StoreError, match=r"passes\.csv cannot be written: File exists"):
        Log(path)


def write_to_a_full_disk(path: Path) -> None:
    with Log(path) as log, open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), log._file.fileno())
        log.write(PASS)


def test_a_full_disk_is_said_by_the_name_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"passes\.csv cannot be written: No space left"):
        write_to_a_full_disk(tmp_path / "passes.csv")
