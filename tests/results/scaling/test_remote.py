"""Remote memory against local: which placements are compared, by how much they differ, and where nothing can be said."""

from __future__ import annotations

import pytest

from membound.results.fleet.device_run import Figure
from membound.results.scaling.curve import Curve, Point
from membound.results.scaling.remote import remotes_of
from membound.results.views.scaling import scaling_records, sentences

READ, COPY = (Figure("cpu", work, 0, "bytes/s") for work in ("read", "copy"))


def curve(placement, rates, figure=READ, machine=""):
    """Rates in GB/s of three processes that lie 1 % apart, by threads."""
    spread = (0.99, 1.0, 1.01)
    points = (Point(n, tuple(1e9 * rate * one for one in spread)) for n, rate in sorted(rates.items()))
    return Curve(machine, placement, figure, tuple(points))


def test_each_count_of_threads_is_set_beside_the_same_with_local_memory():
    curves = [
        curve("node0", {1: 10.0, 4: 30.0}),
        curve("node0:node1", {1: 5.0, 4: 24.0}),
        curve("node1", {1: 11.0, 4: 31.0}),
        curve("node1:node0", {1: 5.5, 2: 9.0}),
    ]
    found = remotes_of(curves)
    assert [(one.placement, one.local, one.threads) for one in found] == [
        ("node0:node1", "node0", 1),
        ("node0:node1", "node0", 4),
        ("node1:node0", "node1", 1),
    ]
    assert [one.share for one in found] == pytest.approx([0.5, 0.8, 0.5])
    assert all(one.ci[0] < one.share < one.ci[1] < 1.05 * one.share for one in found)
    assert [text for text in sentences(curves) if " of the rate of " in text] == [
        "node0:node1: 80% of the rate of node0 with 4 threads (78% to 82%)",
        "node1:node0: 50% of the rate of node1 with 1 thread (49% to 51%)",
    ]


def test_other_figures_machines_and_cpus_are_no_local_memory():
    remote = curve("node0:node1", {2: 5.0})
    others = [
        curve("node0", {2: 10.0}, figure=COPY),
        curve("node0", {2: 10.0}, machine="other"),
        curve("node1", {2: 10.0}),
        curve("", {2: 10.0}),
    ]
    assert remotes_of([remote, *others]) == []
    assert [one.share for one in remotes_of([remote, curve("node0", {2: 10.0})])] == pytest.approx([0.5])


def test_records_of_remote_points_alone_have_the_share():
    local, remote = scaling_records([curve("socket0", {2: 10.0}), curve("socket0:node1", {2: 4.0})])
    assert "of_local" not in local["points"][0]
    (point,) = remote["points"]
    assert point["of_local"] == pytest.approx(0.4)
    assert point["of_local_ci"][0] < 0.4 < point["of_local_ci"][1]


def test_one_process_has_no_interval_and_says_so():
    curves = [
        Curve("", place, READ, (Point(2, (rate,)),))
        for place, rate in (("node0", 2e10), ("node0:node1", 1e10))
    ]
    assert list(sentences(curves)) == [
        "node0:node1: 50% of the rate of node0 with 2 threads (no interval: it takes three processes)"
    ]
