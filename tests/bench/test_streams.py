"""Standard streams that are closed, full, or open for reading alone: exit statuses, output and rows stay what they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rows import case, ceiling, write

from membound.results.store import load_rows

BAD = ["2>/dev/full", "2>&-", "2</dev/null", "2>&- <&-"]
"""What a shell does to standard error; the third is what bash leaves of it, closed, to a command within a script."""


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "a.jsonl", [ceiling("read", 11e9, "bytes/s"), case("a:cpu")])


def test_a_warning_that_standard_error_cannot_take_changes_nothing(file: Path) -> None:
    """One run is compared with itself, which is warned of: a traceback and status 1 before."""
    line = f"exec {sys.executable} -m membound compare {file} {file}"
    usual = shell(line)
    assert usual.returncode == 0
    assert "the same run" in usual.stderr
    done = shell(f"{line} 2>/dev/full")
    assert (done.returncode, done.stdout) == (0, usual.stdout)


@pytest.mark.parametrize("redirection", [*BAD, ">/dev/full 2>/dev/full", ">&- 2>/dev/full", "<&- >&- 2>&-"])
def test_a_refusal_that_nobody_can_read_is_one_all_the_same(redirection: str, tmp_path: Path) -> None:
    """Status 1 would say that a case failed, or that a gate found something."""
    done = shell(f"exec {sys.executable} -m membound show {tmp_path}/nothing {redirection}")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_no_file_gets_the_number_of_a_stream_that_is_closed(tmp_path: Path) -> None:
    """What a library prints to streams 1 and 2 by number would stand between the rows."""
    code = (
        "import os, sys\nfrom membound.bench.streams import opened\nclosed = opened()\n"
        "rows = open('rows', 'w')\nfor number in (1, 2):\n os.write(number, b'from C')\n"
        "print(closed, rows.fileno() > 2, [os.get_inheritable(n) for n in range(3)], file=open('told', 'w'))"
    )
    done = subprocess.run(
        ["bash", "-c", f'exec {sys.executable} -c "$0" <&- >&- 2>&-', code], cwd=tmp_path, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "told").read_text() == "True True [True, True, True]\n"
    assert (tmp_path / "rows").read_bytes() == b""


def test_standard_error_is_what_it_was_where_it_takes_text(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "membound", "show", str(file.parent / "\u00e4")],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"membound: ")
    assert done.stderr.count(b"\n") == 1
    assert rb"\xe4" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [BAD[0], BAD[3]])
def test_a_run_whose_progress_nobody_can_read_is_measured(redirection: str, tmp_path: Path) -> None:
    """Before, it ended without a word and with status 1 where it began to measure."""
    out = tmp_path / "out"
    options = f"--quick --no-ceilings --backends numpy --json --out {out} {redirection}"
    done = shell(f"exec {sys.executable} -m membound run linear:n=64,k=64,m=1,weight=f32 {options}")
    assert done.returncode == 0
    assert [row["status"] for row in json.loads(done.stdout)] == ["ok"]
    (path,) = out.iterdir()
    assert [row.status for row in load_rows(path)] == ["ok"]
