"""Limits of the system, as `ulimit` sets them, are called by their names where a library takes them for something else."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import no_locks
import pytest

CLONE3 = 435
"""The call that makes a thread, on every machine (asm-generic/unistd.h)."""
STARVED = f"""
import errno, sys
sys.path.insert(0, {str(Path(no_locks.__file__).parent)!r})
import no_locks
try:
    no_locks.refuse({CLONE3}, errno.EAGAIN)
except OSError:
    print("no filters")
    sys.exit(0)
from membound.__main__ import main
sys.argv[1:] = ["list"]
main()
"""


def test_openblas_without_threads_is_no_interrupt() -> None:
    """It sends its process what Ctrl-C does, as under `ulimit -u 1`, which root is free of."""
    done = subprocess.run([sys.executable, "-c", STARVED], check=False, capture_output=True, text=True)
    if done.stdout == "no filters\n":
        pytest.skip("the kernel allows no filters here")
    last = done.stderr.splitlines()[-1]
    assert last == "membound: no more threads can be started: raise `ulimit -u`, or the limit of a container"
    assert done.returncode == 2
    assert "interrupted" not in done.stderr


def test_a_limit_of_files_is_not_put_down_to_the_temporary_folder() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "membound", "list"],
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "membound: no file may be written: raise `ulimit -f`\n"
