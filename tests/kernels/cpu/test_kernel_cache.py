"""The folder of the kernel cache: one of others is refused, none at all is no fault, and neither is one without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import no_locks
import pytest

from membound.bench import cli
from membound.kernels.cpu import kernel_cache
from membound.kernels.cpu.kernel_cache import (
    RUNTIMES,
    CacheRefused,
    cache_base,
    cache_folder,
    private_folder,
    runtime_caches,
)
from membound.results.store import RunWriter, StoreError, load_rows


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Each test has a choice of its own."""
    cache_folder.cache_clear()
    yield
    cache_folder.cache_clear()


# Folders of others


def test_folders_are_made_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(tmp_path / "a" / "b"))
    before = os.umask(0)
    try:
        folder = cache_folder()
    finally:
        os.umask(before)
    assert folder.parent == tmp_path / "a" / "b" / "kernels"
    assert folder.is_dir()
    assert {path.stat().st_mode & 0o777 for path in (folder, *list(folder.parents)[:3])} == {0o700}


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
@pytest.mark.parametrize("where", ["", "kernels"])
def test_a_folder_that_others_may_write_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: int,
    where: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    base = private_folder(tmp_path / "cache")
    folder = private_folder(base / where) if where else base
    folder.chmod(mode)
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(base))
    with pytest.raises(SystemExit) as ended:
        cli.main(["list"])
    _, err = capsys.readouterr()
    assert ended.value.code == 2
    assert err.count("\n") == 1
    assert f"others may write to the cache folder {folder}" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = private_folder(tmp_path / "cache")
    os.chown(base, 65534, 65534)
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(base))
    with pytest.raises(CacheRefused, match="belongs to user 65534"):
        cache_folder()


# What leads there


def refusal(path: Path) -> str:
    """What is said of a cache folder there, or ''."""
    try:
        assert private_folder(path) == path
    except CacheRefused as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("mode", "refused"), [(0o755, False), (0o777, True), (0o757, True), (0o1777, False), (0o700, False)]
)
def test_nobody_may_put_another_in_its_place(anywhere: Path, mode: int, refused: bool) -> None:
    private_folder(anywhere / "open")
    for above in ("open", "open/mine"):
        (anywhere / "open").chmod(0o755)
        folder = private_folder(anywhere / above / "cache")
        (anywhere / "open").chmod(mode)
        told = refusal(folder)
        assert bool(told) == refused
        if refused:
            assert f"may write to {anywhere / 'open'}, and what lies there is run as code" in told
            assert f"the place of the cache folder {folder}," in told


