"""Environments: what is there, what is wrong with it, and that a failed one leaves nothing behind."""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import membound
from membound.backends import registry
from membound.backends.serving import engine_names
from membound.bench import cli
from membound.bench.environments import build as environments
from membound.bench.environments.build import EnvironmentFailed, create, interpreters, recipe, recipes, states
from membound.bench.planning import choice as setup
from membound.bench.planning import probe

ENGINE, VARIANT = "vllm", "onnxruntime-openvino"


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "environments"
    monkeypatch.setenv("MEMBOUND_ENVIRONMENTS", str(folder))
    monkeypatch.setattr(environments, "VENV", ("-m", "venv", "--without-pip"))  # pip takes seconds
    return folder


@pytest.fixture
def nothing_installed(monkeypatch):
    """Environments are made, and nothing is installed in them; returns what was told."""
    monkeypatch.setattr(environments, "_install", lambda one, tell: tell(f"{len(one.pins)} pins"))
    monkeypatch.setattr(environments, "CHECK", "import membound.results.stored_runs")
    return []


def made(name, told=None):
    return create(recipe(name), False, (told if told is not None else []).append)


# Locks


@pytest.mark.parametrize("one", recipes(), ids=lambda one: one.name)
def test_a_lock_pins_every_package_and_names_no_machine(one):
    text = one.path.read_text()
    entries = re.findall(r"^([a-z0-9]\S*)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", text, re.M)
    requirements = [Requirement(pin) for pin, _ in entries]
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == sum(
        1 + hashes.count("\n") for _, hashes in entries
    )  # nothing stands there without a hash
    assert len({r.name for r in requirements}) == len(requirements) == len(one.pins) > 10
    assert all(re.fullmatch(r"==[^,]+", str(r.specifier)) and not r.marker for r in requirements)
    assert not re.search(r"file:|^-|(?<!pytorch\.org)/whl|\bopt/", text, re.M)
    assert set(one.shown) <= set(one.pins)
    assert one.backend in {*registry.names(), *engine_names()}
    # what the worker of membound imports there
    project = {"numba", "numpy", "psutil", "safetensors", "llvmlite"}
    assert project <= set(one.pins)


def test_there_is_a_lock_for_an_engine_and_for_a_variant():
    assert {ENGINE, VARIANT} <= {one.name for one in recipes()}
    assert recipe(VARIANT).backend == "onnxruntime"
    with pytest.raises(EnvironmentFailed, match=f"no environment is called 'vlm'; there are: .*{ENGINE}"):
        recipe("vlm")


# Making


def test_an_environment_runs_this_very_membound(home, nothing_installed):
    told = nothing_installed
    python = made(ENGINE, told)
    assert python == home / ENGINE / "bin" / "python"
    assert told[1] == f"{len(recipe(ENGINE).pins)} pins"
    (site,) = (home / ENGINE).glob("lib/python*/site-packages")
    assert (site / "membound").resolve() == Path(membound.__file__).parent.resolve()
    (dist,) = [d for d in distributions(path=[str(site)]) if d.name == "membound"]
    assert dist.version == membound.__version__
    own = {p.name for p in distribution("membound").entry_points if p.group == registry.GROUP}
    assert {p.name for p in dist.entry_points if p.group == registry.GROUP} == own > {ENGINE}
    state = {s.recipe.name: s for s in states()}[ENGINE]
    assert (state.made, state.problem, state.remedy) == (True, "", "")
    assert state.packages["membound"] == membound.__version__
    assert interpreters() == {ENGINE: str(python)}


def test_one_that_is_there_is_left_alone_unless_forced(home, nothing_installed):
    made(VARIANT)
    mine = home / VARIANT / "mine.txt"
    mine.write_text("kept")
    with pytest.raises(EnvironmentFailed, match="is there already; --force"):
        made(VARIANT)
    assert mine.exists()
    create(recipe(VARIANT), True, lambda text: None)
    assert not mine.exists()
    assert [path.name for path in home.iterdir()] == [VARIANT]
    assert interpreters() == {}  # named otherwise than its backend: asked for, never taken


