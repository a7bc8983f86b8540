"""What runs in each experiment: names as written down beforehand, doses where they are needed, held what is held."""

from __future__ import annotations

from dataclasses import replace
from math import isclose

import pytest

from membound.bench.claim.arms import Arm, arms_of, loaded_elements, named, whole_bytes
from membound.bench.claim.scene import Scene
from membound.kernels.work import DecodeAttention, Linear, RoutedExperts, Step, parse
from membound.results.claim.experiments import Experiment, load_experiments

SCENE = Scene(cache_bytes=300 << 20, room_bytes=16 << 30, ridge=11.0, co_runner_cores=1)
REGISTER = load_experiments()
MEASURED_BESIDE = {
    "stolen_bytes_per_s",
    "stolen_flops_per_s",
    "machine_read_bytes_per_s",
    "memory_clock_hz",
    "core_clock_hz",
}


def called(number: int, name: str) -> list[Arm]:
    return [arm for arm in arms_of(number, SCENE) if arm.name == name]


@pytest.mark.parametrize("experiment", list(REGISTER), ids=lambda e: e.name)
def test_arms_and_factors_are_those_written_down(experiment: Experiment) -> None:
    arms = arms_of(experiment.id, SCENE)
    assert bool(arms) == (experiment.id != 9)
    for arm in arms:
        assert arm.name in experiment.arms or "any name" in experiment.arms
        assert set(arm.factors) <= set(experiment.factors)
        assert parse(arm.work).spec == arm.work
        assert arm.flops >= arm.parsed.flops > 0
    doses = {(arm.work, *sorted(arm.factors.items())) for arm in arms}
    assert not arms or len(doses) >= experiment.doses
    assert set(experiment.factors) - {f for arm in arms for f in arm.factors} <= MEASURED_BESIDE or not arms


def test_extra_arithmetic_brackets_the_ridge() -> None:
    for name in ("linear_f32", "linear_bf16", "attention_f32", "attention_bf16"):
        arms = called(1, name)
        assert len({arm.work for arm in arms}) == 1
        assert arms[0].extra_fmas == 0
        assert arms[0].flops == arms[0].parsed.flops
        shares = [arm.flops / arm.parsed.traffic.total_bytes / SCENE.ridge for arm in arms]
        assert shares == sorted(set(shares))
        assert sum(share <= 0.5 for share in shares) >= 3
        assert 0.9 < min(shares, key=lambda s: abs(s - 1)) < 1.1
        assert shares[-1] > 1.5


def test_extra_flops_are_two_for_each_element() -> None:
    arm = Arm("x", "x", DecodeAttention(100, 8, 2, 64, 3).spec, extra_fmas=7)
    assert loaded_elements(arm.parsed) == 2 * 3 * 100 * 2 * 64
    assert arm.flops - arm.parsed.flops == 2 * 7 * 2 * 3 * 100 * 2 * 64
    assert Arm("x", "x", Linear(10, 20).spec, extra_fmas=1).flops == 2 * 10 * 20 * 2
    with pytest.raises(ValueError, match="no single operation"):
        loaded_elements(Step("tiny"))


def test_kv_heads_change_bytes_and_not_flops() -> None:
    arms = called(2, "kv_heads")
    assert len({arm.flops for arm in arms}) == 1
    moved = [arm.parsed.traffic.total_bytes for arm in arms]
    assert max(moved) > 7 * min(moved)
    assert max(arm.flops / arm.parsed.traffic.total_bytes for arm in arms) < SCENE.ridge / 2


def test_rows_change_flops_and_hardly_bytes() -> None:
    for name in ("linear_f32", "linear_bf16"):
        arms = called(3, name)
        assert max(a.flops for a in arms) == 128 * min(a.flops for a in arms)
        moved = [arm.parsed.traffic.total_bytes for arm in arms]
        assert max(moved) < 1.2 * min(moved)


def test_every_victim_meets_every_co_runner() -> None:
    arms = arms_of(4, SCENE)
    for work in {arm.work for arm in arms}:
        met = {(arm.trade, arm.duty) for arm in arms if arm.work == work}
        duties = {duty for trade, duty in met if trade == "bandwidth"}
        assert 1.0 in duties
        assert {duty for trade, duty in met if trade == "fma"} == duties
        assert ("idle", 0.0) in met
    assert all(arm.name == arm.trade for arm in arms)
    assert arms_of(4, Scene(1 << 20, 1 << 30, 11.0, co_runner_cores=0)) == []


@pytest.mark.parametrize("cache_bytes", [32 << 20, 300 << 20])
def test_working_sets_lie_on_both_sides_of_the_cache(cache_bytes: int) -> None:
    arms = arms_of(5, Scene(cache_bytes, 16 << 30, 11.0, 0))
    sets = [arm.parsed.footprint_bytes for arm in arms]
    assert [arm.factors["working_set_bytes"] for arm in arms] == sets
    shares = [size / cache_bytes for size in sets]
    assert all(arm.resident for arm in arms)
    assert shares[0] < 0.3
    assert isclose(shares[-1], 8, rel_tol=0.01)


