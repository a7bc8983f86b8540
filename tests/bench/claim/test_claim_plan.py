"""What a claim will do: checked numbers, what fits memory, the order of processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from membound.bench.claim.arms import arms_of
from membound.bench.claim.plan import (
    TIME_LIMIT_S,
    ClaimError,
    fitting,
    make_claim_plan,
    parse_only,
    plain_devices,
)
from membound.bench.claim.scene import Scene
from membound.bench.planning.plan import Options
from membound.bench.planning.suites import PlanError
from membound.results.claim.experiments import load_experiments

REGISTER = load_experiments()
OPTIONS = Options(threads=1)
SCENE = Scene(300 << 20, 64 << 30, 11.0, 1)


def test_all_experiments_with_the_processes_that_their_rules_need() -> None:
    plan = make_claim_plan([], ["numba:cpu"], OPTIONS, REGISTER, 10**10)
    assert plan.experiments == tuple(range(1, 14))
    assert (plan.processes, plan.time_limit_s, plan.memory_bytes) == (3, TIME_LIMIT_S, 4 * 10**9)
    high = make_claim_plan([4, 1, 4], ["numba:cpu"], replace(OPTIONS, rigor="high"), REGISTER, 10**10)
    assert (high.experiments, high.processes, high.time_limit_s) == ((1, 4), 10, None)
    asked = make_claim_plan([2], ["numba:cpu"], replace(OPTIONS, replicates=5), REGISTER, 10**10)
    assert (asked.processes, asked.time_limit_s) == (5, None)
    assert [p.processes_of(8) for p in (plan, high, asked)] == [8, 10, 5]
    assert [p.processes_of(1) for p in (plan, high, asked)] == [3, 10, 5]


def test_a_victim_that_runs_on_cores_has_one() -> None:
    plan = make_claim_plan([], ["numba:cpu"], replace(OPTIONS, threads=2), REGISTER, 10**10)
    assert [plan.threads_of(n, "numba:cpu") for n in (1, 4, 10)] == [2, 1, 2]
    assert [plan.threads_of(n, "numba:cuda:0") for n in (1, 4, 10)] == [2, 2, 2]


def test_every_experiment_of_a_backend_once_in_an_order_of_its_own() -> None:
    plan = make_claim_plan([], ["numba:cpu", "numpy:cpu"], OPTIONS, REGISTER, 10**10)
    orders = [[c.pair for c in plan.cells(b, r)] for b in plan.backends for r in range(3)]
    assert all(sorted(order) == sorted({(n, order[0][1]) for n in range(1, 14)}) for order in orders)
    assert len({tuple(number for number, _ in order) for order in orders}) == 6
    assert orders == [[c.pair for c in plan.cells(b, r)] for b in plan.backends for r in range(3)]
    assert [c.pair for c in plan.cells("numba:cpu", 3)] == [(8, "numba:cpu")]


@pytest.mark.parametrize(
    ("only", "changes", "part"),
    [
        ([14], {}, "experiment 14 is unknown; there are 1 to 13"),
        ([0, 3], {}, "experiment 0"),
        ([1], {"rigor": "extreme"}, "rigor='extreme' is unknown"),
        ([1], {"threads": 10_000}, "threads=10000"),
    ],
)
def test_bad_choices_are_named(only: list[int], changes: dict[str, object], part: str) -> None:
    with pytest.raises((ClaimError, PlanError), match=part):
        make_claim_plan(only, ["numba:cpu"], replace(OPTIONS, **changes), REGISTER, 10**10)  # type: ignore[arg-type]


def test_numbers_of_experiments() -> None:
    with pytest.raises(ClaimError, match="--only names no experiment"):
        parse_only(" ,")
    assert parse_only(" 1, 10,") == [1, 10]
    with pytest.raises(ClaimError, match="'four' is not the number of an experiment"):
        parse_only("1,four")
    for text in ("\u00b2", "9" * 5000):
        with pytest.raises(ClaimError, match="is not the number of an experiment"):
            parse_only(text)


def test_variants_wait_to_be_named() -> None:
    assert plain_devices(["a:cpu", "a:cpu+x", "b:cuda:0"]) == (["a:cpu", "b:cuda:0"], ["a:cpu+x"])


def test_the_largest_arms_of_a_group_give_way_where_memory_is_short() -> None:
    arms = arms_of(5, SCENE)
    kept, left_out = fitting(arms, SCENE)
    assert (kept, left_out) == (arms, [])
    kept, left_out = fitting(arms, replace(SCENE, room_bytes=3 << 30))
    assert [arm.work for arm in left_out] == [arms[-1].work]
    assert sum(arm.parsed.footprint_bytes for arm in kept) <= 3 << 30
    assert fitting(arms, replace(SCENE, room_bytes=0)) == ([], arms)


def test_doses_of_one_work_stay_or_go_together() -> None:
    arms = arms_of(4, SCENE)
    kept, left_out = fitting(arms, replace(SCENE, room_bytes=1))
    assert kept == []
    assert len(left_out) == len(arms)


def test_a_work_takes_room_for_every_dose_of_arithmetic_and_every_variant() -> None:
    arms = arms_of(1, SCENE)
    doses = len([arm for arm in arms if arm.name == "linear_f32"])
    (size,) = {2 * arm.parsed.footprint_bytes for arm in arms if arm.name == "linear_f32"}
    enough, short = (fitting(arms, replace(SCENE, room_bytes=doses * size - less))[0] for less in (0, 1))
    assert len([arm for arm in enough if arm.name == "linear_f32"]) == doses
    assert [arm for arm in short if arm.name == "linear_f32"] == []
    both = arms_of(7, replace(SCENE, variants=("graph",)))
    room = sum(arm.parsed.footprint_bytes * (1 + (arm.parsed.kind != "step")) for arm in arms_of(7, SCENE))
    assert fitting(arms_of(7, SCENE), replace(SCENE, room_bytes=room))[1] == []
    assert fitting(both, replace(SCENE, room_bytes=room))[1] != []
    assert fitting(both, replace(SCENE, room_bytes=2 * room))[1] == []
