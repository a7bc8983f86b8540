import pytest

from membound.results.verdict import (
    CEILING_SLACK,
    LAUNCH_DOMINATES,
    NEAR_CEILING,
    VERDICTS,
    Evidence,
    judge,
)

MiB = 1 << 20


def evidence(**values):
    base = {
        "time_s": 1.0,
        "memory_s": 0.1,
        "compute_s": 0.1,
        "working_set_bytes": 100 * MiB,
        "cache_bytes": MiB,
    }
    return Evidence(**(base | values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"memory_s": 0.9}, "memory"),
        ({"compute_s": 0.9}, "compute"),
        ({"memory_s": 0.8, "compute_s": 0.9}, "compute"),
        ({"memory_s": 0.3}, "overhead"),
        ({"launch_s": 0.6}, "overhead"),
        ({"launch_s": 0.6, "working_set_bytes": 1}, "overhead"),
        ({"memory_s": 2.0, "working_set_bytes": MiB // 2}, "cache"),
        ({"memory_s": 0.9, "working_set_bytes": MiB}, "cache"),
        ({"memory_s": 1.2, "working_set_bytes": 3 * MiB}, "cache"),
        ({"memory_s": 1.2}, "inconclusive"),
        ({"compute_s": 1.2}, "inconclusive"),
        ({"compute_s": 0.9, "working_set_bytes": MiB}, "compute"),
        ({"compute_s": None, "memory_s": 0.9}, "memory"),
        ({"compute_s": None, "memory_s": 0.2}, "inconclusive"),
        ({"memory_s": None, "compute_s": 0.2}, "inconclusive"),
        ({"memory_s": None, "compute_s": None}, "inconclusive"),
        ({"memory_s": None, "compute_s": None, "working_set_bytes": MiB}, "cache"),
        ({"memory_s": None, "compute_s": None, "working_set_bytes": MiB, "valid": False}, "inconclusive"),
        ({"memory_s": None, "compute_s": None, "working_set_bytes": 0}, "inconclusive"),
        ({"memory_s": 0.9, "valid": False}, "inconclusive"),
        ({"memory_s": 0.9, "cache_bytes": 0}, "memory"),
    ],
)
def test_each_rule_gives_its_verdict(values, expected):
    assert judge(evidence(**values)).name == expected


@pytest.mark.parametrize(
    ("ci", "expected"),
    [((0.99, 1.01), "memory"), ((0.9, 1.2), "inconclusive"), ((1.2, 1.3), "overhead")],
)
def test_a_verdict_must_hold_at_both_ends_of_the_interval(ci, expected):
    middle = sum(ci) / 2
    assert judge(evidence(time_s=middle, time_ci_s=ci, memory_s=0.75)).name == expected


@pytest.mark.parametrize(
    ("share", "interval", "expected"),
    [
        (0.72, (0.66, 0.78), "memory"),
        (0.72, (0.64, 0.80), "inconclusive"),
        (0.68, (0.62, 0.74), "overhead"),
        (0.68, (0.60, 0.76), "inconclusive"),
        (0.80, (0.60, 1.00), "inconclusive"),
        (0.50, (0.30, 0.70), "overhead"),
    ],
)
def test_an_interval_reaches_over_the_line_by_what_a_ceiling_is_unsure(share, interval, expected):
    ends = tuple(0.6 / end for end in reversed(interval))
    assert judge(evidence(time_s=0.6 / share, time_ci_s=ends, memory_s=0.6)).name == expected


def test_thresholds_are_inclusive_where_they_say_at_least():
    assert judge(evidence(memory_s=NEAR_CEILING)).name == "memory"
    assert judge(evidence(memory_s=NEAR_CEILING - 1e-9)).name == "overhead"
    assert judge(evidence(launch_s=LAUNCH_DOMINATES, memory_s=0.4)).name == "overhead"
    assert judge(evidence(memory_s=1 + CEILING_SLACK)).name == "memory"


def test_the_reason_says_how_near():
    assert judge(evidence(memory_s=0.91)).why == "91% of the memory ceiling"
    assert judge(evidence(launch_s=0.6)).why == "launching takes 60% of the time"
    assert "measure the ceiling again" in judge(evidence(compute_s=1.3)).why


@pytest.mark.parametrize(("most", "expected"), [(0.75, "inconclusive"), (0.65, "overhead")])
def test_a_ceiling_that_moved_decides_nothing(most, expected):
    verdict = judge(evidence(memory_s=0.5, memory_most_s=most))
    assert verdict.name == expected
    if expected == "inconclusive":
        assert verdict.why == "the memory ceiling moved: 50% of its best and 75% of its lowest measurement"


def test_every_verdict_is_a_known_word():
    grid = [evidence(memory_s=m, compute_s=c) for m in (None, 0.1, 0.8, 3.0) for c in (None, 0.1, 0.8, 3.0)]
    assert {judge(e).name for e in grid} <= set(VERDICTS)
