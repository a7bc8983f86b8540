"""Rates against threads whose truth is known: where they saturate, and that none is found where there is none."""

from __future__ import annotations

import random
from math import exp

import pytest
from rows import MACHINE, case, ceiling

from membound.results.scaling.curve import Point, curves_of, knee_of
from membound.results.views.scaling import scaling_records, sentences

COUNTS = (1, 2, 4, 6, 8, 12, 16)


def points(knee, counts=COUNTS, noise=0.02, processes=3, seed=1):
    """A rate of 10 GB/s a thread up to the knee."""
    rng = random.Random(seed)
    return [
        Point(n, tuple(1e10 * min(n, knee) * exp(rng.gauss(0, noise)) for _ in range(processes)))
        for n in counts
    ]


@pytest.mark.parametrize("knee", [1.0, 2.0, 5.0, 8.0, 11.0])
def test_the_interval_holds_the_knee_and_is_narrow(knee):
    found = [knee_of(points(knee, seed=seed)) for seed in range(40)]
    assert all(one is not None and one.ci is not None for one in found)
    assert (
        sum(one.ci[0] <= knee <= one.ci[1] for one in found) >= 34
    )  # 95 % of 40, less three standard errors
    assert all(0.9 * knee < one.threads < 1.1 * knee for one in found)


def test_a_rate_that_goes_on_growing_has_no_knee():
    assert all(knee_of(points(99.0, seed=seed)) is None for seed in range(40))
    assert all(knee_of(points(15.9, noise=0.05, seed=seed)) is None for seed in range(40))


def test_two_counts_tell_no_knee_and_one_process_no_interval():
    assert knee_of(points(1.5, counts=(1, 2))) is None
    found = knee_of(points(4.0, processes=1))
    assert found.ci is None
    assert found.threads == pytest.approx(4.0, rel=0.1)


def rows_of(run, threads, placement, rate):
    machine = MACHINE | ({"placement": placement} if placement else {})
    common = {"run_id": run, "threads": threads, "machine": machine}
    turned = {"turns": 9, "lowest": 1e9, "highest": 1e11}
    best = ceiling(
        "read", 2 * rate, "bytes/s", backend="cpu", **common
    )  # the best of several patterns: another figure
    return [best] + [
        one
        for replicate in range(3)
        for one in (
            ceiling(
                "read", rate * (1 + 0.01 * replicate), "bytes/s", replicate=replicate, config=turned, **common
            ),
            case(samples=[1e8 / rate], replicate=replicate, **common),
        )
    ]


def test_curves_are_told_apart_by_placement_and_figure():
    rows = [
        one
        for place, scale in (("node0", 1.0), ("node0:node1", 0.5))
        for threads, rate in ((1, 1e10), (2, 2e10), (4, 2.5e10), (8, 2.5e10))
        for one in rows_of(f"{place} {threads}", threads, place, scale * rate)
    ]
    curves = curves_of(rows)
    assert [(one.placement, one.name.split()[1][:6]) for one in curves] == [
        ("node0", "read"),
        ("node0", "linear"),
        ("node0:node1", "read"),
        ("node0:node1", "linear"),
    ]
    local, remote = curves[0], curves[2]
    assert [point.threads for point in local.points] == [1, 2, 4, 8]
    assert local.best.rate == pytest.approx(2.525e10)  # of the turns
    assert remote.best.rate == pytest.approx(local.best.rate / 2)
    assert local.of_linear(local.points[0]) == (1.0, None)
    share, ci = local.of_linear(local.points[3])
    assert share == pytest.approx(2.5 / 8)
    assert ci[0] < share < ci[1]
    assert local.knee.threads == pytest.approx(2.5, rel=0.01)
    assert list(sentences([local, remote]))[1].startswith("node0:node1: saturates at 2.5 threads (2.")
    assert list(sentences([local, remote]))[2:] == [
        "node0:node1: 50% of the rate of node0 with 8 threads (49% to 51%)"
    ]
    record = scaling_records(curves)[0]
    assert record["points"][1]["of_linear"] == pytest.approx(1.0)
    assert record["knee"]["threads"] == pytest.approx(2.5, rel=0.01)


def test_one_count_in_one_placement_is_no_curve():
    assert curves_of(rows_of("run-a", 2, "", 1e10)) == []
