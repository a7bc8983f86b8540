"""Running the experiments: everything that happens to a worker is an observation, and nothing measured is lost."""

from __future__ import annotations

from pathlib import Path

import claim_workers
import pytest
from claim_workers import LAUNCH_S, PEAK, READ, TIMES_S, Faked, FakeWorker, planned, run, turned

from membound.bench.protocol.messages import (
    Answer,
    AskOffers,
    Check,
    Checked,
    Command,
    MeasureBackend,
    MeasureMachine,
    Open,
    Prepare,
    TakeTurn,
)
from membound.kernels.work import parse
from membound.results.claim.judge import judge_claim
from membound.results.claim.observation import Observation


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Faked:
    return claim_workers.install(monkeypatch)


def test_every_arm_in_every_process_with_the_ceilings_it_is_held_against(
    tmp_path: Path, faked: Faked
) -> None:
    claim, notes = run(tmp_path, planned(tmp_path, 1, 4))
    assert notes == []
    asked = [(worker.threads, type(command)) for worker, command in faked.asked[:5]]
    assert asked == [
        (1, MeasureMachine),
        (2, MeasureMachine),
        (2, Open),
        (2, AskOffers),
        (2, MeasureBackend),
    ]
    first = [one for one in claim.observations if one.experiment == 1]
    assert {one.replicate for one in first} == {0, 1, 2}
    assert len(first) == 3 * len({(one.arm, one.number("k")) for one in first})
    one = next(o for o in first if o.arm == "linear_bf16" and o.number("k") > 0)
    turns = [*TIMES_S, *TIMES_S, TIMES_S[0]]
    assert (one.time_s, one.samples_s, one.validity) == (0.2, turns, "clean")
    assert [turn.time_s for turn in one.turns] == turns
    assert [turn.round for turn in one.turns] == list(range(7))
    assert (one.read_bytes_per_s, one.compute_flops_per_s, one.launch_s) == (2 * READ, 2 * PEAK, LAUNCH_S)
    work = parse(one.work)
    assert one.bytes == work.traffic.total_bytes
    assert one.flops == work.flops * (1 + one.number("k"))
    assert (one.telemetry["error"], one.telemetry["slots"], one.telemetry["launches"]) == (2e-7, 2, 1)
    victims = [one for one in claim.observations if one.experiment == 4]
    assert {(o.threads, o.read_bytes_per_s, len(o.turns)) for o in victims} == {(1, READ, 7)}
    assert {o.number("machine_read_bytes_per_s") for o in victims} == {2 * READ}


def test_a_process_opens_once_and_every_work_is_prepared_checked_and_given_back(
    tmp_path: Path, faked: Faked
) -> None:
    run(tmp_path, planned(tmp_path, 4, processes=2))
    of = faked.workers(Prepare)
    assert len(of) == 2
    for worker in of:
        asked = [command for other, command in faked.asked if other is worker]
        opened, first = asked[0], asked[1]
        assert isinstance(opened, Open)
        assert (opened.backend, opened.co_runner_cpus) == ("numba:cpu", [1])
        assert isinstance(first, Prepare)
        kinds = [type(command).__name__ for command in asked[1:]]
        group = ["Prepare", *["TakeTurn"] * 7 * 7, *["Check"] * 7, "Release"]  # seven doses on one victim
        assert kinds == group * 2
        assert worker.state == "ended"


@pytest.mark.parametrize(
    ("disturbances", "grade", "used"),
    [
        ([0.0, 0.0, 0.0, 0.5], "clean", [1.0, 2.0, 3.0]),
        ([0.5, 0.4, 0.0, 0.3], "contended", [3.0, 4.0, 2.0]),
        ([0.6, 0.7, 0.8, 0.5], "contended", [4.0, 1.0, 2.0]),  # compared with doses of the same minutes
        ([None, 0.0, 0.0, 0.0], "unknown", [2.0, 3.0, 4.0]),
    ],
)
def test_turns_that_were_disturbed_are_kept_and_do_not_count_where_others_can(
    tmp_path: Path, faked: Faked, disturbances: list[float | None], grade: str, used: list[float]
) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if not isinstance(command, TakeTurn):
            return None
        at = worker.turns[command.contestant, command.arm]
        return turned(float(at), disturbance=disturbances[at - 1], retaken_s=[9.0])

    faked.happens = happens
    claim, _ = run(tmp_path, planned(tmp_path, 5, processes=1, rounds=4))
    for one in claim.observations:
        assert (one.validity, one.samples_s, one.time_s) == (grade, used, sorted(used)[1])
        assert bool(one.validity_reasons) == (grade != "clean")
        assert [turn.time_s for turn in one.turns] == [1.0, 2.0, 3.0, 4.0]
        assert [turn.disturbance for turn in one.turns] == disturbances
        assert {tuple(turn.retaken_s) for turn in one.turns} == {(9.0,)}


