"""Ceilings between points, and the bytes of a step as sums."""

from __future__ import annotations

import signal
from dataclasses import replace
from threading import Event
from typing import Any

import pytest

from membound.bench.measure.ceiling_process import Moment
from membound.bench.serving import ceilings
from membound.bench.serving.ceilings import TURNS, IdleCeilings, roofline_config, step_of
from membound.bench.serving.served import parse_served
from membound.results.serving.step_model import StepModel

SERVED = parse_served("step:model=tiny,weight=f32")


@pytest.mark.parametrize("spec", ["step:model=tiny,weight=f32", "step:model=llama-3-8b,weight=bf16,layers=2"])
@pytest.mark.parametrize(("batch", "context"), [(1, 1), (3, 77), (16, 1024)])
def test_a_step_is_the_sum_that_the_work_says(spec: str, batch: int, context: int) -> None:
    served = parse_served(spec)
    model, work = StepModel(**step_of(served)), replace(served.work, batch=batch, context=context)
    assert model.bytes_of(batch, context) == work.traffic.total_bytes
    assert model.flops_of(batch, context) == work.flops


class FakeCeilings:
    """A process of ceilings whose turns are known."""

    failure = pid = None
    ready = False

    def __init__(self, setting: Any, products: tuple[str, ...], names: tuple[str, ...]) -> None:
        self.asked = (setting.threads, products, names)

    def __enter__(self) -> FakeCeilings:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True

    def get_ready(self) -> None:
        self.ready = True

    def take_turn(self) -> Moment:
        assert self.ready, "a turn does not wait for what begins with the server"
        return Moment(0.0, {"read": 1e10})


def test_turns_are_of_the_engines_threads_and_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "CeilingProcess", FakeCeilings)
    with IdleCeilings(SERVED, "cpu", 3, 1) as idle:
        assert idle.turns() == [{"read": 1e10}] * TURNS
        process: Any = idle._process
    assert process.ended
    assert process.asked == (3, ("f32",), ("read", "fma_f32", "gemm_f32"))
    with IdleCeilings(SERVED, "cuda", 1, 1) as idle:
        assert idle.turns() == []
        assert idle.unknown == "ceilings of cuda are not measured beside a server"
        process = idle._process
    assert not process.ready


def test_what_a_row_holds() -> None:
    assert roofline_config(None, []) == {}
    stored = roofline_config(SERVED, [{"read": 1e10}])
    assert stored["ceilings"] == [{"read": 1e10}]
    assert stored["work"] == SERVED.work.spec
    assert "step_backend" not in stored
    assert roofline_config(SERVED, [], "alpha:cpu")["step_backend"] == "alpha:cpu"


def test_one_that_is_left_while_it_gets_ready_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is killed, which ends what it was asked."""

    class Slow(FakeCeilings):
        over = Event()

        @property
        def pid(self) -> int:
            return 4711

        def get_ready(self) -> None:
            assert self.over.wait(20)

    monkeypatch.setattr(ceilings, "CeilingProcess", Slow)
    killed: list[tuple[int, int]] = []

    def kill(pid: int, number: int) -> None:
        killed.append((pid, number))
        Slow.over.set()

    monkeypatch.setattr(ceilings.os, "kill", kill)
    with IdleCeilings(SERVED, "cpu", 1, 1):
        pass
    assert killed == [(4711, signal.SIGKILL)]
