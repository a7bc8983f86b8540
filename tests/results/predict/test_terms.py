import math

import pytest
from demands import DEMAND, OFFER, demand, offer, row
from hypothesis import given
from hypothesis import strategies as st

from membound.results.predict.terms import MOST_FAST, NAMES, PRIORS, Terms, fit

MEANS = {name: mean for name, (mean, _) in PRIORS.items()}
HAND = Terms(
    dict.fromkeys(NAMES, 0.0)
    | {
        "memory": math.log(0.8),
        "memory gpu": math.log(1.25),
        "memory int4": math.log(0.5),
        "memory fast": 0.5,
        "launch": math.log(1e-4),
        "launch gpu graphs": math.log(0.5),
        "compute": math.log(0.4),
        "schedule": math.log(2e-5),
        "all-reduce": math.log(1e-5),
    }
)


def test_terms_by_hand():
    parts = HAND.parts(DEMAND, OFFER)
    assert parts.launch_s == pytest.approx(32 * 1e-4 * 0.5)
    assert parts.memory_s == pytest.approx(10e9 / 500e9)  # 0.8 · 1.25 is all of it
    assert parts.compute_s == pytest.approx(20e9 / (100e12 * 0.4))
    assert parts.link_s == 0
    assert parts.seconds == pytest.approx(0.0016 + 0.02 + 0.0005)


def test_launches_one_by_one_and_other_kinds():
    assert HAND.parts(DEMAND, offer(graphs=False)).launch_s == pytest.approx(32 * 1e-4)
    npu = HAND.parts(DEMAND, offer(kind="npu"))
    assert (npu.launch_s, npu.memory_s) == (pytest.approx(32 * 1e-4), pytest.approx(0.025))


def test_a_fast_memory_is_filled_less():
    assert HAND.efficiency(DEMAND, offer(bandwidth_bytes_per_s=4e12)) == pytest.approx(0.5)
    assert HAND.efficiency(DEMAND, offer(bandwidth_bytes_per_s=1e12)) == pytest.approx(1.0)
    assert HAND.efficiency(demand(storage="int4"), OFFER) == pytest.approx(0.5)


def test_several_devices_share_bytes_and_pay_for_the_link():
    parts = HAND.parts(demand(batch=64), offer(devices=4, link_bytes_per_s=100e9, served=True))
    assert parts.memory_s == pytest.approx(0.005)
    moved = 2 * 3 / 4 * 64 * 4096 * 2
    assert parts.link_s == pytest.approx(32 * 2 * (1e-5 + moved / 100e9))
    assert parts.launch_s == pytest.approx(32 * 0.5e-4 + 64 * 2e-5)
    assert HAND.parts(DEMAND, offer(devices=4)).link_s == pytest.approx(32 * 2 * 1e-5)


def test_prompts_count_as_arithmetic_and_an_unknown_peak_as_none():
    assert HAND.parts(demand(prompt_flops=20e9), OFFER).compute_s == pytest.approx(0.001)
    assert HAND.parts(DEMAND, offer(flops_per_s=None)).compute_s == 0


def test_rows_without_number_leave_the_priors():
    assert fit([]).values == pytest.approx(MEANS, abs=1e-9)


def test_one_device_moves_its_kind_and_hardly_the_others():
    rows = [row(f"soc {n}", 0.05, kind="soc") for n in range(8)]
    found = fit(rows)
    assert found.parts(DEMAND, offer(kind="soc")).seconds == pytest.approx(0.05, rel=0.1)
    assert found.values["memory cpu"] == pytest.approx(0, abs=1e-6)
    assert found.values["memory soc"] < -0.03


def test_a_row_far_off_counts_little():
    rows = [row(f"gpu {n}", 0.03) for n in range(8)]
    clean = fit(rows).parts(DEMAND, OFFER).seconds
    dirty = fit([*rows, row("odd", 3.0)]).parts(DEMAND, OFFER).seconds
    assert dirty == pytest.approx(clean, rel=0.03)


def test_a_fit_from_another_start_ends_in_the_same_place():
    rows = [row("a", 0.03), row("b", 0.04, kind="soc"), row("c", 0.02, bandwidth_bytes_per_s=2e12)]
    assert fit(rows, HAND).values == pytest.approx(fit(rows).values, abs=1e-3)


numbers = st.floats(0.1, 30)
theta = st.fixed_dictionaries(
    {
        name: st.floats(mean - 2 * sd, mean + 2 * sd)
        for name, (mean, sd) in PRIORS.items()
        if name != "memory fast"
    }
    | {"memory fast": st.floats(0, MOST_FAST)}
)


@given(theta, numbers, numbers, st.sampled_from(["gpu", "soc", "cpu", "npu"]), st.integers(1, 8))
def test_more_bandwidth_is_never_slower(values, bandwidth, more, kind, devices):
    terms = Terms(values)
    slow, fast = (
        terms.parts(DEMAND, offer(kind=kind, bandwidth_bytes_per_s=b, devices=devices)).seconds
        for b in (bandwidth * 1e11, bandwidth * 1e11 * (1 + more))
    )
    assert fast <= slow


@given(theta, numbers, numbers)
def test_more_bytes_flops_or_batch_are_never_faster(values, factor, more):
    terms = Terms(values)
    base = terms.parts(DEMAND, OFFER).seconds
    grown = 1 + factor + more
    assert terms.parts(demand(weights_bytes=9e9 * grown), OFFER).seconds >= base
    assert terms.parts(demand(flops=20e9 * grown), OFFER).seconds >= base
    assert terms.parts(demand(batch=grown), offer(served=True)).seconds >= base
