"""A commit of membound as an interpreter that runs it: its tree, an environment for it, and caches of its own.

>>> tree = built(resolve("origin/main", Path(".")), Path("."), extras=None, tell=print)
>>> tree.python                                     # give it to `Options.pythons`
PosixPath('…/membound/gate/0f3a…/interpreter')

The tree is what `git archive` gives. Unless `extras` says to install the commit with its own pins, the environment holds
the packages of the one that runs this, and only membound differs. Finished ones are kept, the last KEPT of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shlex
import shutil
import site
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from membound.bench.machine.commit import VARIABLE as COMMIT_VARIABLE
from membound.bench.worker import COUNTS
from membound.errors import MemboundError
from membound.kernels.cpu.kernel_cache import RUNTIMES, VARIABLE, cache_base, private_folder
from membound.results.store import suppress_missing_locks

Tell = Callable[[str], None]

KEPT = 6
MARKER = "finished.json"
INTERPRETER = "interpreter"
WORKER = Path("src/membound/bench/worker.py")
"""What a tree of membound has."""
CHECK = """
import json, sys
import membound, membound.bench.worker
try:
    from membound.bench.protocol.messages import PROTOCOL
except ImportError:
    PROTOCOL = None
print(json.dumps({"package": membound.__path__[0], "protocol": PROTOCOL}))
"""


class GateError(MemboundError):
    """Base and head cannot be had as asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit by its hash, and how it was asked for."""

    hash: str
    name: str

    def __str__(self) -> str:
        short = self.hash[:10]
        return short if short.startswith(self.name[:10]) else f"{self.name} ({short})"


@dataclass(frozen=True, slots=True)
class Tree:
    """An interpreter that runs the membound of a commit; what it speaks to a harness, None before there were messages."""

    commit: Commit
    python: Path
    protocol: int | None


def resolve(ref: str, folder: Path) -> Commit:
    """The commit that a name means in the repository around `folder`. Raises GateError."""
    found = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if found.returncode or not ref:
        _root(folder, f"{ref!r} is no file with rows, and ")
        raise GateError(
            f"{ref!r} is no commit of this repository, and no file with rows; a shallow clone lacks commits: git fetch them"
        )
    return Commit(found.stdout.strip(), ref)


def working_tree(folder: Path) -> Commit:
    """The tracked files as they are now, changes included, as a commit that no branch has. Raises GateError."""
    _root(folder)
    found = _git(folder, "stash", "create")
    if found.returncode:
        raise GateError(f"the working tree cannot be taken: {_last(found.stderr)}; name a commit with --head")
    return Commit(found.stdout.strip() or resolve("HEAD", folder).hash, "working tree")


def built(commit: Commit, folder: Path, extras: str | None, tell: Tell) -> Tree:
    """Make the environment of a commit, or find it. `extras`: install it with its own constraints.txt and these extras.

    Raises GateError if it is no membound, or if it cannot be installed or imported.
    """
    root = _root(folder)
    home = private_folder(private_folder(cache_base() / "gate") / _key(commit, extras))
    with _locked(home.with_suffix(".lock")):
        found = _finished(home)
        if found is None:
            shutil.rmtree(home)
            private_folder(home)
            tell(f"making an environment for {commit}")
            _extract(commit, root, home / "tree")
            _make_environment(home, extras, tell)
            _write_interpreter(home, commit)
            found = _checked(home, commit)
            (home / MARKER).write_text(json.dumps(found), encoding="utf-8")
        (home / MARKER).touch()
    _drop_old(home.parent)
    return Tree(commit, home / INTERPRETER, found["protocol"])


def _finished(home: Path) -> dict[str, Any] | None:
    """What was said of an environment that is there; None if it was not finished, or is damaged."""
    parts = (INTERPRETER, Path("tree") / WORKER, "environment/bin/python")
    try:
        found = json.loads((home / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    told = isinstance(found, dict) and type(found.get("protocol", "")) in (int, type(None))
    return found if told and all((home / part).is_file() for part in parts) else None


def interpreter_script(python: str, variables: Mapping[str, str], unset: Sequence[str] = ()) -> str:
    """A program that is `python` with some variables of its environment set and others unset."""
    names = [word for name in unset for word in ("-u", name)]
    values = [f"{name}={value}" for name, value in variables.items()]
    return f'#!/bin/sh\nexec env {shlex.join([*names, *values, python])} "$@"\n'


def write_script(path: Path, text: str) -> Path:
    """A program of this user's alone."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o700)
    return path


def _key(commit: Commit, extras: str | None) -> str:
    """The commit, and what the environment is made from."""
    made = (CHECK, COUNTS, COMMIT_VARIABLE)
    parts = [commit.hash, sys.executable, sys.version, str(extras), *made, *_site_folders()]
    return f"{commit.hash[:12]}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


def _site_folders() -> list[str]:
    """Where the packages of this interpreter lie."""
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [*site.getsitepackages(), *user]


