import json
import os
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from membound.results.row import SCHEMA_VERSION, Row, RowError
from membound.results.store import RunWriter, StoreError, load_rows, new_run_id, new_run_path


def row(number: int, **fields: object) -> Row:
    samples = [random.random() for _ in range(3)]
    return Row("r", "case", "fake:cpu", f"linear:n={number}", "ok", samples_s=samples, **fields)  # type: ignore[arg-type]


def written(path: Path, rows: list[Row]) -> Path:
    with RunWriter(path) as writer:
        for r in rows:
            writer.append(r)
    return path


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [row(i, reason="ümlaut\n√") for i in range(5)]
    path = written(tmp_path / "run.jsonl", rows)
    assert load_rows(path) == rows
    assert load_rows(str(tmp_path)) == rows
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.jsonl"]


def test_each_row_is_readable_before_the_run_is_finished(tmp_path: Path) -> None:
    rows = [row(i) for i in range(3)]
    with RunWriter(tmp_path / "run.jsonl") as writer:
        for i, r in enumerate(rows):
            writer.append(r)
            assert load_rows(tmp_path) == rows[: i + 1]
            assert not writer.path.exists()
        assert writer.finish() == writer.finish() == tmp_path / "run.jsonl"
        with pytest.raises(StoreError, match="finished"):
            writer.append(row(9))
    assert load_rows(tmp_path) == rows


def append_and_raise(path: Path, kept: Row, error: type[BaseException]) -> None:
    with RunWriter(path) as writer:
        writer.append(kept)
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_leaves_the_partial_file(tmp_path: Path, error: type[BaseException]) -> None:
    kept = row(1)
    with pytest.raises(error):
        append_and_raise(tmp_path / "run.jsonl", kept, error)
    assert [p.name for p in tmp_path.iterdir()] == ["run.jsonl.partial"]
    assert load_rows(tmp_path) == [kept]


def test_a_torn_last_line_is_dropped_at_every_byte(tmp_path: Path) -> None:
    rows = [row(1), row(3, reason="√")]
    content = written(tmp_path / "whole.jsonl", rows).read_bytes()
    torn = tmp_path / "torn.jsonl.partial"
    for size in range(len(content) + 1):
        torn.write_bytes(content[:size])
        lines = content[:size].count(b"\n")
        only_newline_lost = content[size : size + 1] == b"\n"
        assert load_rows(torn) == rows[: lines + only_newline_lost], size
        assert torn.read_bytes() == content[:size], "loading changes nothing"


@pytest.mark.parametrize("damage", [b"{}", b"garbage", b'{"schema_version":1}', b"\xff\xfe", b"[1]"])
def test_a_corrupt_line_is_named(tmp_path: Path, damage: bytes) -> None:
    good = row(1).to_json().encode()
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"\n".join([good, damage, good, b""]))
    with pytest.raises(RowError, match=rf"^{path}, line 2: ."):
        load_rows(path)
    path.write_bytes(b"\n".join([good, good, damage, b""]))
    with pytest.raises(RowError, match="line 3"):
        load_rows(path)


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_newer_schema_is_refused_even_in_the_last_line(tmp_path: Path, end: str) -> None:
    newer = (
        row(2)
        .to_json()
        .replace(f'"schema_version":{SCHEMA_VERSION}', f'"schema_version":{SCHEMA_VERSION + 1}')
    )
    path = tmp_path / "run.jsonl"
    path.write_text(row(1).to_json() + "\n" + newer + end)
    with pytest.raises(RowError, match="line 2: written by a newer membound"):
        load_rows(path)
    assert newer in path.read_text()


def test_a_last_line_without_newline_counts_if_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(row(1).to_json())
    assert len(load_rows(path)) == 1
    path.write_text("")
    assert load_rows(path) == []


def test_missing_paths_and_taken_names_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no such run: .*nowhere"):
        load_rows(tmp_path / "nowhere")
    path = written(tmp_path / "run.jsonl", [row(1)])
    with pytest.raises(StoreError, match="exists already"), RunWriter(path):
        pass
    (tmp_path / "other.jsonl.partial").touch()
    with pytest.raises(StoreError, match=r"other\.jsonl\.partial cannot be written: File exists"):
        RunWriter(tmp_path / "other.jsonl").__enter__()
    assert issubclass(StoreError, OSError)


