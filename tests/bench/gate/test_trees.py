"""Commits as interpreters: found, built, told apart, kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from membound.bench.gate import trees
from membound.bench.gate.trees import (
    GateError,
    built,
    interpreter_script,
    resolve,
    working_tree,
    write_script,
)
from membound.bench.protocol.messages import PROTOCOL

PACKAGE = {
    "pyproject.toml": '[project]\nname = "membound"\n[project.entry-points."membound.backends"]\nmine = "m:B"\n',
    "src/membound/__init__.py": "",
    "src/membound/version.py": '__version__ = "9.9"\n',
    "src/membound/bench/worker.py": "",
    "src/membound/bench/protocol/messages.py": f"PROTOCOL = {PROTOCOL}\n",
}
SAYS = """
from importlib.metadata import entry_points, version
import os, membound, numpy
points = [e.name for e in entry_points(group="membound.backends") if e.dist.name == "membound"]
print(membound.__path__[0], version("membound"), points, os.environ["MEMBOUND_CACHE_DIR"], "PYTHONPATH" in os.environ)
print(os.environ["MEMBOUND_COMMIT"])
"""


def git(folder, *arguments):
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Two commits: one without a worker, and one of a small membound."""
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-b", "main")
    write(folder, {"README.md": "nothing yet"})
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    write(folder, PACKAGE)
    git(folder, "add", ".")
    git(folder, "commit", "-m", "second")
    return folder


def test_a_name_means_a_commit(repository):
    found = resolve("main", repository)
    assert len(found.hash) == 40
    assert str(found) == f"main ({found.hash[:10]})"
    assert str(resolve(found.hash[:12], repository)) == found.hash[:10]


@pytest.mark.parametrize("name", ["nothing", "", "-x", "main:README.md", "a b", "x" * 5000])
def test_what_is_no_commit_is_refused(repository, name):
    with pytest.raises(GateError, match="is no commit of this repository"):
        resolve(name, repository)


def test_without_a_repository_there_are_no_commits(tmp_path):
    with pytest.raises(
        GateError, match=r"^'old.jsonl' is no file with rows, and /.* is in no git repository"
    ):
        resolve("old.jsonl", tmp_path)
    with pytest.raises(GateError, match=r"^/.* is in no git repository"):
        working_tree(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("pyproject.toml", "[project", "names no entry points"),
        ("pyproject.toml", "[tool]", "names no entry points"),
        ("pyproject.toml", "project = 1", "names no entry points"),
        ("pyproject.toml", '[project.entry-points]\nmine = "m:B"', "names no entry points"),
        ("pyproject.toml", None, "cannot be read: No such file"),
        (
            "src/membound/__init__.py",
            "import atexit\natexit.register(print, 'bye')",
            "prints something.*: bye",
        ),
        ("src/membound/__init__.py", "import os\nos._exit(0)", "prints something.*: no reason given"),
    ],
)
def test_a_commit_that_no_environment_can_be_made_for_is_refused(repository, name, text, said):
    (repository / name).unlink()
    if text is not None:
        (repository / name).write_text(text)
    with pytest.raises(GateError, match=said):
        built(working_tree(repository), repository, None, lambda _: None)


def test_the_working_tree_is_taken_with_its_changes(repository):
    assert working_tree(repository).hash == resolve("HEAD", repository).hash
    (repository / "src/membound/__init__.py").write_text("changed = True\n")
    found = working_tree(repository)
    assert found.hash != resolve("HEAD", repository).hash
    assert str(found).startswith("working tree (")
    tree = built(found, repository, None, lambda text: None)
    assert (tree.python.parent / "tree/src/membound/__init__.py").read_text() == "changed = True\n"
    assert (repository / "src/membound/__init__.py").read_text() == "changed = True\n"


def test_a_commit_runs_its_own_membound_with_the_packages_of_this_environment(repository, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3] / "src"))
    said: list[str] = []
    tree = built(resolve("main", repository), repository, None, said.append)
    assert tree.protocol == PROTOCOL
    assert said == [f"making an environment for {tree.commit}"]
    out = subprocess.run(
        [tree.python, "-P", "-c", SAYS], capture_output=True, text=True, check=True, cwd=repository
    ).stdout
    home = tree.python.parent
    assert out.split() == [
        str(home / "tree/src/membound"),
        "9.9",
        "['mine']",
        str(home / "cache"),
        "False",
        tree.commit.hash,  # what rows name: the tree is no repository
    ]
    again = built(resolve("main", repository), repository, None, said.append)
    assert again.python == tree.python
    assert len(said) == 1


