"""A stored line of which a bit has changed is refused, or reads the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from flips import unnoticed
from rows import case

from membound.results.checksum import sealed, unsealed
from membound.results.row import RowError
from membound.results.store import RunWriter, load_rows


def test_no_flipped_bit_is_read_as_another_value(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with RunWriter(path) as writer:
        for number in range(3):
            writer.append(case(replicate=number))
    assert unnoticed(path, RowError, lambda: load_rows(path), range(1, 3), 5) == []


def test_lines_of_older_files_have_no_checksum(tmp_path: Path) -> None:
    rows = [case(replicate=number) for number in range(3)]
    path = tmp_path / "run.jsonl"
    path.write_text("".join(f"{r.to_json()}\n" for r in rows))
    assert load_rows(path) == rows
    assert unsealed(sealed(b'{"a":1}')) == b'{"a":1}'
    with pytest.raises(ValueError, match="has changed since it was written"):
        unsealed(sealed(b'{"a":1}').replace(b"1}", b"2}").replace(b'"a":1', b'"a":2'))