def _extract(commit: Commit, root: Path, to: Path) -> None:
    to.mkdir()
    asked = ["git", "-C", str(root), "archive", commit.hash]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as archive:
        unpack = ["tar", "-x", "-C", str(to)]
        unpacked = subprocess.run(unpack, stdin=archive.stdout, capture_output=True, check=False)
    if archive.returncode or unpacked.returncode:
        raise GateError(f"the files of {commit} cannot be had: {_last(unpacked.stderr.decode())}")
    if not (to / WORKER).is_file():
        raise GateError(
            f"{commit} is no membound that can be gated: it has no {WORKER}; for another project, see --base-command"
        )


def _make_environment(home: Path, extras: str | None, tell: Tell) -> None:
    environment = home / "environment"
    shared = ["--without-pip"] if extras is None else []
    _run([sys.executable, "-m", "venv", *shared, str(environment)], "no environment can be made")
    if extras is None:
        for folder in environment.glob("lib/python*/site-packages"):
            _link(folder, home / "tree")
        return
    wanted = f"{home / 'tree'}" + (f"[{extras}]" if extras else "")
    pins = home / "tree" / "constraints.txt"
    tell("installing it with its own pins; this takes minutes")
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, *(["-c", str(pins)] if pins.is_file() else []), wanted], "it cannot be installed")


def _link(site_folder: Path, tree: Path) -> None:
    """The tree's package first, with its own entry points, and behind it the packages of this interpreter."""
    lines = [str(tree / "src"), *(f"import site; site.addsitedir({name!r})" for name in _site_folders())]
    # in the locale's encoding, as `site` reads it
    (site_folder / "membound-gate.pth").write_text("\n".join(lines) + "\n")
    groups = _groups(tree)
    info = site_folder / "membound-0.dist-info"
    info.mkdir()
    version = re.search(r'__version__ = "([^"]+)"', _version_file(tree))
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: membound\nVersion: {version[1] if version else '0'}\n",
        encoding="utf-8",
    )
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _groups(tree: Path) -> dict[str, dict[str, str]]:
    """Entry points by group, as the tree's pyproject.toml has them. Raises GateError."""
    try:
        project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
        return {
            str(group): {str(name): str(point) for name, point in points.items()}
            for group, points in groups.items()
        }
    except OSError as error:
        raise GateError(f"pyproject.toml of the commit cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise GateError(f"pyproject.toml of the commit names no entry points: {error}") from None


def _version_file(tree: Path) -> str:
    known = (tree / "src/membound" / name for name in ("version.py", "__init__.py"))
    return "".join(path.read_text(encoding="utf-8") for path in known if path.is_file())


def _write_interpreter(home: Path, commit: Commit) -> None:
    """Caches of compiled code apart from everybody else's, and no path of this process."""
    caches = {VARIABLE: str(private_folder(home / "cache"))}
    caches |= {name: str(private_folder(home / "cache" / folder)) for name, folder in RUNTIMES.items()}
    python = str(home / "environment/bin/python")
    variables = {COUNTS: "1", COMMIT_VARIABLE: commit.hash} | caches
    write_script(home / INTERPRETER, interpreter_script(python, variables, ("PYTHONPATH", "PYTHONHOME")))


def _checked(home: Path, commit: Commit) -> dict[str, Any]:
    """What the interpreter says of its membound, which must be that of the commit."""
    said = _run([str(home / INTERPRETER), "-P", "-c", CHECK], f"{commit} cannot be imported")
    try:
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        package = str(found["package"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise GateError(f"{commit} prints something when it is imported, or ends: {_last(said)}") from None
    if not package.startswith(str(home)):
        raise GateError(f"the environment of {commit} imports {package}, which is another membound")
    return found


def _run(command: Sequence[str], failure: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    if done.returncode:
        raise GateError(f"{failure}: {_last(done.stderr) or _last(done.stdout)}")
    return done.stdout


def _last(text: str) -> str:
    """The last line with words in it."""
    return next(
        (line.strip()[:300] for line in reversed(text.splitlines()) if line.strip()), "no reason given"
    )


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise GateError(f"git cannot be run: {error.strerror}") from None


def _root(folder: Path, before: str = "") -> Path:
    """The repository around a folder. Raises GateError; `before` stands before its words."""
    found = _git(folder, "rev-parse", "--show-toplevel")
    if found.returncode:
        raise GateError(f"{before}{folder.resolve()} is in no git repository, so it has no commits to gate")
    return Path(found.stdout.strip())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two gates that begin at once make an environment once."""
    with path.open("w", encoding="utf-8") as held:
        with suppress_missing_locks():
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _drop_old(folder: Path) -> None:
    finished = sorted(folder.glob(f"*/{MARKER}"), key=_written_at)
    for marker in finished[:-KEPT]:
        shutil.rmtree(marker.parent, ignore_errors=True)


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another gate, which tidies up at the same time, was quicker
        return 0.0
