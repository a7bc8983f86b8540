"""The ceilings between the turns of a claim: each time has those of its own moment, and their end ends nothing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import median

import claim_workers
import pytest
from claim_workers import PEAK, READ, Faked, FakeWorker, dying, of_ceilings, planned, run, turned

from membound.bench.ceilings.in_turn import product_patterns
from membound.bench.claim.arms import arms_of
from membound.bench.claim.ceilings import PRODUCTS
from membound.bench.claim.scene import Scene
from membound.bench.measure.ceiling_process import MOST_STARTS
from membound.bench.protocol.messages import (
    Answer,
    AskOffers,
    CeilingTurned,
    Command,
    Failed,
    MeasureBackend,
    MeasureMachine,
    OpenCeiling,
    OpenDeviceCeiling,
    TakeCeilingTurn,
    TakeTurn,
)
from membound.results.claim.observation import Observation
from membound.results.roofline import compute_ceilings
from membound.results.turns import StoredTurn


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Faked:
    return claim_workers.install(monkeypatch)


def in_order(observations: list[Observation]) -> list[StoredTurn]:
    """All turns as they were taken."""
    return sorted((turn for one in observations for turn in one.turns), key=lambda turn: turn.at_s)


def doubling(faked: Faked) -> None:
    """Let ceilings double with every turn of theirs, and every turn of anybody take a second."""

    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, TakeTurn):
            faked.now_s[0] += 1.0
            return turned(0.2)
        if isinstance(command, TakeCeilingTurn):
            faked.now_s[0] += 1.0
            usual = of_ceilings(worker, command)
            assert isinstance(usual, CeilingTurned)
            grown = 2.0 ** len(faked.of(TakeCeilingTurn))
            rates = {name: rate * grown for name, rate in usual.rates.items()}
            return CeilingTurned(rates, usual.clean, usual.variants, usual.moved_bytes)
        return None

    faked.happens = happens


def test_each_time_has_the_ceilings_right_before_and_right_after_it(
    tmp_path: Path, faked: Faked, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_workers.stop_clock(monkeypatch, faked)
    doubling(faked)
    claim, _ = run(tmp_path, planned(tmp_path, 5, processes=1, rounds=3, time_limit_s=None, group_s=1e9))
    turns = in_order(claim.observations)
    assert len(turns) == 3 * len(claim.observations)
    assert [turn.before["read"] for turn in turns] == [2 * READ * 2.0 ** (at + 2) for at in range(len(turns))]
    assert all(turn.after["read"] == 2 * turn.before["read"] for turn in turns)
    assert all(one.after == other.before for one, other in pairwise(turns))
    assert {round(turn.between, 9) for turn in turns} == {
        0.45
    }  # the middle of 0.2 s, a second of two before it
    for one in claim.observations:
        moments = [turn.before["read"] * 1.45 for turn in one.turns]
        assert one.read_bytes_per_s == pytest.approx(median(moments))
        assert one.compute_flops_per_s == 2 * PEAK  # which did not play, as it cannot bind
    assert len({one.read_bytes_per_s for one in claim.observations}) == len(claim.observations)


def test_peaks_are_those_of_the_moment_too_where_they_can_bind(
    tmp_path: Path, faked: Faked, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_workers.stop_clock(monkeypatch, faked)
    doubling(faked)
    claim, _ = run(tmp_path, planned(tmp_path, 10, processes=1, rounds=3, time_limit_s=None, group_s=1e9))
    prompts = [one for one in claim.observations if one.arm == "prefill"]
    for one in prompts:
        assert {name for turn in one.turns for name in turn.before} == {"read", "fma_f32"}
        moments = [turn.before["fma_f32"] * 1.45 for turn in one.turns]
        assert one.compute_flops_per_s == pytest.approx(median(moments))
    assert len({one.compute_flops_per_s for one in prompts}) == len(prompts) == 3


def test_between_any_two_turns_the_ceilings_play_once_and_nobody_is_asked_before_the_other_answered(
    tmp_path: Path, faked: Faked
) -> None:
    run(tmp_path, planned(tmp_path, 4, 5, processes=1, rounds=3))
    played = [type(command) for command in faked.of(TakeTurn, TakeCeilingTurn)]
    after_turn = [later for earlier, later in pairwise(played) if earlier is TakeTurn]
    before_turn = [earlier for earlier, later in pairwise(played) if later is TakeTurn]
    assert {*after_turn} == {*before_turn} == {TakeCeilingTurn}
    assert played[-1] is TakeCeilingTurn


def test_one_process_plays_for_all_works_with_as_many_threads(tmp_path: Path, faked: Faked) -> None:
    plan = planned(tmp_path, 3, 4, 5, backends=("numba:cpu", "numpy:cpu"), rounds=3)
    claim, _ = run(tmp_path, plan)
    openings = [
        (worker.threads, command.products) for worker, command in faked.asked if type(command) is OpenCeiling
    ]
    assert sorted(openings) == [(1, list(PRODUCTS)), (2, list(PRODUCTS))]
    assert {worker.state for worker in faked.workers(OpenCeiling)} == {"ended"}
    for one in claim.observations:
        assert {turn.before["read"] for turn in one.turns} == {READ * one.threads}


@pytest.mark.parametrize(
    ("number", "arm", "names"),
    [
        (1, "linear_f32", {"read", "fma_f32"}),
        (1, "attention_bf16", {"read", "fma_f32"}),  # extra multiply-adds are float32, whatever is stored
        (2, "weight_format", {"read", "fma_f32", "dot_bf16", "tile_bf16"}),  # four bits a weight are few
        (3, "linear_bf16", {"read", "fma_f32", "dot_bf16", "tile_bf16"}),
        (4, "idle", {"read"}),
        (5, "linear_f32", {"read"}),
    ],
)
def test_only_what_can_bind_takes_turns(
    tmp_path: Path, faked: Faked, number: int, arm: str, names: set[str]
) -> None:
    claim, _ = run(tmp_path, planned(tmp_path, number, processes=1, rounds=3))
    turns = [turn for one in claim.observations if one.arm == arm for turn in one.turns]
    assert {frozenset(turn.before) for turn in turns} == {frozenset(names)}


def test_the_peaks_of_every_arm_are_among_those_that_are_made() -> None:
    scene = Scene(
        cache_bytes=300 << 20, ridge=11.0, co_runner_cores=1, core_cache_bytes=1 << 20, knee_rows=30
    )
    wanted = {
        name
        for number in range(1, 14)
        for arm in arms_of(number, scene)
        for name in compute_ceilings(arm.work)
        if not name.startswith("gemm") and not name.endswith("f16")
    } | {"dot_bf16", "tile_bf16"}
    made = {"fma_f32"} | {f"{kind}_{fmt}" for kind in ("dot", "tile") for fmt in PRODUCTS}
    assert wanted <= made
    assert set(product_patterns(PRODUCTS, 1)) <= made


def test_ceilings_that_die_in_the_middle_are_started_again_and_the_claim_goes_on(
    tmp_path: Path, faked: Faked
) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, TakeCeilingTurn) and len(faked.of(TakeCeilingTurn)) == 8:
            raise dying("SIGKILL")
        return None

    faked.happens = happens
    claim, notes = run(tmp_path, planned(tmp_path, 5, rounds=3))
    assert notes == ["the ceilings' process ended (SIGKILL); it is started again"]
    assert len(faked.of(OpenCeiling)) == 2
    assert {one.status for one in claim.observations} == {"ok"}
    assert {len(one.turns) for one in claim.observations} == {3}
    assert all(turn.before and turn.after for one in claim.observations for turn in one.turns)
    assert {row.status for row in claim.ceilings} == {"ok"}


def test_ceilings_that_die_now_and_then_are_started_as_often_as_a_long_claim_needs(
    tmp_path: Path, faked: Faked
) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, TakeCeilingTurn) and len(faked.of(TakeCeilingTurn)) % 30 == 20:
            raise dying("SIGKILL")
        return None

    faked.happens = happens
    claim, notes = run(tmp_path, planned(tmp_path, 3, rounds=3))
    assert len(faked.of(OpenCeiling)) == 1 + len(notes) > 1 + MOST_STARTS
    assert {one.status for one in claim.observations} == {"ok"}
    assert all(turn.before and turn.after for one in claim.observations for turn in one.turns)
    assert {row.status for row in claim.ceilings} == {"ok"}


@pytest.mark.parametrize("at", [OpenCeiling, TakeCeilingTurn])
def test_ceilings_that_die_every_time_are_a_row_and_the_claim_goes_on_without(
    tmp_path: Path, faked: Faked, at: type[Command]
) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, at):
            raise dying("SIGILL")
        return None

    faked.happens = happens
    claim, notes = run(tmp_path, planned(tmp_path, 3, 5, rounds=3))
    assert len(faked.of(OpenCeiling)) == MOST_STARTS
    assert len(notes) == MOST_STARTS - 1
    failed = [row for row in claim.ceilings if row.status != "ok"]
    assert [(row.backend, row.threads, row.status, row.reason) for row in failed] == [
        ("cpu", 2, "crashed", "while they took turns: SIGILL")
    ]
    assert {one.status for one in claim.observations} == {"ok"}
    assert {one.read_bytes_per_s for one in claim.observations} == {2 * READ}  # those of the start
    assert not any(turn.before or turn.after for one in claim.observations for turn in one.turns)


def test_ceilings_that_cannot_be_made_are_a_row_and_are_not_tried_again(tmp_path: Path, faked: Faked) -> None:
    reason = "CeilingError: the ceilings need 6291456 bytes of memory at least; 0 may be taken"
    faked.happens = lambda worker, command: (
        Failed("error", reason) if isinstance(command, OpenCeiling) else None
    )
    claim, _ = run(tmp_path, planned(tmp_path, 5, rounds=3))
    assert len(faked.of(OpenCeiling)) == 1
    failed = [(row.status, row.reason) for row in claim.ceilings if row.status != "ok"]
    assert failed == [("error", f"while they took turns: {reason}")]
    assert {one.status for one in claim.observations} == {"ok"}


def test_at_the_end_rows_say_how_far_the_machine_has_moved(
    tmp_path: Path, faked: Faked, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_workers.stop_clock(monkeypatch, faked)
    doubling(faked)
    claim, _ = run(tmp_path, planned(tmp_path, 5, processes=1, rounds=3, time_limit_s=None, group_s=1e9))
    (read,) = [row for row in claim.ceilings if "turns" in row.config]
    turns = len(faked.of(TakeCeilingTurn))
    assert (read.work, read.backend, read.unit, read.threads) == ("read", "cpu", "bytes/s", 2)
    assert read.config["turns"] == turns == 3 * 7 + 2
    assert (read.config["lowest"], read.config["highest"]) == (4 * READ, 2 * READ * 2.0**turns)
    assert read.value == 2 * READ * 2.0 ** ((turns + 1) / 2)
    assert claim.ceilings[-1] is read


def test_the_ceilings_of_an_accelerator_play_through_the_backend_that_was_fastest_at_reading(
    tmp_path: Path, faked: Faked
) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, MeasureBackend):
            found = {"launch": (1e-6, "s"), "read": (3e12 if "torch" in worker.backend else 2e12, "bytes/s")}
            return claim_workers.measured({"fma_f32": (6e13, "FLOP/s")} | found)
        if isinstance(command, TakeCeilingTurn) and worker.backend:
            return CeilingTurned({"read": 2.5e12}, {"read": True}, {"read": "fake"}, 0)
        return None

    faked.happens = happens
    backends = ("numba:cuda:0", "torch:cuda:0")
    pythons = {"torch": "its-python"}
    claim, _ = run(tmp_path, planned(tmp_path, 4, 5, backends=backends, rounds=3, pythons=pythons))
    (playing,) = faked.workers(OpenDeviceCeiling)
    (opened,) = faked.of(OpenDeviceCeiling)
    assert (playing.backend, playing.python, opened.variants) == (
        "torch:cuda:0",
        "its-python",
        {"read": "fake"},
    )
    assert not faked.of(OpenCeiling)
    assert not faked.of(MeasureMachine), "nothing runs on the processor"
    assert {one.status for one in claim.observations} == {"ok"}
    assert {one.read_bytes_per_s for one in claim.observations} == {2.5e12}
    assert {one.compute_flops_per_s for one in claim.observations} == {6e13}
    assert {one.threads for one in claim.observations} == {
        2
    }  # a victim there shares no core with its co-runner
    stolen = [one for one in claim.observations if one.experiment == 4]
    assert {one.number("machine_read_bytes_per_s") for one in stolen} == {3e12}
    assert {one.launch_s for one in stolen} == {1e-6}


def test_an_accelerator_whose_bandwidth_is_unknown_has_turns_without_neighbours(
    tmp_path: Path, faked: Faked
) -> None:
    faked.happens = lambda worker, command: (
        Failed("error", "no") if isinstance(command, MeasureBackend) else None
    )
    claim, _ = run(tmp_path, planned(tmp_path, 5, backends=("torch:npu:0",), rounds=3))
    assert {one.status for one in claim.observations} == {"ok"}
    assert {one.read_bytes_per_s for one in claim.observations} == {None}
    assert not faked.of(TakeCeilingTurn)
    assert [row.reason for row in claim.ceilings if row.status != "ok"] == ["no"]


def test_a_backend_that_cannot_say_what_it_can_do_has_its_ceilings_measured_all_the_same(
    tmp_path: Path, faked: Faked
) -> None:
    faked.happens = lambda worker, command: (
        Failed("error", "TypeError: supports") if isinstance(command, AskOffers) else None
    )
    claim, _ = run(tmp_path, planned(tmp_path, 5, rounds=3, processes=1))
    assert [row.work for row in claim.ceilings if row.backend == "numba:cpu"] == ["launch"]
    assert {one.status for one in claim.observations} == {"ok"}
