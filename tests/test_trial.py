"""Arms in turn in one process: every one cold and checked, whatever its backend does an outcome."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_backends
import pytest
from membound.bench.claim.player import Outcome, Player
from membound.bench.claim.trial import Trial, run_trial

from membound.backends.api import Accelerator, Device
from membound.bench.claim import player, trial
from membound.bench.claim.arms import Arm
from membound.bench.measure.cold_memory import ColdMemory
from membound.bench.measure.contestant import Contestant
from membound.bench.measure.turns import Turn
from membound.kernels.seeded import make_inputs
from membound.kernels.work import Linear, Step
from membound.results.claim.observation import NO_TIME, SKIPPED

PLAIN = Linear(33, 64, weight="f32").spec
THIRTEEN = Linear(33, 64, 13, "f32").spec
NEED = 1 << 20


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake backends, and a megabyte of cache instead of what this machine has."""
    fake_backends.install(tmp_path / "site", monkeypatch)
    monkeypatch.setattr(trial, "_cold_memory", lambda threads: ColdMemory(NEED, lambda: 1 << 18))
    monkeypatch.setattr(trial, "rotating_bytes", lambda threads: 4 << 20)


def outcomes(folder: Path, backend: str, arms: list[Arm], **more: Any) -> tuple[list[Outcome], list[Any]]:
    phases: list[Any] = []
    made = Trial(
        backend,
        tuple(arms),
        threads=1,
        seed=7,
        replicate=0,
        rounds=more.get("rounds", 3),
        seconds=more.get("seconds", 1.0),
        memory_bytes=1 << 30,
        thief_cpus=more.get("thief_cpus", ()),
        reference_dir=folder / "reference",
        left_s=more.get("left_s", inf),
    )

    def tell(phase: str, arms: list[int]) -> None:
        phases.append((phase, tuple(arms)))
        more.get("tell", str)(phase)

    found = list(run_trial(made, tell))
    return sorted(found, key=lambda outcome: outcome.index), phases


def test_every_arm_has_as_many_turns_as_there_are_rounds(tmp_path: Path) -> None:
    arms = [Arm("a", "one", PLAIN), Arm("b", "one", THIRTEEN), Arm("c", "two", PLAIN, resident=True)]
    found, phases = outcomes(tmp_path, "ok:cpu", arms, rounds=5)
    assert [(o.index, o.status) for o in found] == [(0, "ok"), (1, "ok"), (2, "ok")]
    for outcome in found:
        assert len(outcome.telemetry["turns_s"]) == len(outcome.telemetry["disturbances"]) == 5
        assert 0 < len(outcome.samples_s) <= 5
        assert all(0 < s < 1 for s in outcome.samples_s)
        assert outcome.telemetry["wall_s"] > 0
    assert [p for p in phases if p[0] == "preparing"] == [("preparing", (i,)) for i in range(3)]
    timed = [arms for phase, arms in phases if phase == "timing"]
    assert sorted(timed[:10]) == [(0,)] * 5 + [(1,)] * 5
    assert all({timed[i], timed[i + 1]} == {(0,), (1,)} for i in range(0, 10, 2))
    assert timed[10:] == [(2,)] * 5


def test_time_ends_a_group_after_a_few_rounds(tmp_path: Path) -> None:
    found, _ = outcomes(tmp_path, "ok:cpu", [Arm("a", "one", PLAIN)], rounds=50, seconds=0.0)
    assert len(found[0].telemetry["turns_s"]) == trial.LEAST_ROUNDS


def test_where_no_time_is_left_nothing_more_is_begun(tmp_path: Path) -> None:
    arms = [Arm("a", "one", PLAIN), Arm("b", "two", THIRTEEN)]
    found, phases = outcomes(tmp_path, "ok:cpu", arms, left_s=-1.0)
    assert [(o.status, o.reason, o.samples_s) for o in found] == [(SKIPPED, NO_TIME, [])] * 2
    assert phases == []


def test_time_that_ends_while_a_group_is_prepared_leaves_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = ticking(monkeypatch, lambda phase: 10.0 if phase == "preparing" else 0.0)
    arms = [Arm("a", "one", PLAIN), Arm("b", "one", THIRTEEN), Arm("c", "two", PLAIN)]
    found, phases = outcomes(tmp_path, "ok:cpu", arms, left_s=15.0, tell=now)
    assert [o.status for o in found] == [SKIPPED] * 3
    assert [p for p in phases if p[0] == "preparing"] == [("preparing", (0,)), ("preparing", (1,))]
    assert "timing" not in dict(phases)


def test_time_that_ends_while_a_group_is_timed_ends_it_with_its_first_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = ticking(monkeypatch, lambda phase: 10.0 if phase == "timing" else 0.0)
    arms = [Arm("a", "one", PLAIN), Arm("b", "one", THIRTEEN), Arm("c", "two", PLAIN)]
    found, _ = outcomes(tmp_path, "ok:cpu", arms, left_s=5.0, rounds=9, seconds=1e9, tell=now)
    assert [o.status for o in found] == ["ok", "ok", SKIPPED]
    assert [len(o.telemetry["turns_s"]) for o in found[:2]] == [1, 1]


