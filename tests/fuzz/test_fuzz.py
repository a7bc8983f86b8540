"""Every target for a few seconds: inputs that Hypothesis draws, the same in each run, and those that once failed."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import campaign
import pytest
from guard import Hang, memory_bound, time_bound
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from target import Target, strict_warnings
from targets import TARGETS

HERE = Path(__file__).parent
EXAMPLES = {"runs": 15, "pages": 15, "claims": 15, "arguments": 15, "models": 50, "gguf": 30}
"""Of the dear ones; of the others 100."""


def drawn(target: Target) -> None:
    """Check inputs that Hypothesis draws and, where one fails, makes smaller."""

    @settings(
        max_examples=EXAMPLES.get(target.name, 100),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(rng=st.randoms(use_true_random=False))
    def checked(rng: Random) -> None:
        with time_bound(60):
            target.check(target.input(rng))

    checked()


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_are_drawn_are_refused_as_documented_or_taken(name):
    target = TARGETS[name]
    assert target.known
    with memory_bound(), strict_warnings():
        drawn(target)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_taken(name):
    """An input that is refused at once would test nothing behind the door."""
    target = TARGETS[name]
    with strict_warnings():
        for content in target.known[:12]:
            target.check(content)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_differ_from_their_seeds_and_are_the_same_for_the_same_seed(name):
    target = TARGETS[name]
    made = [target.input(Random(number)) for number in range(20)]
    assert made == [target.input(Random(number)) for number in range(20)]
    assert len({*made} - {*target.known}) >= 10


def broken(content: bytes) -> None:
    if b"x" in content:
        raise KeyError(content)


def test_a_campaign_counts_a_failure_once_and_keeps_its_first_input(tmp_path):
    target = Target("broken", lambda: [b"abc"], lambda rng, seed: seed + rng.choice((b"", b"x")), broken)
    said: list[str] = []
    told = campaign.campaign(target, 50, 60, 1, tmp_path, said.append)
    (name,), (kept,) = told.failures, tmp_path.iterdir()
    assert name.startswith("KeyError at test_fuzz.py:")
    assert (told.executions, kept.read_bytes(), len(said)) == (50, b"abcx", 1)
    assert 10 < told.failures[name] < 40


def test_the_input_in_hand_outlives_its_campaign(tmp_path):
    """An interrupt is no failure of the target; a crash leaves no time to write anything."""
    inputs = iter((b"first", b"second is longer", b"third"))

    def ended(content: bytes) -> None:
        if content == b"third":
            raise KeyboardInterrupt

    target = Target("ended", lambda: [b""], lambda rng, seed: next(inputs), ended)
    with pytest.raises(KeyboardInterrupt):
        campaign.campaign(target, 50, 60, 1, tmp_path)
    said: list[str] = []
    idle = replace(target, change=lambda rng, seed: b"idle", check=lambda content: None)
    assert campaign.campaign(idle, 3, 60, 1, tmp_path, said.append).failures == {}
    (kept,) = tmp_path.iterdir()
    assert (kept.read_bytes(), len(said)) == (b"third", 1)


def test_a_campaign_ends_when_time_is_up(tmp_path):
    target = Target("idle", lambda: [b""], lambda rng, seed: seed, lambda content: None)
    told = campaign.campaign(target, 10**9, 0.05, 1, tmp_path)
    assert (told.failures, told.executions < 10**9) == ({}, True)


def test_a_hang_is_a_failure():
    def hang() -> None:
        with time_bound(0.2):
            while True:
                pass

    with pytest.raises(Hang, match=r"longer than 0.2 s"):
        hang()


def test_memory_beyond_the_bound_is_a_failure():
    with memory_bound(1 << 28), pytest.raises(MemoryError):
        bytearray(1 << 29)
    assert len(bytearray(1 << 29)) == 1 << 29


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Calls `python tests/fuzz` in this process."""

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["tests/fuzz", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        main: Callable[[], int] = runpy.run_path(str(HERE / "__main__.py"), run_name="command")["main"]
        return main()

    return call


def test_the_command_runs_a_campaign_and_names_its_targets(command, capsys):
    assert command("messages", "--executions", "200") == 0
    out = capsys.readouterr().out
    assert out.startswith("messages: 200 executions in ")
    assert "0 distinct failures" in out
    assert command("nothing") == 2
    assert "there are all, works, rows, runs" in capsys.readouterr().err


def test_the_command_checks_one_input(command, tmp_path, monkeypatch):
    path = tmp_path / "input"
    path.write_bytes(b'{"schema_version":99}')
    assert command("rows", "--input", str(path)) == 0
    monkeypatch.setitem(TARGETS, "rows", replace(TARGETS["rows"], check=lambda content: 1 // 0))
    with pytest.raises(ZeroDivisionError):
        command("rows", "--input", str(path))


def test_atheris_runs_the_same_targets():
    pytest.importorskip("atheris", reason="no atheris: pip install -e '.[fuzz]'")
    command = [sys.executable, str(HERE), "messages", "--engine", "atheris", "--executions", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Done 200 runs" in done.stderr
