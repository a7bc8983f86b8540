"""Real worker processes: nothing that a backend prints, forges or does in them breaks the conversation of others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hostile_backends
import psutil
import pytest
from processes import gone

from membound.bench.machine.environment import worker_environment
from membound.bench.measure.contestant import BackendProcess, FailedError, Setting, Timeouts
from membound.bench.measure.failures import Failure
from membound.bench.protocol.messages import (
    ANSWERS,
    PROTOCOL,
    Close,
    Done,
    Hello,
    Release,
    TakeTurn,
    decode,
    encode,
)
from membound.bench.protocol.process import WorkerDiedError
from membound.bench.worker import COUNTS, SLOWDOWN

LATE_S, SOON_S = 120.0, 0.3
HARMLESS = "linear:n=37,k=53,m=3,weight=int8"
DEADLY = "linear:n=37,k=53,m=13,weight=int8"
"""The work on which hostile backends are hostile."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    hostile_backends.install(tmp_path / "site", monkeypatch)
    return tmp_path


def setting(folder: Path, limits: Timeouts) -> Setting:
    return Setting(1, 7, 1 << 20, str(folder / "reference"), limits)


@contextmanager
def opened(backend: str, folder: Path) -> Iterator[BackendProcess]:
    """A process whose device is open; nothing of it is left at the end."""
    with BackendProcess(backend, setting(folder, Timeouts(LATE_S, LATE_S))) as process:
        process.open()
        yield process
    assert gone(process.pid)


def measured(process: BackendProcess, number: int, work: str = HARMLESS) -> None:
    """A work goes all the way."""
    one = process.prepare(number, work)
    for _ in range(3):
        assert one.take_turn() is not None, one.failure
    assert one.check() is not None, one.failure
    process.release(number)
    assert process.alive


def test_what_a_runtime_prints_cannot_break_the_conversation(folder: Path) -> None:
    """The fakes print what looks like an answer, through Python and past it, whenever they prepare a work."""
    with opened("troubled:cpu", folder) as process:
        device = process.device
        assert device is not None
        assert device.device == "a fake processor"
        measured(process, 0)
        measured(process, 1, DEADLY)
        with pytest.raises(FailedError, match="attention is not faked"):
            process.prepare(2, "attention:context=3,q_heads=2,kv_heads=1,head_dim=8")
        measured(process, 2)
        process._worker._stderr.seek(0)
        noise = process._worker._stderr.read().decode()
        assert noise.count("a C library's noise\n") == 3
        assert noise.count('{"event": "end"}\n') == 3
        assert len(psutil.Process(process.pid).cpu_affinity()) == 1


def test_what_the_gate_asks_for_is_told_with_the_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of it is, and no launch is prolonged, without being asked for."""
    told = []
    for variables in ({}, {SLOWDOWN: "0.5", COUNTS: "1"}):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with opened("troubled:cpu", folder) as process:
            one = process.prepare(0, HARMLESS)
            assert one.take_turn() is not None
            checked = one.check()
            assert checked is not None
            told.append(checked.settings)
    plain, gated = told
    assert {"slowdown", "allocated_bytes"} & set(plain) == set()
    assert gated["slowdown"] == 0.5
    assert type(gated["allocated_bytes"]) is int


def test_a_forged_answer_ends_the_process_that_forged_it(folder: Path) -> None:
    """It finds the private pipe and writes answers to all commands that there could be."""
    with opened("forger:cpu", folder) as process:
        measured(process, 0)
        with pytest.raises(WorkerDiedError, match="it broke the protocol: "):
            process.prepare(1, DEADLY)
        assert not process.alive
    with opened("forger:cpu", folder) as process:
        measured(process, 0)


def test_who_dies_in_a_turn_says_what_it_was_at(folder: Path) -> None:
    with opened("troubled:cpu+die.turn", folder) as process:
        measured(process, 0)
        one = process.prepare(1, DEADLY)
        assert one.take_turn() is None
        assert one.failure is not None
        assert one.failure.status == "crashed"
        assert one.failure.reason.startswith("while timing: SIGKILL (killed from outside")
        assert one.failure.reason.endswith(": about to die")
        assert not process.alive


def test_who_hangs_in_a_turn_is_ended(folder: Path) -> None:
    """The limit is short in that turn alone."""
    with opened("troubled:cpu+hang.turn", folder) as process:
        one = process.prepare(0, DEADLY)
        process.setting = setting(folder, Timeouts(LATE_S, SOON_S, 0.0))
        assert one.take_turn() is None
        assert one.failure == Failure("timeout", "while timing: silent for 0 s")


# The conversation itself


def spoken(folder: Path, *lines: str) -> tuple[list[str], subprocess.CompletedProcess[str]]:
    """What a worker says to these lines and the end of them."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "membound.bench.worker", "1"],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        env=worker_environment(1, os.environ),
        cwd=folder,
        check=False,
        timeout=LATE_S,
    )
    return done.stdout.splitlines(), done


def test_it_greets_answers_by_number_and_ends_when_it_is_told_to(folder: Path) -> None:
    (folder / "random.py").write_text("raise RuntimeError('a module of this folder was imported')")
    said, done = spoken(
        folder, encode(Release(0), 5), encode(TakeTurn(9), 6), encode(Close(), 7), encode(Release(0), 8)
    )
    assert done.returncode == 0, done.stderr
    told = [decode(line, ANSWERS) for line in said]
    assert told[0] == (Hello(sys.version.split()[0], PROTOCOL), 0)
    assert [number for _, number in told] == [0, 5, 6, 7], "nothing is answered after the end"
    assert told[1][0] == told[3][0] == Done()
    assert told[2][0].status == "error"
    assert done.stderr == ""


def test_the_end_of_the_pipe_is_the_end(folder: Path) -> None:
    said, done = spoken(folder)
    assert (done.returncode, len(said)) == (0, 1)


@pytest.mark.parametrize("line", [json.dumps({"message": "Dance", "number": 1}), "oops"])
def test_what_is_no_command_is_refused_with_a_reason(folder: Path, line: str) -> None:
    said, done = spoken(folder, line, encode(Release(0), 2))
    assert done.returncode == 1
    assert len(said) == 1, "the greeting alone"
    assert f"ProtocolError: {line!r} is no message" in done.stderr.strip().splitlines()[-1]


SETTINGS = """
import io, sys
from membound.bench.worker import main
sys.stdin = io.StringIO()
main(["1"])
from numba.core import config
config.reload_config()  # as before each kernel that is compiled
print(int(config.OPT), config.LOOP_VECTORIZE, config.BOUNDSCHECK, file=sys.stderr)
"""


def test_numbas_settings_of_the_current_folder_are_not_taken(tmp_path: Path) -> None:
    """Which Numba reads again whenever it compiles; kernels would be as slow as they say, and no row would."""
    (tmp_path / ".numba_config.yaml").write_text("opt: '1'\nloop_vectorize: 0\nboundscheck: 1\n")
    done = subprocess.run(
        [sys.executable, "-P", "-c", SETTINGS],
        cwd=tmp_path,
        env=worker_environment(1, os.environ | {"NUMBA_BOUNDSCHECK": "1"}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "3 1 None\n"