def test_an_unwritable_folder_is_told_before_a_run(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(
        StoreError,
        match=r"results folder .*file/runs cannot be made: Not a directory; name another with --out",
    ):
        new_run_path(blocked / "runs", "r")
    assert new_run_path(tmp_path / "a/b", "r") == tmp_path / "a/b/r.jsonl"
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(StoreError, match="not writable"):
            new_run_path(tmp_path, "r")


def test_run_ids_sort_by_time_and_name_the_processor() -> None:
    then = datetime(2026, 11, 21, 22, 15, 1, tzinfo=UTC)
    first = new_run_id("Intel(R) Xeon(R) Platinum 8581C CPU @ 2.10GHz", then)
    assert first[:-4] == "20261121T221501-intel-xeon-platinum-8581c-"
    assert int(first[-4:], 16) >= 0
    assert new_run_id("AMD EPYC 9654 96-Core Processor", then)[:-5] == "20261121T221501-amd-epyc-9654"
    assert new_run_id("", then)[:-5] == "20261121T221501-unknown"
    assert len({new_run_id("x", then) for _ in range(50)}) > 40


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from membound.results.row import Row
from membound.results.store import RunWriter, StoreError, load_rows
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
made = [Row("r", "case", "b", f"w{i}", "ok", samples_s=[0.125] * 40) for i in range(50)]
small = Row("r", "case", "b", "s", "ok")
path, kept = Path(sys.argv[1]), 0
try:
    with RunWriter(path) as writer:
        for row in made:
            writer.append(row)
            kept += 1
except StoreError as error:
    print(error)
assert load_rows(path.parent) == made[:kept], kept
print(kept)
"""


@pytest.mark.parametrize("limit", [1, 5000, 5001])
def test_a_full_disk_keeps_what_was_written(tmp_path: Path, limit: int) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "run.jsonl"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    message, kept = done.stdout.strip().split("\n")
    assert message.endswith("cannot be written: File too large; the rows before this one are kept")
    assert 0 <= int(kept) < 50
    assert (int(kept) == 0) == (limit == 1)
    assert (tmp_path / "run.jsonl.partial").read_bytes()[-1:] in (b"\n", b"")


def test_a_row_of_the_first_schema_is_brought_to_this_one() -> None:
    old = json.loads(row(8).to_json())
    for name in ("device_samples_s", "timed_launches", "accelerator", "memory_ceiling"):
        del old[name]
    new = Row.from_json(json.dumps(old | {"schema_version": 1}))
    assert new.schema_version == SCHEMA_VERSION
    assert (new.device_samples_s, new.timed_launches, new.accelerator, new.memory_ceiling) == (
        [],
        0,
        {},
        "read",
    )
    assert new.samples_s == old["samples_s"]


# Lines that are not what was written


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    line = row(1).to_json()
    with pytest.raises(RowError, match="the key 'reason' stands twice"):
        Row.from_json(f'{line[:-1]},"reason":"another"}}')


def test_a_case_above_its_tolerance_is_wrong_whoever_says_that_it_is_ok(tmp_path: Path) -> None:
    (found,) = load_rows(written(tmp_path / "run.jsonl", [row(1, error=1.0, tolerance=1e-4)]))
    assert (found.status, found.reason) == ("wrong", "error 1 above the tolerance of 0.0001")
    (found,) = load_rows(written(tmp_path / "good.jsonl", [row(1, error=1e-4, tolerance=1e-4)]))
    assert found.status == "ok"


def test_copies_count_once_by_what_they_hold(tmp_path: Path) -> None:
    """The same file twice, a copy of it elsewhere, one that has more rows, one that was put together from both."""
    rows = [row(i) for i in range(3)]
    path = written(tmp_path / "a.jsonl", rows[:2])
    (tmp_path / "copies").mkdir()
    content = path.read_bytes()
    (tmp_path / "copies/b.jsonl.partial").write_bytes(content[: content.index(b"\n") + 1])
    (tmp_path / "copies/c.jsonl").write_bytes(content + content)
    written(tmp_path / "copies/d.jsonl", rows)
    with pytest.warns(UserWarning, match="count once") as told:
        assert load_rows([path, path, tmp_path / "copies"]) == rows
    assert [str(w.message).replace(str(tmp_path), "") for w in told] == [
        "/a.jsonl holds nothing but 2 rows that were read before: they count once",
        "/copies/b.jsonl.partial holds nothing but 1 rows that were read before: they count once",
        "/copies/c.jsonl holds nothing but 4 rows that were read before: they count once",
        "/copies/d.jsonl holds also 2 rows that were read before: they count once",
    ]