def test_whoever_is_alone_may_say_so(anywhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume of a container is root's and open to all, which a user there cannot change."""
    folder = private_folder(anywhere / "open" / "cache")
    (anywhere / "open").chmod(0o777)
    assert "or MEMBOUND_CACHE_TRUSTED=1 where nobody else works" in refusal(folder)
    monkeypatch.setenv("MEMBOUND_CACHE_TRUSTED", "1")
    assert refusal(folder) == ""
    folder.chmod(0o777)
    assert "others may write to the cache folder" in refusal(folder)


@pytest.mark.parametrize("group", [12345, 0, os.geteuid()])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to any group")
def test_a_group_is_others_unless_it_is_this_users_alone(anywhere: Path, group: int) -> None:
    folder = private_folder(anywhere / "open" / "cache")
    os.chown(anywhere / "open", -1, group)
    (anywhere / "open").chmod(0o775)
    assert bool(refusal(folder)) == (group == 12345)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_owner_of_what_lies_in_a_sticky_folder_may_rename_it(anywhere: Path) -> None:
    folder = private_folder(anywhere / "sticky" / "theirs" / "cache")
    (anywhere / "sticky").chmod(0o1777)
    assert refusal(folder) == ""
    os.chown(anywhere / "sticky" / "theirs", 65534, 65534)
    assert f"may write to {anywhere / 'sticky'}," in refusal(folder)


def test_a_link_is_as_safe_as_where_it_lies_and_where_it_leads(anywhere: Path) -> None:
    mine, shared = private_folder(anywhere / "mine"), private_folder(anywhere / "shared")
    for name, to in (("far", shared / "cache"), ("near", Path("../shared/cache"))):
        (mine / name).symlink_to(to)
    (shared / "link").symlink_to(mine)
    private_folder(shared / "cache")
    for mode, refused in ((0o755, False), (0o777, True), (0o1777, False)):
        shared.chmod(mode)
        for path in (mine / "far", mine / "near", shared / "link" / "cache"):
            assert (f"may write to {shared}," in refusal(path)) == refused, path
    (shared / "cache").chmod(0o777)
    assert f"others may write to the cache folder {mine / 'far'}," in refusal(mine / "far")


def test_what_others_may_not_enter_is_out_of_their_reach(anywhere: Path) -> None:
    folder = private_folder(anywhere / "closed" / "open" / "cache")
    folder.parent.chmod(0o777)
    assert refusal(folder) == ""
    (anywhere / "closed").chmod(0o711)
    assert f"may write to {folder.parent}," in refusal(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_others_have_closed_they_may_open(anywhere: Path) -> None:
    folder = private_folder(anywhere / "theirs" / "open" / "cache")
    folder.parent.chmod(0o777)
    assert refusal(folder) == ""
    os.chown(anywhere / "theirs", 65534, 65534)
    assert f"may write to {folder.parent}," in refusal(folder)


def test_one_for_this_run_alone_is_held_to_the_same(anywhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anywhere.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(anywhere))
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", "/proc/none")
    with pytest.raises(CacheRefused, match=f"may write to {anywhere},"):
        cache_base()
    assert os.environ["MEMBOUND_CACHE_DIR"] == "/proc/none"


# Runtimes'


@pytest.mark.parametrize(
    ("variable", "name"), [("TORCHINDUCTOR_CACHE_DIR", "torchinductor"), ("TRITON_CACHE_DIR", "triton")]
)
def test_caches_of_runtimes_are_held_to_the_same(
    anywhere: Path, monkeypatch: pytest.MonkeyPatch, variable: str, name: str
) -> None:
    for one in RUNTIMES:
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(anywhere / "cache"))
    assert runtime_caches()[variable] == str(anywhere / "cache" / name)
    monkeypatch.setenv(variable, "")
    assert runtime_caches()[variable] == str(anywhere / "cache" / name), "an empty variable names nothing"
    (anywhere / "cache" / name).chmod(0o777)
    with pytest.raises(CacheRefused, match=f"may write to the cache folder {anywhere / 'cache' / name},"):
        runtime_caches()
    monkeypatch.setenv(variable, str(anywhere / "own"))
    assert variable not in runtime_caches()
    private_folder(anywhere / "own").chmod(0o777)
    with pytest.raises(
        CacheRefused, match=f"may write to the cache folder {anywhere / 'own'}.*or set {variable} to a folder"
    ):
        runtime_caches()


@pytest.mark.parametrize(
    "variable", ["VLLM_CACHE_ROOT", "NUMBA_CACHE_DIR", "CUDA_CACHE_PATH", "TORCH_EXTENSIONS_DIR"]
)
def test_other_folders_of_code_that_the_user_names_are_looked_at(
    anywhere: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(anywhere / "cache"))
    monkeypatch.setenv(variable, str(private_folder(anywhere / "own")))
    assert variable not in runtime_caches()
    (anywhere / "own").chmod(0o777)
    with pytest.raises(CacheRefused, match=f"{anywhere / 'own'}.*or set {variable} to a folder"):
        runtime_caches()


def test_a_link_to_itself_is_followed_no_further(anywhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (anywhere / "loop").symlink_to("loop")
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(anywhere / "cache"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(anywhere / "loop"))
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        runtime_caches()


# None at all


@pytest.mark.parametrize("why", ["a file", "no home"])
def test_without_a_cache_one_is_made_for_the_workers_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "a file":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(tmp_path / "file" / "cache"))
    else:
        monkeypatch.setenv("MEMBOUND_CACHE_DIR", "")
        monkeypatch.setenv("XDG_CACHE_HOME", "")

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(kernel_cache.Path, "home", homeless)
    with pytest.warns(UserWarning, match=r"kernels are not kept.*set MEMBOUND_CACHE_DIR"):
        base = cache_base()
    assert os.environ["MEMBOUND_CACHE_DIR"] == str(base)
    assert cache_base() == base, "no second one"
    assert base.stat().st_mode & 0o777 == 0o700


# Locks


WITHOUT_LOCKS = """
import fcntl, sys
from pathlib import Path
from membound.bench.gate.trees import _locked
from membound.results.row import Row
from membound.results.store import RunWriter, load_rows
folder = Path(sys.argv[1])
try:
    fcntl.flock((folder / "lock").open("w"), fcntl.LOCK_EX)
except OSError as error:
    print(error.errno)
row = Row("r", "case", "fake:cpu", "linear:n=1", "ok", samples_s=[0.1])
with _locked(folder / "lock"), RunWriter(folder / "run.jsonl") as writer:
    writer.append(row)
print(load_rows(folder) == [row])
"""


def without_locks(number: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python for which flock fails with that errno, and whatever it starts."""
    command = [sys.executable, str(Path(no_locks.__file__)), str(number), sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if "OSError" in done.stderr and "prctl" in done.stderr:
        pytest.skip("the kernel allows no filters here")
    return done


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_keeps_rows(tmp_path: Path, number: int) -> None:
    done = without_locks(number, "-c", WITHOUT_LOCKS, str(tmp_path))
    assert done.stdout.split() == [str(number), "True"], done.stderr


@pytest.mark.slow
def test_a_run_on_a_file_system_without_locks(tmp_path: Path) -> None:
    """Kernels are compiled into the cache, rows and turns are written."""
    work, options = "linear:n=256,k=512,m=1,weight=f32", ("--quick", "--no-ceilings", "--replicates", "1")
    done = without_locks(
        errno.ENOLCK, "-m", "membound", "run", work, "-b", "numba", *options, "--out", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert [row.status for row in load_rows(tmp_path)] == ["ok"]


def test_another_error_of_a_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(StoreError, match="cannot be written: Input/output error"),
        RunWriter(tmp_path / "r.jsonl"),
    ):
        pass
