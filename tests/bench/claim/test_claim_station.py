"""Arms in a worker that does what it is asked, on backends that do right, wrong or harm: from arm to observation.

Workers run in this process, so that co-runners and caches can be faked; the ceilings between the turns are faked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import claim_workers
import fake_backends
import pytest
from claim_workers import Faked, FakeWorker, planned, run

from membound.backends.api import Accelerator, Device
from membound.bench.claim import execute as claim_execute
from membound.bench.claim.arms import Arm
from membound.bench.claim.timed_arm import VICTIM_SLOTS
from membound.bench.measure import station
from membound.bench.measure.cold_memory import ColdMemory
from membound.bench.protocol.messages import Answer, Command, TakeCeilingTurn
from membound.kernels.cpu.instruments import co_runner
from membound.kernels.work import Linear, Step
from membound.results.claim.observation import Observation

PLAIN = Linear(33, 64, weight="f32").spec
THIRTEEN = Linear(33, 64, 13, "f32").spec
SIZE = Linear(33, 64, weight="f32").footprint_bytes
TRADES = [("idle", 0.5), ("bandwidth", 0.5), ("fma", 0.5), ("fma", 1.0)]


class FakeCoRunner:
    """Takes a gigabyte or a GFLOP whenever it is asked what it took; writes down what it is told."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.trade = "rest"
        self.bytes = self.flops = 0

    def __enter__(self) -> FakeCoRunner:
        self.log.append("enter")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append("exit")

    def work(self, trade: str, duty: float = 1.0) -> None:
        self.log.append((trade, duty))
        self.trade = trade

    def rest(self) -> None:
        self.log.append("rest")
        self.trade = "rest"

    def taken(self) -> tuple[int, int]:
        self.bytes += 10**9 * (self.trade == "bandwidth")
        self.flops += 10**9 * (self.trade == "fma")
        return self.bytes, self.flops


Measure = Callable[..., list[Observation]]


@pytest.fixture
def faked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faked:
    """Fake backends, and a megabyte of cache instead of what this machine has."""
    fake_backends.install(tmp_path / "site", monkeypatch)
    monkeypatch.setattr(station, "cold_memory", lambda threads: ColdMemory(1 << 20, lambda: 1 << 18))
    return claim_workers.install_stations(monkeypatch)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the co-runner of the CPUs is told."""
    told: list[Any] = []
    monkeypatch.setattr(co_runner, "CpuCoRunner", lambda cpus, memory_bytes: FakeCoRunner(told))
    return told


@pytest.fixture
def measure(tmp_path: Path, faked: Faked, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Observations of these arms, in their order, in one process of an experiment."""

    def do(backend: str, arms: list[Arm], number: int = 3, **more: Any) -> list[Observation]:
        monkeypatch.setattr(claim_execute, "arms_of", lambda number, scene: arms)
        plan = planned(tmp_path, number, backends=(backend,), processes=1, **({"rounds": 3} | more))
        claim, _ = run(tmp_path, plan, faked=faked)
        assert len(claim.observations) == len(arms)
        order = [(arm.name, arm.work, arm.factors) for arm in arms]
        return sorted(
            claim.observations,
            key=lambda one: next(
                at
                for at, (name, work, factors) in enumerate(order)
                if (name, work) == (one.arm, one.work) and factors.items() <= one.factors.items()
            ),
        )

    return do


def accelerator(monkeypatch: pytest.MonkeyPatch, cache_bytes: int, **methods: Any) -> None:
    """Have the fake backend run on a device with memory of its own."""
    facts = Accelerator(memory_bytes=1 << 30, cache_bytes=cache_bytes)
    device = Device("ok:cpu", "fake", 1, accelerator=facts)
    monkeypatch.setattr(fake_backends.Ok, "open", lambda self, name, threads: device)
    for name, method in methods.items():
        monkeypatch.setattr(fake_backends.Ok, name, method)


