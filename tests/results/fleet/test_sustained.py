"""What a fleet sustains: sums over devices, with intervals that are right as often as they say."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from fleet_rows import RATE, READ, WORKS, fleet

from membound.results.fleet.outliers import Group
from membound.results.fleet.sustained import sustained
from membound.results.views.fleet import sustained_lines


def test_totals_are_sums_of_medians_over_the_devices_that_have_a_figure() -> None:
    runs = fleet(3, random.Random(1), 0.0, 0.0, slow={2: 0.5})
    del runs[0].rates[WORKS[0]], runs[0].rates[WORKS[1]], runs[1].rates[WORKS[1]]
    found = {one.figure: one for one in sustained(runs)}
    assert (found[READ].devices, found[READ].total) == (3, pytest.approx(2.5 * RATE))
    assert found[READ].ci == (pytest.approx(2.5 * RATE), pytest.approx(2.5 * RATE))
    assert (found[WORKS[0]].devices, found[WORKS[0]].total) == (2, pytest.approx(1.5 * RATE))
    assert WORKS[1] not in found, "one device is no sum"


def test_with_fewer_than_three_processes_there_is_no_interval() -> None:
    runs = fleet(4, random.Random(1), 0.0, 0.01)
    runs[3].rates[READ] = runs[3].rates[READ][:2]
    assert sustained(runs)[0].ci is None
    assert sustained(runs)[1].ci is not None


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Devices that all give RATE, read by three processes that scatter by 3 %."""
    chance, held = random.Random(7), 0
    for _ in range(300):
        (one,) = sustained(fleet(5, chance, 0.0, 0.03, figures=(READ,)))
        assert one.ci is not None
        held += one.ci[0] <= 5 * RATE <= one.ci[1]
    assert 270 <= held <= 299


def test_a_sentence_says_how_they_were_measured() -> None:
    runs = fleet(12, random.Random(3), 0.0, 0.0)
    group = Group(runs[0].make, tuple(runs), (), {}, "")
    alone = "In all they read 48 TB/s (48 TB/s to 48 TB/s): 12 devices, each alone on its machine."
    assert list(sustained_lines(group)) == [alone]
    beside = replace(group, make=group.make._replace(beside="others"))
    assert next(iter(sustained_lines(beside))).endswith("12 devices, each beside others of its machine.")