def test_among_guests_a_set_fits_the_caches_of_the_cores() -> None:
    plain = arms_of(5, SCENE)
    arms = arms_of(5, Scene(300 << 20, 16 << 30, 11.0, 0, core_cache_bytes=4 << 20))
    assert arms[1:] == plain
    assert 1 << 20 < arms[0].parsed.footprint_bytes < 4 << 20
    assert arms_of(5, Scene(300 << 20, 16 << 30, 11.0, 0, core_cache_bytes=200 << 20)) == plain


def test_captured_launches_stand_beside_plain_ones_where_the_device_has_them() -> None:
    assert {arm.variant for arm in arms_of(7, SCENE)} == {""}
    assert arms_of(7, replace(SCENE, variants=("compile",))) == arms_of(7, SCENE)
    arms = arms_of(7, replace(SCENE, variants=("compile", "graph")))
    plain, graph = ([arm for arm in arms if arm.name == name] for name in ("plain", "graph"))
    assert plain == arms_of(7, SCENE)
    assert [replace(arm, name="plain", variant="") for arm in graph] == plain
    assert {arm.variant for arm in graph} == {"graph"}
    assert {named("mine:npu:0", arm.variant) for arm in arms} == {"mine:npu:0", "mine:npu:0+graph"}
    assert {arm.group for arm in arms} == {"suite"}  # they take turns in one process


def test_caches_and_steps_on_accelerators_are_in_the_format_of_their_matrix_units() -> None:
    scene = replace(SCENE, floats="bf16")
    for number in (2, 4, 7, 8):
        caches = [arm for arm in arms_of(number, scene) if arm.name != "kv_format"]
        assert {arm.parsed.kv for arm in caches if isinstance(arm.parsed, DecodeAttention | Step)} == {"bf16"}
    assert {arm.parsed.weight for arm in arms_of(7, scene) if isinstance(arm.parsed, Step)} == {"bf16"}


def test_a_step_issues_as_many_operations_as_its_bill_has() -> None:
    arms = arms_of(7, SCENE)
    steps = [arm for arm in arms if isinstance(arm.parsed, Step)]
    assert steps
    assert all(arm.factors["operations"] == 1 for arm in arms if arm not in steps)
    tiny = next(arm for arm in steps if arm.parsed.model == "tiny")
    assert tiny.factors["operations"] == sum(op.count for op in tiny.parsed.operations) > 10


def test_experts_read_change_bytes_and_not_flops() -> None:
    for name in ("experts_f32", "experts_bf16"):
        arms = called(11, name)
        works = [arm.parsed for arm in arms]
        assert all(isinstance(work, RoutedExperts) for work in works)
        assert [arm.factors["distinct"] for arm in arms] == [8, 16, 32, 64]
        assert len({arm.flops for arm in arms}) == 1
        moved = [work.traffic.weights_bytes for work in works]
        assert 7.5 * moved[0] < moved[-1] < 8 * moved[0]
        assert len({arm.group for arm in arms}) == 1  # they take turns in one process


def test_queries_change_flops_and_of_experts_alone_bytes() -> None:
    moved = {}
    for name in ("dense", "attention", "experts"):
        arms = called(12, name)
        assert [arm.factors["queries"] for arm in arms] == [1, 2, 4, 8]
        assert len({arm.group for arm in arms}) == 1
        traffic = [arm.parsed.traffic for arm in arms]
        moved[name] = [one.weights_bytes + one.kv_read_bytes for one in traffic]
        assert 7.9 < arms[-1].flops / arms[0].flops < 8.1
    assert len(set(moved["dense"])) == len(set(moved["attention"])) == 1
    assert 5 < moved["experts"][-1] / moved["experts"][0] < 5.5


def test_contexts_grow_and_bytes_stay_or_grow_far_less() -> None:
    grown = {"heads": 1.0, "window": 1.0, "delta": 1.4, "mamba": 1.42, "index": 1.79}
    for name, times in grown.items():
        arms = called(13, name)
        contexts = [arm.factors["context"] for arm in arms]
        assert contexts == [contexts[0] * n for n in (1, 2, 4, 8)]
        moved = [arm.parsed.traffic.total_bytes for arm in arms]
        assert moved[-1] / moved[0] == pytest.approx(times, abs=0.01)
        assert all(arm.flops / arm.parsed.traffic.total_bytes < SCENE.ridge / 2 for arm in arms)
        assert arms[-1].factors["whole_bytes"] > 1.7 * moved[-1]
        whole = arms[-1].factors["whole_bytes"] / arms[0].factors["whole_bytes"]
        assert whole > 2 * times
    assert [arm.flops / called(13, "heads")[0].flops for arm in called(13, "heads")] == [1, 2, 4, 8]


def test_whole_bytes_are_those_of_the_same_step_without_what_holds_them() -> None:
    """A window of 1024 leaves 1023 cached tokens of 4000 in two layers; three states become caches of one head."""
    window = Step("dose-window", 4, 4000, "f32", "f32")
    token = 2 * 8 * 128 * 4
    assert whole_bytes(window) - window.traffic.total_bytes == 4 * 2 * (4000 - 1023) * token
    delta = Step("dose-delta", 8, 4000, "f32", "f32")
    (state,) = (one for one in delta.operations if one.name == "state")
    states = state.count * (state.traffic.kv_read_bytes + state.traffic.kv_written_bytes)
    assert whole_bytes(delta) == delta.traffic.total_bytes - states + 8 * 3 * 4001 * 2 * 128 * 4
