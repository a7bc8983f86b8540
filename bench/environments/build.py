"""Separate environments for runtimes whose pins clash with membound's, built from committed locks.

>>> create(recipe("mine"), force=False, tell=print)          # with uv if it is there, pip otherwise
>>> interpreters()
{'mine': '/…/membound/environments/mine/bin/python'}

A lock is `backends/environments/NAME.txt`, pins with the SHA-256 of each file they may come from, for
``pip install --require-hashes --no-deps -r``; the part of NAME before a dash is the backend. An environment lies in `home()` and runs the membound that made it: its site-packages hold
a link to the package and a copy of its metadata, so a worker there is never older than the harness.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import distribution, distributions
from pathlib import Path

import membound
from membound.backends import api
from membound.bench.environments.package_index import pip_settings, uv_arguments, uv_environment
from membound.bench.machine.secrets import without_secrets
from membound.errors import MemboundError
from membound.kernels.cpu.kernel_cache import open_to_others

Tell = Callable[[str], None]

LOCKS = Path(api.__file__).parent / "environments"
MARKER = "membound-environment.json"
"""Written when an environment is complete."""
PIN = re.compile(r"[a-z0-9]")
"""How the line of a package starts in a lock, and neither a comment nor a hash."""
HOLDS = "# holds:"
"""The start of the line in a lock that names the packages worth showing."""
UV = Path(__file__).parent / "uv.txt"
"""The lock of uv itself."""
HASHED = ("--require-hashes", "--no-deps")
VENV = ("-m", "venv")
CHECK = "import membound.bench.worker, membound.bench.measure.station"
OPEN = "others may write to "
MASK = 0o022
"""What others may not do in an environment, whatever the user's umask."""
NO_HOME = "this user has no home folder"
NAME_ONE = "set MEMBOUND_ENVIRONMENTS to a folder of your own"


class EnvironmentFailed(MemboundError):
    """An environment cannot be made or used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A committed lock. `pins` has all packages by name, `shown` those worth showing."""

    name: str
    path: Path
    shown: tuple[str, ...]
    pins: dict[str, str]

    @property
    def backend(self) -> str:
        """The backend that runs in the environment."""
        return self.name.partition("-")[0]

    @property
    def folder(self) -> Path:
        """The folder of the environment, whether it was made or not."""
        return home() / self.name

    @property
    def aside(self) -> Path:
        """Where the old one is kept while a new one is made in its place."""
        return home() / f".{self.name}.before"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"


@dataclass(frozen=True, slots=True)
class State:
    """An environment as found: absent (with `problem` if none could be there), broken (likewise), or usable with its `packages`."""

    recipe: Recipe
    made: bool
    problem: str
    packages: dict[str, str]

    @property
    def remedy(self) -> str:
        """The command that would help, or ''."""
        if self.made and not self.problem:
            return ""
        if self.problem == NO_HOME:
            return NAME_ONE
        return f"membound env create {self.recipe.name}" + (" --force" if self.made else "")

    @property
    def python(self) -> str:
        """Where its interpreter is or would be, or ''."""
        return "" if self.problem == NO_HOME else str(self.recipe.python)


def home() -> Path:
    """The folder of all environments: $MEMBOUND_ENVIRONMENTS, or one in the user's data folder.

    Raises EnvironmentFailed if there is neither.
    """
    if named := os.environ.get("MEMBOUND_ENVIRONMENTS"):
        return Path(named)
    try:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    except RuntimeError:  # a container's user without HOME and an entry in /etc/passwd
        raise EnvironmentFailed(f"{NO_HOME}: {NAME_ONE}") from None
    return Path(data) / "membound" / "environments"


def recipes() -> tuple[Recipe, ...]:
    """All committed locks, by name."""
    return tuple(_read(path) for path in sorted(LOCKS.glob("*.txt")))


def recipe(name: str) -> Recipe:
    """The lock of that name. Raises EnvironmentFailed that lists what there is."""
    known = {one.name: one for one in recipes()}
    if name not in known:
        raise EnvironmentFailed(f"no environment is called {name!r}; there are: {', '.join(known)}")
    return known[name]


