"""What a backend says it can do of the experiments, before anything is measured."""

from __future__ import annotations

from pathlib import Path

import fake_backends
import pytest

from membound.backends.api import Accelerator, Device
from membound.bench.claim.arms import Arm
from membound.bench.claim.offers import offered, refusal
from membound.bench.protocol.process import Worker
from membound.errors import BackendUnavailable
from membound.kernels.work import Linear, Step

PLAIN = Linear(33, 64, weight="f32").spec
STEP = Step("tiny", context=8).spec
ARMS = [
    Arm("free", "a", PLAIN, extra_fmas=3),
    Arm("mixed", "b", STEP),
    Arm("mixed", "b", PLAIN),
    Arm("idle", "c", PLAIN, thief="idle"),
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


def test_no_thief_meets_a_device_of_its_own_memory() -> None:
    backend, thief = fake_backends.Ok(), ARMS[3]
    assert refusal(backend, Device("ok:cpu", "fake"), thief) is None
    device = Device("ok:gpu", "fake", accelerator=Accelerator())
    assert "no co-runner for this device" in (refusal(backend, device, thief) or "")


def test_a_worker_answers_before_it_measures_ceilings_and_says_nothing_if_it_cannot() -> None:
    asked = {"1": [ARMS[0].as_json()], "2": [ARMS[2].as_json()]}
    for backend, answers in (("ok:cpu", [{"1": {"free": NO_ARITHMETIC}, "2": {}}]), ("ok:npu", [])):
        job = {"job": "measure", "backend": backend, "threads": 1, "works": [], "asked": asked}
        with Worker(job) as worker:
            events = list(worker.events(lambda _: 60.0))
        assert [event["refused"] for event in events if event["event"] == "offers"] == answers
