"""What a worker has started, and its temporary files, end with it and with the harness, whichever signal that gets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from processes import comes_true

from membound.bench.protocol import guardian
from membound.bench.protocol.guardian import end_marked
from membound.bench.protocol.messages import PROTOCOL, Hello, encode
from membound.bench.protocol.process import Worker

WORKER = """#!/bin/sh
mkdir "$TMPDIR/left" && echo a model >"$TMPDIR/left/model"
sleep 1000 & echo $! >>{pids}
setsid sleep 1000 & echo $! >>{pids}
(setsid sh -c 'echo $$ >>{pids}; exec sleep 1000' &)
trap "" TERM HUP INT
echo '{hello}'
exec cat >/dev/null
"""
HARNESS = """
import sys, time
from membound.bench.protocol.process import Worker
with Worker(1, sys.argv[1]) as worker:
    worker.greet()
    print("ready", flush=True)
    time.sleep(100)
"""


def python(folder: Path) -> tuple[str, Path]:
    """An interpreter whose worker starts children of three kinds, and the file with their numbers."""
    path, pids = folder / "python", folder / "pids"
    path.write_text(WORKER.format(pids=pids, hello=encode(Hello("3", PROTOCOL), 0)))
    path.chmod(0o755)
    return str(path), pids


def children(pids: Path) -> list[int]:
    """The numbers of the three, once all are there."""
    assert comes_true(lambda: pids.exists() and len(pids.read_text(encoding="utf-8").split()) == 3)
    found = list(map(int, pids.read_text(encoding="utf-8").split()))
    assert all(map(alive, found))
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def homeless(temporary: Path) -> dict[str, str]:
    """An environment with that folder for temporary files, and without one where kernels could be kept."""
    temporary.mkdir()
    none = {"HOME": "/proc/none", "XDG_CACHE_HOME": "", "MEMBOUND_CACHE_DIR": "", "TMPDIR": str(temporary)}
    return os.environ | none


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGABRT", "SIGSEGV"])
def test_all_that_a_worker_started_ends_with_the_harness(tmp_path: Path, name: str) -> None:
    interpreter, pids = python(tmp_path)
    temporary = tmp_path / "temporary"
    harness = subprocess.Popen(
        [sys.executable, "-c", HARNESS, interpreter],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=homeless(temporary),
        text=True,
    )
    assert harness.stdout is not None
    with harness:
        assert harness.stdout.readline() == "ready\n"
        found = children(pids)
        assert len(list(temporary.glob("membound-*/*/left/model"))) == 1
        assert len(list(temporary.glob("membound-*/kernels"))) == 1
        harness.send_signal(getattr(signal, name))
        harness.wait(20)
    assert comes_true(lambda: not any(map(alive, found))), found
    assert comes_true(lambda: not any(temporary.iterdir())), [*temporary.rglob("*")]


def test_whoever_kills_the_harness_and_its_children_does_not_find_the_guardian(tmp_path: Path) -> None:
    """As Ray does with the processes that it ends."""
    interpreter, pids = python(tmp_path)
    temporary = tmp_path / "temporary"
    command = [sys.executable, "-c", HARNESS, interpreter]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=homeless(temporary), text=True) as harness:
        assert harness.stdout is not None
        assert harness.stdout.readline() == "ready\n"
        found = children(pids)
        for child in psutil.Process(harness.pid).children():
            child.kill()
        harness.kill()
    assert comes_true(lambda: not any(map(alive, found))), found
    assert comes_true(lambda: not any(temporary.iterdir())), [*temporary.rglob("*")]


def test_all_that_a_worker_started_ends_with_it(tmp_path: Path) -> None:
    """Closed in order or not, and whoever died first."""
    for kill in (False, True):
        (tmp_path / str(kill)).mkdir()
        interpreter, pids = python(tmp_path / str(kill))
        with Worker(1, interpreter) as worker:
            worker.greet()
            found = children(pids)
            scratch = Path(worker._scratch.name)
            assert (scratch / "left/model").read_text(encoding="utf-8") == "a model\n"
            if kill:
                os.kill(worker.pid, signal.SIGKILL)
                assert comes_true(lambda: not any(map(alive, found)))  # noqa: B023
        assert comes_true(lambda: not any(map(alive, found))), found  # noqa: B023
        assert not scratch.exists()


def test_threads_that_start_workers_at_once_share_a_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []

    def slow(*_: object, **__: object) -> None:
        started.append(None)
        time.sleep(0.1)
        raise OSError

    monkeypatch.setattr(guardian.subprocess, "Popen", slow)
    guardian._guarded.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        marks = {one.result() for one in [pool.submit(guardian.harness_mark) for _ in range(4)]}
    guardian._guarded.cache_clear()
    assert len(marks) == len(started) == 1


def test_folders_are_removed_whoever_made_them_and_links_are_not_followed(tmp_path: Path) -> None:
    """By a guardian whose harness has just ended."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made/file").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "made/link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "kept/file").touch()
    told = b"".join(os.fsencode(tmp_path / name) + b"\0" for name in ("made", "link", "gone"))
    command = [sys.executable, "-I", "-S", guardian.__file__, "no such mark"]
    done = subprocess.run(command, input=told + b"/cut off", capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "kept", "link"]


def test_only_those_that_carry_the_mark_are_ended() -> None:
    environment = os.environ | {"MEMBOUND_TEST": "one"}
    mine = subprocess.Popen(["sleep", "100"], env=environment, start_new_session=True)
    another = subprocess.Popen(["sleep", "100"], env=environment | {"MEMBOUND_TEST": "one more"})
    try:
        time.sleep(0.1)  # until the new programs run, whose environments these are
        assert end_marked("MEMBOUND_TEST", "one") == 1
        assert mine.wait(10) == -signal.SIGKILL
        assert another.poll() is None
        assert end_marked("MEMBOUND_TEST", "one") == 0
    finally:
        another.kill()
        another.wait()


def test_a_harness_that_ends_leaves_no_file_open() -> None:
    code = "from membound.bench.protocol.guardian import scratch_folder; scratch_folder()"
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code], capture_output=True, check=True
    )
    assert done.stderr == b""