def test_captured_launches_are_arms_of_a_backend_that_has_them(tmp_path: Path, faked: Faked) -> None:
    backends = ("numba:cpu", "numpy:cpu")
    plan = planned(tmp_path, 7, backends=backends, variants={"numpy:cpu": ("graph",)}, processes=1)
    claim, _ = run(tmp_path, plan)
    seen = {(one.backend, one.arm) for one in claim.observations}
    assert seen == {("numba:cpu", "plain"), ("numpy:cpu", "plain"), ("numpy:cpu", "graph")}
    # What launching costs was measured of the plain device alone.
    assert {one.launch_s for one in claim.observations if one.arm == "graph"} == {None}
    assert {one.read_bytes_per_s for one in claim.observations} == {2 * READ}


def test_what_a_co_runner_took_is_kept_as_the_median_of_the_turns(tmp_path: Path, faked: Faked) -> None:
    taken = (7e9, 1e9, 5e9)

    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if not isinstance(command, TakeTurn):
            return None
        at = worker.turns[command.contestant, command.arm] - 1
        rates = {"stolen_bytes_per_s": taken[at], "stolen_flops_per_s": 0.0}
        return turned(0.1, stolen=rates)

    faked.happens = happens
    claim, _ = run(tmp_path, planned(tmp_path, 4, rounds=3))
    assert {one.number("stolen_bytes_per_s") for one in claim.observations} == {5e9}
    assert {one.number("stolen_flops_per_s") for one in claim.observations} == {0.0}
    assert {one.number("duty") for one in claim.observations} == {0.0, 0.25, 0.5, 1.0}


def test_clocks_count_only_where_both_of_a_device_can_be_read(tmp_path: Path, faked: Faked) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if not isinstance(command, Check):
            return None
        clocks = {
            "torch:cuda:0": {"frequency_hz": 3e9, "device_clock_hz": 1.5e9, "device_memory_clock_hz": None},
            "torch:cuda:1": {"frequency_hz": 3e9, "device_clock_hz": None, "device_memory_clock_hz": 2.5e9},
            "torch:cuda:2": {"frequency_hz": 3e9, "device_clock_hz": 1.5e9, "device_memory_clock_hz": 2.5e9},
        }
        return Checked(0.0, {}, clocks[worker.backend])

    faked.happens = happens
    names = ("numba:cpu", "torch:cuda:0", "torch:cuda:1", "torch:cuda:2")
    claim, _ = run(tmp_path, planned(tmp_path, 8, backends=names))
    blind = [one for one in claim.observations if one.backend != "torch:cuda:2"]
    assert {(one.status, one.replicate) for one in blind} == {("unsupported", 0)}
    assert {one.backend for one in blind} == {*names[:3]}
    assert all("cannot both be read" in one.reason for one in blind)
    assert [backend for backend, _, _ in faked.trials] == [*names[1:3], *["torch:cuda:2"] * 8]
    seen = [one for one in claim.observations if one.backend == "torch:cuda:2"]
    assert {one.status for one in seen} == {"ok"}
    assert {(o.number("core_clock_hz"), o.number("memory_clock_hz")) for o in seen} == {(1.5e9, 2.5e9)}


def test_stored_observations_come_first(tmp_path: Path, faked: Faked) -> None:
    old = Observation(9, "numba:cpu", "decode", 0, {"machine": "A"}, "linear:n=1,k=1", 1, 1, 1.0, [1.0])
    claim, _ = run(tmp_path, planned(tmp_path, 9), (old,))
    assert claim.observations == [old]


def test_what_a_claim_stores_gets_the_verdicts_that_its_world_deserves(tmp_path: Path, faked: Faked) -> None:
    """Ten experiments on a machine where bytes or FLOPs take their time and caches are three times as fast."""

    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if not isinstance(command, TakeTurn):
            return None
        arm = worker.arm_of(command)
        cached = arm.resident and arm.factors["working_set_bytes"] <= arm.factors["cache_bytes"]
        bytes_s = arm.parsed.traffic.total_bytes / READ / (3 if cached else 1)
        seconds = max(bytes_s, arm.flops / PEAK) / worker.threads
        taken = {"stolen_bytes_per_s": 0.0, "stolen_flops_per_s": 0.0}
        if arm.trade == "bandwidth":
            seconds *= 1 + arm.duty / 2
            taken["stolen_bytes_per_s"] = 1e10 * arm.duty
        return turned(seconds * (1 + 1e-3 * faked.notes.replicate), stolen=taken if arm.trade else {})

    faked.happens = happens
    plan = planned(tmp_path, time_limit_s=None, rounds=3)
    claim, _ = run(tmp_path, plan, faked=faked)
    assert {one.status for one in claim.observations if one.experiment != 8} == {"ok"}
    findings = judge_claim(claim.observations, claim_workers.REGISTER, plan.experiments)
    verdicts = {(one.experiment, one.arm): one.verdict for one in findings if one.experiment not in (8, 9)}
    assert {*verdicts.values()} == {"supported"}
    assert {number for number, _ in verdicts} == {1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13}
