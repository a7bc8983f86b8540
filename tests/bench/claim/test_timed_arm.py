"""An arm's turn: resident or cold, how many input sets it has and how long its burst is."""

from __future__ import annotations

from pathlib import Path

import fake_backends
import pytest

from membound.backends.api import Accelerator, Device
from membound.bench.claim import timed_arm
from membound.bench.claim.arms import Arm
from membound.bench.claim.timed_arm import BURST_BYTES, VICTIM_SLOTS, TimedArm, slots_of_arms
from membound.bench.measure.cold_backend import ColdBackend
from membound.bench.measure.cold_memory import MOST_SLOTS, ColdMemory
from membound.kernels.seeded import make_inputs
from membound.kernels.slots import SET_BYTES
from membound.kernels.work import Linear, Prefill, Step, Work

WORK = Linear(33, 64, weight="f32")
PLAIN = WORK.spec
SIZE = WORK.footprint_bytes
COST = SIZE + SET_BYTES
NEED = 1 << 20
CPU = Device("ok:cpu", "fake")
ROOM = 1 << 40


class Recorded(fake_backends.Ok):
    """Remembers which input sets were launched."""

    def launch(self, slot: int) -> None:
        super().launch(slot)
        self.launched = [*getattr(self, "launched", []), slot]


def contestant(slots: int) -> ColdBackend:
    backend = Recorded()
    inputs = make_inputs(WORK, 1, slots)
    backend.prepare(WORK, inputs)
    cold = ColdMemory(NEED, lambda: 1 << 18)
    return ColdBackend("ok:cpu", backend, CPU, inputs, cold, Path("unused"), [0] * slots, slots - 1)


def launched(one: ColdBackend) -> list[int]:
    assert isinstance(one.backend, Recorded)
    return one.backend.launched


def test_a_resident_arm_is_warm_and_all_others_are_cold() -> None:
    warm, cold = contestant(1), contestant(2)
    resident = TimedArm(Arm("a", "x", PLAIN, resident=True), warm)
    resident.choose_burst()
    resident.take_turn()
    assert warm.cold.passed_bytes == SIZE * len(launched(warm))  # nothing but its own launches
    assert len(launched(warm)) >= warm.launches + 2  # and a working set twice before them
    plain = TimedArm(Arm("a", "x", PLAIN), cold)
    plain.take_turn()
    before = cold.cold.passed_bytes
    plain.take_turn()
    assert cold.cold.passed_bytes - before >= NEED


def test_the_burst_of_a_resident_arm_is_many_launches_of_its_only_set_and_of_others_what_fits() -> None:
    resident, victim, plain = contestant(1), contestant(VICTIM_SLOTS), contestant(3)
    plain.launches = 2
    for one, arm in (
        (resident, Arm("a", "x", PLAIN, resident=True)),
        (victim, Arm("a", "x", PLAIN, trade="fma", duty=0.5)),
        (plain, Arm("a", "x", PLAIN)),
    ):
        TimedArm(arm, one).choose_burst()
    assert (resident.launches - 1) * SIZE < BURST_BYTES <= resident.launches * SIZE
    assert victim.launches == VICTIM_SLOTS - 1
    assert plain.launches == 2


def test_a_victim_is_timed_once_though_others_run_and_warms_up_on_the_set_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Idle:
        def work(self, trade: str, duty: float) -> None: ...

        def rest(self) -> None: ...

        def taken(self) -> tuple[int, int]:
            return 0, 0

    seen = []
    real = timed_arm.take_turn
    monkeypatch.setattr(timed_arm, "take_turn", lambda *a, **k: (seen.append(k), real(*a, **k))[1])
    one = contestant(VICTIM_SLOTS)
    timed = TimedArm(Arm("idle", "x", PLAIN, trade="idle"), one, Idle())  # type: ignore[arg-type]
    timed.choose_burst()
    turn = timed.take_turn()
    assert turn.retaken == ()
    assert [(k["attempts"], k["alone"]) for k in seen] == [(1, False)]
    burst = launched(one)[-one.launches :]
    assert len({*burst}) == VICTIM_SLOTS - 1
    assert not {*launched(one)[: -one.launches]} & {*burst}
    assert timed.stolen == {"stolen_bytes_per_s": 0.0, "stolen_flops_per_s": 0.0}


@pytest.mark.parametrize(
    ("work", "arm", "sets"),
    [
        (WORK, Arm("a", "x", PLAIN, resident=True), 1),
        (Step("tiny", context=8), Arm("a", "x", PLAIN), 1),
        (Prefill("tiny", tokens=8), Arm("a", "x", PLAIN), 1),
        (WORK, Arm("a", "x", PLAIN, trade="idle"), VICTIM_SLOTS),
        (WORK, Arm("a", "x", PLAIN), MOST_SLOTS),
        (Linear(4096, 4096, weight="f32"), Arm("a", "x", PLAIN), 2),
        (Linear(1024, 1024, weight="f32"), Arm("a", "x", PLAIN), 9),
    ],
)
def test_input_sets_on_the_cpu(work: Work, arm: Arm, sets: int) -> None:
    assert slots_of_arms([arm])(work, CPU, ROOM) == sets
    assert slots_of_arms([Arm("b", "x", PLAIN), arm])(work, CPU, ROOM) == sets


def test_input_sets_of_an_accelerator_defeat_its_cache_within_half_of_its_memory() -> None:
    def sets(arm: Arm, cache_bytes: int, memory_bytes: int, room: int = ROOM) -> int:
        facts = Accelerator(memory_bytes=memory_bytes, cache_bytes=cache_bytes)
        return slots_of_arms([arm])(WORK, Device("ok:gpu", "fake", accelerator=facts), room)

    plain, victim = Arm("a", "x", PLAIN), Arm("a", "x", PLAIN, trade="fma")
    assert sets(plain, 10 * SIZE, 1 << 30) == 4 * 10 + 1
    assert sets(plain, 10 * SIZE, 40 * COST) == 20
    assert sets(plain, 10 * SIZE, 1 << 30, 7 * COST) == 7
    assert sets(victim, 1, 1 << 30) == VICTIM_SLOTS
    assert sets(plain, 1, 1 << 30) == 2
    assert sets(victim, 1, 1 << 30, 3 * COST) == 3
    assert sets(victim, 1, 1 << 30, COST) == 2
