"""The command line as a whole: help, what is imported, and what can happen to any command."""

import subprocess
import sys

import pytest
from cli_calls import SPEC
from rows import case, write

import membound

HEAVY = ("llvmlite", "numba", "onnx", "onnxruntime", "pandas", "scipy", "torch")

pytestmark = pytest.mark.usefixtures("folder")

# --help, --version, imports


def test_version(membound_):
    assert membound_("--version") == (0, f"membound {membound.__version__}\n", "")


@pytest.mark.parametrize("command", ["", "list", "coverage", "run", "show", "compare", "duel"])
def test_help_names_every_option(membound_, command):
    status, out, _ = membound_(*filter(None, [command]), "--help")
    assert status == 0
    assert "Usage: membound" in out
    if command:
        assert "--json" in out
        assert "--debug" in out


def test_help_and_import_load_nothing_heavy():
    code = f"""
import sys, membound
dir(membound), membound.__version__
from membound.bench import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0, end.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    for arguments in (["--help"], ["run", "--help"], ["--version"]):
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, timeout=60)


def test_list_loads_no_runtime_and_no_pandas(tmp_path):
    code = f"""
import sys
from membound.bench import cli
from membound.bench.planning import inventory
inventory.probe = lambda *a: []
try:
    cli.main(["list"])
except SystemExit as end:
    assert end.code == 0, end.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60, cwd=tmp_path)


@pytest.mark.parametrize("group", [[], ["env"]])
def test_no_arguments_show_the_help(membound_, group):
    status, out, err = membound_(*group)
    assert status in (0, 2)
    assert "Usage: membound" in out + err
    assert not [line for line in err.splitlines() if line.startswith("membound:")]


def test_an_unknown_command_is_refused(refused):
    assert "No such command 'frob'" in refused("frob")


def test_debug_shows_the_traceback_before_the_line(membound_):
    for arguments in (["show", "nope", "--debug"], ["--debug", "show", "nope"]):
        status, out, err = membound_(*arguments)
        assert (status, out) == (2, "")
        assert "Traceback (most recent call last)" in err
        assert err.splitlines()[-1].startswith("membound: no run 'nope'")


@pytest.mark.parametrize("command", [("show", "latest"), ("run", SPEC), ("compare", "a", "b")], ids=" ".join)
def test_a_deleted_current_folder_is_named(tmp_path, command):
    """The folder must go after Python has started: an interpreter itself may need it."""
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); from membound.bench.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=gone,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("; the current folder was deleted: change to one that is there\n")


def test_a_command_that_runs_out_of_memory_says_so(tmp_path):
    """A traceback and status 1 before. The file has holes: it takes no room on the disk."""
    path, huge = write(tmp_path / "a.jsonl", [case()]), tmp_path / "b.jsonl"
    with huge.open("wb") as file:
        file.truncate(1 << 30)
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom membound.bench import cli\n"
        f"cli._status(['show', {str(path)!r}], False)\n"  # which imports all that it takes
        "taken = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + (256 << 20),) * 2)\n"
        f"cli.main(['show', {str(huge)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "membound: there is not enough memory for this; what was measured before is kept\n",
    )


def test_a_command_that_gets_no_more_threads_says_so(tmp_path):
    """A traceback and status 1 under `ulimit -u 5`, which root is free of: here no thread has room for its stack."""
    code = (
        "import threading\nfrom membound.bench import cli\nthreading.stack_size(1 << 46)\n"
        f"cli.main(['list', '--out', {str(tmp_path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("membound: no more threads can be started: raise `ulimit -u`")
    assert done.stderr.count("\n") == 1
