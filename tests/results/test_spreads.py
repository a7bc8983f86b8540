"""What cases tell together about how far processes lie apart: Smyth's estimate, and intervals that hold with it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import numpy.typing as npt
import pytest
from rows import case
from scipy.special import polygamma

from membound.results.intervals import interval
from membound.results.spreads import FEWEST_CASES, Spread, _inverse_trigamma, common_spread
from membound.results.stats import records, summarize

Logs = npt.NDArray[np.float64]


def common_or_fail(logs: Logs) -> Spread:
    found = common_spread(logs.tolist())
    assert found is not None
    return found


def test_it_finds_the_parameters_that_the_cases_were_drawn_from() -> None:
    """Variances of Smyth's model: `freedom` times a variance, over chi-square of that freedom."""
    rng = np.random.default_rng(1)
    own = 0.01 * 6 / rng.chisquare(6, 4000)
    found = common_or_fail(rng.normal(0, np.sqrt(own)[:, None], (4000, 3)))
    assert found.variance == pytest.approx(0.01, rel=0.1)
    assert found.freedom == pytest.approx(6, rel=0.25)


def test_equal_variances_are_known_as_such_and_wild_ones_left_alone() -> None:
    rng = np.random.default_rng(2)
    equal = common_or_fail(rng.normal(0, 0.1, (500, 3)))
    assert equal.freedom > 8
    assert equal.variance == pytest.approx(0.01, rel=0.15)
    wild = common_or_fail(rng.normal(size=(500, 3)) * np.exp(rng.normal(0, 4, (500, 1))))
    assert wild.freedom < 0.3


def test_a_variance_is_drawn_by_hand_as_by_the_formula() -> None:
    assert Spread(variance=4.0, freedom=3.0).drawn(1.0, 2.0) == pytest.approx(((3 * 4 + 2 * 1) / 5, 5.0))
    assert Spread(4.0, inf).drawn(1.0, 2.0) == pytest.approx(
        ((4 * 4 + 2 * 1) / 6, 6.0)
    )  # twice its own at most
    assert Spread(4.0, 0.0).drawn(1.0, 2.0) == (1.0, 2.0)


@pytest.mark.parametrize("value", [1e-3, 0.1, 1.0, 1.6449, 30.0, 1e4])
def test_the_inverse_of_trigamma_is_one(value: float) -> None:
    assert polygamma(1, _inverse_trigamma(value)) == pytest.approx(value, rel=1e-6)


def test_few_cases_single_processes_and_equal_ones_tell_nothing() -> None:
    apart = [[0.0, 0.1, 0.3]] * (FEWEST_CASES - 1)
    assert common_spread(apart) is None
    assert common_spread([*apart, [1.0], [], [2.0, 2.0, 2.0]]) is None
    assert common_spread([*apart, [1.0, 1.1]]) is not None


def equal(rng: np.random.Generator, cases: int) -> Logs:
    return rng.normal(0, 0.1, (cases, 3))


def uneven(rng: np.random.Generator, cases: int) -> Logs:
    return rng.normal(0, 0.1, (cases, 3)) * np.exp(rng.normal(0, 1, (cases, 1)))


def two_kinds(rng: np.random.Generator, cases: int) -> Logs:
    return rng.normal(size=(cases, 3)) * np.where(rng.random((cases, 1)) < 0.15, 0.5, 0.05)


def heavy_tailed(rng: np.random.Generator, cases: int) -> Logs:
    return rng.standard_t(3, (cases, 3)) * 0.1


def correlated(rng: np.random.Generator, cases: int) -> Logs:
    return rng.normal(0, 0.07, (1, 3)) + rng.normal(0, 0.07, (cases, 3))


def contaminated(rng: np.random.Generator, cases: int) -> Logs:
    return rng.normal(0, 0.05, (cases, 3)) + (rng.random((cases, 3)) < 0.08) * rng.normal(0, 0.4, (cases, 3))


@pytest.mark.parametrize("draw", [equal, uneven, two_kinds, heavy_tailed, correlated, contaminated])
@pytest.mark.parametrize("cases", [FEWEST_CASES, 29])
def test_intervals_hold_as_often_as_they_say_and_are_narrower(
    draw: Callable[[np.random.Generator, int], Logs], cases: int
) -> None:
    rng = np.random.default_rng(20261129)
    hits, width, alone = [], [], []
    for _ in range(2400 // cases):
        logs = draw(rng, cases)
        common = common_or_fail(logs)
        for values in np.exp(logs):
            found, plain = interval(values, common), interval(values)
            assert found is not None
            assert plain is not None
            hits.append(found[0] <= 1 <= found[1])
            width.append(np.log(found[1] / found[0]))
            alone.append(np.log(plain[1] / plain[0]))
    assert np.mean(hits) > 0.93
    assert np.median(width) < 0.85 * np.median(alone)


def test_the_cases_of_a_run_share_what_they_tell_and_other_runs_do_not() -> None:
    rng = np.random.default_rng(7)
    works = [f"linear:n={n},k=32,m=1,weight=f32,act=float" for n in range(8, 8 + FEWEST_CASES)]
    rows = [
        case(work=work, samples=[float(t)], replicate=i)
        for work in works
        for i, t in enumerate(np.exp(rng.normal(0, 0.1, 3)))
    ]
    lines = {line["work"]: line for line in records(summarize(rows))}
    alone = {
        line["work"]: line for w in works for line in records(summarize([r for r in rows if r.work == w]))
    }
    widths = [
        [np.log(one[w]["time_ci_s"][1] / one[w]["time_ci_s"][0]) for w in works] for one in (lines, alone)
    ]
    assert np.median(widths[0]) < 0.8 * np.median(widths[1])
    one, apart = rows[:3], rows[3:]
    for row in apart:
        row.run_id = "another"
    first = next(x for x in records(summarize([*one, *apart])) if x["work"] == works[0])
    assert first["time_ci_s"] == alone[works[0]]["time_ci_s"]
    assert [line["time_s"] for line in lines.values()] == [line["time_s"] for line in alone.values()]