@pytest.mark.parametrize("error", [EnvironmentFailed("no such wheel"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(home, monkeypatch, error):
    def fail(one, tell):
        raise error

    monkeypatch.setattr(environments, "_install", fail)
    with pytest.raises(type(error)):
        made(ENGINE)
    assert not (home / ENGINE).exists()
    assert not any(state.made for state in states())


@pytest.mark.parametrize("error", [EnvironmentFailed("no such wheel"), KeyboardInterrupt()])
def test_a_failure_gives_back_the_environment_that_was_to_be_replaced(
    home, nothing_installed, monkeypatch, error
):
    python = made(ENGINE)
    mine = home / ENGINE / "mine.txt"
    mine.write_text("kept")

    def fail(one, tell):
        assert not mine.exists()
        raise error

    monkeypatch.setattr(environments, "_install", fail)
    with pytest.raises(type(error)):
        create(recipe(ENGINE), True, lambda text: None)
    assert mine.read_text() == "kept"
    assert [path.name for path in home.iterdir()] == [ENGINE]
    assert interpreters() == {ENGINE: str(python)}


@pytest.mark.parametrize("finished", [True, False])
def test_what_a_killed_replacement_left_aside_is_put_in_order(home, nothing_installed, finished):
    made(ENGINE)
    old = recipe(ENGINE).aside
    (home / ENGINE).rename(old)
    (home / ENGINE).mkdir()
    if finished:
        (home / ENGINE / environments.MARKER).write_text("{}")
    with pytest.raises(EnvironmentFailed, match="is there already"):
        made(ENGINE)
    assert not old.exists()
    assert (home / ENGINE / "bin").exists() is not finished


def test_what_cannot_run_a_worker_is_refused_with_its_last_words(home, monkeypatch):
    monkeypatch.setattr(environments, "_install", lambda one, tell: None)
    monkeypatch.setattr(environments, "CHECK", "raise ImportError('no psutil')")
    with pytest.raises(EnvironmentFailed, match=r"cannot run a worker of membound: ImportError: no psutil"):
        made(ENGINE)
    assert not (home / ENGINE).exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEMBOUND_ENVIRONMENTS", str(tmp_path / "file" / "environments"))
    with pytest.raises(EnvironmentFailed, match="cannot be made: Not a directory"):
        made(ENGINE)


@pytest.fixture
def installers(home, monkeypatch):
    """The commands that would install; those whose first word is in `failing` fail."""
    commands, failing = [], set()

    def run(command, failure, environment=None):
        commands.append((Path(command[0]).name, command, environment))
        if Path(command[0]).name in failing:
            raise EnvironmentFailed("× no solution")

    monkeypatch.setattr(environments, "_run", run)
    monkeypatch.setattr(environments, "pip_settings", lambda: {"find-links": ["/wheels"]})
    monkeypatch.setattr(environments.shutil, "which", lambda name: f"/usr/bin/{name}")
    return commands, failing


def test_uv_installs_with_pips_settings(installers):
    commands, _ = installers
    environments._install(recipe(ENGINE), lambda text: None)
    ((name, command, environment),) = commands
    assert name == "uv"
    assert command[1:6] == ["pip", "install", "--compile-bytecode", "--require-hashes", "--no-deps"]
    assert command[-2:] == ["-r", str(recipe(ENGINE).path)]
    assert (environment["UV_NATIVE_TLS"], environment["UV_FIND_LINKS"]) == ("1", "/wheels")


def test_pip_installs_where_uv_fails_and_that_is_told(installers):
    commands, failing = installers
    failing.add("uv")
    told = []
    environments._install(recipe(ENGINE), told.append)
    assert [name for name, *_ in commands] == ["uv", "python"]
    pip = ["-m", "pip", "install", "--require-hashes", "--no-deps", "-r", str(recipe(ENGINE).path)]
    assert commands[1][1][1:] == pip
    assert told[1] == "uv failed (× no solution); trying pip"


def test_pip_installs_where_there_is_no_uv(installers, monkeypatch):
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    monkeypatch.setattr(environments, "_fetched_uv", lambda one: None)
    environments._install(recipe(ENGINE), lambda text: None)
    assert [name for name, *_ in installers[0]] == ["python"]


# Broken ones


def broken(home, how):
    """A folder as it is left when something of it is missing."""
    folder = home / ENGINE
    site = folder / "lib/python3.11/site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.symlink_to(sys.executable)
    (site / "membound").symlink_to(Path(membound.__file__).parent)
    (folder / environments.MARKER).write_text("{}")
    if how == "unfinished":
        (folder / environments.MARKER).unlink()
    elif how == "python":
        python.unlink()
        python.symlink_to(home / "python-that-was-removed")
    else:
        (site / "membound").unlink()
        (site / "membound").symlink_to(home / "checkout-that-was-moved")
    return python


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("unfinished", "it was not finished"),
        ("python", "its interpreter is gone"),
        ("moved", "the membound that it was made with was moved or removed"),
    ],
)
def test_a_broken_environment_says_what_is_wrong_and_what_helps(home, capsys, how, problem):
    python = broken(home, how)
    state = {s.recipe.name: s for s in states()}[ENGINE]
    assert state.made
    assert problem in state.problem
    assert state.remedy == f"membound env create {ENGINE} --force"
    assert interpreters() == {ENGINE: str(python)}
    if how != "unfinished":
        (found,) = probe.probe([ENGINE], 1, interpreters())
        assert not found.available
        assert problem in setup.told(found)
        assert found.remedy == state.remedy
    with pytest.raises(SystemExit) as ended:
        cli.main(["env", "list"])
    assert ended.value.code == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{ENGINE}:")]
    assert problem in line
    assert line.endswith(state.remedy)


# No home


@pytest.fixture
def homeless(monkeypatch):
    """A container's user: no HOME and no entry in /etc/passwd."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_DATA_HOME", "MEMBOUND_ENVIRONMENTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_a_user_without_a_home_has_no_environments_and_is_told_how_to_have_some(homeless, capsys):
    assert setup.parse_pythons(()) == {}
    with pytest.raises(SystemExit) as ended:
        cli.main(["env", "list", "--json"])
    records = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert (ended.value.code, records[ENGINE]["made"], records[ENGINE]["python"]) == (0, False, "")
    assert records[ENGINE]["problem"] == "this user has no home folder"
    assert records[ENGINE]["remedy"] == "set MEMBOUND_ENVIRONMENTS to a folder of your own"
    with pytest.raises(SystemExit) as ended:
        cli.main(["env", "create", ENGINE])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert "this user has no home folder: set MEMBOUND_ENVIRONMENTS" in err


def test_a_home_that_cannot_be_looked_into_holds_no_environments(monkeypatch):
    monkeypatch.delenv("MEMBOUND_ENVIRONMENTS", raising=False)
    monkeypatch.setenv(
        "XDG_DATA_HOME", f"/{'x' * 300}"
    )  # the system refuses it, as it does others' homes to all but root
    assert not any(state.made for state in states())
    assert setup.parse_pythons(()) == {}


# The command


def test_env_list_says_what_there_could_be(home, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["env", "list", "--json"])
    assert ended.value.code == 0
    records = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert set(records) == {one.name for one in recipes()}
    assert not records[ENGINE]["made"]
    assert records[ENGINE]["remedy"] == f"membound env create {ENGINE}"
    assert records[VARIANT]["python"] == str(home / VARIANT / "bin" / "python")


def test_env_create_refuses_an_unknown_name_in_one_line(home, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["env", "create", "vlm"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert "no environment is called 'vlm'" in err


def test_env_create_json_names_the_interpreter_and_the_packages(home, nothing_installed, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["env", "create", VARIANT, "--json"])
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert (ended.value.code, record["name"], record["problem"]) == (0, VARIANT, "")
    assert record["python"] == str(home / VARIANT / "bin" / "python")
    assert record["packages"]["membound"] == membound.__version__
    assert "making" in err


def test_debug_shows_a_traceback_wherever_it_stands_in_a_group(home, capsys):
    for arguments in (["env", "--debug", "create", "vlm"], ["env", "create", "vlm", "--debug"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        err = capsys.readouterr().err
        assert ended.value.code == 2
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("membound: no environment is called 'vlm'")


def test_an_interpreter_may_be_named_by_its_environment(home, nothing_installed):
    python = made(VARIANT)
    assert setup.parse_pythons([f"onnxruntime={VARIANT}"]) == {"onnxruntime": str(python)}
    with pytest.raises(
        setup.OptionError, match=rf"nor an environment \({VARIANT} made; see membound env list\)"
    ):
        setup.parse_pythons(["onnxruntime=nowhere"])
    assert os.access(python, os.X_OK)
