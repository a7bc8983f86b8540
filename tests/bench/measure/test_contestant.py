"""A contestant as the harness sees it: whatever its process does, at any command, is the failure of that contestant."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from impostors import ANSWERS, backend, shell
from processes import gone

from membound.bench.measure.contestant import (
    BROKEN,
    ENDED,
    BackendProcess,
    FailedError,
    Setting,
    Timeouts,
    Traffic,
)
from membound.bench.measure.failures import Failure, failure_of
from membound.bench.protocol.messages import Turned
from membound.bench.protocol.process import WorkerDiedError, WorkerTimeoutError, WorkerUnavailableError

SOON_S, LATE_S = 0.2, 60.0
WORK = "linear:n=8,k=32,m=1,weight=f32"
IMPATIENT = Timeouts(other_s=SOON_S, turn_s=SOON_S, turn_factor=0.0)
PATIENT = Timeouts(other_s=LATE_S, turn_s=LATE_S)


def setting(timeouts: Timeouts = PATIENT) -> Setting:
    return Setting(2, 7, 1000, "references", timeouts, (1,))


@contextmanager
def process(python: str, **values: Any) -> Iterator[BackendProcess]:
    """Nothing of it is left when it ends."""
    timeouts = values.pop("timeouts", PATIENT)
    with BackendProcess("mine:cpu", setting(timeouts), python, **values) as made:
        yield made
    assert not made.alive
    assert gone(made.pid)


def opened(made: BackendProcess) -> BackendProcess:
    made.open()
    return made


# All goes well


def test_it_is_opened_prepared_timed_checked_and_released(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    python = backend(tmp_path, "TakeTurn", "reply('Phase', number, name='warming up')")
    with process(python, on_phase=lambda *seen: told.append(seen)) as made:
        assert made.open() == made.device == ANSWERS["Open"]
        one = made.prepare(3, WORK)
        assert (one.number, one.work, one.backend, one.prepared) == (3, WORK, "mine:cpu", ANSWERS["Prepare"])
        assert one.take_turn() == ANSWERS["TakeTurn"]
        assert one.check() == ANSWERS["Check"]
        assert one.failure is None
        assert one.turns == []
        made.release(3)
        assert made.alive
    assert told == [("mine:cpu", "warming up")]


def test_what_is_asked_is_what_was_set(tmp_path: Path) -> None:
    echo = "reply('Failed', number, status='error', reason=json.dumps(command)); continue"
    for at, expected in (
        ("Open", {"backend": "mine:cpu", "seed": 7, "memory_bytes": 1000, "reference_dir": "references"}),
        ("Prepare", {"contestant": 4, "work": WORK, "arms": [{"name": "a"}]}),
    ):
        with process(backend(tmp_path, at, echo)) as made, pytest.raises(FailedError) as raised:
            opened(made).prepare(4, WORK, [{"name": "a"}])
        asked = json.loads(raised.value.failure.reason)
        assert asked.items() >= expected.items()


def test_a_turn_says_what_others_have_moved_and_how_it_is_to_be_taken(tmp_path: Path) -> None:
    echo = "reply('Failed', number, status='error', reason=json.dumps(command)); continue"
    traffic = Traffic(500)
    with process(backend(tmp_path, "TakeTurn", echo), traffic=traffic) as made:
        one = opened(made).prepare(0, WORK)
        one.arm = 2
        assert one.take_turn(hot=True, seconds=0.5) is None
    assert one.failure is not None
    asked = json.loads(one.failure.reason)
    assert asked == {
        **{"message": "TakeTurn", "number": 3, "contestant": 0, "arm": 2},
        **{"passed_bytes": 500, "seconds": 0.5, "hot": True},
    }


def test_bytes_are_news_to_everybody_but_to_who_moved_them(tmp_path: Path) -> None:
    traffic = Traffic()
    pythons = [backend(tmp_path, name=f"python{i}") for i in range(2)]
    with process(pythons[0], traffic=traffic) as one, process(pythons[1], traffic=traffic) as two:
        first, second = opened(one).prepare(0, WORK), opened(two).prepare(0, WORK)
        first.take_turn()
        first.take_turn()
        assert traffic.bytes == 4000
        assert (one.passed_bytes(), two.passed_bytes()) == (0, 4000)
        second.take_turn()
        traffic.bytes += 10  # the ceilings'
        assert (one.passed_bytes(), two.passed_bytes()) == (2010, 10)
        assert (one.passed_bytes(), two.passed_bytes()) == (0, 0)


def test_two_works_of_a_process_are_contestants_of_their_own(tmp_path: Path) -> None:
    wrong = (
        "if command['contestant'] == 1: reply('Failed', number, status='oom', reason='too much'); continue"
    )
    with process(backend(tmp_path, "TakeTurn", wrong)) as made:
        opened(made)
        one, two = made.prepare(0, WORK), made.prepare(1, WORK)
        assert two.take_turn() is None
        assert two.failure == Failure("oom", "too much")
        assert one.take_turn() is not None
        assert one.failure is None


def test_a_turn_has_a_limit_that_grows_with_its_burst() -> None:
    limits = Timeouts(turn_s=60, turn_factor=100)
    assert limits.of_turn(0.002) == pytest.approx(60.2)
    assert limits.of_turn(3.0) == pytest.approx(360)


# Something goes wrong

STAGES = {"Open": "opening", "Prepare": "preparing", "TakeTurn": "timing", "Check": "checking"}
TROUBLES = {
    "a failure": (
        "reply('Failed', number, status='oom', reason='too much'); continue",
        Failure("oom", "too much"),
    ),
    "a wrong answer": (
        "reply('Failed', number, status='wrong', reason='far off', error=0.5); continue",
        Failure("wrong", "far off", 0.5),
    ),
    "a signal": (
        "sys.stderr.write('about to die'); sys.stderr.flush(); os.kill(os.getpid(), signal.SIGSEGV)",
        Failure("crashed", "while {at}: SIGSEGV: about to die"),
    ),
    "an exit": ("sys.exit(3)", Failure("crashed", "while {at}: exit status 3")),
    "an exit in order": ("sys.exit(0)", Failure("crashed", "while {at}: exit status 0")),
    "a death in a phase": (
        "reply('Phase', number, name='compiling x'); os.kill(os.getpid(), signal.SIGBUS)",
        Failure("crashed", "while compiling x: SIGBUS"),
    ),
    "no message": (
        "write('oops\\n')",
        Failure("crashed", "while {at}: it broke the protocol: 'oops' is no message: "),
    ),
    "an answer to something else": (
        "reply('Done', 99)",
        Failure("crashed", "while {at}: it broke the protocol: Done answers command 99, not "),
    ),
    "an answer of another kind": (
        "reply('Done', number); continue",
        Failure("crashed", "it broke the protocol: Done answers {at}"),
    ),
    "a flood": ("write(b'x' * (5 << 20))", Failure("crashed", "while {at}: it flooded the pipe: ")),
}


def met(python: str, at: str) -> tuple[Failure, bool]:
    """The failure that the harness sees when it does all up to that command, and whether the process is still used."""
    with process(python) as made:
        try:
            opened(made)
            one = made.prepare(0, WORK)
        except FailedError as error:
            return error.failure, made.alive
        except BROKEN as error:
            return failure_of(error), made.alive
        assert at not in ("Open", "Prepare")
        assert one.take_turn() is None if at == "TakeTurn" else one.check() is None
        assert one.failure is not None
        return one.failure, made.alive


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("at", STAGES)
def test_trouble_at_any_command_is_a_failure(tmp_path: Path, at: str, trouble: str) -> None:
    lines, expected = TROUBLES[trouble]
    failure, alive = met(backend(tmp_path, at, lines), at)
    assert (failure.status, failure.error) == (expected.status, expected.error)
    assert failure.reason.startswith(expected.reason.format(at=STAGES[at]))
    assert alive == (expected.status != "crashed"), "a process that has failed is of no more use"


@pytest.mark.parametrize("at", STAGES)
def test_a_hang_at_any_command_is_a_timeout(tmp_path: Path, at: str) -> None:
    """The limit is short at that command alone: starting an interpreter takes its time."""
    python = backend(tmp_path, at, "signal.pause()")
    with process(python) as made:
        if at != "Open":
            opened(made)
        one = made.prepare(0, WORK) if at in ("TakeTurn", "Check") else None
        made.setting = setting(IMPATIENT)
        if one is not None:
            assert one.take_turn() is None if at == "TakeTurn" else one.check() is None
            assert one.failure is not None
            failure = one.failure
        elif at == "Prepare":
            with pytest.raises(WorkerTimeoutError) as raised:
                made.prepare(0, WORK)
            failure = failure_of(raised.value)
        else:
            with pytest.raises(WorkerTimeoutError) as raised:
                made.open()
            failure = failure_of(raised.value)
        assert failure == Failure("timeout", f"while {STAGES[at]}: silent for 0 s")
        assert not made.alive


@pytest.mark.parametrize(
    "lines",
    [
        "reply('Failed', number, status='error', reason='cannot be closed'); continue",
        "os.kill(os.getpid(), signal.SIGSEGV)",
        "write('oops\\n')",
        "reply('Hello', number, python='3', protocol=1); continue",
    ],
)
def test_trouble_in_giving_back_harms_nothing_that_was_measured(tmp_path: Path, lines: str) -> None:
    with process(backend(tmp_path, "Release", lines)) as made:
        one = opened(made).prepare(0, WORK)
        one.take_turn()
        made.release(0)
        assert one.failure is None
        made.release(0)


def test_who_hangs_in_giving_back_is_ended(tmp_path: Path) -> None:
    with process(backend(tmp_path, "Release", "signal.pause()")) as made:
        opened(made).prepare(0, WORK)
        made.setting = setting(IMPATIENT)
        made.release(0)
        assert not made.alive


def test_who_hangs_at_the_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("membound.bench.protocol.process.Worker.close.__defaults__", (SOON_S,))
    with process(backend(tmp_path, "Close", "signal.pause()")) as made:
        opened(made)
        assert made.alive
    assert not made.alive
    with pytest.raises(ProcessLookupError):
        os.kill(made.pid, 0)


def test_after_a_death_the_others_of_its_process_say_that_it_has_ended(tmp_path: Path) -> None:
    with process(backend(tmp_path, "TakeTurn", "os.kill(os.getpid(), signal.SIGKILL)")) as made:
        opened(made)
        one, two = made.prepare(0, WORK), made.prepare(1, WORK)
        assert one.take_turn() is None
        assert one.failure is not None
        assert one.failure.reason.startswith("while timing: SIGKILL (killed from outside")
        assert two.take_turn() is None
        assert two.check() is None
        assert two.failure == Failure("crashed", ENDED)
        with pytest.raises(WorkerDiedError, match=ENDED):
            made.prepare(2, WORK)
        made.release(1)


def test_who_has_failed_is_asked_nothing_more(tmp_path: Path) -> None:
    fails_once = "if count == 1: reply('Failed', number, status='error', reason='once'); continue"
    with process(backend(tmp_path, "TakeTurn", fails_once)) as made:
        one = opened(made).prepare(0, WORK)
        assert [one.take_turn(), one.take_turn(), one.check()] == [None, None, None]
        assert one.failure == Failure("error", "once")


@pytest.mark.parametrize(
    ("turned", "says"),
    [
        ({"time_s": 0.0}, "a turn of 2 launches of 0 s"),
        ({"time_s": 1e-13}, "a turn of 2 launches of 1e-13 s"),
        ({"launches": 0}, "a turn of 0 launches of 0.001 s"),
        ({"device_s": 0.0}, "a turn of 0 s by the device's clock"),
        ({"device_s": 1e-300}, "a turn of 1e-300 s by the device's clock"),
    ],
)
def test_a_turn_that_no_file_could_hold_is_an_error(
    tmp_path: Path, turned: dict[str, Any], says: str
) -> None:
    good = ANSWERS["TakeTurn"]
    assert isinstance(good, Turned)
    with process(backend(tmp_path, TakeTurn=replace(good, **turned))) as made:
        one = opened(made).prepare(0, WORK)
        assert one.take_turn() is None
        assert one.failure == Failure("error", says)
        assert made.alive


# It never starts


def test_an_interpreter_that_is_not_there_cannot_be_entered(tmp_path: Path) -> None:
    made = BackendProcess("mine:cpu", setting(), str(tmp_path / "nowhere"))
    with pytest.raises(WorkerUnavailableError, match="cannot be started"):
        made.__enter__()
    assert not made.alive


def test_an_interpreter_without_membound_is_unavailable(tmp_path: Path) -> None:
    python = shell(tmp_path, "echo 'No module named membound' >&2", "exit 1")
    with process(python) as made:
        with pytest.raises(WorkerUnavailableError) as raised:
            made.open()
        assert not made.alive
    assert failure_of(raised.value) == Failure(
        "unavailable", f"{python} cannot run a worker: No module named membound"
    )