def _read(path: Path) -> Recipe:
    lines = path.read_text(encoding="utf-8").splitlines()
    shown = [line.removeprefix(HOLDS) for line in lines if line.startswith(HOLDS)]
    pins = [line.removesuffix("\\").strip().partition("==") for line in lines if PIN.match(line)]
    names = tuple(name.strip() for text in shown for name in text.split(","))
    return Recipe(path.stem, path, names, {name: version for name, _, version in pins})


def states() -> tuple[State, ...]:
    """The state of every recipe's environment."""
    return tuple(_state(one) for one in recipes())


def _state(one: Recipe) -> State:
    try:
        folder = one.folder
    except EnvironmentFailed:
        return State(one, False, NO_HOME, {})
    if not os.path.exists(folder):  # Path's method raises where the home of another user may not be read
        return State(one, False, "", {})
    problem = _problem(one)
    packages = {d.name: d.version for site in _sites(one) for d in distributions(path=[str(site)])}
    return State(one, True, problem, packages)


def _problem(one: Recipe) -> str:
    """Why a folder cannot be used as an environment, or ''."""
    if (found := _open_to_others(one)) is not None:
        return f"{OPEN}{found}, and what lies there is run as code: `chmod go-w` it"
    if not (one.folder / MARKER).is_file():
        return "it was not finished"
    if not (one.python.is_file() and os.access(one.python, os.X_OK)):
        return "its interpreter is gone: the Python that it was made with was removed"
    links = [site / "membound" for site in _sites(one)]
    if not any((link / "__init__.py").is_file() for link in links):
        return "the membound that it was made with was moved or removed"
    return ""


def _open_to_others(one: Recipe) -> Path | None:
    """A folder of the environment, or above it, whose files others may replace, or None."""
    ways = (one.folder / MARKER, one.python, *(site / "membound" for site in _sites(one)))
    for way in ways:
        with suppress(OSError):  # it leads nowhere
            if (found := open_to_others(way)) is not None:
                return found
    return None


def interpreters() -> dict[str, str]:
    """From backend to interpreter, for each environment that was made and has the name of its backend.

    Broken ones are included: asking such an interpreter gives the reason, which using another in its place would not.
    Raises EnvironmentFailed for one that others may write to: it is not asked.
    """
    found = [s for s in states() if s.made and s.recipe.name == s.recipe.backend]
    for state in found:
        if state.problem.startswith(OPEN):
            raise EnvironmentFailed(f"environment {state.recipe.name} cannot be used: {state.problem}")
    return {s.recipe.backend: str(s.recipe.python) for s in found}


def remedy_for(python: str) -> tuple[str, str]:
    """(what is wrong, the command that would help) if `python` belongs to a broken environment; else two ''."""
    for state in states():
        if state.made and state.problem and str(state.recipe.python) == python:
            return f"environment {state.recipe.name} cannot be used: {state.problem}", state.remedy
    return "", ""


def create(one: Recipe, force: bool, tell: Tell) -> Path:
    """Make the environment and return its interpreter. A failure or Ctrl-C leaves what was there before, or nothing.

    Raises EnvironmentFailed if it exists and `force` is not set, if its folder cannot be written, if packages
    cannot be installed, or if what was installed cannot run a worker.
    """
    _restore(one)
    if one.folder.exists() and not force:
        raise EnvironmentFailed(f"{one.folder} is there already; --force makes it anew")
    before = os.umask(MASK)
    os.umask(before | MASK)
    try:
        one.folder.parent.mkdir(parents=True, exist_ok=True)
        with _kept_aside(one):
            _build(one, tell)
    except OSError as error:
        raise EnvironmentFailed(f"{one.folder} cannot be made: {error.strerror}") from None
    finally:
        os.umask(before)
    return one.python