def ticking(monkeypatch: pytest.MonkeyPatch, takes: Callable[[str], float]) -> Callable[[str], None]:
    """A clock that stands still but for what the phases that begin take."""
    now = [0.0]
    monkeypatch.setattr(trial, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def tell(phase: str) -> None:
        now[0] += takes(phase)

    return tell


@pytest.mark.parametrize(
    ("backend", "status", "part"),
    [
        ("wrong:cpu", "wrong", "error 0.1"),
        ("notfinite:cpu", "wrong", "error inf"),
        ("laterwrong:cpu", "wrong", "error 2"),
        ("raises:cpu", "error", "RuntimeTroubleError: kernel not registered"),
        ("ok:npu", "unavailable", "no device 'npu'; pip install another-machine"),
        ("missing:cpu", "unavailable", "cannot be imported"),
    ],
)
def test_what_goes_wrong_is_an_outcome(tmp_path: Path, backend: str, status: str, part: str) -> None:
    found, _ = outcomes(tmp_path, backend, [Arm("a", "one", PLAIN)], rounds=9)
    assert found[0].status == status
    assert part in found[0].reason
    assert found[0].samples_s == []


def test_an_arm_that_fails_leaves_the_others(tmp_path: Path) -> None:
    arms = [
        Arm("a", "one", THIRTEEN),
        Arm("b", "one", PLAIN),
        Arm("c", "one", Step("tiny", context=8).spec),
        Arm("d", "one", PLAIN, extra_fmas=3),
    ]
    found, _ = outcomes(tmp_path, "oom:cpu", arms)
    assert [o.status for o in found] == ["oom", "ok", "unsupported", "unsupported"]
    assert [o.reason for o in found[2:]] == ["step is not faked", "no kernels with extra arithmetic"]


def test_an_arm_may_run_on_a_variant_of_the_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def note(self: fake_backends.Ok, device: str, threads: int) -> Device:
        opened.append(device)
        return real(self, device, threads)

    real = fake_backends.Ok.open
    monkeypatch.setattr(fake_backends.Ok, "open", note)
    arms = [
        Arm("plain", "suite", PLAIN),
        Arm("graph", "suite", PLAIN, variant="twin"),
        Arm("graph", "suite", PLAIN, variant="triplet"),
    ]
    found, _ = outcomes(tmp_path, "ok:cpu", arms)
    assert sorted(opened) == ["cpu", "cpu+triplet", "cpu+twin"]
    assert [o.status for o in found] == ["ok", "ok", "unavailable"]
    assert "no device 'cpu+triplet'" in found[2].reason


def test_doses_of_a_thief_share_a_victim_and_are_measured(tmp_path: Path) -> None:
    duties = (("idle", 0.0), ("bandwidth", 1.0), ("fma", 1.0))
    arms = [Arm(t, "theft", PLAIN, {"duty": d}, thief=t, duty=d) for t, d in duties]
    found, phases = outcomes(tmp_path, "ok:cpu", arms, thief_cpus=(0,))
    assert [p for p in phases if p[0] == "preparing"] == [("preparing", (0, 1, 2))]
    assert [o.status for o in found] == ["ok"] * 3
    assert all(o.telemetry["launches"] == trial.THEFT_SLOTS - 1 for o in found)
    assert all(set(o.factors) == {"stolen_bytes_per_s", "stolen_flops_per_s"} for o in found)
    assert found[0].factors == {"stolen_bytes_per_s": 0.0, "stolen_flops_per_s": 0.0}


def test_one_co_runner_serves_all_groups(tmp_path: Path) -> None:
    arms = [Arm("idle", group, PLAIN, {"duty": 0.0}, thief="idle") for group in ("a", "b")]
    found, phases = outcomes(tmp_path, "ok:cpu", arms, thief_cpus=(0,))
    assert [o.status for o in found] == ["ok"] * 2
    assert [p for p in phases if p[0] == "starting the co-runner"] == [("starting the co-runner", (0,))]


@pytest.mark.parametrize(("launch_s", "launches"), [(0.3e-3, 3), (19e-3, 3), (21e-3, 1)])
def test_a_launch_much_longer_than_a_burst_is_timed_once_to_fit_it(
    monkeypatch: pytest.MonkeyPatch, launch_s: float, launches: int
) -> None:
    one, now, launched = contestant(4), [0.0], list[int]()
    monkeypatch.setattr(
        "membound.bench.measure.contestant.time", SimpleNamespace(perf_counter=lambda: now[0])
    )

    def launch(slot: int) -> None:
        launched.append(slot)
        now[0] += launch_s

    monkeypatch.setattr(one.backend, "launch", launch)
    one.fit_burst()
    assert len(launched) == launches
    assert one.launches == (3 if launch_s < 1e-3 else 1)


def test_a_device_of_its_own_memory_meets_no_thief_and_rotates_past_its_own_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device("ok:cpu", "fake", 1, accelerator=Accelerator(memory_bytes=1 << 30, cache_bytes=1 << 16))
    monkeypatch.setattr(fake_backends.Ok, "open", lambda self, name, threads: device)
    arms = [
        Arm("idle", "a", PLAIN, {"duty": 0.0}, thief="idle"),
        Arm("b", "b", PLAIN),
    ]
    found, _ = outcomes(tmp_path, "ok:cpu", arms, thief_cpus=(0,))
    assert [o.status for o in found] == ["unsupported", "ok"]
    assert found[0].reason == "no co-runner for this device"
    assert found[1].telemetry["slots"] * Linear(33, 64, weight="f32").footprint_bytes > 4 << 16


class FakeThief:
    """Takes a gigabyte or a GFLOP whenever it is asked what it took."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.bytes = self.flops = 0

    def __enter__(self) -> FakeThief:
        self.log.append("enter")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append("exit")

    def work(self, trade: str, duty: float = 1.0) -> None:
        self.log.append((trade, duty))

    def rest(self) -> None:
        self.log.append("rest")

    def taken(self) -> tuple[int, int]:
        trade, _ = self.log[-1]
        self.bytes += 10**9 * (trade == "bandwidth")
        self.flops += 10**9 * (trade == "fma")
        return self.bytes, self.flops


def test_a_backend_may_offer_a_co_runner_on_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device("ok:cpu", "fake", 1, accelerator=Accelerator(memory_bytes=1 << 30, cache_bytes=1 << 12))
    monkeypatch.setattr(fake_backends.Ok, "open", lambda self, name, threads: device)
    thief = FakeThief()
    monkeypatch.setattr(fake_backends.Ok, "thief", lambda self: thief)
    doses = [("idle", 0.5), ("bandwidth", 0.5), ("fma", 0.5), ("fma", 1.0)]
    arms = [Arm(t, "theft", PLAIN, {"duty": d}, thief=t, duty=d) for t, d in doses]
    found, phases = outcomes(tmp_path, "ok:cpu", arms, rounds=3)
    assert [o.status for o in found] == ["ok"] * 4
    assert (thief.log[0], thief.log[-1], thief.log.count("enter")) == ("enter", "exit", 1)
    assert sorted(e for e in thief.log if isinstance(e, tuple)) == sorted(doses * 3)
    turns = thief.log[1:-1]
    assert turns[1::2] == ["rest"] * len(turns[1::2])
    assert {o.factors["stolen_bytes_per_s"] > 0 for o in found[1:2]} == {True}
    assert {o.factors["stolen_flops_per_s"] > 0 for o in found[2:]} == {True}
    assert found[0].factors == {"stolen_bytes_per_s": 0.0, "stolen_flops_per_s": 0.0}
    assert {o.telemetry["launches"] for o in found} == {trial.THEFT_SLOTS - 1}
    assert ("starting the co-runner", (0, 1, 2, 3)) in phases


def contestant(slots: int) -> Contestant:
    work = Linear(33, 64, weight="f32")
    backend = fake_backends.Ok()
    inputs = make_inputs(work, 1, slots)
    backend.prepare(work, inputs)
    return Contestant("ok:cpu", backend, inputs, ColdMemory(NEED, lambda: 1 << 18), [0] * slots, slots - 1)


def test_a_resident_arm_is_warm_and_all_others_are_cold() -> None:
    warm, cold = contestant(1), contestant(2)
    Player(0, Arm("a", "x", PLAIN, resident=True), warm).take_turn(None)
    assert warm.cold.passed_bytes % warm.inputs.work.footprint_bytes == 0  # nothing but its own launches
    Player(1, Arm("a", "x", PLAIN), cold).take_turn(None)
    before = cold.cold.passed_bytes
    Player(1, Arm("a", "x", PLAIN), cold).take_turn(None)
    assert cold.cold.passed_bytes - before >= NEED


@pytest.mark.parametrize(
    ("disturbances", "grade", "used"),
    [
        ([0.0, 0.0, 0.0, 0.5], "clean", [1.0, 2.0, 3.0]),
        ([0.5, 0.4, 0.0, 0.3], "contended", [3.0, 4.0, 2.0]),
        ([None, 0.0, 0.0, 0.0], "unknown", [2.0, 3.0, 4.0]),
    ],
)
def test_a_grade_counts_undisturbed_turns(
    disturbances: list[float | None], grade: str, used: list[float]
) -> None:
    one = Player(0, Arm("a", "x", PLAIN), contestant(2))
    one.contestant.launches = 2
    one.turns = [Turn(2.0 * (i + 1), d) for i, d in enumerate(disturbances)]
    outcome = one.outcome()
    assert outcome.grade == grade
    assert bool(outcome.grade_reasons) == (grade != "clean")
    assert outcome.samples_s == used
    assert outcome.telemetry["turns_s"] == [2.0, 4.0, 6.0, 8.0]
    assert player.ATTEMPTS >= 1
