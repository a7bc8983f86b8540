"""Environments that others may write to: nothing of them is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from membound.bench.environments import build
from membound.bench.environments.build import EnvironmentFailed, create, interpreters, recipe, states
from membound.bench.planning.choice import parse_pythons

ENGINE = "vllm"


@pytest.fixture
def home(anywhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where environments are made, in which nothing is installed."""
    monkeypatch.setenv("MEMBOUND_ENVIRONMENTS", str(anywhere / "environments"))
    monkeypatch.setattr(build, "VENV", ("-m", "venv", "--without-pip"))  # pip takes seconds
    monkeypatch.setattr(build, "_install", lambda one, tell: None)
    monkeypatch.setattr(build, "CHECK", "import membound.results.stored_runs")
    return anywhere / "environments"


def made() -> Path:
    return create(recipe(ENGINE), False, lambda text: None)


@pytest.mark.parametrize("where", ["vllm", "vllm/bin", "vllm/lib/python*/site-packages", "."])
def test_an_environment_that_others_may_write_to_is_not_run(
    anywhere: Path, home: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A planted interpreter would run as this user, whom nobody asked."""
    python = made()
    assert interpreters() == {ENGINE: str(python)}
    (open_one,) = anywhere.glob(f"environments/{where}")
    python.unlink()
    python.write_text(f"#!/bin/sh\ntouch {home / 'ran'}\n")
    python.chmod(0o755)
    open_one.chmod(0o777)
    (state,) = [state for state in states() if state.recipe.name == ENGINE]
    assert state.problem.startswith(
        f"others may write to {open_one.resolve()}, and what lies there is run as code"
    )
    with pytest.raises(EnvironmentFailed, match="environment vllm cannot be used: others may write to"):
        parse_pythons([])
    assert not (home / "ran").exists()
    open_one.chmod(0o1777 if where == "." else 0o755)
    assert interpreters() == {ENGINE: str(python)}
    monkeypatch.setenv("MEMBOUND_CACHE_TRUSTED", "1")
    open_one.chmod(0o777)
    assert interpreters() == {ENGINE: str(python)}


def test_what_is_made_is_not_open_to_others(home: Path) -> None:
    before = os.umask(0)
    try:
        made()
        assert os.umask(0) == 0, "the user's umask is as it was"
    finally:
        os.umask(before)
    (state,) = [state for state in states() if state.recipe.name == ENGINE]
    assert state.problem == ""
    assert home.stat().st_mode & 0o022 == 0
