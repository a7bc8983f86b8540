import math
from dataclasses import replace

import numpy as np
import pytest
from demands import DEMAND, OFFER, row

from membound.bench.planning.measured import measured_rows
from membound.results.predict.catalogue import load_catalogue
from membound.results.predict.record import (
    MODELS,
    HeldOut,
    Learnt,
    Record,
    disputed_pairs,
    errors_of,
    further,
    spread,
    with_intervals,
)

ROWS, REFUSED = measured_rows(load_catalogue())
SHARED = {
    *(3, 4, 5, 7, 8, 9, 12, 14, 15, 16, 17, 18, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 33, 35, 44, 46, 57, 58, 59, 60),
    *(61, 62, 63, 64, 65, 68, 69, 70, 71, 72, 73, 74, 80, 81, 82, 83, 84, 86, 87),
}  # fmt: skip
"""The 50 rows of 21 devices that decode one sequence of a dense model and carry a bandwidth."""


@pytest.fixture(scope="module")
def record():
    return Record.of(ROWS)


def of_shared(found, model):
    return [h for h in found.of_model(model) if int(h.row.id) in SHARED]


def test_the_rows_are_those_that_were_published():
    shared = [row for row in ROWS if int(row.id) in SHARED]
    assert (len(shared), len({row.device for row in shared})) == (50, 21)
    assert (len(ROWS), len(REFUSED)) == (87, 11)


def test_the_three_terms_meet_their_bars_for_devices_left_out(record):
    errors = {m: errors_of(of_shared(record, m), (0.0, False)) for m in MODELS}
    assert errors["three terms"].median <= 0.15
    assert errors["three terms"].p90 <= 0.40
    for other in MODELS[1:]:
        assert errors["three terms"].median < errors[other].median
        assert errors["three terms"].p90 < errors[other].p90


@pytest.mark.slow
def test_intervals_hold_as_many_as_they_say():
    found = of_shared(with_intervals(ROWS), "three terms")
    assert 0.7 <= np.mean([h.is_covered for h in found]) <= 0.9


def test_a_device_never_predicts_itself(record):
    """With a device's own times changed a thousandfold, what is said of it stays the same to the last bit."""
    poisoned = [replace(r, seconds=r.seconds * 1e3) if r.device == "m2_ultra" else r for r in ROWS]
    other = Record.of(poisoned)
    for model in MODELS:
        before = [h.seconds for h in record.of_model(model) if h.row.device == "m2_ultra"]
        after = [h.seconds for h in other.of_model(model) if h.row.device == "m2_ultra"]
        assert before == after
        assert before or model == "FLOPs only"


def test_intervals_of_fresh_rows_come_from_other_devices_alone():
    known = [row(f"known {n}", 0.02 + 0.001 * n) for n in range(6)]
    own = [*known, row("fresh", 50.0)]
    (alone,) = further(known, [row("fresh", 0.03)]).of_model("three terms")
    (among,) = further(own, [row("fresh", 0.03)]).of_model("three terms")
    assert (alone.seconds, alone.half_width) == (among.seconds, among.half_width)


def test_errors_by_hand():
    """The rate is 2, 1 and 0.5 times the measured one."""
    found = [
        HeldOut(row(d, s), "three terms", p)
        for d, s, p in (("a", 2.0, 1.0), ("b", 1.0, 1.0), ("c", 1.0, 2.0))
    ]
    errors = errors_of(found, (0.3, False))
    assert [h.error for h in found] == [1.0, 0.0, -0.5]
    assert (errors.median, errors.p90) == (0.5, pytest.approx(0.9))
    assert errors.bias == pytest.approx(0.0)
    assert (errors.rows, errors.devices) == (3, 3)


def test_the_spread_counts_each_device_once():
    """Nine devices off by 0.1 … 0.9 and one row each: 80 % of ten is the eighth. Many rows of one device change nothing."""
    found = [HeldOut(row(f"d{n}", 1.0), "three terms", math.exp(n / 10)) for n in range(1, 10)]
    assert spread(found) == pytest.approx(0.8)
    assert spread([*found, *[found[0]] * 20]) == pytest.approx(0.8)
    assert spread(found[:3]) == pytest.approx(0.3)


def test_the_simple_models_are_medians_of_a_group():
    rows = [row("a", 0.04), row("b", 0.05), row("c", 0.1)]  # 20 ms of bytes, 0.2 ms of FLOPs
    learnt = Learnt.of(rows)
    assert learnt.memory["single"] == pytest.approx(0.4)
    assert learnt.compute["single"] == pytest.approx(0.2e-3 / 0.05)
    assert learnt.seconds("bandwidth only", "single", DEMAND, OFFER) == pytest.approx(0.05)
    assert learnt.seconds("FLOPs only", "single", DEMAND, replace(OFFER, flops_per_s=None)) is None
    assert learnt.seconds("FLOPs only", "served", DEMAND, OFFER) == pytest.approx(0.05)


def test_pairs_that_tell_the_models_apart_by_hand():
    """Measured: b is the faster one. Bandwidth says so too, FLOPs do not; a third device did another work."""
    a, b = row("a", 0.2), row("b", 0.1)
    other = replace(row("c", 0.05), label="another row")
    said = {"three terms": (0.19, 0.12), "bandwidth only": (0.3, 0.2), "FLOPs only": (0.1, 0.4)}
    held = [HeldOut(r, m, s) for m, both in said.items() for r, s in zip((a, b), both, strict=True)]
    held += [HeldOut(other, m, 9.0) for m in MODELS]
    (pair,) = disputed_pairs(Record(tuple(held)))
    assert (pair.faster, pair.slower, pair.ratio) == (b, a, 2.0)
    assert pair.right == ("three terms", "bandwidth only")
    agreed = [replace(h, seconds=1 / h.row.seconds) if h.model == "FLOPs only" else h for h in held]
    assert len(disputed_pairs(Record(tuple(agreed)))) == 1
    assert disputed_pairs(Record(tuple(h for h in held if h.model != "FLOPs only"))) == []


def test_across_hardware_bandwidth_is_right_where_flops_disagree(record):
    """The claim: of a card with more FLOPs and one with more bandwidth, the latter decodes faster."""
    pairs = disputed_pairs(record)
    said = {(one.faster.device, one.slower.device) for one in pairs}
    assert {("a100_sxm_80gb", "l40s"), ("a100_pcie_80gb", "l40s")} <= said
    right = {model: sum(model in one.right for one in pairs) for model in MODELS}
    assert right["bandwidth only"] > 2 * right["FLOPs only"]
    assert right["three terms"] > 2 * right["FLOPs only"]


def test_a_group_of_few_devices_borrows_the_spread_and_says_so(record):
    few = Record(tuple(h for h in record.held_out if h.row.group != "served" or h.row.device == "mi300x"))
    assert few.errors("served", "three terms").borrowed
    assert not record.errors("single", "three terms").borrowed
    assert record.errors("prefill", "three terms") is None
