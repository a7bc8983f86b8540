"""Preparing a backend: its first output is right, its burst is fitted; who fails is closed and says what failed first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cold import SIZE, WORK, Fake

from membound.backends.api import Backend, Device
from membound.bench.measure import cold_backend
from membound.bench.measure.cold_backend import (
    ColdBackend,
    Preparation,
    prepare_cold,
)
from membound.bench.measure.cold_memory import ColdMemory
from membound.bench.measure.failures import WrongAnswerError
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels.inputs import Inputs
from membound.kernels.weights import generate
from membound.kernels.work import Work, parse


class Broken(Fake):
    """Fails where it is told to."""

    where = ""

    def open(self, device: str, threads: int) -> Device:
        if self.where == "open":
            raise BackendUnavailable("not there", "plug it in")
        return super().open(device, threads)

    def supports(self, work: Work) -> str | None:
        return "not this" if self.where == "supports" else None

    def prepare(self, work: Work, inputs: Inputs) -> None:
        super().prepare(work, inputs)
        if self.where == "prepare":
            raise RuntimeError("bad graph")

    def output(self) -> Any:
        return -super().output() if self.where == "output" else super().output()

    def close(self) -> None:
        super().close()
        if self.where:
            raise RuntimeError("cannot be closed either")


def how(folder: Path, **values: Any) -> Preparation:
    return Preparation(
        **({"threads": 2, "seed": 5, "memory_bytes": 1 << 20, "reference_dir": folder} | values)
    )


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch, backend: Fake, **values: Any) -> ColdBackend:
    monkeypatch.setattr(cold_backend.registry, "create", lambda name: backend)
    cold = ColdMemory(1000, lambda: 1000, passed_bytes=5000)
    return prepare_cold("fake:cpu", WORK, how(folder), cold, **values)


def test_a_prepared_backend_is_right_fitted_and_cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    backend = Fake()
    real = backend.prepare
    backend.prepare = lambda work, inputs: order.append("prepare") or real(work, inputs)  # type: ignore[method-assign,func-returns-value]
    one = prepare(
        tmp_path,
        monkeypatch,
        backend,
        slots=lambda work, device, memory_bytes: 4 if memory_bytes == 1 << 20 else 0,
        ready=lambda opened, device: order.append(f"ready {device.threads}"),
    )
    assert order == ["ready 2", "prepare"]
    assert (one.slots, one.inputs.seed, backend.inputs.slots) == (4, 5, 4)
    assert backend.slots == [0, 1, 2, 3], "the first is checked, three are for fitting"
    assert one.cold.passed_bytes >= 5000 + 4 * SIZE
    assert all(use >= 5000 for use in one.last_use)
    assert min(one.prepare_s, one.first_s, one.launch_s) > 0
    assert 0 < one.error < 1e-6
    assert backend.closed == 0
    one.close()
    assert backend.closed == 1


def test_contestants_share_no_operand_and_get_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (prepare(tmp_path, monkeypatch, Fake()).inputs for _ in range(2))
    assert not np.shares_memory(one.x, two.x)
    np.testing.assert_array_equal(one.x, two.x)
    assert not np.shares_memory(one.weight(1).values, two.weight(1).values)
    np.testing.assert_array_equal(one.weight(1).values, two.weight(1).values)


@pytest.mark.parametrize(
    ("where", "error", "says"),
    [
        ("open", BackendUnavailable, "not there"),
        ("supports", Unsupported, "not this"),
        ("prepare", RuntimeError, "bad graph"),
        ("output", WrongAnswerError, "error 2 on input set 0 exceeds"),
    ],
)
def test_one_that_fails_is_closed_and_says_what_failed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: type[Exception], says: str
) -> None:
    backend = Broken()
    backend.where = where
    with pytest.raises(error, match=says):
        prepare(tmp_path, monkeypatch, backend)
    assert backend.closed == 1


def test_what_an_experiment_asks_besides_is_refused_before_preparing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ready(backend: Backend, device: Device) -> None:
        raise Unsupported("no extra arithmetic")

    backend = Fake()
    with pytest.raises(Unsupported, match="no extra arithmetic"):
        prepare(tmp_path, monkeypatch, backend, ready=ready)
    assert not hasattr(backend, "inputs")
    assert backend.closed == 1


def test_phases_are_told_as_they_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(cold_backend.registry, "create", lambda name: Fake())
    prepare_cold("fake:cpu", WORK, how(tmp_path, tell=told.append), ColdMemory(10, lambda: 10))
    assert told == ["preparing", "checking", "fitting the burst"]


def test_what_it_takes_to_draw_is_no_part_of_what_preparing_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, draw = [100.0], generate._draw_weight

    def drawn(*given: Any) -> Any:
        now[0] += 5.0
        return draw(*given)

    class Packs(Fake):
        def prepare(self, work: Work, inputs: Inputs) -> None:
            super().prepare(work, inputs)
            for slot in range(inputs.slots):
                inputs.weight(slot)  # type: ignore[union-attr]
                now[0] += 2.0

    monkeypatch.setattr(generate, "_draw_weight", drawn)
    monkeypatch.setattr(cold_backend.time, "perf_counter", lambda: now[0])
    one = prepare(tmp_path, monkeypatch, Packs(), slots=lambda work, device, memory_bytes: 3)
    assert one.prepare_s == pytest.approx(6.0)
    assert now[0] >= 100.0 + 3 * 7.0


def test_a_real_backend_is_prepared_and_timed(tmp_path: Path) -> None:
    work = parse("linear:n=160,k=96,m=1,weight=f32")
    one = prepare_cold("numpy:cpu", work, how(tmp_path), ColdMemory(10, lambda: 10))
    turn = one.take_turn(attempts=1)
    assert turn.time_s > 0
    one.check()
    assert 0 < one.error < 1e-5
    one.close()
