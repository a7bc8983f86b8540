"""The ceilings' process: started with the first turn, again when it dies, given up when that does not help."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from impostors import backend, shell
from local_workers import install, setting, shrink
from processes import gone

from membound.bench.measure.ceiling_process import MOST_STARTS, CeilingProcess
from membound.bench.measure.contestant import Setting, Timeouts, Traffic
from membound.bench.measure.failures import Failure
from membound.bench.protocol.messages import Failed

SOON_S, LATE_S = 0.2, 60.0


@contextmanager
def ceilings(python: str, **values: Any) -> Iterator[tuple[CeilingProcess, list[str]]]:
    """The process and its notes; nothing of it is left at the end."""
    notes: list[str] = []
    limits = values.pop("timeouts", Timeouts(LATE_S, LATE_S))
    made = CeilingProcess(
        Setting(1, 7, 1000, "references", limits), python=python, note=notes.append, **values
    )
    seen: set[int] = set()
    with made:
        yield made, notes
        seen |= {made.pid} if made.pid is not None else set()
    assert made.pid is None
    assert all(gone(pid) for pid in seen)


def test_it_starts_with_the_first_turn_and_goes_on_in_the_same_process(tmp_path: Path) -> None:
    traffic = Traffic(5)
    with ceilings(backend(tmp_path), traffic=traffic, products=("f32",)) as (one, notes):
        assert (one.pid, one.starts, one.units) == (None, 0, {})
        first = one.take_turn()
        pid = one.pid
        second = one.take_turn()
        assert (one.pid, one.starts, notes) == (pid, 1, [])
        assert first.rates == second.rates == {"read": 4e10}
        assert first.at < second.at
        assert one.moments == [first, second]
        assert one.units == {"read": "bytes/s", "fma_f32": "FLOP/s"}
        assert one.seen_variants == {"read": "4 streams"}
        assert traffic.bytes == 5 + 2 * 10_000_000
        assert one.failure is None


def test_begun_before_it_is_the_same_process_that_takes_the_first_turn(tmp_path: Path) -> None:
    with ceilings(backend(tmp_path), products=("f32",)) as (one, notes):
        one.begin()
        pid = one.pid
        assert (one.starts, one.units) == (1, {})
        one.get_ready()
        assert one.units == {"read": "bytes/s", "fma_f32": "FLOP/s"}
        one.take_turn()
        assert pid is not None
        assert (one.pid, one.starts, notes) == (pid, 1, [])


def test_one_that_dies_after_it_was_begun_is_started_again(tmp_path: Path) -> None:
    with ceilings(backend(tmp_path)) as (one, _):
        one.begin()
        begun = one.pid
        assert begun is not None
        os.kill(begun, signal.SIGKILL)
        assert one.take_turn().rates == {"read": 4e10}
        assert (one.pid != begun, one.starts, one.failure) == (True, 2, None)


ECHO = "reply('Failed', number, status='error', reason=json.dumps(command)); continue"


@pytest.mark.parametrize(
    ("names", "due"),
    [
        ((), ["read", "fma_f32"]),
        (("fma_f32",), ["fma_f32"]),
        (("read", "gemm_f32"), ["read"]),
        (("gemm_f32",), []),
    ],
)
def test_those_that_are_named_play_as_far_as_the_device_has_them(
    tmp_path: Path, names: tuple[str, ...], due: list[str]
) -> None:
    with ceilings(backend(tmp_path, "TakeCeilingTurn", ECHO), names=names) as (one, _):
        one.take_turn()
        assert one.failure is not None
        assert f'"names": {str(due).replace(chr(39), chr(34))}' in one.failure.reason


def test_those_of_the_processor_are_asked_for_by_their_formats(tmp_path: Path) -> None:
    with ceilings(backend(tmp_path, "OpenCeiling", ECHO), products=("f32", "int8")) as (one, _):
        one.take_turn()
        assert one.failure is not None
        assert '"products": ["f32", "int8"]' in one.failure.reason


def test_those_of_a_device_go_through_the_backend_that_was_fastest(tmp_path: Path) -> None:
    for at, asked in (
        ("Open", '"backend": "torch:gpu:0"'),
        ("OpenDeviceCeiling", '"variants": {"read": "sum"}'),
    ):
        python = backend(tmp_path, at, ECHO)
        with ceilings(python, backend="torch:gpu:0", variants={"read": "sum"}) as (one, _):
            one.take_turn()
            assert one.failure is not None
            assert asked in one.failure.reason
    with ceilings(backend(tmp_path), backend="torch:gpu:0", variants={"read": "sum"}) as (one, _):
        assert one.take_turn().rates == {"read": 4e10}
        assert one.units == {"read": "bytes/s"}


# It dies

DEATHS = {
    "a signal": ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    "an exit": ("sys.stderr.write('no memory'); sys.exit(1)", "exit status 1: no memory"),
    "no message": ("write('oops\\n')", "it broke the protocol: 'oops' is no message"),
    "an answer of another kind": ("reply('Done', number); continue", "it broke the protocol: Done answers"),
    "a rate of nothing": (
        "reply('CeilingTurned', number, rates={'read': 0.0}, clean={}, variants={}, moved_bytes=0); continue",
        "it told a rate that no ceiling has",
    ),
    "a flood": ("write(b'x' * (5 << 20))", "it flooded the pipe"),
}


@pytest.mark.parametrize("death", DEATHS)
def test_one_that_dies_once_is_started_again_and_its_turn_is_taken(tmp_path: Path, death: str) -> None:
    """Once in all its lives: a file remembers it."""
    lines, why = DEATHS[death]
    mark = tmp_path / "died"
    once = f"""
            if count == 2 and not os.path.exists({str(mark)!r}):
                open({str(mark)!r}, "w").close()
                {lines}
    """.strip()
    with ceilings(backend(tmp_path, "TakeCeilingTurn", once)) as (one, notes):
        first = one.take_turn()
        pid = one.pid
        assert pid is not None
        second = one.take_turn()
        assert one.pid not in (None, pid)
        assert gone(pid)
        assert second.rates == first.rates == one.take_turn().rates
        assert len(one.moments) == 3
        assert (one.starts, one.failure) == (2, None)
        (note,) = notes
        assert note.startswith(f"the ceilings' process ended ({why}")
        assert note.endswith("); it is started again")


@pytest.mark.parametrize("at", ["OpenCeiling", "TakeCeilingTurn"])
@pytest.mark.parametrize("death", ["a signal", "no message", "an answer of another kind"])
def test_one_that_dies_every_time_is_given_up_with_its_reason(tmp_path: Path, at: str, death: str) -> None:
    lines, why = DEATHS[death]
    with ceilings(backend(tmp_path, at, lines)) as (one, notes):
        moment = one.take_turn()
        assert moment.rates == {}
        assert one.starts == MOST_STARTS
        assert len(notes) == MOST_STARTS - 1
        assert one.failure is not None
        assert (one.failure.status, one.failure.reason[: len(why)]) == ("crashed", why)
        assert one.pid is None
        assert one.take_turn().rates == {}
        assert (one.starts, one.moments) == (MOST_STARTS, [])


def test_one_that_dies_now_and_then_is_given_up_when_it_has_been_started_often_enough(tmp_path: Path) -> None:
    """Turns that it took before count, and what came of them is kept."""
    python = backend(tmp_path, "TakeCeilingTurn", "if count == 3: os.kill(os.getpid(), signal.SIGKILL)")
    with ceilings(python) as (one, _):
        moments = [one.take_turn() for _ in range(12)]
        assert one.starts == MOST_STARTS
        taken = 2 * MOST_STARTS
        assert [bool(moment.rates) for moment in moments] == [True] * taken + [False] * (12 - taken)
        assert one.moments == moments[:taken]
        assert one.failure is not None
        assert one.failure.reason.startswith("SIGKILL")


def test_a_hang_is_ended_and_counts_as_a_death(tmp_path: Path) -> None:
    """The limit of a turn is short here, that of all else is not."""
    python = backend(tmp_path, "TakeCeilingTurn", "signal.pause()")
    with ceilings(python, timeouts=Timeouts(LATE_S, SOON_S)) as (one, notes):
        assert one.take_turn().rates == {}
        assert one.failure == Failure("timeout", "silent for 0 s")
        assert len(notes) == MOST_STARTS - 1


@pytest.mark.parametrize("at", ["OpenCeiling", "TakeCeilingTurn"])
def test_a_failure_is_no_death_and_is_not_tried_again(tmp_path: Path, at: str) -> None:
    """A kernel with a wrong result has one in the next process too."""
    fails = backend(tmp_path, **{at: Failed("error", "CeilingError: the read kernel gives a wrong result")})
    with ceilings(fails) as (one, notes):
        assert one.take_turn().rates == {}
        assert one.failure == Failure("error", "CeilingError: the read kernel gives a wrong result")
        assert (one.starts, notes) == (1, [])
        assert one.pid is None, "gigabytes of memory to read are given back"


def test_an_interpreter_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with ceilings(str(tmp_path / "nowhere")) as (one, _):
        assert one.take_turn().rates == {}
        assert one.failure is not None
        assert one.failure.status == "unavailable"
    with ceilings(shell(tmp_path, "exit 1")) as (one, _):
        one.take_turn()
        assert one.failure is not None
        assert one.failure.status == "unavailable"


def test_phases_are_those_of_the_ceilings(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    python = backend(tmp_path, "OpenCeiling", "reply('Phase', number, name='checking the ceilings')")
    with ceilings(python, on_phase=lambda *seen: told.append(seen)) as (one, _):
        one.take_turn()
    assert told == [("ceilings", "checking the ceilings")]


def test_after_an_error_of_the_harness_it_is_not_asked_to_close(tmp_path: Path) -> None:
    python = backend(tmp_path, "Close", "open(sys.argv[0] + '.closed', 'w').close()")

    def leave(error: type[BaseException] | None) -> bool:
        closed = Path(python + ".closed")
        closed.unlink(missing_ok=True)
        made = CeilingProcess(Setting(1, 7, 1000, "references"), python=python)
        made.take_turn()
        pid = made.pid
        made.__exit__(error, None, None)
        assert pid is not None
        assert gone(pid)
        return closed.exists()

    assert leave(None)
    assert not leave(KeyboardInterrupt)


# The real ones, in this process


def test_the_processors_own_ceilings_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    install(monkeypatch)
    traffic = Traffic()
    with CeilingProcess(setting(tmp_path), ("f32", "int8"), traffic=traffic) as one:
        moment = one.take_turn()
        assert one.failure is None
        assert {"read", "fma_f32", "dot_int8"} <= set(one.units) == set(moment.rates)
        assert {one.units["read"], one.units["fma_f32"]} == {"bytes/s", "FLOP/s"}
        assert all(rate > 0 for rate in moment.rates.values())
        assert traffic.bytes > 0
        before = traffic.bytes
        one.names = ("fma_f32",)
        assert set(one.take_turn().rates) == {"fma_f32"}
        assert traffic.bytes == before, "arithmetic moves nothing"