def test_a_half_made_environment_is_made_again(repository):
    commit = resolve("main", repository)
    tree = built(commit, repository, None, lambda text: None)
    home = tree.python.parent
    (home / trees.MARKER).unlink()
    (home / "environment/pyvenv.cfg").unlink()
    assert built(commit, repository, None, lambda text: None) == tree
    assert (home / "environment/pyvenv.cfg").is_file()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (trees.MARKER, b""),
        (trees.MARKER, b'{"package": "/x"'),
        (trees.MARKER, b'{"protocol": "4"}'),
        (trees.MARKER, b"[3]"),
        (trees.INTERPRETER, None),
        (Path("tree") / trees.WORKER, None),
    ],
)
def test_a_damaged_environment_is_made_again(repository, name, content):
    """Of a disk that was full, or a cleaner of old files."""
    commit = resolve("main", repository)
    tree = built(commit, repository, None, lambda text: None)
    path = tree.python.parent / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    said: list[str] = []
    assert built(commit, repository, None, said.append) == tree
    assert said == [f"making an environment for {commit}"]
    assert path.stat().st_size > 0 or content is None


def test_a_commit_that_is_no_membound_is_refused(repository):
    with pytest.raises(GateError, match=r"has no src/membound/bench/worker\.py"):
        built(resolve("main~1", repository), repository, None, lambda text: None)


def test_a_commit_that_cannot_be_imported_is_refused_with_its_words(repository):
    write(repository, {"src/membound/__init__.py": "import no_such_module_at_all\n"})
    git(repository, "commit", "-am", "broken")
    with pytest.raises(
        GateError, match=r"main .* cannot be imported: .*No module named 'no_such_module_at_all'"
    ):
        built(resolve("main", repository), repository, None, lambda text: None)


def test_a_commit_from_before_the_protocol_has_none(repository):
    git(repository, "rm", "src/membound/bench/protocol/messages.py")
    git(repository, "commit", "-m", "older")
    assert built(resolve("main", repository), repository, None, lambda text: None).protocol is None


def test_with_extras_the_commit_is_installed_by_its_own_pins(repository, monkeypatch):
    """pip is asked for the tree with its extras under its constraints; here it says no."""
    write(repository, {"constraints.txt": "numpy==0.0.0\n"})
    git(repository, "add", ".")
    git(repository, "commit", "-m", "pins")
    asked: list[list[str]] = []
    real = trees._run

    def run(command, failure):
        asked.append(list(map(str, command)))
        return "" if "-m" in command and "venv" in command else real(["false"], failure)

    monkeypatch.setattr(trees, "_run", run)
    with pytest.raises(GateError, match="it cannot be installed"):
        built(resolve("main", repository), repository, "torch,test", lambda text: None)
    made, install = asked
    assert "--without-pip" not in made
    home = Path(made[-1]).parent
    assert install[-3:] == ["-c", str(home / "tree/constraints.txt"), f"{home / 'tree'}[torch,test]"]


def test_only_the_last_environments_are_kept(repository, monkeypatch):
    monkeypatch.setattr(trees, "KEPT", 1)
    first = built(resolve("main", repository), repository, None, lambda text: None)
    os.utime(first.python.parent / trees.MARKER, (1, 1))
    git(repository, "commit", "--allow-empty", "-m", "third")
    second = built(resolve("main", repository), repository, None, lambda text: None)
    assert not first.python.exists()
    assert second.python.exists()


def test_of_two_gates_that_tidy_up_at_once_neither_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "KEPT", 1)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / trees.MARKER).touch()
    glob = Path.glob

    def globbed(folder, pattern):
        found = list(glob(folder, pattern))
        (tmp_path / "a" / trees.MARKER).unlink()
        return iter(found)

    monkeypatch.setattr(Path, "glob", globbed)
    trees._drop_old(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_interpreter_passes_arguments_and_variables_on(tmp_path, monkeypatch):
    monkeypatch.setenv("GOES", "1")
    script = interpreter_script(sys.executable, {"SET": "two words; $HOME"}, ("GOES",))
    path = write_script(tmp_path / "a folder", script)
    code = "import os, sys; print(os.environ['SET'], 'GOES' in os.environ, sys.argv[1:])"
    out = subprocess.run([path, "-c", code, "a b", "*"], capture_output=True, text=True, check=True).stdout
    assert out == "two words; $HOME False ['a b', '*']\n"
