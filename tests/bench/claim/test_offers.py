"""What a backend says it can do of the experiments, before anything is measured."""

from __future__ import annotations

from pathlib import Path

import fake_backends
import pytest

from membound.backends.api import Accelerator, Device
from membound.bench.claim.arms import Arm
from membound.bench.claim.offers import offered, refusal
from membound.bench.protocol.messages import AskOffers, Failed, Offers, Open
from membound.bench.protocol.process import Worker
from membound.errors import BackendUnavailable
from membound.kernels.work import Linear, Step

PLAIN = Linear(33, 64, weight="f32").spec
STEP = Step("tiny", context=8).spec
ARMS = [
    Arm("free", "a", PLAIN, extra_fmas=3),
    Arm("mixed", "b", STEP),
    Arm("mixed", "b", PLAIN),
    Arm("idle", "c", PLAIN, trade="idle"),
]
NO_ARITHMETIC = "no kernels with extra arithmetic"


@pytest.fixture(autouse=True)
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_backends.install(tmp_path / "site", monkeypatch)


def test_names_of_which_no_arm_can_be_done_are_refused_with_a_reason() -> None:
    asked = {1: ARMS[:1], 2: ARMS[1:3], 4: ARMS[3:], 7: ARMS[1:2], 9: []}
    assert offered("ok:cpu", 1, asked) == {
        1: {"free": NO_ARITHMETIC},
        2: {},
        4: {},
        7: {"mixed": "step is not faked"},
        9: {},
    }
    with pytest.raises(BackendUnavailable, match="no device 'npu'"):
        offered("ok:npu", 1, asked)


def test_no_co_runner_of_the_cpus_meets_a_device_of_its_own_memory() -> None:
    backend, victim = fake_backends.Ok(), ARMS[3]
    assert refusal(backend, Device("ok:cpu", "fake"), victim) is None
    device = Device("ok:gpu", "fake", accelerator=Accelerator())
    assert "no co-runner for this device" in (refusal(backend, device, victim) or "")


def test_a_worker_says_what_it_cannot_do_and_fails_where_it_has_no_device(tmp_path: Path) -> None:
    """A real worker: what it is asked and what it answers cross a pipe."""
    asked = {"1": [ARMS[0].as_json()], "2": [ARMS[2].as_json()], "4": [ARMS[3].as_json()]}
    with Worker(1) as worker:
        worker.greet()
        worker.ask(Open("ok:cpu", 1, 1 << 30, str(tmp_path)), 60.0)
        assert worker.ask(AskOffers(asked), 60.0) == Offers({"1": {"free": NO_ARITHMETIC}, "2": {}, "4": {}})
        answer = worker.ask(Open("ok:npu", 1, 1 << 30, str(tmp_path)), 60.0)
        assert answer == Failed("unavailable", "no device 'npu'; pip install another-machine")
        worker.close()


def test_a_backend_is_closed_whatever_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(fake_backends.Ok, "close", lambda self: closed.append(True))
    offered("ok:cpu", 1, {1: ARMS})
    with pytest.raises(BackendUnavailable):
        offered("ok:npu", 1, {1: ARMS})
    assert closed == [True, True]
