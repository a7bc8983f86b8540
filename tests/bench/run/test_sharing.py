"""Memory for inputs that processes share: it has no name, it needs no /dev/shm, and it is gone at its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import shared_arrays
from shared_arrays import SIZE, bytes_of, exchange, open_files, take

from membound.bench.run.sharing import ALONE, NO_ROOM, Sharing
from membound.kernels.weights.array_file import FIRST
from membound.kernels.weights.making import Making

GB = 10**9


def test_what_is_offered_is_there_for_all_and_gone_at_its_end() -> None:
    notes, before = list[str](), open_files()
    offered = Sharing(notes.append)
    assert offered.path == ""
    offered.begin(20 << 20, GB)
    assert offered.due_bytes == pytest.approx(20 << 20, rel=0.02)
    exchange(offered)
    assert offered.due_bytes == pytest.approx((20 << 20) - SIZE, rel=0.02)
    with Making(offered.path) as late:
        offered.end()
        assert offered.path == ""
        assert offered.due_bytes == 0
        made = [bytes_of("a")]
        assert take(late, "a", lambda: made) is made[0]
        assert late.unshared == ""
    assert open_files() == before
    assert notes == []


def test_the_next_group_finds_nothing_of_the_last() -> None:
    offered = Sharing(print)
    for _ in range(2):
        offered.begin(20 << 20, GB)
        exchange(offered)
    offered.end()


@pytest.mark.parametrize("how", ["refused", "unknown"])
def test_where_memory_has_no_files_without_a_name_one_on_disk_is_used_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    forbid_memory(monkeypatch, how, tmp_path)
    notes = list[str]()
    offered = Sharing(notes.append)
    offered.begin(20 << 20, GB)
    exchange(offered)
    (target,) = (name for name in open_files() if name.startswith(str(tmp_path)))
    assert target.endswith(" (deleted)")
    assert list(tmp_path.iterdir()) == []
    offered.end()
    assert notes == [
        f"inputs that backends share go through a file in {tmp_path}: this system has no memory without a name"
    ]


def forbid_memory(monkeypatch: pytest.MonkeyPatch, how: str, folder: Path) -> None:
    """No file in memory, as another system or a filter of system calls has it."""

    def refuse(name: str, flags: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    if how == "unknown":
        monkeypatch.delattr(os, "memfd_create")
    else:
        monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


def test_where_the_disk_has_no_room_either_each_makes_its_own_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_memory(monkeypatch, "refused", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(GB, GB, 39 << 20))
    notes, before = list[str](), open_files()
    offered = Sharing(notes.append)
    offered.begin(20 << 20, GB)
    assert offered.path == ""
    assert open_files() == before
    assert notes == [f"{ALONE}: no memory can be shared ({tmp_path} has no room for it)"]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(GB, GB, 41 << 20))
    offered.begin(20 << 20, GB)
    assert offered.path
    offered.end()


def test_where_memory_has_no_room_nothing_is_written_anywhere(tmp_path: Path) -> None:
    notes, before = list[str](), open_files()
    offered = Sharing(notes.append)
    offered.begin(20 << 20, 20 << 20)
    assert (offered.path, offered.due_bytes, open_files()) == ("", 0, before)
    assert notes == [NO_ROOM]
    offered.begin(20 << 20, (20 << 20) + FIRST)
    assert offered.path
    offered.give_way()
    offered.give_way()
    assert (offered.path, notes) == ("", [NO_ROOM] * 2)


def test_where_open_files_cannot_be_named_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sharing, "path", "/nowhere/fd/9")
    notes = list[str]()
    Sharing(notes.append).begin(20 << 20, GB)
    assert notes == [f"{ALONE}: no memory can be shared (No such file or directory)"]


SMALL_SHM = """
import os
from shared_arrays import exchange
from membound.bench.run.sharing import Sharing
assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 1 << 20
offered = Sharing(print)
offered.begin(20 << 20, 10**9)
exchange(offered)
offered.end()
print(os.listdir("/dev/shm"))
"""


def test_a_small_dev_shm_limits_nothing(tmp_path: Path) -> None:
    """Containers have one of 64 MB."""
    script = tmp_path / "script.py"
    script.write_text(SMALL_SHM, encoding="utf-8")
    mount = 'mount -t tmpfs -o size=1m none /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root alone")
    paths = [str(Path(shared_arrays.__file__).parent), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [*command, sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