def test_every_arm_is_checked_and_has_its_turns_and_counters(measure: Measure) -> None:
    arms = [Arm("a", "one", PLAIN), Arm("b", "one", THIRTEEN), Arm("c", "two", PLAIN, resident=True)]
    found = measure("ok:cpu", arms, rounds=5)
    assert [(one.arm, one.status) for one in found] == [("a", "ok"), ("b", "ok"), ("c", "ok")]
    for one in found:
        assert len(one.turns) == 5
        assert 0 < len(one.samples_s) <= 5
        assert all(0 < s < 1 for s in one.samples_s)
        assert one.time_s == sorted(one.samples_s)[len(one.samples_s) // 2] or len(one.samples_s) % 2 == 0
        assert one.telemetry["wall_s"] > 0
        assert one.telemetry["error"] <= 1e-6
        assert one.telemetry["stored_bytes"] is None
    assert [one.telemetry["slots"] for one in found] == [33, 33, 1]
    resident = -(-(32 << 20) // SIZE)
    assert found[2].telemetry["launches"] == resident
    assert {turn.launches for turn in found[2].turns} == {resident}


@pytest.mark.parametrize(
    ("backend", "status", "part"),
    [
        (
            "wrong:cpu",
            "wrong",
            r"error 0\.(1|0[6-9]\d*) ",
        ),  # 0.1, and of what few outputs typically have a third less
        ("notfinite:cpu", "wrong", "not finite"),
        ("laterwrong:cpu", "wrong", r"error (2|1\.[3-9]\d*) "),  # 2, likewise
        ("raises:cpu", "error", "RuntimeTroubleError: kernel not registered"),
        ("ok:npu", "unavailable", "no device 'npu'; pip install another-machine"),
        ("missing:cpu", "unavailable", "cannot be imported"),
    ],
)
def test_what_goes_wrong_is_an_observation(measure: Measure, backend: str, status: str, part: str) -> None:
    (one,) = measure(backend, [Arm("a", "one", PLAIN)])
    assert one.status == status
    assert re.search(part, one.reason)
    assert (one.time_s, one.samples_s) == (None, [])


def test_an_arm_that_fails_leaves_the_others(measure: Measure) -> None:
    arms = [
        Arm("a", "one", THIRTEEN),
        Arm("b", "one", PLAIN),
        Arm("c", "one", Step("tiny", context=8).spec),
        Arm("d", "one", PLAIN, extra_fmas=3),
    ]
    found = measure("oom:cpu", arms)
    assert [one.status for one in found] == ["oom", "ok", "unsupported", "unsupported"]
    assert [one.reason for one in found[2:]] == ["step is not faked", "no kernels with extra arithmetic"]


def test_an_arm_may_run_on_a_variant_of_the_backend(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def note(self: fake_backends.Ok, device: str, threads: int) -> Device:
        opened.append(device)
        return real(self, device, threads)

    real = fake_backends.Ok.open
    monkeypatch.setattr(fake_backends.Ok, "open", note)
    arms = [
        Arm("plain", "suite", PLAIN),
        Arm("graph", "suite", PLAIN, variant="twin"),
        Arm("other graph", "suite", PLAIN, variant="triplet"),
    ]
    found = measure("ok:cpu", arms)
    assert {*opened} == {"cpu", "cpu+triplet", "cpu+twin"}
    assert [one.status for one in found] == ["ok", "ok", "unavailable"]
    assert "no device 'cpu+triplet'" in found[2].reason


def test_extra_arithmetic_is_asked_for_before_the_work_is_prepared(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[int, Any]] = []
    real = fake_backends.Ok.prepare

    def add_arithmetic(self: fake_backends.Ok, work: Any, fmas: int) -> None:
        events.append((id(self), fmas))

    def prepare(self: fake_backends.Ok, work: Any, inputs: Any) -> None:
        events.append((id(self), "prepare"))
        real(self, work, inputs)

    monkeypatch.setattr(fake_backends.Ok, "add_arithmetic", add_arithmetic)
    monkeypatch.setattr(fake_backends.Ok, "prepare", prepare)
    arms = [Arm("linear_f32", "one", PLAIN, {"k": k}, extra_fmas=k) for k in (0, 5)]
    found = measure("ok:cpu", arms, number=1)
    assert [one.status for one in found] == ["ok", "ok"]
    assert [one.flops for one in found] == [2 * 33 * 64, 2 * 33 * 64 * 6]
    prepared = [at for at, (_, what) in enumerate(events) if what == "prepare"]
    assert [events[at - 1][1] for at in prepared] == [0, 5]
    assert all(events[at - 1][0] == events[at][0] for at in prepared)


# Co-runners


def victims(trades: list[tuple[str, float]] = TRADES, groups: tuple[str, ...] = ("theft",)) -> list[Arm]:
    works = dict(zip(groups, (PLAIN, THIRTEEN), strict=False))
    return [
        Arm(trade, group, work, {"duty": duty}, trade=trade, duty=duty)
        for group, work in works.items()
        for trade, duty in trades
    ]


def test_doses_share_a_victim_and_what_they_take_is_measured(measure: Measure, log: list[Any]) -> None:
    found = measure("ok:cpu", victims(), number=4)
    assert [one.status for one in found] == ["ok"] * 4
    assert [one.threads for one in found] == [1] * 4
    assert {one.telemetry["launches"] for one in found} == {VICTIM_SLOTS - 1}
    assert {one.telemetry["slots"] for one in found} == {VICTIM_SLOTS}
    read = [one.number("stolen_bytes_per_s") for one in found]
    flops = [one.number("stolen_flops_per_s") for one in found]
    assert [rate > 0 for rate in read] == [False, True, False, False]
    assert [rate > 0 for rate in flops] == [False, False, True, True]
    assert (read[0], flops[0]) == (0.0, 0.0)


def test_a_co_runner_works_for_the_victims_turn_alone_and_rests_while_a_ceiling_plays(
    measure: Measure, log: list[Any], faked: Faked
) -> None:
    at_ceilings: list[Any] = []

    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, TakeCeilingTurn):
            at_ceilings.append(log[-1] if log else "not started")
        return None

    faked.happens = happens
    measure("ok:cpu", victims(), number=4)
    assert at_ceilings[0] == "enter"  # it was started and is at rest
    assert {*at_ceilings} == {"enter", "rest"}
    assert len(at_ceilings) == 3 * 4 + 2
    assert (log[0], log[-1], log.count("enter")) == ("enter", "exit", 1)
    turns = log[1:-1]
    assert sorted(turns[::2]) == sorted(TRADES * 3)
    assert turns[1::2] == ["rest"] * 12


@pytest.mark.parametrize("where", ["launch", "work", "taken"])
def test_a_co_runner_rests_whatever_becomes_of_the_turn(
    measure: Measure, log: list[Any], faked: Faked, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def breaks(*_: Any, **__: Any) -> None:
        if log and log[-1] == ("bandwidth", 0.5):
            raise RuntimeError("it broke")

    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        assert not isinstance(command, TakeCeilingTurn) or log[-1] in ("enter", "rest")
        return None

    if where == "launch":
        real = fake_backends.Ok.launch
        monkeypatch.setattr(fake_backends.Ok, "launch", lambda self, slot: (breaks(), real(self, slot))[1])
    else:
        method = getattr(FakeCoRunner, where)
        monkeypatch.setattr(FakeCoRunner, where, lambda self, *a: (method(self, *a), breaks())[0])
    faked.happens = happens
    found = measure("ok:cpu", victims(), number=4)
    assert [one.status for one in found] == ["ok", "error", "ok", "ok"]
    assert found[1].reason == "RuntimeError: it broke"
    assert log[log.index(("bandwidth", 0.5)) + 1] == "rest"


def test_one_co_runner_of_the_cpus_serves_all_groups(measure: Measure, log: list[Any], faked: Faked) -> None:
    found = measure("ok:cpu", victims([("idle", 0.0)], ("linear", "attention")), number=4)
    assert [one.status for one in found] == ["ok"] * 2
    assert (log.count("enter"), log.count("exit"), log[-1]) == (1, 1, "exit")
    assert [phase for _, phase in faked.notes.phases].count("starting the co-runner") == 2


def test_a_co_runner_that_cannot_be_started_fails_its_arms_and_nothing_else(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(cpus: Any, memory_bytes: int) -> FakeCoRunner:
        raise ValueError("a co-runner needs a CPU of its own")

    monkeypatch.setattr(co_runner, "CpuCoRunner", fails)
    found = measure("ok:cpu", [*victims([("idle", 0.0)]), Arm("b", "b", PLAIN)], number=4)
    assert [(one.status, one.reason) for one in found] == [
        ("error", "ValueError: a co-runner needs a CPU of its own"),
        ("ok", ""),
    ]


def test_a_device_of_its_own_memory_meets_no_co_runner_of_the_cpus_and_rotates_past_its_own_cache(
    measure: Measure, log: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator(monkeypatch, 1 << 16)
    found = measure("ok:cpu", [*victims([("idle", 0.0)]), Arm("b", "b", PLAIN)], number=4)
    assert [one.status for one in found] == ["unsupported", "ok"]
    assert found[0].reason == "no co-runner for this device"
    assert found[1].telemetry["slots"] * SIZE > 4 << 16
    assert log == []


def test_the_co_runner_of_a_device_ends_with_its_group_before_its_backend_is_closed(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []

    def close(self: fake_backends.Ok) -> None:
        if hasattr(self, "outputs"):
            log.append("close")

    accelerator(monkeypatch, 1 << 12, co_runner=lambda self: FakeCoRunner(log), close=close)
    arms = victims(groups=("linear", "attention"))
    found = measure("ok:cpu", arms, number=4)
    assert [one.status for one in found] == ["ok"] * 8
    assert [event for event in log if event in ("enter", "exit", "close")] == ["enter", "exit", "close"] * 2
    assert {one.telemetry["launches"] for one in found} == {VICTIM_SLOTS - 1}
    assert [one.number("stolen_bytes_per_s") > 0 for one in found[:4]] == [False, True, False, False]


def test_a_victim_has_no_time_by_the_devices_clock_which_would_run_without_the_co_runner(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator(
        monkeypatch,
        1 << 12,
        co_runner=lambda self: FakeCoRunner([]),
        mark=lambda self: object(),
        elapsed_s=lambda self, start, end: 1e-3,
    )
    found = measure("ok:cpu", [*victims([("idle", 0.5)]), Arm("b", "b", PLAIN)], number=4)
    assert {turn.device_s for turn in found[0].turns} == {None}
    assert all(turn.device_s for turn in found[1].turns)