@contextmanager
def _kept_aside(one: Recipe) -> Iterator[None]:
    """Move the old environment, if any, aside; bring it back on any failure, and remove it on success.

    The new one is built in its final place, since environments contain their path and cannot be moved.
    """
    if one.folder.exists():
        one.folder.rename(one.aside)
    try:
        yield
    except BaseException:
        _clear(one.folder)
        if one.aside.exists():
            one.aside.rename(one.folder)
        raise
    _clear(one.aside)


def _restore(one: Recipe) -> None:
    """Bring back an old environment that a killed `create` left aside, unless the new one was finished."""
    if one.aside.exists():
        if (one.folder / MARKER).is_file():
            _clear(one.aside)
        else:
            _clear(one.folder)
            one.aside.rename(one.folder)


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _build(one: Recipe, tell: Tell) -> None:
    tell(f"making {one.folder} with Python {sys.version.split()[0]}")
    _run([sys.executable, *VENV, str(one.folder)], f"{sys.executable} cannot make an environment")
    _install(one, tell)
    for site in _sites(one):
        _link(site)
    tell("trying it")
    _run([str(one.python), "-P", "-c", CHECK], "what was installed cannot run a worker of membound")
    made = {"name": one.name, "python": sys.version.split()[0], "membound": membound.__version__}
    (one.folder / MARKER).write_text(json.dumps(made), encoding="utf-8")


def _sites(one: Recipe) -> list[Path]:
    """The site-packages folders of an environment: one, or none if there is no environment."""
    return sorted(one.folder.glob("lib/python*/site-packages"))


def _install(one: Recipe, tell: Tell) -> None:
    """Install the pins with the user's settings of pip: indexes, folders of wheels, certificates."""
    settings = pip_settings()
    uv = shutil.which("uv") or _fetched_uv(one)
    pip = [str(one.python), "-m", "pip", "install", *HASHED, "-r", str(one.path)]
    if uv is not None:
        tell(f"installing {len(one.pins)} packages with uv")
        arguments = ["pip", "install", "--compile-bytecode", *HASHED, "--python", str(one.python)]
        command = [uv, *arguments, *uv_arguments(settings), "-r", str(one.path)]
        try:
            return _run(command, "", uv_environment(settings))
        except EnvironmentFailed as error:
            tell(f"uv failed ({error}); trying pip")
    tell(f"installing {len(one.pins)} packages with pip; this takes minutes")
    hint = f"the packages of {one.path.name} cannot be installed; see docs/environments.md for where they come from"
    return _run(pip, hint)


def _fetched_uv(one: Recipe) -> str | None:
    """uv inside the environment, if pip can get it."""
    done = subprocess.run(
        [str(one.python), "-m", "pip", "install", "--quiet", *HASHED, "-r", str(UV)],
        capture_output=True,
        text=True,
        check=False,
    )
    return str(one.folder / "bin" / "uv") if done.returncode == 0 else None


def _link(site: Path) -> None:
    """Add this membound: a link to the package, and its metadata, which name the backends."""
    (site / "membound").symlink_to(Path(membound.__file__).parent, target_is_directory=True)
    info = site / f"membound-{membound.__version__}.dist-info"
    info.mkdir()
    here = distribution("membound")
    for name in ("METADATA", "entry_points.txt"):
        (info / name).write_text(here.read_text(name) or "", encoding="utf-8")


def _run(command: Sequence[str], failure: str, environment: dict[str, str] | None = None) -> None:
    """Run a command to its end. Raises EnvironmentFailed with `failure` and the reason that it printed."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, errors="replace"
    )
    if done.returncode:
        words = _last_words(without_secrets(f"{done.stdout}\n{done.stderr}").splitlines())
        raise EnvironmentFailed(": ".join(filter(None, (failure, words or f"exit status {done.returncode}"))))


def _last_words(lines: Sequence[str]) -> str:
    """The last line that mentions an error, or the last line."""
    told = [line.strip() for line in lines if line.strip()]
    errors: Iterator[str] = (line for line in reversed(told) if "error" in line.lower() or "×" in line)
    return next(errors, told[-1] if told else "")[:300]
